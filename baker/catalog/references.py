"""From a reference to an image; and for one that names nothing, what the user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, exists, func, select

from baker.catalog.reading import (
    USABLE,
    find_channel,
    find_latest,
    list_channel_names,
    list_images,
    list_recipes,
)
from baker.catalog.schema import builds, image_builds, images
from baker.errors import BadReference
from baker.model import LATEST, Image, ImageStatus, Reference


def resolve(
    connection: Connection,
    reference: Reference,
    *,
    allow_unusable: bool,
    place: tuple[str, str] | None = None,
    preview: str | None = None,
) -> Image:
    """Raises BadReference: it names nothing, more than one thing, or (unless allowed) an unusable image."""
    image = find_image(connection, reference.recipe, _find_version(connection, reference, place, preview))
    if image.status in USABLE or allow_unusable:
        return image
    exact = "" if reference.version else f" ({image.reference})"
    if image.status is ImageStatus.DELETED:
        raise _explain_deleted(connection, image, f"{reference}{exact}")
    reason = f": {image.status_reason}" if image.status_reason else ""
    raise BadReference(
        f"{reference}{exact} cannot be used: it is {image.status}{reason}",
        hint=f"List the others: baker image ls {image.recipe}",
    )


def find_image(connection: Connection, recipe: str, version: int) -> Image:
    """Raises BadReference."""
    found = list_images(connection, images.c.recipe == recipe, images.c.version == version)
    if not found:
        raise _explain_no_version(connection, recipe, version)
    return found[0]


def _find_version(
    connection: Connection, reference: Reference, place: tuple[str, str] | None, preview: str | None
) -> int:
    recipe, channel = reference.recipe, reference.channel
    if reference.version is not None:
        return reference.version
    if reference.digest is not None:
        return _find_digest(connection, recipe, reference.digest)
    if channel is not None and channel != LATEST:
        held = find_channel(connection, recipe, channel)
        if held is None:
            raise _explain_no_channel(connection, recipe, channel)
        if held.is_over:
            raise BadReference(
                f"{recipe}:{channel} expired on {held.expires:%Y-%m-%d %H:%M} UTC; "
                f"it held {recipe}:{held.version}",
                hint=f"Bake for it again, or: baker promote {recipe}:{held.version} {channel} --expires 7d",
            )
        return int(held.version)
    latest = find_latest(connection, recipe, place, preview)
    if latest is None:
        raise _explain_no_latest(connection, recipe, place)
    return latest


def _find_digest(connection: Connection, recipe: str, prefix: str) -> int:
    """The newest version with a build of this digest, preferring those that may be used and no previews."""
    holders = (
        select(builds.c.digest, images.c.version, images.c.status, images.c.preview)
        .join(image_builds, image_builds.c.build == builds.c.number)
        .join(images, image_builds.c.image == images.c.number)
        .where(builds.c.recipe == recipe, builds.c.digest.startswith(prefix, autoescape=True))
    )
    rows = connection.execute(holders).all()
    digests = sorted({row.digest for row in rows})
    if not digests:
        raise _explain_no_digest(connection, recipe, prefix)
    if len(digests) > 1:
        shown = ", ".join(_shorten(digests[:4])) + (" and more" if len(digests) > 4 else "")
        raise BadReference(f"{recipe}@{prefix} is more than one: {shown}", hint="Give more of its digits.")
    best = max(rows, key=lambda row: (row.status in USABLE, row.preview is None, row.version))
    return int(best.version)


def _shorten(digests: Sequence[str]) -> list[str]:
    """As few characters as tell them apart."""
    length = next(n for n in range(11, 100) if len({digest[:n] for digest in digests}) == len(digests))
    return [digest[:length] for digest in digests]


# --- what names nothing -------------------------------------------------------------------------------


def _check_recipe(connection: Connection, recipe: str) -> None:
    if not connection.execute(select(exists().where(images.c.recipe == recipe))).scalar():
        raise BadReference(
            f"the catalog has no image of {recipe}{_suggest(recipe, list_recipes(connection))}",
            hint="List what there is: baker image ls",
        )


def _explain_deleted(connection: Connection, image: Image, named: str) -> BadReference:
    chosen = select(images.c.status_actor, images.c.status_at)
    mine = (images.c.recipe == image.recipe, images.c.version == image.version)
    actor, at = connection.execute(chosen.where(*mine)).one()
    reason = f" ({image.status_reason})" if image.status_reason else ""
    return BadReference(
        f"{named} was deleted by {actor} on {at:%Y-%m-%d}{reason}",
        hint=f"List the others: baker image ls {image.recipe}",
    )


def _explain_no_version(connection: Connection, recipe: str, version: int) -> BadReference:
    _check_recipe(connection, recipe)
    newest = connection.execute(select(func.max(images.c.version)).where(images.c.recipe == recipe)).scalar()
    return BadReference(
        f"{recipe} has no version {version} (newest is {newest})", hint=f"List them: baker image ls {recipe}"
    )


def _explain_no_channel(connection: Connection, recipe: str, name: str) -> BadReference:
    _check_recipe(connection, recipe)
    names = list_channel_names(connection, recipe)
    others = _suggest(name, [*names, LATEST]) or (f" (it has {', '.join(names)})" if names else "")
    return BadReference(f"{recipe} has no channel {name}{others}", hint=f"List them: baker image ls {recipe}")


def _explain_no_digest(connection: Connection, recipe: str, prefix: str) -> BadReference:
    _check_recipe(connection, recipe)
    known = connection.execute(select(builds.c.digest).where(builds.c.recipe == recipe)).scalars()
    nearest = _suggest(prefix, {digest[: max(len(prefix), 19)] for digest in known})
    held = builds.join(image_builds).join(images)
    elsewhere = select(builds.c.recipe, images.c.version).select_from(held)
    # A range, which the index on digests answers; "g" comes after every digit.
    row = connection.execute(
        elsewhere.where(builds.c.digest >= prefix, builds.c.digest < f"{prefix}g").limit(1)
    ).first()
    if row is not None:
        nearest = f"; it is one of {row.recipe}:{row.version}"
    return BadReference(
        f"{recipe} has no build {prefix}{nearest}", hint=f"List them: baker image ls {recipe}"
    )


def _explain_no_latest(connection: Connection, recipe: str, place: tuple[str, str] | None) -> BadReference:
    _check_recipe(connection, recipe)
    newest = select(images).where(images.c.recipe == recipe).order_by(images.c.version.desc()).limit(1)
    row = connection.execute(newest).one()
    state = row.status if row.complete else f"{row.status}, incomplete"
    state += f", a preview for {row.preview}" if row.preview else ""
    what = (
        f"available version with a build for {'/'.join(place)}"
        if place
        else "complete version that is available"
    )
    return BadReference(
        f"{recipe} has no {what} (newest is {recipe}:{row.version}, {state})",
        hint=f"List them: baker image ls {recipe}",
    )


def _suggest(wanted: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(wanted, sorted(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""
