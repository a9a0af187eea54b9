"""Looking for files in the texts of layers (see ``baker.layer``) without making all their entries.

A stack of layers is asked from the top: the first one that holds a path, or hides it, has the say.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from baker.versions import GLOB

Row = Sequence[Any]
"""A file of a layer as it is written down; see ``baker.layer``."""

PATH, KIND, DIGEST = 0, 1, 6


class Looked(Protocol):
    """What is looked for."""

    def find_paths(self, text: bytes) -> set[str]:
        """The paths of a layer that may be meant, seldom more; quick where there is none."""
        ...

    def is_met(self, row: Row) -> bool:
        """Whether a file at one of these paths is meant."""
        ...


class ByPath:
    """A path as it is, or those that a glob matches."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._matches = re.compile(fnmatch.translate(path)).match if GLOB.search(path) else None
        longest = max(re.split(r"\*|\?|\[[^]]*\]", path), key=len)
        self._needle = json.dumps(longest)[1:-1].encode()

    def find_paths(self, text: bytes) -> set[str]:
        if self._needle not in text:
            return set()
        if self._matches is None:
            return {self._path}
        return {row[PATH] for row in json.loads(text)["files"] if self._matches(row[PATH])}

    def is_met(self, row: Row) -> bool:  # noqa: ARG002
        return True


class ByContent:
    """Files whose content's digest begins so."""

    def __init__(self, digits: str) -> None:
        self._digits = digits

    def find_paths(self, text: bytes) -> set[str]:
        if f',"{self._digits}'.encode() not in text:
            return set()
        return {row[PATH] for row in json.loads(text)["files"] if self.is_met(row)}

    def is_met(self, row: Row) -> bool:
        return str(row[DIGEST]).startswith(self._digits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a layer says of the paths in question: what it holds, and what it hides with all below."""

    holds: Mapping[str, Row]
    hides: frozenset[str]

    def hides_path(self, path: str) -> bool:
        return bool(self.hides) and (
            path in self.hides or any(folder in self.hides for folder in list_folders(path))
        )


NO_FACTS = Facts(holds={}, hides=frozenset())


def read_facts(text: bytes, paths: set[str], around: set[str]) -> Facts:
    """``around`` are the paths with all the folders that they lie in."""
    if len(around) < 20 and not any(_mentions(text, path, path in paths) for path in around):
        return NO_FACTS
    layer = json.loads(text)
    held = {row[PATH]: row for row in layer["files"] if row[PATH] in around}
    hidden = {path for path in layer["removed"] if path in around}
    hidden.update(path for path, row in held.items() if row[KIND] != "d")
    return Facts(holds={path: held[path] for path in held.keys() & paths}, hides=frozenset(hidden))


def _mentions(text: bytes, path: str, is_asked: bool) -> bool:
    """Folders above what is asked for matter only where they are removed, or are none: that is rare."""
    name = json.dumps(path).encode()
    return name in text and (is_asked or text.count(name) > text.count(b"[" + name + b',"d"'))


def see(stack: Sequence[Facts]) -> Iterator[Row]:
    """What a stack of layers, the top one first, shows at the paths in question."""
    passed: list[Facts] = []
    for facts in stack:
        for path, row in facts.holds.items():
            if not any(path in above.holds or above.hides_path(path) for above in passed):
                yield row
        if facts is not NO_FACTS:
            passed.append(facts)


def list_folders(path: str) -> list[str]:
    """Those that a path lies in, the root too."""
    parts = path.split("/")
    return ["/".join(parts[:length]) or "/" for length in range(1, len(parts)) if path != "/"]
