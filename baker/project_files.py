"""What lies at a path of a project, in a word that can be compared.

A recipe may look at a path in different ways (TRACED_KINDS), and each has words of its own: what it did not
ask for may change.
"""

# Paths are text in this file: there are thousands, and pathlib cannot normalise one without the disk.
# ruff: noqa: PTH110, PTH114, PTH115, PTH116, PTH118, PTH123

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from baker.errors import RecipeError

LISTINGS = ("listing", "entries")
TRACED_KINDS = ("file", "absent", "type", "link", "mode", "size", "time", *LISTINGS, "package")
"""What a recipe may have seen, see ``baker.fingerprint``. All but ``package`` are of a path."""

ABSENT, DIRECTORY, FILE, SPECIAL, OUTSIDE = "absent", "directory", "file", "special", "outside"

LITTER = re.compile(
    r"__pycache__|.*\.py[co]|.*~|\..*\.sw[a-z]|\.#.*|#.*#|\.DS_Store|\.git|\.(pytest|mypy|ruff)_cache"
)
"""Names that editors, interpreters and version control leave in any folder."""

SETTLED_NS = 2_000_000_000
"""A file that changed less than this ago may change again without a new time stamp: not cached."""

Seen = tuple[tuple[int, ...], str]
"""Device, inode, size and both times of a file as they were before it was read, and what it came to."""


@dataclass(kw_only=True, slots=True)
class SeenFiles:
    """What was read so far, by path; ``is_new`` where some of it is not kept yet (``baker.digest_cache``)."""

    known: dict[str, Seen] = field(default_factory=dict)
    is_new: bool = False


seen_files = SeenFiles()


def is_litter(relative: str) -> bool:
    return any(LITTER.fullmatch(part) for part in relative.split("/"))


def walk(folder: str) -> Iterator[os.DirEntry[str]]:
    """Every path below that is not a real folder, without litter. Raises RecipeError."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise _unreadable(folder, error) from error
    for entry in entries:
        if LITTER.fullmatch(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path)
        else:
            yield entry


def source_of(path: str) -> str:
    """Reading byte code means reading the module: the interpreter only looks at the module's time stamp."""
    if path.endswith(".pyc"):
        try:
            return importlib.util.source_from_cache(path)
        except ValueError:  # not in a __pycache__
            return path
    return path


# --- what a recipe saw -------------------------------------------------------------------------------


def look_again(project: str, kind: str, name: str) -> str:
    """What somebody sees now who looks at a path of the project as it was looked at. Raises RecipeError."""
    if kind == "package":
        return _find_version(name)
    path = os.path.join(project, name)
    if kind == "file":
        return describe_path(project, path)
    if kind in LISTINGS:
        return _describe_listing(path, with_types=kind == "entries")
    try:
        if kind == "link":
            return _describe_itself(path)
        found = os.stat(path)
    except OSError as error:
        return _tell_why_absent(path, error) if kind == "absent" else ABSENT
    if kind == "time":
        return f"{found.st_mtime_ns} {os.lstat(path).st_mtime_ns}"
    if leads_outside(project, path):
        return OUTSIDE
    if kind == "mode":
        return f"{stat.S_IMODE(found.st_mode):04o}"
    if kind == "type":
        return _tell_type(found.st_mode)
    if kind == "size":
        return str(found.st_size) if stat.S_ISREG(found.st_mode) else _tell_type(found.st_mode)
    return "present"


def changed_since(path: str, kind: str, since: float) -> bool:
    """Whether what a recipe saw of a path after ``since`` may not be what is there now.

    File systems stamp by a clock that lags a little. A folder changes with what lies in it, which is nothing
    to who asked no more than whether it is one.
    """
    if since == math.inf:
        return False
    try:
        itself = os.lstat(path)
        found = itself if kind == "link" or _is_dangling(path) else os.stat(path)
    except OSError:
        return kind != "absent"
    if _is_dangling(path) and kind not in ("absent", "link"):
        return True
    if kind in ("type", "link") and stat.S_ISDIR(itself.st_mode):
        return False
    return max(itself.st_ctime, found.st_ctime) > since - 0.1


