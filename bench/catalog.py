"""What a large catalog answers, and how long it takes: SQLite and PostgreSQL, 10,000 and 100,000 images.

    python -m bench.catalog [IMAGES]…

Images of 200 recipes with 500 packages each, named as in the newest Debian index of BENCH_HOME/home, else of
BAKER_HOME. A question is asked of BENCH_ROUNDS (20) images in turn, in this process; commands are whole
processes. No peer answers them, so that what is shown is how the time grows.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from baker.catalog import Catalog
from baker.catalog.finding import Scope
from baker.model import Reference
from baker.retention import Retention, decide
from baker.settings import DEFAULT_HOME
from baker.versions import PackageQuestion
from bench.catalog_data import fill, find_lists, read_archive
from bench.contestants import PATH, PROGRAM
from bench.measuring import median, print_table, run_process, say, write_figures
from tests.postgresql import running_server

SIZES = (10_000, 100_000)
ROUNDS = max(1, int(os.environ.get("BENCH_ROUNDS", "20")))
COMMANDS = {
    "image ls RECIPE": ("image", "ls", "{recipe}"),
    "image resolve REF": ("image", "resolve", "{recipe}:prod"),
    "image show REF": ("image", "show", "{recipe}:prod"),
    "image find PACKAGE": ("image", "find", "openssl<3.5.2", "--held"),
    "image diff REF REF": ("image", "diff", "{recipe}:prod", "{recipe}:dev"),
}
AIMS = {"resolve": 5.0, "list one recipe (50 newest)": 20.0, "find by package": 50.0}
"""Milliseconds, in process, on SQLite."""


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]] or list(SIZES)
    kept = os.environ.get("BENCH_HOME")
    home = Path(kept, "home") if kept else Path(os.environ.get("BAKER_HOME", DEFAULT_HOME))
    archive = read_archive(find_lists(home), 4000)
    figures: dict[str, object] = {}
    rows = []
    for size in sizes:
        for engine, start in (("sqlite", sqlite_catalog), ("postgresql", postgresql_catalog)):
            say(f"{engine}: writing {size} images")
            with start() as (url, count_bytes):
                began = time.monotonic()
                fill(url, size, archive=archive)
                seconds = time.monotonic() - began
                per_image = count_bytes() / size
                found = ask(url)
                figures[f"{engine}_{size}"] = {
                    "fill_s": round(seconds, 1),
                    "bytes_per_image": round(per_image),
                    "questions_ms": found,
                    "commands_s": (commands := run_commands(url)),
                }
                rows += [
                    (
                        f"{size:,}",
                        engine,
                        what,
                        f"{middle:.1f} ms",
                        f"{slow:.1f} ms",
                        describe_aim(engine, what),
                    )
                    for what, (middle, slow) in found.items()
                ]
                rows += [
                    (
                        f"{size:,}",
                        engine,
                        what,
                        f"{seconds:.2f} s",
                        "",
                        "0.35 s" if engine == "sqlite" else "",
                    )
                    for what, seconds in commands.items()
                ]
                rows.append((f"{size:,}", engine, "bytes per image", f"{per_image:.0f}", "", ""))
                rows.append((f"{size:,}", engine, "written in bulk", f"{seconds:.0f} s", "", ""))
    print_table(
        f"Catalog of 200 recipes, 500 packages per image ({ROUNDS} rounds)",
        ("images", "engine", "what", "median", "p95", "aim"),
        rows,
    )
    write_figures(figures)


def describe_aim(engine: str, what: str) -> str:
    return f"{AIMS[what]:.0f} ms" if engine == "sqlite" and what in AIMS else ""


@contextmanager
def sqlite_catalog() -> Iterator[tuple[str, Callable[[], int]]]:
    with tempfile.TemporaryDirectory(prefix="baker-bench-", dir="/var/tmp") as folder:
        path = Path(folder, "catalog.db")
        yield f"sqlite:///{path}", lambda: path.stat().st_size


@contextmanager
def postgresql_catalog() -> Iterator[tuple[str, Callable[[], int]]]:
    with running_server() as server:
        url = server.make_database()
        name = url.partition("?")[0].rpartition("/")[2]
        yield url, lambda: int(server.execute(f"SELECT pg_database_size('{name}')")[0][0])


def ask(url: str) -> dict[str, tuple[float, float]]:
    """Milliseconds, median and 95th percentile, by question."""
    chance = random.Random(2)
    retention = Retention(table={"keep_last": 30})
    with Catalog.open(url, actor="bench", read_only=True) as catalog:
        recipes = catalog.recipes()

        def resolve() -> None:
            catalog.resolve(Reference(recipe=chance.choice(recipes), channel="prod"), allow_unusable=True)

        def list_recipe() -> None:
            assert catalog.images(chance.choice(recipes), limit=50)

        def compare() -> None:
            recipe = chance.choice(recipes)
            old, new = (
                catalog.resolve(Reference(recipe=recipe, channel=name), allow_unusable=True).builds[0].id
                for name in ("prod", "dev")
            )
            catalog.compare(old, new)

        def find() -> None:
            name = chance.choice(["openssl", "bash", "curl", "libc6", "nginx"])
            question = PackageQuestion.parse(f"{name}>=0")
            assert catalog.find_package(question, Scope(limit=50)).total

        def draw_tree() -> None:
            image = catalog.resolve(
                Reference(recipe=chance.choice(recipes), channel="prod"), allow_unusable=True
            )
            catalog.family(image.recipe, image.version)

        def plan_prune() -> None:
            decide(catalog.use_of_images(), retention)

        questions = {
            "resolve": resolve,
            "list one recipe (50 newest)": list_recipe,
            "find by package": find,
            "diff": compare,
            "tree": draw_tree,
        }
        found = {what: time_question(question, ROUNDS) for what, question in questions.items()}
        return {**found, "prune plan": time_question(plan_prune, 3)}


def time_question(question: Callable[[], None], rounds: int) -> tuple[float, float]:
    question()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        question()
        times.append((time.perf_counter() - began) * 1000)
    slow = statistics.quantiles(times, n=20, method="inclusive")[-1] if len(times) > 1 else times[0]
    return round(median(times), 2), round(slow, 2)


def run_commands(url: str) -> Mapping[str, float]:
    """Median seconds of whole processes."""
    with tempfile.TemporaryDirectory(prefix="baker-bench-", dir="/var/tmp") as folder:
        environment = {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "HOME": "/root",
            "BAKER_HOME": folder,
            "BAKER_CATALOG": url,
        }
        with Catalog.open(url, actor="bench", read_only=True) as catalog:
            recipe = catalog.recipes()[-1]
        seconds = {}
        for what, words in COMMANDS.items():
            argv = [PROGRAM, *(word.format(recipe=recipe) for word in words)]
            runs = [run_process(argv, env=environment, cwd=Path(folder)) for _ in range(5)]
            seconds[what] = round(median([run.seconds for run in runs]), 3)
        return seconds


if __name__ == "__main__":
    main()
