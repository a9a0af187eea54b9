"""What a fleet keeps on this host: sides as they are to be, and the machines that there are.

BAKER_HOME/local/environments/NAME/
    lock                  held by whoever changes one of the others
    haproxy/              see ``balancer``
    sides/N/side.json     all that the machines of release N are made of, secrets included: for root alone
    machines/N-M/         one machine: ``machine.json``, ``seed/``, and what ``LocalMachine`` keeps
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from baker.deploy.environment import Health
from baker.deploy.side import FirstBoot, Side
from baker.errors import BadReference, HostError
from baker.model import Artifact
from baker.providers.local.balancer.process import write_durably
from baker.providers.local.host import remove_folder

FIRST_PORT, LAST_PORT = 20000, 29999
"""Of this host's loopback, for machines: below what the kernel gives to whoever connects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineRecord:
    """A machine as it was made. ``holder`` and ``leader`` are process ids, with the times (in the kernel's
    ticks since boot) when those began: an id alone may be somebody else's by now. 0: not
    so far."""

    name: str
    hostname: str
    side: int
    port: int
    started: datetime
    boot: str
    holder: int = 0
    holder_began: int = 0
    leader: int = 0
    leader_began: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptSide:
    """``size`` is how many machines it is to have, ``last`` the number that was given last."""

    side: Side
    size: int
    last: int


class FleetStore:
    """The folders of all environments of one BAKER_HOME."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "local" / "environments"

    def of(self, environment: str) -> Path:
        return self.folder / environment

    def haproxy(self, environment: str) -> Path:
        return self.of(environment) / "haproxy"

    def machine_folder(self, environment: str, name: str) -> Path:
        return self.of(environment) / "machines" / name

    def environments(self) -> list[str]:
        return sorted(path.name for path in _folders(self.folder))

    @contextmanager
    def lock(self, environment: str) -> Iterator[None]:
        """Within, no other process or thread of this host changes what is kept. Raises HostError."""
        folder = self.of(environment)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            with (folder / "lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
        except PermissionError as error:
            raise HostError(f"{folder} may not be changed by this user", hint="Run it with sudo.") from error

    # --- sides ------------------------------------------------------------------------------------

    def numbers(self, environment: str) -> list[int]:
        """Of every side that something is left of."""
        found = {int(path.name) for path in _folders(self.of(environment) / "sides")}
        found |= {int(path.name.partition("-")[0]) for path in _folders(self.of(environment) / "machines")}
        return sorted(found)

    def write_side(self, kept: KeptSide) -> None:
        folder = self.of(kept.side.environment) / "sides" / str(kept.side.number)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(folder / "side.json", json.dumps(asdict(kept), default=str))

    def read_side(self, environment: str, number: int) -> KeptSide | None:
        """None if there is none, or its making did not get so far. Raises HostError."""
        path = self.of(environment) / "sides" / str(number) / "side.json"
        try:
            return _make_side(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise HostError(f"{path} cannot be read: {error}") from error

    def remove_side(self, environment: str, number: int) -> None:
        remove_folder(self.of(environment) / "sides" / str(number))

    def forget(self, environment: str) -> None:
        """Nothing is left of it."""
        remove_folder(self.of(environment))

    # --- machines ---------------------------------------------------------------------------------

    def machines(self, environment: str) -> list[MachineRecord]:
        """By side and number, also those that are half made."""
        found = []
        for path in _folders(self.of(environment) / "machines"):
            with contextlib.suppress(BadReference):
                found.append(self.machine(environment, path.name))
        return sorted(found, key=lambda record: tuple(map(int, record.name.split("-"))))

    def machine(self, environment: str, name: str) -> MachineRecord:
        """Raises BadReference."""
        path = self.machine_folder(environment, name) / "machine.json"
        try:
            kept = json.loads(path.read_text())
            return MachineRecord(**{**kept, "started": datetime.fromisoformat(kept["started"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            names = ", ".join(folder.name for folder in _folders(path.parent.parent)) or "none"
            raise BadReference(
                f"{environment} has no machine {name} here (it has: {names})",
                hint=f"List them: baker env show {environment}",
            ) from error

    def write_machine(self, environment: str, record: MachineRecord) -> None:
        folder = self.machine_folder(environment, record.name)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(folder / "machine.json", json.dumps(asdict(record), default=datetime.isoformat))

    def claim_machines(self, kept: KeptSide, number: int) -> list[MachineRecord]:
        """So many new machines of a side, written down, each with a name and a port of its own."""
        side = kept.side
        names = [f"{side.number}-{kept.last + index + 1}" for index in range(number)]
        self.write_side(replace(kept, last=kept.last + number))
        records = []
        with self._locked_ports():
            taken = {one.port for name in self.environments() for one in self.machines(name)}
            ports = (port for port in range(FIRST_PORT, LAST_PORT + 1) if port not in taken and is_free(port))
            for name in names:
                port = next(ports, None)
                if port is None:
                    raise HostError(f"every port from {FIRST_PORT} to {LAST_PORT} of this host is in use")
                record = MachineRecord(
                    name=name,
                    hostname=f"{side.environment}-{name}",
                    side=side.number,
                    port=port,
                    started=datetime.now(UTC),
                    boot=read_boot_id(),
                )
                self.write_machine(side.environment, record)
                records.append(record)
        return records

    @contextmanager
    def _locked_ports(self) -> Iterator[None]:
        with (self.folder / ".ports").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def read_boot_id() -> str:
    """Tells one run of this host from another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def began(pid: int) -> int:
    """When a process began, in ticks since the host's boot; 0 if it is gone."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return 0


def _folders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return sorted(
                Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")
            )
    except FileNotFoundError:
        return []
    except PermissionError as error:
        raise HostError(f"{path} may not be read by this user", hint="Run it with sudo.") from error


def _make_side(text: Mapping[str, Any]) -> KeptSide:
    side = dict(text["side"])
    first_boot = side["first_boot"]
    made = Side(
        **{
            **side,
            "artifact": Artifact(**side["artifact"]),
            "health": Health.from_json(side["health"]),
            "first_boot": FirstBoot(**{**first_boot, "roles": tuple(first_boot["roles"])})
            if first_boot
            else None,
        }
    )
    return KeptSide(side=made, size=text["size"], last=text["last"])
