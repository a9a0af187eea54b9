"""What a running machine is made of, as somebody who only looks sees it; and how the kernel's own texts of it
are read, wherever they come from."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from baker.model import FileEntry, Package

TEXTS = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/hostname")
"""Files whose meaning is compared, beside their content."""

DELETED, COVERED = " (deleted)", " (not the file of the root file system)"
"""What follows the path of a program that is not the file which is found there."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Port:
    """Something that listens. ``protocol`` is ``tcp`` or ``udp``; ``program`` the path of the executable that
    does, empty where that cannot be told. ``local`` ones are reached from the machine alone."""

    protocol: str
    port: int
    program: str
    local: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """``files`` are the paths of the root file system that may differ from the image: every path where
    ``whole``, else those whose metadata, or time of change, say that they were touched. What is in the
    image and is gone is in ``gone``, a folder with all that is below it (but what is in ``files``); where
    ``whole``, by not being in ``files``. ``digest`` of a file is set where its content was read; where it
    is empty, type, mode, owner, size, link and extended attributes are all that was compared. What lies in
    memory file systems (``/run``, ``/tmp``, ``/dev``) is among them.

    ``packages`` are those that the package manager says are installed. ``texts`` holds small files whose
    meaning is compared (``TEXTS``, and in ``/etc/shadow`` each hash replaced by its digest). ``ports``
    listen, ``mounts`` are what is mounted over the root file system (path to type and source), ``processes``
    are the executables of running processes (see ``DELETED``, ``COVERED``), ``units`` are systemd units that
    have processes, or failed (name to state). ``damaged`` are layers of the image that are not what their
    name says. ``full`` says that every digest was read.
    """

    full: bool
    packages: tuple[Package, ...]
    files: tuple[FileEntry, ...]
    gone: tuple[str, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    mounts: Mapping[str, str] = field(default_factory=dict)
    processes: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False
    damaged: tuple[str, ...] = ()


# --- what the kernel says ------------------------------------------------------------------------------

_LISTENS = {"tcp": "0A", "udp": "07"}
_SOCKET = re.compile(r"socket:\[(\d+)\]")


def socket_inode(link: str) -> int | None:
    """The number of the socket that a descriptor is, from what ``/proc/PID/fd/N`` links to."""
    found = _SOCKET.fullmatch(link)
    return int(found[1]) if found else None


def parse_ports(tables: Mapping[str, str], programs: Mapping[int, str]) -> tuple[Port, ...]:
    """What listens, of ``/proc/net/tcp``, ``tcp6``, ``udp``, ``udp6`` (by name); ``programs`` by inode.

    A UDP socket that is connected to somebody is a client's and no port. Raises ValueError.
    """
    found = set()
    for table, text in tables.items():
        protocol = table.removesuffix("6")
        for line in text.splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == _LISTENS[protocol]:
                address, port = local.split(":")
                program = programs.get(int(rest[5]), "")
                is_local = _is_loopback(address)
                found.add(Port(protocol=protocol, port=int(port, 16), program=program, local=is_local))
    return tuple(sorted(found))


def _is_loopback(address: str) -> bool:
    """Of an address as the kernel writes it: words of four bytes, in the order of a little-endian host."""
    words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
    parsed = ipaddress.ip_address(b"".join(words))
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def parse_mounts(mountinfo: str) -> dict[str, str]:
    """What is mounted where, but for the root: "TYPE SOURCE[PART]" of the uppermost. Raises ValueError."""
    found = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        _, _, _, part, point = before.split()[:5]
        kind, source = after.split()[:2]
        found[_unescape(point)] = f"{kind} {_unescape(source)}" + (
            f"[{_unescape(part)}]" if part != "/" else ""
        )
    found.pop("/", None)
    return found


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def name_unit(cgroups: str) -> str | None:
    """The systemd unit of a process, from its ``/proc/PID/cgroup``; None for what none of the machine's has.

    What lies above nspawn's ``payload`` is of the host.
    """
    for line in _systemd_paths(cgroups):
        parts = line.strip("/").split("/")
        if "payload" in parts:
            parts = parts[parts.index("payload") + 1 :]
        for part in parts:
            if part.endswith((".service", ".scope")):
                return part
    return None


def _systemd_paths(cgroups: str) -> Iterator[str]:
    for line in cgroups.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or controllers == "name=systemd":
            yield path


def mask_hashes(shadow: str) -> str:
    """The same lines with each password replaced by a digest of it; locked and empty ones stay."""
    lines = []
    for line in shadow.splitlines():
        name, colon, rest = line.partition(":")
        password, end, rest = rest.partition(":")
        if password.strip("!*"):
            password = "sha256:" + hashlib.sha256(password.encode(errors="surrogateescape")).hexdigest()
        lines.append(f"{name}{colon}{password}{end}{rest}")
    return "\n".join(lines)
