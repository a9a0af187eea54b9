"""An instance is a machine: commands, files and streams as root over SSH, on OpenSSH's own server."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from baker.errors import CommandFailed, CommandTimeout, Interrupted, MachineError
from baker.providers.aws import machine as machines
from baker.providers.aws import ssh
from baker.providers.aws.instances import Instance
from baker.providers.aws.machine import AwsMachine, write_access
from baker.providers.aws.session import AwsSession
from baker.providers.aws.ssh import Access, KeyPair, LoginRefused, WrongHostKey
from tests.aws import make_table, quick_lab
from tests.lab import Lab
from tests.sshd import Sshd, running_sshd

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with quick_lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def make_machine(lab: Lab, access: Access, *, seconds: float = 10.0) -> AwsMachine:
    """The server as if it were an instance: what AWS tells of it is that of one in the lab."""
    ran = lab.client("ec2").run_instances(
        MinCount=1, MaxCount=1, InstanceType="t3.small", ImageId=lab.source_ami
    )["Instances"][0]
    instance = Instance(
        id=ran["InstanceId"], region=lab.region, address=access.address, type="t3.small", spot=False
    )
    return AwsMachine(
        "01JMACHINE",
        "base",
        instance,
        access,
        AwsSession(make_table(lab)),
        ssh_seconds=seconds,
        cancel=threading.Event(),
    )


@pytest.fixture
def machine(lab: Lab, sshd: Sshd) -> Iterator[AwsMachine]:
    machine = make_machine(lab, sshd.access)
    machine.wait_until_reachable()
    yield machine
    machine.disconnect()


def is_running(mark: str) -> bool:
    """Whether a process has ``mark`` as an argument."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in file.read_bytes().split(b"\0"):
                return True
        except (FileNotFoundError, ProcessLookupError):
            continue
    return False


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + 20.0
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def make_mark() -> str:
    """A number of seconds that nobody else sleeps."""
    return f"{4000 + int.from_bytes(os.urandom(2)) % 1000}.{int.from_bytes(os.urandom(4))}"


# --- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 3, 127, 255])
def test_the_exit_status_is_the_commands(machine: AwsMachine, status: int) -> None:
    done = machine.run(["sh", "-c", f"echo out; echo err >&2; exit {status}"])

    assert (done.exit_status, done.stdout, done.stderr) == (status, b"out\n", b"err\n")


def test_a_command_that_a_signal_ended_has_a_negative_status(machine: AwsMachine) -> None:
    done = machine.run(["sh", "-c", "echo before; kill -TERM $$"])

    assert done.exit_status < 0
    assert done.stdout == b"before\n"


def test_arguments_arrive_as_they_are(machine: AwsMachine) -> None:
    arguments = ["", "two words", "'single' \"double\"", "$HOME `id` \\ * ;", "line\nbreak", "grün", "-n"]

    done = machine.run(["sh", "-c", 'for one in "$@"; do printf "%s\\0" "$one"; done', "sh", *arguments])

    assert done.stdout.decode().split("\0")[:-1] == arguments


def test_a_command_has_a_clean_environment_and_starts_at_the_root(machine: AwsMachine) -> None:
    done = machine.run(["sh", "-c", "env; pwd; id -u"], env={"GREETING": "good morning"})

    lines = done.stdout.decode().splitlines()
    told = dict(line.partition("=")[::2] for line in lines if "=" in line)
    told.pop("BAKER_COMMAND")
    told.pop("_", None)
    assert told == {**machines.ENVIRONMENT, "GREETING": "good morning", "PWD": "/"}
    assert lines[-2:] == ["/", "0"]


def test_output_comes_while_the_command_runs(machine: AwsMachine, tmp_path: Path) -> None:
    """The command goes on only when its first line has been seen."""
    seen = tmp_path / "seen"
    chunks: list[tuple[str, bytes]] = []

    def see(stream: str, chunk: bytes) -> None:
        chunks.append((stream, chunk))
        seen.touch()

    script = 'echo one; while [ ! -e "$1" ]; do sleep 0.02; done; echo two >&2'
    done = machine.run(["sh", "-c", script, "sh", str(seen)], on_output=see, timeout=20.0)

    assert chunks == [("stdout", b"one\n"), ("stderr", b"two\n")]
    assert (done.stdout, done.stderr) == (b"one\n", b"two\n")


