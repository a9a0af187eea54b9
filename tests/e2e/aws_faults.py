"""A bake for aws under faults: each of its calls refused, timed out, done without an answer, killed after."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.aws import answer_scripts, quick_waits
from tests.lab import Call, Fault, Lab, Latency, running_lab

COPY_REGION = "eu-central-1"
NO_LATENCY = Latency(launch=0, ssh=0, stop=0, terminate=0, image=0, copy=0)

RECIPE = """
description = "bakes in a moment"
[targets.aws]
from = { owner = "136693071363", name = "debian-13-{deb_arch}-*" }
"""
DEPLOY = """
from pyinfra.operations import server

server.shell(name="Do something", commands=["true"])
"""

FAULTS: Mapping[str, Mapping[str, Any]] = {
    "refused": {"kind": "refuse", "code": "UnauthorizedOperation", "message": "You are not authorized."},
    "fails": {"kind": "error", "times": 1000},
    "time out": {"kind": "timeout"},
    "answer lost": {"kind": "lose"},
    "answers lost": {"kind": "lose", "times": 1000},
    "kill -9": {"kind": "kill"},
}
"""What strikes a call. Where it strikes for ever, every repetition is struck too."""

ATTEMPTS = 2
"""Of a call, where a fault goes on for ever: so that it is given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """The ``nth`` call of an action in a region."""

    action: str
    region: str
    nth: int

    def __str__(self) -> str:
        return f"{self.action} {self.region} #{self.nth}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What one fault at one spot came to. ``leaks`` are things of ours that no image of the catalog holds,
    ``missing`` images of the catalog whose AMI is not there."""

    spot: Spot
    fault: str
    baked: int | None
    struck: bool
    swept: int | None
    leaks: tuple[str, ...]
    missing: tuple[str, ...]
    output: str

    @property
    def is_clean(self) -> bool:
        return not self.leaks and not self.missing and self.swept == 0 and "Traceback" not in self.output


@dataclass(kw_only=True)
class Site:
    """A project and a BAKER_HOME for a lab."""

    lab: Lab
    folder: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**self.lab.environment, "BAKER_HOME": str(self.home), "BAKER_ACTOR": "tester"}

    def run(
        self, *arguments: str, attempts: int | None = None, started: Callable[[int], None] | None = None
    ) -> tuple[int | None, str]:
        """Run baker in a process of its own that has its modules already; its status and what it says.

        ``started`` is told its process id.
        """
        with tempfile.NamedTemporaryFile("r", dir=self.folder) as output:
            process = context().Process(
                target=be_baker,
                args=(arguments, str(self.folder), self.environment, output.name, attempts),
            )
            process.start()
            if started is not None:
                assert process.pid is not None
                started(process.pid)
            process.join()
            return process.exitcode, output.read()


def context() -> Any:
    """Processes are forked from one that has imported everything and runs nothing."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.e2e.aws_faults", "tests.e2e.aws_preload"])
    return found


def be_baker(
    arguments: Sequence[str], folder: str, environment: Mapping[str, str], output: str, attempts: int | None
) -> None:
    """In the child: the command line, as its entry point has it."""
    from baker import cli
    from baker.providers.aws import session

    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdin = io.StringIO()
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith(("BAKER_", "AWS_"))]:
        del os.environ[name]
    os.environ.update(environment)
    sys.argv = ["baker", *arguments]
    if attempts is not None:
        session.ATTEMPTS = attempts
    with quick_waits():
        cli.main()


@contextlib.contextmanager
def running_site(template: Path | None = None) -> Iterator[Site]:
    """An empty account, and a project that bakes one recipe into two regions. ``template`` is a BAKER_HOME to
    begin with."""
    with (
        tempfile.TemporaryDirectory(prefix="baker-faults-") as scratch,
        running_lab(latency=NO_LATENCY) as lab,
    ):
        lab.fleet.answers.append(answer_scripts)  # type: ignore[attr-defined]
        folder = Path(scratch, "project")
        recipe = folder / "recipes" / "probe"
        recipe.mkdir(parents=True)
        for path in (Path(scratch), folder, folder / "recipes", recipe):
            path.chmod(0o755)
        (recipe / "recipe.toml").write_text(RECIPE)
        (recipe / "deploy.py").write_text(DEPLOY)
        more = f'regions = ["{COPY_REGION}"]\nrequest_timeout = "1s"\nshare_accounts = ["111122223333"]\n'
        (folder / "baker.toml").write_text(lab.settings + more)
        home = Path(scratch, "home")
        if template is not None:
            shutil.copytree(template, home)
        yield Site(lab=lab, folder=folder, home=home)


def bake_cleanly() -> tuple[list[Spot], Path]:
    """Every call of a bake to which nothing happens, as spots; and a BAKER_HOME whose catalog is empty."""
    template = Path(tempfile.mkdtemp(prefix="baker-faults-home-"))
    with running_site() as site:
        # Makes the catalog, and calls nothing.
        status, output = site.run("catalog", "migrate")
        assert status == 0, output
        shutil.copytree(site.home, template, dirs_exist_ok=True)
        site.lab.forget_calls()
        status, output = site.run("bake", "--target", "aws")
        assert status == 0, output
        spots = list_spots(site.lab.calls)
        assert find_leaks(site) == ((), ())
    return spots, template


def list_spots(calls: Sequence[Call]) -> list[Spot]:
    counted: Counter[tuple[str, str]] = Counter()
    spots = []
    for call in calls:
        counted[call.action, call.region] += 1
        spots.append(Spot(action=call.action, region=call.region, nth=counted[call.action, call.region]))
    return spots


def strike(spot: Spot, fault: str, template: Path) -> Cell:
    """A bake with one fault, then one sweep; and what is there afterwards."""
    with running_site(template) as site:
        pids: list[int] = []

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGKILL)

        values = {**FAULTS[fault], "callback": kill}
        site.lab.faults.add(Fault(action=spot.action, region=spot.region, nth=spot.nth, **values))
        lasting = values.get("times", 1) > 1
        baked, output = site.run(
            "bake", "--target", "aws", attempts=ATTEMPTS if lasting else None, started=pids.append
        )
        struck = any(call.fault is not None for call in site.lab.calls)
        site.lab.faults.clear()
        swept, said = site.run("system", "sweep")
        leaks, missing = find_leaks(site)
    return Cell(
        spot=spot,
        fault=fault,
        baked=baked,
        struck=struck,
        swept=swept,
        leaks=leaks,
        missing=missing,
        output=f"{output}\n--- sweep\n{said}",
    )


def find_leaks(site: Site) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the account holds that no image of the catalog has; and AMIs that images have and it does not."""
    from baker.catalog import Catalog
    from baker.model import ImageStatus

    with Catalog.open(f"sqlite:///{site.home}/catalog.db", actor="tester") as catalog:
        images = [image for image in catalog.images() if image.status is not ImageStatus.DELETED]
    builds = [build for image in images for build in image.builds]
    held = {build.id for build in builds}
    wanted = {(artifact.store, artifact.id) for build in builds for artifact in build.artifacts}
    there = set()
    leaks = []
    for line in site.lab.holdings():
        region, kind, thing, *_ = line.split()
        if kind == "image":
            there.add((region, thing))
        if not (kind in ("image", "snapshot") and any(f"baker:bake={build}" in line for build in held)):
            leaks.append(line)
    states = [f"{image.reference} is still {image.status}" for image in images if image.status != "available"]
    missing = [f"{image_id} in {region}" for region, image_id in sorted(wanted - there)]
    return tuple(leaks), (*missing, *states)
