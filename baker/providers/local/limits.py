"""What one machine may take of the host: memory and processes, held by control groups."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baker.providers.local.cgroups import CgroupRoots

PIDS = 4096
MEMORY_SHARE = 0.8
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Bytes of memory (tmpfs included), and processes and threads."""

    memory: int
    pids: int

    def describe(self, controller: str) -> str:
        if controller == "pids":
            return f"its limit of {self.pids} processes"
        return f"its memory limit of {self.memory / 2**20:.0f} MiB"


def read_limits(settings: Mapping[str, Any]) -> Limits:
    """``memory`` (as ``2G``) and ``pids`` of a target's settings, each with its default."""
    chosen = settings.get("memory")
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory = parse_size(str(chosen)) if chosen is not None else int(host * MEMORY_SHARE)
    return Limits(memory=memory, pids=int(settings.get("pids", PIDS)))


def parse_size(text: str) -> int:
    """``512M``, ``2G``: settings.py has checked the form."""
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    assert match is not None
    return int(match[1]) * UNITS[match[2]]


def systemd_properties(limits: Limits) -> list[str]:
    """How systemd-run is told."""
    return [
        f"--property=MemoryMax={limits.memory}",
        "--property=MemorySwapMax=0",
        f"--property=TasksMax={limits.pids}",
    ]


def make_limited_groups(name: str, limits: Limits, roots: CgroupRoots) -> list[Path]:
    """Set the limits where there is no systemd to do it; returns the groups that a process has to enter.

    cgroup 1: a group in each controller's own hierarchy. cgroup 2: the machine's group itself, if its parent
    lets controllers be enabled. A controller that this process may not use sets no limit: ``doctor`` says so.
    """
    made = []
    for controller in ("memory", "pids"):
        parent = roots.controllers.get(controller)
        if parent is None:
            parent = roots.unified
            with contextlib.suppress(OSError):
                (parent / "cgroup.subtree_control").write_text(f"+{controller}")
        folder = parent / name
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            made.append(folder)
            for file, value in limit_files(controller, limits):
                if (folder / file).exists():
                    (folder / file).write_text(value)
    return made


def limit_files(controller: str, limits: Limits) -> list[tuple[str, str]]:
    """The files of both versions of a controller; a group has one version's."""
    if controller == "pids":
        return [("pids.max", str(limits.pids))]
    memory = str(limits.memory)
    return [
        ("memory.limit_in_bytes", memory),
        ("memory.memsw.limit_in_bytes", memory),
        ("memory.max", memory),
        ("memory.swap.max", "0"),
    ]


def find_reached_limit(groups: Sequence[Path]) -> str | None:
    """``memory`` or ``pids`` if a machine in these groups ever ran into that limit."""
    # The kernel counts where the process was, which may be a group that the machine's own init made.
    for group in (Path(path) for root in groups for path, _, _ in os.walk(root)):
        for file, key, controller in (
            ("memory.events", "oom_kill", "memory"),
            ("memory.oom_control", "oom_kill", "memory"),
            ("pids.events", "max", "pids"),
        ):
            with contextlib.suppress(OSError):
                lines = dict(line.split() for line in (group / file).read_text().splitlines())
                if int(lines.get(key, 0)) > 0:
                    return controller
    return None
