"""Reading environments and their releases, and writing one down. Each function takes a connection.

Whoever changes something of an environment locks its row first (``lock_environment``, ``lock_release``), and
an image after it: nobody does it the other way round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, exists, func, insert, select, update

from baker import identity
from baker.catalog.ancestry import WITHDRAWN
from baker.catalog.database import DatabaseNow, insert_ignoring
from baker.catalog.life import lock_image
from baker.catalog.locks import read_now
from baker.catalog.reading import USABLE
from baker.catalog.schema import (
    builds,
    environment_events,
    environments,
    image_builds,
    images,
    leases,
    releases,
)
from baker.deploy.release import (
    UNDONE,
    EnvironmentEvent,
    EnvironmentRecord,
    Release,
    ReleaseState,
    rank_by_service,
)
from baker.errors import BadReference, CatalogError, ConflictError

_own = (
    "id",
    "environment",
    "number",
    "build",
    "size",
    "settings",
    "actor",
    "host",
    "pid",
    "deployer",
    "started",
    "live_since",
    "warm_until",
    "ended",
    "reason",
    "abort",
    "born",
    "audit",
)
"""What a release and its row have in common."""

not_ended = releases.c.state != ReleaseState.ENDED


# --- reading --------------------------------------------------------------------------------------------


def list_releases(
    connection: Connection, *conditions: ColumnElement[bool], limit: int | None = None
) -> list[Release]:
    """By environment, newest first."""
    found = select(releases, images.c.recipe, images.c.version).join(images).where(*conditions)
    order = (releases.c.environment, releases.c.number.desc())
    return [_make_release(row) for row in connection.execute(found.order_by(*order).limit(limit))]


def _make_release(row: Row[Any]) -> Release:
    values = {name: row._mapping[name] for name in _own}
    return Release(recipe=row.recipe, version=row.version, state=ReleaseState(row.state), **values)


def find_release(connection: Connection, release_id: str) -> Release:
    """Raises BadReference."""
    found = list_releases(connection, releases.c.id == release_id)
    if not found:
        raise BadReference(f"the catalog knows no release {release_id}", hint="List them: baker env ls")
    return found[0]


def find_in_state(connection: Connection, environment: str, *states: ReleaseState) -> Release | None:
    """The newest release of an environment in one of these states."""
    mine = (releases.c.environment == environment, releases.c.state.in_(states))
    return next(iter(list_releases(connection, *mine, limit=1)), None)


def find_warm(connection: Connection, environment: str) -> Release | None:
    """The WARM release that served last: what a roll-back goes back to."""
    mine = (releases.c.environment == environment, releases.c.state == ReleaseState.WARM)
    return max(list_releases(connection, *mine), key=rank_by_service, default=None)


def list_environments(connection: Connection, *conditions: ColumnElement[bool]) -> list[EnvironmentRecord]:
    """By name."""
    rows = connection.execute(select(environments).where(*conditions).order_by(environments.c.name)).all()
    at_work: defaultdict[str, list[Release]] = defaultdict(list)
    for release in list_releases(connection, not_ended) if rows else ():
        at_work[release.environment].append(release)
    return [EnvironmentRecord(releases=tuple(at_work[row.name]), **row._mapping) for row in rows]


def list_events(connection: Connection, environment: str, limit: int | None) -> list[EnvironmentEvent]:
    """Newest first."""
    mine = select(environment_events).where(environment_events.c.environment == environment)
    rows = connection.execute(mine.order_by(environment_events.c.number.desc()).limit(limit))
    return [
        EnvironmentEvent(
            environment=row.environment,
            event=row.event,
            number=row.release,
            image=row.image,
            actor=row.actor,
            at=row.at,
            reason=row.reason,
            details=row.details,
        )
        for row in rows
    ]


# --- locking --------------------------------------------------------------------------------------------


def lock_environment(connection: Connection, name: str) -> Row[Any]:
    """The row of an environment; nobody else changes it or its releases until the transaction ends.

    Raises BadReference.
    """
    chosen = select(environments).where(environments.c.name == name)
    row = connection.execute(chosen.with_for_update()).first()
    if row is None:
        raise BadReference(f"{name} was never deployed", hint="List what was: baker env ls")
    return row


def lock_release(connection: Connection, release_id: str) -> Release:
    """A release as it stays, its environment locked, until the transaction ends. Raises BadReference."""
    lock_environment(connection, find_release(connection, release_id).environment)
    return find_release(connection, release_id)


def require_deployable(connection: Connection, release: Release) -> None:
    """Lock the image of a release. Raises CatalogError for one that was revoked or deleted meanwhile."""
    row = lock_image(connection, release.recipe, release.version)
    if row.status in WITHDRAWN:
        said = f": {row.status_reason}" if row.status_reason else ""
        raise CatalogError(
            f"{release.image} cannot serve {release.environment}: "
            f"it was {row.status} by {row.status_actor}{said}",
            hint=f"Look: baker image show {release.image}",
        )


# --- writing --------------------------------------------------------------------------------------------


def begin_release(
    connection: Connection,
    environment: str,
    *,
    release_id: str,
    target: str,
    store: str,
    recipe: str,
    version: int,
    build: str,
    size: int,
    settings: Mapping[str, Any],
    deployer: str,
    actor: str,
    pid: int,
) -> Release:
    """See ``EnvironmentCalls.begin_release``."""
    first = {"name": environment, "target": target, "store": store, "created": read_now(connection)}
    insert_ignoring(connection, environments, [first])
    row = lock_environment(connection, environment)
    if known := list_releases(connection, releases.c.id == release_id):
        if (known[0].environment, known[0].state) == (environment, ReleaseState.STARTING):
            return known[0]
        raise ConflictError(f"release {release_id} was begun already: it is {known[0].state}")
    _require_free(connection, row, target, store)
    image = _lock_deployable_image(connection, environment, recipe, version, build, target)
    now = read_now(connection)  # after the wait for others
    moved = {"target": target, "store": store, "removed": None}
    mine = environments.c.name == environment
    connection.execute(update(environments).where(mine).values(moved))
    last = select(func.max(releases.c.number)).where(releases.c.environment == environment)
    number = (connection.execute(last).scalar() or 0) + 1
    lease = {
        "id": identity.make_bake_id(now=now.timestamp()),
        "image": image,
        "owner": f"env:{environment}",  # see retention.ENVIRONMENT
        "actor": actor,
        "reason": f"release {number}",
        "created": now,
    }
    connection.execute(insert(leases).values(lease))
    values = {
        "id": release_id,
        "environment": environment,
        "number": number,
        "image": image,
        "build": build,
        "lease": lease["id"],
        "state": ReleaseState.STARTING,
        "size": size,
        "settings": dict(settings),
        "actor": actor,
        "host": identity.host_name(),
        "pid": pid,
        "deployer": deployer,
        "started": now,
        "failed": False,
        "born": {},
    }
    connection.execute(insert(releases).values(values))
    release = find_release(connection, release_id)
    write_event(connection, release, "deploying", actor, None)
    return release


def _require_free(connection: Connection, environment: Row[Any], target: str, store: str) -> None:
    """Raises ConflictError while a deployment is at work, or where machines are left somewhere else."""
    name = environment.name
    if at_work := find_in_state(connection, name, *UNDONE):
        raise ConflictError(
            f"{name} is being deployed: release {at_work.number} ({at_work.image}) by {at_work.actor} "
            f"on {at_work.host} (process {at_work.pid}) since {at_work.started:%Y-%m-%d %H:%M:%S} UTC",
            hint=f"Wait for it. Look: baker env show {name}",
        )
    if (environment.target, environment.store) != (target, store):
        left = list_releases(connection, releases.c.environment == name, not_ended, limit=1)
        if left:
            raise ConflictError(
                f"{name} is served at {environment.target} ({environment.store}): "
                f"it cannot be deployed at {target} ({store}) beside that",
                hint=f"Deploy it from there, or remove it first: baker env rm {name}",
            )


def _lock_deployable_image(
    connection: Connection, environment: str, recipe: str, version: int, build: str, target: str
) -> int:
    """The number of an image that stays as it is until the transaction ends.

    Raises BadReference, and CatalogError for one that may not be used or does not hold the build.
    """
    row = lock_image(connection, recipe, version)
    reference = f"{recipe}:{version}"
    if row.status not in USABLE:
        said = f" ({row.status_reason})" if row.status_reason else ""
        raise CatalogError(
            f"{reference} cannot be deployed to {environment}: it is {row.status}{said}",
            hint=f"List the others: baker image ls {recipe}",
        )
    link = (image_builds.c.image == row.number, image_builds.c.target == target, image_builds.c.available)
    held = exists().where(*link, image_builds.c.build == builds.c.number, builds.c.id == build)
    if not connection.execute(select(held)).scalar():
        raise CatalogError(
            f"{reference} cannot be deployed to {environment}: "
            f"it holds no distributed build {build} for {target}",
            hint=f"Look: baker image show {reference}",
        )
    number: int = row.number
    return number


def move(connection: Connection, release: Release, state: ReleaseState, **values: Any) -> Release:
    """Write a release's new state, and other columns of its row."""
    mine = releases.c.id == release.id
    connection.execute(update(releases).where(mine).values(state=state, **values))
    return find_release(connection, release.id)


def has_failed(connection: Connection, release: Release) -> bool:
    failed = select(releases.c.failed).where(releases.c.id == release.id)
    return bool(connection.execute(failed).scalar())


def end_lease(connection: Connection, release: Release) -> None:
    """The lease that the release took; one that was released before stays as it is."""
    held = select(releases.c.lease).where(releases.c.id == release.id).scalar_subquery()
    mine = (leases.c.id == held, leases.c.released.is_(None))
    connection.execute(update(leases).where(*mine).values(released=DatabaseNow()))


def write_event(
    connection: Connection,
    release: Release,
    event: str,
    actor: str,
    reason: str | None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """What happened to an environment by or to one of its releases."""
    insert_event(
        connection, release.environment, event, release.number, release.image, actor, reason, details
    )


def insert_event(
    connection: Connection,
    environment: str,
    event: str,
    number: int | None,
    image: str | None,
    actor: str,
    reason: str | None,
    details: Mapping[str, Any] | None,
) -> None:
    values = {
        "environment": environment,
        "event": event,
        "release": number,
        "image": image,
        "actor": actor,
        "at": DatabaseNow(),
        "reason": reason,
        "details": dict(details or {}),
    }
    connection.execute(insert(environment_events).values(values))
