"""Several bakes at once: in one process, in two that want the same, and watched from outside."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.project import TRIVIAL, Project, make_project

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("nothing_left_behind")]

TAKES_A_WHILE = """
from pyinfra.operations import server

server.shell(name="Take a while", commands=["sleep 3"])
"""
NEVER_ENDS = TAKES_A_WHILE.replace("sleep 3", "sleep 600")
FAILING_TEST = "def test_never_passes(): assert False"
PASSING_TEST = 'def test_it_is_there(host): assert host.file("/srv/made").exists'
WAIT_SECONDS = 120


@pytest.fixture
def project(tmp_path: Path, shared_home: Path) -> Project:
    project = make_project(tmp_path / "project", shared_home)
    project.environ["BAKER_CATALOG"] = f"sqlite:///{tmp_path}/catalog.db"
    return project


@pytest.fixture
def start(project: Project) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts baker; whatever of it still runs when the test is over is ended."""
    started = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        started.append(project.start(*arguments))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        with process:
            process.communicate(timeout=WAIT_SECONDS)


def list_running(project: Project) -> Mapping[str, Mapping[str, Any]]:
    return {running["recipe"]: running for running in project.json("status")["running"]}


def wait_for_stage(project: Project, recipe: str, stage: str = "configure") -> str:
    """The id of the recipe's bake, once it is in the stage."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if (running := list_running(project).get(recipe)) and running["stage"] == stage:
            assert running["alive"] is True
            return str(running["bake"])
        time.sleep(0.1)
    raise AssertionError(f"{recipe} did not get to {stage}: {project.json('status')}")


def read_span(project: Project, bake: Mapping[str, Any]) -> tuple[datetime, datetime]:
    """When a bake began and ended its recipe, as its log says."""
    log = project.run("logs", bake["bake"]).stdout
    times = [re.search(rf"^(\S+) == configure{end}", log, re.MULTILINE) for end in ("$", " done")]
    assert all(times), log
    began, ended = (datetime.fromisoformat(found[1]) for found in times if found)
    return began, ended


def test_independent_recipes_are_baked_at_once_and_one_that_fails_stops_no_other(project: Project) -> None:
    project.recipe("a-slow", deploy=TAKES_A_WHILE)
    project.recipe("b-slow", deploy=TAKES_A_WHILE + "# b")
    # Comes to exactly what "fine" comes to, and fails: what both made must stay for the other one.
    project.recipe("broken", deploy=TRIVIAL, test=FAILING_TEST)
    project.recipe("built-on-broken", toml='from = "broken"')
    project.recipe("built-on-that", toml='from = "built-on-broken"')
    project.recipe("fine", deploy=TRIVIAL, test=PASSING_TEST)
    project.recipe("second", toml='from = "a-slow"')
    done = project.run("bake", "--jobs", "3", "--json", status=1)
    assert re.search(r"^a-slow +\|   configure", done.stderr, re.MULTILINE)
    failed = r"^broken +\| Failed: broken: the image tests of broken failed"
    assert re.search(failed, done.stderr, re.MULTILINE)
    assert "Blocked: built-on-that: its parent built-on-broken was not baked" in done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if not re.match(r"[a-z-]+ +\| ", line)] == []

    bakes = {bake["recipe"]: bake for bake in json.loads(done.stdout)["bakes"]}
    assert [(name, bake["outcome"]) for name, bake in bakes.items()] == [
        ("a-slow", "baked"),
        ("b-slow", "baked"),
        ("broken", "failed"),
        ("fine", "baked"),
        ("built-on-broken", "blocked"),
        ("second", "baked"),
        ("built-on-that", "blocked"),
    ]
    (a_began, a_ended), (b_began, b_ended) = (
        read_span(project, bakes[name]) for name in ("a-slow", "b-slow")
    )
    assert a_began < b_ended
    assert b_began < a_ended
    assert a_ended < read_span(project, bakes["second"])[0]
    project.run("run", "fine", "--", "test", "-d", "/srv/made")


def test_second_bake_of_a_recipe_waits_for_the_first_and_finds_nothing_to_do(
    project: Project, start: Callable[..., subprocess.Popen[str]]
) -> None:
    project.recipe("slow", deploy=TAKES_A_WHILE.replace("sleep 3", "sleep 6"))
    first = start("bake", "--json")
    bake_id = wait_for_stage(project, "slow")
    follower = start("logs", bake_id[:-2].lower(), "--follow")
    project.environ["BAKER_ACTOR"] = "somebody-else"
    second = start("bake")
    holder = rf"tester bakes slow for local/\w+ since [0-9:]+ UTC \(bake {bake_id}\)"
    refused = project.bake("--no-wait", status=1)
    assert [(result["bake"], result["outcome"]) for result in refused] == [(None, "failed")]
    assert re.match(holder, refused[0]["error"])
    assert f"baker cancel {bake_id}" in refused[0]["error"]

    stdout, stderr = second.communicate(timeout=WAIT_SECONDS)
    assert second.returncode == 0, stderr
    assert re.search(f"^{holder}; waiting for it$", stderr, re.MULTILINE)
    assert stdout.startswith("unchanged slow:1")
    assert first.wait(WAIT_SECONDS) == 0
    followed, said = follower.communicate(timeout=WAIT_SECONDS)
    assert follower.returncode == 0
    assert followed == project.run("logs", bake_id).stdout
    assert "== teardown done" in followed
    assert said == "baked slow:1\n"


def test_cancel_ends_one_bake_of_a_process_and_leaves_nothing_of_it(
    project: Project, start: Callable[..., subprocess.Popen[str]]
) -> None:
    project.recipe("endless", deploy=NEVER_ENDS)
    project.recipe("plain")
    both = start("bake", "--jobs", "2", "--json")
    bake_id = wait_for_stage(project, "endless")
    machines = project.home / "local/machines"
    assert (machines / bake_id).exists()

    project.environ["BAKER_ACTOR"] = "ann"
    cancelled = project.json("cancel", bake_id)
    assert cancelled["outcome"] == "failed"
    assert cancelled["error"] == "cancelled by ann"
    assert cancelled["left_behind"] == []
    assert not (machines / bake_id).exists()
    assert not list((project.home / "bakes").glob(f"{bake_id}*"))

    stdout, stderr = both.communicate(timeout=WAIT_SECONDS)
    assert both.returncode == 1, stderr
    assert '"error": "cancelled by ann"' in stdout
    assert '"image": "plain:1"' in stdout
    again = project.run("cancel", bake_id, status=1)
    assert re.search(rf"bake {bake_id} of endless ended .* ago: failed", again.stderr)
    unknown = project.run("cancel", "00000", status=2)
    assert "there is no bake 00000" in unknown.stderr


def test_ctrl_c_cleans_up_every_bake_once(
    project: Project, start: Callable[..., subprocess.Popen[str]]
) -> None:
    project.recipe("endless", deploy=NEVER_ENDS)
    project.recipe("endless-too", deploy=NEVER_ENDS)
    project.recipe("never-begun", deploy=NEVER_ENDS)
    process = start("bake", "--jobs", "2")
    bakes = [wait_for_stage(project, recipe) for recipe in ("endless", "endless-too")]
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert stderr.count("| Failed: endless: interrupted by SIGINT") == 1
    assert stderr.count("| Failed: endless-too: interrupted by SIGINT") == 1
    assert "never-begun" not in stderr
    assert list_running(project) == {}
    assert not [path for bake in bakes for path in (project.home / "local/machines").glob(f"{bake}*")]


def test_process_that_was_killed_is_not_cancelled_and_ends_what_follows_it(
    project: Project, start: Callable[..., subprocess.Popen[str]]
) -> None:
    project.recipe("endless", deploy=NEVER_ENDS)
    process = start("bake")
    bake_id = wait_for_stage(project, "endless")
    follower = start("logs", bake_id, "--follow")
    process.kill()
    _, said = follower.communicate(timeout=WAIT_SECONDS)
    assert follower.returncode == 0
    assert said.startswith("Its process died.")
    assert project.json("status")["running"][0]["alive"] is False
    assert "died in configure" in project.run("status").stdout
    refused = project.run("cancel", bake_id, status=1)
    assert f"the process of bake {bake_id} of endless died" in refused.stderr
    project.run("system", "sweep")
    assert list_running(project) == {}
