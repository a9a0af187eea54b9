"""Faults in every stage of a bake, and what they leave behind: for the tests and for `make survival`."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from baker.providers.local.host import descendants_of
from tests.e2e.project import BAKER, Project, make_project

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
SECONDS = 300
"""How long anything is waited for: only what never ends takes that long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survived:
    """What came of one fault in one stage. ``stderr`` is empty where it was a terminal that is gone."""

    status: int
    stderr: str
    leaks: tuple[str, ...]


def make_slow_project(folder: Path, home: Path, ledger: Path | None = None) -> Project:
    """A project with one recipe, each bake of which differs, and a catalog of its own (in ``ledger``)."""
    project = make_project(folder, home)
    project.environ["BAKER_CATALOG"] = f"sqlite:///{ledger or home}/survival.db"
    project.recipe("slow", deploy=DEPLOY, test=IMAGE_TEST)
    return project


def catalog_file(project: Project) -> Path:
    return Path(project.environ["BAKER_CATALOG"].removeprefix("sqlite:///"))


# --- a bake that something happens to -------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A bake. ``terminal`` is our end of the one that it runs on, if it does; ``known`` are older logs."""

    project: Project
    process: subprocess.Popen[str]
    known: frozenset[Path]
    terminal: int | None = None

    @property
    def log(self) -> str:
        """What its log says so far."""
        found = set((self.project.home / "logs").glob("*.log")) - self.known
        return "".join(path.read_text() for path in found)

    def wait_for_stage(self, stage: str) -> None:
        """Until it has begun, or the bake has ended."""
        deadline = time.monotonic() + SECONDS
        while f"== {stage}\n" not in self.log and self.process.poll() is None:
            assert time.monotonic() < deadline, self.log
            if self.terminal is not None:  # or it would wait for somebody who reads
                with contextlib.suppress(BlockingIOError):
                    os.read(self.terminal, 1 << 16)
            time.sleep(0.002)

    def wait(self) -> str:
        """Until it has ended; returns what it said."""
        if self.terminal is None:
            return self.process.communicate(timeout=SECONDS)[1]
        self.process.wait(SECONDS)
        return ""


def start_bake(project: Project, *, on_terminal: bool, environ: Mapping[str, str]) -> Running:
    known = frozenset((project.home / "logs").glob("*.log"))
    chosen = replace(project, environ={**project.environ, **environ})
    argv = ["bake", "slow", "--force"]
    if not on_terminal:
        return Running(project=project, process=chosen.start(*argv), known=known)
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    try:
        process = subprocess.Popen(
            # Whoever started the tests may have told them to ignore that.
            ["setsid", "--ctty", "env", "--default-signal=HUP", BAKER, *argv],
            cwd=project.folder,
            env=chosen.variables,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            text=True,
        )
    finally:
        os.close(theirs)
    return Running(project=project, process=process, known=known, terminal=ours)


# --- faults -------------------------------------------------------------------------------------------

Strike = Callable[[Running], AbstractContextManager[None]]
"""Within, the fault lasts. It is entered when the stage has begun, and left when the bake has ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """``statuses`` are the exit codes that baker may end with, ``environ`` what it has to be started with."""

    strike: Strike
    statuses: Sequence[int]
    stages: Sequence[str] = STAGES
    on_terminal: bool = False
    environ: Callable[[Project], Mapping[str, str]] = lambda _: {}


def send(number: signal.Signals) -> Strike:
    @contextmanager
    def strike(running: Running) -> Iterator[None]:
        running.process.send_signal(number)
        yield

    return strike


@contextmanager
def close_terminal(running: Running) -> Iterator[None]:
    assert running.terminal is not None
    os.close(running.terminal)
    yield


@contextmanager
def kill_child(running: Running) -> Iterator[None]:
    """kill -9 of the process that runs the recipe, or the image tests."""
    deadline = time.monotonic() + SECONDS
    while (child := find_child(running.process.pid)) is None:
        assert running.process.poll() is None, running.log
        assert time.monotonic() < deadline, running.log
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    yield


def find_child(pid: int) -> int | None:
    for child in descendants_of(pid):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if command[0].endswith(b"python") and b"-m" in command:
                return child
    return None


@contextmanager
def fill(folder: Path) -> Iterator[None]:
    """Leave not one byte in a file system."""
    filler = folder / "filler"
    try:
        for size in (1 << 20, 512):
            with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        yield
    finally:
        filler.unlink(missing_ok=True)  # the disk and the ledger may be one


def fill_ledger(running: Running) -> AbstractContextManager[None]:
    return fill(catalog_file(running.project).parent)


@contextmanager
def fill_disk(running: Running) -> Iterator[None]:
    """The ledger lies there too, unless somebody chose another place."""
    with fill(running.project.home), fill_ledger(running):
        yield


@contextmanager
def lock_ledger(running: Running) -> Iterator[None]:
    """Another process writes for longer than baker waits: until the bake has given up."""
    begun, ended = threading.Event(), threading.Event()

    def write() -> None:
        file = sqlite3.connect(catalog_file(running.project), isolation_level=None, timeout=SECONDS)
        with contextlib.closing(file):
            file.execute("BEGIN IMMEDIATE")
            begun.set()
            while not ended.wait(0.01) and not ("failed: " in running.log or "not written" in running.log):
                pass
            file.execute("ROLLBACK")

    writer = threading.Thread(target=write)
    writer.start()
    begun.wait(SECONDS)
    try:
        yield
    finally:
        ended.set()
        writer.join()


def jump(days: int) -> Strike:
    @contextmanager
    def strike(running: Running) -> Iterator[None]:
        set_clock(running.project, days * 86400)
        missed = running.process.poll() is not None
        yield
        assert missed or len({line[:4] for line in running.log.splitlines()}) > 1, "its years did not change"

    return strike


def set_clock(project: Project, seconds: int) -> None:
    """How far baker's clock is off from now on."""
    new = project.write("clock.new", str(seconds))
    new.replace(project.folder / "clock")


