"""A shell in a machine, on the terminal of the command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from baker.console import Console
from baker.errors import BakerError, UsageError

if TYPE_CHECKING:
    from baker.providers.protocol import Machine


def open_shell(machine: Machine, console: Console) -> None:
    """Until it is left. The terminal is ours again afterwards, even if the shell was killed."""
    if not machine.alive():
        console.say("The machine has stopped already: there is nothing to look into")
        return
    console.say(f"A shell in {machine.name}; leave it with exit")
    machine.interactive(["/bin/bash", "--login"])
    # Else the kernel would stop whoever takes the terminal back without being its foreground.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        os.tcsetpgrp(sys.stdin.fileno(), os.getpgrp())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def require_terminal(console: Console, *, jobs: int) -> None:
    """Raises UsageError where no shell could be opened in a failed bake."""
    if not console.can_ask() or not sys.stdout.isatty():
        raise UsageError(
            "--on-error shell needs a terminal", hint="In a script: --on-error keep, and enter it later."
        )
    if jobs > 1:
        raise UsageError("--on-error shell has one terminal: it goes with --jobs 1 only")


def shell_opener(console: Console) -> Callable[[Machine, BakerError], None]:
    """Says why a bake failed and lets the user look into its machine."""

    def enter(machine: Machine, error: BakerError) -> None:
        console.error(error)
        open_shell(machine, console)

    return enter
