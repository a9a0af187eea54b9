"""A bake for aws under faults: each of its calls refused, timed out, done without an answer, killed after."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.aws_site import Running, Site, running_site
from tests.lab import Call, Fault

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


def bake_cleanly() -> tuple[list[Spot], Path]:
    """Every call of a bake to which nothing happens, as spots; and a BAKER_HOME whose catalog is empty."""
    template = Path(tempfile.mkdtemp(prefix="baker-faults-home-"))
    with running_site() as site:
        # Makes the catalog, and calls nothing.
        site.run("catalog", "migrate")
        shutil.copytree(site.home, template, dirs_exist_ok=True)
        site.lab.forget_calls()
        site.run("bake", "--target", "aws")
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
        site.retries = 0  # what one try leaves is looked at
        site.configure()
        bakers: list[Running] = []

        def kill() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(bakers[0].pid, signal.SIGKILL)

        values = {**FAULTS[fault], "callback": kill}
        site.lab.faults.add(Fault(action=spot.action, region=spot.region, nth=spot.nth, **values))
        site.attempts = ATTEMPTS if values.get("times", 1) > 1 else None
        bakers.append(site.start("bake", "--target", "aws"))
        baked = bakers[0].wait()
        struck = any(call.fault for call in site.lab.calls)
        site.lab.faults.clear()
        swept = site.start("system", "sweep").wait()
        leaks, missing = find_leaks(site)
    return Cell(
        spot=spot,
        fault=fault,
        baked=baked.status,
        struck=struck,
        swept=swept.status,
        leaks=leaks,
        missing=missing,
        output=f"{baked.said}\n--- sweep\n{swept.said}",
    )


def find_leaks(site: Site) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the account holds that no image of the catalog has; and AMIs that images have and it does not."""
    from baker.catalog import Catalog
    from baker.model import ImageStatus

    with Catalog.open(f"sqlite:///{site.home}/catalog.db", actor="tester") as catalog:
        images = [image for image in catalog.images() if image.status is not ImageStatus.DELETED]
    builds = [build for image in images for build in image.builds if build.target == "aws"]
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
