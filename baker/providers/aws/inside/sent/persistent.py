"""The file systems that a snapshot of the volumes holds, seen without anything mounted over them."""

# Python 3.6: annotations in quotes, paths as bytes.
# ruff: noqa: PTH102, PTH106, PTH120, PTH123

import ctypes
import fnmatch
import os
import re
import tempfile
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DISK_TYPES = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat", "zfs")
CLONE_NEWNS = 0x20000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2


class Rules:
    """The rules of sealing, from their patterns (see ``baker.seal``). Compiled here: what ``fnmatch`` of a
    newer Python makes of a pattern is no regular expression to an older one."""

    def __init__(self, removed: "list[str]", emptied: "list[str]") -> None:
        self._removed = re.compile("|".join(map(fnmatch.translate, removed)))
        self._emptied = re.compile("|".join(map(fnmatch.translate, emptied)))

    def is_removed(self, path: str) -> bool:
        return self._removed.match(path) is not None

    def is_emptied(self, path: str) -> bool:
        return self._emptied.match(path) is not None


def decode_path(path: bytes) -> str:
    """As text, the same under every locale."""
    return path.decode("utf-8", "surrogateescape")


# --- which ------------------------------------------------------------------------------------------


def choose_mount_points(mountinfo: bytes, is_ephemeral: "Callable[[str], bool]") -> "list[bytes]":
    """Mount points of the root file system and of every disk's, outermost first (proc(5), mountinfo).

    Left out: what lives in memory or elsewhere, parts of file systems that are mounted twice (bind mounts),
    images of other systems (loop devices, containers' overlays), and disks of which ``is_ephemeral`` says,
    by their ``MAJOR:MINOR``, that no snapshot holds them.
    """
    visible = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(b" - ")
        _, _, device, root, point = before.split()[:5]
        kind, source, options = after.split()[:3]
        # A later mount covers an earlier one.
        visible[_unescape(point)] = (device.decode(), _unescape(root), kind.decode(), source, options)
    chosen, seen = [], set()
    for point in sorted(visible, key=lambda point: (point.count(b"/") if point != b"/" else 0, point)):
        number, root, type_name, source, options = visible[point]
        if point != b"/":
            whole = root == b"/" or (type_name == "btrfs" and b"subvol=" + root in options.split(b","))
            if not whole or type_name not in DISK_TYPES or source.startswith(b"/dev/loop"):
                continue
            if (number, root) in seen or is_ephemeral(number):
                continue
        seen.add((number, root))
        chosen.append(point)
    return chosen


def _unescape(field: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found.group(1), 8)]), field)


def is_instance_store(device: str) -> bool:
    """Whether the disk of a device number is the host's own, whose content ends with the instance."""
    folder = os.path.realpath("/sys/dev/block/" + device)
    for disk in (folder, os.path.dirname(folder)):
        try:
            with open(disk + "/device/model") as file:
                return "Instance Storage" in file.read()
        except OSError:
            continue
    return False


# --- seeing them ------------------------------------------------------------------------------------


class View:
    """Where each file system is seen: ``roots`` maps its mount point (``b""`` for ``/``) to a folder."""

    def __init__(self, roots: "dict[bytes, bytes]") -> None:
        self.roots = roots

    def walk(self, is_removed: "Callable[[str], bool]") -> "Iterator[tuple[bytes, bytes, bool]]":
        """Every path as (path, where it is seen, whether it is removed), folders before what they hold.

        Nothing below a removed folder, and nothing that a mounted file system hides. Folders that vanish
        meanwhile are passed over.
        """
        for point, root in self.roots.items():
            if point:
                yield point, root, False
            folders = [(point, root)]
            while folders:
                inside, outside = folders.pop()
                try:
                    with os.scandir(outside) as entries:
                        listed = sorted(entries, key=lambda entry: entry.name)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                below = []
                for entry in listed:
                    path = inside + b"/" + entry.name
                    if path in self.roots:
                        continue
                    removed = is_removed(decode_path(path))
                    if not removed and entry.is_dir(follow_symlinks=False):
                        below.append((path, entry.path))
                    yield path, entry.path, removed
                folders += reversed(below)


@contextmanager
def open_view() -> "Iterator[View]":
    """Binds every persistent file system to a folder in a mount namespace of this process. Raises OSError."""
    with open("/proc/self/mountinfo", "rb") as file:
        points = choose_mount_points(file.read(), is_instance_store)
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc.unshare, CLONE_NEWNS)
    _call(libc.mount, b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
    base = os.fsencode(tempfile.mkdtemp(prefix="baker-", dir="/run"))
    roots = {}
    try:
        for number, point in enumerate(points):
            folder = base + b"/%d" % number
            os.mkdir(folder)
            roots[point if point != b"/" else b""] = folder
            _call(libc.mount, point, folder, None, ctypes.c_ulong(MS_BIND), None)
        yield View(roots)
    finally:
        for folder in roots.values():
            libc.umount2(folder, MNT_DETACH)
            os.rmdir(folder)
        os.rmdir(base)


def _call(function: "Callable[..., int]", *arguments: "object") -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        name = getattr(function, "__name__", "call")
        raise OSError(number, f"{name}: {os.strerror(number)}")
