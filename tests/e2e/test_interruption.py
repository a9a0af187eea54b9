"""Ctrl-C, SIGTERM and kill -9 in every stage of a bake."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.e2e.project import Project, make_project

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("nothing_left_behind")]

DEPLOY = """
from pyinfra.operations import server

server.shell(name="Take a while", commands=["sleep 0.5", "date +%N > /etc/unique"])
"""
IMAGE_TEST = """
import time

def test_takes_a_while(host):
    time.sleep(0.5)
    assert host.file("/etc/unique").exists
"""
STAGES = ("resolve", "launch", "configure", "seal", "capture", "verify", "register", "distribute", "teardown")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Project:
    project = make_project(tmp_path_factory.mktemp("interrupted") / "project", shared_home)
    project.environ["BAKER_CATALOG"] = f"sqlite:///{project.folder}/catalog.db"
    project.recipe("slow", deploy=DEPLOY, test=IMAGE_TEST)
    return project


def interrupt(project: Project, stage: str, number: signal.Signals) -> tuple[int, str]:
    """Start a bake and send a signal when its log says that the stage began; exit status and stderr."""
    logs = project.home / "logs"
    known = set(logs.glob("*.log"))
    with project.start("bake", "slow", "--force") as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            begun = [path for path in set(logs.glob("*.log")) - known if f"== {stage}\n" in path.read_text()]
            if begun:
                process.send_signal(number)
                break
            time.sleep(0.002)
        _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr


def assert_sound(project: Project) -> None:
    """Every available image can be run, and nothing hangs on."""
    assert list((project.home / "local/machines").iterdir()) == []
    for image in project.json("image", "ls")["images"]:
        if image["status"] == "available":
            project.run("run", image["reference"], "--", "test", "-e", "/etc/unique")
            break


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_cleans_up_and_exits_with_130(project: Project, stage: str, number: signal.Signals) -> None:
    status, stderr = interrupt(project, stage, number)
    assert status == 130, stderr
    assert "Traceback" not in stderr
    assert_sound(project)


@pytest.mark.parametrize("stage", STAGES)
def test_killed_bake_is_swept_by_the_next_one(project: Project, stage: str) -> None:
    interrupt(project, stage, signal.SIGKILL)
    assert [bake["outcome"] for bake in project.bake("slow", "--force")] == ["baked"]
    assert_sound(project)
    assert project.run("system", "sweep").stdout == "nothing is left behind\n"
