"""Tells the parent of every operation, and why one failed. Child side."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyinfra.api.command import FunctionCommand
from pyinfra.api.exceptions import NestedOperationError, PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.state import BaseStateCallback, State, StateOperationHostData

from baker.configurer.connector import LastCommand, MachineConnector
from baker.configurer.events import Event, OperationEnded, OperationFailed, OperationRetried, OperationStarted
from baker.configurer.failures import describe_failure
from baker.configurer.project import Project
from baker.configurer.redaction import remove_controls

NAME_LENGTH = 100
TAIL_LINES = 20


class RecipeState(State):
    """pyinfra's state for the one machine; remembers which line of the recipe asked for an operation."""

    def __init__(self, project: Project) -> None:
        # Without a search for changes up front: an operation looks when its turn comes, so that it sees
        # what those before it did, and looks once.
        super().__init__(check_for_changes=False)
        self.project = project
        self.places: dict[str, tuple[str, int]] = {}
        self.never_converge: set[str] = set()

    def set_op_data_for_host(self, host: Host, op_hash: str, op_data: StateOperationHostData) -> None:
        if place := self.project.locate(sys._getframe(1)):
            self.places[op_hash] = place
        function = sys._getframe(1).f_locals.get("func")  # pyinfra keeps what it decorates nowhere else
        if not getattr(function, "is_idempotent", True):
            self.never_converge.add(op_hash)
        super().set_op_data_for_host(host, op_hash, op_data)

    def fail_hosts(self, hosts_to_fail: set[Host], activated_count: int | None = None) -> None:  # noqa: ARG002
        """There is one machine: its failure ends the recipe. Most often an operation has told why already."""
        for host in hosts_to_fail:
            last = connector_of(host).last
            raise PyinfraError(
                f"{last.command}: {_say_status(last)}\n{_tail(last)}" if last else "the machine failed"
            )


@dataclass(kw_only=True, slots=True)
class _Running:
    op_hash: str
    name: str
    number: int
    nested: bool
    started: float
    seconds: float | None = None
    ignored_error: bool = False


