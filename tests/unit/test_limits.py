"""Bounds: on what a machine takes of the host, and on what a recipe's process makes this one hold."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from baker.configurer.session import MAX_ITEMS, Items, Line, Quota
from baker.providers.local import output
from baker.providers.local.cgroups import find_cgroup_roots
from baker.providers.local.limits import (
    Limits,
    find_reached_limit,
    make_limited_groups,
    read_limits,
    systemd_properties,
)

MOUNTS = """\
30 20 0:26 / {root}/unified rw - cgroup2 cgroup2 rw
31 20 0:27 / {root}/memory rw - cgroup cgroup rw,memory
32 20 0:28 / {root}/pids rw - cgroup cgroup rw,pids
33 20 0:29 / {root}/systemd rw - cgroup cgroup rw,xattr,name=systemd
"""


def test_limits_have_defaults_and_take_variables_as_text() -> None:
    assert read_limits({"memory": "2G", "pids": "300"}) == Limits(memory=2 << 30, pids=300)
    defaults = read_limits({})
    assert defaults.pids == 4096
    assert 0 < defaults.memory < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_systemd_is_told_every_limit() -> None:
    assert systemd_properties(Limits(memory=1024, pids=7)) == [
        "--property=MemoryMax=1024",
        "--property=MemorySwapMax=0",
        "--property=TasksMax=7",
    ]


def test_limited_group_lies_in_each_controllers_hierarchy(tmp_path: Path) -> None:
    for name in ("unified", "memory", "pids"):
        (tmp_path / name).mkdir()
    roots = find_cgroup_roots(MOUNTS.format(root=tmp_path))
    groups = make_limited_groups("baker-x", Limits(memory=1024, pids=7), roots)
    assert [group.parent.name for group in groups] == ["memory", "pids"]


def test_limit_that_was_reached_in_an_inner_group_is_found(tmp_path: Path) -> None:
    inner = tmp_path / "payload" / "system.slice"
    inner.mkdir(parents=True)
    (inner / "pids.events").write_text("max 0\n")
    assert find_reached_limit([tmp_path]) is None
    (inner / "pids.events").write_text("max 3\n")
    assert find_reached_limit([tmp_path]) == "pids"
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert find_reached_limit([tmp_path]) == "memory"


def test_command_that_prints_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MAX_OUTPUT", 100_000)
    reading, writing = os.pipe()
    flooded = threading.Event()

    def flood() -> None:
        with open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor
            while not flooded.is_set():
                pipe.write(bytes(4096))

    thread = threading.Thread(target=flood)
    thread.start()
    collected = output.Output(None, on_flood=flooded.set)
    with open(reading, "rb") as stream:  # noqa: PTH123 - a descriptor
        collected.drain(stream, "stdout")
        assert flooded.is_set()
        assert collected.flooded
        assert 100_000 < len(collected.whole("stdout")) < 300_000
        os.set_blocking(reading, False)
        while thread.is_alive():
            stream.read()
    thread.join()


def test_who_tells_too_much_waits_until_something_was_taken_or_nobody_takes_any_more() -> None:
    items = Items()
    for number in range(MAX_ITEMS):
        items.put(Line(text=str(number)))
    thread = threading.Thread(target=items.put, args=(Line(text="one more"),))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    assert items.get(timeout=1) == Line(text="0")
    thread.join(5)
    assert not thread.is_alive()
    items.close()
    items.put(Line(text="lost"))


def test_quota_lets_nobody_have_more_than_there_is() -> None:
    quota = Quota(10)
    quota.take(8)
    thread = threading.Thread(target=quota.take, args=(5,))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    quota.give(8)
    thread.join(5)
    assert not thread.is_alive()
