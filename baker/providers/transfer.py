"""Files in and out of a machine by its own commands, which see its links and rights as it does."""

from __future__ import annotations

from baker.errors import CommandFailed
from baker.providers.protocol import CommandResult

WRITE = 'umask 077 && cat >"$1" && chmod "$2" "$1"'


def put_argv(path: str, mode: int) -> list[str]:
    """Writes its standard input to ``path``."""
    return ["sh", "-c", WRITE, "put", path, f"{mode:o}"]


def get_argv(path: str) -> list[str]:
    """Prints what is in ``path``."""
    return ["cat", "--", path]


def require_done(done: CommandResult, what: str) -> CommandResult:
    """Raises CommandFailed: ``what``, and what the command said of it."""
    if done.exit_status != 0:
        stderr = done.stderr.decode(errors="replace").strip()
        raise CommandFailed(f"{what}: {stderr}", exit_status=done.exit_status, stderr_tail=stderr)
    return done
