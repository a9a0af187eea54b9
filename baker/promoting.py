"""Moving channels to new images without a person: forwards only, and only where their gates allow it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from baker.catalog import Catalog
from baker.channels import ChannelMove, list_earlier
from baker.errors import BakerError, ConflictError, GateError, Interrupted, UsageError
from baker.gates import Gate, Missing, find_missing, require_actor
from baker.knowledge import LOCAL
from baker.model import Image, ImageStatus
from baker.providers.protocol import Provider
from baker.publishing import Lag, publish_channel


class Standing(enum.StrEnum):
    """What became of a channel. ``WAITING``: its gate still misses something. ``LEFT``: a person's matter."""

    MOVED = "moved"
    WAITING = "waiting"
    LEFT = "left"


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """A channel that does not hold the recipe's newest image: it was moved, or why not.

    ``image`` is the one that it was, or would be, moved to; ``held`` what it held before. ``why`` says what
    is missing, or why the channel is left alone.
    """

    recipe: str
    channel: str
    standing: Standing
    image: str
    held: str | None
    why: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.recipe}:{self.channel}"


def promote_newest(
    catalog: Catalog, recipe: str, channel: str, gate: Gate, *, reason: str
) -> list[Promotion]:
    """Move a channel to the recipe's newest image that its gate lets through. Empty if it holds the newest.

    Only images that are available, complete and newer than all that the channel ever held are thought of: so
    it never goes back, and what a person took from it, or from a channel that it comes after, does not come
    again by itself. Where a newer image has to wait, that is told as well. A channel that expires is a
    person's. Raises UsageError for a name that no channel may have.
    """
    moves = list_moves_since_begun(catalog, recipe, channel)
    held = moves[0].held if moves else None
    images = [image for image in catalog.images(recipe, deleted=False) if is_candidate(image)]
    if not images:
        return []

    def tell(standing: Standing, image: Image, why: Sequence[str] = ()) -> Promotion:
        return Promotion(
            recipe=recipe,
            channel=channel,
            standing=standing,
            image=image.reference,
            held=held,
            why=tuple(why),
        )

    if moves and (ends := catalog.channel_end(recipe, channel)) is not None:
        why = f"it is a preview's, and ends at {ends:%Y-%m-%d %H:%M} UTC"
        return [tell(Standing.LEFT, images[0], [why])]
    if images[0].reference == held:
        return []
    newer = [image for image in images if image.version > find_highest(moves)]
    if not newer:
        return [tell(Standing.LEFT, images[0], [explain_left(moves, images[0])])]
    taken_back = find_taken_back(catalog, moves)
    fresh = [image for image in newer if list_digests(image) not in taken_back]
    if not fresh:
        back = taken_back[list_digests(newer[0])]
        why = f"it has the content of {back.held_before}, {describe_roll_back(back)}"
        return [tell(Standing.LEFT, newer[0], [why])]
    whole = catalog.gate(recipe, channel, gate)
    try:
        require_actor(whole, f"{recipe}:{channel}", catalog.actor)
    except UsageError as error:
        return [tell(Standing.LEFT, fresh[0], [str(error)])]
    waiting: list[Promotion] = []
    for image in fresh:
        missing = find_lacking(catalog, whole, image)
        if not missing:
            try:
                catalog.promote(
                    recipe,
                    image.version,
                    channel,
                    reason=reason,
                    expected_revision=moves[0].revision if moves else None,
                    gate=gate,
                )
            except ConflictError as error:  # a person was quicker
                return [tell(Standing.LEFT, image, [str(error)])]
            except GateError as error:
                return [tell(Standing.WAITING, image, [str(error)])]
            return [tell(Standing.MOVED, image), *waiting]
        if not waiting:
            waiting.append(tell(Standing.WAITING, image, [part.what for part in missing]))
    return waiting


def is_candidate(image: Image) -> bool:
    return image.status is ImageStatus.AVAILABLE and image.complete and image.preview is None


