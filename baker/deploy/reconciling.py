"""Reconciling: what died is replaced by new machines, never repaired; traffic goes where it should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from baker.deploy.auditing import note_births
from baker.deploy.collecting import collect_environment, settle
from baker.deploy.deployer import Deployer, environment_of
from baker.deploy.fleet import FleetMachine
from baker.deploy.recovery import recover
from baker.deploy.release import Release
from baker.errors import BadReference, BakerError


@dataclass(frozen=True, kw_only=True, slots=True)
class Replaced:
    """Machines of a side that were replaced, and why; ``error`` says why the old ones are still there."""

    environment: str
    number: int
    old: tuple[str, ...]
    new: tuple[str, ...]
    reason: str
    error: str | None = None


def reconcile(deployer: Deployer, environment: str) -> Sequence[Replaced]:
    """Undo what died half-way, give the traffic to who should have it, replace machines that died or have
    been sick for as long as a new one may take, collect what is due. The caller holds the lock.

    The side that serves comes first. Raises BadReference for an environment that was never deployed.
    """
    record = deployer.catalog.environment(environment)
    if record is None:
        raise BadReference(f"nothing was ever deployed to {environment}", hint="List them: baker env ls")
    recover(deployer, record)
    record = deployer.catalog.environment(environment)
    settle(deployer, environment)
    done = []
    for release in (record.live, record.warm) if record else ():
        if release is None:
            continue
        broken = [
            one
            for one in deployer.fleet.machines(environment)
            if one.number == release.number and is_broken(one, environment_of(release).health.within)
        ]
        if broken:
            names = [machine.name for machine in broken]
            why = "; ".join(f"{machine.name}: {machine.detail or 'it died'}" for machine in broken)
            done.append(replace_machines(deployer, release, names, why))
        missing = deployer.fleet.size(environment, release.number)
        if missing == 0:
            deployer.report.say(f"Side {environment}-{release.number} is not there any more")
    collect_environment(deployer, environment)
    return done


def is_broken(machine: FleetMachine, seconds: float) -> bool:
    """Dead, or not healthy for so long."""
    if not machine.alive:
        return True
    since = machine.since or machine.started
    if machine.healthy or since is None:
        return False
    return (datetime.now(UTC) - since).total_seconds() >= seconds


def replace_machines(deployer: Deployer, release: Release, names: Sequence[str], reason: str) -> Replaced:
    """New machines of the same release for these. Written into the environment's history."""
    name = release.environment
    deployer.report.say(f"Replacing {', '.join(names)} of {name}: {reason}")
    try:
        new = deployer.fleet.replace(name, names, deployer.interruption.pause)
    except BakerError as error:
        deployer.report.say(f"{', '.join(names)} stay as they are: {error}")
        return Replaced(
            environment=name,
            number=release.number,
            old=tuple(names),
            new=(),
            reason=reason,
            error=str(error),
        )
    note_births(deployer, deployer.catalog.release(release.id), new)
    deployer.catalog.add_environment_event(
        name,
        "replaced",
        number=release.number,
        reason=reason,
        details={"old": list(names), "new": list(new)},
    )
    return Replaced(environment=name, number=release.number, old=tuple(names), new=tuple(new), reason=reason)
