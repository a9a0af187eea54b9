"""The shipped recipes, baked for real: what README's walk-through promises."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.project import Project, copy_shipped_project, share_downloads

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Project:
    """base:1 and web:1, baked into a home of their own from the shared packages and bootstraps."""
    folder = tmp_path_factory.mktemp("shipped")
    project = copy_shipped_project(folder / "project", folder / "home")
    share_downloads(shared_home, project.home)
    baked = project.bake()
    assert [(bake["outcome"], bake["image"]) for bake in baked] == [("baked", "base:1"), ("baked", "web:1")]
    seed_packages(project.home, shared_home)
    return project


def seed_packages(source: Path, home: Path) -> None:
    """Downloads are shared between homes, nothing that was made of them."""
    if (source / "local" / "apt").exists():
        apt = home / "local" / "apt"
        shutil.copytree(source / "local" / "apt", apt, dirs_exist_ok=True, copy_function=copy_other)


def copy_other(source: str, target: str) -> None:
    """Packages that were shared already are one file in both homes."""
    if not (Path(target).exists() and Path(target).samefile(source)):
        shutil.copy2(source, target)


def test_second_bake_is_unchanged_and_plan_is_empty(shipped: Project) -> None:
    assert [bake["outcome"] for bake in shipped.bake()] == ["unchanged", "unchanged"]
    assert {entry["action"] for entry in shipped.json("plan")["recipes"]} == {"skip"}
    assert "unchanged web:" in shipped.run("bake", "web").stdout


def test_throwaway_machine_serves_and_is_discarded(shipped: Project) -> None:
    assert shipped.run("run", "web:1", "--", "systemctl", "is-active", "nginx").stdout == "active\n"
    shipped.run("run", "web:1", "--", "rm", "-rf", "/etc/nginx")
    assert shipped.run("run", "web:1", "--", "systemctl", "is-active", "nginx").stdout == "active\n"
    shipped.run("run", "web:1", "--", "sh", "-c", "exit 9", status=9)


def test_image_is_listed_shown_resolved_and_promoted(shipped: Project) -> None:
    listed = {image["reference"]: image for image in shipped.json("image", "ls")["images"]}
    web = listed["web:1"]
    assert (web["status"], web["complete"]) == ("available", True)
    artifact = web["builds"][0]["artifacts"][0]["id"]
    assert shipped.run("image", "resolve", "web:1").stdout == f"{artifact}\n"
    shown = shipped.json("image", "show", "web:1")
    provenance = shown["builds"][0]["provenance"]
    assert provenance["source"] == "base:latest"
    assert provenance["source_digest"] == listed["base:1"]["builds"][0]["digest"]
    assert "file:templates/nginx/site.conf.j2" in provenance["inputs"]
    assert "nginx-light" in {package["name"] for package in shown["builds"][0]["packages"]}
    shipped.run("promote", "web:1", "dev", "--yes", "--reason", "first")
    assert "dev" in shipped.json("image", "show", "web:dev")["channels"]
    assert shipped.json("image", "show", "web:1")["history"][0]["reason"] == "first"


@pytest.mark.slow
def test_same_inputs_give_the_same_digest_in_an_empty_store(shipped: Project, tmp_path: Path) -> None:
    other = copy_shipped_project(tmp_path / "elsewhere", tmp_path / "home")
    seed_packages(shipped.home, other.home)
    other.bake()
    digests = [
        {image["reference"]: image["builds"][0]["digest"] for image in project.json("image", "ls")["images"]}
        for project in (shipped, other)
    ]
    assert {name: digests[0][name] for name in digests[1]} == digests[1]


@pytest.mark.slow
def test_read_template_gives_a_new_version_and_an_unread_one_does_not(shipped: Project) -> None:
    shipped.write("templates/unread.j2", "nobody reads this")
    assert [bake["outcome"] for bake in shipped.bake("web")] == ["unchanged"]
    template = shipped.folder / "templates/nginx/site.conf.j2"
    before = template.read_text()
    template.write_text(f"# edited\n{before}")
    planned = shipped.json("plan", "web")["recipes"][0]
    assert planned["action"] == "bake"
    assert "templates/nginx/site.conf.j2 changed" in planned["reasons"][0]["detail"]
    done = shipped.run("bake", "web")
    assert "web:2" in done.stdout
    assert "against web:1" in done.stdout
    assert (
        shipped.run("run", "web:2", "--", "head", "-1", "/etc/nginx/conf.d/site.conf").stdout == "# edited\n"
    )
    template.write_text(before)
    again = shipped.bake("web")[0]
    assert (again["outcome"], again["image"]) == ("baked", "web:3")
    assert "launch" not in again["stages"]
    listed = {
        image["reference"]: image["builds"][0]["digest"] for image in shipped.json("image", "ls")["images"]
    }
    assert listed["web:3"] == listed["web:1"]
