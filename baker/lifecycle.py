"""What moving a channel would change, where a roll-back leads, what revoking an image touches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baker.catalog import Catalog
from baker.channels import Channel, ChannelMove, find_last, list_earlier, require_channel_name, require_term
from baker.comparing import ManifestDifference
from baker.errors import BadReference, CatalogError, ConflictError, GateError, UsageError
from baker.gates import Gate, Missing, find_missing, require_actor
from baker.model import Image, ImageStatus, Reference

USABLE = (ImageStatus.AVAILABLE, ImageStatus.DEPRECATED)

GateOf = Callable[[str], Gate]
"""From a channel's name to the gate that the project's baker.toml gives it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """A channel's move before it is made: to ``image``, from ``held`` (None: the channel is new).

    ``last`` is the move that brought ``held`` there; the move is refused if there was another one since.
    ``gate`` is the one that holds, ``missing`` what the image lacks for it. ``difference`` is that of the
    builds both have for one target; None if there is none. ``skipped`` are the images, and why, that a
    roll-back passed over.
    """

    image: Image
    channel: str
    held: Image | None
    last: ChannelMove | None
    gate: Gate
    missing: tuple[Missing, ...]
    difference: ManifestDifference | None
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.image.recipe}:{self.channel}"

    @property
    def changes_nothing(self) -> bool:
        return self.held is not None and self.held.version == self.image.version

    @property
    def revision(self) -> int | None:
        return self.last.revision if self.last else None


def describe_promotion(
    catalog: Catalog, reference: Reference, channel: str, gate: Gate, *, expires: int | None = None
) -> Move:
    """With ``expires`` the channel is to last for so many seconds; see ``Catalog.promote``.

    Raises BadReference, UsageError for a channel's name that cannot be, somebody who may not or a channel
    that does not expire, CatalogError for a preview that is to be held by such a one.
    """
    require_channel_name(channel)
    image = catalog.resolve(reference)
    whole = catalog.gate(image.recipe, channel, gate)
    require_actor(whole, f"{image.recipe}:{channel}", catalog.actor)
    stays = catalog.stays(image.recipe, image.version) if whole.after else {}
    last = find_last(catalog.channel_history(image.recipe, channel))
    held = catalog.image(image.recipe, last.to_version) if last else None
    term = next((state for state in catalog.channel_states(image.recipe) if state.move == last), None)
    require_term(image.reference, image.preview, channel, term, expires)
    return Move(
        image=image,
        channel=channel,
        held=held,
        last=last,
        gate=whole,
        missing=find_missing(whole, image, stays),
        difference=compare_images(catalog, held, image) if held else None,
    )


def describe_roll_back(
    catalog: Catalog,
    recipe: str,
    channel: str,
    gate: Gate,
    *,
    to: Reference | None = None,
    overriding: bool = False,
) -> Move:
    """Back to ``to``, else to what the channel held before that is still fit for it.

    What lacks something for the gate is passed over unless ``overriding``. Raises BadReference for a
    channel that is not there or never held ``to``, CatalogError where nothing is left to go back to,
    UsageError for somebody who may not move the channel.
    """
    moves = catalog.channel_history(recipe, channel)
    if find_last(moves) is None:
        catalog.resolve(Reference(recipe=recipe, channel=channel), allow_unusable=True)  # raises
    whole = catalog.gate(recipe, channel, gate).for_way_back
    require_actor(whole, f"{recipe}:{channel}", catalog.actor)
    held = catalog.image(recipe, moves[0].to_version)
    skipped: list[tuple[str, str]] = []
    if to is not None:
        image: Image | None = _find_held_before(catalog, to, recipe, channel, moves)
    else:
        image = None
        for version in list_earlier(moves):
            earlier = catalog.image(recipe, version)
            unfit = _explain_unfit(earlier, whole, overriding=overriding)
            if unfit is None:
                image = earlier
                break
            skipped.append((earlier.reference, unfit))
    if image is None:
        raise _explain_no_way_back(held, channel, skipped)
    return Move(
        image=image,
        channel=channel,
        held=held,
        last=moves[0],
        gate=whole,
        missing=find_missing(whole, image, {}),
        difference=compare_images(catalog, held, image),
        skipped=tuple(skipped),
    )


