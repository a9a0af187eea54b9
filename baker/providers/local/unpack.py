"""Tar archives written into a folder as root, where nothing in them is trusted.

Python's own extraction filters either let archives out of the folder or refuse what a root file system
needs (owners, setuid), so members are written here, one by one. Nobody else writes into the folder meanwhile.
"""

# Paths are text in this file, as tar gives them.
# ruff: noqa: PTH101, PTH102, PTH103, PTH108, PTH112, PTH114, PTH115, PTH118, PTH120, PTH208, PTH211, SIM115

from __future__ import annotations

import bz2
import gzip
import lzma
import math
import os
import shutil
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol, cast

from baker.errors import HostError, SourceError

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
XATTR = "SCHILY.xattr."
MOST_LINKS = 40
CHUNK = 1 << 20

DAMAGED = (
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    ValueError,
    OverflowError,
)


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class StrictMember(tarfile.TarInfo):
    """A member whose broken header is an error: tarfile itself takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> StrictMember:
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"it breaks off, or is no tar archive ({error})") from None


class TreeUnpacker:
    """Unpacks archives one over another into ``tree``; ``finish`` afterwards.

    Owners, modes, times, hard links and extended attributes are kept. Names are taken from the tree's root,
    and links met on the way are followed inside the tree, as a process confined to it would. Device nodes
    are left out: every machine gets its own /dev. ``epoch`` is the newest time met, in whole seconds.
    """

    def __init__(self, tree: Path) -> None:
        self.tree = str(tree)
        self.epoch = 0
        self._folder_times: dict[str, int] = {}
        self._written: set[str] = set()

    def unpack(self, stream: Readable, what: str, *, layered: bool = False) -> None:
        """``layered``: names that begin with .wh. remove what earlier archives brought (OCI image layers).

        Raises SourceError, which names ``what``.
        """
        self._written = {self.tree}
        try:
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", tarinfo=StrictMember) as archive:
                for member in archive:
                    self._add(archive, member, layered)
                    archive.members = []  # type: ignore[attr-defined]  # else it remembers every one
            while stream.read(CHUNK):
                pass
        except DAMAGED as error:
            raise SourceError(f"{what} is damaged: {error or 'it breaks off'}") from error
        except OSError as error:
            raise SourceError(f"{what} cannot be unpacked: {error}") from error

    def finish(self) -> None:
        """Give folders their times, now that nothing is written into them any more."""
        for path, mtime in self._folder_times.items():
            if os.path.isdir(path) and not os.path.islink(path):
                os.utime(path, ns=(mtime, mtime))

    def _add(self, archive: tarfile.TarFile, member: tarfile.TarInfo, layered: bool) -> None:
        parts = split_name(member.name)
        self.epoch = max(self.epoch, math.ceil(member.mtime))
        if not parts:
            self._set_attributes(member, self.tree)
            return
        folder = self._folder(parts[:-1])
        path = os.path.join(folder, parts[-1])
        if layered and parts[-1].startswith(WHITEOUT):
            self._white_out(folder, parts[-1])
            return
        if member.ischr() or member.isblk():
            return
        target = self._link_target(member) if member.islnk() else ""
        if target != path:
            self._make_way(path, for_folder=member.isdir())
            self._write(archive, member, path, target)
        while path not in self._written:
            self._written.add(path)
            path = os.path.dirname(path)

    def _folder(self, parts: Sequence[str]) -> str:
        found = resolve_inside(self.tree, parts, make=True)
        assert found is not None
        return found

    def _link_target(self, member: tarfile.TarInfo) -> str:
        parts = split_name(member.linkname)
        target = os.path.join(self._folder(parts[:-1]), parts[-1]) if parts else self.tree
        if not os.path.lexists(target) or (os.path.isdir(target) and not os.path.islink(target)):
            raise tarfile.ReadError(
                f"{member.name} is a hard link to {member.linkname}, which is no file in it"
            )
        return target

    def _make_way(self, path: str, *, for_folder: bool) -> None:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(path)
        elif not for_folder:
            shutil.rmtree(path)

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, target: str) -> None:
        if member.islnk():
            os.link(target, path, follow_symlinks=False)
            return
        if member.isdir():
            os.makedirs(path, exist_ok=True)
        elif member.issym():
            os.symlink(member.linkname, path)
        elif member.isfifo():
            os.mkfifo(path)
        elif member.isfile():
            content = archive.extractfile(member)
            assert content is not None
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW), "wb") as file:
                shutil.copyfileobj(content, file, CHUNK)
        else:
            raise tarfile.ReadError(f"{member.name} is of type {member.type!r}, which is not known")
        self._set_attributes(member, path)

    def _set_attributes(self, member: tarfile.TarInfo, path: str) -> None:
        # In this order: a change of owner takes setuid and capabilities away.
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
        if not member.issym():
            os.chmod(path, member.mode & 0o7777)
        for key, value in member.pax_headers.items():
            name = key.removeprefix(XATTR)
            # trusted.* is what the kernel itself, overlayfs above all, goes by.
            if name != key and not name.startswith("trusted."):
                os.setxattr(path, name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
        mtime = round(member.mtime * 10**9)
        os.utime(path, ns=(mtime, mtime), follow_symlinks=False)
        if member.isdir():
            self._folder_times[path] = mtime

    # --- whiteouts --------------------------------------------------------------------------------

    def _white_out(self, folder: str, name: str) -> None:
        if name == OPAQUE:
            for child in os.listdir(folder):
                self._remove_older(os.path.join(folder, child))
        elif not name.startswith(".wh..wh."):  # bookkeeping of aufs
            victim = name.removeprefix(WHITEOUT)
            if victim in ("", ".", ".."):
                raise tarfile.ReadError(f"{name} is no proper whiteout")
            self._remove_older(os.path.join(folder, victim))

    def _remove_older(self, path: str) -> None:
        """Remove what earlier archives brought; a whiteout never touches its own layer's files."""
        if not os.path.lexists(path):
            return
        folder = os.path.isdir(path) and not os.path.islink(path)
        if path not in self._written:
            shutil.rmtree(path) if folder else os.unlink(path)
        elif folder:
            for child in os.listdir(path):
                self._remove_older(os.path.join(path, child))


