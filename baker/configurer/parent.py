"""Applies a recipe to a machine. Parent side: starts the child, serves it, owns the clock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baker.apt_failures import FETCH_FAILED, NOT_FOUND, is_passing_fetch
from baker.configurer.clock import Clock, OutOfTime
from baker.configurer.events import (
    Event,
    OperationEnded,
    OperationFailed,
    OperationRetried,
    OperationStarted,
    Prepared,
    RecipeOutput,
    Unconfined,
    read_event,
)
from baker.configurer.process import ChildSpec, Standby
from baker.configurer.redaction import Redactor
from baker.configurer.sandbox import (
    CREDENTIALS,
    Sandbox,
    explain_refusal,
    find_interpreter_folders,
    find_linked_packages,
    why_no_sandbox,
)
from baker.configurer.session import Line, Message, Session, run_child
from baker.errors import ConfigureError, HostError
from baker.model import Recipe
from baker.providers.protocol import Machine

PREPARING = "preparing the recipe"
BETWEEN = "the recipe"
OUTPUT_TAIL = 10
COMMAND_LENGTH = 300
MAX_NOT_FETCHED = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigureRequest:
    """What to apply. ``data`` is the target's effective data, ``secrets`` are what the recipe names.

    ``environment`` is the caller's: only what the recipe's allow-list names goes in. ``hidden`` are folders
    inside the project that a recipe must not see (where baker keeps its things).
    """

    recipe: Recipe
    target: str
    data: Mapping[str, Any]
    secrets: Mapping[str, str]
    environment: Mapping[str, str]
    hidden: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationRecord:
    """One operation that was executed, nested ones included. ``converges``: see OperationEnded."""

    name: str
    changed: bool
    seconds: float
    converges: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class TracedInput:
    """What the recipe looked at in the project: ``kind`` is ``file``, ``absent`` or ``listing``.

    ``path`` starts at the project's root; paths in the recipe's own folder are among them.
    """

    kind: str
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Configured:
    """A recipe that was applied. ``opaque`` says why tracing cannot know all inputs, if so."""

    operations: tuple[OperationRecord, ...]
    changed: int
    unchanged: int
    traced: tuple[TracedInput, ...]
    opaque: str | None


def configure(
    request: ConfigureRequest,
    machine: Machine,
    *,
    on_event: Callable[[Event], None],
    log: Callable[[str], None],
    cancel: threading.Event,
    standby: Standby | None = None,
) -> Configured:
    """Apply the recipe once. ``on_event`` and ``log`` (redacted lines) are called in this thread.

    ``standby`` may hold a child that was prepared by ``child_spec``.

    Raises ConfigureError for whatever the recipe does wrong, Interrupted after ``cancel`` was set, HostError
    if there can be no sandbox, MachineError. Afterwards no process of the recipe is left on this host.
    """
    recipe = request.recipe
    clock = Clock(PREPARING, each=recipe.timeout, total=recipe.total_timeout)
    redactor = Redactor(request.secrets.values())
    listener = _Listener(recipe, clock, on_event, log)
    session = Session(
        machine=machine,
        clock=clock,
        redactor=redactor,
        on_item=listener.hear,
        cancel=cancel,
    )
    message = {
        "project": recipe.project,
        "deploy": recipe.deploy_file,
        "workdir": workdir_of(recipe),
        "name": recipe.name,
        "groups": list(recipe.groups),
        "data": dict(request.data),
        "secrets": dict(request.secrets),
    }
    log(f"configuring {recipe.name} for {request.target}")
    warn_without_sandbox(on_event, log)
    spec = child_spec(recipe, request.environment, request.hidden)
    try:
        with (standby or Standby()).take(spec) as child:
            exit_status = run_child(session, child, message)
    except OutOfTime as error:
        raise _explain_time_out(error, recipe) from None
    if listener.configured is None:
        raise explain_early_end(exit_status, listener.output, started=listener.started)
    return listener.configured


def child_spec(recipe: Recipe, environment: Mapping[str, str], hidden: Sequence[str]) -> ChildSpec:
    """The child that ``configure`` wants: see ConfigureRequest."""
    return ChildSpec(
        module="baker.configurer.child",
        sandbox=make_sandbox(recipe, hidden),
        environment=tuple((name, environment[name]) for name in recipe.environment if name in environment),
    )


def workdir_of(recipe: Recipe) -> str:
    """Where relative paths of the recipe start."""
    return str(Path(recipe.folder, recipe.workdir)) if recipe.workdir else recipe.project


def make_sandbox(recipe: Recipe, hidden: Sequence[str]) -> Sandbox:
    """What the recipe's process may see. Of the user's home not even in a project that holds it."""
    readable = (*find_interpreter_folders(), *find_linked_packages([recipe.project, *hidden]))
    home = os.path.expanduser("~")  # noqa: PTH111 - Path raises for a user without one
    covered = [*hidden, *(f"{home}/{name}" for name in CREDENTIALS)]
    inside = [folder for folder in covered if Path(folder).is_relative_to(recipe.project)]
    return Sandbox(
        project=recipe.project,
        readable=readable,
        hidden=tuple(folder for folder in inside if Path(folder).is_dir()),
    )


def warn_without_sandbox(on_event: Callable[[Event], None], log: Callable[[str], None]) -> None:
    """Say it each time, where everybody looks."""
    if (why := why_no_sandbox()) is not None:
        log(f"no sandbox ({why}): the recipe's code may read all that this user may, credentials too")
        on_event(Unconfined(why=why))


class _Listener:
    """Makes events, log lines and the result out of what the child says."""

    def __init__(
        self, recipe: Recipe, clock: Clock, on_event: Callable[[Event], None], log: Callable[[str], None]
    ) -> None:
        self.configured: Configured | None = None
        self.output: list[str] = []
        self.started = False
        self._recipe = recipe
        self._clock = clock
        self._on_event = on_event
        self._log = log
        self._running: list[str] = []
        self._not_fetched: list[str] = []
        self._operations: list[OperationRecord] = []

    def hear(self, item: Message | Line) -> None:
        if isinstance(item, Line):
            self._log(item.text)
            if item.own:
                self.output.append(item.text)
                self._on_event(RecipeOutput(line=item.text))
            elif FETCH_FAILED in item.text and len(self._not_fetched) < MAX_NOT_FETCHED:
                self._not_fetched.append(item.text)
            return
        self.started = True
        try:
            event = read_event(item.content)
            if event is None:
                self._finish(item.content)
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigureError(f"the configurer's child sent what is no message: {error}") from error
        if event is not None:
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case Prepared():
                self._clock.begin(BETWEEN)
                self._log(f"prepared {event.operations} operations in {event.seconds:.1f} s")
            case OperationStarted():
                self._running.append(event.name)
                self._clock.begin(_quote(event.name))
                self._log(f"[{event.number}/{event.total}] {event.name}")
            case OperationEnded():
                self._end(event)
            case OperationRetried():
                self._log(f"retrying {event.name}: attempt {event.attempt} of {event.attempts}")
        self._on_event(event)
        if isinstance(event, OperationFailed):
            raise explain_failed_operation(event, self._not_fetched)

    def _end(self, event: OperationEnded) -> None:
        if event.name in self._running:
            self._running.remove(event.name)
        self._clock.begin(_quote(self._running[-1]) if self._running else BETWEEN)
        outcome = "failed (ignored)" if event.ignored_error else "changed" if event.changed else "unchanged"
        self._log(f"[{event.number}] {outcome} in {event.seconds:.1f} s")
        self._operations.append(
            OperationRecord(
                name=event.name, changed=event.changed, seconds=event.seconds, converges=event.converges
            )
        )

    def _finish(self, message: Mapping[str, Any]) -> None:
        match message:
            case {
                "kind": "failed",
                "message": str(text),
                "file": file,
                "line": line,
                "unreadable": unreadable,
            }:
                raise explain_failure(self._recipe, text, file, line, unreadable)
            case {"kind": "finished", "traced": list(traced), "opaque": opaque}:
                changed = sum(operation.changed for operation in self._operations)
                self.configured = Configured(
                    operations=tuple(self._operations),
                    changed=changed,
                    unchanged=len(self._operations) - changed,
                    traced=tuple(TracedInput(kind=str(kind), path=str(path)) for kind, path in traced),
                    opaque=None if opaque is None else str(opaque),
                )
            case {"kind": "started"}:
                pass
            case _:
                raise ValueError(str(message)[:200])


# --- messages ------------------------------------------------------------------------------------------


def _quote(name: str) -> str:
    return f'operation "{name}"'


def explain_failed_operation(event: OperationFailed, not_fetched: Sequence[str] = ()) -> ConfigureError:
    """``not_fetched`` are lines in which apt said so in the course of the recipe, this operation's or not."""
    where = f"{event.file}:{event.line}: " if event.file and event.line else ""
    command = ""
    if event.command is not None:
        text = event.command if len(event.command) <= COMMAND_LENGTH else f"{event.command[:COMMAND_LENGTH]}…"
        command = f"{text} "
    tail = "".join(f"\n  {line}" for line in event.stderr_tail.splitlines())
    output = event.stderr_tail
    if any(words in output for words in NOT_FOUND):
        output = "\n".join([*not_fetched, output])
    return ConfigureError(
        f"{where}{_quote(event.name)} failed: {command}{event.message}{tail}",
        passing=is_passing_fetch(output),
    )


