"""The lab that tests of the AWS provider share: one for a module, and clean for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.aws import quick_lab
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
