"""How well package updates are foretold: ``python -m bench.updates``.

Recipes are baked from an archive of our own, which then moves on. What `plan` says of each is compared with
what a forced bake of it changes: precision and recall, over packages with their versions.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bench.measuring import print_table, write_figures
from tests.apt_repository import make_key, stop_agents
from tests.e2e.project import make_project
from tests.package_updates import SCENARIOS, Compared, compare, publish_newer, write_project


def measure(folder: Path) -> list[Compared]:
    key = make_key(folder / "key")
    try:
        home = Path(os.environ.get("BENCH_HOME") or folder / "home")
        project = make_project(folder / "project", home)
        project.environ["BAKER_CATALOG"] = f"sqlite:///{folder}/catalog.db"
        write_project(project, [key], SCENARIOS)
        project.bake("--jobs", "2")
        stale = [entry["recipe"] for entry in project.json("plan")["recipes"] if entry["action"] != "skip"]
        assert stale == [], f"stale right after the bake: {stale}"
        publish_newer(project, [key])
        return compare(project, SCENARIOS)
    finally:
        stop_agents(key.parent)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-updates-") as name:
        compared = measure(Path(name))
    right = sum(len(one.foretold & one.happened) for one in compared)
    foretold = sum(len(one.foretold) for one in compared)
    happened = sum(len(one.happened) for one in compared)
    rows = [
        (
            one.scenario.name,
            str(len(one.foretold)),
            str(len(one.happened)),
            ", ".join(map(str, sorted(one.foretold ^ one.happened, key=str))),
        )
        for one in compared
    ]
    figures = {"recipes": len(compared), "precision": right / foretold, "recall": right / happened}
    told = ", ".join(f"{name} {figure:.3g}" for name, figure in figures.items())
    print_table(f"Package updates: {told}", ("recipe", "foretold", "happened", "not the same"), rows)
    write_figures(figures)


if __name__ == "__main__":
    main()