def test_a_hundred_megabytes_go_in_and_come_out(machine: AwsMachine) -> None:
    data = os.urandom(MEGABYTE) * 100

    done = machine.run(
        ["sh", "-c", "tee /dev/stderr | sha256sum >/dev/null; echo end"], stdin=data[:MEGABYTE]
    )
    assert (done.stdout, hashlib.sha256(done.stderr).digest()) == (
        b"end\n",
        hashlib.sha256(data[:MEGABYTE]).digest(),
    )
    done = machine.run(["cat"], stdin=data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_a_command_need_not_read_what_it_is_given(machine: AwsMachine) -> None:
    done = machine.run(["sh", "-c", "exec <&-; echo done"], stdin=bytes(8 * MEGABYTE))

    assert (done.exit_status, done.stdout) == (0, b"done\n")


def test_twenty_commands_run_at_once_and_do_not_mix(machine: AwsMachine) -> None:
    """More than the server allows of one connection."""

    def run(number: int) -> str:
        done = machine.run(["sh", "-c", f"sleep 0.1; cat; echo {number}"], stdin=f"{number} ".encode())
        return done.stdout.decode()

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(run, range(20))) == [f"{number} {number}\n" for number in range(20)]


def test_a_daemon_that_holds_the_pipes_does_not_keep_its_command(
    machine: AwsMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More often than there are sessions of a connection: none stays taken."""
    monkeypatch.setattr(ssh, "DRAIN_SECONDS", 0.1)
    daemons = []
    try:
        for _ in range(12):
            done = machine.run(["sh", "-c", f"setsid sleep {make_mark()} & echo $!"], timeout=30.0)
            daemons.append(int(done.stdout))
            assert done.exit_status == 0
        assert machine.run(["true"]).exit_status == 0
    finally:
        for pid in daemons:
            os.kill(pid, signal.SIGKILL)


# --- ends -----------------------------------------------------------------------------------------


def test_a_time_out_ends_all_that_the_command_started(machine: AwsMachine) -> None:
    mark = make_mark()
    script = f"trap '' TERM HUP; setsid sleep {mark} & (sleep {mark} &) ; nohup sleep {mark} >/dev/null; wait"

    with pytest.raises(CommandTimeout, match=r"sh -c .* ran longer than 0\.5 s"):
        machine.run(["sh", "-c", script], timeout=0.5)

    assert not is_running(mark)
    assert machine.run(["true"]).exit_status == 0


def test_a_time_out_leaves_other_commands_alone(machine: AwsMachine, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(machine.run, ["sh", "-c", f"while [ ! -e {go} ]; do sleep 0.02; done; echo here"])
        with pytest.raises(CommandTimeout):
            machine.run(["sleep", make_mark()], timeout=0.2)
        go.touch()
        assert other.result().stdout == b"here\n"


def test_what_prints_without_end_is_stopped(machine: AwsMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "MAX_OUTPUT", MEGABYTE)
    mark = make_mark()

    with pytest.raises(MachineError) as raised:
        machine.run(["sh", "-c", f"yes & exec sleep {mark}"])

    assert str(raised.value) == f"sh -c 'yes & exec sleep {mark}' printed more than 1 MiB"
    assert "Redirect its output" in str(raised.value.hint)
    assert not is_running(mark)


def test_an_interrupted_bake_ends_its_command(machine: AwsMachine) -> None:
    mark = make_mark()

    def interrupt(_stream: str, _chunk: bytes) -> None:
        raise Interrupted("interrupted")

    with pytest.raises(Interrupted):
        machine.run(["sh", "-c", f"echo here; sleep {mark}; true"], on_output=interrupt)

    assert not is_running(mark)


def test_a_connection_that_breaks_is_explained_and_made_anew(
    machine: AwsMachine, sshd: Sshd, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(machine.run, ["sh", "-c", f"touch {started}; exec sleep {make_mark()}"])
        wait_for_file(started)
        sshd.break_connections()
        with pytest.raises(MachineError) as raised:
            running.result()

    assert str(raised.value).startswith("machine 01JMACHINE: the SSH connection ")
    assert f"while it ran sh -c 'touch {started}" in str(raised.value)
    assert machine.run(["echo", "again"]).stdout == b"again\n"


def test_an_instance_that_ended_under_a_command_is_said_to_have_ended(
    lab: Lab, sshd: Sshd, machine: AwsMachine, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(machine.run, ["sh", "-c", f"touch {started}; exec sleep {make_mark()}"])
        wait_for_file(started)
        lab.client("ec2").terminate_instances(InstanceIds=[machine.instance.id])
        sshd.break_connections()
        with pytest.raises(
            MachineError, match=r"instance i-[0-9a-f]+ in eu-west-1 is .*\(while it ran sh -c"
        ):
            running.result()


def test_a_machine_that_was_left_runs_nothing_more(machine: AwsMachine) -> None:
    assert machine.alive()
    machine.disconnect()

    assert not machine.alive()
    with pytest.raises(MachineError, match="machine 01JMACHINE is not running"):
        machine.run(["true"])


def test_stopping_stops_the_instance_and_may_be_repeated(lab: Lab, machine: AwsMachine) -> None:
    machine.stop()
    machine.stop()

    told = lab.client("ec2").describe_instances(InstanceIds=[machine.instance.id])
    assert told["Reservations"][0]["Instances"][0]["State"]["Name"] == "stopped"
    assert not machine.alive()


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3 * MEGABYTE])
def test_files_arrive_whole_with_their_mode(machine: AwsMachine, tmp_path: Path, size: int) -> None:
    data, path = os.urandom(size), tmp_path / "a file with 'quotes'"
    machine.put(io.BytesIO(data), str(path), mode=0o640)

    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o7777 == 0o640
    fetched = io.BytesIO()
    machine.get(str(path), fetched)
    assert fetched.getvalue() == data


def test_a_symbolic_link_is_followed_in_the_machine(machine: AwsMachine, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")

    machine.put(io.BytesIO(b"content"), str(tmp_path / "link"))

    assert (tmp_path / "target").read_bytes() == b"content"
    assert (tmp_path / "link").is_symlink()


def test_files_that_cannot_be_reached_are_explained(machine: AwsMachine, tmp_path: Path) -> None:
    missing = str(tmp_path / "none" / "file")

    with pytest.raises(CommandFailed, match=r"could not be written in 01JMACHINE: .*none/file"):
        machine.put(io.BytesIO(b"x"), missing)
    with pytest.raises(CommandFailed, match=r"could not be read in 01JMACHINE: .*No such file"):
        machine.get(missing, io.BytesIO())


# --- who answers, and who comes -------------------------------------------------------------------


def test_another_host_key_than_ours_ends_it_before_we_say_who_we_are(lab: Lab, sshd: Sshd) -> None:
    expected = replace(sshd.access, host_key=KeyPair.make().public)
    machine = make_machine(lab, expected, seconds=60.0)
    before = sshd.log.read_text()

    with pytest.raises(WrongHostKey) as raised:
        machine.wait_until_reachable()

    assert "root@127.0.0.1 shows another host key than the one it was given: ssh-ed25519" in str(raised.value)
    assert "Nothing was sent to it" in str(raised.value.hint)
    # OpenSSH tells the user's name of whoever says it. Others' connections may still be ending meanwhile.
    said = sshd.log.read_text().removeprefix(before)
    assert "authenticating user" not in said
    assert "Accepted" not in said


def test_a_server_without_a_key_of_our_kind_is_not_ours(lab: Lab, sshd: Sshd) -> None:
    """As one that made its own keys, since cloud-init did not take the user data."""
    other = replace(sshd.access, host_key=sshd.access.host_key.replace("ssh-ed25519", "ecdsa-sha2-nistp256"))

    with pytest.raises(WrongHostKey, match="has no ecdsa-sha2-nistp256 host key"):
        make_machine(lab, other, seconds=60.0).wait_until_reachable()


def test_a_login_that_stays_refused_is_explained_with_the_console(lab: Lab, sshd: Sshd) -> None:
    machine = make_machine(lab, replace(sshd.access, key=KeyPair.make()), seconds=60.0)

    with pytest.raises(MachineError) as raised:
        machine.wait_until_reachable()

    assert f"instance {machine.instance.id} in eu-west-1 does not let root in" in str(raised.value)
    assert f"cloud-init: this is the console of {machine.instance.id}" in str(raised.value)
    assert "ssh_user" in str(raised.value.hint)
    assert isinstance(raised.value.__cause__, LoginRefused)


def test_the_command_for_a_shell_by_hand_works_and_knows_the_host(
    sshd: Sshd, machine: AwsMachine, tmp_path: Path
) -> None:
    assert machine.interactive(["sh", "-c", "exit 3"]) == 3
    argv = write_access(sshd.access, tmp_path / "access")
    assert tmp_path.joinpath("access", "key").stat().st_mode & 0o777 == 0o600
    assert "StrictHostKeyChecking=yes" in argv
