"""How long it takes to know that there is nothing to do: a thousand recipes, and a night of ten.

    python -m bench.plan [graph|nightly]…

Without arguments both. Needs root and the archive; `nightly` compares with mkosi and Packer where they are
installed (apt-get install mkosi packer). BENCH_ROUNDS (5), BENCH_HOME (keeps what was made), BENCH_JSON.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from baker.catalog import Catalog
from bench.contestants import PATH, PROGRAM, PROXIES
from bench.local import describe_host
from bench.measuring import (
    Run,
    describe_runs,
    median,
    median_ratio,
    print_table,
    run_process,
    run_rounds,
    say,
    write_figures,
)
from bench.plan_data import RECIPES, States, edit_template, fill_catalog, make_nightly_project, make_project
from bench.plan_peers import make_mkosi, make_packer

ROUNDS = max(1, int(os.environ.get("BENCH_ROUNDS", "5")))
HEADER = ("", "time (range)", "processor", "peak memory")
KEPT_VERSIONS = 5
Figures = Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A project and a BAKER_HOME."""

    project: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in PROXIES if name in os.environ}
        for name in ("BAKER_LOCAL_MIRROR", "BAKER_LOCAL_SECURITY_MIRROR", "BAKER_LOCAL_HTTP_PROXY"):
            passed.update({name: os.environ[name]} if name in os.environ else {})
        return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root", "BAKER_HOME": str(self.home), **passed}

    def run(self, *arguments: str) -> Run:
        return run_process([PROGRAM, *arguments], env=self.environment, cwd=self.project)

    def forget(self) -> None:
        """As on a host that has just started: nothing of the project is known, no file is in memory."""
        shutil.rmtree(self.home / "digests", ignore_errors=True)
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")

    def age_indexes(self) -> None:
        """As if all package indexes had been fetched two hours ago."""
        for path in (*self.home.glob("local/apt/*/refreshed"), *self.home.glob("updates/sets/*/fetched")):
            old = path.stat().st_mtime - 7200
            os.utime(path, (old, old))


# --- a thousand recipes ---------------------------------------------------------------------------------


def measure_graph(folder: Path) -> Figures:
    night = prepare_night(folder)
    states = States.of_night(night.home)
    figures: dict[str, object] = {}
    for versions in (1, KEPT_VERSIONS):
        site = prepare_graph(folder, versions, states)
        looking = look_at_packages(site)
        known = site.run("plan", "--json")
        assert '"stale": false' in known.stdout, known.stdout[-3000:]
        contestants = {
            "plan, cold": lambda site=site: (site.forget(), site.run("plan"))[1],
            "plan": lambda site=site: site.run("plan"),
            "plan --json": lambda site=site: site.run("plan", "--json"),
            "python -c 'import sqlalchemy'": lambda site=site: run_process(
                [sys.executable, "-c", "import sqlalchemy"], env=site.environment, cwd=site.project
            ),
        }
        results = run_rounds(contestants, ROUNDS)
        edit_template(site.project)
        edited = {
            "plan, a template edited": lambda site=site: site.run("plan"),
            "plan --since HEAD, a template edited": lambda site=site: site.run("plan", "--since", "HEAD"),
        }
        results |= run_rounds(edited, ROUNDS)
        stale = edited["plan, a template edited"]().stdout.count(" bake ")
        restore_template(site.project)
        rows = [describe_runs(name, runs) for name, runs in results.items()]
        rows.append(("first look at one build's packages", f"{looking:.2f} s", "", ""))
        title = f"{RECIPES} recipes with {versions} version(s) each ({ROUNDS} rounds, aim 1 s warm)"
        print_table(title, HEADER, rows)
        print(f"  {stale} recipes are stale after the edit")
        figures[f"graph_{versions}"] = {
            name: {
                "s": median([run.seconds for run in runs]),
                "cpu_s": median([run.cpu for run in runs]),
                "peak_bytes": max(run.peak for run in runs),
            }
            for name, runs in results.items()
        } | {"first_look_s": looking, "stale_after_edit": stale}
    return figures


def prepare_graph(folder: Path, versions: int, states: States) -> Site:
    """A thousand recipes, all of them baked so many times."""
    site = Site(project=folder / f"graph-{versions}", home=folder / f"graph-home-{versions}")
    if not site.project.exists():
        say(f"writing {RECIPES} recipes and {versions} version(s) of each")
        make_project(site.project)
        fill_catalog(site.project, site.home, versions, site.environment, states)
    return site


