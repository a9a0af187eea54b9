"""Ids of bakes, what says that a bake still lives, and what is written down of where it ran."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from baker.errors import HostError
from baker.git import run_git

OWN_HOME = "Set BAKER_HOME to a folder of yours, or run it as the user whose folder it is."
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def make_bake_id(*, now: float | None = None) -> str:
    """A ULID: 26 characters that sort by time; unique without asking anybody."""
    number = int((time.time() if now is None else now) * 1000) << 80 | int.from_bytes(os.urandom(10))
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


@contextmanager
def alive(home: Path, bake_id: str) -> Iterator[None]:
    """Within, ``is_alive`` says yes: the lock ends with the process, however that ends. Raises HostError."""
    path = _lock_path(home, bake_id)
    with _open_to_lock(path) as file:
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


def forget_dead(home: Path, bake_id: str) -> None:
    """Remove the lock that a dead bake left. Only for one that was written down: it was locked by then."""
    _lock_path(home, bake_id).unlink(missing_ok=True)


@contextmanager
def in_turn(home: Path, name: str, wait: Callable[[], None]) -> Iterator[None]:
    """Within, no other process or thread of this host is within for the same name.

    While another one is, ``wait`` is called again and again: it pauses, or raises to give up. The turn ends
    with the process, however that ends. Raises HostError.
    """
    with _open_to_lock(bakes_folder(home) / f"{name}.turn") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                wait()
        yield


def mark_kept(home: Path, bake_id: str) -> None:
    """Say that what is left of a bake is left on purpose. Raises HostError."""
    path = bakes_folder(home) / f"{bake_id}.kept"
    try:
        path.touch()
    except OSError as error:
        raise HostError(f"{path} cannot be made: {error.strerror}", hint=OWN_HOME) from error


def is_kept(home: Path, bake_id: str) -> bool:
    return (bakes_folder(home) / f"{bake_id}.kept").exists()


def unmark_kept(home: Path, bake_id: str) -> None:
    (bakes_folder(home) / f"{bake_id}.kept").unlink(missing_ok=True)


def _lock_path(home: Path, bake_id: str) -> Path:
    return bakes_folder(home) / f"{bake_id}.lock"


def bakes_folder(home: Path) -> Path:
    """What processes on this host tell one another of their bakes."""
    return home / "bakes"


def _open_to_lock(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w")
    except OSError as error:
        raise HostError(f"the lock {path} cannot be made: {error.strerror}", hint=OWN_HOME) from error


def host_name() -> str:
    """How this host is named in provenance and stores."""
    return socket.gethostname()


def store_name(home: Path) -> str:
    """Names this BAKER_HOME at a provider that others use as well.

    Host and folder, and a mark of its own: two hosts may have one name. Raises HostError.
    """
    path = home / "store-id"
    try:
        if not path.exists():
            home.mkdir(parents=True, exist_ok=True)
            new = home / f".store-id.{os.getpid()}.{threading.get_native_id()}"
            new.write_text(os.urandom(4).hex())
            with contextlib.suppress(FileExistsError):  # somebody else was first
                os.link(new, path)
            new.unlink()
        return f"{host_name()}:{home}#{path.read_text().strip()}"
    except OSError as error:
        raise HostError(f"{path} cannot be made: {error.strerror}", hint=OWN_HOME) from error


def baker_version() -> str:
    import importlib.metadata  # slow to import, and most commands do not ask

    return importlib.metadata.version("baker")


def read_commit(project: str) -> tuple[str | None, bool | None]:
    """The project's git commit and whether its files differ from it; None, None outside git."""
    try:
        commit = run_git(project, "rev-parse", "HEAD")
        if commit.returncode != 0:
            return None, None
        status = run_git(project, "status", "--porcelain", "--", ".")
    except FileNotFoundError:
        return None, None
    return os.fsdecode(commit.stdout).strip(), bool(status.stdout.strip())
