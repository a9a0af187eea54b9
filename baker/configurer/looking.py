"""Tells what a recipe looks at without opening it: what ``os`` says of a path. Child side.

Python's audit hooks do not tell of ``stat`` and its like, and they leave out which folder a relative path
starts at. So the functions of ``os`` are replaced; what the standard library makes of them (``pathlib``,
``os.path``, ``glob``, ``shutil``) is seen by that.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, Protocol

import pyinfra.api.util

REAL: Mapping[str, Callable[..., Any]] = {
    name: getattr(os, name) for name in ("access", "fstat", "lstat", "open", "readlink", "scandir", "stat")
}

Ask = Callable[[str], None]
"""Is told the kind of what is asked for of a path."""

KINDS = {
    "st_mode": "mode",
    "st_size": "size",
    "st_mtime": "time",
    "st_mtime_ns": "time",
    "st_ctime": "time",
    "st_ctime_ns": "time",
    "st_ino": "link",
}
"""What values of a ``stat`` depend on. Owners, devices and times of reading are never inputs."""

PATH_MODULES = {"os", "genericpath", "posixpath", "pathlib", "glob", "fnmatch"}
"""Of a mode they ask nothing but what kind of file it is of, and they look because somebody asks them to."""


class Look(Protocol):
    def __call__(self, kind: str, path: Any, dir_fd: int | None = None) -> Ask | None:
        """Is told of every look: ``kind`` is ``absent``, ``type``, or ``link`` for the path itself.

        Returns what wants to know what more is asked for of it, if anybody does.
        """


def module_of(frame: FrameType | None) -> str:
    """The name of the module whose code a frame runs."""
    return "" if frame is None else str(frame.f_globals.get("__name__"))


def is_path_module(name: str) -> bool:
    return name.partition(".")[0] in PATH_MODULES


class Stat(tuple[Any, ...]):
    """An ``os.stat_result`` that tells which of its values are asked for."""

    found: os.stat_result
    ask: Ask

    def __new__(cls, found: os.stat_result, ask: Ask) -> Stat:
        made = super().__new__(cls, found)
        made.found, made.ask = found, ask
        return made

    @property  # type: ignore[misc]
    def __class__(self) -> type[os.stat_result]:  # type: ignore[override]  # for isinstance
        return os.stat_result

    def __getattr__(self, name: str) -> Any:
        if (kind := KINDS.get(name)) and (kind != "mode" or not is_path_module(module_of(sys._getframe(1)))):
            self.ask(kind)
        return getattr(self.found, name)

    def __getitem__(self, key: Any) -> Any:
        return self._tell_all()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._tell_all())

    def __eq__(self, other: object) -> bool:
        return self._tell_all() == other

    def __hash__(self) -> int:
        return hash(self._tell_all())

    def __reduce__(self) -> Any:
        return self._tell_all().__reduce__()

    def _tell_all(self) -> os.stat_result:
        for kind in dict.fromkeys(KINDS.values()):
            self.ask(kind)
        return self.found


class Entry:
    """An ``os.DirEntry`` that tells when more is asked for than its name and type."""

    def __init__(self, entry: os.DirEntry[Any], folder: Any) -> None:
        self._entry = entry
        self._folder = folder if isinstance(folder, int) else None

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        name = self._entry.path if self._folder is None else self._entry.name
        return os.stat(name, dir_fd=self._folder, follow_symlinks=follow_symlinks)

    def __fspath__(self) -> Any:
        return self._entry.path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)

    def __repr__(self) -> str:
        return repr(self._entry)


class Entries:
    """What ``os.scandir`` returns."""

    def __init__(self, found: Any, folder: Any) -> None:
        self._found = found
        self._folder = folder

    def __iter__(self) -> Entries:
        return self

    def __next__(self) -> Entry:
        return Entry(next(self._found), self._folder)

    def __enter__(self) -> Entries:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        self._found.close()


class Lookups:
    """Functions that tell ``look`` of what they are asked, and do what those of ``os`` do.

    ``opening`` is told of what is opened by the number of its folder, and is left when it is open.
    """

    def __init__(
        self, look: Look, opening: Callable[[Any, int], contextlib.AbstractContextManager[None]]
    ) -> None:
        self._look = look
        self._opening = opening

    def install(self) -> None:
        for name, real in REAL.items():
            ours = getattr(self, name)
            setattr(os, name, ours)
            for supporting in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
                if real in supporting:
                    supporting.add(ours)
        vars(pyinfra.api.util)["stat"] = self.stat  # it took that by its name

    def stat(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        try:
            found = REAL["stat"](path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        except OSError:
            self._look("absent", path, dir_fd)
            raise
        return _wrap(found, self._look("type" if follow_symlinks else "link", path, dir_fd))

    def lstat(self, path: Any, *, dir_fd: int | None = None) -> os.stat_result:
        return self.stat(path, dir_fd=dir_fd, follow_symlinks=False)

    def fstat(self, fd: int) -> os.stat_result:
        return _wrap(REAL["fstat"](fd), self._look("type", fd))

    def access(self, path: Any, mode: int, *, dir_fd: int | None = None, **options: Any) -> bool:
        is_there = REAL["access"](path, os.F_OK, dir_fd=dir_fd, **options)
        ask = self._look("type" if is_there else "absent", path, dir_fd)
        if ask is not None and is_there and mode != os.F_OK:
            ask("mode")
        return bool(REAL["access"](path, mode, dir_fd=dir_fd, **options))

    def readlink(self, path: Any, *, dir_fd: int | None = None) -> Any:
        with contextlib.suppress(OSError):
            self.lstat(path, dir_fd=dir_fd)
        return REAL["readlink"](path, dir_fd=dir_fd)

    def scandir(self, path: Any = None) -> Entries:
        return Entries(REAL["scandir"](path), path)

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if dir_fd is None:
            return int(REAL["open"](path, flags, mode))
        with self._opening(path, dir_fd):
            return int(REAL["open"](path, flags, mode, dir_fd=dir_fd))


def _wrap(found: os.stat_result, ask: Ask | None) -> os.stat_result:
    return found if ask is None else Stat(found, ask)  # type: ignore[return-value]
