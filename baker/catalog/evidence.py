"""What says that an image is in use. Each function takes a connection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, and_, exists, func, select, update

from baker.catalog.database import DatabaseNow
from baker.catalog.leases import list_leases
from baker.catalog.reading import find_channel_names, is_over
from baker.catalog.schema import (
    bakes,
    builds,
    channel_moves,
    channels,
    image_builds,
    image_labels,
    images,
    leases,
)
from baker.errors import CatalogError, ConflictError
from baker.model import ImageStatus

if TYPE_CHECKING:  # imported when it is asked for: most commands ask nothing of it
    from baker.retention import Evidence, StoredImage


def claim_builds(connection: Connection, bake_id: str, build_ids: Sequence[str]) -> None:
    """See ``PruneCalls.claim_builds``."""
    used = connection.execute(select(bakes.c.uses).where(bakes.c.id == bake_id)).one_or_none()
    if used is None:
        raise CatalogError(f"the catalog has no bake {bake_id}")
    for build_id in build_ids:
        # Locked, so that a deletion comes before or after this, never between.
        linked = images.join(image_builds).join(builds)
        holding = select(images).select_from(linked).where(builds.c.id == build_id)
        found = connection.execute(holding.order_by(images.c.number).with_for_update(of=images)).all()
        if all(row.status == ImageStatus.DELETED for row in found):
            named = f"{found[-1].recipe}:{found[-1].version}" if found else f"build {build_id}"
            raise ConflictError(f"{named} was deleted meanwhile", hint="Plan again: baker plan")
    uses = list(dict.fromkeys([*(used.uses or ()), *build_ids]))
    connection.execute(update(bakes).where(bakes.c.id == bake_id).values(uses=uses))


def load_evidence(connection: Connection, dead_bakes: Collection[str]) -> Evidence:
    """See ``PruneCalls.use_of_images``."""
    try:
        return _load_evidence(connection, dead_bakes)
    except (ValueError, TypeError) as error:  # a state, a time or a list that this code cannot read
        raise CatalogError(
            f"what uses the images cannot be read: {error}",
            hint="Nothing was deleted. Has a newer baker written to this catalog? Then update this one.",
        ) from error


def _load_evidence(connection: Connection, dead_bakes: Collection[str]) -> Evidence:
    from baker.retention import Evidence, RunningBake

    # Bakes before images: one that ends in between has registered its image by then.
    running = select(bakes.c.id, bakes.c.recipe, bakes.c.uses).where(bakes.c.outcome.is_(None))
    at_work = [
        RunningBake(id=row.id, recipe=row.recipe, uses=tuple(row.uses or ()))
        for row in connection.execute(running.order_by(bakes.c.id))
        if row.id not in dead_bakes
    ]
    stored, parents = _load_images(connection)
    return Evidence(
        now=read_now(connection),
        images=stored,
        parents=parents,
        channels=dict(find_channel_names(connection, {image.recipe for image in stored})),
        expired=_load_expired(connection),
        moves=_load_moves(connection),
        previews=_load_previews(connection),
        # Whether they have expired is not left to a comparison of text: nonsense must be noticed.
        leases=list_leases(connection, leases.c.released.is_(None)),
        bakes=at_work,
    )


def read_now(connection: Connection) -> datetime:
    """By the database's clock."""
    return connection.execute(select(DatabaseNow())).scalar_one()


def _load_images(connection: Connection) -> tuple[list[StoredImage], dict[str, str]]:
    """Every image that is not deleted, and what its builds are built upon."""
    there = images.c.status != ImageStatus.DELETED
    linked = select(image_builds.c.image, builds.c.id, builds.c.parent_build).select_from(
        image_builds.join(builds).join(images)
    )
    members: defaultdict[int, list[str]] = defaultdict(list)
    parents: dict[str, str] = {}
    for image, build, parent in connection.execute(linked.where(there)):
        members[image].append(build)
        if parent is not None:
            parents[build] = parent
    labels: defaultdict[int, dict[str, str]] = defaultdict(dict)
    named = select(image_labels.c.image, image_labels.c.key, image_labels.c.value)
    for image, key, value in connection.execute(named.join(images).where(there)):
        labels[image][key] = value
    from baker.retention import StoredImage

    columns = (images.c.number, images.c.recipe, images.c.version, images.c.status, images.c.created)
    chosen = select(*columns, images.c.preview).where(there)
    stored = [
        StoredImage(
            recipe=recipe,
            version=version,
            status=ImageStatus(status),
            created=created,
            builds=tuple(members[number]),
            labels=labels.get(number, {}),
            preview=preview,
        )
        for number, recipe, version, status, created, preview in connection.execute(chosen)
    ]
    return stored, parents


def _load_expired(connection: Connection) -> dict[tuple[str, int], list[str]]:
    """The channels that have expired and are still there, by what they hold."""
    over = select(channels.c.recipe, channels.c.version, channels.c.name).where(is_over)
    found: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for recipe, version, name in connection.execute(over.order_by(channels.c.name)):
        found[recipe, version].append(name)
    return dict(found)


def _load_moves(connection: Connection) -> dict[tuple[str, str], list[int]]:
    """Of the channels that stay: one that expires is not rolled back."""
    same = and_(channels.c.recipe == channel_moves.c.recipe, channels.c.name == channel_moves.c.channel)
    moved = select(channel_moves.c.recipe, channel_moves.c.channel, channel_moves.c.to_version)
    moved = moved.join(channels, same).where(channels.c.expires.is_(None))
    found: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for recipe, channel, version in connection.execute(moved.order_by(channel_moves.c.revision.desc())):
        found[recipe, channel].append(version)
    return dict(found)


def _load_previews(connection: Connection) -> dict[tuple[str, str], int]:
    """The newest version that a channel of each preview ever held."""
    same = and_(images.c.recipe == channel_moves.c.recipe, images.c.preview == channel_moves.c.channel)
    newest = func.max(channel_moves.c.to_version)
    held = select(channel_moves.c.recipe, channel_moves.c.channel, newest).where(exists().where(same))
    rows = connection.execute(held.group_by(channel_moves.c.recipe, channel_moves.c.channel))
    return {(recipe, channel): version for recipe, channel, version in rows}