class OperationReporter(BaseStateCallback):
    """pyinfra calls it around operations. Nested ones are told of like others, while the outer one runs.

    Whether an operation changed something is known only after its callback: when it is complete.
    """

    def __init__(self, state: RecipeState, send: Callable[[Event], None]) -> None:
        self.failed: OperationFailed | None = None
        self._state = state
        self.send = send
        self._stack: list[_Running] = []
        self._started = 0
        self._callback_error: Exception | None = None

    @property
    def place(self) -> tuple[str, int] | None:
        """The recipe's line that asked for what runs now."""
        return self._state.places.get(self._stack[-1].op_hash) if self._stack else None

    def watch_callbacks(self) -> None:
        """pyinfra logs what a python.call raises, and forgets it."""
        execute = FunctionCommand.execute

        def watched(command: FunctionCommand, *arguments: Any) -> Any:
            try:
                return execute(command, *arguments)
            except Exception as error:
                self._callback_error = error
                raise

        FunctionCommand.execute = watched  # type: ignore[method-assign, assignment]

    # --- called by pyinfra ---------------------------------------------------------------------------

    def operation_start(self, state: State, op_hash: str) -> None:  # type: ignore[override]
        self._begin(state, op_hash, nested=False)

    def operation_host_start(self, state: State, host: Host, op_hash: str) -> None:  # type: ignore[override]
        if self._stack[-1].op_hash != op_hash:
            self._end_complete(state)
            self._begin(state, op_hash, nested=True)
        self._forget(host)

    def operation_host_retry(  # type: ignore[override]
        self, _state: State, host: Host, _op_hash: str, retry_num: int, max_retries: int
    ) -> None:
        self._forget(host)
        name = self._stack[-1].name
        self.send(OperationRetried(name=name, attempt=retry_num + 1, attempts=max_retries + 1))

    def operation_host_success(  # type: ignore[override]
        self, state: State, _host: Host, op_hash: str, _retry_count: int = 0
    ) -> None:
        self._stop_watch(state, op_hash)

    def operation_host_error(  # type: ignore[override]
        self, state: State, host: Host, op_hash: str, _retry_count: int = 0, _max_retries: int = 0
    ) -> None:
        running = self._stop_watch(state, op_hash)
        arguments = state.get_op_data_for_host(host, op_hash).global_arguments
        if arguments["_ignore_errors"]:
            running.ignored_error, self.failed = True, None
        elif self.failed is None:  # else a nested one was the reason
            self.failed = self._explain(running, host, arguments.get("_timeout"))

    def operation_end(self, state: State, _op_hash: str) -> None:  # type: ignore[override]
        self._end_complete(state)

    # --- telling -------------------------------------------------------------------------------------

    def _begin(self, state: State, op_hash: str, *, nested: bool) -> None:
        self._started += 1
        meta = state.get_op_meta(op_hash)
        name = ", ".join(sorted(meta.names))
        if meta.args:
            name = " ".join(f"{name} ({', '.join(meta.args)})".split())
            name = name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"
        running = _Running(
            op_hash=op_hash, name=name, number=self._started, nested=nested, started=time.monotonic()
        )
        self._stack.append(running)
        total = max(self._started, *(len(operations) for operations in state.ops.values()))
        self.send(OperationStarted(name=name, number=running.number, total=total, nested=nested))

    def _forget(self, host: Host) -> None:
        connector_of(host).last = None
        self.failed = self._callback_error = None

    def _stop_watch(self, state: State, op_hash: str) -> _Running:
        while self._stack[-1].op_hash != op_hash:  # nested ones that ended before
            self._end(state, self._stack.pop())
        running = self._stack[-1]
        running.seconds = time.monotonic() - running.started
        return running

    def _end_complete(self, state: State) -> None:
        while self._stack and self._stack[-1].seconds is not None:
            self._end(state, self._stack.pop())

    def _end(self, state: State, running: _Running) -> None:
        [operations] = state.ops.values()
        meta = operations[running.op_hash].operation_meta
        if meta.did_succeed(_raise_if_not_complete=False) or running.ignored_error:
            self.send(
                OperationEnded(
                    name=running.name,
                    number=running.number,
                    changed=meta.did_change(),
                    seconds=running.seconds or 0.0,
                    nested=running.nested,
                    ignored_error=running.ignored_error,
                    converges=running.op_hash not in self._state.never_converge,
                )
            )

    def _explain(self, running: _Running, host: Host, timeout: float | None) -> OperationFailed:
        place, last, error = (
            self._state.places.get(running.op_hash),
            connector_of(host).last,
            self._callback_error,
        )
        message, command, status, tail = "failed", None, None, ""
        if isinstance(error, TimeoutError):
            message = f"its function timed out after {timeout:g} s" if timeout else "its function timed out"
        elif error is not None and not isinstance(error, NestedOperationError):
            failure = describe_failure(error, self._state.project, place)
            message = failure.message
            place = (failure.file, failure.line) if failure.file and failure.line else place
        elif last is not None:
            message, command, status, tail = (
                _say_status(last, timeout),
                last.command,
                last.exit_status,
                _tail(last),
            )
        file, line = place or (None, None)
        return OperationFailed(
            name=running.name,
            message=message,
            file=file,
            line=line,
            command=command,
            exit_status=status,
            stderr_tail=tail,
        )


def connector_of(host: Host) -> MachineConnector:
    assert isinstance(host.connector, MachineConnector)
    return host.connector


def _say_status(last: LastCommand, timeout: float | None = None) -> str:
    if last.exit_status is None:
        return f"timed out after {timeout:g} s" if timeout else "timed out"
    return f"exited with status {last.exit_status}"


def _tail(last: LastCommand) -> str:
    """The last lines of stderr; many tools complain on stdout instead."""
    lines = last.output.stderr_lines or last.output.stdout_lines
    return remove_controls("\n".join(lines[-TAIL_LINES:]))
