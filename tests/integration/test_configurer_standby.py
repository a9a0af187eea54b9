"""Children of the configurer that are started before they are needed, in the real sandbox."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from baker.configurer import Standby
from baker.configurer.process import ChildSpec
from baker.configurer.sandbox import Sandbox, find_interpreter_folders
from tests import machines
from tests.machines import find_children

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("no_sandbox_left_behind")]

no_sandbox_left_behind = machines.no_sandbox_left_behind


@pytest.fixture
def standby() -> Iterator[Standby]:
    standby = Standby()
    yield standby
    standby.close()


def make_spec(project: Path, **environment: str) -> ChildSpec:
    project.chmod(0o755)
    return ChildSpec(
        module="baker.configurer.child",
        sandbox=Sandbox(project=str(project), readable=find_interpreter_folders()),
        environment=tuple(environment.items()),
    )


def test_a_child_that_was_prepared_is_the_one_that_is_taken(standby: Standby, tmp_path: Path) -> None:
    standby.prepare(make_spec(tmp_path))
    standby.prepare(make_spec(tmp_path))
    [prepared] = find_children(os.getpid(), "bwrap")
    with standby.take(make_spec(tmp_path)) as child:
        assert child.process.pid == prepared
    with standby.take(make_spec(tmp_path)) as another:
        assert another.process.pid != prepared


def test_a_child_that_was_prepared_for_something_else_is_ended(standby: Standby, tmp_path: Path) -> None:
    standby.prepare(make_spec(tmp_path, STAGE="one"))
    [prepared] = find_children(os.getpid(), "bwrap")
    with standby.take(make_spec(tmp_path, STAGE="two")) as child:
        assert find_children(os.getpid(), "bwrap") == [child.process.pid] != [prepared]


def test_children_that_nobody_took_are_ended(standby: Standby, tmp_path: Path) -> None:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    standby.prepare(make_spec(tmp_path))
    standby.close()
    assert find_children(os.getpid(), "bwrap") == []
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
