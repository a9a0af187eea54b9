"""A bake for aws whose calls go wrong in the most telling ways, and one sweep: nothing of ours is left.

Every call under every fault: ``make aws-faults``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import pytest

from tests.e2e.aws_faults import Cell, Spot, bake_cleanly, strike
from tests.e2e.aws_site import COPY_REGION, context

REGION = "eu-west-1"
BAKED, FAILED, KILLED = 0, 1, -9


def spot(action: str, nth: int = 1, region: str = REGION) -> Spot:
    return Spot(action=action, region=region, nth=nth)


GROUP = spot("CreateSecurityGroup")
INSTANCE, SECOND_INSTANCE = spot("RunInstances"), spot("RunInstances", 2)
IMAGE, COPY = spot("CreateImage"), spot("CopyImage", region=COPY_REGION)
END, END_OF_GROUP = spot("TerminateInstances"), spot("DeleteSecurityGroup")

EXPECTED: Mapping[tuple[Spot, str], int] = {
    (GROUP, "kill -9"): KILLED,
    (INSTANCE, "kill -9"): KILLED,
    (SECOND_INSTANCE, "kill -9"): KILLED,
    (IMAGE, "kill -9"): KILLED,
    (COPY, "kill -9"): KILLED,
    (INSTANCE, "answers lost"): FAILED,
    (IMAGE, "answers lost"): FAILED,
    (COPY, "answers lost"): FAILED,
    (SECOND_INSTANCE, "answer lost"): BAKED,
    (COPY, "refused"): FAILED,
    (END, "refused"): BAKED,
    (END_OF_GROUP, "fails"): BAKED,
}
"""How the bake ends, by the call that is struck and the fault."""
QUICK = {
    (INSTANCE, "kill -9"),
    (IMAGE, "kill -9"),
    (SECOND_INSTANCE, "answer lost"),
    (COPY, "answers lost"),
    (END_OF_GROUP, "fails"),
}
CELLS = [cell if cell in QUICK else pytest.param(cell, marks=pytest.mark.slow) for cell in EXPECTED]


@pytest.fixture(scope="module")
def struck(request: pytest.FixtureRequest) -> Iterator[Mapping[tuple[Spot, str], Future[Cell]]]:
    """What each that is asked for comes to; two at a time, since most of a bake is waiting."""
    items = [item for item in request.session.items if item.path == request.path]
    asked: list[Any] = [item.callspec.params["cell"] for item in items if isinstance(item, pytest.Function)]
    spots, template = bake_cleanly()
    creating = {one for one in spots if one.action.startswith(("Create", "Run", "Copy"))}
    killed = {one for one, fault in EXPECTED if fault == "kill -9"}
    assert creating - {one for one in creating if one.action == "CreateTags"} <= killed
    try:
        with ProcessPoolExecutor(max_workers=2, mp_context=context()) as workers:
            yield {cell: workers.submit(strike, *cell, template) for cell in asked}
    finally:
        shutil.rmtree(template)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell[0]}: {cell[1]}")
def test_one_sweep_leaves_nothing_of_a_bake_that_went_wrong(
    struck: Mapping[tuple[Spot, str], Future[Cell]], cell: tuple[Spot, str]
) -> None:
    found = struck[cell].result()
    assert found.struck, "the call was not made"
    assert (found.leaks, found.missing) == ((), ()), found.output
    assert found.is_clean, found.output
    assert found.baked == EXPECTED[cell], found.output
