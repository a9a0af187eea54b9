"""A machine of the local provider: overlay on EROFS layers, booted by systemd-nspawn in private namespaces.

Everything belongs to one process, the *holder*: mounts, loop devices, the network and every process of the
machine end with it, also when this process is killed (`kill -9`).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from baker.errors import CommandTimeout, MachineError
from baker.providers.local.cgroups import (
    CgroupRoots,
    cgroup_of,
    enter_cgroups,
    find_cgroup_roots,
    kill_cgroups,
    remove_cgroup,
    remove_idle_cgroups,
)
from baker.providers.local.holder import (
    DNS_FORWARD,
    PATH,
    MachineSpec,
    holder_argv,
    holder_environment,
    network_argv,
)
from baker.providers.local.host import (
    booted_with_systemd,
    children_of,
    descendants_of,
    entering_argv,
    has_own_network,
    host_resolv_conf,
    is_running,
    namespace_pids,
    remove_folder,
    wait_for_end,
    wait_for_exit,
)
from baker.providers.local.limits import find_reached_limit, make_limited_groups, systemd_properties
from baker.providers.local.output import MAX_OUTPUT, Output, feed
from baker.providers.protocol import CommandResult, OutputSink
from baker.providers.transfer import get_argv, put_argv, require_done

BOOT_SECONDS = 120.0
STOP_SECONDS = 60.0
DRAIN_SECONDS = 1.0
LIMIT_HINT = "Raise {} in [local] of baker.toml, or in [targets.local] of the recipe."
SIGRTMIN_POWEROFF = signal.SIGRTMIN + 4


class LocalMachine:
    """A running machine. Make one with ``LocalMachine.start``; ``stop`` then ``discard`` end it."""

    def __init__(self, spec: MachineSpec, cgroups: CgroupRoots) -> None:
        self.name = spec.name
        self.spec = spec
        # File systems stamp files by a clock that lags a little.
        self.started = time.time() - 1.0
        self._cgroups = cgroups
        self._limited: list[Path] = []
        self._holder: subprocess.Popen[bytes] | None = None
        self._holder_inside = 0
        self._leader = 0
        self._commands = 0
        self._lock = threading.Lock()
        self._rebooting = threading.RLock()

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
        with (spec.folder / "console.log").open("wb") as console:
            self._holder = subprocess.Popen(
                self._in_own_cgroup(holder_argv(spec)),
                env=holder_environment(spec),
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
            scope += systemd_properties(self.spec.limits)
            return [*scope, "--property=Delegate=yes", "--", *argv]
        folders = [root / self.spec.cgroup for root in self._cgroups.all]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        self._limited = make_limited_groups(self.spec.cgroup, self.spec.limits, self._cgroups)
        return [*enter_cgroups([*folders, *self._own_hierarchies()]), *argv]

    def _own_hierarchies(self) -> list[Path]:
        """The limited groups of cgroup 1; in cgroup 2 they are above the group that a command is in."""
        return [group for group in self._limited if group.parent not in self._cgroups.all]

    def _wait_for_leader(self) -> None:
        assert self._holder is not None
        deadline = time.monotonic() + BOOT_SECONDS
        depth = len(namespace_pids(os.getpid())) + 2
        while time.monotonic() < deadline:
            if self._holder.poll() is not None:
                raise MachineError(f"machine {self.name} did not start: {self._console_tail()}")
            for holder in children_of(self._holder.pid):
                for child in descendants_of(holder):
                    pids = namespace_pids(child)
                    is_init = len(pids) == depth and pids[-1] == 1 and child != self._leader
                    if is_init and has_own_network(child):
                        self._holder_inside, self._leader = holder, child
                        (self.spec.folder / "leader").write_text(str(child))
                        return
            time.sleep(0.005)
        raise MachineError(
            f"machine {self.name} did not start in {BOOT_SECONDS:.0f} s: {self._console_tail()}"
        )

    def _connect_network(self) -> None:
        """Outbound network by pasta, which lives and dies in the holder's pid namespace."""
        if not self.spec.network:
            return
        inside = namespace_pids(self._leader)[-2]
        script = f"ip netns attach machine {inside} && exec {shlex.join(network_argv(self.spec))}"
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

    def _follow_reboot(self) -> bool:
        """Wait until a machine that is rebooting has booted; False if it is not. Raises MachineError."""
        with self._rebooting:
            if self._holder is None or not self._leader or is_running(self._leader):
                return False
            try:
                self._wait_for_leader()
            except MachineError as error:
                raise MachineError(f"machine {self.name} died") from error
            self._connect_network()
            self._wait_for_boot()
            return True

    def _console_tail(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            lines = (self.spec.folder / "console.log").read_text(errors="replace").strip().splitlines()
            return " | ".join(lines[-8:]) or "its console is empty"
        return "it has no console"

    # --- using ------------------------------------------------------------------------------------

    def alive(self) -> bool:
        return self._holder is not None and self._holder.poll() is None and is_running(self._leader)

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
        self._follow_reboot()
        cgroups = self._make_command_cgroups()
        output = Output(on_output, on_flood=lambda: kill_cgroups(cgroups))
        streamed = None if stdin is None or isinstance(stdin, bytes) else stdin
        try:
            with subprocess.Popen(
                [*enter_cgroups([*cgroups, *self._own_hierarchies()]), *self._enter(argv)],
                env={**self._environment, **(env or {})},
                stdin=subprocess.DEVNULL if stdin is None else (streamed or subprocess.PIPE),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
            ) as process:
                threads = [
                    threading.Thread(target=output.drain, args=(stream, name), daemon=True)
                    for name, stream in (("stdout", process.stdout), ("stderr", process.stderr))
                ]
                if isinstance(stdin, bytes):
                    threads.append(threading.Thread(target=feed, args=(process.stdin, stdin), daemon=True))
                for thread in threads:
                    thread.start()
                try:
                    exit_status = wait_for_exit(process, timeout)
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
            if output.flooded:
                raise MachineError(
                    f"{shlex.join(argv)[:200]} printed more than {MAX_OUTPUT >> 20} MiB",
                    hint="Redirect its output to a file in the machine.",
                )
            if exit_status != 0:
                exit_status = self._explain_failure(argv, exit_status)
        finally:
            remove_idle_cgroups(cgroups)
        return CommandResult(
            exit_status=exit_status, stdout=output.whole("stdout"), stderr=output.whole("stderr")
        )

    def _explain_failure(self, argv: Sequence[str], exit_status: int) -> int:
        """The exit status of a command that failed by itself; -1 if the machine rebooted under it.

        Raises MachineError if the machine is why it failed.
        """
        what = f"while it ran {shlex.join(argv)[:200]}"
        reached = find_reached_limit(self._limited or cgroup_of(self._holder_inside, self._cgroups))
        if reached is not None:
            limit = self.spec.limits.describe(reached)
            raise MachineError(f"machine {self.name} reached {limit} {what}", hint=LIMIT_HINT.format(reached))
        if exit_status == -signal.SIGKILL:
            wait_for_end([self._leader], DRAIN_SECONDS)
        if self.alive():
            return exit_status
        try:
            self._follow_reboot()
        except MachineError as error:
            raise MachineError(f"machine {self.name} died {what}") from error
        return -1

    def require_sound(self) -> None:
        """Raises MachineError if it is not running, or ran into a limit: what is in it may be half done."""
        self._follow_reboot()
        if not self.alive():
            raise MachineError(
                f"machine {self.name} does not run any more: the recipe switched it off, or its init died"
            )
        if reached := find_reached_limit(self._limited or cgroup_of(self._holder_inside, self._cgroups)):
            raise MachineError(
                f"machine {self.name} reached {self.spec.limits.describe(reached)}",
                hint=LIMIT_HINT.format(reached),
            )

    @property
    def _environment(self) -> dict[str, str]:
        shared = {"PATH": PATH, "HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/sh"}
        return {**shared, "LANG": "C.UTF-8", "TERM": "dumb", **self.spec.environment}

    def _enter(self, argv: Sequence[str]) -> list[str]:
        try:
            return [*entering_argv(self._leader), *argv]
        except OSError:
            raise MachineError(f"machine {self.name} is not running") from None

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

    def put(self, source: BinaryIO, path: str, *, mode: int = 0o644) -> None:
        argv = put_argv(path, mode)
        try:
            source.fileno()
            done = self.run(argv, stdin=source)
        except OSError:
            done = self.run(argv, stdin=source.read())
        require_done(done, f"{path} could not be written in {self.name}")

    def get(self, path: str, destination: BinaryIO) -> None:
        done = require_done(self.run(get_argv(path)), f"{path} could not be read in {self.name}")
        destination.write(done.stdout)

    def interactive(self, argv: Sequence[str]) -> int:
        cgroups = self._make_command_cgroups()
        environment = {**self._environment, "TERM": os.environ.get("TERM", "dumb")}
        try:
            return subprocess.run(
                [*enter_cgroups([*cgroups, *self._own_hierarchies()]), *self._enter(argv)],
                env=environment,
                cwd="/",
            ).returncode
        finally:
            kill_cgroups(cgroups)
            remove_idle_cgroups(cgroups)

    # --- ending -----------------------------------------------------------------------------------

    def stop(self) -> None:
        if self._holder is None or self._holder.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._leader, SIGRTMIN_POWEROFF)
            with contextlib.suppress(subprocess.TimeoutExpired):
                wait_for_exit(self._holder, STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the holder, and with it everything: SIGKILL, since unshare blocks the gentle signals."""
        if self._holder is None:
            return
        folders = [root / self.spec.cgroup for root in self._cgroups.all]
        if booted_with_systemd():
            folders = cgroup_of(self._holder_inside or self._holder.pid, self._cgroups)
        # Mounts and loop devices go with the last process of the namespace, a moment after unshare.
        inside = children_of(self._holder.pid)
        self._holder.kill()
        self._holder.wait()
        wait_for_end(inside, STOP_SECONDS)
        for folder in {*folders, *self._limited}:
            remove_cgroup(folder)

    def discard(self) -> None:
        """Remove the machine and what it wrote. Idempotent; never follows a link out of the folder."""
        self.kill()
        remove_folder(self.spec.folder)