def look_at_packages(site: Site) -> float:
    """Seconds that apt's first look at one build takes.

    All recipes here know one of two sets of packages: what one of each came to is copied to the others.
    """
    memos = site.home / "updates" / "builds"
    shutil.rmtree(memos, ignore_errors=True)
    site.run("plan", "root-000")
    [root] = memos.iterdir()
    first, again = (site.run("plan", "app-010") for _ in range(2))
    [child] = set(memos.iterdir()) - {root}
    with Catalog.open(f"sqlite:///{site.home}/catalog.db", actor="bench", read_only=True) as catalog:
        overview = catalog.overview(catalog.recipes())
    for build in overview.usable.values():
        memo = root if build.recipe.startswith("root-") else child
        if memo.stem != build.id:
            shutil.copyfile(memo, memos / f"{build.id}.json")
    return first.seconds - again.seconds


def restore_template(project: Path) -> None:
    run_process(["git", "checkout", "--quiet", "."], env={"PATH": PATH, "HOME": "/root"}, cwd=project)


# --- a night with nothing to do -------------------------------------------------------------------------


def prepare_night(folder: Path) -> Site:
    """Ten recipes, all of them baked."""
    site = Site(project=folder / "night", home=folder / "night-home")
    if not site.project.exists():
        make_nightly_project(site.project)
    say("baking ten recipes")
    site.run("bake", "--jobs", "2")
    return site


def measure_nightly(folder: Path) -> Figures:
    site = prepare_night(folder)

    def nightly() -> Run:
        run = site.run("nightly", "--json")
        assert '"baked"' not in run.stdout.partition('"bakes"')[2].partition("]")[0], run.stdout[-3000:]
        return run

    def fetching() -> Run:
        site.age_indexes()
        return nightly()

    contestants: dict[str, Callable[[], Run]] = {
        "baker nightly, 10 recipes, fetches indexes": fetching,
        "baker nightly, 10 recipes, indexes younger than 1 h": nightly,
    }
    with ExitStack() as stack:
        for name, make in (("mkosi", make_mkosi), ("packer", make_packer)):
            if shutil.which(name) is None:
                say(f"{name} is not installed: going on without it")
            else:
                what, run = stack.enter_context(make(folder))
                contestants[what] = run
        results = run_rounds(contestants, ROUNDS)
    rows = [describe_runs(name, runs) for name, runs in results.items()]
    print_table(f"A night with nothing to do ({ROUNDS} rounds, aim 3 s)", HEADER, rows)
    ours = next(iter(results.values()))
    figures: dict[str, object] = {}
    for (name, runs), key in zip(results.items(), ("nightly", "nightly_fresh", *contestants), strict=False):
        key = key if key.startswith("nightly") else name.partition(" ")[0].partition(",")[0]
        figures[f"{key}_s"] = median([run.seconds for run in runs])
        figures[f"{key}_cpu_s"] = median([run.cpu for run in runs])
        figures[f"{key}_peak_bytes"] = max(run.peak for run in runs)
        if not key.startswith("nightly"):
            ratio = median_ratio([run.seconds for run in ours], [run.seconds for run in runs])
            figures[f"nightly_vs_{key}"] = ratio
            print(f"  a night of ten recipes takes {ratio:.2f} x the time of: {name}")
    return figures


# --- all of it --------------------------------------------------------------------------------------------

MEASUREMENTS: Mapping[str, Callable[[Path], Figures]] = {"graph": measure_graph, "nightly": measure_nightly}


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """The folder that BENCH_HOME names, which is kept; else one that is removed."""
    kept = os.environ.get("BENCH_HOME")
    folder = Path(kept) if kept else Path(tempfile.mkdtemp(prefix="baker-bench-", dir="/var/tmp"))
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    chosen: Sequence[str] = sys.argv[1:] or list(MEASUREMENTS)
    if unknown := set(chosen) - set(MEASUREMENTS):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}. There are {', '.join(MEASUREMENTS)}")
    if os.geteuid() != 0:
        raise SystemExit("baking needs root: run it with sudo")
    host = describe_host()
    figures: dict[str, object] = {}
    with scratch_folder() as folder:
        for name in chosen:
            say(f"{name}:")
            figures.update(MEASUREMENTS[name](folder))
            write_figures({**figures, "host": host})
    print_table("Host", ("", ""), [(name, str(value)) for name, value in host.items()])


if __name__ == "__main__":
    main()