def _is_dangling(path: str) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def _tell_why_absent(path: str, error: OSError) -> str:
    """Who looks for it gets to know this much."""
    if error.errno == errno.ELOOP:
        return "a circle of links"
    if error.errno == errno.ENOTDIR:
        return "below a file"
    return "a link to nothing" if os.path.islink(path) else ABSENT


def _describe_itself(path: str) -> str:
    return f"-> {os.readlink(path)}" if os.path.islink(path) else _tell_type(os.lstat(path).st_mode)


def _tell_type(mode: int) -> str:
    return DIRECTORY if stat.S_ISDIR(mode) else FILE if stat.S_ISREG(mode) else SPECIAL


def leads_outside(project: str, path: str) -> bool:
    """Of a path below the project: only a link on the way can lead out, and mostly there is none."""
    part = path
    while len(part) > len(project) and not os.path.islink(part):
        part = part.rpartition("/")[0]
    if part == project and "/../" not in f"{path}/":
        return False
    return not f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(project)}/")


def _find_version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and seldom asked

    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT


def _describe_listing(path: str, *, with_types: bool) -> str:
    try:
        found = [entry for entry in os.scandir(path) if not LITTER.fullmatch(entry.name)]
    except OSError:
        return ABSENT
    names = sorted(f"{entry.name}{_tell_entry(entry)}" if with_types else entry.name for entry in found)
    return f"sha256:{hashlib.sha256(json.dumps(names, separators=(',', ':')).encode()).hexdigest()}"


def _tell_entry(entry: os.DirEntry[str]) -> str:
    """Its type, as one may ask the entry: whether it is a link, and what it is or leads to."""
    try:
        kind = "/" if entry.is_dir() else "" if entry.is_file() else "?"
    except OSError:  # a circle of links
        kind = "!"
    return f"@{kind}" if entry.is_symlink() else kind


# --- what is there -----------------------------------------------------------------------------------


def describe_below(project: str, folder: str, is_wanted: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """The wanted paths below a folder, from there, and what each is: see ``walk`` and ``describe_entry``."""
    is_outside = leads_outside(project, folder)
    for entry in walk(folder):
        relative = entry.path[len(folder) + 1 :]
        if not is_wanted(relative):
            continue
        if entry.is_symlink():
            yield relative, describe_entry(project, entry.path)
        else:  # no link above it either, as far as the folder
            yield relative, _describe_found(entry.path, entry.stat(follow_symlinks=False), is_outside)


def describe_entry(project: str, path: str) -> str:
    """A path itself: a symbolic link is its text and what it leads to."""
    if os.path.islink(path):
        return f"-> {os.readlink(path)} {describe_path(project, path)}"
    return describe_path(project, path)


def describe_path(project: str, path: str) -> str:
    """What a path leads to: ``sha256:…`` (``+x`` if executable), or in a word what is there instead."""
    try:
        found = os.stat(path)
    except OSError:
        return ABSENT  # also: a link that leads nowhere or in a circle, a file where a folder should be
    return _describe_found(path, found, leads_outside(project, path))


def _describe_found(path: str, found: os.stat_result, is_outside: bool) -> str:
    if is_outside:
        return OUTSIDE
    key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    seen = seen_files.known.get(path)
    if seen and seen[0] == key:
        return seen[1]
    if stat.S_ISDIR(found.st_mode):
        return DIRECTORY
    if not stat.S_ISREG(found.st_mode):
        return SPECIAL
    try:
        with open(path, "rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except FileNotFoundError:
        return ABSENT
    except OSError as error:
        raise _unreadable(path, error) from error
    value = digest + ("+x" if found.st_mode & stat.S_IXUSR else "")
    if time.time_ns() - found.st_ctime_ns > SETTLED_NS:
        seen_files.known[path] = (key, value)
        seen_files.is_new = True
    return value


def _unreadable(path: str, error: OSError) -> RecipeError:
    return RecipeError(
        f"{path}: cannot be read: {error.strerror}", hint="A recipe depends on it: make it readable"
    )
