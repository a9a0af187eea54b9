"""Runs processes and measures them: time, processor time, memory; interleaved rounds, medians, ratios."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of one process: ``cpu`` is user and system seconds of it and all that it waited for.

    ``peak`` is the peak memory of the process alone in bytes, ``peak_child`` that of its largest child.
    """

    seconds: float
    cpu: float
    peak: int
    peak_child: int
    stdout: str


def run_process(argv: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path) -> Run:
    """Run it to its end. Raises SystemExit with what it said if it fails."""
    with (cwd / ".bench-stdout").open("w+b") as out, (cwd / ".bench-stderr").open("w+b") as err:
        started = time.monotonic()
        process = subprocess.Popen(argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        peaks = [0]
        watcher = threading.Thread(target=watch_peak, args=(process.pid, peaks))
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        watcher.join()
        out.seek(0)
        err.seek(0)
        said = out.read().decode(errors="replace")
        if process.returncode != 0:
            complaint = err.read().decode(errors="replace")
            raise SystemExit(
                f"{argv[0]} failed with {process.returncode}:\n{said[-2000:]}\n{complaint[-3000:]}"
            )
    return Run(
        seconds=seconds,
        cpu=usage.ru_utime + usage.ru_stime,
        peak=peaks[0],
        peak_child=usage.ru_maxrss * 1024,
        stdout=said,
    )


def watch_peak(pid: int, peaks: list[int]) -> None:
    """Keep the process's peak resident memory in ``peaks[0]`` until it ends."""
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                peaks[0] = max(peaks[0], int(line.split()[1]) * 1024)
                break
        else:
            return  # it has ended
        time.sleep(0.05)


def run_rounds(contestants: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Each round runs every contestant once, in turn, so that what else the host does hits all alike."""
    results: dict[str, list[Run]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, contest in contestants.items():
            results[name].append(contest())
            say(f"  round {number + 1}/{rounds}: {name} {results[name][-1].seconds:.2f} s")
    return results


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def median_ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios within each round: drift of the host does not matter."""
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def describe_runs(name: str, runs: Sequence[Run]) -> tuple[str, str, str, str]:
    """A row: what, median seconds with the range, median processor seconds, peak memory."""
    seconds = [run.seconds for run in runs]
    spread = f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
    cpu = f"{median([run.cpu for run in runs]):.2f} s"
    return name, spread, cpu, f"{max(run.peak for run in runs) / 1e6:.0f} MB"


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    print(f"\n{title}")
    for row in [header, *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  " + "  ".join(cells).rstrip())


def say(text: str) -> None:
    """Progress; the tables are what counts."""
    os.write(2, f"{text}\n".encode())


def write_figures(figures: Mapping[str, object]) -> None:
    """To the file that BENCH_JSON names, if it is set."""
    if path := os.environ.get("BENCH_JSON"):
        Path(path).write_text(json.dumps(figures, indent=1) + "\n")
