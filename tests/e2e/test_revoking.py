"""Revoking what others are baked from: before, while and after that happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.project import TRIVIAL, Project, make_project

pytestmark = [pytest.mark.machine, pytest.mark.slow, pytest.mark.usefixtures("nothing_left_behind")]

TAKES_A_WHILE = """
from pyinfra.operations import server

server.shell(name="Take a while", commands=["sleep 8"])
"""


@pytest.fixture
def project(tmp_path: Path, shared_home: Path) -> Project:
    project = make_project(tmp_path / "project", shared_home)
    project.environ["BAKER_CATALOG"] = f"sqlite:///{tmp_path}/catalog.db"
    add_recipe(project, "base", "debian:trixie")
    add_recipe(project, "web", "base")
    return project


def add_recipe(project: Project, name: str, source: str) -> None:
    project.recipe(name, toml=f'from = "{source}"\n', deploy=TRIVIAL.replace("made", name))


def revoke(project: Project, reference: str) -> None:
    project.run("image", "revoke", reference, "--reason", "CVE-2026-1", "--yes", "--no-fall-back")


def test_parent_that_is_revoked_during_a_bake_leaves_nothing_registered(project: Project) -> None:
    project.bake("base")
    project.recipe("web", toml='from = "base"\n', deploy=TAKES_A_WHILE)
    process = project.start("bake", "web", "--json")
    with process:
        while not any(bake["stage"] == "configure" for bake in project.json("status")["running"]):
            assert process.poll() is None
        revoke(project, "base:1")
        output, _ = process.communicate(timeout=120)
    (web,) = json.loads(output)["bakes"]
    assert (process.returncode, web["outcome"], web["image"]) == (1, "failed", None)
    assert web["error"].startswith(
        "web cannot be registered: base:1, which it is built upon, was revoked by tester: CVE-2026-1"
    )
    assert [image["reference"] for image in project.json("image", "ls")["images"]] == ["base:1"]


def test_what_is_built_upon_a_revoked_image_is_baked_anew(project: Project) -> None:
    assert [bake["image"] for bake in project.bake()] == ["base:1", "web:1"]
    add_recipe(project, "app", "web:1")
    assert [bake["outcome"] for bake in project.bake("app")] == ["baked"]
    revoke(project, "base:1")

    project.run("run", "base:1", "--", "true", status=2)
    project.run("promote", "base:1", "dev", "--yes", status=2)
    assert "now revoked" in project.run("run", "web:1", "--", "true").stderr
    (app,) = [entry for entry in project.json("plan")["recipes"] if entry["recipe"] == "app"]
    assert app["action"] == "blocked"
    assert "web:1: it is built upon base:1, which was revoked" in app["reasons"][0]["detail"]

    assert [bake["image"] for bake in project.bake("base", "web")] == ["base:2", "web:2"]
    flags = {
        image["reference"]: image["revoked_ancestors"] for image in project.json("image", "ls")["images"]
    }
    assert flags == {"web:2": [], "base:2": [], "app:1": ["base:1"], "web:1": ["base:1"], "base:1": []}
    add_recipe(project, "app", "web:2")
    assert [bake["image"] for bake in project.bake("app")] == ["app:2"]
    plan = project.json("plan")["recipes"]
    assert {entry["recipe"]: entry["action"] for entry in plan} == {
        "app": "skip",
        "base": "skip",
        "web": "skip",
    }
