"""The process of HAProxy: started detached, replaced without a lost request, drained, stopped."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from baker.errors import HostError
from baker.providers.local.balancer.balancing import Balancing, parse_listen, validate
from baker.providers.local.balancer.configuration import (
    Files,
    haproxy_argv,
    read_back,
    render,
    render_frame,
    render_health_map,
    render_traffic_map,
)
from baker.providers.local.balancer.listening import find_listener
from baker.providers.local.balancer.runtime import Runtime
from baker.providers.local.balancer.state import ServerState, read_state
from baker.providers.local.cgroups import enter_cgroups, find_cgroup_roots, remove_cgroup
from baker.providers.local.holder import PATH
from baker.providers.local.host import booted_with_systemd, is_running, wait_for_end
from baker.providers.local.store import publish

NEEDED = (2, 6)
START_SECONDS = 20.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.05


class Balancer:
    """One environment's HAProxy. What is in ``folder`` is all that is needed to start it again; ``cgroup``
    names a control group that nothing else on this host is in.

    Every call is idempotent. Two at once for one folder are for the caller to prevent.
    """

    def __init__(self, folder: Path, *, cgroup: str) -> None:
        self.files = Files(folder=folder)
        self._cgroup = cgroup
        self._runtime = Runtime(self.files.socket)

    def check(self, listen: str) -> None:
        """Raises HostError if HAProxy is missing or too old, or somebody else has the port."""
        require_haproxy()
        address, port = parse_listen(listen)
        current = self.current()
        if current is not None and current.listen == listen and self.alive():
            return
        if listener := find_listener(address, port):
            raise HostError(
                f"port {port} of {listen} is in use by {listener}",
                hint="Stop it, or choose another port: listen in [local] of the environment's file.",
            )

    def current(self) -> Balancing | None:
        """What was applied last, whether HAProxy runs or not. Raises HostError."""
        with contextlib.suppress(FileNotFoundError):
            return read_back(self.files.configuration.read_text())
        return None

    def alive(self) -> bool:
        return self._runtime.pid() is not None

    def pid(self) -> int | None:
        return self._runtime.pid()

    # --- changing ---------------------------------------------------------------------------------

    def apply(self, balancing: Balancing) -> None:
        """Written down, then done; HAProxy is started if it does not run. When this returns, new requests go
        where they are to. Raises UsageError, HostError."""
        validate(balancing)
        self._write(balancing)
        if not self.alive():
            self.start()
        elif self._frame(balancing) != self._running_frame():
            self._launch(balancing, replaces=self._runtime.pid())
        else:
            self._runtime.bring_to(balancing, self.files)

    def start(self) -> None:
        """Start it as it was last written down. Raises HostError."""
        if self.alive():
            return
        balancing = self.current()
        if balancing is None:
            raise HostError(f"there is no {self.files.configuration} to start HAProxy with")
        self._launch(balancing, replaces=None)

    def stop(self) -> None:
        """End it at once, with the connections that it has, and forget what it was to do."""
        pid = self._runtime.pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            wait_for_end([pid], STOP_SECONDS)
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
                wait_for_end([pid], STOP_SECONDS)
        if not booted_with_systemd():
            for folder in (root / self._cgroup for root in find_cgroup_roots().all):
                remove_cgroup(folder)
        for path in (
            self.files.configuration,
            self.files.running,
            self.files.socket,
            self.files.pid,
            self.files.traffic_map,
            self.files.health_map,
        ):
            path.unlink(missing_ok=True)

    def drain(
        self,
        name: str,
        seconds: float,
        pause: Callable[[float], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> int:
        """Send nothing more to a machine and wait, at most so long, until it has finished what it is at.

        Returns how many requests are left. It stays out until an ``apply`` says otherwise. Raises HostError,
        and what ``pause`` raises.
        """
        current = self.current()
        if current is not None and name not in current.sick:
            self.apply(replace(current, sick=current.sick | {name}))
        deadline = clock() + seconds
        while (left := self._sessions(name)) and clock() < deadline:
            pause(POLL_SECONDS)
        return left

    def _sessions(self, name: str) -> int:
        """What it is at, 0 if HAProxy does not run: then nobody is."""
        if not self.alive():
            return 0
        row = self._runtime.rows().get(name)
        return int(row["scur"] or 0) if row else 0

    # --- looking ----------------------------------------------------------------------------------

    def servers(self) -> Sequence[ServerState]:
        """Each machine that it is to know, as it knows it. Raises HostError if it does not run."""
        current = self.current()
        rows = self._runtime.rows()
        if current is None:
            return []
        now = datetime.now(UTC)
        return [
            read_state(server, rows[server.name], current, now)
            for server in current.servers
            if server.name in rows
        ]

    # --- the process ------------------------------------------------------------------------------

    def _write(self, balancing: Balancing) -> None:
        self.files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self.files.configuration, render(balancing, self.files, worker_user()))

    def _frame(self, balancing: Balancing) -> str:
        return render_frame(balancing, self.files, worker_user())

    def _running_frame(self) -> str | None:
        with contextlib.suppress(FileNotFoundError):
            return self.files.running.read_text()
        return None

    def _launch(self, balancing: Balancing, *, replaces: int | None) -> None:
        require_haproxy()
        self.files.socket.parent.mkdir(exist_ok=True, mode=0o700)
        if re.search(r"[\s#\"'\\%]", str(self.files.folder)):
            raise HostError(f"{self.files.folder} cannot be written into HAProxy's configuration")
        write_durably(self.files.traffic_map, render_traffic_map(balancing))
        write_durably(self.files.health_map, render_health_map(balancing))
        checked = _run(haproxy_argv(self.files, check=True))
        if checked.returncode != 0:
            raise HostError(f"HAProxy does not accept {self.files.configuration}: {_alerts(checked.stderr)}")
        self.files.running.unlink(missing_ok=True)
        started = _run(self._in_own_cgroup(haproxy_argv(self.files, replaces=replaces)))
        if started.returncode != 0:
            raise _explain(balancing, _alerts(started.stderr))
        deadline = time.monotonic() + START_SECONDS
        while self._runtime.pid() in (None, replaces):
            if time.monotonic() > deadline:
                raise HostError(f"HAProxy did not answer within {START_SECONDS:.0f} s of its start")
            time.sleep(POLL_SECONDS / 5)
        write_durably(self.files.running, self._frame(balancing))

    def _in_own_cgroup(self, argv: Sequence[str]) -> list[str]:
        """So that it outlives the command, its terminal and its unit."""
        if booted_with_systemd():
            # The process that is being replaced may still be in the scope of before.
            unit = f"{self._cgroup}-{time.time_ns():x}"
            return ["systemd-run", "--scope", "--quiet", "--collect", f"--unit={unit}", "--", *argv]
        folders = [root / self._cgroup for root in find_cgroup_roots().all]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        return [*enter_cgroups(folders), *argv]


def require_haproxy() -> None:
    """Raises HostError if there is none, or one that cannot take machines in while it runs."""
    if shutil.which("haproxy", path=PATH) is None:
        raise HostError("haproxy is not installed", hint="apt-get install haproxy")
    said = _run(["haproxy", "-v"]).stdout
    match = re.search(r"version (\d+)\.(\d+)", said)
    if match and (int(match[1]), int(match[2])) < NEEDED:
        raise HostError(
            f"HAProxy {match[1]}.{match[2]} is too old: machines cannot be checked that join while it runs",
            hint=f"Install HAProxy {NEEDED[0]}.{NEEDED[1]} or newer (Debian 12, Ubuntu 24.04 have it).",
        )


def worker_user() -> str:
    """Who it runs as once it has its sockets."""
    for name in ("haproxy", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise HostError("there is no user haproxy, and no nobody, for HAProxy to run as")


def write_durably(path: Path, text: str) -> None:
    """All of it or what was there before, also after a power cut. For root alone to read."""
    new = path.with_name(f".{path.name}.new")
    new.touch(mode=0o600)
    new.write_text(text)
    publish(new, path, mode=0o600)


def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        env={"PATH": PATH, "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        cwd="/",
        start_new_session=True,
    )


def _alerts(stderr: str) -> str:
    lines = [line.partition(") : ")[2] or line for line in stderr.splitlines() if "[ALERT]" in line]
    return "; ".join(lines)[:1000] or stderr.strip()[-500:] or "it does not say why"


def _explain(balancing: Balancing, said: str) -> HostError:
    address, port = parse_listen(balancing.listen)
    if "in use" in said:
        listener = find_listener(address, port)
        return HostError(
            f"port {port} of {balancing.listen} is in use" + (f" by {listener}" if listener else ""),
            hint="Stop it, or choose another port: listen in [local] of the environment's file.",
        )
    if "ermission" in said and port < 1024:
        return HostError(
            f"port {port} may not be listened on: {said}", hint="Run it as root, or take one >= 1024."
        )
    return HostError(f"HAProxy did not start: {said}")
