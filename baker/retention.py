"""Retention: which images are kept, and why. Pure: what is known of their use comes in as ``Evidence``.

What is *needed* (a channel, a lease, a running bake, a kept descendant …) stays whatever the rules say. The
rules keep more. An image goes if a rule of age or number holds for its recipe and nothing keeps it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from baker.ages import parse_age
from baker.leases import Lease
from baker.model import LATEST, ImageStatus, Reason

USABLE = (ImageStatus.AVAILABLE, ImageStatus.DEPRECATED)

ROLL_BACK = 2
"""So many of the versions that a channel held are kept unless told otherwise: there is one to go back to."""

PENDING = timedelta(days=1)
"""So long a preview's image waits for its channel, which is moved to it when all of its run is baked."""

ENVIRONMENT = "env:"
"""How the owner of an environment's lease begins."""

Key = tuple[str, int]
"""Recipe and version."""


# --- rules --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What is kept of one recipe. ``channels`` maps a channel to how many of the versions it held stay."""

    keep_last: int | None = None
    keep_younger: str | None = None
    keep_labels: tuple[str, ...] = ()
    channels: Mapping[str, int] = field(default_factory=dict)

    @property
    def lets_go(self) -> bool:
        """Whether an image may go at all: without a number or an age nobody said which."""
        return self.keep_last is not None or self.keep_younger is not None

    def kept_moves(self, channel: str) -> int:
        return self.channels.get(channel, ROLL_BACK)


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """The table ``[retention]`` of baker.toml; empty where there is none."""

    table: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lets_go(self) -> bool:
        """Whether there is any rule by which an image may go."""
        return any(self.rules_for(recipe).lets_go for recipe in ("", *self.table.get("recipes", ())))

    def rules_for(self, recipe: str) -> Rules:
        """What ``[retention.recipes.NAME]`` says over what holds for all."""
        own = self.table.get("recipes", {}).get(recipe, {})
        merged = {**self.table, **own}
        return Rules(
            keep_last=merged.get("keep_last"),
            keep_younger=merged.get("keep_younger"),
            keep_labels=tuple(merged.get("keep_labels", ())),
            channels={**self.table.get("channels", {}), **own.get("channels", {})},
        )


