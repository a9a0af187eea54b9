"""Moving a channel. Takes a connection within a write transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, exists, insert, select, update

from baker.catalog.database import insert_ignoring
from baker.catalog.reading import USABLE, find_channel, list_moves
from baker.catalog.schema import channel_moves, channels, image_builds
from baker.catalog.writing import lock_image
from baker.errors import CatalogError, ConflictError
from baker.model import ChannelMove, require_channel_name


def promote(
    connection: Connection,
    *,
    actor: str,
    now: datetime,
    recipe: str,
    version: int,
    channel: str,
    reason: str | None,
    expected_revision: int | None,
) -> ChannelMove:
    """See ``Catalog.promote``."""
    require_channel_name(channel)
    _check_promotable(connection, lock_image(connection, recipe, version))
    held = find_channel(connection, recipe, channel)
    if held is not None and held[0] == version:
        return list_moves(connection, recipe, channel)[0]
    if expected_revision is None:
        first = {"recipe": recipe, "name": channel, "version": version, "revision": 0}
        insert_ignoring(connection, channels, [first])
    mine = (channels.c.recipe == recipe, channels.c.name == channel)
    moved = connection.execute(
        update(channels)
        .where(*mine, channels.c.revision == (expected_revision or 0))
        .values(version=version, revision=channels.c.revision + 1)
        .returning(channels.c.revision)
    ).scalar()
    if moved is None:
        raise _explain_conflict(connection, recipe, version, channel)
    values = {
        "recipe": recipe,
        "channel": channel,
        "revision": moved,
        "from_version": held[0] if held else None,
        "to_version": version,
        "actor": actor,
        "reason": reason,
        "at": now,
    }
    connection.execute(insert(channel_moves).values(values))
    return list_moves(connection, recipe, channel)[0]


def _check_promotable(connection: Connection, image: Row[Any]) -> None:
    reference = f"{image.recipe}:{image.version}"
    hint = f"Look: baker image show {reference}"
    if image.status not in USABLE:
        reason = f" ({image.status_reason})" if image.status_reason else ""
        raise CatalogError(f"{reference} cannot be promoted: it is {image.status}{reason}", hint=hint)
    if not image.complete:
        raise CatalogError(f"{reference} cannot be promoted: it lacks a build for a target", hint=hint)
    waiting = exists().where(image_builds.c.image == image.number, ~image_builds.c.available)
    if connection.execute(select(waiting)).scalar():
        raise CatalogError(f"{reference} cannot be promoted: it is not yet distributed everywhere", hint=hint)


def _explain_conflict(connection: Connection, recipe: str, version: int, channel: str) -> ConflictError:
    moves = list_moves(connection, recipe, channel)
    hint = f"Nothing was changed. Look, then promote again: baker image ls {recipe}"
    if not moves:
        return ConflictError(f"{recipe} has no channel {channel} any more", hint=hint)
    last = moves[0]
    return ConflictError(
        f"{recipe}:{channel} was moved to {recipe}:{last.to_version} by {last.actor} at "
        f"{last.at:%Y-%m-%d %H:%M:%S} UTC: it was not moved to {recipe}:{version}",
        hint=hint,
    )
