"""Real HAProxy before small real services: nobody who asks notices what happens behind it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from baker.deploy.environment import Health
from baker.errors import HostError
from baker.providers.local.balancer import Balancer, Balancing, Server, ServerState
from baker.providers.local.balancer.balancing import to_json
from tests.conftest import require_root
from tests.load import Load

HEALTH = Health(path="/health", interval=0.2, timeout=1.0)
SERVICE = """
import sys, time, pathlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
name, mood = sys.argv[1], pathlib.Path(sys.argv[2])
class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(0.3)
        moods = mood.read_text().split()
        wrong = "failing" in moods and self.path != "/health" or "sick" in moods and self.path == "/health"
        content = f"{name}\\n".encode()
        self.send_response(500 if wrong else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()
    def log_message(self, *_):
        pass
class Server(ThreadingHTTPServer):
    request_queue_size = 128
server = Server(("127.0.0.1", 0), Service)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


class Service:
    """A machine's service: a process of its own, that can be killed and put into a mood."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self._mood = name, folder / f"{name}.mood"
        self.feel("")
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, name, str(self._mood)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def feel(self, mood: str) -> None:
        new = self._mood.with_suffix(".new")
        new.write_text(mood)
        new.replace(self._mood)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def server(self) -> Server:
        return Server(name=self.name, side=int(self.name.partition("-")[0]), port=self.port, health=HEALTH)


Start = Callable[[str], Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Service] = []

    def begin(name: str) -> Service:
        started.append(Service(tmp_path, name))
        return started[-1]

    yield begin
    for service in started:
        if service.process.returncode is None:
            service.kill()


@pytest.fixture
def balancer(tmp_path: Path) -> Iterator[Balancer]:
    require_root()
    made = Balancer(tmp_path / "haproxy", cgroup=f"bakerenv-test-{os.getpid()}-{time.time_ns()}")
    yield made
    made.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_of(balancing: Balancing) -> int:
    return int(balancing.listen.rpartition(":")[2])


def balance(*services: Service, **settings: object) -> Balancing:
    wanted = {"listen": f"127.0.0.1:{free_port()}", "environment": "demo", **settings}
    return Balancing(servers=tuple(service.server for service in services), **wanted)  # type: ignore[arg-type]


def wait_until(balancer: Balancer, what: Callable[[dict[str, ServerState]], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not what({state.name: state for state in balancer.servers()}):
        assert time.monotonic() < deadline, balancer.servers()
        time.sleep(0.05)


def wait_until_healthy(balancer: Balancer) -> None:
    wait_until(balancer, lambda states: all(state.healthy for state in states.values()))


@contextlib.contextmanager
def load_on(balancing: Balancing, **settings: int) -> Iterator[Load]:
    with Load("127.0.0.1", port_of(balancing), **{"quick": 3, "slow": 2, "posting": 2, **settings}) as load:  # type: ignore[arg-type]
        load.wait_for(50)
        yield load
        load.wait_for(50)
    print(load.describe())
    assert load.failures == [], load.describe()


def test_traffic_moves_at_once_in_steps_and_back_and_sides_come_and_go(
    balancer: Balancer, start: Start
) -> None:
    old = [start("1-1"), start("1-2")]
    one = balance(*old, weights={1: 100})
    balancer.apply(one)
    wait_until_healthy(balancer)
    with load_on(one) as load:
        for number in (2, 3):  # each time the side of before waits, is watched over, and goes
            new = [start(f"{number}-1"), start(f"{number}-2")]
            both = replace(one, servers=tuple(service.server for service in [*old, *new]))
            before = int(old[0].name[0])
            balancer.apply(replace(both, weights={before: 100}))
            wait_until_healthy(balancer)
            for share in (10, 50, 100):
                weights = {number: share, before: 100 - share}
                balancer.apply(replace(both, weights=weights, standby=before, watched=number))
                load.begin(f"{share} % to {number}")
                answers = load.wait_for(300)
                assert bool(set(answers) & {service.name for service in new}), answers
            live = replace(both, weights={number: 100}, standby=before)
            balancer.apply(live)
            load.wait_for(100)
            balancer.apply(replace(both, weights={before: 100}))  # a roll-back, and forward again
            load.begin("rolled back")
            assert set(load.wait_for(100)) == {service.name for service in old}
            balancer.apply(live)
            for service in old:
                assert balancer.drain(service.name, 10.0, time.sleep) == 0
            balancer.apply(replace(live, servers=tuple(service.server for service in new), standby=None))
            for service in old:
                service.kill()
            load.begin(f"{number} alone")
            assert set(load.wait_for(100)) == {service.name for service in new}
            old = new
    assert {state.name for state in balancer.servers()} == {"3-1", "3-2"}


def test_half_of_the_traffic_is_half_whatever_the_number_of_machines(
    balancer: Balancer, start: Start
) -> None:
    services = [start("1-1"), start("2-1"), start("2-2"), start("2-3")]
    half = balance(*services, weights={1: 50, 2: 50}, standby=1, watched=2)
    balancer.apply(half)
    wait_until_healthy(balancer)
    with load_on(half, slow=0, posting=0) as load:
        load.begin("half")
        answers = load.wait_for(1000)
    share = answers["1-1"] / answers.total()
    assert 0.4 < share < 0.6, answers
    assert min(answers[name] for name in ("2-1", "2-2", "2-3")) > 50, answers


@pytest.mark.parametrize("share", [100, 10])
def test_a_watched_side_that_begins_to_fail_is_noticed_by_the_watch_alone(
    balancer: Balancer, start: Start, share: int
) -> None:
    old, new = [start("1-1"), start("1-2")], [start("2-1"), start("2-2")]
    shifted = balance(*old, *new, weights={2: share, 1: 100 - share}, standby=1, watched=2)
    balancer.apply(replace(shifted, weights={1: 100}, watched=None))
    wait_until_healthy(balancer)
    with load_on(shifted, posting=0) as load:
        balancer.apply(shifted)
        load.wait_for(200)
        for service in new:
            service.feel("failing")
        wait_until(balancer, lambda states: not (states["2-1"].healthy and states["2-2"].healthy))
        assert "wrongly" in "".join(state.detail for state in balancer.servers())
        load.wait_for(300)
        load.begin("taken back")
        balancer.apply(replace(shifted, weights={1: 100}, watched=None))
        load.wait_for(100)


def test_a_watched_side_that_is_killed_is_noticed_by_the_watch_alone(
    balancer: Balancer, start: Start
) -> None:
    old, new = [start("1-1")], [start("2-1"), start("2-2")]
    shifted = balance(*old, *new, weights={2: 100}, standby=1, watched=2)
    balancer.apply(shifted)
    wait_until_healthy(balancer)
    with load_on(shifted, posting=0) as load:
        for service in new:
            service.kill()
        wait_until(balancer, lambda states: states["2-1"].status == "DOWN" == states["2-2"].status)
        load.begin("after")
        assert set(load.wait_for(100)) == {"1-1"}
    assert {state.name: state.healthy for state in balancer.servers()}["2-1"] is False


def test_a_machine_that_is_killed_while_it_serves_is_asked_no_more(balancer: Balancer, start: Start) -> None:
    services = [start("1-1"), start("1-2")]
    live = balance(*services, weights={1: 100})
    balancer.apply(live)
    wait_until_healthy(balancer)
    with load_on(live, posting=0) as load:
        services[0].kill()
        wait_until(balancer, lambda states: states["1-1"].status == "DOWN")
        load.wait_for(50)
        replaced = start("1-3")
        balancer.apply(replace(live, servers=(services[1].server, replaced.server)))
        wait_until_healthy(balancer)
        load.wait_for(50)
        load.begin("replaced")
        assert set(load.wait_for(100)) == {"1-2", "1-3"}


def test_standby_serves_when_nobody_else_can(balancer: Balancer, start: Start) -> None:
    old, new = start("1-1"), start("2-1")
    live = balance(old, new, weights={2: 100}, standby=1)
    balancer.apply(live)
    wait_until_healthy(balancer)
    with load_on(live, posting=0, slow=0, quick=1) as load:
        assert set(load.wait_for(20)) == {"2-1"}
        new.feel("sick")
        wait_until(balancer, lambda states: states["2-1"].status == "DOWN")
        load.begin("down")
        assert set(load.wait_for(50)) == {"1-1"}
        new.feel("")
        wait_until(balancer, lambda states: states["2-1"].status == "UP")
        load.begin("up")
        assert set(load.wait_for(50)) == {"2-1"}


def test_errors_of_a_side_that_is_not_watched_take_nothing_out_of_service(
    balancer: Balancer, start: Start
) -> None:
    service = start("1-1")
    live = balance(service, weights={1: 100})
    balancer.apply(live)
    wait_until_healthy(balancer)
    service.feel("failing")
    with Load("127.0.0.1", port_of(live), quick=2, posting=1) as load:
        load.wait_for(100)
        service.feel("")
        load.wait_for(20)
        fine = load.begin("fine")
        load.wait_for(100)
    assert {failure.reason for failure in load.failures} == {"status 500 1-1"}
    assert fine.failures == 0
    [state] = balancer.servers()
    assert state.healthy
    assert 0 < state.errors < 2 * len(load.failures), "asking again multiplies what is asked"


def test_a_machine_joins_when_it_is_healthy_and_not_before(balancer: Balancer, start: Start) -> None:
    first, second = start("1-1"), start("1-2")
    live = balance(first, weights={1: 100})
    balancer.apply(live)
    wait_until_healthy(balancer)
    second.feel("sick failing")
    with load_on(live) as load:
        balancer.apply(replace(live, servers=(first.server, second.server)))
        load.begin("sick")
        assert set(load.wait_for(200)) == {"1-1"}
        states = {state.name: state for state in balancer.servers()}
        assert not states["1-2"].healthy
        second.feel("")
        wait_until_healthy(balancer)
        load.wait_for(20)
        load.begin("well")
        assert set(load.wait_for(100)) == {"1-1", "1-2"}


def test_what_cannot_change_while_it_runs_is_changed_without_a_lost_request(
    balancer: Balancer, start: Start
) -> None:
    old, new = start("1-1"), start("2-1")
    live = balance(old, weights={1: 100})
    balancer.apply(live)
    wait_until_healthy(balancer)
    first = balancer.pid()
    with load_on(live) as load:
        other = replace(new.server, health=replace(HEALTH, path="/", status=204))
        balancer.apply(replace(live, servers=(old.server, other)))
        assert balancer.pid() != first
        load.wait_for(300)
        wait_until(balancer, lambda states: bool(states["1-1"].healthy))
        balancer.apply(live)
        load.wait_for(300)
    assert [state.name for state in balancer.servers()] == ["1-1"]


def test_it_starts_again_as_it_was_and_applying_twice_changes_nothing(
    balancer: Balancer, start: Start
) -> None:
    old, new = start("1-1"), start("2-1")
    shifted = balance(old, new, weights={2: 30, 1: 70})
    balancer.apply(shifted)
    first = balancer.pid()
    wait_until_healthy(balancer)
    weights = {state.name: state.weight for state in balancer.servers()}
    assert weights == {"1-1": 256, "2-1": 110}
    balancer.apply(shifted)
    balancer.start()
    assert balancer.pid() == first
    assert first is not None
    os.kill(first, signal.SIGKILL)
    while balancer.alive():
        time.sleep(0.01)
    with pytest.raises(HostError, match="does not answer"):
        balancer.servers()
    assert balancer.current() == shifted
    balancer.start()
    assert balancer.pid() not in (None, first)
    wait_until_healthy(balancer)
    assert {state.name: state.weight for state in balancer.servers()} == weights
    balancer.stop()
    balancer.stop()
    assert not balancer.alive()
    assert balancer.current() is None


def test_it_outlives_the_command_and_runs_without_root(tmp_path: Path, start: Start) -> None:
    require_root()
    service = start("1-1")
    live = balance(service, weights={1: 100})
    folder, cgroup = tmp_path / "haproxy", f"bakerenv-test-{os.getpid()}-{time.time_ns()}"
    script = (
        "import sys; from pathlib import Path; from baker.providers.local.balancer import Balancer;"
        "from baker.providers.local.balancer.balancing import from_json;"
        "Balancer(Path(sys.argv[1]), cgroup=sys.argv[2]).apply(from_json(sys.argv[3]))"
    )
    command = [sys.executable, "-c", script, str(folder), cgroup, to_json(live)]
    with subprocess.Popen(command, start_new_session=True) as process:
        assert process.wait() == 0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    balancer = Balancer(folder, cgroup=cgroup)
    try:
        wait_until_healthy(balancer)
        status = Path(f"/proc/{balancer.pid()}/status").read_text()
        assert "\nUid:\t0\t" not in status
        assert balancer.files.socket.stat().st_mode & 0o777 == 0o600
        assert balancer.files.configuration.stat().st_mode & 0o777 == 0o600
    finally:
        balancer.stop()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{cgroup}*"))


def test_a_port_that_is_taken_is_told_with_who_has_it(balancer: Balancer, start: Start) -> None:
    service = start("1-1")
    taken = balance(service, listen=f"127.0.0.1:{service.port}", weights={1: 100})
    with pytest.raises(
        HostError, match=rf"port {service.port} .*in use by python.* \(pid {service.process.pid}\)"
    ):
        balancer.check(taken.listen)
    with pytest.raises(HostError, match=rf"in use by python.* \(pid {service.process.pid}\)"):
        balancer.apply(taken)
    free = replace(taken, listen=f"127.0.0.1:{free_port()}")
    balancer.check(free.listen)
    balancer.apply(free)
    balancer.check(free.listen)
    other = Balancer(balancer.files.folder.with_name("other"), cgroup="bakerenv-test-other")
    with pytest.raises(HostError, match="in use by haproxy"):
        other.apply(free)
    other.stop()