def split_name(name: str) -> list[str]:
    """A member's name as parts below the root. Raises TarError if it leads out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise tarfile.ReadError(f"it holds {name!r}, which leads out of the tree")
    return parts


def resolve_inside(tree: str, parts: Sequence[str], *, make: bool = False) -> str | None:
    """The path that ``parts`` mean to a process confined to ``tree``: links never lead out of it.

    What is missing is made as a folder, or the answer is None. Raises OSError for links in a circle and for
    a file where a folder should be (with ``make``).
    """
    found: list[str] = []
    pending = list(reversed(parts))
    links = 0
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":  # only ever from a link
            del found[-1:]
            continue
        path = os.path.join(tree, *found, part)
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            if not make:
                return None
            os.mkdir(path, 0o755)
            mode = stat.S_IFDIR
        if stat.S_ISLNK(mode):
            links += 1
            if links > MOST_LINKS:
                raise OSError(f"/{'/'.join(parts)} goes through links in a circle")
            target = os.readlink(path)
            if target.startswith("/"):
                found = []
            pending += reversed(target.split("/"))
        elif stat.S_ISDIR(mode) or not (make or pending):
            found.append(part)
        elif make:
            raise NotADirectoryError(f"/{'/'.join(parts)}: {part} is no folder")
        else:
            return None
    return os.path.join(tree, *found)


@contextmanager
def open_decompressed(path: Path) -> Iterator[Readable]:
    """A file's content, decompressed by what its first bytes say: gzip, bzip2, xz, zstd or nothing.

    Raises HostError where zstd is needed and missing, SourceError where zstd finds the file damaged.
    """
    with path.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(b"\x1f\x8b"):
            yield gzip.GzipFile(fileobj=file)
        elif magic.startswith(b"BZh"):
            yield bz2.BZ2File(file)
        elif magic.startswith(b"\xfd7zXZ\0"):
            yield lzma.LZMAFile(file)
        elif magic.startswith(b"\x28\xb5\x2f\xfd"):
            with open_zstd(path, file) as stream:
                yield stream
        else:
            yield file


@contextmanager
def open_zstd(path: Path, file: IO[bytes]) -> Iterator[Readable]:
    os.lseek(file.fileno(), 0, os.SEEK_SET)  # what Python read ahead counts for zstd too
    argv = ["zstd", "--decompress", "--stdout", "--quiet", "--long=31"]
    try:
        process = subprocess.Popen(argv, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise HostError(
            f"{path} is compressed by zstd, which is not installed", hint="apt-get install zstd"
        ) from None
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        try:
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        process.stdout.close()
        complaint = process.stderr.read().decode(errors="replace").strip()
    if process.returncode != 0:
        raise SourceError(f"{path} is damaged: {complaint}")
