"""Starts a child in its sandbox. Linux only, when it is called."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping

from baker.configurer.sandbox import ACCOUNTS, ENVIRONMENT, Sandbox, sandbox_argv


class FirstProcess:
    """Ends a sandbox by its first process. ``pidfd`` is that one's; None if it did not come to that."""

    def __init__(self, bubblewrap: subprocess.Popen[bytes], pidfd: int | None) -> None:
        self._bubblewrap = bubblewrap
        self._pidfd = pidfd

    def kill(self) -> None:
        """The kernel ends all others with the first process, and bubblewrap then ends itself.

        The other way round nobody of ours would be left to reap them.
        """
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        else:
            self._bubblewrap.kill()
        self._bubblewrap.wait()

    def release(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)


def start_confined(
    sandbox: Sandbox, module: str, environment: Mapping[str, str], socket_fd: int
) -> tuple[subprocess.Popen[bytes], FirstProcess]:
    """Start ``python -m MODULE`` under bubblewrap, which is the process that is returned."""
    info, told = os.pipe()
    with contextlib.ExitStack() as only_theirs, open(info) as answer:  # noqa: PTH123 - a descriptor
        only_theirs.callback(os.close, told)
        accounts = {}
        for name, text in ACCOUNTS.items():
            accounts[name] = os.memfd_create(name)
            only_theirs.callback(os.close, accounts[name])
            os.write(accounts[name], text.encode())
            os.lseek(accounts[name], 0, os.SEEK_SET)
        as_root = os.geteuid() == 0
        argv = sandbox_argv(sandbox, module, info_fd=told, account_fds=accounts, as_root=as_root)
        process = subprocess.Popen(
            argv,
            executable=shutil.which(argv[0]),  # on our PATH, not on the child's
            env={**ENVIRONMENT, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(socket_fd, told, *accounts.values()),
            start_new_session=True,  # a Ctrl-C is for us to act upon
        )
        only_theirs.close()
        text = answer.read()
    try:
        return process, FirstProcess(process, os.pidfd_open(json.loads(text)["child-pid"]))
    except (ValueError, ProcessLookupError):
        return process, FirstProcess(process, None)
