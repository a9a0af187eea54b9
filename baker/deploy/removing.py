"""The end of an environment: nothing serves it any more, and nothing of it is left."""

from __future__ import annotations

from collections.abc import Sequence

from baker.deploy.collecting import collect_environment, finish_removal, settle
from baker.deploy.deployer import Deployer, environment_of
from baker.deploy.environment import Environment
from baker.deploy.fleet import Traffic
from baker.deploy.recovery import recover
from baker.deploy.release import ReleaseState
from baker.errors import DeployError


def remove_environment(
    deployer: Deployer, environment: str, *, reason: str, described: Environment | None = None
) -> Sequence[int]:
    """Take the traffic from an environment, and remove all of it. The caller holds the lock.

    ``described`` is what its file says, for one that the catalog does not know. Returns the numbers of the
    sides that were removed; its history stays. What was begun goes on where it stopped. Raises DeployError,
    or what keeps a side from being removed.
    """
    catalog, fleet = deployer.catalog, deployer.fleet
    record = catalog.environment(environment)
    removed = set()
    if record is not None:
        recover(deployer, record)
        record = catalog.environment(environment)
    for release in record.releases if record else ():
        if release.state is ReleaseState.LIVE:
            catalog.retire_live(release.id, reason=reason)
        elif release.state is ReleaseState.WARM:
            catalog.retire_release(release.id, reason=reason)
    if record is not None and record.releases:
        described = environment_of(record.releases[0])
        settle(deployer, environment)
        for release in record.releases:
            finish_removal(deployer, release)
            removed.add(release.number)
    orphans = set(fleet.sides().get(environment, ()))
    if orphans and described is not None and fleet.traffic(environment).weights:
        fleet.shift(described, Traffic(weights={}))
    left = [side for side in collect_environment(deployer, environment) if side.error]
    if left:
        raise DeployError(
            f"side {environment}-{left[0].number} could not be removed: {left[0].error}",
            hint=f"Once that is mended: baker env rm {environment}",
        )
    still = fleet.sides().get(environment)
    if still:
        raise DeployError(
            f"side {environment}-{min(still)} still has traffic, and no release of the catalog has it",
            hint=f"Write environments/{environment}.toml again, then: baker env rm {environment}",
        )
    if still is not None:
        fleet.dismantle(environment)
    if record is not None:
        catalog.remove_environment(environment, reason=reason)
    return sorted(removed | orphans)
