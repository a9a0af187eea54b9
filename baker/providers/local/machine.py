"""A machine of the local provider: overlay on EROFS layers, booted by systemd-nspawn in private namespaces.

Everything belongs to one process, the *holder*: mounts, loop devices, the network and every process of the
machine end with it, also when this process is killed (`kill -9`).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from baker.errors import CommandFailed, CommandTimeout, MachineError
from baker.providers.local.cgroups import (
    CgroupRoots,
    cgroup_of,
    enter_cgroups,
    find_cgroup_roots,
    kill_cgroups,
    remove_cgroup,
)
from baker.providers.local.host import (
    booted_with_systemd,
    children_of,
    host_resolv_conf,
    nameservers,
    namespace_pids,
)
from baker.providers.protocol import CommandResult, OutputSink

HOLDER = Path(__file__).with_name("holder.sh")
BOOT_SECONDS = 120.0
STOP_SECONDS = 60.0
DRAIN_SECONDS = 1.0
DNS_FORWARD = "169.254.53.53"
SIGRTMIN_POWEROFF = signal.SIGRTMIN + 4
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

QUIET_UNITS = ("ldconfig.service", "systemd-journal-catalog-update.service", "systemd-update-done.service")
"""Units of each boot that would write into the image while it is baked. They have no [Install] section, so
that masking them for this boot changes nothing that a recipe enables or disables. Timers are stopped instead:
they would take apt's lock, or write.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineSpec:
    """How to start a machine. ``cgroup`` names a control group that nothing else on this host is in.

    ``binds`` are (name, host folder, path in the machine): read through, written aside. ``quiet`` keeps
    ``QUIET_UNITS`` and timers from running. A ``detached`` machine outlives this process.
    """

    name: str
    cgroup: str
    folder: Path
    layers: tuple[Path, ...]
    hostname: str
    environment: Mapping[str, str]
    binds: tuple[tuple[str, Path, str], ...] = ()
    quiet: bool = False
    detached: bool = False


