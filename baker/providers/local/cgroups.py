"""Control groups: each machine has one of its own, and in it each command has one."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from baker.errors import HostError, MachineError

LIMITING = ("memory", "pids")


@dataclass(frozen=True, kw_only=True, slots=True)
class CgroupRoots:
    """Where cgroups are made: ``unified`` is cgroup 2, ``named`` systemd's own hierarchy on hybrid hosts.

    ``controllers`` holds, for ``memory`` and ``pids`` where these are still cgroup 1, the group of this
    process: a machine's lies in it, so that what limits baker limits its machines too.
    """

    unified: Path
    named: Path | None
    controllers: Mapping[str, Path] = field(default_factory=dict)

    @property
    def all(self) -> tuple[Path, ...]:
        return (self.unified,) if self.named is None else (self.unified, self.named)


def find_cgroup_roots(mountinfo: str | None = None) -> CgroupRoots:
    """Raises HostError where there is no cgroup 2 hierarchy."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    unified = named = None
    mounted: dict[str, Path] = {}
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        mount_point, file_system = fields.split()[4], rest.split()[0]
        if file_system == "cgroup2":
            unified = Path(mount_point)
        elif file_system == "cgroup" and "name=systemd" in rest:
            named = Path(mount_point)
        elif file_system == "cgroup":
            options = set(rest.split()[-1].split(","))
            mounted |= {name: Path(mount_point) for name in options & set(LIMITING)}
    if unified is None:
        raise HostError(
            "no cgroup 2 hierarchy is mounted", hint="Boot with systemd.unified_cgroup_hierarchy=1."
        )
    return CgroupRoots(unified=unified, named=named, controllers=find_own_groups(mounted))


def find_own_groups(mounted: Mapping[str, Path]) -> dict[str, Path]:
    """This process's group in each cgroup 1 hierarchy; the top one where a container hides it."""
    found = dict(mounted)
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for name in set(controllers.split(",")) & set(mounted):
            own = mounted[name] / path.lstrip("/")
            if own.is_dir():
                found[name] = own
    return found


def find_groups(roots: CgroupRoots, prefix: str) -> list[Path]:
    """Every group whose name starts so, of whichever process: what a killed one left."""
    found = [path for root in roots.all for path in root.glob(f"{prefix}*")]
    for own in roots.controllers.values():
        top = next((path for path in own.parents if path.is_mount()), own) if not own.is_mount() else own
        for path, folders, _ in os.walk(top):
            found += [Path(path, name) for name in folders if name.startswith(prefix)]
            folders[:] = [name for name in folders if not name.startswith("baker-")]
    return found


def enter_cgroups(folders: Sequence[Path]) -> list[str]:
    """The argv prefix that moves a process into cgroups before it becomes the command."""
    script = 'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@"'
    return ["sh", "-c", script, "enter", *map(str, folders), "--"]


def cgroup_of(pid: int, roots: CgroupRoots) -> list[Path]:
    """The folders of the machine's group, by ``pid`` of nspawn, which moves itself into a child group."""
    folders = []
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if pid else []:
        _, controllers, path = line.split(":", 2)
        root = roots.unified if controllers == "" else roots.named if controllers == "name=systemd" else None
        if root is not None:
            folders.append(root / path.removesuffix("/supervisor").lstrip("/"))
    return folders


def kill_cgroups(folders: Sequence[Path]) -> None:
    """Kill every process in the groups, also those that fork meanwhile."""
    for folder in folders:
        kill_file = folder / "cgroup.kill"
        if kill_file.exists():
            with contextlib.suppress(OSError):
                kill_file.write_text("1")
            continue
        for _ in range(50):
            try:
                pids = [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
            except OSError:
                break
            if not pids:
                break
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)


def remove_cgroup(folder: Path) -> None:
    """Remove a group with all its children once its processes are gone (at most two seconds)."""
    deadline = time.monotonic() + 2.0
    while folder.exists():
        groups = [Path(path) for path, _, _ in os.walk(folder, topdown=False)]
        kill_cgroups(groups)
        for group in groups:
            with contextlib.suppress(OSError):
                group.rmdir()
        if time.monotonic() > deadline:
            raise MachineError(f"cgroup {folder} could not be removed", hint=f"rmdir {folder}")
        if folder.exists():
            time.sleep(0.005)


def remove_idle_cgroups(folders: Sequence[Path]) -> None:
    """Remove the groups of a command. Daemons that outlive it keep theirs; it goes with the machine."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
