"""A command that is killed while it deploys or rolls back: one side serves, and the next one tidies up."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.test_deploying import Site, ask, assert_nothing_left, baked, site
from tests.load import Load

__all__ = ["baked", "site"]

pytestmark = [pytest.mark.machine, pytest.mark.slow]

KILLED = """
import functools, importlib, os, signal, sys
path, when, *arguments = sys.argv[1:]
module, _, name = path.partition(":")
holder = importlib.import_module(module)
*outer, name = name.split(".")
for one in outer:
    holder = getattr(holder, one)
original = getattr(holder, name)
@functools.wraps(original)
def dies(*given, **named):
    if when == "after":
        original(*given, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(holder, name, dies)
sys.argv = ["baker", *arguments]
from baker import cli
cli.main()
"""
"""Runs baker, and kills it right before or after it calls one function."""

DEPLOYMENT, FLEET = "baker.deploy.deployment", "baker.providers.local.fleet:LocalFleet"
STEPS = (
    (f"{FLEET}.start", "before"),
    ("baker.providers.local.fleet:write_seed", "after"),
    ("baker.providers.local.fleet_machine:FleetMachine.complete", "before"),
    (f"{FLEET}.start", "after"),
    (f"{DEPLOYMENT}:await_health", "after"),
    (f"{FLEET}.shift", "before"),
    (f"{FLEET}.shift", "after"),
    (f"{DEPLOYMENT}:watch", "after"),
    (f"{DEPLOYMENT}:settle", "before"),
)
NEXT = (("env", "reconcile"), ("system", "sweep"), ("deploy", "NAME", "2"), ("env", "rollback", "NAME"))


def kill_at(site: Site, path: str, when: str, *arguments: str) -> None:
    project = site.project
    command = [sys.executable, "-c", KILLED, path, when, *arguments]
    done = subprocess.run(
        command, cwd=project.folder, env=project.variables, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


@pytest.mark.parametrize(("number", "path", "when"), [(n, *step) for n, step in enumerate(STEPS)])
def test_killed_deployment_leaves_one_side_serving(site: Site, number: int, path: str, when: str) -> None:
    name = f"killed{number}"
    place = site.environment(name)
    site.project.run("deploy", name, "1")
    address = urlsplit(place)
    assert address.hostname
    assert address.port
    with Load(address.hostname, address.port, quick=2, pause=0.05) as load:
        kill_at(site, path, when, "deploy", name, "2")
        load.wait_for(10)
        command = [name if part == "NAME" else part for part in NEXT[number % len(NEXT)]]
        site.project.run(*command)
        load.wait_for(10)
    assert load.failures == [], load.describe()
    assert {answer for window in load.windows for answer in window.answers} <= {"one", "two"}
    shown = site.show(name)
    assert [side["state"] for side in shown["sides"]] in (["live"], ["live", "warm"], ["warm", "live"])
    (live,) = [side for side in shown["sides"] if side["traffic"] == 100]
    assert ask(place) == {"web:1": "one", "web:2": "two"}[live["image"]]
    folders = sorted((site.project.home / "local/environments" / name / "machines").iterdir())
    assert [folder.name for folder in folders if Path(folder).is_dir()] == sorted(
        machine["name"] for side in shown["sides"] for machine in side["machines"]
    )
    site.project.run("env", "rm", name, "--yes")
    assert_nothing_left(site, name, place)


def test_roll_back_killed_before_the_traffic_moved_is_finished(site: Site) -> None:
    place = site.environment("swapped")
    site.project.run("deploy", "swapped", "1")
    site.project.run("deploy", "swapped", "2")
    kill_at(site, "baker.deploy.rollback:settle", "before", "env", "rollback", "swapped")
    assert ask(place) == "two"
    site.project.run("env", "reconcile", "swapped")
    assert ask(place) == "one"
    site.project.run("env", "rm", "swapped", "--yes")
    assert_nothing_left(site, "swapped", place)
