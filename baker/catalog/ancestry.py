"""What is built upon what, and which of it must not be used any more. Each function takes a connection.

A build is *withdrawn* when every image that holds it is revoked or deleted: one that was issued again in a
version that is not revoked is as good as that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import CTE, ColumnElement, Connection, Select, and_, bindparam, exists, or_, select

from baker.catalog.schema import builds, image_builds, image_events, images
from baker.errors import ConflictError
from baker.model import ImageStatus

CHUNK = 10_000
"""Builds that are looked up in one statement; SQLite takes 32,766 values."""

WITHDRAWN = (ImageStatus.REVOKED, ImageStatus.DELETED)
REVOKED, RESTORED = "revoked", "restored"
"""Events of an image; see ``catalog.life``."""

_later = image_events.alias()
_was_revoked_last = exists().where(
    image_events.c.image == images.c.number,
    image_events.c.event == REVOKED,
    ~exists().where(
        _later.c.image == image_events.c.image,
        _later.c.event == RESTORED,
        _later.c.number > image_events.c.number,
    ),
)

is_revoked = or_(
    images.c.status == ImageStatus.REVOKED,
    and_(images.c.status == ImageStatus.DELETED, _was_revoked_last),
)
"""Deleting a revoked image does not make good what was built upon it."""

_other_images, _other_links = images.alias(), image_builds.alias()
is_withdrawn = ~exists().where(
    _other_links.c.build == builds.c.number,
    _other_links.c.image == _other_images.c.number,
    _other_images.c.status.not_in(WITHDRAWN),
)
"""On the table ``builds``: no image that holds it may be used."""


def _follow_upwards(starts: Select[tuple[str]]) -> CTE:
    """Pairs of a build's id among ``starts``, and of a build that it is, or is built upon."""
    named = starts.subquery()
    (start,) = named.c
    line = select(start.label("first"), start.label("build")).cte("line", recursive=True)
    upwards = select(line.c.first, builds.c.parent_build).join(builds, builds.c.id == line.c.build)
    return line.union(upwards.where(builds.c.parent_build.is_not(None)))


_line = _follow_upwards(select(builds.c.id).where(builds.c.id.in_(bindparam("starts", expanding=True))))
_revoked_in_line = (
    select(_line.c.first, images.c.recipe, images.c.version)
    .select_from(_line.join(builds, builds.c.id == _line.c.build).join(image_builds).join(images))
    .where(is_revoked, is_withdrawn)
    .distinct()
)
"""Made once: putting it together takes longer than one image's answer."""


def list_revoked_ancestors(
    connection: Connection, *conditions: ColumnElement[bool]
) -> defaultdict[str, tuple[str, ...]]:
    """What the builds that meet all conditions are built upon and is revoked, by the build's id."""
    chosen = select(builds.c.id, builds.c.parent_build).where(*conditions, builds.c.parent_build.is_not(None))
    parents = {row.id: row.parent_build for row in connection.execute(chosen)}
    return find_revoked_ancestors(connection, parents)


def find_revoked_ancestors(
    connection: Connection, parents: Mapping[str, str | None]
) -> defaultdict[str, tuple[str, ...]]:
    """What builds are built upon and is revoked, as references; ``parents`` maps each to its parent."""
    starts = sorted({parent for parent in parents.values() if parent is not None})
    found: defaultdict[str | None, list[tuple[str, int]]] = defaultdict(list)
    for part in range(0, len(starts), CHUNK):
        rows = connection.execute(_revoked_in_line, {"starts": starts[part : part + CHUNK]})
        for first, recipe, version in rows:
            found[first].append((recipe, version))
    named = {build: _name(found[parent]) for build, parent in parents.items() if parent in found}
    return defaultdict(tuple, named)


def require_sound_ancestors(connection: Connection, recipe: str, build_ids: Sequence[str]) -> None:
    """Raises ConflictError if one of the builds, or of what they are built upon, was revoked.

    Nobody can revoke any of it before the transaction ends. Builds that the catalog does not know count as
    sound.
    """
    starts = select(builds.c.id).where(builds.c.id.in_(build_ids))
    line = _follow_upwards(starts)
    holding = select(image_builds.c.image).join(builds).where(builds.c.id.in_(select(line.c.build)))
    holders = select(images).where(images.c.number.in_(holding)).order_by(images.c.number)
    connection.execute(holders.with_for_update(read=True)).all()
    bad = holders.where(
        exists().where(
            image_builds.c.image == images.c.number,
            image_builds.c.build == builds.c.number,
            builds.c.id.in_(select(line.c.build)),
            is_withdrawn,
            or_(is_revoked, builds.c.id.in_(build_ids)),
        )
    )
    row = connection.execute(bad.limit(1)).first()
    if row is not None:
        reason = f": {row.status_reason}" if row.status_reason else ""
        raise ConflictError(
            f"{recipe} cannot be registered: {row.recipe}:{row.version}, which it is built upon, was "
            f"{row.status} by {row.status_actor}{reason}",
            hint=f"Nothing was registered. Bake it upon another one: baker bake {recipe}",
        )


def _name(versions: Iterable[tuple[str, int]]) -> tuple[str, ...]:
    return tuple(f"{recipe}:{version}" for recipe, version in sorted(versions))


def merge_references(groups: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Each reference once."""
    return tuple(dict.fromkeys(reference for group in groups for reference in group))


def list_descendants(connection: Connection, image: int) -> list[int]:
    """Numbers of the images built upon an image, however far down, oldest first.

    What other images hold as well and may be used is not this image's alone: nothing follows from it.
    """
    others = exists().where(
        _other_links.c.build == builds.c.number,
        _other_links.c.image == _other_images.c.number,
        _other_images.c.number != image,
        _other_images.c.status.not_in(WITHDRAWN),
    )
    held = select(builds.c.id).join(image_builds).where(image_builds.c.image == image, ~others)
    line = select(builds.c.id).where(builds.c.parent_build.in_(held)).cte("line", recursive=True)
    line = line.union(select(builds.c.id).join(line, builds.c.parent_build == line.c.id))
    below = select(image_builds.c.image).join(builds).where(builds.c.id.in_(select(line.c.id)))
    return sorted(set(connection.execute(below).scalars()))
