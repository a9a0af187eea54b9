"""An EC2 instance as a Machine: commands as root over one verified SSH connection."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from baker.errors import CloudError, CommandTimeout, Interrupted, MachineError
from baker.providers.aws.instances import (
    Instance,
    describe_instance,
    read_console_tail,
    require_running,
    stop_instance,
)
from baker.providers.aws.session import AwsSession
from baker.providers.aws.ssh import (
    Access,
    ConnectionLost,
    Flooded,
    LoginRefused,
    SshConnection,
    TimedOut,
    Unreachable,
    describe_command,
    describe_known_hosts,
)
from baker.providers.protocol import CommandResult, OutputSink
from baker.providers.transfer import get_argv, put_argv, require_done

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {
    "PATH": PATH,
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/sh",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}
COOKIE = "BAKER_COMMAND"
"""Marks in the environment whatever a command starts, so that a time-out ends all of it."""

MAX_OUTPUT = 256 << 20
SHOWN = 200
"""Characters of a command in a message."""

RETRY_SECONDS = 0.5
LOGIN_SECONDS = 60.0
"""How long an instance that answers may go on refusing our key: cloud-init may still be at it."""

LOOK_SECONDS = 30.0
"""How often is asked, while nothing answers, whether the instance still runs."""

KILL = """
for round in 1 2 3; do
    found=
    for file in /proc/[0-9]*/environ; do
        grep -qszx "$1" "$file" || continue
        pid=${file%/environ}
        kill -9 "${pid#/proc/}" 2>/dev/null && found=1
    done
    [ -n "$found" ] || exit 0
done
"""

AS_ROOT = """cd / && exec sudo -n -- sh -c 'IFS= read -r line && eval "$(printf %b "$line")"'"""
"""Runs as root the command line that is the first line of its input, and gives it the rest.

