"""What happens while a recipe is applied or image tests run, as frozen values. Nothing here does I/O.

A child process sends them; ``read_event`` trusts nothing that it says.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The recipe was read; ``operations`` is the number known so far (nested ones come on top)."""

    operations: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationStarted:
    """``number`` counts from 1 in the order of execution; ``total`` is what is known by now."""

    name: str
    number: int
    total: int
    nested: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationEnded:
    """The operation is done. ``ignored_error``: it failed, and the recipe said that this does not matter.

    ``converges`` is False where pyinfra itself says that the operation acts each time (server.shell).
    """

    name: str
    number: int
    changed: bool
    seconds: float
    nested: bool
    ignored_error: bool
    converges: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationRetried:
    """An attempt failed; attempt ``attempt`` of ``attempts`` follows after the operation's delay."""

    name: str
    attempt: int
    attempts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationFailed:
    """The operation failed for good. ``file`` (from the project's root) and ``line`` are the recipe's.

    ``command`` is what failed on the machine, with its ``exit_status`` (None: it timed out) and the last
    lines of its stderr; it is None if the recipe's own code failed. ``message`` says what went wrong.
    """

    name: str
    message: str
    file: str | None
    line: int | None
    command: str | None
    exit_status: int | None
    stderr_tail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeOutput:
    """One line that the recipe's own process wrote: a print, a warning of pyinfra."""

    line: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unconfined:
    """The recipe's process has no sandbox, and ``why``. The parent says so itself."""

    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTestStarted:
    """An image test starts."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTestEnded:
    """An image test is over. ``outcome`` is ``passed``, ``failed``, ``skipped`` or ``error``.

    ``error`` means that the test could not be run: its file does not import, or a fixture failed. ``file``
    (from the project's root) and ``line`` say where it failed, ``message`` what the assertion said.
    """

    name: str
    outcome: str
    seconds: float
    message: str
    file: str | None
    line: int | None


Event = (
    Prepared
    | OperationStarted
    | OperationEnded
    | OperationRetried
    | OperationFailed
    | RecipeOutput
    | Unconfined
    | ImageTestStarted
    | ImageTestEnded
)

_KINDS: Mapping[str, type[Event]] = {kind.__name__: kind for kind in typing.get_args(Event)}


def write_event(event: Event) -> dict[str, object]:
    """The event as JSON has it."""
    return {"kind": type(event).__name__, **dataclasses.asdict(event)}


def read_event(message: Mapping[str, object]) -> Event | None:
    """The event in a message, None if it holds something else. Raises TypeError for a wrong field."""
    kind = _KINDS.get(str(message.get("kind")))
    if kind is None:
        return None
    hints = typing.get_type_hints(kind)
    fields: dict[str, Any] = {name: message.get(name) for name in hints}
    for name, hint in hints.items():
        if not isinstance(fields[name], int | float if hint is float else hint):
            raise TypeError(f"{kind.__name__}.{name} is {fields[name]!r}")
    return kind(**fields)
