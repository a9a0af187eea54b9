"""An instance's own address: a pair of virtual links between this host and a machine's network."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
from pathlib import Path

from baker.errors import CommandFailed
from baker.providers.local.host import run_tool

HOST = "198.18.0.1"
"""This host, as machines see it (198.18.0.0/15 is set aside for laboratories: RFC 2544)."""
_addresses = itertools.count(2)
_links = itertools.count(1)


def claim_address() -> str:
    """One that nobody on this host has."""
    used = run_tool(["ip", "-4", "route", "show"])
    while True:
        # Labs that start at once begin far from one another: the route is not there at once.
        number = (os.getpid() * 256 + next(_addresses)) % (1 << 17)
        address = f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
        if number % 256 not in (0, 1, 255) and f"{address} " not in used:
            return address


class Link:
    """The host's end. It is up, and the address leads to it, before the machine is there; whoever tries to
    connect meanwhile gets no answer, as at AWS. It ends with the machine, or by ``remove``.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        number = next(_links)
        self.name = f"lab{os.getpid():x}-{number:x}"
        self._peer = f"lbp{os.getpid():x}-{number:x}"
        run_tool(["ip", "link", "add", self.name, "type", "veth", "peer", "name", self._peer])
        run_tool(["ip", "addr", "add", f"{HOST}/32", "dev", self.name])
        run_tool(["ip", "link", "set", self.name, "up"])
        run_tool(["ip", "route", "add", f"{address}/32", "dev", self.name, "src", HOST])

    def attach(self, leader: int) -> None:
        """Put the other end into the network of the process ``leader``, with the address."""
        run_tool(["ip", "link", "set", self._peer, "netns", str(leader)])
        inside = ["nsenter", "-t", str(leader), "-n", "--", "ip"]
        run_tool([*inside, "link", "set", self._peer, "name", "lab0", "up"])
        run_tool([*inside, "addr", "add", f"{self.address}/32", "dev", "lab0"])
        run_tool([*inside, "route", "add", f"{HOST}/32", "dev", "lab0"])

    def remove(self) -> None:
        """Idempotent."""
        subprocess.run(["ip", "link", "delete", self.name], capture_output=True)


def remove_stale_links() -> None:
    """Those of labs that were killed before a machine had them."""
    for path in Path("/sys/class/net").iterdir():
        found = re.fullmatch(r"lab([0-9a-f]+)-[0-9a-f]+", path.name)
        if found and not Path(f"/proc/{int(found[1], 16)}").exists():
            with contextlib.suppress(CommandFailed):
                run_tool(["ip", "link", "delete", path.name])
