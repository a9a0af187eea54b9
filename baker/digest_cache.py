"""What the files of a project came to, kept in BAKER_HOME: a plan reads only what has changed since."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from baker.project_files import Seen, seen_files

FORMAT = 1
"""Raise it when the same file may come to something else."""

_loaded: set[Path] = set()


@contextmanager
def remembering_digests(home: Path, project: Path) -> Iterator[None]:
    """Within, what earlier processes read is known; what is read is kept for later ones.

    A cache that is damaged counts as empty, and one that may not be written is none.
    """
    path = find_cache(home, project)
    if path not in _loaded:
        _loaded.add(path)
        seen_files.known = {**_read(path, project), **seen_files.known}
    yield
    if seen_files.is_new:
        seen_files.is_new = False
        with contextlib.suppress(OSError):
            _write(path, project)


def find_cache(home: Path, project: Path) -> Path:
    return home / "digests" / f"{hashlib.sha256(os.fsencode(project)).hexdigest()[:16]}.json"


def _read(path: Path, project: Path) -> dict[str, Seen]:
    try:
        check, _, text = path.read_bytes().partition(b"\n")
    except OSError:
        return {}
    if check.decode(errors="replace") != _check(text):
        return {}
    return {f"{project}/{name}": (tuple(stamp), value) for name, (stamp, value) in json.loads(text).items()}


def _write(path: Path, project: Path) -> None:
    """What is not there any more is left out."""
    below = f"{project}/"
    files = {
        name.removeprefix(below): seen
        for name, seen in list(seen_files.known.items())  # other threads look at more meanwhile
        if name.startswith(below) and os.path.lexists(name)
    }
    text = json.dumps(files, separators=(",", ":")).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}")
    try:
        new.write_bytes(b"\n".join([_check(text).encode(), text]))
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _check(text: bytes) -> str:
    return hashlib.sha256(b"%d %b" % (FORMAT, text)).hexdigest()