def explain_failure(
    recipe: Recipe, text: str, file: object, line: object, unreadable: object
) -> ConfigureError:
    if isinstance(unreadable, str):
        path = Path(recipe.project, unreadable)
        flags = "-R o+rX" if path.is_dir() else "o+r"
        if os.geteuid() != 0:
            return ConfigureError(
                f"{unreadable}: the recipe's process cannot read it: it has the rights of this user",
                hint=f"ls -ld {path} shows whose it is",
            )
        return ConfigureError(
            f"{unreadable}: the recipe's process cannot read it: it runs as nobody",
            hint=f"chmod {flags} {path}",
        )
    where = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
    return ConfigureError(f"{where}{text}")


def _explain_time_out(error: OutOfTime, recipe: Recipe) -> ConfigureError:
    if error.total:
        return ConfigureError(
            f"{recipe.name} took longer than its total_timeout of {error.limit:g} s, at {error.what}",
            hint="Raise total_timeout in its recipe.toml",
        )
    return ConfigureError(
        f"{error.what} ran longer than the recipe's timeout of {error.limit:g} s",
        hint="Raise timeout in its recipe.toml, or give the operation a _timeout",
    )


def explain_early_end(
    exit_status: int, output: Sequence[str], *, started: bool
) -> ConfigureError | HostError:
    """A child that said neither that it is done nor why it is not."""
    tail = "".join(f"\n  {line}" for line in output[-OUTPUT_TAIL:])
    if not started and os.geteuid() != 0:
        return explain_refusal("\n".join(output)) or HostError(
            f"the recipe's process did not start (status {exit_status}){tail}",
            hint="Make the project, the interpreter and its packages readable for this user",
        )
    if not started:
        return HostError(
            f"the sandbox for a recipe's code did not start (status {exit_status}){tail}",
            hint="The interpreter and its packages must be readable for everybody",
        )
    return ConfigureError(f"the recipe's process ended too early (status {exit_status}){tail}")
