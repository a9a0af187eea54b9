"""Looks at a running machine from outside: nothing is run in it, and nothing that is in it is believed.

All that differs from the image's layers is in the overlay's upper directory, which the host reads; processes,
sockets and mounts are what the host's kernel says of them. So a preloaded library, a replaced ``ls`` or an
init that lies has no say. Which units run is told by the control groups that processes are in: asking systemd
would mean to enter the machine and to believe its answer; a unit without processes is seen by its files.

It changes nothing: files are opened without touching their times, and never by a name that a link could bend
(root in the machine may swap folders for links while somebody looks).
"""

# Paths are text, relative to open folders.
# ruff: noqa: PTH115, PTH116, PTH208

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from baker.deploy.observation import (
    COVERED,
    DELETED,
    TEXTS,
    Observation,
    Port,
    mask_hashes,
    name_unit,
    parse_mounts,
    parse_ports,
    socket_inode,
)
from baker.errors import MachineError
from baker.manifest import parse_dpkg_status
from baker.model import FileEntry
from baker.providers.local.host import descendants_of, is_running
from baker.providers.local.store import hash_file
from baker.providers.local.tree import DPKG_STATUS, KINDS, OVERLAY_OPAQUE, OVERLAY_PREFIX, is_whiteout

ROOT = "run/baker/root"
"""Where ``holder.sh`` mounts a machine's root, and nothing over it."""

IN_MEMORY = ("run", "tmp", "dev", "dev/shm")
MAX_DEPTH = 400
MAX_TEXT = 64 << 20
SPARSE = 1 << 30
"""Files with holes that are longer have no digest: reading zeros would take hours."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME
SETTLE_SECONDS, SETTLE_TIMES = 0.1, 3
"""A command that has just entered is the host's nsenter until it starts: look again."""


def observe_machine(leader: int, upper: Path, layers: tuple[Path, ...], *, full: bool) -> Observation:
    """See ``Observation``. ``leader`` is the host's process id of the machine's init, ``layers`` are what
    it is stacked of. ``full`` reads every file through the overlay, and the layers themselves.

    Raises MachineError if it does not run, or cannot be read.
    """
    try:
        with _opened(f"/proc/{leader}/root") as seen, _open_root(leader) as root:
            files, gone = _read_root(root, upper, full=full)
            processes = _list_processes(leader)
            observation = Observation(
                full=full,
                whole=full,
                packages=parse_dpkg_status(_read_text(root, "/".join(DPKG_STATUS))),
                files=tuple(sorted((*files, *_read_memory(seen, root)), key=lambda file: file.path)),
                gone=gone,
                texts=_read_texts(root),
                ports=_read_ports(leader, processes),
                mounts=parse_mounts(_decode(Path(f"/proc/{leader}/mountinfo").read_bytes())),
                processes=_read_programs(processes, root),
                units=_read_units(processes),
                damaged=tuple(sorted(str(path) for path in layers if full and not _is_whole(path))),
            )
    except (OSError, ValueError, KeyError) as error:
        if not is_running(leader):
            raise MachineError("the machine does not run") from error
        raise MachineError(f"the machine cannot be read: {error}") from error
    if not is_running(leader):
        raise MachineError("the machine ended while it was looked at")
    return observation


def _is_whole(layer: Path) -> bool:
    return hash_file(layer) == f"sha256:{layer.stem}"


