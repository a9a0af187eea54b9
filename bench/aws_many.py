"""Measures many bakes for aws at once, on the lab without machines: `make bench-aws-many`.

Two parts: a hundred bakes while a fifth of all calls is throttled or fails (do all succeed, does anything
leak?), and two hundred at once (what does one of them cost the baker process?). The lab is another process
than the baker that is measured. ``--only faults`` or ``--only load`` takes one part, ``--bakes N`` another
number.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.e2e.aws_site import DEPLOY, RECIPE

HERTZ = os.sysconf("SC_CLK_TCK")
LOOK_SECONDS = 0.05
SHARE = 0.2
AIM_BYTES, AIM_SECONDS = 15 << 20, 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One run. Memory and processor are the baker process's alone, without the sandboxes that it starts;
    ``idle_bytes`` are those of a baker that only plans."""

    bakes: int
    jobs: int
    succeeded: int
    seconds: float
    calls: int
    struck: int
    leaks: int
    cpu_s: float
    peak_bytes: int
    idle_bytes: int

    @property
    def bytes_per_bake(self) -> float:
        return (self.peak_bytes - self.idle_bytes) / self.bakes


def serve_lab(connection: Connection) -> None:
    """In a process of its own: an account, until told to end. Answers what is asked of it."""
    from tests.aws import NO_LATENCY, answer_scripts
    from tests.lab import running_lab

    with running_lab(latency=NO_LATENCY) as lab:
        lab.fleet.answers.append(answer_scripts)  # type: ignore[attr-defined]
        connection.send((lab.settings, lab.environment))
        while (asked := connection.recv()) != "end":
            if asked == "faults":
                lab.faults.share(SHARE)
                connection.send(None)
            else:
                lab.faults.clear()
                calls = [(call.action, bool(call.fault)) for call in lab.calls]
                connection.send((calls, lab.holdings()))
                lab.forget_calls()


def measure(bakes: int, jobs: int, *, faults: bool) -> Measured:
    apart = multiprocessing.get_context("spawn")
    here, there = apart.Pipe()
    lab = apart.Process(target=serve_lab, args=(there,))
    lab.start()
    try:
        settings, environment = here.recv()
        with tempfile.TemporaryDirectory(prefix="baker-many-") as scratch:
            folder = Path(scratch, "project")
            Path(scratch).chmod(0o755)
            write_project(folder, settings, bakes)
            variables = {
                **{key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "BAKER_"))},
                **environment,
                "BAKER_HOME": str(Path(scratch, "home")),
                "BAKER_ACTOR": "bench",
            }
            if faults:
                here.send("faults")
                here.recv()
            run = Run(["bake", "--jobs", str(jobs), "--json"], folder, variables)
            here.send("tell")
            calls, held = here.recv()
            if not run.stdout:
                raise RuntimeError(f"baker ended without a result:\n{run.stderr[-4000:]}")
            done = json.loads(run.stdout)["bakes"]
            for failed in [one for one in done if one["outcome"] != "baked"][:5]:
                print(f"{failed['recipe']}: {failed['error']}", file=sys.stderr)
            idle = Run(["plan", "--json"], folder, variables)
        baked = sum(one["outcome"] == "baked" for one in done)
        kinds = Counter(line.split()[1] for line in held)
        images = kinds.pop("image", 0), kinds.pop("snapshot", 0)
        return Measured(
            bakes=bakes,
            jobs=jobs,
            succeeded=baked,
            seconds=run.seconds,
            calls=len(calls),
            struck=sum(struck for _, struck in calls),
            leaks=kinds.total() + sum(images) - 2 * baked,
            cpu_s=run.cpu_s,
            peak_bytes=run.peak_bytes,
            idle_bytes=idle.peak_bytes,
        )
    finally:
        here.send("end")
        lab.join()


def write_project(folder: Path, settings: str, bakes: int) -> None:
    for number in range(bakes):
        recipe = folder / "recipes" / f"probe{number:03}"
        recipe.mkdir(parents=True)
        (recipe / "recipe.toml").write_text(RECIPE)
        (recipe / "deploy.py").write_text(DEPLOY)
    (folder / "baker.toml").write_text(settings)


class Run:
    """One command, looked at from outside: what its own process has used until it ended."""

    def __init__(self, arguments: Sequence[str], folder: Path, variables: dict[str, str]) -> None:
        self.peak_bytes = 0
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            started = time.monotonic()
            process = subprocess.Popen(
                [Path(sys.executable).with_name("baker"), *arguments],
                cwd=folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
            while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                self.peak_bytes = max(self.peak_bytes, read_peak(process.pid))
                time.sleep(LOOK_SECONDS)
            # One that has ended and was not asked after yet tells its own time, apart from its children's.
            self.cpu_s = read_cpu(process.pid)
            process.wait()
            self.seconds = time.monotonic() - started
            out.seek(0)
            err.seek(0)
            self.stdout, self.stderr = out.read().decode(), err.read().decode()


def read_peak(pid: int) -> int:
    """The most memory that a process has had; 0 for one that has ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def read_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / HERTZ


def describe(measured: Measured) -> dict[str, Any]:
    return {
        **asdict(measured),
        "calls_per_bake": round(measured.calls / measured.bakes, 1),
        "cpu_s_per_bake": round(measured.cpu_s / measured.bakes, 3),
        "bytes_per_bake": round(measured.bytes_per_bake),
    }


def print_faults(measured: Measured) -> None:
    print(
        f"{measured.bakes} bakes, {measured.jobs} at once, {SHARE:.0%} of all calls throttled or failing:\n"
        f"  {measured.succeeded} succeeded in {measured.seconds:.0f} s, {measured.leaks} things leaked\n"
        f"  {measured.calls} calls, {measured.struck} of them struck and repeated\n",
        flush=True,
    )


def print_load(measured: Measured) -> None:
    print(
        f"{measured.bakes} bakes, {measured.jobs} at once, {measured.succeeded} succeeded in "
        f"{measured.seconds:.0f} s; the baker process alone:\n"
        f"  memory     {measured.bytes_per_bake / (1 << 20):.1f} MiB per bake (aim: {AIM_BYTES >> 20}), "
        f"{measured.peak_bytes >> 20} MiB at most, {measured.idle_bytes >> 20} MiB where nothing is baked\n"
        f"  processor  {measured.cpu_s / measured.bakes:.2f} s per bake (aim: {AIM_SECONDS:g})\n"
        f"  calls      {measured.calls / measured.bakes:.1f} per bake\n",
        flush=True,
    )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.aws_many", description=__doc__)
    parser.add_argument("--only", choices=("faults", "load"))
    parser.add_argument("--bakes", type=int)
    chosen = parser.parse_args(arguments)
    figures: dict[str, Any] = {}
    failed = False
    if chosen.only != "load":
        bakes = chosen.bakes or 100
        measured = measure(bakes, min(20, bakes), faults=True)
        print_faults(measured)
        figures["faults"] = describe(measured)
        failed = measured.succeeded < bakes or measured.leaks > 0
    if chosen.only != "faults":
        bakes = chosen.bakes or 200
        measured = measure(bakes, bakes, faults=False)
        print_load(measured)
        figures["load"] = describe(measured)
        failed = failed or measured.succeeded < bakes or measured.leaks > 0
    if file := os.environ.get("BENCH_JSON"):
        Path(file).write_text(json.dumps(figures, indent=2) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
