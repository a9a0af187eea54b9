"""Collection: sides past their window, and what dead deployments left. Never what serves traffic."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from baker.catalog import Catalog
from baker.deploy.deployer import Deployer, environment_of
from baker.deploy.fleet import Fleet, Traffic
from baker.deploy.release import EnvironmentRecord, Release, ReleaseState
from baker.errors import BakerError
from baker.locking import LockHeld


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectedSide:
    """A side that was removed, or would be, and why. ``error`` says why it is still there."""

    environment: str
    number: int
    image: str | None
    reason: str
    error: str | None = None


def settle(deployer: Deployer, environment: str, *, standby: bool = True) -> None:
    """Give the traffic to the live release, whole: the load balancer does what the catalog says.

    Nothing else is changed. With ``standby`` the warm side serves while all of the live one is out of order.
    """
    record = deployer.catalog.environment(environment)
    live = record.live if record else None
    if record is None or not record.releases:
        return
    if live is None:
        described = environment_of(record.releases[0])
        if deployer.fleet.traffic(environment).weights:
            deployer.fleet.shift(described, Traffic(weights={}))
        return
    warm = record.warm if standby else None
    wanted = Traffic(weights={live.number: 100}, standby=warm.number if warm else None)
    deployer.fleet.shift(environment_of(live), wanted)


def finish_removal(deployer: Deployer, release: Release) -> None:
    """Remove the machines of a release that is RETIRING, and end it. Raises what keeps them from going."""
    deployer.fleet.remove(release.environment, release.number, time.sleep)
    deployer.catalog.end_release(release.id)


def collect_environment(
    deployer: Deployer, environment: str, *, dry_run: bool = False
) -> Sequence[CollectedSide]:
    """Remove what is due of one environment, and orphans. The caller holds its lock, unless ``dry_run``."""
    due = deployer.catalog.due_releases(environment)
    found = [
        CollectedSide(
            environment=environment,
            number=release.number,
            image=release.image,
            reason="its roll-back window is over"
            if release.state is ReleaseState.WARM
            else release.reason or "it is being removed",
        )
        for release in due
    ]
    record = deployer.catalog.environment(environment)
    orphans = find_orphans(deployer.fleet, environment, record)
    found += [
        CollectedSide(environment=environment, number=number, image=None, reason="no release has it")
        for number in orphans
    ]
    if dry_run:
        return found
    for release in due:
        if release.state is ReleaseState.WARM:
            deployer.catalog.retire_release(release.id, reason="its roll-back window was over")
    if due:
        settle(deployer, environment)  # a side that goes is nobody's standby
    done = []
    by_number = {release.number: release for release in due}
    for side in found:
        done.append(_remove_side(deployer, side, by_number.get(side.number)))
    dismantle_if_empty(deployer, environment)
    return done


def dismantle_if_empty(deployer: Deployer, environment: str) -> None:
    """Where no side is left, nobody has to listen any more."""
    record = deployer.catalog.environment(environment)
    left = deployer.fleet.sides().get(environment)
    if left is not None and not left and not (record and record.releases):
        deployer.fleet.dismantle(environment)


def find_orphans(fleet: Fleet, environment: str, record: EnvironmentRecord | None) -> list[int]:
    """Sides that no release has any more; never one with traffic, whatever the catalog says."""
    known = {release.number for release in record.releases} if record else set()
    there = set(fleet.sides().get(environment, ()))
    serving = {number for number, share in fleet.traffic(environment).weights.items() if share}
    return sorted(there - known - serving)


def _remove_side(deployer: Deployer, side: CollectedSide, release: Release | None) -> CollectedSide:
    try:
        if release is not None:
            finish_removal(deployer, release)
        else:
            deployer.fleet.remove(side.environment, side.number, time.sleep)
    except BakerError as error:
        return CollectedSide(
            environment=side.environment,
            number=side.number,
            image=side.image,
            reason=side.reason,
            error=str(error),
        )
    what = f" ({side.image})" if side.image else ""
    deployer.report.say(f"Collected side {side.environment}-{side.number}{what}: {side.reason}")
    return side


def names_here(catalog: Catalog, fleets: Mapping[str, Fleet], store_of: Mapping[str, str]) -> dict[str, str]:
    """Every environment that these fleets may have something of, with its target."""
    found = {name: target for target, fleet in fleets.items() for name in fleet.sides()}
    for record in catalog.environments():
        if record.target in fleets and record.store == store_of.get(record.target, record.store):
            found.setdefault(record.name, record.target)
    return found


def collect_if_free(deployer: Deployer, environment: str) -> Sequence[CollectedSide]:
    """The same, if nobody is at work on it."""
    try:
        with deployer.holding(environment):
            return collect_environment(deployer, environment)
    except LockHeld:
        return ()
