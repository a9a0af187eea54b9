"""The local provider with real machines."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from baker.errors import CommandTimeout, MachineError, StoreError
from baker.manifest import fold_layers, manifest_digest
from baker.model import Bootstrap, Manifest, Recipe, Resource
from baker.providers.local.machine import LocalMachine
from baker.providers.local.provider import LocalProvider
from baker.providers.protocol import Captured, ResolvedSource
from baker.teardown import Teardown

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("nothing_left_behind")]

RECIPE = Recipe(name="probe", folder="/nowhere", project="/nowhere", description="", targets={})
TRIXIE = Bootstrap(distribution="debian", suite="trixie")


@pytest.fixture(scope="module")
def provider(shared_home: Path) -> LocalProvider:
    provider = LocalProvider(shared_home)
    provider.check()
    return provider


@pytest.fixture(scope="module")
def source(provider: LocalProvider) -> ResolvedSource:
    return provider.resolve(TRIXIE, None, {}, provider.arch)


@pytest.fixture
def teardown() -> Iterator[Teardown]:
    teardown = Teardown(f"T{time.time_ns()}", None)
    yield teardown
    assert teardown.close() == []


@pytest.fixture
def machine(provider: LocalProvider, source: ResolvedSource, teardown: Teardown) -> LocalMachine:
    machine = provider.launch(teardown.bake_id, RECIPE, source, teardown)
    assert isinstance(machine, LocalMachine)
    return machine


def capture(provider: LocalProvider, source: ResolvedSource, script: str) -> Captured:
    """What running a script in a fresh build instance comes to. The artifact stays in the store."""
    teardown = Teardown(f"T{time.time_ns()}", None)
    try:
        machine = provider.launch(teardown.bake_id, RECIPE, source, teardown)
        done = machine.run(["sh", "-euc", script])
        assert done.exit_status == 0, done.stderr.decode()
        provider.seal(machine)
        captured = provider.capture(teardown.bake_id, machine, source, teardown)
        teardown.keep(captured.resource)
        return captured
    finally:
        assert teardown.close() == []


def files_of(captured: Captured) -> dict[str, str]:
    return {file.path: file.kind for file in fold_layers(captured.layers)}


def test_machine_boots_with_systemd_and_reaches_the_archive(machine: LocalMachine) -> None:
    assert machine.run(["systemctl", "is-system-running"]).stdout.strip() == b"running"
    assert machine.run(["hostname"]).stdout.strip() == b"probe"
    fetched = machine.run(["apt-get", "update", "--error-on=any"])
    assert fetched.exit_status == 0, fetched.stderr.decode()


def test_machine_cannot_reach_the_loopback_of_the_host(machine: LocalMachine) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        gateway = machine.run(
            ["sh", "-c", "awk '$2 == \"00000000\" {print $3; exit}' /proc/net/route"]
        ).stdout.decode()
        address = ".".join(str(byte) for byte in reversed(bytes.fromhex(gateway.strip())))
        for target in ("127.0.0.1", address):
            tried = machine.run(["timeout", "3", "bash", "-c", f"exec 3<>/dev/tcp/{target}/{port}"])
            assert tried.exit_status != 0


def test_command_gets_its_input_and_returns_output_and_exit_status(machine: LocalMachine) -> None:
    done = machine.run(["sh", "-c", "cat; echo problem >&2; exit 7"], stdin=b"text")
    assert (done.exit_status, done.stdout, done.stderr) == (7, b"text", b"problem\n")


def test_command_that_times_out_leaves_no_process(machine: LocalMachine) -> None:
    script = "setsid sleep 4567 & (sleep 4567 &) ; sleep 4567"
    with pytest.raises(CommandTimeout, match=r"ran longer than 0\.3 s"):
        machine.run(["sh", "-c", script], timeout=0.3)
    assert (
        machine.run(["grep", "-l", "4567", "-r", "--include=cmdline", "/proc", "-s"]).stdout.count(b"\n") <= 2
    )
    assert b"sleep" not in machine.run(["sh", "-c", "cat /proc/[0-9]*/comm 2>/dev/null"]).stdout


def test_daemon_that_keeps_the_pipes_open_does_not_hold_up_its_command(machine: LocalMachine) -> None:
    done = machine.run(["sh", "-c", "sleep 4567 & echo started"], timeout=30)
    assert done.stdout == b"started\n"
    assert b"sleep" in machine.run(["sh", "-c", "cat /proc/[0-9]*/comm 2>/dev/null"]).stdout


def test_file_put_onto_an_absolute_link_stays_in_the_machine(machine: LocalMachine, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("of the host")
    machine.run(["sh", "-c", f"mkdir -p {tmp_path}; ln -s {precious} /root/link"])
    machine.put(io.BytesIO(b"of the machine"), "/root/link", mode=0o640)
    assert precious.read_text() == "of the host"
    read = io.BytesIO()
    machine.get(str(precious), read)
    assert read.getvalue() == b"of the machine"


def test_large_file_survives_put_and_get(machine: LocalMachine) -> None:
    content = os.urandom(5_000_000)
    machine.put(io.BytesIO(content), "/root/large")
    read = io.BytesIO()
    machine.get("/root/large", read)
    assert read.getvalue() == content


def test_machine_whose_init_dies_says_so(machine: LocalMachine) -> None:
    os.kill(machine.leader, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while machine.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(MachineError, match=r"not running|died"):
        machine.run(["true"])


def test_two_machines_run_at_once_and_apart(
    provider: LocalProvider, source: ResolvedSource, machine: LocalMachine, teardown: Teardown
) -> None:
    other = Teardown(f"{teardown.bake_id}B", None)
    try:
        second = provider.launch(other.bake_id, RECIPE, source, other)
        machine.run(["touch", "/root/mine"])
        assert second.run(["test", "-e", "/root/mine"]).exit_status == 1
        second.stop()
        assert machine.run(["systemctl", "is-system-running"]).stdout.strip() == b"running"
    finally:
        assert other.close() == []


def test_capture_holds_what_was_written_and_nothing_of_the_boot(
    provider: LocalProvider, source: ResolvedSource
) -> None:
    script = """
        echo kept > /etc/kept; chown 33:44 /etc/kept; chmod 4750 /etc/kept
        ln -s /etc/kept /root/link; rm /etc/issue.net; rm -r /usr/share/doc/bash; mkdir -p /srv/new/folder
        echo secret > /root/.bash_history; echo noise > /var/log/some.log; echo x > /tmp/x
        setcap_target=/srv/new/file; touch $setcap_target; setfattr -h 2>/dev/null || true
    """
    captured = capture(provider, source, script)
    files = {file.path: file for file in fold_layers(captured.layers)}
    kept = files["/etc/kept"]
    assert (kept.mode, kept.uid, kept.gid, kept.size) == (0o4750, 33, 44, 5)
    assert files["/root/link"].link == "/etc/kept"
    assert files["/srv/new/folder"].kind == "d"
    assert files["/etc/machine-id"].size == 0
    assert files["/var/log/some.log"].size == 0
    for gone in (
        "/etc/issue.net",
        "/usr/share/doc/bash",
        "/usr/share/doc/bash/copyright",
        "/root/.bash_history",
    ):
        assert gone not in files
    assert not [
        path for path in files if path.startswith(("/tmp/", "/var/log/journal/", "/var/lib/apt/lists/"))
    ]
    changed = {file.path for file in captured.layers[-1].files}
    assert not changed & {"/etc/ld.so.cache", "/etc/resolv.conf", "/etc/hostname"}
    assert any(package.name == "systemd" for package in captured.packages)


def test_fresh_machine_from_the_capture_has_its_files_and_a_machine_id_of_its_own(
    provider: LocalProvider, source: ResolvedSource
) -> None:
    captured = capture(provider, source, "echo kept > /etc/kept; rm /etc/issue.net")
    seen = []
    for number in range(2):
        teardown = Teardown(f"T{time.time_ns()}V{number}", None)
        try:
            machine = provider.start(teardown.bake_id, "fresh", captured.artifact, teardown)
            assert machine.run(["cat", "/etc/kept"]).stdout == b"kept\n"
            assert machine.run(["test", "-e", "/etc/issue.net"]).exit_status == 1
            seen.append(machine.run(["cat", "/etc/machine-id"]).stdout.strip())
        finally:
            assert teardown.close() == []
    assert all(len(machine_id) == 32 for machine_id in seen)
    assert seen[0] != seen[1]


def test_same_script_gives_the_same_layer_and_the_same_digest(
    provider: LocalProvider, source: ResolvedSource
) -> None:
    script = """
        apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-minimal >/dev/null
        useradd --create-home someone; mkdir /opt/lib; echo 'x = 1' > /opt/lib/module.py
        python3 -m compileall -q /opt/lib; PYTHONPATH=/opt/lib python3 -c 'import module'
    """
    first, second = (capture(provider, source, script) for _ in range(2))
    assert first.layers[-1].files == second.layers[-1].files
    digests = [
        manifest_digest(Manifest(packages=c.packages, files=fold_layers(c.layers))) for c in (first, second)
    ]
    assert digests[0] == digests[1]
    assert first.artifact.id == second.artifact.id


def test_image_whose_line_holds_the_same_layer_twice_boots(
    provider: LocalProvider, source: ResolvedSource
) -> None:
    captured = capture(provider, source, "echo a > /srv/a")
    chain = provider.store.read_artifact(captured.artifact.id)
    twice = provider.store.write_artifact(
        [*chain["layers"], chain["layers"][-1]], {"epoch": chain["epoch"], "bake": "T1"}
    )
    teardown = Teardown(f"T{time.time_ns()}", None)
    try:
        artifact = replace(captured.artifact, id=twice)
        machine = provider.start(teardown.bake_id, "twice", artifact, teardown)
        assert machine.run(["cat", "/srv/a"]).stdout == b"a\n"
    finally:
        teardown.close()


def test_captured_manifest_is_what_a_walk_through_the_machine_finds(
    provider: LocalProvider, source: ResolvedSource
) -> None:
    captured = capture(
        provider, source, "rm -r /usr/share/doc; mkdir /usr/share/doc; echo a > /usr/share/doc/a"
    )
    teardown = Teardown(f"T{time.time_ns()}", None)
    try:
        machine = provider.start(teardown.bake_id, "walk", captured.artifact, teardown)
        found = machine.run(["find", "/usr", "/opt", "/boot", "/srv", "-xdev"]).stdout.decode().splitlines()
    finally:
        teardown.close()
    expected = [path for path in files_of(captured) if path.split("/")[1] in ("usr", "opt", "boot", "srv")]
    assert sorted(found) == sorted(expected)


def test_damaged_layer_is_refused_by_name(
    provider: LocalProvider, source: ResolvedSource, teardown: Teardown
) -> None:
    captured = capture(provider, source, f"echo {time.time_ns()} > /etc/once")
    digest = captured.layers[-1].digest
    path = provider.store.layers / f"{digest.removeprefix('sha256:')}.erofs"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(StoreError, match=f"layer {digest} is damaged"):
        provider.start(teardown.bake_id, "x", captured.artifact, teardown)
    path.unlink()
    with pytest.raises(StoreError, match="is not in the store"):
        provider.start(f"{teardown.bake_id}b", "x", captured.artifact, teardown)
    assert not provider.holds(captured.artifact)
    provider.delete(captured.artifact)


def test_deleting_an_artifact_keeps_layers_that_others_need(
    provider: LocalProvider, source: ResolvedSource
) -> None:
    keep = capture(provider, source, "echo keep > /etc/which")
    drop = capture(provider, source, "echo drop > /etc/which")
    provider.delete(drop.artifact)
    provider.delete(drop.artifact)
    assert provider.holds(keep.artifact)
    assert not provider.holds(drop.artifact)
    left = {path.stem for path in provider.store.layers.glob("*.erofs")}
    assert drop.layers[-1].digest.removeprefix("sha256:") not in left
    assert drop.layers[0].digest.removeprefix("sha256:") in left


def test_killed_orchestrator_leaves_no_mount_process_or_loop_device(
    shared_home: Path, traces: Callable[[], set[str]]
) -> None:
    before = traces()
    script = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from baker.model import Bootstrap, Recipe
        from baker.providers.local.provider import LocalProvider
        from baker.teardown import Teardown
        provider = LocalProvider(Path({str(shared_home)!r}))
        source = provider.resolve(Bootstrap(distribution="debian", suite="trixie"), None, {{}}, provider.arch)
        recipe = Recipe(name="probe", folder="/n", project="/n", description="", targets={{}})
        provider.launch("KILLED", recipe, source, Teardown("KILLED", None))
        print("up", flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert traces() - before
        process.kill()
    provider = LocalProvider(shared_home)
    deadline = time.monotonic() + 10
    while {trace for trace in traces() - before if "cgroup" not in trace} and time.monotonic() < deadline:
        time.sleep(0.05)
    assert {trace for trace in traces() - before if "cgroup" not in trace} == set()
    leftover = Resource(provider="local", kind="machine", id="KILLED")
    assert leftover in provider.leftovers()
    provider.remove(leftover)
    assert leftover not in provider.leftovers()
    provider.remove(leftover)


def test_of_what_a_machine_fetched_only_packages_that_the_verified_indexes_know_enter_the_cache(
    provider: LocalProvider, source: ResolvedSource
) -> None:
    archive = provider._archive(TRIXIE, {})
    teardown = Teardown(f"T{time.time_ns()}", None)
    for known in [*archive.debs.glob("hello_*"), *archive.debs.glob("netbase_*")]:
        known.unlink()
    try:
        machine = provider.launch(teardown.bake_id, RECIPE, source, teardown)
        assert isinstance(machine, LocalMachine)
        machine.run(
            ["sh", "-c", "apt-get update -qq; cd /var/cache/apt/archives; apt-get download -qq hello netbase"]
        )
        offered = machine.spec.folder / "binds" / "debs" / "upper"
        poisoned = next(path for path in offered.glob("netbase_*.deb"))
        poisoned.write_bytes(poisoned.read_bytes()[:-1] + b"X")
        (offered / "evil_1_amd64.deb").write_bytes(b"never seen")
        (offered / "link_1_amd64.deb").symlink_to("/etc/shadow")
        assert not list(archive.debs.glob("hello_*")), "not before the machine is gone"
    finally:
        assert teardown.close() == []
    names = {path.name.split("_")[0] for path in archive.debs.glob("*.deb")}
    assert "hello" in names
    assert not names & {"netbase", "evil", "link"}


def test_commands_from_several_threads_do_not_disturb_one_another(machine: LocalMachine) -> None:
    answers: dict[int, bytes] = {}

    def ask(number: int) -> None:
        answers[number] = machine.run(["sh", "-c", f"sleep 0.05; echo {number}"]).stdout

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: f"{number}\n".encode() for number in range(12)}


def test_command_has_no_more_rights_than_the_machine_has(machine: LocalMachine) -> None:
    rights = machine.run(["grep", "CapBnd", "/proc/self/status"]).stdout
    assert rights == machine.run(["grep", "CapBnd", "/proc/1/status"]).stdout
    may_load_modules = int(rights.split()[1], 16) >> 16 & 1
    assert not may_load_modules