def find_highest(moves: Sequence[ChannelMove]) -> int:
    """The newest version that a channel ever held; 0 if none."""
    return max((move.to_version for move in moves), default=0)


def list_moves_since_begun(catalog: Catalog, recipe: str, channel: str) -> list[ChannelMove]:
    """Newest first. What was before a channel of this name expired is nothing to this one."""
    return list(takewhile(lambda move: not move.expired, catalog.channel_history(recipe, channel)))


def find_lacking(catalog: Catalog, gate: Gate, image: Image) -> tuple[Missing, ...]:
    """What an image lacks to pass; where nobody decides, also that the channels before have not left it."""
    stays = catalog.stays(image.recipe, image.version) if gate.after else {}
    left = [
        find_left(list_moves_since_begun(catalog, image.recipe, channel), image, channel)
        for channel in sorted(gate.after)
        if channel in stays
    ]
    return (*find_missing(gate, image, stays), *(missing for missing in left if missing))


def find_left(moves: Sequence[ChannelMove], image: Image, channel: str) -> Missing | None:
    """Whether somebody took a channel back from an image that it held: its stay there counts for nothing."""
    remedy = f"To have it there again: baker promote {image.reference} {channel}"
    if not moves:
        return Missing(what=f"{channel} is not there any more", remedy=remedy)
    going_on = image.version in (moves[0].to_version, *list_earlier(moves))
    if going_on and moves[0].to_version >= image.version:
        return None
    return Missing(what=f"{channel} was taken back from it and holds {moves[0].held}", remedy=remedy)


def find_taken_back(catalog: Catalog, moves: Sequence[ChannelMove]) -> dict[frozenset[str], ChannelMove]:
    """What the channel was rolled back from and has not gone on from since: contents, and the roll-back."""
    taken = takewhile(lambda move: move.rolled_back, moves)
    left = {move.from_version: move for move in taken if move.from_version}
    images = {version: catalog.image(moves[0].recipe, version) for version in left}
    return {list_digests(image): left[version] for version, image in images.items()}


def list_digests(image: Image) -> frozenset[str]:
    return frozenset(build.digest for build in image.builds)


def explain_left(moves: Sequence[ChannelMove], newest: Image) -> str:
    last = moves[0]
    by_hand = f"To have it there: baker promote {newest.reference} {last.channel}"
    if last.rolled_back and last.to_version < newest.version:
        return f"{last.name} was {describe_roll_back(last)}. {by_hand}"
    if last.to_version > newest.version:
        return f"it holds {last.held}, which is newer"
    return f"it held {newest.reference} or a newer one before. {by_hand}"


def describe_roll_back(move: ChannelMove) -> str:
    reason = f": {move.reason}" if move.reason else ""
    when = f"{move.at:%Y-%m-%d %H:%M} UTC"
    return f"rolled back from {move.held_before} to {move.held} by {move.actor} at {when}{reason}"


def publish_to_followers(
    catalog: Catalog, providers: Mapping[str, Provider], recipe: str, channel: str, *, moved: bool
) -> list[Lag]:
    """Point those who follow a channel at providers that others use to what it holds; returns what lags.

    Targets that are not configured here lag only where the channel was ``moved`` here.
    """
    held = catalog.channel(recipe, channel)
    targets = {build.target for build in catalog.image(recipe, held[0]).builds} - {LOCAL} if held else set()
    lagging = [
        Lag(what=f"{recipe}:{channel}", why=f"{target}: it is not configured here")
        for target in sorted(targets - providers.keys())
        if moved
    ]
    there = {target: providers[target] for target in targets & providers.keys()}
    try:
        return [*lagging, *(publish_channel(catalog, there, recipe, channel) if there else ())]
    except Interrupted:
        raise
    except BakerError as error:  # the channel is moved all the same
        return [*lagging, Lag(what=f"{recipe}:{channel}", why=str(error))]
