"""Moving channels, forward and back. What changes takes a connection within a write transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, exists, func, insert, select, update

from baker.catalog import channels as queries
from baker.catalog.calls import Calls
from baker.catalog.database import DatabaseNow, insert_ignoring
from baker.catalog.life import lock_image
from baker.catalog.reading import USABLE, find_channel
from baker.catalog.references import find_image
from baker.catalog.schema import channel_moves, channels, image_builds
from baker.channels import Channel, ChannelMove, Protection, find_last, require_channel_name, require_term
from baker.errors import CatalogError, ConflictError
from baker.gates import OPEN, Gate, find_missing, refuse, require_actor


def move_channel(
    connection: Connection,
    *,
    actor: str,
    recipe: str,
    version: int,
    channel: str,
    reason: str | None,
    expected_revision: int | None,
    gate: Gate,
    override: str | None,
    rolled_back: bool,
    seconds: int | None = None,
) -> ChannelMove:
    """See ``ChannelCalls.promote`` and ``ChannelCalls.roll_back``."""
    require_channel_name(channel)
    row = lock_image(connection, recipe, version)
    _check_promotable(connection, row)
    held = find_channel(connection, recipe, channel)
    require_term(f"{recipe}:{version}", row.preview, channel, held, seconds)
    mine = (channels.c.recipe == recipe, channels.c.name == channel)
    now = connection.execute(select(DatabaseNow())).scalar_one()
    term = {} if seconds is None else {"expires": now + timedelta(seconds=seconds)}
    if held is not None and held.version == version:
        if term and not connection.execute(update(channels).where(*mine).values(term)).rowcount:
            raise _explain_conflict(connection, recipe, version, channel)
        return queries.list_moves(connection, recipe, channel)[0]
    whole = queries.find_gate(connection, recipe, channel, gate)
    require_actor(whole, f"{recipe}:{channel}", actor)
    stays = queries.measure_stays(connection, recipe, version) if whole.after else {}
    image = find_image(connection, recipe, version)
    missing = find_missing(whole.for_way_back if rolled_back else whole, image, stays)
    if missing and override is None:
        raise refuse(image, channel, missing)
    if expected_revision is None:
        # Not 0 where there was one of this name before, which has expired: its history goes on.
        expected_revision = _find_last_revision(connection, recipe, channel) if held is None else 0
        first = {"recipe": recipe, "name": channel, "version": version, "revision": expected_revision}
        insert_ignoring(connection, channels, [first])
    moved = connection.execute(
        update(channels)
        .where(*mine, channels.c.revision == expected_revision)
        .values(version=version, revision=channels.c.revision + 1, **term)
        .returning(channels.c.revision)
    ).scalar()
    if moved is None:
        raise _explain_conflict(connection, recipe, version, channel)
    past = {"reason": override, "missing": [part.what for part in missing]} if missing else None
    values = {
        "recipe": recipe,
        "channel": channel,
        "revision": moved,
        "from_version": held.version if held else None,
        "to_version": version,
        "actor": actor,
        "reason": reason,
        "at": DatabaseNow(),
        "rolled_back": rolled_back,
        "overridden": past,
    }
    connection.execute(insert(channel_moves).values(values))
    return queries.list_moves(connection, recipe, channel)[0]


def _check_promotable(connection: Connection, image: Row[Any]) -> None:
    reference = f"{image.recipe}:{image.version}"
    hint = f"Look: baker image show {reference}"
    if image.status not in USABLE:
        reason = f" ({image.status_reason})" if image.status_reason else ""
        raise CatalogError(f"{reference} cannot be promoted: it is {image.status}{reason}", hint=hint)
    if not image.complete:
        hint = f"Bake what is missing: baker bake {image.recipe}"
        raise CatalogError(f"{reference} cannot be promoted: it lacks a build for a target", hint=hint)
    waiting = exists().where(image_builds.c.image == image.number, ~image_builds.c.available)
    if connection.execute(select(waiting)).scalar():
        raise CatalogError(f"{reference} cannot be promoted: it is not yet distributed everywhere", hint=hint)


def _find_last_revision(connection: Connection, recipe: str, channel: str) -> int:
    mine = (channel_moves.c.recipe == recipe, channel_moves.c.channel == channel)
    return connection.execute(select(func.max(channel_moves.c.revision)).where(*mine)).scalar() or 0


def _explain_conflict(connection: Connection, recipe: str, version: int, channel: str) -> ConflictError:
    last = find_last(queries.list_moves(connection, recipe, channel))
    hint = f"Nothing was changed. Look, then promote again: baker channel history {recipe} {channel}"
    if last is None:
        return ConflictError(f"{recipe} has no channel {channel} any more", hint=hint)
    return ConflictError(
        f"{recipe}:{channel} was moved to {recipe}:{last.to_version} by {last.actor} at "
        f"{last.at:%Y-%m-%d %H:%M:%S} UTC: it was not moved to {recipe}:{version}",
        hint=hint,
    )


class ChannelCalls(Calls):
    def channel(self, recipe: str, name: str) -> tuple[int, int] | None:
        """The version that a channel holds, and its revision for ``promote``; None if there is none."""
        held = self._read(lambda connection: find_channel(connection, recipe, name))
        return None if held is None else (held.version, held.revision)

    def channels(self, recipe: str | None = None) -> list[ChannelMove]:
        """The newest move of every channel, by recipe and name: what it holds, since when, by whom."""
        return [channel.move for channel in self.channel_states(recipe)]

    def channel_states(self, recipe: str | None = None) -> list[Channel]:
        """The same, each with the state of the image that it holds."""
        return self._read(lambda connection: queries.list_channels(connection, recipe))

    def channel_history(self, recipe: str, channel: str) -> list[ChannelMove]:
        """Every move, newest first; empty if there is no such channel."""
        return self._read(lambda connection: queries.list_moves(connection, recipe, channel))

    def image_moves(self, recipe: str, version: int) -> list[ChannelMove]:
        """The moves of all channels to an image and away from it, newest first."""
        return self._read(lambda connection: queries.list_moves_of(connection, recipe, version))

    def promote(
        self,
        recipe: str,
        version: int,
        channel: str,
        *,
        reason: str | None = None,
        expected_revision: int | None,
        gate: Gate = OPEN,
        override: str | None = None,
        expires: int | None = None,
    ) -> ChannelMove:
        """Move a channel, if it is still at the revision that the caller saw (None: there was no channel).

        ``gate`` is joined with what the catalog keeps. With ``override``, a reason, what they miss is
        written down and the channel moved all the same, by whoever may move it. A channel that holds this
        version already is not moved: the move that brought it there is returned.

        With ``expires`` the channel lasts for so many seconds from now on, by the clock of the database;
        a channel that is there and lasts is not made to expire (UsageError). Without, one that expires does
        so when it would have. A preview's image is held only by channels that expire (CatalogError).

        Raises GateError, saying all that is missing; ConflictError, saying who moved it and to what;
        UsageError for a name that no channel may have or somebody who may not move it; BadReference for an
        unknown version; CatalogError for one that is not complete and available or deprecated.
        """
        return self._move(recipe, version, channel, reason, expected_revision, gate, override, False, expires)

    def roll_back(
        self,
        recipe: str,
        version: int,
        channel: str,
        *,
        reason: str | None = None,
        expected_revision: int,
        gate: Gate = OPEN,
        override: str | None = None,
    ) -> ChannelMove:
        """As ``promote``, back to what the channel held before: the channels before it are not asked."""
        return self._move(recipe, version, channel, reason, expected_revision, gate, override, True)

    def _move(
        self,
        recipe: str,
        version: int,
        channel: str,
        reason: str | None,
        expected_revision: int | None,
        gate: Gate,
        override: str | None,
        rolled_back: bool,
        expires: int | None = None,
    ) -> ChannelMove:
        return self._write(
            lambda connection: move_channel(
                connection,
                actor=self.actor,
                recipe=recipe,
                version=version,
                channel=channel,
                reason=reason,
                expected_revision=expected_revision,
                gate=gate,
                override=override,
                rolled_back=rolled_back,
                seconds=expires,
            )
        )

    # --- gates ------------------------------------------------------------------------------------

    def gate(self, recipe: str, channel: str, gate: Gate = OPEN) -> Gate:
        """``gate`` joined with what the catalog keeps."""
        return self._read(lambda connection: queries.find_gate(connection, recipe, channel, gate))

    def stays(self, recipe: str, version: int) -> Mapping[str, float]:
        """Per channel that ever held an image: for how many seconds it did at most without a break.

        By the clock of the database. What was before the image was last revoked, and until it was
        restored, does not count.
        """
        return self._read(lambda connection: queries.measure_stays(connection, recipe, version))

    def protections(self) -> list[Protection]:
        """What the catalog keeps of gates: for all recipes, then by recipe; also what was taken back."""
        return self._read(queries.list_protections)

    def protect(self, recipe: str, channel: str, gate: Gate) -> Protection:
        """Keep a gate for a channel of a recipe (empty: of every recipe), instead of the one before.

        An empty gate takes the protection back. Raises UsageError for a name that no channel may have, or
        somebody whom the present protections do not let move the channel.
        """
        require_channel_name(channel)

        def change(connection: Connection) -> Protection:
            kept = [
                kept
                for kept in queries.list_protections(connection)
                if kept.channel == channel and kept.recipe in ("", recipe)
            ]
            for protection in kept:
                require_actor(protection.gate, f"{recipe or 'any recipe'}:{channel}", self.actor)
            return queries.protect(connection, recipe, channel, gate, self.actor)

        return self._write(change)
