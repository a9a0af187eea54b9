"""Local bakes against the floor and against buildah, and what else a user waits for.

    python -m bench.local [small|commands|large|jobs|try|growth]…

Without arguments all of them. Needs root and the archive (once: packages are cached in BENCH_HOME).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from baker.providers.local.host import host_resolv_conf
from bench.contestants import Baker, make_buildah, make_floor
from bench.measuring import (
    Run,
    describe_runs,
    median,
    median_ratio,
    print_table,
    run_rounds,
    say,
    write_figures,
)

ROUNDS = max(1, int(os.environ.get("BENCH_ROUNDS", "5")))
HEADER = ("", "time (range)", "processor", "peak memory")
Figures = Mapping[str, object]


def measure_small(baker: Baker) -> Figures:
    """The small recipe, with warm caches."""
    baker.bake("small")
    verifying: list[float] = []

    def bake() -> Run:
        run = baker.bake("small")
        verifying.append(json.loads(run.stdout)["bakes"][0]["stages"]["verify"])
        return run

    contestants = {"baker": bake, "floor": make_floor(baker)}
    if shutil.which("buildah"):
        contestants["buildah"] = make_buildah(baker)
    else:
        say("buildah is not installed: apt-get install buildah; going on without it")
    results = run_rounds(contestants, ROUNDS)
    whole = [run.seconds for run in results["baker"]]
    building = [one - two for one, two in zip(whole, verifying, strict=True)]
    rows = [
        describe_runs("baker bake --force, whole process", results["baker"]),
        ("  of which verify (boot + image test)", f"{median(verifying):.2f} s", "", ""),
        ("  without verify", f"{median(building):.2f} s", "", ""),
    ]
    figures: dict[str, object] = {
        "baker_s": median(building),
        "baker_whole_s": median(whole),
        "verify_s": median(verifying),
        "baker_cpu_s": median([run.cpu for run in results["baker"]]),
        "baker_peak_bytes": max(run.peak for run in results["baker"]),
        "stages": json.loads(results["baker"][-1].stdout)["bakes"][0]["stages"],
    }
    for name in ("floor", "buildah"):
        if name in results:
            seconds = [run.seconds for run in results[name]]
            rows.append(describe_runs(name, results[name]))
            figures[f"{name}_s"] = median(seconds)
            figures[f"{name}_cpu_s"] = median([run.cpu for run in results[name]])
            figures[f"vs_{name}"] = median_ratio(building, seconds)
            figures[f"vs_{name}_with_verify"] = median_ratio(whole, seconds)
    print_table(f"Small recipe: nginx-light, 20 files, a unit ({ROUNDS} rounds)", HEADER, rows)
    for name, aim in (("floor", 1.5), ("buildah", 0.4)):
        if name in results:
            ratio, whole_ratio = figures[f"vs_{name}"], figures[f"vs_{name}_with_verify"]
            print(f"  baker is {ratio:.2f} x {name} (aim {aim}), with its verify stage {whole_ratio:.2f} x")
    return figures


def measure_commands(baker: Baker) -> Figures:
    """What a user runs all day, as whole processes."""
    baker.command("bake", "small")
    contestants = {
        "baker bake, unchanged": lambda: baker.command("bake", "small"),
        "baker image ls": lambda: baker.command("image", "ls"),
        "python -c 'import sqlalchemy'": lambda: baker.python("import sqlalchemy"),
    }
    results = run_rounds(contestants, ROUNDS * 2)
    rows = [describe_runs(name, runs) for name, runs in results.items()]
    print_table(f"Commands ({ROUNDS * 2} rounds, aim 0.3 s)", HEADER, rows)
    unchanged, listed, imported = ([run.seconds for run in runs] for runs in results.values())
    return {
        "unchanged_bake_s": median(unchanged),
        "image_ls_s": median(listed),
        "import_sqlalchemy_s": median(imported),
    }


def measure_large(baker: Baker) -> Figures:
    """nginx and PostgreSQL: 300 MB."""
    baker.bake("large")
    runs = run_rounds({"large": lambda: baker.bake("large")}, max(1, ROUNDS // 2))["large"]
    [image] = json.loads(baker.command("image", "ls", "large", "--json").stdout)["images"][:1]
    size = sum(build["size_bytes"] for build in image["builds"])
    stages = json.loads(runs[-1].stdout)["bakes"][0]["stages"]
    print_table("Large recipe: nginx and PostgreSQL", HEADER, [describe_runs("baker bake --force", runs)])
    print(
        f"  {size / 1e6:.0f} MB compressed; " + ", ".join(f"{name} {sec:.2f}" for name, sec in stages.items())
    )
    return {
        "large_s": median([run.seconds for run in runs]),
        "large_bytes": size,
        "large_peak_bytes": max(run.peak for run in runs),
        "large_stages": stages,
    }


def measure_jobs(baker: Baker) -> Figures:
    """Two independent recipes, one after the other and at once."""
    if not baker.offers("--jobs", "bake"):
        say("skipped: this baker has no bake --jobs")
        return {}
    baker.bake("twin-one", "twin-two")
    contestants = {
        "one after the other": lambda: baker.bake("twin-one", "twin-two", "--jobs", "1"),
        "--jobs 2": lambda: baker.bake("twin-one", "twin-two", "--jobs", "2"),
    }
    results = run_rounds(contestants, max(1, ROUNDS // 2))
    rows = [describe_runs(name, runs) for name, runs in results.items()]
    print_table("Two recipes", HEADER, rows)
    one, two = ([run.seconds for run in runs] for runs in results.values())
    print(f"  --jobs 2 takes {median_ratio(two, one):.2f} x the time")
    return {"serial_s": median(one), "jobs_2_s": median(two), "jobs_2_vs_serial": median_ratio(two, one)}


def measure_try(baker: Baker) -> Figures:
    """From saving a template to its result in the author's loop."""
    if not baker.offers("RECIPE", "try"):
        say("skipped: this baker has no try")
        return {}
    times = baker.edit_and_try("small", "templates/snippet.conf.j2", ROUNDS)
    rows = [("edit to result", f"{median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")]
    print_table(
        f"baker try ({ROUNDS} edits of a template that 20 operations use, aim 3 s)", ("", "time"), rows
    )
    return {"try_edit_to_result_s": median(times)}


