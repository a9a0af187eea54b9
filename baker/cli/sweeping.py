"""What `system sweep` does with environments: dead deployments, sides past their window, orphans."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from baker.cli.deployers import interruptible
from baker.cli.environments import list_here
from baker.deploy.collecting import CollectedSide, collect_environment
from baker.deploy.recovery import recover
from baker.deploy.release import UNDONE
from baker.errors import BakerError, Interrupted
from baker.locking import LockHeld

if TYPE_CHECKING:
    from baker.catalog import Catalog
    from baker.console import Console
    from baker.deploy.deployer import Deployer
    from baker.settings import Settings


def sweep_environments(
    settings: Settings, catalog: Catalog, console: Console, targets: Collection[str], *, dry_run: bool
) -> list[CollectedSide]:
    """Of all environments of this store; one at which somebody is at work is left alone."""
    found: list[CollectedSide] = []
    with interruptible() as interruption:
        for name, deployer in list_here(settings, catalog, console, interruption, sorted(targets)):
            try:
                found += sweep_one(deployer, name, dry_run=dry_run)
            except Interrupted:
                raise
            except LockHeld as held:
                console.say(f"{name} is left alone: {held}")
            except BakerError as error:
                found.append(
                    CollectedSide(
                        environment=name, number=0, image=None, reason="not looked at", error=str(error)
                    )
                )
    return found


def sweep_one(deployer: Deployer, name: str, *, dry_run: bool) -> list[CollectedSide]:
    if dry_run:
        return [*list_dead(deployer, name), *collect_environment(deployer, name, dry_run=True)]
    with deployer.holding(name):
        dead = list_dead(deployer, name)
        record = deployer.catalog.environment(name)
        if record is not None and record.releases:
            recover(deployer, record)
            left = deployer.fleet.sides().get(name, ())
            dead = [one if one.number not in left else not_removed(one) for one in dead]
        return [*dead, *collect_environment(deployer, name)]


def list_dead(deployer: Deployer, name: str) -> list[CollectedSide]:
    """Deployments whose process died: nobody else holds the lock of the environment."""
    from baker import identity
    from baker.deploy.deployer import lock_name

    record = deployer.catalog.environment(name)
    lock = deployer.catalog.find_lock(lock_name(name))
    ours = lock is not None and lock.store == identity.store_name(deployer.home)
    found = []
    for release in record.releases if record else ():
        if release.state not in UNDONE:
            continue
        at_work = lock is not None and lock.holder == release.deployer
        if at_work and not (ours and not identity.is_alive(deployer.home, release.deployer)):
            continue
        found.append(
            CollectedSide(
                environment=name,
                number=release.number,
                image=release.image,
                reason=f"its deployment died while {release.state}",
            )
        )
    return found


def not_removed(side: CollectedSide) -> CollectedSide:
    return CollectedSide(
        environment=side.environment,
        number=side.number,
        image=side.image,
        reason=side.reason,
        error="it could not be removed",
    )


def print_collected(console: Console, sides: Sequence[CollectedSide], *, dry_run: bool) -> None:
    for side in sides:
        image = f" ({side.image})" if side.image else ""
        name = f"side {side.environment}-{side.number}{image}" if side.number else side.environment
        if side.error:
            console.say(f"Left behind: {name}: {side.error}")
        else:
            verb = "would remove" if dry_run else "removed"
            console.result_folded(f"{verb} {name}: {side.reason}")


def collected_json(side: CollectedSide) -> dict[str, Any]:
    """One element of ``sides`` in ``system sweep --json``. ``release`` is null for an environment that could
    not be looked at."""
    return {
        "environment": side.environment,
        "release": side.number or None,
        "image": side.image,
        "reason": side.reason,
        "error": side.error,
    }
