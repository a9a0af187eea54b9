"""Channels that have expired, and taking them away."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, insert

from baker.catalog import channels as queries
from baker.catalog.calls import Calls
from baker.catalog.database import DatabaseNow
from baker.catalog.reading import find_channel, is_over
from baker.catalog.schema import channel_moves, channels
from baker.channels import Channel, ChannelMove

EXPIRED = "it expired"


class ExpiryCalls(Calls):
    def channel_end(self, recipe: str, name: str) -> datetime | None:
        """When a channel expires, or did; None if it is there to stay, or not at all."""
        held = self._read(lambda connection: find_channel(connection, recipe, name))
        return None if held is None else held.expires

    def expired_channels(self) -> list[Channel]:
        """Those that have expired, by the clock of the database, and are still there; by recipe and name."""
        return [channel for channel in self._read(_list_all) if channel.is_over]

    def collect_channel(self, channel: Channel) -> ChannelMove | None:
        """Take an expired channel away; its history says so. None if it was moved or prolonged meanwhile."""
        return self._write(lambda connection: collect_channel(connection, channel, actor=self.actor))


def _list_all(connection: Connection) -> list[Channel]:
    return queries.list_channels(connection, None)


def collect_channel(connection: Connection, channel: Channel, *, actor: str) -> ChannelMove | None:
    """See ``ExpiryCalls.collect_channel``."""
    move = channel.move
    mine = (channels.c.recipe == move.recipe, channels.c.name == move.channel)
    gone = connection.execute(delete(channels).where(*mine, channels.c.revision == move.revision, is_over))
    if gone.rowcount != 1:
        return None
    values = {
        "recipe": move.recipe,
        "channel": move.channel,
        "revision": move.revision + 1,
        "from_version": move.to_version,
        "to_version": move.to_version,
        "actor": actor,
        "reason": EXPIRED,
        "at": DatabaseNow(),
        "rolled_back": False,
        "expired": True,
    }
    connection.execute(insert(channel_moves).values(values))
    return queries.list_moves(connection, move.recipe, move.channel)[0]
