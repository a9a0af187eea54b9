"""Starts a child without a sandbox, where there is none or where the user wants none. Any Unix."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping

from baker.configurer.sandbox import ENVIRONMENT, interpreter_argv

WATCH = 'read -r _; kill -KILL "-$1"; rm -rf -- "$2"'  # dash's kill knows no "--" there
"""A shell that ends a process group, and removes its home, when the process that holds its input is gone."""

DRAIN_SECONDS = 1.0
"""How long what a child wrote last may wait to be read, once it is gone."""


class Group:
    """Ends a child by its process group. What left the group (a daemon of the recipe) is only not read."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        watcher: subprocess.Popen[bytes],
        output: socket.socket,
        home: str,
    ) -> None:
        self._process = process
        self._watcher = watcher
        self._output = output
        self._home = home
        self._killed = False

    def kill(self) -> None:
        if self._killed:  # its number may be somebody else's by now
            return
        self._killed = True
        _kill_group(self._process.pid)
        self._process.wait()
        self._end_output()

    def release(self) -> None:
        self._watcher.kill()
        self._watcher.wait()
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._output.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def _end_output(self) -> None:
        """Whoever reads it comes to its end, even if something that left the group could still write."""
        deadline = time.monotonic() + DRAIN_SECONDS
        with contextlib.suppress(OSError):  # nothing there (any more)
            while self._output.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) and time.monotonic() < deadline:
                time.sleep(0.01)
        with contextlib.suppress(OSError):
            self._output.shutdown(socket.SHUT_RDWR)


def start_unconfined(
    module: str, environment: Mapping[str, str], socket_fd: int
) -> tuple[subprocess.Popen[bytes], Group]:
    """Start ``python -m MODULE`` with a clean environment, and with a home of its own, which is empty.

    It ends when this process does.
    """
    home = tempfile.mkdtemp(prefix="baker-recipe-")
    # Not a pipe: that would end only with the last process that may write to it.
    output, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            interpreter_argv(module),
            env={**ENVIRONMENT, "HOME": home, "TMPDIR": home, **environment},
            stdin=subprocess.PIPE,
            stdout=theirs.fileno(),
            stderr=subprocess.STDOUT,
            pass_fds=(socket_fd,),
            start_new_session=True,  # a Ctrl-C is for us to act upon, and its group can be ended
        )
    process.stdout = output.makefile("rb")
    try:
        watcher = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, "sh", str(process.pid), home],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        _kill_group(process.pid)
        process.wait()
        raise
    return process, Group(process, watcher, output, home)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses where all are dead
        os.killpg(leader, signal.SIGKILL)
