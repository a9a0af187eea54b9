"""What channels hold, their histories, what protects them. Each function takes a connection."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, select

from baker.catalog.ancestry import RESTORED, REVOKED
from baker.catalog.database import DatabaseNow, insert_or_update
from baker.catalog.reading import is_over, status_now
from baker.catalog.schema import channel_moves, channel_protections, channels, image_events, images
from baker.channels import Channel, ChannelMove, Override, Protection
from baker.gates import Gate, gate_rules, join_gates, parse_rules
from baker.model import ImageStatus

EVERY_RECIPE = ""

# --- moves ----------------------------------------------------------------------------------------------


def list_moves(connection: Connection, recipe: str, channel: str) -> list[ChannelMove]:
    """The whole history of a channel, newest first."""
    moves = select(channel_moves).where(channel_moves.c.recipe == recipe, channel_moves.c.channel == channel)
    return [make_move(row) for row in connection.execute(moves.order_by(channel_moves.c.revision.desc()))]


def list_moves_of(connection: Connection, recipe: str, version: int) -> list[ChannelMove]:
    """The moves of all channels to an image and away from it, newest first."""
    there = (channel_moves.c.to_version == version) | (channel_moves.c.from_version == version)
    moves = select(channel_moves).where(channel_moves.c.recipe == recipe, there)
    ordered = moves.order_by(channel_moves.c.at.desc(), channel_moves.c.revision.desc())
    return [make_move(row) for row in connection.execute(ordered)]


def list_channels(connection: Connection, recipe: str | None) -> list[Channel]:
    """Every channel with its newest move, by recipe and name."""
    last = and_(
        channel_moves.c.recipe == channels.c.recipe,
        channel_moves.c.channel == channels.c.name,
        channel_moves.c.revision == channels.c.revision,
    )
    held = and_(images.c.recipe == channels.c.recipe, images.c.version == channels.c.version)
    found = (
        select(channel_moves, status_now.label("status_now"), channels.c.expires, is_over.label("is_over"))
        .select_from(channels.join(channel_moves, last).join(images, held))
        .order_by(channels.c.recipe, channels.c.name)
    )
    if recipe is not None:
        found = found.where(channels.c.recipe == recipe)
    return [
        Channel(
            move=make_move(row),
            status=ImageStatus(row.status_now),
            expires=row.expires,
            is_over=row.is_over,
        )
        for row in connection.execute(found)
    ]


def make_move(row: Row[Any]) -> ChannelMove:
    past = row.overridden
    return ChannelMove(
        recipe=row.recipe,
        channel=row.channel,
        revision=row.revision,
        from_version=row.from_version,
        to_version=row.to_version,
        actor=row.actor,
        reason=row.reason,
        at=row.at,
        rolled_back=bool(row.rolled_back),
        overridden=Override(reason=past["reason"], missing=tuple(past["missing"])) if past else None,
        expired=bool(row.expired),
    )


# --- how long -------------------------------------------------------------------------------------------


def measure_stays(connection: Connection, recipe: str, version: int) -> Mapping[str, float]:
    """Per channel that ever held an image: for how many seconds it did at most without a break.

    All by the clock of the database. What was before the image was last revoked, and until it was restored,
    does not count.
    """
    next_move = channel_moves.alias()
    follows = and_(
        next_move.c.recipe == channel_moves.c.recipe,
        next_move.c.channel == channel_moves.c.channel,
        next_move.c.revision == channel_moves.c.revision + 1,
    )
    stays = (
        select(channel_moves.c.channel, channel_moves.c.at.label("begun"), next_move.c.at.label("ended"))
        .select_from(channel_moves.outerjoin(next_move, follows))
        .where(channel_moves.c.recipe == recipe, channel_moves.c.to_version == version)
        .where(channel_moves.c.expired.is_not(True))  # which begins no stay, it ends one
    )
    now = connection.execute(select(DatabaseNow())).scalar_one()
    since = _find_restoration(connection, recipe, version)
    longest: dict[str, float] = {}
    for row in connection.execute(stays):
        ended = row.ended or now
        if since is None or ended > since:
            begun: datetime = max(row.begun, since) if since else row.begun
            longest[row.channel] = max(longest.get(row.channel, 0.0), (ended - begun).total_seconds())
    return longest


def _find_restoration(connection: Connection, recipe: str, version: int) -> datetime | None:
    """When an image was restored after it was last revoked; None if it never was revoked."""
    events = (
        select(image_events.c.event, image_events.c.at)
        .join(images)
        .where(images.c.recipe == recipe, images.c.version == version)
        .where(image_events.c.event.in_((REVOKED, RESTORED)))
        .order_by(image_events.c.number)
    )
    since: datetime | None = None
    revoked = False
    for event, at in connection.execute(events):
        if event == REVOKED or revoked:
            since = at
        revoked = event == REVOKED
    return since


# --- gates ----------------------------------------------------------------------------------------------


def list_protections(connection: Connection) -> list[Protection]:
    """Those of all recipes first, then by recipe and channel; also those that were taken back."""
    rows = connection.execute(
        select(channel_protections).order_by(channel_protections.c.recipe, channel_protections.c.channel)
    )
    return [
        Protection(
            recipe=row.recipe, channel=row.channel, gate=parse_rules(row.rules), actor=row.actor, at=row.at
        )
        for row in rows
    ]


def find_gate(connection: Connection, recipe: str, channel: str, gate: Gate) -> Gate:
    """``gate`` joined with what the catalog keeps."""
    kept = [kept.gate for kept in list_protections(connection) if kept.covers(recipe, channel)]
    return join_gates([gate, *kept])


def protect(connection: Connection, recipe: str, channel: str, gate: Gate, actor: str) -> Protection:
    """Replace what is kept for this channel of this recipe (``EVERY_RECIPE``: of all)."""
    row = {
        "recipe": recipe,
        "channel": channel,
        "rules": gate_rules(gate),
        "actor": actor,
        "at": connection.execute(select(DatabaseNow())).scalar_one(),
    }
    insert_or_update(connection, channel_protections, ["recipe", "channel"], [row])
    return next(
        kept for kept in list_protections(connection) if (kept.recipe, kept.channel) == (recipe, channel)
    )
