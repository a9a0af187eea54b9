"""The proof of immutability: what runs is what was baked, or here is what differs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from baker.deploy.deployer import Deployer, environment_of
from baker.deploy.drift import Drift, Expected, born, find_drift
from baker.deploy.first_boot import expected_result
from baker.deploy.fleet import FleetMachine
from baker.deploy.release import EnvironmentRecord, Release
from baker.errors import BakerError
from baker.model import Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Audited:
    """One machine as it was found. ``drifts`` is empty where it is unmodified; ``error`` says why it could
    not be looked at. Without ``birth_known`` what its first boot did is not told from what came later."""

    machine: FleetMachine
    release: Release
    drifts: tuple[Drift, ...]
    error: str | None
    birth_known: bool

    @property
    def unmodified(self) -> bool:
        return self.error is None and not self.drifts

    def to_json(self) -> dict[str, Any]:
        return {
            "machine": self.machine.name,
            "release": self.release.number,
            "image": self.release.image,
            "unmodified": self.unmodified,
            "drifts": [
                {"kind": one.kind, "name": one.name, "detail": one.detail, "message": one.message}
                for one in self.drifts
            ],
            "error": self.error,
            "birth_known": self.birth_known,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowed:
    """What the recipe says may change beside what always may."""

    paths: Sequence[str] = ()
    ports: Sequence[int] = ()


def note_births(deployer: Deployer, release: Release, names: Collection[str] | None = None) -> None:
    """What machines of a release (all, or those of these names) are before anybody but us used them.

    One that cannot be looked into (no SSH) is left out: an audit says so.
    """
    found: dict[str, Any] = {}
    for machine in deployer.fleet.machines(release.environment):
        if machine.number == release.number and (names is None or machine.name in names):
            with suppress(BakerError):
                found[machine.name] = born(deployer.fleet.observe(release.environment, machine.name))
    if found:
        deployer.catalog.note_born(release.id, {**release.born, **found})


def audit(
    deployer: Deployer, record: EnvironmentRecord, allowed: Allowed, *, full: bool = False
) -> list[Audited]:
    """Look at every machine of the live and the warm side. What was found is kept with their releases, and
    new drift in the environment's history. Changes nothing in a machine."""
    machines = deployer.fleet.machines(record.name)
    found = []
    for release in (record.live, record.warm):
        if release is None:
            continue
        manifest = deployer.catalog.manifest(release.build)
        of_side = []
        for machine in machines:
            if machine.number == release.number:
                deployer.report.status(f"looking at {machine.name}")
                of_side.append(_audit_machine(deployer, release, machine, manifest, allowed, full))
        _remember(deployer, release, of_side, full)
        found += of_side
    return found


def _audit_machine(
    deployer: Deployer,
    release: Release,
    machine: FleetMachine,
    manifest: Manifest,
    allowed: Allowed,
    full: bool,
) -> Audited:
    birth: Mapping[str, Any] = release.born.get(machine.name, {})
    drifts: tuple[Drift, ...] = ()
    error = None
    try:
        told = deployer.fleet.user_data(release.environment, machine.name)
        result = expected_result(told) if told is not None else None
        environment = environment_of(release)
        expected = Expected(
            allow=(*allowed.paths, *environment.allow),
            ports=(environment.port, *allowed.ports, *environment.allow_ports),
            born=birth,
            first_boot=result.files if result else {},
            users=result.users if result else (),
            hostname=(result.hostname if result else None) or machine.hostname,
        )
        observed = deployer.fleet.observe(release.environment, machine.name, full=full)
        drifts = tuple(find_drift(manifest, observed, expected))
    except BakerError as failure:
        error = str(failure)
    return Audited(machine=machine, release=release, drifts=drifts, error=error, birth_known=bool(birth))


def _remember(deployer: Deployer, release: Release, found: Sequence[Audited], full: bool) -> None:
    known = {
        name: {drift["message"] for drift in machine["drifts"]}
        for name, machine in (release.audit or {}).get("machines", {}).items()
    }
    deployer.catalog.note_audit(
        release.id,
        {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "full": full,
            "machines": {one.machine.name: one.to_json() for one in found},
        },
    )
    for one in found:
        new = [drift.message for drift in one.drifts if drift.message not in known.get(one.machine.name, ())]
        if new:
            deployer.catalog.add_environment_event(
                release.environment,
                "drifted",
                number=release.number,
                reason=f"{one.machine.name}: {new[0]}" + (f" and {len(new) - 1} more" if new[1:] else ""),
                details={"machine": one.machine.name, "drifts": new},
            )
