"""Faults in every stage of a bake, and what they leave behind: for the tests and for `make survival`."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from baker.providers.local.host import descendants_of
from tests.e2e.project import Project, make_project

STAGES = ("resolve", "launch", "configure", "seal", "capture", "verify", "register", "distribute", "teardown")
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
SECONDS = 180


@dataclass(frozen=True, kw_only=True, slots=True)
class Survived:
    """What came of one fault in one stage."""

    status: int
    stderr: str
    leaks: tuple[str, ...]


def make_slow_project(folder: Path, home: Path) -> Project:
    """A project with one recipe, each bake of which differs, and a catalog of its own."""
    project = make_project(folder, home)
    project.environ["BAKER_CATALOG"] = f"sqlite:///{home}/survival.db"
    project.recipe("slow", deploy=DEPLOY, test=IMAGE_TEST)
    return project


def send(number: signal.Signals) -> Callable[[Project, int], None]:
    return lambda _, pid: os.kill(pid, number)


def kill_child(_: Project, pid: int) -> None:
    """kill -9 of the process that runs the recipe, or the image tests."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for child in descendants_of(pid):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                if command[0].endswith(b"python") and b"-m" in command:
                    os.kill(child, signal.SIGKILL)
                    return
        time.sleep(0.01)
    raise AssertionError("the recipe's process did not appear")


def fill_disk(project: Project, _: int) -> None:
    """Leave not one byte in BAKER_HOME."""
    with (project.home / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    with (project.home / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))


FAULTS: dict[str, Callable[[Project, int], None]] = {
    "SIGINT": send(signal.SIGINT),
    "SIGTERM": send(signal.SIGTERM),
    "kill -9": send(signal.SIGKILL),
    "kill -9 child": kill_child,
    "full disk": fill_disk,
}
CELLS = [
    (stage, fault)
    for fault in FAULTS
    for stage in STAGES
    if fault != "kill -9 child" or stage in ("configure", "verify")
]


def inject(project: Project, stage: str, fault: str, traces: Callable[[], set[str]]) -> Survived:
    """Bake, let the fault happen once the log says that the stage began, and list what is left."""
    before = traces()
    logs = project.home / "logs"
    known = set(logs.glob("*.log"))
    with project.start("bake", "slow", "--force") as process:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            begun = [path for path in set(logs.glob("*.log")) - known if f"== {stage}\n" in path.read_text()]
            if begun:
                FAULTS[fault](project, process.pid)
                break
            time.sleep(0.002)
        _, stderr = process.communicate(timeout=SECONDS)
    (project.home / "filler").unlink(missing_ok=True)
    if fault == "kill -9":
        project.run("system", "sweep")  # cgroups and folders: what the kernel does not remove
    # What was killed takes the kernel a moment to clear away.
    deadline = time.monotonic() + 5
    while (leaks := traces() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return Survived(status=process.returncode, stderr=stderr, leaks=tuple(sorted(leaks)))


def find_unsound(project: Project) -> list[str]:
    """Bake again, then everything that is not as it should be, in words."""
    wrong = []
    outcomes = [bake["outcome"] for bake in project.bake("slow", "--force")]
    if outcomes != ["baked"]:
        wrong.append(f"the next bake: {outcomes}")
    swept = project.run("system", "sweep").stdout
    if swept != "nothing is left behind\n":
        wrong.append(swept)
    wrong += [f"machine {path.name}" for path in (project.home / "local/machines").iterdir()]
    wrong += [f"temporary {path}" for path in (project.home / "local").rglob(".new-*")]
    images = project.json("image", "ls")["images"]
    wrong += [f"half image {image['reference']}" for image in images if image["status"] == "registered"]
    usable = [image["reference"] for image in images if image["status"] == "available"]
    for reference in usable:
        project.run("image", "resolve", reference)
    for reference in usable[:1]:
        project.run("run", reference, "--", "test", "-e", "/etc/unique")
    return wrong
