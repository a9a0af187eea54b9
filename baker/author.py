"""The author's loop: a machine from a recipe's source is kept alive, and the recipe applied to it again.

Nothing is captured, tested on a fresh machine or registered: that is what a bake is for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from baker import identity
from baker.bake import read_secrets
from baker.configurer import (
    Configured,
    ConfigureRequest,
    OperationRecord,
    Standby,
    child_spec,
    configure,
    run_image_tests,
    tests_child_spec,
)
from baker.configurer.events import Event, OperationEnded
from baker.errors import BakerError, Interrupted
from baker.interrupt import Interruption
from baker.log import BakeLog
from baker.model import Recipe, Stage, shorten_digest
from baker.progress import Note, Progress, RecipeEvent, StageEnded, StageStarted, count
from baker.project_files import LITTER
from baker.providers.protocol import Machine, Provider, ResolvedSource
from baker.teardown import LeftBehind, Teardown, describe_resource

SETTLE_SECONDS = 0.05
"""Editors write a file in several steps: a change is one once nothing moves for this long."""

Stamps = Mapping[str, object]
"""What is seen of the watched files: by path, relative to the project."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workshop:
    """What recipes are tried with. ``load`` reads the recipe anew, ``resolve`` pins its source."""

    load: Callable[[], Recipe]
    resolve: Callable[[Recipe], ResolvedSource]
    target: str
    provider: Provider
    home: Path
    environ: Mapping[str, str]
    show: Callable[[Progress], None]
    interruption: Interruption


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """The recipe applied once more, then its image tests; ``tests`` passed.

    ``configured`` is None if only the tests ran, or if it failed. ``error`` is what failed, of the two.
    """

    configured: Configured | None
    tests: int
    seconds: float
    error: BakerError | None


@dataclass(kw_only=True, slots=True)
class Trial:
    """A machine that a recipe is applied to, and what is watched meanwhile. Made by ``trying``."""

    id: str
    recipe: Recipe
    machine: Machine
    workshop: Workshop
    log: BakeLog
    teardown: Teardown
    standby: Standby
    _configured: Configured | None = None
    _stamps: Stamps = field(default_factory=dict)

    def apply(self, changed: Sequence[str] = ()) -> Round:
        """Apply the recipe as it is now and run its image tests (only these, if nothing else ``changed``)."""
        started, begun = time.time(), time.monotonic()
        before = self._look()
        error, tests, applied = None, 0, None
        if not changed or not all(map(self._is_image_test, changed)):
            self._configured = None
        try:
            self._load()
            if self._configured is None:
                self._configured = applied = self._configure()
            tests = self._run_tests()
        except Interrupted:
            raise
        except BakerError as failure:
            error = failure
            self.log.write(f"failed: {failure}")
        # What was not watched before is taken as it is now, unless it was saved while the recipe ran.
        now = self._look()
        fresh = {path: None if _is_newer(stamp, started) else stamp for path, stamp in now.items()}
        self._stamps = {path: before.get(path, fresh[path]) for path in now}
        seconds = round(time.monotonic() - begun, 3)
        return Round(configured=applied, tests=tests, seconds=seconds, error=error)

    def find_changes(self) -> list[str]:
        """What was saved since the last round began; a path may be new or gone."""
        now = self._look()
        while now != self._stamps:
            time.sleep(SETTLE_SECONDS)
            before, now = now, self._look()
            if before == now:
                break
        paths = (now.keys() | self._stamps.keys()) if now != self._stamps else set()
        changed = sorted(path for path in paths if now.get(path) != self._stamps.get(path))
        self._stamps = now
        return changed

    def find_unsettled(self) -> tuple[OperationRecord, ...]:
        """Apply the recipe once more, in a fresh process: the operations that changed something again.

        Raises what ``configure`` raises.
        """
        return tuple(operation for operation in self._configure().operations if operation.changed)

    def get_ready(self) -> None:
        """Start the next round's processes: they import while the author types."""
        prepare_round(self.recipe, self.workshop, self.standby)

    def restart(self) -> None:
        """Go on with a fresh machine from the recipe's source."""
        self._configured = None
        for resource in self.teardown.resources:
            self.teardown.undo(resource)
        self.machine = launch(self.id, self.recipe, self.workshop, self.log, self.teardown)

    # --- one round ------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Read recipe.toml again. Another source needs another machine, and so does a dead one."""
        before, self.recipe = self.recipe, self.workshop.load()
        old, new = before.targets[self.workshop.target], self.recipe.targets[self.workshop.target]
        if (old.source, old.settings) != (new.source, new.settings):
            self.workshop.show(Note(text="The source changed: starting a fresh machine"))
            self.restart()
        elif not self.machine.alive():
            self.workshop.show(Note(text="The machine is gone: starting a fresh one"))
            self.restart()

    def _configure(self) -> Configured:
        request = ConfigureRequest(
            recipe=self.recipe,
            target=self.workshop.target,
            data=self.recipe.targets[self.workshop.target].data,
            secrets=read_secrets(self.recipe, self.workshop.environ),
            environment=self.workshop.environ,
            hidden=[str(self.workshop.home)],
        )
        cancel = self.workshop.interruption.cancel
        with stage(Stage.CONFIGURE, self.id, self.recipe, self.workshop, self.log) as detail:
            configured = configure(
                request,
                self.machine,
                on_event=self._show,
                log=self.log.write,
                cancel=cancel,
                standby=self.standby,
            )
            changed = count(configured.changed, "operation")
            detail.append(f"{changed} changed, {configured.unchanged} did not")
        return configured

    def _run_tests(self) -> int:
        """How many passed. They see the machine as the recipe left it, not a fresh one."""
        if not self.recipe.image_tests:
            return 0
        with stage(Stage.VERIFY, self.id, self.recipe, self.workshop, self.log) as detail:
            report = run_image_tests(
                self.recipe,
                self.machine,
                files=self.recipe.image_tests,
                on_event=self._show,
                log=self.log.write,
                cancel=self.workshop.interruption.cancel,
                timeout=self.recipe.total_timeout,
                hidden=[str(self.workshop.home)],
                standby=self.standby,
            )
            passed = sum(test.outcome == "passed" for test in report.tests)
            detail.append(f"{count(passed, 'image test')} passed")
        return passed

    def _show(self, event: Event) -> None:
        """What did not change is not worth a line: the author looks for what did."""
        if isinstance(event, OperationEnded) and not event.changed and not event.ignored_error:
            return
        self.workshop.show(RecipeEvent(bake=self.id, recipe=self.recipe.name, event=event))

    # --- watching -------------------------------------------------------------------------------------

    def _is_image_test(self, path: str) -> bool:
        absolute = f"{self.recipe.project}/{path}"
        return absolute in self.recipe.image_tests or absolute == f"{self.recipe.folder}/conftest.py"

    def _look(self) -> dict[str, object]:
        """The recipe's folder, its inputs and what it read elsewhere; after a failure the whole project,
        since nobody knows what it would have read."""
        project = Path(self.recipe.project)
        paths = set(_walk(self.recipe.folder))
        if self._configured is None:
            paths |= set(_walk(self.recipe.project, leave_out=str(self.workshop.home)))
        else:
            paths |= {f"{project}/{item.path}" for item in self._configured.traced}
        paths |= {str(path) for pattern in self.recipe.inputs for path in project.glob(pattern)}
        return {os.path.relpath(path, project): _stamp(path) for path in paths}


