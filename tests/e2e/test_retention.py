"""image prune, image rm and lease as a user runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from baker.catalog import Catalog
from tests.conftest import require_root
from tests.e2e.project import Project, make_project
from tests.stores import make_store, store_image

RULES = "[retention]\nkeep_last = 1\n"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Its catalog holds base:1, upon it web:1 to web:3, of which prod is the second, and base:2."""
    require_root()
    project = make_project(tmp_path / "project", tmp_path / "home", in_process=True)
    for recipe in ("base", "web"):
        project.recipe(recipe)
    provider = make_store(project.home)
    with Catalog.open(f"sqlite:///{project.home}/catalog.db", actor="ann") as catalog:
        store_image(catalog, provider, "base")
        for _ in range(3):
            store_image(catalog, provider, "web", upon="base:1")
        catalog.promote("web", 2, "prod", expected_revision=None)
        store_image(catalog, provider, "base")
    return project


def test_prune_without_rules_says_how_to_make_some(project: Project) -> None:
    done = project.run("image", "prune", "--yes")
    assert "[retention]" in done.stderr
    assert "keep_last = 5" in done.stderr
    assert "no retention rule for web" in done.stdout
    assert [image["status"] for image in project.json("image", "ls")["images"]] == ["available"] * 5


def test_prune_needs_an_answer_where_nobody_can_be_asked(project: Project) -> None:
    project.write("baker.toml", RULES)
    done = project.run("image", "prune", status=2)
    assert "In a script: --dry-run or --yes" in done.stderr
    project.run("image", "rm", "web:1", status=2)
    project.run("image", "prune", "--dry-run", "--yes", status=2)


def test_prune_says_what_goes_what_stays_and_why(project: Project) -> None:
    project.write("baker.toml", RULES)
    told = project.json("image", "prune", "--dry-run")
    assert {image["reference"]: image["goes"] for image in told["images"]} == {
        "base:2": False,
        "base:1": False,
        "web:3": False,
        "web:2": False,
        "web:1": True,
    }
    reasons = {image["reference"]: [r["kind"] for r in image["reasons"]] for image in told["images"]}
    assert reasons["base:1"] == ["descendant"]
    assert reasons["web:2"] == ["channel"]
    assert reasons["web:1"] == ["retention"]
    assert (told["dry_run"], told["deleted"]) == (True, [])
    assert told["frees_bytes"] > 0
    pruned = project.json("image", "prune", "--yes")
    assert (pruned["deleted"], pruned["skipped"], pruned["failed"]) == (["web:1"], [], [])
    again = project.run("image", "prune", "--yes")
    assert "No image goes" in again.stderr
    assert "nothing is left behind" in project.run("system", "sweep").stdout
    used = project.json("system", "df")["usage"]
    assert [use["files"] for use in used if use["name"] == "unused layers"] == [0]


def test_recipes_of_others_are_left_alone_unless_they_are_named(project: Project) -> None:
    project.write("baker.toml", RULES)
    shutil.rmtree(project.folder / "recipes" / "web")
    done = project.run("image", "prune", "--dry-run")
    assert "web:1" not in done.stdout
    assert "Not of this project, so left alone: web" in done.stderr
    assert "web:1" in project.run("image", "prune", "web", "--dry-run").stdout
    project.write("baker.toml", f"{RULES}[retention.recipes.web]\nkeep_last = 2\n")
    assert "web:1" in project.run("image", "prune", "--dry-run").stdout


def test_prune_of_an_unknown_recipe_is_refused(project: Project) -> None:
    assert "no image of wbe" in project.run("image", "prune", "wbe", "--dry-run", status=2).stderr


def test_leased_image_stays_until_its_lease_is_removed(project: Project) -> None:
    project.write("baker.toml", RULES)
    lease = project.json("lease", "add", "web:1", "--owner", "farm", "--expires", "7d", "--reason", "tests")[
        "lease"
    ]
    assert (lease["image"], lease["owner"], lease["holds"]) == ("web:1", "farm", True)
    assert project.json("image", "prune", "--yes")["deleted"] == []
    refused = project.run("image", "rm", "web:1", "--yes", status=1).stderr
    assert "web:1 is needed: leased by farm until" in refused
    assert [held["id"] for held in project.json("lease", "ls")["leases"]] == [lease["id"]]
    project.run("lease", "rm", lease["id"][:20])
    assert project.json("lease", "ls")["leases"] == []
    assert [held["holds"] for held in project.json("lease", "ls", "--all")["leases"]] == [False]
    assert project.json("image", "rm", "web:1", "--yes", "--reason", "broken")["deleted"] == ["web:1"]
    gone = project.run("image", "resolve", "web:1", status=2).stderr
    assert "web:1 was deleted by tester on" in gone
    assert "(broken)" in gone


@pytest.mark.parametrize("end", ["yesterday", "7", "2020-01-01"])
def test_lease_that_ends_at_no_time_to_come_is_refused(project: Project, end: str) -> None:
    project.run("lease", "add", "web:1", "--owner", "farm", "--expires", end, status=2)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[retention]\nkeep_last = 0\n",
            'baker.toml:2: "retention.keep_last" must be a number of versions, not 0',
        ),
        (
            "[retention]\nkeep_latest = 1\n",
            'unknown key "keep_latest" in [retention] (did you mean "keep_last"?)',
        ),
        (
            '[retention.recipes.web]\nkeep_younger = "30"\n',
            '"retention.recipes.web.keep_younger" must be an age',
        ),
        ("[retention.channels]\nprod = true\n", '"retention.channels.prod" must be a number of versions'),
    ],
)
def test_wrong_rules_are_named_by_file_and_line(project: Project, text: str, problem: str) -> None:
    project.write("baker.toml", text)
    assert problem in project.run("image", "prune", "--dry-run", status=2).stderr
