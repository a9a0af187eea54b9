"""Who listens on a port of this host."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

LISTENS = "0A"
EVERYWHERE = ("", "*", "0.0.0.0", "::")


def find_listener(address: str, port: int) -> str | None:
    """The process that has a TCP port of an address, ``nginx (pid 812)``; None if that cannot be told."""
    wanted = _as_the_kernel_writes(address)
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                where, _, number = fields[1].rpartition(":")
                there = wanted is None or where == wanted or not where.strip("0")
                if fields[3] == LISTENS and int(number, 16) == port and there:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(link) in inodes for link in (process / "fd").iterdir()):  # noqa: PTH115
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return None


def _as_the_kernel_writes(address: str) -> str | None:
    """An IPv4 address as in /proc/net/tcp; None for one that may be any (all, a name, IPv6)."""
    if address in EVERYWHERE:
        return None
    try:
        return socket.inet_pton(socket.AF_INET, address)[::-1].hex().upper()
    except OSError:
        return None
