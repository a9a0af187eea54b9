"""Packages and files of the instance, as compressed JSON lines on stdout.

``{"format": 1}``, then ``{"dpkg": TEXT}`` and ``{"rpm": TEXT}`` where there are such packages, then one array
per path (as in ``baker.layer``), then ``{"end": NUMBER OF PATHS, "unreadable": [[PATH, REASON]…]}``.
"""

# ruff: noqa: PTH110, PTH115, PTH118, PTH123, UP022

import errno
import hashlib
import itertools
import json
import os
import stat
import subprocess
import sys
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from baker.providers.aws.inside.sent.persistent import Rules, decode_path, open_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from typing import Any

DPKG_STATUS = "/var/lib/dpkg/status"
RPM_DATABASES = ("rpmdb.sqlite", "Packages.db", "Packages")
RPM_FOLDERS = ("/usr/lib/sysimage/rpm", "/var/lib/rpm")
RPM_FORMAT = "%{NAME}\\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\\t%{ARCH}\\t%{SOURCERPM}\\n"
KINDS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}
# Made by the kernel for this very file system: they differ though the content is the same.
FOREIGN_ATTRIBUTES = ("security.selinux", "security.ima", "security.evm", "trusted.overlay.")
BLOCK = 1 << 20
ZEROS = bytes(BLOCK)
BATCH = 128
# A disk over a network answers after a millisecond: with several questions at once that costs little.
THREADS = 8
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


def main(removed: "list[str]", emptied: "list[str]") -> None:
    compressor = zlib.compressobj(3)

    def write(record: "object") -> None:
        line = json.dumps(record, separators=(",", ":")) + "\n"
        sys.stdout.buffer.write(compressor.compress(line.encode()))

    write({"format": 1})
    for kind, text in list_packages():
        write({kind: text})
    reader = Reader(Rules(removed, emptied), read_swap_files())
    count = 0
    with open_view() as view:
        walked = view.walk(reader.rules.is_removed)
        paths = ((path, outside) for path, outside, gone in walked if not gone)
        for rows in describe_in_parallel(reader, paths):
            for row in rows:
                write(row)
            count += len(rows)
    write({"end": count, "unreadable": sorted(reader.unreadable)})
    sys.stdout.buffer.write(compressor.flush())
    sys.stdout.buffer.flush()


# --- packages ---------------------------------------------------------------------------------------


def list_packages() -> "Iterator[tuple[str, str]]":
    if os.path.exists(DPKG_STATUS):
        with open(DPKG_STATUS, "rb") as file:
            yield "dpkg", decode_path(file.read())
    # Asking a system without rpm packages would make it a database.
    if any(os.path.exists(os.path.join(folder, name)) for folder in RPM_FOLDERS for name in RPM_DATABASES):
        yield "rpm", ask_rpm()


def ask_rpm() -> str:
    argv = ["rpm", "-qa", "--nodigest", "--nosignature", "--qf", RPM_FORMAT]
    environment = dict(os.environ, LC_ALL="C")
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    if done.returncode != 0:
        raise SystemExit("rpm -qa failed: " + decode_path(done.stderr).strip()[-500:])
    return decode_path(done.stdout)


# --- files ------------------------------------------------------------------------------------------


def read_swap_files() -> "set[str]":
    with open("/proc/swaps") as file:
        return {line.split()[0] for line in file.read().splitlines()[1:]}


def describe_in_parallel(
    reader: "Reader", paths: "Iterable[tuple[bytes, bytes]]"
) -> "Iterator[list[list[Any]]]":
    """In the order of the walk; only so many batches are under way that memory stays bounded."""
    paths = iter(paths)
    waiting: deque[Future[list[list[Any]]]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        while True:
            batch = list(itertools.islice(paths, BATCH))
            if batch:
                waiting.append(pool.submit(reader.describe_all, batch))
            if not waiting:
                return
            if not batch or len(waiting) > 2 * THREADS:
                yield waiting.popleft().result()


class Reader:
    def __init__(self, rules: Rules, swap_files: "set[str]") -> None:
        self.rules = rules
        self.swap_files = swap_files
        self.unreadable: list[tuple[str, str]] = []
        self._linked: dict[tuple[int, int], tuple[int, str]] = {}

    def describe_all(self, paths: "list[tuple[bytes, bytes]]") -> "list[list[Any]]":
        """Rows of those that are still there."""
        rows = []
        for path, outside in paths:
            try:
                rows.append(self.describe(decode_path(path), outside))
            except OSError as error:
                if error.errno not in GONE:
                    raise
        return rows

    def describe(self, path: str, outside: bytes) -> "list[Any]":
        """``[path, kind, mode, uid, gid, size, digest, link, [[name, hex value]…]]``. Raises OSError."""
        status = os.lstat(outside)
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        size, digest, link = 0, "", ""
        if kind == "f":
            size, digest = self.read_content(path, outside, status)
        elif kind == "l":
            link = decode_path(os.readlink(outside))
        elif kind in "cb":
            link = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        attributes = read_attributes(outside)
        mode = stat.S_IMODE(status.st_mode)
        return [path, kind, mode, status.st_uid, status.st_gid, size, digest, link, attributes]

    def read_content(self, path: str, outside: bytes, status: "os.stat_result") -> "tuple[int, str]":
        """Size and sha256; no digest of what cannot be read, or is no content (swap)."""
        if self.rules.is_emptied(path):
            return 0, hashlib.sha256().hexdigest()
        if path in self.swap_files:
            return status.st_size, ""
        inode = (status.st_dev, status.st_ino)
        if inode in self._linked:
            return self._linked[inode]
        try:
            found = hash_file(outside)
        except OSError as error:
            if error.errno in GONE:
                raise
            self.unreadable.append((path, str(error.strerror)))
            return status.st_size, ""
        if status.st_nlink > 1:
            self._linked[inode] = found
        return found


def hash_file(path: bytes) -> "tuple[int, str]":
    """Bytes that were read and their sha256. One that grows meanwhile is read as far as it was at first."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        digest = hashlib.sha256()
        size = 0
        sparse = status.st_blocks * 512 < status.st_size
        while size < status.st_size:
            if sparse:
                hole = find_data(descriptor, size, status.st_size) - size
                while hole > 0:
                    step = min(hole, BLOCK)
                    digest.update(ZEROS if step == BLOCK else ZEROS[:step])
                    hole, size = hole - step, size + step
                os.lseek(descriptor, size, os.SEEK_SET)
            chunk = os.read(descriptor, min(BLOCK, status.st_size - size))
            if not chunk:
                break
            digest.update(chunk)
            size += len(chunk)
        return size, digest.hexdigest()
    finally:
        os.close(descriptor)


def find_data(descriptor: int, start: int, end: int) -> int:
    """Where a sparse file goes on with something else than zeros."""
    try:
        return min(os.lseek(descriptor, start, os.SEEK_DATA), end)
    except OSError as error:
        return end if error.errno == errno.ENXIO else start


def read_attributes(path: bytes) -> "list[tuple[str, str]]":
    """Extended attributes that belong to the content, values in hex."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return []
        raise
    kept = [name for name in names if not name.startswith(FOREIGN_ATTRIBUTES)]
    return sorted((name, os.getxattr(path, name, follow_symlinks=False).hex()) for name in kept)
