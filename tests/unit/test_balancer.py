"""What HAProxy is told, before it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baker.deploy.environment import Health
from baker.errors import HostError, UsageError
from baker.providers.local.balancer.balancing import (
    Balancing,
    Server,
    from_json,
    pick_ranges,
    to_json,
    validate,
    weigh_servers,
)
from baker.providers.local.balancer.configuration import (
    Files,
    haproxy_argv,
    read_back,
    render,
    render_frame,
    render_health_map,
)

FILES = Files(folder=Path("/store/demo"))


def make_balancing(*names: str, **settings: Any) -> Balancing:
    servers = tuple(
        Server(name=name, side=int(name[0]), port=20000 + index, health=Health())
        for index, name in enumerate(names)
    )
    return Balancing(**{"environment": "demo", "listen": "127.0.0.1:8080", "servers": servers, **settings})


def test_shares_are_of_sides_not_of_machines() -> None:
    balancing = make_balancing("1-1", "2-1", "2-2", weights={1: 50, 2: 50})
    assert weigh_servers(balancing) == {"1-1": 256, "2-1": 128, "2-2": 128}
    assert weigh_servers(replace(balancing, weights={1: 99, 2: 1})) == {"1-1": 256, "2-1": 1, "2-2": 1}
    assert weigh_servers(replace(balancing, weights={2: 100})) == {"1-1": 0, "2-1": 256, "2-2": 256}
    assert weigh_servers(replace(balancing, weights={})) == {"1-1": 0, "2-1": 0, "2-2": 0}


def test_the_watched_side_is_picked_and_the_others_are_who_is_asked_again() -> None:
    balancing = make_balancing("1-1", "2-1", "2-2", weights={1: 90, 2: 10}, standby=1, watched=2)
    assert weigh_servers(balancing) == {"1-1": 256, "2-1": 0, "2-2": 0}
    assert pick_ranges(balancing)[:2] == [("0:499", "2-1"), ("500:999", "2-2")]
    everything = replace(balancing, weights={2: 100})
    assert weigh_servers(everything) == {"1-1": 256, "2-1": 0, "2-2": 0}
    assert pick_ranges(everything) == [
        ("0:4999", "2-1"),
        ("5000:9999", "2-2"),
        ("10000:14999", "2-1"),
        ("15000:19999", "2-2"),
    ]


@pytest.mark.parametrize("settings", [{}, {"standby": 1, "sick": frozenset({"1-1"})}, {"standby": 7}])
def test_a_watched_side_with_nobody_behind_it_serves_like_any_other(settings: dict[str, Any]) -> None:
    balancing = make_balancing("1-1", "2-1", weights={2: 100}, watched=2, **settings)
    assert weigh_servers(balancing) == {"1-1": 0, "2-1": 256}
    assert [low for low, _ in pick_ranges(balancing) if int(low.partition(":")[0]) < 10000] == []


def test_standby_is_asked_when_nobody_else_can_be() -> None:
    balancing = make_balancing("1-1", "2-1", weights={2: 100}, standby=1)
    assert weigh_servers(balancing) == {"1-1": 0, "2-1": 256}
    assert pick_ranges(balancing) == [("10000:19999", "1-1")]


def test_sick_machines_get_nothing_and_their_side_keeps_its_share() -> None:
    balancing = make_balancing("1-1", "2-1", "2-2", weights={1: 50, 2: 50}, sick=frozenset({"2-2"}))
    assert weigh_servers(balancing) == {"1-1": 256, "2-1": 256, "2-2": 0}
    watched = replace(balancing, watched=2)
    assert [name for _, name in pick_ranges(watched)] == ["2-1", "2-1"]


def test_the_file_holds_what_it_was_made_from() -> None:
    command = Health(path=None, command=("/usr/bin/check", "a b"))
    balancing = make_balancing("1-1", weights={1: 70, 2: 30}, watched=2, sick=frozenset({"1-1"}))
    balancing = replace(
        balancing, servers=(*balancing.servers, Server(name="2-1", side=2, port=1, health=command))
    )
    text = render(balancing, FILES, "haproxy")
    assert read_back(text) == balancing == from_json(to_json(balancing))
    assert "    server 1-1 127.0.0.1:20000 weight 0 pool-purge-delay 1s check inter 1000ms" in text
    assert "    server 2-1 127.0.0.1:1 weight 256 pool-purge-delay 1s\n" in text
    for broken in ("", "global\n", "# baker: {}\n", "# baker: [\n"):
        with pytest.raises(HostError):
            read_back(broken)


def test_machines_weights_and_paths_change_while_it_runs_and_a_status_does_not() -> None:
    balancing = make_balancing("1-1", weights={1: 100})
    more = make_balancing("1-1", "2-1", weights={1: 10, 2: 90}, watched=2, standby=1)
    frame = render_frame(balancing, FILES, "haproxy")
    assert render_frame(more, FILES, "haproxy") == frame
    [first, second] = more.servers
    other = replace(more, servers=(first, replace(second, health=Health(path="/health"))))
    assert render_frame(other, FILES, "haproxy") == frame
    assert render_health_map(other) == "1-1 /\n2-1 /health\n"
    status = replace(more, servers=(first, replace(second, health=Health(status=204))))
    assert "expect status 200,204" in render_frame(status, FILES, "haproxy")


def test_commands_leave_connecting_as_the_check() -> None:
    balancing = make_balancing("1-1")
    [server] = balancing.servers
    command = replace(server, health=Health(path=None, command=("true",)))
    text = render(replace(balancing, servers=(command,)), FILES, "haproxy")
    assert "httpchk" not in text
    assert " check inter " in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"listen": "8080"},
        {"listen": "127.0.0.1:99999"},
        {"listen": "127.0.0.1:80\n    bind *:81"},
        {"environment": "demo\nglobal"},
        {"weights": {1: -1}},
    ],
)
def test_what_must_not_get_into_the_file_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        validate(make_balancing("1-1", **wrong))


@pytest.mark.parametrize("path", ["", "health", "/a b", "/a\n", "/a#b", "/%[env(HOME)]", '/"', "/\\x", "/'"])
def test_paths_that_would_say_something_to_haproxy_are_refused(path: str) -> None:
    balancing = make_balancing("1-1")
    with pytest.raises(UsageError, match="health path"):
        validate(replace(balancing, servers=(replace(balancing.servers[0], health=Health(path=path)),)))
    for name in ("a b", "a~b", "a\nb", ""):
        with pytest.raises(UsageError, match="name of a machine"):
            validate(replace(balancing, servers=(replace(balancing.servers[0], name=name),)))


def test_a_successor_takes_the_sockets_over() -> None:
    assert haproxy_argv(FILES, check=True) == ["haproxy", "-f", "/store/demo/haproxy.cfg", "-c", "-q"]
    started = ["haproxy", "-f", "/store/demo/haproxy.cfg", "-D", "-p", "/store/demo/pid"]
    assert haproxy_argv(FILES) == started
    assert haproxy_argv(FILES, replaces=7) == [*started, "-x", "/store/demo/socket", "-sf", "7"]
