"""The one socket between a sandboxed child and the parent that may enter the machine.

The child inherits one end of a socket pair, so that nothing of it lies in a file system. For each request
it makes a pair of its own, sends the parent one end and keeps the other: several may be under way at once
(pyinfra runs greenlets), and one that is broken off disturbs no other. A frame is two lengths, a JSON header
and bytes:

``run``    {"verb", "argv", "stdin": bool, "timeout": seconds or null, "show": text or null} + stdin's bytes
           -> {"exit_status", "stdout": length} + stdout and stderr,
              or {"timed_out": true}, or {"error": why it could not be started}
``event``  {"verb", "message": {"kind", …}} -> {}

Files are written and read by commands (``cat``), which gives them what commands have: the machine's own
view of links, another user, a time limit.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SOCKET_VARIABLE = "BAKER_SOCKET"
"""Where the child finds the number of the descriptor that it inherits."""

MAX_HEADER = 4 << 20
MAX_BODY = 1 << 30
_LENGTHS = struct.Struct("!IQ")


class WireError(Exception):
    """The other side broke off, or sent what is no frame."""


def send_frame(connection: socket.socket, header: Mapping[str, Any], body: bytes = b"") -> None:
    text = json.dumps(header).encode()
    connection.sendall(_LENGTHS.pack(len(text), len(body)) + text)
    connection.sendall(body)


def receive_frame(
    connection: socket.socket, admit: Callable[[int], None] | None = None
) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None at the end of the connection. Raises WireError.

    ``admit`` is told how long a frame is, and may wait, before it is read.
    """
    lengths = _receive(connection, _LENGTHS.size)
    if not lengths:
        return None
    header_length, body_length = _LENGTHS.unpack(lengths)
    if header_length > MAX_HEADER or body_length > MAX_BODY:
        raise WireError(f"a frame of {header_length} + {body_length} bytes is too long")
    if admit is not None:
        admit(header_length + body_length)
    try:
        header = json.loads(_receive(connection, header_length))
    except ValueError as error:
        raise WireError(f"a frame's header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise WireError("a frame's header is no JSON object")
    return header, _receive(connection, body_length)


def _receive(connection: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes; none of them only if the connection ended before a frame's first byte."""
    data = bytearray()
    while len(data) < size:
        chunk = connection.recv(min(size - len(data), 1 << 20))
        if not chunk:
            if data or size != _LENGTHS.size:
                raise WireError("the connection broke off inside a frame")
            break
        data += chunk
    return bytes(data)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunReply:
    """A finished command, as the child sees it."""

    exit_status: int
    stdout: bytes
    stderr: bytes


class MachineClient:
    """The child's side. ``descriptor`` is its end of the parent's socket pair; it stays open."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = int(os.environ[SOCKET_VARIABLE]) if descriptor is None else descriptor

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        timeout: float | None = None,
        show: str | None = None,
    ) -> RunReply:
        """Run a command in the machine; ``show`` puts it and its output into the bake's log.

        Raises TimeoutError after ``timeout`` seconds, when the command is gone; OSError if it cannot start.
        """
        header = {
            "verb": "run",
            "argv": list(argv),
            "stdin": stdin is not None,
            "timeout": timeout,
            "show": show,
        }
        reply, body = self._ask(header, stdin or b"")
        if reply.get("timed_out"):
            raise TimeoutError(f"timed out after {timeout:g} s" if timeout else "timed out")
        if "error" in reply:
            raise OSError(reply["error"])
        split = int(reply["stdout"])
        return RunReply(exit_status=int(reply["exit_status"]), stdout=body[:split], stderr=body[split:])

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell the parent what happened. It has been put in order with everything else on return."""
        self._ask({"verb": "event", "message": message}, b"")

    def _ask(self, header: Mapping[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, socket.socket(fileno=os.dup(self._descriptor)) as parent:
                socket.send_fds(parent, [b"+"], [theirs.fileno()])
            send_frame(ours, header, body)
            reply = receive_frame(ours)
        if reply is None:
            raise WireError("the parent closed the connection")
        return reply
