"""What a running instance is made of, as compressed JSON lines on stdout; it writes nothing.

``{"format": 1}``, then ``{"dpkg": TEXT}`` and ``{"rpm": TEXT}`` where there are such packages, then one
array per path (as in ``baker.layer``; the content of a file is read where it changed lately, or
everywhere), then ``{"facts": …}`` (what the kernel says, see ``read_facts``), then ``{"end": NUMBER OF
PATHS, "unreadable": [[PATH, REASON]…]}``.
"""

# Python 3.6: annotations in quotes, paths as bytes.
# ruff: noqa: PTH110, PTH112, PTH114, PTH115, PTH116, PTH118, PTH123, PTH208

import hashlib
import json
import os
import re
import sys
import zlib

from baker.providers.aws.inside.sent.listing import (
    Reader,
    describe_in_parallel,
    list_packages,
    read_swap_files,
)
from baker.providers.aws.inside.sent.persistent import Rules, decode_path, open_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from baker.providers.aws.inside.sent.persistent import View

IN_MEMORY = (b"/run", b"/tmp", b"/dev/shm")
TEXTS = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/hostname")
SOCKET = re.compile(r"socket:\[(\d+)\]")
SLACK_SECONDS = 300
"""Clocks are set a little while after a boot."""


def main(full: bool, since: float) -> None:
    """``since``: what changed before, in seconds of the epoch, is not read unless ``full``; 0 is the boot."""
    compressor = zlib.compressobj(3)

    def write(record: "object") -> None:
        line = json.dumps(record, separators=(",", ":")) + "\n"
        sys.stdout.buffer.write(compressor.compress(line.encode()))

    write({"format": 1})
    for kind, text in list_packages():
        write({kind: text})
    reader = TouchedReader(0.0 if full else (since or read_boot_time()) - SLACK_SECONDS)
    count = 0
    with open_view() as view:
        for rows in describe_in_parallel(reader, list_paths(view)):
            for row in rows:
                write(row)
            count += len(rows)
        write({"facts": read_facts(view)})
    write({"end": count, "unreadable": sorted(reader.unreadable)})
    sys.stdout.buffer.write(compressor.flush())
    sys.stdout.buffer.flush()


def read_boot_time() -> float:
    with open("/proc/stat") as file:
        return float(next(line for line in file if line.startswith("btime ")).split()[1])


class TouchedReader(Reader):
    """Reads the content of files whose inode changed since; of others only what stands in the inode."""

    def __init__(self, since: float) -> None:
        nothing = ["\0"]
        super().__init__(Rules(nothing, nothing), read_swap_files())
        self.since = since

    def read_content(self, path: str, outside: bytes, status: "os.stat_result") -> "tuple[int, str]":
        if status.st_ctime < self.since:
            return status.st_size, ""
        return super().read_content(path, outside, status)


# --- files ------------------------------------------------------------------------------------------


def list_paths(view: "View") -> "Iterator[tuple[bytes, bytes]]":
    for path, outside, _ in view.walk(lambda _path: False):
        yield path, outside
    for top in IN_MEMORY:
        if os.path.ismount(top):
            for path in walk_one(top):
                yield path, path


def walk_one(top: bytes) -> "Iterator[bytes]":
    """Every path below, on the same file system."""
    device = os.lstat(top).st_dev
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            path = os.path.join(folder, name)
            yield path
            try:
                if os.path.isdir(path) and not os.path.islink(path) and os.lstat(path).st_dev == device:
                    folders.append(path)
            except OSError:
                continue


# --- what the kernel says ------------------------------------------------------------------------------


def read_facts(view: "View") -> "dict[str, Any]":
    """``texts`` (path to text), ``mountinfo``, ``tables`` (of sockets, by name), ``sockets`` (inode to
    program), ``programs`` (path and whether it is another file than the one there), ``cgroups`` (texts)."""
    sockets: dict[int, str] = {}
    programs, cgroups = set(), set()
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        folder = f"/proc/{pid}"
        try:
            program = os.readlink(folder + "/exe")
            running = os.stat(folder + "/exe")
            cgroups.add(read_text(folder + "/cgroup"))
        except OSError:
            continue  # the kernel's own, or gone
        programs.add((program, is_covered(view, program, running)))
        try:
            names = os.listdir(folder + "/fd")
        except OSError:
            continue
        for name in names:
            try:
                found = SOCKET.match(os.readlink(f"{folder}/fd/{name}"))
            except OSError:
                continue
            if found:
                sockets.setdefault(int(found.group(1)), program)
    texts = {path: read_text(path) for path in TEXTS if os.path.exists(path)}
    if "/etc/shadow" in texts:
        texts["/etc/shadow"] = mask_hashes(texts["/etc/shadow"])
    tables = ("tcp", "tcp6", "udp", "udp6")
    return {
        "texts": texts,
        "mountinfo": read_text("/proc/1/mountinfo"),
        "tables": {
            name: read_text("/proc/1/net/" + name) for name in tables if os.path.exists("/proc/1/net/" + name)
        },
        "sockets": sorted(sockets.items()),
        "programs": sorted(programs),
        "cgroups": sorted(cgroups),
    }


def is_covered(view: "View", program: str, running: "os.stat_result") -> bool:
    path = os.fsencode(program)
    points = [point for point in view.roots if path.startswith(point + b"/")]
    if not points:
        return False
    point = max(points, key=len)
    try:
        there = os.lstat(view.roots[point] + path[len(point) :])
    except OSError:
        return False  # deleted, or in no lasting file system: its path tells
    return not os.path.samestat(there, running)


def read_text(path: str) -> str:
    with open(path, "rb") as file:
        return decode_path(file.read(64 << 20))


def mask_hashes(shadow: str) -> str:
    """No hash leaves the machine: a digest of it tells whether it changed."""
    lines = []
    for line in shadow.splitlines():
        fields = line.split(":")
        if len(fields) > 1 and fields[1].strip("!*"):
            digest = hashlib.sha256(fields[1].encode("utf-8", "surrogateescape")).hexdigest()
            fields[1] = "sha256:" + digest
        lines.append(":".join(fields))
    return "\n".join(lines)