def measure_growth(baker: Baker) -> Figures:
    """What a further version adds to BAKER_HOME, against the bytes that changed in it."""
    payload = 16 << 20
    baker.bake("payload")
    rows, figures = [], {}
    changes = (
        ("all of a 16 MB payload", "seed=2", payload),
        ("a note beside it", "note=second", len("second\n")),
    )
    for what, override, changed in changes:
        before = baker.stored_bytes()
        baker.bake("payload", "--set", override)
        added = baker.stored_bytes() - before
        rows.append((what, f"{changed}", f"{added}", f"{added / changed:.2f}" if changed > 1000 else "-"))
        figures[f"growth_{override.partition('=')[0]}"] = {"changed_bytes": changed, "added_bytes": added}
    print_table(
        "Bytes in the store per further version (aim 1.1 x)", ("changed", "bytes", "added", "ratio"), rows
    )
    figures["growth_ratio"] = figures["growth_seed"]["added_bytes"] / payload  # type: ignore[assignment]
    return figures


MEASUREMENTS: Mapping[str, Callable[[Baker], Figures]] = {
    "small": measure_small,
    "commands": measure_commands,
    "large": measure_large,
    "jobs": measure_jobs,
    "try": measure_try,
    "growth": measure_growth,
}


def describe_host() -> dict[str, object]:
    """What the figures were measured on, and with."""

    def first_line(*argv: str) -> str:
        try:
            done = subprocess.run(argv, capture_output=True, text=True)
        except FileNotFoundError:
            return "not installed"
        return (done.stdout or done.stderr).strip().partition("\n")[0]

    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": f"{os.cpu_count()} x {cpu}",
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "systemd-nspawn": first_line("systemd-nspawn", "--version"),
        "mkfs.erofs": first_line("mkfs.erofs", "--version"),
        "pasta": first_line("pasta", "--version"),
        "buildah": first_line("buildah", "--version"),
        "pyinfra": importlib.metadata.version("pyinfra"),
    }


def main() -> None:
    chosen = sys.argv[1:] or list(MEASUREMENTS)
    if unknown := set(chosen) - set(MEASUREMENTS):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}. There are {', '.join(MEASUREMENTS)}")
    if os.geteuid() != 0:
        raise SystemExit("baking needs root: run it with sudo")
    if not host_resolv_conf():
        raise SystemExit("this host has no name server that the floor's machine could reach")
    host = describe_host()
    figures: dict[str, object] = {}
    with Baker.in_scratch_folder() as baker:
        baker.check()
        for name in chosen:
            say(f"{name}:")
            figures.update(MEASUREMENTS[name](baker))
            write_figures({**figures, "host": host})
    print_table("Host", ("", ""), [(name, str(value)) for name, value in host.items()])


if __name__ == "__main__":
    main()
