"""Packer and baker make the same AMI on the same lab: time, calls, processor, memory, and what is safe.

    python -m bench.aws [quick|real|security]…

Without arguments all of them. Needs root, the archive, and Packer. BENCH_ROUNDS (5), BENCH_REAL_ROUNDS (2),
BENCH_HOME (keeps the lab's source image), BENCH_JSON.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.aws_contestants import Baker, Build, Packer, build, find_packer, make_folder
from bench.aws_facts import compare_security
from bench.local import describe_host
from bench.measuring import describe_runs, median, median_ratio, print_table, say, write_figures
from tests.lab import Latency, running_lab
from tests.lab.bodies import Bodies
from tests.lab.transitions import REAL

ROUNDS = max(1, int(os.environ.get("BENCH_ROUNDS", "5")))
REAL_ROUNDS = max(1, int(os.environ.get("BENCH_REAL_ROUNDS", "2")))
HEADER = ("", "time (range)", "processor", "peak memory", "largest process", "API calls")
QUICK = Latency()

NAMED_SECONDS = REAL.launch + REAL.ssh + REAL.stop + REAL.image
"""What a real region takes of every contestant: a launch, SSH, a stop, an image."""
BUILDING_SECONDS = NAMED_SECONDS + REAL.terminate
"""With the end of the last instance: both wait for it, since the security group is free only then."""
TESTING_SECONDS = REAL.launch + REAL.ssh
"""And of one that boots what it made."""
AIM = 0.5
Figures = Mapping[str, object]


@contextmanager
def running_contestants(home: Path, latency: Latency) -> Iterator[tuple[Packer, Baker]]:
    """Both on one new lab. Its machines and its server are this process's children and threads: neither is
    in what a contestant is measured by."""
    with running_lab(Bodies(home), latency=latency) as lab:
        folder = Path(tempfile.mkdtemp(prefix="baker-bench-", dir="/var/tmp"))
        try:
            folder.chmod(0o755)
            yield (
                Packer(lab=lab, folder=make_folder(folder / "packer")),
                Baker(lab=lab, folder=make_folder(folder / "baker")),
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def run_pairs(packer: Packer, baker: Baker, rounds: int) -> tuple[list[Build], list[Build]]:
    """Each round has both, one after the other; who is first changes."""
    made: dict[str, list[Build]] = {packer.name: [], baker.name: []}
    for number in range(rounds):
        pair = (packer, baker) if number % 2 == 0 else (baker, packer)
        for contestant in pair:
            one = build(contestant)
            made[contestant.name].append(one)
            say(f"  round {number + 1}/{rounds}: {contestant.name} {one.run.seconds:.1f} s")
    return made[packer.name], made[baker.name]


def measure(packer: Packer, baker: Baker, rounds: int, title: str) -> dict[str, object]:
    """Prints the table; the figures that all latencies have. ``baker_s`` is without its verify stage."""
    packers, bakers = run_pairs(packer, baker, rounds)
    others = [one.run.seconds for one in packers]
    whole = [one.run.seconds for one in bakers]
    building = [one.run.seconds - one.verify for one in bakers]
    calls = median([len(one.calls) for one in bakers])
    building_calls = median([len(one.calls) - one.verify_calls for one in bakers])
    verify = median([one.verify for one in bakers])
    rows = [
        describe("packer build", packers),
        describe("baker bake, whole process", bakers),
        (
            "  of which verify (boot + image test)",
            f"{verify:.1f} s",
            "",
            "",
            "",
            f"{calls - building_calls:g}",
        ),
        ("  without verify, as Packer", f"{median(building):.1f} s", "", "", "", f"{building_calls:g}"),
    ]
    print_table(f"{title} ({rounds} rounds)", HEADER, rows)
    return {
        "packer_s": median(others),
        "baker_s": median(building),
        "baker_whole_s": median(whole),
        "verify_s": verify,
        "ratio": median_ratio(building, others),
        "ratio_with_verify": median_ratio(whole, others),
        "packer_calls": median([len(one.calls) for one in packers]),
        "baker_calls": calls,
        "baker_calls_without_verify": building_calls,
        "packer_cpu_s": median([one.run.cpu for one in packers]),
        "baker_cpu_s": median([one.run.cpu for one in bakers]),
        "packer_peak_bytes": max(one.run.peak for one in packers),
        "baker_peak_bytes": max(one.run.peak for one in bakers),
        "packer_largest_bytes": max(one.run.peak_child for one in packers),
        "baker_largest_bytes": max(one.run.peak_child for one in bakers),
        "stages": {name: median([one.stages[name] for one in bakers]) for name in bakers[0].stages},
        "rounds": [{"packer": one, "baker": two} for one, two in zip(others, whole, strict=True)],
    }


def describe(name: str, builds: Sequence[Build]) -> tuple[str, ...]:
    """As ``describe_runs``, with the largest process and the calls."""
    largest = max(one.run.peak_child for one in builds)
    calls = median([len(one.calls) for one in builds])
    return *describe_runs(name, [one.run for one in builds]), f"{largest / 1e6:.0f} MB", f"{calls:g}"


def print_ratio(figures: Mapping[str, object]) -> None:
    ratio, ratio_whole = figures["ratio"], figures["ratio_with_verify"]
    print(f"  baker takes {ratio:.2f} x Packer's time, {ratio_whole:.2f} x with its verify stage")


def measure_quick(home: Path) -> Figures:
    """AWS that answers at once: what the tools themselves take, and how long they sleep."""
    with running_contestants(home, QUICK) as (packer, baker):
        figures = measure(packer, baker, ROUNDS, "A package, 20 files, a unit; AWS that answers at once")
    print_ratio(figures)
    print("  most of Packer's time is its SDK's default of 15 s between looks")
    return {f"quick_{name}": value for name, value in figures.items()}


def measure_real(home: Path) -> Figures:
    """The latencies of a real region."""
    title = (
        f"A real region's latencies: launch {REAL.launch:g} s, SSH after {REAL.ssh:g} s more, "
        f"stop {REAL.stop:g} s, image {REAL.image:g} s, termination {REAL.terminate:g} s, "
        f"each call {REAL.call:g} s"
    )
    with running_contestants(home, REAL) as (packer, baker):
        first = build(baker)  # it learns how long this region takes, and remembers it in BAKER_HOME
        say(f"  baker's first bake here {first.run.seconds:.1f} s, {len(first.calls)} API calls")
        figures = measure(packer, baker, REAL_ROUNDS, title)
    print_ratio(figures)
    rounds: list[dict[str, float]] = figures["rounds"]  # type: ignore[assignment]
    others = [one["packer"] - BUILDING_SECONDS for one in rounds]
    whole = [one["baker"] - BUILDING_SECONDS - TESTING_SECONDS for one in rounds]
    over, over_whole = median(others), median(whole)
    over_building = float(figures["baker_s"]) - BUILDING_SECONDS  # type: ignore[arg-type]
    ratio, ratio_whole = over_building / over, over_whole / over
    ratio_named = (over_building + REAL.terminate) / (over + REAL.terminate)
    rows = [
        ("packer build", f"{over:.1f} s", ""),
        ("baker without verify", f"{over_building:.1f} s", f"{ratio:.2f} x"),
        (
            f"baker with verify, above {TESTING_SECONDS:g} s more",
            f"{over_whole:.1f} s",
            f"{ratio_whole:.2f} x",
        ),
    ]
    above = f"Time above launch, SSH, stop, image and termination ({BUILDING_SECONDS:g} s; aim {AIM} x)"
    print_table(above, ("", "above", "to Packer"), rows)
    print(f"  with the termination in the time above: {ratio_named:.2f} x")
    print(f"  baker knows how long this region takes; its first bake: {first.run.seconds:.1f} s, with verify")
    return {
        **figures,
        "baker_first_whole_s": first.run.seconds,
        "baker_first_calls": len(first.calls),
        "packer_over_s": over,
        "baker_over_s": over_building,
        "baker_over_with_verify_s": over_whole,
        "over_latency_ratio": ratio,
        "over_latency_ratio_with_verify": ratio_whole,
        "over_latency_ratio_with_termination": ratio_named,
    }


def measure_security(home: Path) -> Figures:
    """What each leaves open, and behind."""
    with running_contestants(home, QUICK) as (packer, baker):
        facts = compare_security(packer, baker)
    rows = [(fact.what, fact.packer, fact.baker) for fact in facts]
    print_table("What was seen", ("", "packer", "baker"), rows)
    return {"security": [{"what": one.what, "packer": one.packer, "baker": one.baker} for one in facts]}


MEASUREMENTS: Mapping[str, Callable[[Path], Figures]] = {
    "quick": measure_quick,
    "real": measure_real,
    "security": measure_security,
}


def main() -> None:
    chosen = sys.argv[1:] or list(MEASUREMENTS)
    if unknown := set(chosen) - set(MEASUREMENTS):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}. There are {', '.join(MEASUREMENTS)}")
    if os.geteuid() != 0:
        raise SystemExit("the lab's machines need root: run it with sudo")
    host = {**describe_host(), "packer": f"{find_packer()}, of 2020 (Debian's newest)"}
    home = Path(os.environ.get("BENCH_HOME", "/var/tmp/baker-lab"))
    figures: dict[str, object] = {}
    for name in chosen:
        say(f"{name}:")
        figures.update(MEASUREMENTS[name](home))
        write_figures({**figures, "host": host})
    print_table("Host", ("", ""), [(name, str(value)) for name, value in host.items()])


if __name__ == "__main__":
    main()
