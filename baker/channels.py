"""Channels, as frozen values: their moves, and who protects them how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from baker.errors import CatalogError, UsageError
from baker.gates import Gate
from baker.model import CHANNEL_NAME, LATEST, ImageStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """Why a channel was moved past its gate, and what the gate still missed."""

    reason: str
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelMove:
    """One line of a channel's history. ``from_version`` is None for the first move.

    ``expired``: nothing was moved, the channel ended here and was collected.
    """

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
    expired: bool = False

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
    """A channel as it is now: what it holds, by its newest move, and the state of that image.

    One that ``expires`` is a preview's, or was made to last so long; ``is_over`` when it has expired.
    """

    move: ChannelMove
    status: ImageStatus
    expires: datetime | None = None
    is_over: bool = False


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


def find_last(moves: Sequence[ChannelMove]) -> ChannelMove | None:
    """The move that brought a channel where it is, by its history; None where there is no such channel."""
    return moves[0] if moves and not moves[0].expired else None


def list_earlier(moves: Sequence[ChannelMove]) -> list[int]:
    """The versions that a channel can be rolled back to, the next one first; ``moves`` are newest first.

    A roll-back takes back what came after: what it left is not gone back to by the next one. Nothing is
    gone back to from before the channel had expired.
    """
    held: list[int] = []
    for move in reversed(moves):
        if move.expired:
            held.clear()
            continue
        if move.rolled_back and move.to_version in held:
            del held[held.index(move.to_version) :]
        elif move.to_version in held:
            held.remove(move.to_version)
        held.append(move.to_version)
    return held[-2::-1]


class Term(Protocol):
    """How long a channel lasts: until it ``expires`` (None: it stays), and whether that is over."""

    @property
    def expires(self) -> datetime | None: ...

    @property
    def is_over(self) -> bool: ...


def require_term(
    reference: str, preview: str | None, channel: str, held: Term | None, seconds: int | None
) -> None:
    """What lasts is not made to expire, and the image of a preview is held only by what expires.

    ``reference`` is the image that a channel (``held`` says how it is now, None that there is none) is to be
    moved to, and to last for so many ``seconds``. Raises UsageError or CatalogError.
    """
    recipe = reference.partition(":")[0]
    name = f"{recipe}:{channel}"
    if held is not None and held.expires is None and seconds is not None:
        raise UsageError(
            f"{name} is there to stay: it is not made to expire",
            hint="Name another channel for a preview, like pr-123.",
        )
    if held is not None and held.is_over and seconds is None:
        raise CatalogError(
            f"{name} expired on {held.expires:%Y-%m-%d %H:%M} UTC",
            hint="Say for how long it is to last: --expires 7d",
        )
    if preview is not None and seconds is None and (held is None or held.expires is None):
        raise CatalogError(
            f"{reference} cannot be promoted to {channel}: it is a preview, baked for {preview}",
            hint=f"Merge it: then baker bake {recipe} issues the same build again. "
            "Only a channel that expires may hold a preview: --expires 7d",
        )


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
