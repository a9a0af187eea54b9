"""Which of all files belong to a recipe's author, as a child process sees them."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from types import FrameType


class Project:
    """Which files belong to the recipe's author: the project without the interpreter and us in it."""

    def __init__(self, root: str, not_theirs: Sequence[str]) -> None:
        self.root = root
        self._not_theirs = tuple(
            f"{folder}/" for folder in not_theirs if not f"{root}/".startswith(f"{folder}/")
        )

    def relative(self, path: str) -> str | None:
        """The path from the project's root (``.`` for itself); None if it is not theirs."""
        path = os.path.normpath(os.path.join(os.getcwd(), path))  # noqa: PTH118, PTH109 - as the system does
        if path == self.root:
            return "."
        if not path.startswith(f"{self.root}/") or f"{path}/".startswith(self._not_theirs):
            return None
        return path.removeprefix(f"{self.root}/")

    def code_file(self, name: str) -> str | None:
        """Their file that code says it is from. (Compiled modules name files that only their makers had.)"""
        return self.relative(name) if os.access(name, os.F_OK) else None

    def find_barrier(self, path: str) -> str | None:
        """The outermost file or folder on the way to a path that is there but that this user may not read."""
        place = self.root
        for name in ("", *(self.relative(path) or ".").split("/")):
            place = os.path.normpath(f"{place}/{name}")
            if os.path.isdir(place):  # noqa: PTH112
                readable = os.access(place, os.R_OK | os.X_OK)
            else:
                readable = not os.path.lexists(place) or os.access(place, os.R_OK)
            if not readable:
                return self.relative(place)
        return None

    def locate_error(self, error: BaseException) -> tuple[str, int] | None:
        """The innermost line of theirs in an exception's traceback, or in what could not be compiled."""
        if isinstance(error, SyntaxError) and error.filename and (file := self.relative(error.filename)):
            return file, error.lineno or 1
        for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
            if (file := self.code_file(frame.f_code.co_filename)) is not None:
                return file, line
        return None

    def locate(self, frame: FrameType | None) -> tuple[str, int] | None:
        """The innermost line of theirs on a stack: file from the root, line."""
        while frame is not None:
            if (file := self.code_file(frame.f_code.co_filename)) is not None:
                return file, frame.f_lineno
            frame = frame.f_back
        return None