class LocalMachine:
    """A running machine. Make one with ``LocalMachine.start``; ``stop`` then ``discard`` end it."""

    def __init__(self, spec: MachineSpec, cgroups: CgroupRoots) -> None:
        self.name = spec.name
        self.spec = spec
        # File systems stamp files by a clock that lags a little.
        self.started = time.time() - 1.0
        self._cgroups = cgroups
        self._holder: subprocess.Popen[bytes] | None = None
        self._holder_inside = 0
        self._leader = 0
        self._commands = 0
        self._lock = threading.Lock()

    @property
    def upper(self) -> Path:
        """What the machine wrote, as an overlay upper directory."""
        return self.spec.folder / "upper"

    @property
    def leader(self) -> int:
        """The host's process id of the machine's init."""
        return self._leader

    # --- starting ---------------------------------------------------------------------------------

    @classmethod
    def start(cls, spec: MachineSpec) -> LocalMachine:
        """Boot it. Raises MachineError with the console's last lines; then nothing is left behind."""
        machine = cls(spec, find_cgroup_roots())
        try:
            machine._spawn_holder()
            machine._wait_for_leader()
            machine._connect_network()
            machine._wait_for_boot()
        except BaseException:
            machine.discard()
            raise
        return machine

    def _spawn_holder(self) -> None:
        spec = self.spec
        for name in ("upper", "work"):
            (spec.folder / name).mkdir(parents=True)
        (spec.folder / "upper").chmod(0o755)
        resolv_conf = host_resolv_conf() or f"nameserver {DNS_FORWARD}\n"
        (spec.folder / "resolv.conf").write_text(resolv_conf)
        binds = "".join(f"{name}\t{source}\t{path}\n" for name, source, path in spec.binds)
        boot = [f"systemd.mask={unit}" for unit in QUIET_UNITS] if spec.quiet else []
        environment = {
            "PATH": PATH,
            "BAKER_MACHINE": str(spec.folder),
            "BAKER_HOSTNAME": spec.hostname,
            "BAKER_NSPAWN": "",
            "BAKER_BOOT": " ".join(boot),
            "BAKER_BINDS": binds,
        }
        holder = [
            *(() if spec.detached else ("setpriv", "--pdeathsig", "KILL")),
            *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
            *("sh", str(HOLDER), *map(str, spec.layers)),
        ]
        with (spec.folder / "console.log").open("wb") as console:
            self._holder = subprocess.Popen(
                self._in_own_cgroup(holder),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd="/",
                start_new_session=True,
            )

    def _in_own_cgroup(self, argv: Sequence[str]) -> list[str]:
        """Two machines in one cgroup would share nspawn's ``payload`` group and wait for one another."""
        if booted_with_systemd():
            scope = ["systemd-run", "--scope", "--quiet", "--collect", f"--unit={self.spec.cgroup}"]
            return [*scope, "--property=Delegate=yes", "--", *argv]
        folders = [root / self.spec.cgroup for root in self._cgroups.all]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        return [*enter_cgroups(folders), *argv]

    def _wait_for_leader(self) -> None:
        assert self._holder is not None
        deadline = time.monotonic() + BOOT_SECONDS
        depth = len(namespace_pids(os.getpid())) + 2
        while time.monotonic() < deadline:
            if self._holder.poll() is not None:
                raise MachineError(f"machine {self.name} did not start: {self._console_tail()}")
            for holder in children_of(self._holder.pid):
                for child in children_of(holder):
                    pids = namespace_pids(child)
                    if len(pids) == depth and pids[-1] == 1:
                        self._holder_inside, self._leader = holder, child
                        (self.spec.folder / "leader").write_text(str(child))
                        return
            time.sleep(0.005)
        raise MachineError(
            f"machine {self.name} did not start in {BOOT_SECONDS:.0f} s: {self._console_tail()}"
        )

    def _connect_network(self) -> None:
        """Outbound network by pasta, which lives and dies in the holder's pid namespace."""
        forward = [] if nameservers(host_resolv_conf()) else ["--dns-forward", DNS_FORWARD]
        pasta = [
            *("pasta", "--quiet", "--config-net", "--no-map-gw", *forward, "--runas", "0"),
            *("-t", "none", "-u", "none", "-T", "none", "-U", "none", "--netns", "machine"),
        ]
        inside = namespace_pids(self._leader)[-2]
        script = f"ip netns attach machine {inside} && exec {shlex.join(pasta)}"
        done = subprocess.run(
            ["nsenter", "-t", str(self._holder_inside), "-m", "-p", "--", "sh", "-c", script],
            env={"PATH": PATH},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode != 0:
            raise MachineError(f"machine {self.name} got no network: {done.stderr.strip()[-500:]}")

    def _wait_for_boot(self) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        state = ""
        while time.monotonic() < deadline:
            done = self.run(["systemctl", "is-system-running", "--wait"], timeout=BOOT_SECONDS)
            state = done.stdout.decode(errors="replace").strip()
            if state in ("running", "degraded"):
                break
            time.sleep(0.02)
        else:
            raise MachineError(
                f"machine {self.name} did not finish booting in {BOOT_SECONDS:.0f} s "
                f"(systemd says {state or 'nothing'}): {self._console_tail()}"
            )
        if self.spec.quiet:
            self.run(["systemctl", "stop", "*.timer"], timeout=BOOT_SECONDS)

    def _console_tail(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            lines = (self.spec.folder / "console.log").read_text(errors="replace").strip().splitlines()
            return " | ".join(lines[-8:]) or "its console is empty"
        return "it has no console"

    # --- using ------------------------------------------------------------------------------------

    def alive(self) -> bool:
        return self._holder is not None and self._holder.poll() is None and bool(namespace_pids(self._leader))

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_output: OutputSink | None = None,
    ) -> CommandResult:
        """See ``Machine.run``. A cgroup for each command, so that a time-out ends all that it started."""
        cgroups = self._make_command_cgroups()
        collected: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        streamed = None if stdin is None or isinstance(stdin, bytes) else stdin
        try:
            with subprocess.Popen(
                [*enter_cgroups(cgroups), *self._enter(argv)],
                env={**self._environment, **(env or {})},
                stdin=subprocess.DEVNULL if stdin is None else (streamed or subprocess.PIPE),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
            ) as process:
                threads = [
                    threading.Thread(
                        target=drain, args=(stream, name, collected[name], on_output), daemon=True
                    )
                    for name, stream in (("stdout", process.stdout), ("stderr", process.stderr))
                ]
                if isinstance(stdin, bytes):
                    threads.append(threading.Thread(target=feed, args=(process.stdin, stdin), daemon=True))
                for thread in threads:
                    thread.start()
                try:
                    exit_status = process.wait(timeout)
                except BaseException as error:
                    kill_cgroups(cgroups)
                    process.kill()
                    process.wait()
                    if isinstance(error, subprocess.TimeoutExpired):
                        raise CommandTimeout(
                            f"{shlex.join(argv)[:200]} ran longer than {timeout:g} s"
                        ) from None
                    raise
                # A daemon that the command left behind may hold its pipes open for ever.
                deadline = time.monotonic() + DRAIN_SECONDS
                for thread in threads:
                    thread.join(max(0.0, deadline - time.monotonic()))
        finally:
            self._remove_command_cgroups(cgroups)
        if exit_status != 0 and not self.alive():
            raise MachineError(f"machine {self.name} died while it ran {shlex.join(argv)[:200]}")
        return CommandResult(
            exit_status=exit_status,
            stdout=b"".join(collected["stdout"]),
            stderr=b"".join(collected["stderr"]),
        )

    @property
    def _environment(self) -> dict[str, str]:
        shared = {"PATH": PATH, "HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/sh"}
        return {**shared, "LANG": "C.UTF-8", "TERM": "dumb", **self.spec.environment}

    def _enter(self, argv: Sequence[str]) -> list[str]:
        if not self._leader:
            raise MachineError(f"machine {self.name} is not running")
        return ["nsenter", "-t", str(self._leader), "-a", "-r", "-w", "--", *argv]

    def _make_command_cgroups(self) -> list[Path]:
        with self._lock:
            self._commands += 1
            number = self._commands
        folder = cgroup_of(self._holder_inside, self._cgroups)
        cgroups = [root / f"run-{number}" for root in folder]
        try:
            for cgroup in cgroups:
                cgroup.mkdir()
        except FileNotFoundError:
            raise MachineError(f"machine {self.name} is not running") from None
        return cgroups

    def _remove_command_cgroups(self, cgroups: Sequence[Path]) -> None:
        # Daemons that outlive their command keep the group; it goes with the machine.
        for cgroup in cgroups:
            with contextlib.suppress(OSError):
                cgroup.rmdir()

    def put(self, source: BinaryIO, path: str, *, mode: int = 0o644) -> None:
        script = 'umask 077 && cat >"$1" && chmod "$2" "$1"'
        argv = ["sh", "-c", script, "put", path, f"{mode:o}"]
        try:
            source.fileno()
            done = self.run(argv, stdin=source)
        except OSError:
            done = self.run(argv, stdin=source.read())
        self._require_success(done, f"{path} could not be written in {self.name}")

    def get(self, path: str, destination: BinaryIO) -> None:
        done = self.run(["cat", "--", path])
        self._require_success(done, f"{path} could not be read in {self.name}")
        destination.write(done.stdout)

    @staticmethod
    def _require_success(done: CommandResult, what: str) -> None:
        if done.exit_status != 0:
            stderr = done.stderr.decode(errors="replace").strip()
            raise CommandFailed(f"{what}: {stderr}", exit_status=done.exit_status, stderr_tail=stderr)

    def interactive(self, argv: Sequence[str]) -> int:
        cgroups = self._make_command_cgroups()
        environment = {**self._environment, "TERM": os.environ.get("TERM", "dumb")}
        try:
            return subprocess.run(
                [*enter_cgroups(cgroups), *self._enter(argv)], env=environment, cwd="/"
            ).returncode
        finally:
            kill_cgroups(cgroups)
            self._remove_command_cgroups(cgroups)

    # --- ending -----------------------------------------------------------------------------------

    def stop(self) -> None:
        if self._holder is None or self._holder.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._leader, SIGRTMIN_POWEROFF)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._holder.wait(STOP_SECONDS)
        self._kill()

    def _kill(self) -> None:
        """End the holder, and with it everything: SIGKILL, since unshare blocks the gentle signals."""
        if self._holder is None:
            return
        folders = [root / self.spec.cgroup for root in self._cgroups.all]
        if booted_with_systemd():
            folders = cgroup_of(self._holder_inside or self._holder.pid, self._cgroups)
        self._holder.kill()
        self._holder.wait()
        for folder in folders:
            remove_cgroup(folder)

    def discard(self) -> None:
        """Remove the machine and what it wrote. Idempotent; never follows a link out of the folder."""
        self._kill()
        remove_machine_folder(self.spec.folder)


def remove_machine_folder(folder: Path) -> None:
    """Delete a machine's folder; overlay's work folders are mode 000, links are never followed."""
    if folder.exists():
        shutil.rmtree(folder)


def drain(stream: IO[bytes], name: str, collected: list[bytes], on_output: OutputSink | None) -> None:
    """Read a command's output to its end."""
    with contextlib.suppress(OSError, ValueError):
        while chunk := os.read(stream.fileno(), 65536):
            collected.append(chunk)
            if on_output is not None:
                on_output(name, chunk)


def feed(stream: IO[bytes], data: bytes) -> None:
    """Write a command's input; it may stop reading early."""
    with contextlib.suppress(OSError, ValueError), stream:
        stream.write(data)
