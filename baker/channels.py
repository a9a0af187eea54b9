"""Channels, as frozen values: their moves, and who protects them how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from baker.errors import UsageError
from baker.gates import Gate
from baker.model import CHANNEL_NAME, LATEST, ImageStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """Why a channel was moved past its gate, and what the gate still missed."""

    reason: str
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelMove:
    """One line of a channel's history. ``from_version`` is None for the first move."""

    recipe: str
    channel: str
    revision: int
    from_version: int | None
    to_version: int
    actor: str
    reason: str | None
    at: datetime
    rolled_back: bool = False
    overridden: Override | None = None

    @property
    def name(self) -> str:
        return f"{self.recipe}:{self.channel}"

    @property
    def held(self) -> str:
        """What the channel holds since this move."""
        return f"{self.recipe}:{self.to_version}"

    @property
    def held_before(self) -> str | None:
        return None if self.from_version is None else f"{self.recipe}:{self.from_version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Channel:
    """A channel as it is now: what it holds, by its newest move, and the state of that image."""

    move: ChannelMove
    status: ImageStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class Protection:
    """What the catalog keeps of a channel's gate, and who said so. ``recipe`` is empty for all recipes.

    An empty ``gate``: the protection was taken back.
    """

    recipe: str
    channel: str
    gate: Gate
    actor: str
    at: datetime

    def covers(self, recipe: str, channel: str) -> bool:
        return self.channel == channel and self.recipe in ("", recipe)


def list_earlier(moves: Sequence[ChannelMove]) -> list[int]:
    """The versions that a channel can be rolled back to, the next one first; ``moves`` are newest first.

    A roll-back takes back what came after: what it left is not gone back to by the next one.
    """
    held: list[int] = []
    for move in reversed(moves):
        if move.rolled_back and move.to_version in held:
            del held[held.index(move.to_version) :]
        elif move.to_version in held:
            held.remove(move.to_version)
        held.append(move.to_version)
    return held[-2::-1]


def require_channel_name(channel: str) -> None:
    """Raises UsageError for a name that no channel may be promoted to."""
    if channel == LATEST:
        raise UsageError(
            f"{LATEST} is always the newest available version: it cannot be promoted to",
            hint="Name a channel of yours: dev, staging, prod.",
        )
    if not CHANNEL_NAME.match(channel):
        raise UsageError(
            f"{channel!r} is not the name of a channel", hint="Name it like dev, staging or prod-eu."
        )