# --- what is known ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredImage:
    """An image that is not deleted, as far as retention asks. ``builds`` are ids.

    A ``preview`` is the channel that it was baked for: no rule keeps such an image, only who needs it.
    """

    recipe: str
    version: int
    status: ImageStatus
    created: datetime
    builds: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    preview: str | None = None

    @property
    def key(self) -> Key:
        return self.recipe, self.version

    @property
    def reference(self) -> str:
        return f"{self.recipe}:{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningBake:
    """A bake that has not ended. ``uses`` are the ids of the builds that it works from."""

    id: str
    recipe: str
    uses: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """All that says which images are in use. ``parents`` maps a build to the one that it was built upon.

    ``channels`` are the names that an image has now, ``latest`` among them. ``expired`` are those of channels
    that mean nothing any more and were not taken away yet: for that the image's builds are needed. ``moves``
    are the versions that a channel of a recipe came to hold, newest first, of channels that stay;
    ``previews`` the newest version that a preview's channel of a recipe ever held. ``leases`` are those that
    have not ended. ``used`` says what uses an image's artifacts at a provider, of those that could otherwise
    go.
    """

    now: datetime
    images: Sequence[StoredImage]
    parents: Mapping[str, str] = field(default_factory=dict)
    channels: Mapping[Key, Sequence[str]] = field(default_factory=dict)
    expired: Mapping[Key, Sequence[str]] = field(default_factory=dict)
    moves: Mapping[tuple[str, str], Sequence[int]] = field(default_factory=dict)
    previews: Mapping[tuple[str, str], int] = field(default_factory=dict)
    leases: Sequence[Lease] = ()
    bakes: Sequence[RunningBake] = ()
    used: Mapping[Key, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether an image goes, and why: what lets it go, or everything that keeps it."""

    image: StoredImage
    goes: bool
    reasons: tuple[Reason, ...]

    @property
    def detail(self) -> str:
        return "; ".join(reason.detail for reason in self.reasons)


Reasons = defaultdict[Key, list[Reason]]


# --- deciding ---------------------------------------------------------------------------------------


def decide(
    evidence: Evidence, retention: Retention, *, recipes: Collection[str] | None = None
) -> list[Verdict]:
    """A verdict on every image, by recipe and newest first; only of ``recipes`` if they are given."""
    holders = find_holders(evidence.images)
    found = find_holds(evidence, retention, holders)
    ordered = sorted(evidence.images, key=lambda image: (image.recipe, -image.version))
    of_recipe: defaultdict[str, list[StoredImage]] = defaultdict(list)
    for image in ordered:
        of_recipe[image.recipe].append(image)
    ends: dict[str, Reason] = {}
    for recipe, images in of_recipe.items():
        rules = retention.rules_for(recipe)
        ends[recipe] = explain_end(rules)
        for key, reason in apply_rules(
            [image for image in images if image.preview is None], rules, evidence.now
        ):
            found[key].append(reason)
        for image in images:
            if is_pending(image, evidence):
                found[image.key].append(
                    Reason(kind="preview", detail=f"just baked for the preview {image.preview}")
                )
    asked = set(of_recipe if recipes is None else recipes)
    kept = {image.key for image in ordered if image.key in found or image.recipe not in asked}
    keep_ancestors(evidence, holders, kept, found)
    return [
        Verdict(image=image, goes=False, reasons=tuple(found[image.key]))
        if image.key in kept
        else Verdict(image=image, goes=True, reasons=(explain_preview(image) or ends[image.recipe],))
        for image in ordered
        if image.recipe in asked
    ]


def find_obstacles(
    evidence: Evidence, retention: Retention, doomed: Collection[Key]
) -> dict[Key, tuple[Reason, ...]]:
    """What needs the ``doomed`` images, if all others stay. No rule of number, age or label counts."""
    holders = find_holders(evidence.images, doomed)
    found = find_holds(evidence, retention, holders)
    kept = {image.key for image in evidence.images if image.key not in doomed or found[image.key]}
    keep_ancestors(evidence, holders, kept, found)
    return {key: tuple(found[key]) for key in doomed if found[key]}


def recheck(
    evidence: Evidence, retention: Retention, wanted: Collection[Key], *, by_rules: bool
) -> dict[Key, str]:
    """Why some of the ``wanted`` images stay after all; ``by_rules`` if only the rules let them go."""
    staying: dict[Key, str] = {}
    if by_rules:
        verdicts = {verdict.image.key: verdict for verdict in decide(evidence, retention)}
        staying = {key: verdicts[key].detail for key in wanted if key in verdicts and not verdicts[key].goes}
    obstacles = find_obstacles(evidence, retention, set(wanted) - staying.keys())
    return staying | {
        key: "; ".join(reason.detail for reason in reasons) for key, reasons in obstacles.items()
    }


def find_holds(evidence: Evidence, retention: Retention, holders: Mapping[str, Key]) -> Reasons:
    """What somebody needs, with the reasons; descendants aside."""
    found: Reasons = defaultdict(list)
    usable = {image.key for image in evidence.images if image.status in USABLE}
    for key, names in evidence.channels.items():
        for name in names:
            text = "latest" if name == LATEST else f"channel {name}"
            found[key].append(Reason(kind="latest" if name == LATEST else "channel", detail=text))
    for key, names in evidence.expired.items():
        for name in names:
            detail = f"channel {name} has expired and is not taken away yet"
            found[key].append(Reason(kind="channel", detail=detail))
    for (recipe, channel), versions in evidence.moves.items():
        held = [version for version in dict.fromkeys(versions) if (recipe, version) in usable]
        for version in held[: retention.rules_for(recipe).kept_moves(channel)]:
            if channel not in evidence.channels.get((recipe, version), ()):
                detail = f"{channel} can be rolled back to it"
                found[recipe, version].append(Reason(kind="roll-back", detail=detail))
    for lease in evidence.leases:
        if lease.holds_at(evidence.now):
            found[lease.recipe, lease.version].append(describe_lease(lease))
    for key, users in evidence.used.items():
        found[key] += [Reason(kind="in-use", detail=user) for user in users]
    for bake in evidence.bakes:
        being_made = {
            image.key
            for image in evidence.images
            if image.recipe == bake.recipe and image.status is ImageStatus.REGISTERED
        }
        made = {holders[bake.id]} if bake.id in holders else set()
        for key in made | being_made:
            found[key].append(Reason(kind="bake", detail=f"bake {bake.id} is making it"))
        for key in dict.fromkeys(holders[build] for build in bake.uses if build in holders):
            found[key].append(Reason(kind="bake", detail=f"bake {bake.id} of {bake.recipe} uses it"))
    return found


def describe_lease(lease: Lease) -> Reason:
    until = f"until {lease.expires:%Y-%m-%d %H:%M} UTC" if lease.expires else "without end"
    if lease.owner.startswith(ENVIRONMENT):
        name = lease.owner.removeprefix(ENVIRONMENT)
        return Reason(kind="environment", detail=f"environment {name}")
    return Reason(kind="lease", detail=f"leased by {lease.owner} {until}")


def apply_rules(images: Sequence[StoredImage], rules: Rules, now: datetime) -> Iterable[tuple[Key, Reason]]:
    """What the rules keep of one recipe's images, newest first."""
    if not rules.lets_go:
        for image in images:
            yield image.key, Reason(kind="no-rule", detail=f"no retention rule for {image.recipe}")
        return
    # Counted are those that may be used: what was revoked in between costs none of them its place.
    usable = [image.version for image in images if image.status in USABLE]
    oldest = min(usable[: rules.keep_last], default=0) if len(usable) >= (rules.keep_last or 0) else 0
    for image in images:
        if rules.keep_last is not None and image.version >= oldest:
            yield image.key, Reason(kind="newest", detail=f"among the newest {rules.keep_last}")
        if rules.keep_younger is not None:
            age = timedelta(seconds=parse_age(rules.keep_younger))
            if now - image.created < age:
                yield image.key, Reason(kind="younger", detail=f"younger than {rules.keep_younger}")
        for wanted in rules.keep_labels:
            key, equals, value = wanted.partition("=")
            if key in image.labels and (not equals or image.labels[key] == value):
                yield image.key, Reason(kind="label", detail=f"label {wanted}")


def is_pending(image: StoredImage, evidence: Evidence) -> bool:
    """Whether the channel that an image was baked for may still be moved to it."""
    if image.preview is None or evidence.now - image.created >= PENDING:
        return False
    return image.version > evidence.previews.get((image.recipe, image.preview), 0)


def explain_preview(image: StoredImage) -> Reason | None:
    if image.preview is None:
        return None
    return Reason(kind="preview", detail=f"baked for the preview {image.preview}, which holds it no more")


def explain_end(rules: Rules) -> Reason:
    parts = [
        f"older than {rules.keep_younger}" if rules.keep_younger is not None else "",
        f"not among the newest {rules.keep_last}" if rules.keep_last is not None else "",
    ]
    return Reason(kind="retention", detail=", ".join(part for part in parts if part))


# --- descendants ------------------------------------------------------------------------------------


def find_holders(images: Iterable[StoredImage], doomed: Collection[Key] = ()) -> dict[str, Key]:
    """The image that answers for each build: one that is not ``doomed``, that may be used, that is no
    preview's, the newest.

    It is the same one whatever else is kept, so that keeping more never lets anything go.
    """
    ordered = sorted(
        images,
        key=lambda image: (
            image.key not in doomed,
            image.status in USABLE,
            image.preview is None,
            image.version,
        ),
    )
    return {build: image.key for image in ordered for build in image.builds}


def keep_ancestors(evidence: Evidence, holders: Mapping[str, Key], kept: set[Key], found: Reasons) -> None:
    """Add to ``kept`` what it is built upon, all the way down, and say so in ``found``."""
    builds = {image.key: image.builds for image in evidence.images}
    children: defaultdict[Key, set[Key]] = defaultdict(set)
    waiting = list(kept)
    while waiting:
        key = waiting.pop()
        for build in builds.get(key, ()):
            parent = holders.get(evidence.parents.get(build, ""))
            if parent is None or parent == key:
                continue
            children[parent].add(key)
            if parent not in kept:
                kept.add(parent)
                waiting.append(parent)
    for parent, above in children.items():
        recipe, version = max(above, key=lambda key: (key[1], key[0]))
        others = f" and {len(above) - 1} more are" if len(above) > 1 else " is"
        found[parent].append(Reason(kind="descendant", detail=f"{recipe}:{version}{others} built upon it"))
