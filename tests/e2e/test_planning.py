"""What `plan` says to people and programs, and `bake` going on after it was interrupted."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.project import Project, make_project, share_downloads

pytestmark = pytest.mark.machine

SLOW = """
from pyinfra.operations import files, server

files.directory(name="Make a folder", path="/srv/slow")
server.shell(name="Take its time", commands=["sleep 60"])
"""
QUICK = SLOW.replace("sleep 60", "true")


@pytest.fixture
def project(tmp_path: Path, shared_home: Path) -> Project:
    share_downloads(shared_home, tmp_path / "home")
    project = make_project(tmp_path / "project", tmp_path / "home")
    project.recipe("base")
    project.recipe("web", toml='from = "base"\n')
    return project


def test_plan_says_what_why_and_how_urgent_to_people_and_programs(project: Project) -> None:
    assert project.run("plan", "--check", status=3).stdout.splitlines()[1].startswith("base    local/")
    planned = project.json("plan", "--graph")
    assert planned["stale"] is True
    assert [(one["recipe"], one["source"], one["action"]) for one in planned["recipes"]] == [
        ("base", "debian:trixie", "bake"),
        ("web", "base", "bake"),
    ]
    drawn = project.run("plan", "--graph").stdout.splitlines()
    assert [line.split()[-2:] for line in drawn[1:]] == [["base", "bake"], ["web", "bake"]]
    assert project.run("plan", "--graph", "--markdown").stdout.startswith("```mermaid\nflowchart")
    said = project.run("plan", "--markdown", "--json", status=2).stderr
    assert "do not go together" in said


def test_interrupted_run_goes_on_with_what_was_asked_for(project: Project) -> None:
    assert "there is no catalog" in project.run("bake", "--resume", status=1).stderr
    project.bake()
    assert project.run("plan", "--check").returncode == 0
    assert project.json("plan")["stale"] is False
    assert "there is nothing to resume" in project.run("bake", "--resume", status=2).stderr
    project.write("recipes/web/deploy.py", SLOW)
    with project.start("bake", "--force", "--set", "colour=blue") as process:
        wait_for(project, "web")
        assert "still goes on" in project.run("bake", "--resume", status=1).stderr
        os.kill(process.pid, signal.SIGKILL)
    project.write("recipes/web/deploy.py", QUICK)
    said = project.run("bake", "--resume", "--force", status=2).stderr
    assert "leave out the rest" in said
    ended = {one["recipe"]: one["outcome"] for one in project.bake("--resume")}
    assert ended == {"base": "unchanged", "web": "baked"}, "base was baked before the interruption"
    assert project.json("image", "show", "base")["reference"] == "base:2"
    assert project.json("plan", "--set", "colour=blue")["stale"] is False
    assert "there is nothing to resume" in project.run("bake", "--resume", status=2).stderr


def wait_for(project: Project, recipe: str) -> None:
    """Until the recipe is at work on its build instance."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        running = project.json("status")["running"]
        if [one["stage"] for one in running if one["recipe"] == recipe] == ["configure"]:
            return
        time.sleep(0.1)
    raise AssertionError(f"{recipe} did not come to be configured")
