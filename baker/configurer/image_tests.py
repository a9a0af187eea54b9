"""Runs a recipe's image tests against a machine. Parent side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from baker.configurer.clock import Clock, OutOfTime
from baker.configurer.events import Event, ImageTestEnded, ImageTestStarted, read_event
from baker.configurer.parent import explain_early_end, make_sandbox, warn_without_sandbox, workdir_of
from baker.configurer.process import ChildSpec, Standby
from baker.configurer.redaction import Redactor
from baker.configurer.session import Line, Message, Session, run_child
from baker.errors import ImageTestError
from baker.model import Recipe
from baker.providers.protocol import Machine

OUTPUT_TAIL = 10
PYTEST_NO_TESTS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class TestRecord:
    """One image test; see ``ImageTestEnded``."""

    __test__: ClassVar[bool] = False

    name: str
    outcome: str
    seconds: float
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TestReport:
    """Image tests that all passed or were skipped, in the order in which they ran."""

    __test__: ClassVar[bool] = False

    tests: tuple[TestRecord, ...]


def run_image_tests(
    recipe: Recipe,
    machine: Machine,
    *,
    files: Sequence[str],
    on_event: Callable[[Event], None],
    log: Callable[[str], None],
    cancel: threading.Event,
    timeout: float,
    hidden: Sequence[str] = (),
    standby: Standby | None = None,
) -> TestReport:
    """Run the tests in ``files`` (absolute paths) in the sandbox; ``timeout`` limits all of them together.

    ``standby`` may hold a child that was prepared by ``tests_child_spec``.

    Raises ImageTestError if one fails, if a file does not import, if there is none, or when the time is
    over; Interrupted after ``cancel`` was set, HostError, MachineError.
    """
    clock = Clock("the image tests", each=timeout, total=timeout)
    listener = _Listener(clock, on_event, log)
    session = Session(
        machine=machine,
        clock=clock,
        redactor=Redactor(()),
        on_item=listener.hear,
        cancel=cancel,
    )
    request = {
        "project": recipe.project,
        "folder": recipe.folder,
        "workdir": workdir_of(recipe),
        "name": recipe.name,
        "files": [str(Path(recipe.folder, file)) for file in files],
    }
    warn_without_sandbox(on_event, log)
    try:
        with (standby or Standby()).take(tests_child_spec(recipe, hidden)) as child:
            exit_status = run_child(session, child, request)
    except OutOfTime as error:
        raise ImageTestError(
            f"the image tests of {recipe.name} took longer than {error.limit:g} s, at {listener.current}",
        ) from None
    if listener.status is None:
        early = explain_early_end(exit_status, listener.output, started=listener.started)
        raise ImageTestError(f"image tests of {recipe.name}: {early}", hint=early.hint)
    return _judge(recipe, listener)


def tests_child_spec(recipe: Recipe, hidden: Sequence[str]) -> ChildSpec:
    """The child that ``run_image_tests`` wants."""
    return ChildSpec(module="baker.configurer.test_child", sandbox=make_sandbox(recipe, hidden))


def _judge(recipe: Recipe, listener: _Listener) -> TestReport:
    wrong = [test for test in listener.tests if test.outcome in ("failed", "error")]
    if wrong:
        problems = "\n".join(map(_explain, wrong))
        raise ImageTestError(f"the image tests of {recipe.name} failed\n{problems}")
    if listener.status not in (0, PYTEST_NO_TESTS):
        tail = "".join(f"\n  {line}" for line in listener.output[-OUTPUT_TAIL:])
        raise ImageTestError(f"the image tests of {recipe.name} could not be run{tail}")
    if not listener.tests:
        raise ImageTestError(
            f"the image tests of {recipe.name} hold no test", hint="A test is a function named test_…"
        )
    return TestReport(
        tests=tuple(
            TestRecord(name=test.name, outcome=test.outcome, seconds=test.seconds, message=test.message)
            for test in listener.tests
        )
    )


def _explain(test: ImageTestEnded) -> str:
    file, _, name = test.name.partition("::")
    where = f"{test.file}:{test.line}" if test.file and test.line else file
    text = f"{where}: {name}: {test.message}" if name else f"{where}: {test.message}"
    return "\n".join(f"  {line}" for line in text.splitlines())


class _Listener:
    def __init__(self, clock: Clock, on_event: Callable[[Event], None], log: Callable[[str], None]) -> None:
        self.tests: list[ImageTestEnded] = []
        self.output: list[str] = []
        self.current = "their start"
        self.started = False
        self.status: int | None = None
        self._clock = clock
        self._on_event = on_event
        self._log = log

    def hear(self, item: Message | Line) -> None:
        if isinstance(item, Line):
            self._log(item.text)
            if item.own:
                self.output.append(item.text)
            return
        self.started = True
        try:
            event = read_event(item.content)
        except TypeError as error:
            raise ImageTestError(f"the image tests' child sent what is no message: {error}") from error
        match event:
            case None:
                if isinstance(status := item.content.get("status"), int):
                    self.status = status
                return
            case ImageTestStarted():
                self.current = event.name
                self._log(f"test {event.name}")
            case ImageTestEnded():
                self.tests.append(event)
                self._log(f"test {event.name} {event.outcome} in {event.seconds:.1f} s")
        self._on_event(event)
