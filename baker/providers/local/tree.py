"""A layer's tree on the host: sealing it and reading what is in it.

The tree was written by root *inside* a machine, so no name in it is trusted: every walk goes by real folders
only, and no link is ever followed.
"""

# Paths are text in this file, as os.scandir gives them.
# ruff: noqa: PTH108, PTH115, PTH123

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from baker.manifest import parse_dpkg_status
from baker.model import FileEntry, Package
from baker.seal import is_emptied, is_removed

DPKG_STATUS = ("var", "lib", "dpkg", "status")
OVERLAY_OPAQUE = "trusted.overlay.opaque"
OVERLAY_PREFIX = "trusted.overlay."
KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}


def walk_tree(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every path below as (absolute path in the image, entry), sorted, folders before what they hold."""
    stack = [("", str(root))]
    while stack:
        inside, outside = stack.pop()
        with os.scandir(outside) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            yield f"{inside}/{entry.name}", entry
        # An entry may have been removed by whoever consumes this walk.
        folders = [
            entry for entry in listed if entry.is_dir(follow_symlinks=False) and os.path.lexists(entry.path)
        ]
        stack += [(f"{inside}/{folder.name}", folder.path) for folder in reversed(folders)]


def is_whiteout(status: os.stat_result) -> bool:
    """Whether the path stands for "removed from the layer below" (overlayfs)."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def seal_tree(root: Path, *, started: float, epoch: int) -> None:
    """Apply the rules of ``baker.seal``, and make times say nothing of when the bake ran.

    Times later than ``started`` (so: written by this bake) become ``epoch``; older ones, a package's, stay.
    """
    for path, entry in walk_tree(root):
        if is_removed(path) and not is_whiteout(entry.stat(follow_symlinks=False)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        elif entry.is_file(follow_symlinks=False) and is_emptied(path):
            os.truncate(entry.path, 0)
    for path, entry in walk_tree(root):
        if path.endswith(".pyc") and entry.is_file(follow_symlinks=False):
            clamp_bytecode(entry.path, started=started, epoch=epoch)
    folders = [str(root)]
    for _, entry in walk_tree(root):
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
        strip_overlay_attributes(entry.path)
        clamp_time(entry.path, started=started, epoch=epoch)
    strip_overlay_attributes(str(root))
    for folder in folders:
        clamp_time(folder, started=started, epoch=epoch)


def strip_overlay_attributes(path: str) -> None:
    """Remove overlayfs's bookkeeping, which differs from mount to mount. The opaque mark means something."""
    for name in os.listxattr(path, follow_symlinks=False):
        if name.startswith(OVERLAY_PREFIX) and name != OVERLAY_OPAQUE:
            os.removexattr(path, name, follow_symlinks=False)


def clamp_time(path: str, *, started: float, epoch: int) -> None:
    if os.lstat(path).st_mtime > started:
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def newest_time(root: Path) -> int:
    """The latest modification time in a tree, in whole seconds rounded up."""
    times = [
        os.lstat(root).st_mtime,
        *(entry.stat(follow_symlinks=False).st_mtime for _, entry in walk_tree(root)),
    ]
    return math.ceil(max(times))


def clamp_bytecode(path: str, *, started: float, epoch: int) -> None:
    """A .pyc names its source's time (PEP 552): clamp it like the source, else Python finds it stale."""
    with open(path, "r+b") as file:
        header = file.read(16)
        if (
            len(header) == 16
            and header[4:8] == b"\0\0\0\0"
            and struct.unpack("<I", header[8:12])[0] > started
        ):
            file.seek(8)
            file.write(struct.pack("<I", epoch))


def read_tree(root: Path) -> tuple[tuple[str, ...], tuple[FileEntry, ...]]:
    """What a layer's tree holds: (removed paths, entries), both sorted by path."""
    removed, files = [], []
    for path, entry in walk_tree(root):
        status = entry.stat(follow_symlinks=False)
        if is_whiteout(status):
            removed.append(path)
            continue
        attributes = read_attributes(entry.path)
        if attributes.pop(OVERLAY_OPAQUE, None):
            removed.append(path)
        files.append(describe(path, entry.path, status, attributes))
    return tuple(sorted(removed)), tuple(sorted(files, key=lambda file: file.path))


def read_attributes(path: str) -> dict[str, str]:
    """Extended attributes, values in hex."""
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in names}


def describe(path: str, outside: str, status: os.stat_result, attributes: dict[str, str]) -> FileEntry:
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    link = digest = ""
    size = 0
    if kind == "f":
        size = status.st_size
        with open(outside, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    elif kind == "l":
        link = os.readlink(outside)
    elif kind in "cb":
        link = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return FileEntry(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=size,
        digest=digest,
        link=link,
        xattrs=tuple(sorted(attributes.items())),
    )


def remove_mount_points(root: Path) -> None:
    """Take out the empty ``/etc/resolv.conf`` that nspawn makes to mount the machine's resolver on."""
    path = root / "etc" / "resolv.conf"
    if path.parent.is_symlink():
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_size == 0:
            path.unlink()


def read_layer_packages(upper: Path) -> tuple[Package, ...] | None:
    """The packages of a layer's dpkg status file; None if the layer has none. Follows no link."""
    path = upper
    for part in DPKG_STATUS:
        path = path / part
        if path.is_symlink() or not path.exists():
            return None
    return parse_dpkg_status(path.read_text()) if path.is_file() else None