# --- files ---------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: str, folder: int | None = None, *, flags: int = _FOLDER) -> Iterator[int]:
    # The links of /proc lead to open things, not to names: they alone are followed.
    flags = flags & ~os.O_NOFOLLOW if folder is None else flags
    descriptor = os.open(path, flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _open_root(leader: int) -> Iterator[int]:
    """The machine's root as nspawn was given it, so without what is mounted over it since."""
    with contextlib.ExitStack() as opened:
        root = opened.enter_context(_opened(f"/proc/{leader}/root"))
        device = os.fstat(root).st_dev
        with contextlib.suppress(OSError):
            outside = opened.enter_context(_opened(f"/proc/{_parent_of(leader)}/root/{ROOT}"))
            root = outside if os.fstat(outside).st_dev == device else root
        yield root


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """``name`` in the open ``folder`` is what ``path`` is in the machine."""

    path: str
    folder: int
    name: str
    status: os.stat_result


def _walk(top: int, inside: str = "") -> Iterator[_Found]:
    """Every path below an open folder, on its file system; what vanishes meanwhile is left out.

    ``folder`` of what is found is open only until the next one. Raises OSError, and MachineError where
    folders are nested too deeply.
    """
    device = os.fstat(top).st_dev
    stack: list[tuple[str, int, Iterator[str]]] = [(inside, top, iter(sorted(os.listdir(top))))]
    try:
        while stack:
            path, folder, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
                if folder != top:
                    os.close(folder)
                continue
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                below = f"{path}/{name}"
                yield _Found(path=below, folder=folder, name=name, status=status)
                if stat.S_ISDIR(status.st_mode):
                    if len(stack) >= MAX_DEPTH:
                        raise MachineError(f"more than {MAX_DEPTH} folders are nested in {path[:80]}")
                    child = os.open(name, _FOLDER, dir_fd=folder)
                    stack.append((below, child, iter(())))
                    # Folders of an overlay are all on one device; what is mounted there is on another.
                    if os.fstat(child).st_dev == device:
                        stack[-1] = (below, child, iter(sorted(os.listdir(child))))
    finally:
        for _, folder, _ in stack:
            if folder != top:
                os.close(folder)


def _read_root(root: int, upper: Path, *, full: bool) -> tuple[list[FileEntry], tuple[str, ...]]:
    """(entries, what is gone): all of the overlay, or what its upper directory holds."""
    if full:
        return [entry for found in _walk(root) if (entry := _describe(found)[0])], ()
    files, gone = [], []
    with _opened(str(upper)) as top:
        for found in _walk(top):
            if is_whiteout(found.status):
                gone.append(found.path)
                continue
            entry, is_opaque = _describe(found)
            if is_opaque:
                gone.append(found.path)
            if entry:
                files.append(entry)
    return files, tuple(gone)


def _read_memory(seen: int, root: int) -> Iterator[FileEntry]:
    """What lies in memory file systems that machines have; ``seen`` is the root with all mounts."""
    device = os.fstat(root).st_dev
    for path in IN_MEMORY:
        with contextlib.ExitStack() as opened:
            folder = seen
            try:
                for part in path.split("/"):
                    folder = opened.enter_context(_opened(part, folder))
            except OSError:
                continue  # a link, or not there: then it is in the root file system, or nowhere
            if os.fstat(folder).st_dev != device:
                yield from (entry for found in _walk(folder, f"/{path}") if (entry := _describe(found)[0]))


def _describe(found: _Found) -> tuple[FileEntry | None, bool]:
    """(entry, whether it hides what lies below in the overlay); None for what vanished."""
    status, kind = found.status, KINDS[stat.S_IFMT(found.status.st_mode)]
    link = digest = ""
    try:
        attributes = _read_attributes(found)
        if kind == "f":
            with _opened(found.name, found.folder, flags=_FILE) as descriptor:
                status = os.fstat(descriptor)
                digest = _hash(descriptor, status) if stat.S_ISREG(status.st_mode) else ""
        elif kind == "l":
            link = os.readlink(found.name, dir_fd=found.folder)
        elif kind in "cb":
            link = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None, False
    is_opaque = OVERLAY_OPAQUE in attributes
    kept = {name: value for name, value in attributes.items() if not name.startswith(OVERLAY_PREFIX)}
    entry = FileEntry(
        path=found.path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size if kind == "f" else 0,
        digest=digest,
        link=link,
        xattrs=tuple(sorted(kept.items())),
    )
    return entry, is_opaque


def _hash(descriptor: int, status: os.stat_result) -> str:
    if status.st_size > SPARSE and status.st_blocks * 512 < status.st_size // 2:
        return ""
    with open(descriptor, "rb", closefd=False) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_attributes(found: _Found) -> dict[str, str]:
    """Values in hex. /proc/self/fd is the open folder itself; the name in it is not followed."""
    path = f"/proc/self/fd/{found.folder}/{found.name}"
    read = {}
    with contextlib.suppress(OSError):  # a file system without them; one that vanished
        for name in os.listxattr(path, follow_symlinks=False):
            read[name] = os.getxattr(path, name, follow_symlinks=False).hex()
    return read


@contextmanager
def _open_below(root: int, path: str, flags: int = _FILE) -> Iterator[int]:
    """Opens an absolute path of the machine, no part of which may be a link. Raises OSError."""
    *folders, name = path.strip("/").split("/")
    with contextlib.ExitStack() as opened:
        folder = root
        for part in folders:
            folder = opened.enter_context(_opened(part, folder))
        yield opened.enter_context(_opened(name, folder, flags=flags))


def _read_text(root: int, path: str) -> str:
    """What a file holds; nothing if it is not there or none."""
    try:
        with _open_below(root, path) as descriptor:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return ""
            with open(descriptor, "rb", closefd=False) as file:
                return _decode(file.read(MAX_TEXT))
    except OSError:
        return ""


def _read_texts(root: int) -> dict[str, str]:
    texts = {path: _read_text(root, path) for path in TEXTS}
    return {path: mask_hashes(text) if path == "/etc/shadow" else text for path, text in texts.items()}


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


# --- processes ------------------------------------------------------------------------------------------


def _list_processes(leader: int) -> list[int]:
    """The processes of the machine: those in its pid namespace, and those that its own started elsewhere."""
    namespace = os.readlink(f"/proc/{leader}/ns/pid")
    found = {leader, *descendants_of(leader)}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{name}/ns/pid") == namespace:
                    found.add(int(name))
    return sorted(found)


def _read_program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def _read_programs(processes: Sequence[int], root: int) -> tuple[str, ...]:
    named = {pid: _name_program(pid, root) for pid in processes}
    for _ in range(SETTLE_TIMES):
        doubtful = [pid for pid, name in named.items() if name.endswith((COVERED, DELETED))]
        if not doubtful:
            break
        time.sleep(SETTLE_SECONDS)
        named |= {pid: _name_program(pid, root) for pid in doubtful}
    return tuple(sorted({name for name in named.values() if name}))


def _name_program(pid: int, root: int) -> str:
    """The path of a program; marked if the process runs something else than the file that is there."""
    path = _read_program(pid)
    if not path.startswith("/") or path.endswith(DELETED):
        return path
    try:
        with _open_below(root, path, os.O_PATH | os.O_NOFOLLOW) as descriptor:
            there = os.fstat(descriptor)
    except OSError:
        return path  # not in the root file system: its path tells
    with contextlib.suppress(OSError):
        running = os.stat(f"/proc/{pid}/exe")
        return path if os.path.samestat(there, running) else path + COVERED
    return ""


def _read_ports(leader: int, processes: Sequence[int]) -> tuple[Port, ...]:
    programs: dict[int, str] = {}
    for pid in processes:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    inode = socket_inode(os.readlink(f"/proc/{pid}/fd/{name}"))
                    if inode is not None:
                        programs.setdefault(inode, _read_program(pid))
    tables = {}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        with contextlib.suppress(FileNotFoundError):  # no IPv6
            tables[table] = Path(f"/proc/{leader}/net/{table}").read_text()
    return parse_ports(tables, programs)


def _read_units(processes: Sequence[int]) -> Mapping[str, str]:
    units = {}
    for pid in processes:
        with contextlib.suppress(OSError):
            if name := name_unit(Path(f"/proc/{pid}/cgroup").read_text()):
                units[name] = "active"
    return units