def _find_held_before(
    catalog: Catalog, to: Reference, recipe: str, channel: str, moves: Sequence[ChannelMove]
) -> Image:
    if to.recipe != recipe:
        raise UsageError(f"{to} is no image of {recipe}: {recipe}:{channel} cannot go back to it")
    image = catalog.resolve(to)
    before = dict.fromkeys(move.held for move in moves)
    if image.reference not in before:
        raise BadReference(
            f"{recipe}:{channel} never held {image.reference} (it held {', '.join(list(before)[:6])})",
            hint=f"To move it there for the first time: baker promote {image.reference} {channel}",
        )
    return image


def _explain_unfit(image: Image, gate: Gate, *, overriding: bool) -> str | None:
    if image.status not in USABLE:
        return f"it is {image.status}" + (f" ({image.status_reason})" if image.status_reason else "")
    missing = find_missing(gate, image, {})
    return "; ".join(part.what for part in missing) if missing and not overriding else None


def _explain_no_way_back(held: Image, channel: str, skipped: Sequence[tuple[str, str]]) -> CatalogError:
    name = f"{held.recipe}:{channel}"
    if not skipped:
        return CatalogError(
            f"{name} held nothing before {held.reference}: there is nothing to go back to",
            hint=f"Move it forward: baker promote {held.recipe}:VERSION {channel}",
        )
    reasons = "".join(f"\n  - {reference}: {why}" for reference, why in skipped)
    return CatalogError(
        f"nothing that {name} held before {held.reference} can be used:{reasons}",
        hint=f"See its history: baker channel history {held.recipe} {channel}",
    )


def compare_images(catalog: Catalog, old: Image, new: Image) -> ManifestDifference | None:
    """The difference of the first target that both have a build for."""
    for build in new.builds:
        before = old.build_for(build.target, build.arch)
        if before is not None:
            return catalog.compare(before.id, build.id)
    return None


# --- revoking -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Revocation:
    """What revoking an image would touch: what is built upon it and in use, the channels that hold any of
    what is revoked, and images that hold the very same builds and are not revoked with it."""

    image: Image
    descendants: tuple[Image, ...]
    holding: tuple[Channel, ...]
    twins: tuple[str, ...]


def describe_revocation(catalog: Catalog, reference: Reference, *, descendants: bool) -> Revocation:
    """Raises BadReference."""
    image = catalog.resolve(reference, allow_unusable=True)
    below = [found for found in catalog.descendants(image.recipe, image.version) if found.status in USABLE]
    revoked = {image.reference, *(found.reference for found in below if descendants)}
    own = {build.id for build in image.builds}
    twins = [
        other.reference
        for other in catalog.images(image.recipe)
        if other.status in USABLE and own & {build.id for build in other.builds}
    ]
    return Revocation(
        image=image,
        descendants=tuple(below),
        holding=tuple(find_holding(catalog, revoked)),
        twins=tuple(reference for reference in twins if reference not in revoked),
    )


def find_holding(catalog: Catalog, references: set[str]) -> list[Channel]:
    """The channels that hold any of these images; not those that have expired."""
    return [
        channel
        for channel in catalog.channel_states()
        if channel.move.held in references and not channel.is_over
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class FallBack:
    """What became of a channel that held a revoked image: its ``move`` back, or why it stays."""

    channel: Channel
    move: ChannelMove | None
    why_not: str | None = None


def fall_back(catalog: Catalog, channel: Channel, gate_of: GateOf, reason: str) -> FallBack:
    """Move a channel back to what it held before and can still be used, by its gate; else it stays."""
    recipe, name = channel.move.recipe, channel.move.channel
    gate = gate_of(name)
    try:
        back = describe_roll_back(catalog, recipe, name, gate)
        assert back.revision is not None
        move = catalog.roll_back(
            recipe, back.image.version, name, reason=reason, expected_revision=back.revision, gate=gate
        )
    except (ConflictError, GateError, CatalogError, UsageError) as error:
        return FallBack(channel=channel, move=None, why_not=str(error))
    return FallBack(channel=channel, move=move)