def settable_clock(project: Project) -> dict[str, str]:
    """What has baker's process read its clock from a file. The kernel's, which stamps files, stays right."""
    set_clock(project, 0)
    project.write("patched/sitecustomize.py", CLOCK.format(path=str(project.folder / "clock")))
    return {"PYTHONPATH": str(project.folder / "patched")}


CLOCK = """
import datetime, time
from pathlib import Path

real_time, real_datetime = time.time, datetime.datetime


def offset():
    return float(Path({path!r}).read_text())


class Meta(type):
    def __instancecheck__(cls, value):
        return isinstance(value, real_datetime)


class Datetime(real_datetime, metaclass=Meta):
    @classmethod
    def now(cls, zone=None):
        return real_datetime.now(zone) + datetime.timedelta(seconds=offset())


time.time = lambda: real_time() + offset()
datetime.datetime = Datetime
"""


KILLED = -signal.SIGKILL
WRITING = ("launch", "configure", "capture", "register")
FAULTS: dict[str, Fault] = {
    "SIGINT": Fault(strike=send(signal.SIGINT), statuses=(130,)),
    "SIGTERM": Fault(strike=send(signal.SIGTERM), statuses=(130,)),
    "closed terminal": Fault(strike=close_terminal, statuses=(130,), on_terminal=True),
    "kill -9": Fault(strike=send(signal.SIGKILL), statuses=(KILLED,)),
    "kill -9 child": Fault(strike=kill_child, statuses=(1,), stages=("configure", "verify")),
    "full disk": Fault(strike=fill_disk, statuses=(0, 1)),
    "full ledger": Fault(strike=fill_ledger, statuses=(0, 1)),
    "locked ledger": Fault(strike=lock_ledger, statuses=(0, 1), stages=WRITING),
    "clock forward": Fault(strike=jump(400), statuses=(0,), stages=WRITING, environ=settable_clock),
    "clock back": Fault(strike=jump(-400), statuses=(0,), stages=WRITING, environ=settable_clock),
}
CELLS = [(stage, name) for name, fault in FAULTS.items() for stage in fault.stages]


# --- one cell -----------------------------------------------------------------------------------------


def inject(project: Project, stage: str, name: str, traces: Callable[[], set[str]]) -> Survived:
    """Bake, let the fault happen once the log says that the stage began, and list what is left."""
    fault = FAULTS[name]
    before = traces()
    struck = False
    while not struck:  # a bake may be over before we have seen its last stage
        running = start_bake(project, on_terminal=fault.on_terminal, environ=fault.environ(project))
        with running.process:
            running.wait_for_stage(stage)
            struck = running.process.poll() is None
            with fault.strike(running):
                stderr = running.wait()
        assert struck or running.process.returncode == 0, f"{stderr}\n{running.log}"
    if running.process.returncode == KILLED:
        project.run("system", "sweep")  # cgroups and folders: what the kernel does not remove
    # What was killed takes the kernel a moment to clear away.
    deadline = time.monotonic() + 10
    while (leaks := traces() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return Survived(status=running.process.returncode, stderr=stderr, leaks=tuple(sorted(leaks)))


def find_unsound(project: Project) -> list[str]:
    """Bake again, then everything that is not as it should be, in words."""
    wrong = []
    outcomes = [bake["outcome"] for bake in project.bake("slow", "--force")]
    if outcomes != ["baked"]:
        wrong.append(f"the next bake: {outcomes}")
    planned = [entry["action"] for entry in project.json("plan", "slow")["recipes"]]
    if planned != ["skip"]:
        wrong.append(f"the plan right after it: {planned}")
    swept = project.run("system", "sweep").stdout
    if swept != "nothing is left behind\n":
        wrong.append(swept)
    wrong += [f"machine {path.name}" for path in (project.home / "local/machines").iterdir()]
    wrong += [f"temporary {path}" for path in (project.home / "local").rglob(".new-*")]
    wrong += [f"mark {path}" for path in (project.home / "bakes").iterdir() if path.suffix != ".turn"]
    images = project.json("image", "ls")["images"]
    wrong += [f"half image {image['reference']}" for image in images if image["status"] == "registered"]
    usable = [image["reference"] for image in images if image["status"] == "available"]
    for reference in usable[:2]:
        project.run("image", "resolve", reference)
    # The one before: what the fault left of it is an image, or it is not there.
    for reference in usable[1:2]:
        project.run("run", reference, "--", "test", "-e", "/etc/unique")
    return wrong
