"""The undo stack of one bake, and the ledger that survives the process.

    with teardown.making(Resource(kind="security-group", id=name, …), undo=lambda: delete(name)):
        create(name)

The ledger says *intended* before the thing is asked for and *exists* after it; the undo is on the stack
before the thing is asked for, so the step that fails half-way is cleaned up too. Undos are idempotent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from baker.model import LedgerEntry, Resource

MACHINES = ("machine", "instance")
"""The kinds of resources that run."""


class Ledger(Protocol):
    """Where resources are written down. The catalog implements it. Every call is durable when it returns."""

    def intend(self, bake_id: str, resource: Resource) -> None:
        """Written before the resource is asked for. If this raises, nothing may be made."""

    def exists(self, bake_id: str, resource: Resource) -> None:
        """The resource is there."""

    def removed(self, bake_id: str, resource: Resource) -> None:
        """The resource is gone, or is no longer this bake's to remove."""

    def open_entries(self, bake_id: str | None = None) -> Sequence[LedgerEntry]:
        """Entries that are not removed: of one bake, or of all."""


def describe_resource(resource: Resource) -> str:
    """``instance 01J… in eu-west-1``."""
    where = f" in {resource.place}" if resource.place else ""
    return f"{resource.kind} {resource.id}{where}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftBehind:
    """A resource whose removal failed, and why."""

    resource: Resource
    error: str


class Teardown:
    """Undoes what was made, newest first, whatever happens to each.

    ``cancel`` is set when the bake is to end: whoever waits for something that is made looks at it.
    """

    def __init__(self, bake_id: str, ledger: Ledger | None, cancel: threading.Event | None = None) -> None:
        self.bake_id = bake_id
        self.cancel = cancel or threading.Event()
        self._ledger = ledger
        self._stack: list[tuple[Resource, Callable[[], None]]] = []

    @contextmanager
    def making(self, resource: Resource, undo: Callable[[], None]) -> Iterator[None]:
        if self._ledger is not None:
            self._ledger.intend(self.bake_id, resource)
        self._stack.append((resource, undo))
        yield
        if self._ledger is not None:
            self._ledger.exists(self.bake_id, resource)

    def keep(self, resource: Resource) -> None:
        """The resource outlives the bake (a registered artifact): it is not undone."""
        self._stack = [entry for entry in self._stack if entry[0] != resource]
        if self._ledger is not None:
            self._ledger.removed(self.bake_id, resource)

    def undo(self, resource: Resource) -> None:
        """Undo one resource now. Raises what its undo raises; then it stays on the stack."""
        for entry in [entry for entry in self._stack if entry[0] == resource]:
            entry[1]()
            self._stack.remove(entry)
            if self._ledger is not None:
                self._ledger.removed(self.bake_id, resource)

    @property
    def resources(self) -> list[Resource]:
        return [resource for resource, _ in self._stack]

    def close(self) -> list[LeftBehind]:
        """Undo everything that is left. Never raises: what could not be removed is returned."""
        left = []
        while self._stack:
            resource, undo = self._stack.pop()
            try:
                undo()
                if self._ledger is not None:
                    self._ledger.removed(self.bake_id, resource)
            except Exception as error:  # a cleanup never hides the failure before it
                left.append(LeftBehind(resource=resource, error=str(error) or type(error).__name__))
        return left
