"""The lab that tests of the AWS provider share: one for a module, and clean for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.aws import Launched, assert_nothing_left, quick_lab
from tests.lab import Lab


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    with quick_lab() as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """No fault, no call, and what instances answer as it was."""
    shared_lab.faults.clear()
    shared_lab.forget_calls()
    answers = list(shared_lab.fleet.answers)  # type: ignore[attr-defined]
    yield shared_lab
    shared_lab.fleet.answers[:] = answers  # type: ignore[attr-defined]


@pytest.fixture
def launch(lab: Lab, tmp_path: Path) -> Iterator[Any]:
    """A function that launches; afterwards nothing of it may be left."""
    made: list[Launched] = []

    def launch(**settings: Any) -> Launched:
        made.append(Launched(lab, tmp_path, **settings))
        return made[-1]

    yield launch
    for one in made:
        assert_nothing_left(lab, one.baking)