sudo writes what it is given into the system's log, and what sealing deletes there stays in free blocks of
the snapshot: a recipe's secrets may be in its commands.
"""


class AwsMachine:
    """A running instance. ``wait_until_reachable`` comes first; ``cancel`` ends what is waited for."""

    def __init__(
        self,
        name: str,
        recipe: str,
        instance: Instance,
        access: Access,
        aws: AwsSession,
        *,
        ssh_seconds: float,
        cancel: threading.Event,
    ) -> None:
        self.name = name
        self.recipe = recipe
        self.instance = instance
        self.access = access
        self.cancel = cancel
        self._aws = aws
        self._ssh_seconds = ssh_seconds
        self._connection: SshConnection | None = None
        self._boot = ""
        self._lock = threading.RLock()
        self._stopped = False

    # --- connecting -------------------------------------------------------------------------------

    def wait_until_reachable(self) -> None:
        """Raises MachineError with the console's tail, WrongHostKey at once, Interrupted."""
        with self._lock:
            deadline = time.monotonic() + self._ssh_seconds
            refused_until = None
            looked = time.monotonic()
            while True:
                try:
                    self._connection = SshConnection.open(self.access)
                    break
                except LoginRefused as error:
                    refused_until = refused_until or time.monotonic() + LOGIN_SECONDS
                    if time.monotonic() > min(refused_until, deadline):
                        raise self._explain_login(error) from error
                    last: MachineError = error
                except Unreachable as error:
                    last = error
                now = time.monotonic()
                if now > deadline:
                    raise self._explain_silence(last) from last
                if now - looked > LOOK_SECONDS:
                    looked = now
                    self.require_running()
                if self.cancel.wait(RETRY_SECONDS):
                    raise Interrupted("interrupted")
            self._require_root()

    def _require_root(self) -> None:
        command, stdin = self._command(["cat", "/proc/sys/kernel/random/boot_id"], {})
        done = self._connected().run(command, stdin=stdin, timeout=60.0)
        if done.exit_status != 0:
            said = done.stderr.decode(errors="replace").strip() or "it says nothing"
            raise MachineError(
                f"{self.access.user} may not become root on instance {self.instance.id} "
                f"in {self.instance.region}: {said}",
                hint="ssh_user in [aws] must be root, or a user who may use sudo without a password.",
            )
        self._boot = done.stdout.decode().strip()

    def require_running(self) -> None:
        """Raises MachineReclaimed, or MachineError with AWS's reason, if the instance ends or has ended."""
        require_running(
            describe_instance(self._aws, self.instance.region, self.instance.id), self.instance.region
        )

    def _explain_silence(self, last: MachineError) -> MachineError:
        tail = read_console_tail(self._aws, self.instance.region, self.instance.id)
        return MachineError(
            f"instance {self.instance.id} in {self.instance.region} did not answer by SSH within "
            f"{self._ssh_seconds:.0f} s ({last})\nthe end of its console:\n{tail}",
            hint="Check subnet, address and open_to in [aws] (is there a way to it from here?), or raise "
            "ssh_timeout.",
        )

    def _explain_login(self, error: LoginRefused) -> MachineError:
        tail = read_console_tail(self._aws, self.instance.region, self.instance.id)
        return MachineError(
            f"instance {self.instance.id} in {self.instance.region} does not let {self.access.user} in "
            f"({error})\nthe end of its console:\n{tail}",
            hint="Set ssh_user in [aws] to the AMI's own user (admin, ubuntu, ec2-user, …).",
        )

    def _connected(self) -> SshConnection:
        """The connection, made again where it broke (the machine may have rebooted)."""
        with self._lock:
            if self._stopped:
                raise MachineError(f"machine {self.name} is not running")
            if self._connection is None or not self._connection.is_open:
                self.require_running()
                self._connection = None
                self.wait_until_reachable()
            assert self._connection is not None
            return self._connection

    # --- using ------------------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_output: OutputSink | None = None,
    ) -> CommandResult:
        """See ``Machine.run``. The status is -1 if the machine rebooted under the command."""
        connection = self._connected()
        cookie = f"{COOKIE}={secrets.token_hex(8)}"
        command, told = self._command(argv, {**(env or {}), COOKIE: cookie.partition("=")[2]})
        shown = shorten_command(argv)
        try:
            done = connection.run(
                command,
                stdin=told + stdin if told and stdin else told or stdin,
                timeout=timeout,
                on_output=on_output,
                limit=MAX_OUTPUT,
                cancel=self.cancel,
            )
        except TimedOut:
            self._kill(cookie)
            raise CommandTimeout(f"{shown} ran longer than {timeout:g} s") from None
        except Flooded:
            self._kill(cookie)
            raise MachineError(
                f"{shown} printed more than {MAX_OUTPUT >> 20} MiB",
                hint="Redirect its output to a file in the machine.",
            ) from None
        except ConnectionLost as error:
            return self._explain_break(shown, error)
        except BaseException:
            with contextlib.suppress(MachineError):
                self._kill(cookie)
            raise
        if done.exit_status is None:
            if not connection.is_open:
                return self._explain_break(shown, ConnectionLost("the SSH connection ended"))
            return CommandResult(exit_status=-9, stdout=done.stdout, stderr=done.stderr)  # a signal ended it
        return CommandResult(exit_status=done.exit_status, stdout=done.stdout, stderr=done.stderr)

    def _command(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[str, bytes]:
        """What runs ``argv`` as root, in the environment that local machines give too: a command line, and
        what its input begins with."""
        line = f"exec {shlex.join(describe_environment(env) + list(argv))}"
        if self.access.user == "root":
            return f"cd / && {line}", b""
        return AS_ROOT, write_line(line)

    def _kill(self, cookie: str) -> None:
        """End everything that carries a cookie. Raises MachineError if that cannot be told."""
        argv = ["sh", "-c", KILL, "kill", cookie]
        try:
            command, stdin = self._command(argv, {})
            self._connected().run(command, stdin=stdin, timeout=60.0)
        except (ConnectionLost, TimedOut) as error:
            raise MachineError(f"machine {self.name} does not answer any more") from error

    def _explain_break(self, shown: str, error: ConnectionLost) -> CommandResult:
        """A reboot ends a command, as a signal does. Raises MachineError for anything else."""
        before = self._boot
        try:
            self._connected()
        except MachineError as why:
            why.args = (f"{why} (while it ran {shown})",)
            raise
        if self._boot == before:
            raise MachineError(f"machine {self.name}: {error} while it ran {shown}", passing=True) from error
        return CommandResult(exit_status=-1, stdout=b"", stderr=b"")

    def put(self, source: BinaryIO, path: str, *, mode: int = 0o644) -> None:
        done = self.run(put_argv(path, mode), stdin=source.read())
        require_done(done, f"{path} could not be written in {self.name}")

    def get(self, path: str, destination: BinaryIO) -> None:
        done = require_done(self.run(get_argv(path)), f"{path} could not be read in {self.name}")
        destination.write(done.stdout)

    def alive(self) -> bool:
        return not self._stopped and self._connection is not None and self._connection.is_open

    def interactive(self, argv: Sequence[str]) -> int:
        words = describe_environment({"TERM": "xterm"}) + list(argv)
        if self.access.user != "root":
            words = ["sudo", "-n", "--", *words]
        with tempfile.TemporaryDirectory(prefix="baker-ssh-") as folder:
            command = write_access(self.access, Path(folder), f"cd / && exec {shlex.join(words)}")
            return subprocess.run(command).returncode

    # --- ending -----------------------------------------------------------------------------------

    def stop(self) -> None:
        if not self._stopped:
            self.disconnect()
            with contextlib.suppress(CloudError):
                stop_instance(self._aws, self.instance, None)

    def disconnect(self) -> None:
        """Nothing reaches it through this object any more. Idempotent."""
        self._stopped = True
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def shorten_command(argv: Sequence[str]) -> str:
    """For a message. Cut between words: a part of a secret would not be known as one."""
    text = shlex.join(argv)
    return text if len(text) <= SHOWN else f"{text[:SHOWN].rpartition(' ')[0]} …"


def describe_environment(env: Mapping[str, str]) -> list[str]:
    """The words before a command that give it this environment and nothing else."""
    return ["env", "-i", *(f"{key}={value}" for key, value in {**ENVIRONMENT, **env}.items())]


def write_line(command: str) -> bytes:
    """A command line as AS_ROOT reads it: one line, whatever is in it."""
    return command.replace("\\", "\\\\").replace("\n", "\\n").encode(errors="surrogateescape") + b"\n"


def write_access(access: Access, folder: Path, remote: str = "") -> list[str]:
    """Write key and known hosts into ``folder`` and return the ssh command that uses them."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key, hosts = folder / "key", folder / "known_hosts"
    key.touch(mode=0o600)
    key.write_text(access.key.private)
    hosts.write_text(describe_known_hosts(access))
    return describe_command(access, str(key), str(hosts), remote)
