"""An environment as catalog and fleet have it, and the documented JSON of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from baker.cli.deployers import is_here
from baker.cli.wiring import make_fleet
from baker.deploy.release import UNDONE, EnvironmentEvent, EnvironmentRecord, Release
from baker.errors import BakerError

if TYPE_CHECKING:
    from baker.catalog import Catalog
    from baker.deploy.fleet import FleetMachine, Traffic
    from baker.locks import Lock
    from baker.model import Image
    from baker.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """An environment as catalog and fleet have it. Without ``record`` it was never deployed, or is only
    left at the fleet; ``unseen`` says why the fleet was not asked, or did not answer."""

    name: str
    target: str
    record: EnvironmentRecord | None
    lock: Lock | None
    machines: Sequence[FleetMachine] = ()
    traffic: Traffic | None = None
    place: str | None = None
    unseen: str | None = None

    @property
    def state(self) -> str:
        """``deploying``, ``live``, ``empty`` (nothing serves) or ``not deployed``."""
        if self.record is None or (self.record.removed is not None and not self.record.releases):
            return "not deployed"
        if self.record.in_state(*UNDONE):
            return "deploying"
        return "live" if self.record.live else "empty"

    @property
    def shown(self) -> Release | None:
        """The release that a list shows."""
        return None if self.record is None else self.record.live or self.record.in_state(*UNDONE)

    def machines_of(self, release: Release) -> list[FleetMachine]:
        return [machine for machine in self.machines if machine.number == release.number]

    def share_of(self, release: Release) -> int | None:
        """Percent of the traffic; None where that was not seen."""
        return None if self.traffic is None else self.traffic.weights.get(release.number, 0)


def see(settings: Settings, catalog: Catalog, name: str, record: EnvironmentRecord | None) -> Seen:
    """Ask the catalog and the fleet."""
    from baker.deploy.deployer import environment_of, lock_name

    lock = catalog.find_lock(lock_name(name))
    target = record.target if record else ""
    if record is None or not record.releases:
        return Seen(name=name, target=target, record=record, lock=lock)
    if not is_here(settings, record):
        host = record.store.partition(":")[0]
        return Seen(name=name, target=target, record=record, lock=lock, unseen=f"it is served from {host}")
    try:
        fleet = make_fleet(settings, target)
        described = environment_of(record.live or record.releases[0])
        return Seen(
            name=name,
            target=target,
            record=record,
            lock=lock,
            machines=fleet.machines(name),
            traffic=fleet.traffic(name),
            place=fleet.place(described),
        )
    except (BakerError, OSError) as error:
        return Seen(name=name, target=target, record=record, lock=lock, unseen=str(error))


# --- documented JSON ------------------------------------------------------------------------------------


def listed_json(one: Seen) -> dict[str, Any]:
    """One element of ``environments`` in ``env ls --json``. ``healthy`` is null where it was not seen."""
    release = one.shown
    seen = one.traffic is not None and release is not None
    machines = one.machines_of(release) if release else []
    return {
        "environment": one.name,
        "state": one.state,
        "target": one.target or None,
        "store": one.record.store if one.record else None,
        "place": one.place,
        "release": release.number if release else None,
        "image": release.image if release else None,
        "machines": (len(machines) if seen else release.size) if release else None,
        "healthy": sum(machine.alive and machine.healthy for machine in machines) if seen else None,
        "since": release.live_since if release else None,
        "unseen": one.unseen,
    }


def shown_json(one: Seen, images: dict[str, Image]) -> dict[str, Any]:
    """``env show --json``: what ``env ls`` says, with ``sides`` (newest first)."""
    releases = one.record.releases if one.record else ()
    warm = one.record.warm if one.record else None
    lock = one.lock
    return {
        **listed_json(one),
        "roll_back": {"image": warm.image, "release": warm.number, "until": warm.warm_until}
        if warm
        else None,
        "at_work": {"actor": lock.actor, "host": lock.host, "pid": lock.pid, "since": lock.since}
        if lock
        else None,
        "sides": [side_json(one, release, images[release.id]) for release in releases],
    }


def side_json(one: Seen, release: Release, image: Image) -> dict[str, Any]:
    return {
        "side": f"{one.name}-{release.number}",
        "release": release.number,
        "state": str(release.state),
        "image": release.image,
        "image_status": str(image.status),
        "traffic": one.share_of(release),
        "started": release.started,
        "live_since": release.live_since,
        "warm_until": release.warm_until,
        "actor": release.actor,
        "host": release.host,
        "reason": release.reason,
        "abort": release.abort,
        "lease": f"env:{one.name}",
        "audit": release.audit,
        "machines": [machine_json(machine) for machine in one.machines_of(release)],
    }


def machine_json(machine: FleetMachine) -> dict[str, Any]:
    return {
        "name": machine.name,
        "hostname": machine.hostname,
        "address": machine.address,
        "alive": machine.alive,
        "healthy": machine.healthy,
        "detail": machine.detail,
        "since": machine.since,
        "started": machine.started,
        "sessions": machine.sessions,
        "errors": machine.errors,
    }


def event_json(event: EnvironmentEvent) -> dict[str, Any]:
    """One element of ``events`` in ``env history --json``. Logs are printed by ``baker logs ENV/MACHINE``."""
    details = {key: value for key, value in event.details.items() if key != "logs"}
    return {
        "event": event.event,
        "release": event.number,
        "image": event.image,
        "actor": event.actor,
        "at": event.at,
        "reason": event.reason,
        "details": details,
        "logs": sorted(event.details.get("logs", ())),
    }
