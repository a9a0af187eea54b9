"""A machine of an environment: it outlives the command that made it, and is found again by its record."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

from baker.deploy.side import Side, tell_facts
from baker.errors import MachineError
from baker.providers.local.cgroups import find_cgroup_roots, find_groups, remove_cgroup
from baker.providers.local.fleet_store import FleetStore, MachineRecord, began, read_boot_id
from baker.providers.local.holder import PATH, MachineSpec
from baker.providers.local.host import (
    booted_with_systemd,
    children_of,
    is_running,
    remove_folder,
    wait_for_end,
)
from baker.providers.local.limits import read_limits
from baker.providers.local.machine import SIGRTMIN_POWEROFF, LocalMachine

SEED = "/var/lib/cloud/seed/nocloud"
POWER_OFF_SECONDS = 20.0
JOURNAL = ("--boot", "--no-pager", "--output=short-iso")


class Found:
    """A process that somebody else started, as far as ``LocalMachine`` asks of one that it started itself."""

    def __init__(self, pid: int, since: int) -> None:
        self.pid = pid
        self._since = since

    def poll(self) -> int | None:
        return None if is_running(self.pid) and began(self.pid) == self._since else -1

    def wait(self, timeout: float | None = None) -> int:
        wait_for_end([self.pid], timeout or POWER_OFF_SECONDS)
        return -1

    def kill(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class FleetMachine(LocalMachine):
    """``start`` makes one, ``find`` meets one that runs."""

    @classmethod
    def find(cls, spec: MachineSpec, record: MachineRecord) -> FleetMachine | None:
        """None if it does not run any more."""
        if not runs(record):
            return None
        machine = cls(spec, find_cgroup_roots())
        machine._holder = Found(record.holder, record.holder_began)  # type: ignore[assignment]
        children = children_of(record.holder)
        machine._holder_inside = children[0] if children else record.holder
        machine._leader = record.leader
        machine._commands = os.getpid() * 1_000_000  # others may be running commands in it as well
        machine._limited = [
            group for root in machine._cgroups.controllers.values() if (group := root / spec.cgroup).is_dir()
        ]
        return machine

    def complete(self, record: MachineRecord) -> MachineRecord:
        """The record of a machine that was just started."""
        assert self._holder is not None
        return replace(
            record,
            holder=self._holder.pid,
            holder_began=began(self._holder.pid),
            leader=self.leader,
            leader_began=began(self.leader),
        )


def runs(record: MachineRecord) -> bool:
    """Whether its holder and its init are the processes that they were."""
    return (
        record.boot == read_boot_id()
        and record.holder > 0
        and is_running(record.holder)
        and is_running(record.leader)
        and (began(record.holder), began(record.leader)) == (record.holder_began, record.leader_began)
    )


def make_spec(
    store: FleetStore, side: Side, record: MachineRecord, cgroup: str, layers: tuple[Path, ...]
) -> MachineSpec:
    folder = store.machine_folder(side.environment, record.name)
    seed = folder / "seed"
    return MachineSpec(
        name=record.name,
        cgroup=cgroup,
        folder=folder,
        layers=layers,
        hostname=record.hostname,
        environment={},
        detached=True,
        limits=read_limits(side.settings),
        shown=((seed, SEED),) if side.first_boot else (),
        inbound=((record.port, side.port),),
        reboots=False,
    )


def write_seed(folder: Path, side: Side, name: str) -> None:
    """What cloud-init finds at the machine's first boot. For root alone: secrets may be in it."""
    if side.first_boot is None:
        return
    from baker.deploy.first_boot import render  # brings the template engine: looking goes without

    facts = tell_facts("local", side.environment, name, side.first_boot.roles)
    seed = folder / "seed"
    seed.mkdir(mode=0o700, exist_ok=True)
    files = {
        "meta-data": json.dumps({"instance-id": facts.hostname, "local-hostname": facts.hostname}),
        "user-data": render(side.first_boot, side, facts),
    }
    for file, text in files.items():
        path = seed / file
        path.touch(mode=0o600)
        path.write_text(text)


def end_machine(folder: Path, cgroup: str, machine: FleetMachine | None) -> None:
    """End a machine, in an orderly way if it runs, and remove all of it. Idempotent.

    Whatever its record says: everything that is in its control group is ended.
    """
    if machine is not None and machine.alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(machine.leader, SIGRTMIN_POWEROFF)
        wait_for_end([machine.leader], POWER_OFF_SECONDS)
    if booted_with_systemd():
        subprocess.run(
            ["systemctl", "kill", "--signal=KILL", f"{cgroup}.scope"],
            env={"PATH": PATH},
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    for group in find_groups(find_cgroup_roots(), cgroup):
        if group.name == cgroup:
            remove_cgroup(group)
    if machine is not None:
        machine.kill()
    remove_folder(folder)


def read_log(folder: Path, machine: FleetMachine | None, side: Side | None, lines: int | None) -> str:
    """The journal of a machine that runs; of one that ended what it left of it, else its console."""
    count = [] if lines is None else [f"--lines={lines}"]
    text = ""
    if machine is not None:
        with contextlib.suppress(MachineError):
            text = machine.run(["journalctl", *JOURNAL, *count], timeout=30.0).stdout.decode(errors="replace")
    journal = folder / "upper" / "var" / "log" / "journal"
    if not text and journal.is_dir():
        done = subprocess.run(
            ["journalctl", f"--directory={journal}", "--no-pager", "--output=short-iso", *count],
            env={"PATH": PATH},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        text = done.stdout if done.returncode == 0 else ""
    console = folder / "console.log"
    if not text and console.is_file():
        kept = console.read_text(errors="replace").splitlines()
        text = "\n".join(kept if lines is None else kept[-lines:]) + "\n"
    if side is None or side.first_boot is None:
        return text
    from baker.deploy.first_boot import mask

    return mask(text, side.first_boot.secrets)