def _walk(folder: str, leave_out: str = "") -> Iterator[str]:
    """Files below a folder, without what editors and tools leave there: hidden folders, environments."""
    for path, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not LITTER.fullmatch(name) and f"{path}/{name}" != leave_out
        ]
        if "pyvenv.cfg" in names:
            folders.clear()
            continue
        yield from (f"{path}/{name}" for name in names if not LITTER.fullmatch(name))


def _stamp(path: str) -> object:
    """What moves when a path is saved; None where there is nothing."""
    try:
        found = Path(path).stat()
        if Path(path).is_dir():
            return tuple(sorted(entry.name for entry in os.scandir(path) if not LITTER.fullmatch(entry.name)))
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode)


def _is_newer(stamp: object, moment: float) -> bool:
    return isinstance(stamp, tuple) and bool(stamp) and isinstance(stamp[0], int) and stamp[0] > moment * 1e9


# --- the machine -----------------------------------------------------------------------------------------


@contextmanager
def trying(workshop: Workshop) -> Iterator[Trial]:
    """A machine from the recipe's source. Afterwards it is gone; what could not be removed is shown.

    Raises what loading, resolving and launching raise; UsageError for a secret that is not set.
    """
    recipe = workshop.load()
    read_secrets(recipe, workshop.environ)
    trial_id = identity.make_bake_id()
    log_path = workshop.home / "logs" / f"{trial_id}.log"
    # No ledger: it is the catalog's, about bakes. A dead trial's machine is found by its name.
    teardown = Teardown(trial_id, None, workshop.interruption.cancel)
    with identity.alive(workshop.home, trial_id), BakeLog.open(log_path) as log:
        log.write(f"try {trial_id} of {recipe.name} for {workshop.target}")
        workshop.show(Note(text=f"{recipe.name} for {workshop.target}, log {log_path}"))
        standby = Standby()
        try:
            prepare_round(recipe, workshop, standby)
            machine = launch(trial_id, recipe, workshop, log, teardown)
            yield Trial(
                id=trial_id,
                recipe=recipe,
                machine=machine,
                workshop=workshop,
                log=log,
                teardown=teardown,
                standby=standby,
            )
        finally:
            standby.close()
            with workshop.interruption.shielded():
                for left in teardown.close():
                    workshop.show(Note(text=describe_left_behind(left)))


def prepare_round(recipe: Recipe, workshop: Workshop, standby: Standby) -> None:
    hidden = [str(workshop.home)]
    standby.prepare(child_spec(recipe, workshop.environ, hidden))
    if recipe.image_tests:
        standby.prepare(tests_child_spec(recipe, hidden))


def launch(trial_id: str, recipe: Recipe, workshop: Workshop, log: BakeLog, teardown: Teardown) -> Machine:
    """The build instance that a bake of the recipe would begin with."""
    with stage(Stage.LAUNCH, trial_id, recipe, workshop, log) as detail:
        source = workshop.resolve(recipe)
        machine = workshop.provider.launch(trial_id, recipe, source, teardown)
        detail.append(f"a machine from {source.source}, {shorten_digest(source.digest)}")
    return machine


def describe_left_behind(left: LeftBehind) -> str:
    return f"Left behind: {describe_resource(left.resource)}: {left.error}. Remove it: baker system sweep"


@contextmanager
def stage(
    name: Stage, trial_id: str, recipe: Recipe, workshop: Workshop, log: BakeLog
) -> Iterator[list[str]]:
    """Time a stage and show it. What is appended to the yielded list says what it came to."""
    detail: list[str] = []
    started = time.monotonic()
    log.write(f"== {name}")
    workshop.show(StageStarted(bake=trial_id, recipe=recipe.name, stage=name))
    failed = True
    try:
        yield detail
        failed = False
    finally:
        workshop.show(
            StageEnded(
                bake=trial_id,
                recipe=recipe.name,
                stage=name,
                seconds=time.monotonic() - started,
                failed=failed,
                detail="; ".join(detail),
            )
        )
