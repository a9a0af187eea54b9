"""Preview channels: what is baked for a branch is held by a channel of its name, until that expires.

A preview's images are nobody's ``latest`` and no ordinary image is built upon them. When the branch is
merged, the ordinary bake finds the same inputs and issues the same builds again. A channel that has expired
is collected, and retention lets go of the images that only it held.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from baker.ages import parse_age
from baker.catalog import Catalog
from baker.channels import Channel, require_channel_name
from baker.errors import BakerError, Interrupted, UsageError
from baker.knowledge import LOCAL
from baker.model import BakeResult, Image, Outcome, Reference
from baker.providers.protocol import Provider
from baker.publishing import Lag, publish_channel

TERM_SECONDS = parse_age("7d")
"""So long a preview lasts after its last bake, unless told otherwise."""


# --- baking for one ---------------------------------------------------------------------------------


def require_preview_channel(
    catalog: Catalog, channel: str, recipes: Collection[str], configured: Collection[str]
) -> None:
    """Refuse what is no preview channel of these ``recipes``; ``configured`` are those of baker.toml.

    Raises UsageError.
    """
    require_channel_name(channel)
    hint = f"Name one for the branch, like pr-123. To move {channel}: baker promote REF {channel}"
    if channel in configured:
        raise UsageError(f"{channel} is a channel of baker.toml: it is no preview's", hint=hint)
    for kept in catalog.protections():
        if kept.channel == channel and kept.recipe in ("", *recipes) and not kept.gate.empty:
            name = f"{kept.recipe or 'every recipe'}:{channel}"
            raise UsageError(f"{name} is protected: it is no preview's", hint=hint)
    for state in catalog.channel_states():
        if state.move.channel == channel and state.move.recipe in recipes and state.expires is None:
            raise UsageError(f"{state.move.name} is there to stay: it is no preview's", hint=hint)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewMove:
    """What became of a recipe's preview channel.

    It holds ``image`` now and ``held`` before (references; None: nothing) until it ``expires``. ``why_not``
    says why it does not hold what was baked; it only ``waits`` where nothing failed and other targets are yet
    to be baked. ``lagging`` are places that do not follow it.
    """

    recipe: str
    channel: str
    image: str | None
    held: str | None
    expires: datetime | None
    why_not: str | None = None
    waits: bool = False
    lagging: tuple[Lag, ...] = ()

    @property
    def failed(self) -> bool:
        return self.why_not is not None and not self.waits

    @property
    def name(self) -> str:
        return f"{self.recipe}:{self.channel}"


def move_preview(
    catalog: Catalog,
    providers: Mapping[str, Provider],
    results: Iterable[BakeResult],
    channel: str,
    *,
    seconds: int = TERM_SECONDS,
    reason: str | None = None,
) -> list[PreviewMove]:
    """Move the preview channel of every recipe to what a run baked or left unchanged.

    It lasts for so many ``seconds`` from now on.

    Where a recipe came out as an ordinary image, the channel holds that. What failed for one of its targets
    leaves the recipe's channel where it was. Never raises for one recipe: it goes on with the next.
    """
    of_recipe: defaultdict[str, list[BakeResult]] = defaultdict(list)
    for result in results:
        of_recipe[result.recipe].append(result)
    return [
        _move_one(catalog, providers, recipe, mine, channel, seconds, reason)
        for recipe, mine in of_recipe.items()
    ]


def _move_one(
    catalog: Catalog,
    providers: Mapping[str, Provider],
    recipe: str,
    results: Sequence[BakeResult],
    channel: str,
    seconds: int,
    reason: str | None,
) -> PreviewMove:
    state = find_state(catalog, recipe, channel)
    held = state.move.held if state else None
    left = PreviewMove(
        recipe=recipe,
        channel=channel,
        image=held,
        held=held,
        expires=state.expires if state else None,
    )
    for result in results:
        if result.outcome not in (Outcome.BAKED, Outcome.UNCHANGED) or result.image is None:
            place = f"{result.target}/{result.arch}"
            return replace(left, why_not=f"its bake for {place} {describe_outcome(result)}")
    versions = {Reference.parse(result.image).version or 0 for result in results if result.image}
    try:
        image = catalog.image(recipe, max(versions))
        if not image.complete:
            why = f"{image.reference} lacks a build for another target"
            return replace(left, why_not=why, waits=True)
        if state and is_moved_on(catalog, state, image):
            return replace(left, why_not=f"it was moved on to {held}, which is newer than {image.reference}")
        catalog.promote(
            recipe,
            image.version,
            channel,
            reason=reason,
            expected_revision=state.move.revision if state else None,
            expires=seconds,
        )
    except BakerError as error:
        return replace(left, why_not=str(error))
    try:
        lagging = tuple(publish_channel(catalog, providers, recipe, channel))
    except BakerError as error:
        lagging = (Lag(what=left.name, why=str(error)),)
    now = find_state(catalog, recipe, channel)
    return replace(left, image=image.reference, expires=now.expires if now else None, lagging=lagging)


def describe_outcome(result: BakeResult) -> str:
    return "was blocked" if result.outcome is Outcome.BLOCKED else "failed"


def find_state(catalog: Catalog, recipe: str, channel: str) -> Channel | None:
    states = catalog.channel_states(recipe)
    return next((state for state in states if state.move.channel == channel), None)


def is_moved_on(catalog: Catalog, state: Channel, image: Image) -> bool:
    """Whether a later run for the same preview was quicker."""
    held = catalog.image(image.recipe, state.move.to_version)
    return held.preview == image.preview is not None and held.version > image.version


# --- collecting -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """An expired channel that was taken away (or would be), or why it stays."""

    channel: Channel
    why_not: str | None = None


def collect_expired(
    catalog: Catalog, providers: Mapping[str, Provider], *, dry_run: bool = False
) -> list[Collected]:
    """Take away the channels that have expired, by the clock of the database; their history says so.

    What others follow (an SSM parameter) is withdrawn first: where that fails, or the target is not among the
    ``providers``, the channel stays for the next time, and so does its image; nothing resolves it all the
    same. Never raises for one channel: it goes on with the next. Images go with the next prune. Raises
    CatalogError where it cannot be told which have expired.
    """
    return [
        Collected(channel=channel)
        if dry_run
        else Collected(channel=channel, why_not=_try_to_collect(catalog, providers, channel))
        for channel in catalog.expired_channels()
    ]


def _try_to_collect(catalog: Catalog, providers: Mapping[str, Provider], channel: Channel) -> str | None:
    """Returns why the channel stays."""
    try:
        return _collect(catalog, providers, channel)
    except Interrupted:
        raise
    except BakerError as error:
        return str(error)


def _collect(catalog: Catalog, providers: Mapping[str, Provider], channel: Channel) -> str | None:
    """Returns why the channel stays. Raises BakerError."""
    recipe, name = channel.move.recipe, channel.move.channel
    builds = catalog.image(recipe, channel.move.to_version).builds
    for target in sorted({build.target for build in builds} - {LOCAL}):
        if target not in providers:
            return f"{target} is not configured here"
        mine = [build for build in builds if build.target == target]
        if places := providers[target].withdraw_channel(recipe, name, mine):
            return "; ".join(places)
    if catalog.collect_channel(channel) is None:
        publish_channel(catalog, providers, recipe, name)
        return "it was prolonged meanwhile"
    return None
