"""Ids of bakes, and what says that a bake still lives."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def make_bake_id(*, now: float | None = None) -> str:
    """A ULID: 26 characters that sort by time; unique without asking anybody."""
    number = int((time.time() if now is None else now) * 1000) << 80 | int.from_bytes(os.urandom(10))
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


@contextmanager
def alive(home: Path, bake_id: str) -> Iterator[None]:
    """Within, ``is_alive`` says yes: the lock ends with the process, however that ends."""
    path = _lock_path(home, bake_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_alive(home: Path, bake_id: str) -> bool:
    """Whether the process of a bake on this host still runs."""
    try:
        with _lock_path(home, bake_id).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def mark_kept(home: Path, bake_id: str) -> None:
    """Say that what is left of a bake is left on purpose."""
    (home / "bakes" / f"{bake_id}.kept").touch()


def is_kept(home: Path, bake_id: str) -> bool:
    return (home / "bakes" / f"{bake_id}.kept").exists()


def unmark_kept(home: Path, bake_id: str) -> None:
    (home / "bakes" / f"{bake_id}.kept").unlink(missing_ok=True)


def _lock_path(home: Path, bake_id: str) -> Path:
    return home / "bakes" / f"{bake_id}.lock"


def host_name() -> str:
    """How this host is named in provenance and stores."""
    return socket.gethostname()


def baker_version() -> str:
    return importlib.metadata.version("baker")
