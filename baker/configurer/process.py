"""A child in its sandbox: a process that waits for its request, and ends with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from baker.configurer.sandbox import ACCOUNTS, ENVIRONMENT, Sandbox, require_tools, sandbox_argv
from baker.configurer.wire import SOCKET_VARIABLE


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildSpec:
    """``python -m MODULE`` in a sandbox. Two equal ones make children that can stand in for one another."""

    module: str
    sandbox: Sandbox
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """It imports what it needs and then waits for the request on its stdin; its output is one stream.

    ``socket`` is the parent's end of the pair that it asks by. ``pidfd`` is that of the sandbox's first
    process; None if it did not come to that.
    """

    spec: ChildSpec
    process: subprocess.Popen[bytes]
    socket: socket.socket
    pidfd: int | None

    @classmethod
    def start(cls, spec: ChildSpec) -> Child:
        """Raises HostError if this host cannot make a sandbox. Whoever has it must ``end`` it."""
        require_tools()
        ours, theirs = socket.socketpair()
        with theirs:
            process, pidfd = _start(spec, theirs.fileno())
        return cls(spec=spec, process=process, socket=ours, pidfd=pidfd)

    def send_request(self, request: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.process.stdin:  # not started? its output says why
            self.process.stdin.write(json.dumps(request).encode())

    def kill(self) -> None:
        """End the sandbox's first process: the kernel ends all others there, and bubblewrap then ends itself.

        The other way round nobody of ours would be left to reap them.
        """
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Kill it and let go of what it is reached by. Once."""
        self.kill()
        self.socket.close()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        if self.pidfd is not None:
            os.close(self.pidfd)


class Standby:
    """Children that were started before they are needed: they import while something else is waited for."""

    def __init__(self) -> None:
        self._ready: dict[str, Child] = {}

    def prepare(self, spec: ChildSpec) -> None:
        """Start a child for the next time that one like it is taken. Raises HostError."""
        ready = self._ready.get(spec.module)
        if ready is None or ready.spec != spec:
            self._drop(spec.module)
            self._ready[spec.module] = Child.start(spec)

    @contextmanager
    def take(self, spec: ChildSpec) -> Iterator[Child]:
        """The one that was prepared, else a new one; afterwards it is gone. Raises HostError."""
        self.prepare(spec)
        child = self._ready.pop(spec.module)
        try:
            yield child
        finally:
            child.end()

    def close(self) -> None:
        """End those that nobody took."""
        for module in list(self._ready):
            self._drop(module)

    def _drop(self, module: str) -> None:
        if child := self._ready.pop(module, None):
            child.end()


def _start(spec: ChildSpec, socket_fd: int) -> tuple[subprocess.Popen[bytes], int | None]:
    """Start bubblewrap; returns it and a pidfd of its child."""
    info, told = os.pipe()
    with contextlib.ExitStack() as only_theirs, open(info) as answer:  # noqa: PTH123 - a descriptor
        only_theirs.callback(os.close, told)
        accounts = {}
        for name, text in ACCOUNTS.items():
            accounts[name] = os.memfd_create(name)
            only_theirs.callback(os.close, accounts[name])
            os.write(accounts[name], text.encode())
            os.lseek(accounts[name], 0, os.SEEK_SET)
        process = subprocess.Popen(
            sandbox_argv(spec.sandbox, spec.module, info_fd=told, account_fds=accounts),
            env={**ENVIRONMENT, **dict(spec.environment), SOCKET_VARIABLE: str(socket_fd)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(socket_fd, told, *accounts.values()),
            start_new_session=True,  # a Ctrl-C is for us to act upon
        )
        only_theirs.close()
        text = answer.read()
    try:
        return process, os.pidfd_open(json.loads(text)["child-pid"])
    except (ValueError, ProcessLookupError):
        return process, None
