"""Measures a process with all that it starts, as Packer's plugins and baker's sandbox are."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.measuring import Run

LOOK_SECONDS = 0.1


class Running:
    """A process under way, in a session of its own. What it says goes to files in ``folder``.

    The peak of memory that ``usage`` has is no use here: it begins with the bench's own.
    """

    def __init__(
        self, argv: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, folder: Path
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._said = folder / "stdout"
        self._complained = folder / "stderr"
        self._peaks: dict[int, int] = {}
        self._sum = 0
        self._ended = threading.Event()
        self._started = time.monotonic()
        with self._said.open("wb") as out, self._complained.open("wb") as err:
            self._process = subprocess.Popen(
                argv,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def family(self) -> list[int]:
        """It and its descendants."""
        return find_family(self.pid)

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace") + self._complained.read_text(errors="replace")

    def wait(self) -> tuple[int, Run]:
        """Its exit status, and what it took. ``peak`` is of all at once, ``peak_child`` of the largest."""
        _, status, usage = os.wait4(self.pid, 0)
        seconds = time.monotonic() - self._started
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._ended.set()
        self._watcher.join()
        run = Run(
            seconds=seconds,
            cpu=usage.ru_utime + usage.ru_stime,
            peak=self._sum,
            peak_child=max(self._peaks.values(), default=0),
            stdout=self._said.read_text(errors="replace"),
        )
        return self._process.returncode, run

    def require_success(self) -> Run:
        """Raises SystemExit with what it said if it fails."""
        status, run = self.wait()
        if status != 0:
            raise SystemExit(f"{self._process.args!r} failed with {status}:\n{self.said[-4000:]}")
        return run

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            total = 0
            for pid in self.family():
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                    shares = Path(f"/proc/{pid}/smaps_rollup").read_text()
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue
                self._peaks[pid] = max(self._peaks.get(pid, 0), read_bytes(status, "VmHWM:"))
                total += read_bytes(shares, "Pss:")
            self._sum = max(self._sum, total)


def read_bytes(text: str, name: str) -> int:
    found = next((line for line in text.splitlines() if line.startswith(name)), f"{name} 0 kB")
    return int(found.split()[1]) * 1024


def find_family(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = [pid]
    for one in found:  # grows while it is walked
        found += children.get(one, [])
    return found
