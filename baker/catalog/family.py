"""What an image was built upon, and what is built upon it. Each function takes a connection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, select, tuple_

from baker.catalog.ancestry import list_revoked_ancestors, merge_references
from baker.catalog.calls import Calls
from baker.catalog.reading import USABLE, find_channel_names, status_now
from baker.catalog.references import find_image
from baker.catalog.schema import builds, image_builds, images
from baker.errors import BadReference
from baker.model import LATEST, ImageStatus, Reference

Row = Any
"""A row of a query of this module: names are those of its columns."""

CHUNK = 1000
"""Values in one statement; SQLite takes 32,766."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Relative:
    """An image of a family. ``parents`` are references of images; ``sources`` is what recipes call them.

    ``newer`` is what its source means now, if that is not what it was built upon: it is outdated. A
    source that names a version stays that one.
    """

    recipe: str
    version: int
    status: ImageStatus
    created: datetime
    channels: tuple[str, ...]
    sources: tuple[str, ...]
    parents: tuple[str, ...]
    newer: tuple[str, ...]
    revoked_ancestors: tuple[str, ...]

    @property
    def reference(self) -> str:
        return f"{self.recipe}:{self.version}"


class FamilyCalls(Calls):
    def family(
        self, recipe: str, version: int, *, upwards: bool = True, downwards: bool = True
    ) -> dict[str, Relative]:
        """The image itself, what it is built upon up to the root, and all that is built upon it.

        By reference. A build that several versions hold counts as that of the image asked for, else as the
        newest one's that may be used and is no preview. Raises BadReference.
        """
        return self._read(
            lambda connection: find_family(connection, recipe, version, upwards=upwards, downwards=downwards)
        )


def find_family(
    connection: Connection, recipe: str, version: int, *, upwards: bool, downwards: bool
) -> dict[str, Relative]:
    find_image(connection, recipe, version)  # raises, and says what there is
    held = select(builds.c.id).select_from(builds.join(image_builds).join(images))
    wanted = held.where(images.c.recipe == recipe, images.c.version == version)
    own = set(connection.execute(wanted).scalars())
    known = _load_builds(connection, builds.c.id, own)
    below: set[str] = set()
    if upwards:
        _follow_up(connection, known)
    if downwards:
        below = _follow_down(connection, known, own)
    holders = _list_holders(connection, known)
    asked = f"{recipe}:{version}"
    owners = {build: max(rows, key=_preference) for build, rows in holders.items()}
    names = {build: asked if build in own else _name(row) for build, row in owners.items()}
    shown: dict[str, Row] = {}
    members: defaultdict[str, set[str]] = defaultdict(set)
    for build, rows in holders.items():
        # What is built upon the image is shown in every version that has it, the rest as one image.
        for row in rows:
            name = _name(row)
            if name == names[build] or build in below:
                shown[name] = row
                members[name].add(build)
    newer = _find_newer(connection, known)
    revoked: dict[str, tuple[str, ...]] = {}
    for part in _cut(sorted(known)):
        revoked |= list_revoked_ancestors(connection, builds.c.id.in_(part))
    channels = find_channel_names(connection, {row.recipe for row in shown.values()})
    found = {}
    for name, row in shown.items():
        of_image = [known[build] for build in sorted(members[name])]
        parents = (names.get(build.parent_build) for build in of_image)
        found[name] = Relative(
            recipe=row.recipe,
            version=row.version,
            status=ImageStatus(row.status),
            created=row.created,
            channels=tuple(sorted(channels.get((row.recipe, row.version), ()))),
            sources=tuple(dict.fromkeys(build.source for build in of_image)),
            parents=tuple(sorted({parent for parent in parents if parent in shown and parent != name})),
            newer=tuple(dict.fromkeys(newer[build.id] for build in of_image if build.id in newer)),
            revoked_ancestors=merge_references(revoked.get(build.id, ()) for build in of_image),
        )
    return found


def _name(row: Row) -> str:
    return f"{row.recipe}:{row.version}"


def _preference(row: Row) -> tuple[bool, bool, int]:
    return row.status in USABLE, row.preview is None, row.version


def _cut(values: Iterable[Any]) -> Iterator[list[Any]]:
    listed = list(values)
    for start in range(0, len(listed), CHUNK):
        yield listed[start : start + CHUNK]


def _load_builds(connection: Connection, column: ColumnElement[Any], values: Iterable[str]) -> dict[str, Row]:
    """By id: the builds of which a column has one of the values."""
    columns = (builds.c.id, builds.c.parent_build, builds.c.source, builds.c.target, builds.c.arch)
    return {
        row.id: row
        for part in _cut(values)
        for row in connection.execute(select(*columns).where(column.in_(part)))
    }


def _follow_up(connection: Connection, known: dict[str, Row]) -> None:
    """Add what the known builds are built upon, one generation after the other."""
    newest = known
    while newest:
        wanted = {row.parent_build for row in newest.values()} - known.keys() - {None}
        newest = _load_builds(connection, builds.c.id, wanted)
        known |= newest


def _follow_down(connection: Connection, known: dict[str, Row], own: set[str]) -> set[str]:
    """Add what is built upon the builds ``own``; their ids."""
    below: set[str] = set()
    newest: Iterable[str] = own
    while newest:
        found = _load_builds(connection, builds.c.parent_build, newest)
        newest = found.keys() - below - own
        known |= found
        below |= newest
    return below


def _list_holders(connection: Connection, known: Iterable[str]) -> defaultdict[str, list[Row]]:
    """The images that hold each build."""
    of_image = (images.c.recipe, images.c.version, images.c.created, images.c.preview)
    columns = (builds.c.id, *of_image, status_now.label("status"))
    holders: defaultdict[str, list[Row]] = defaultdict(list)
    for part in _cut(sorted(known)):
        linked = select(*columns).select_from(builds.join(image_builds).join(images))
        for row in connection.execute(linked.where(builds.c.id.in_(part))):
            holders[row.id].append(row)
    return holders


def _find_newer(connection: Connection, known: Mapping[str, Row]) -> dict[str, str]:
    """By id of a build, the reference of what its source means by now, if it was built upon another."""
    sources: dict[str, Reference] = {}
    for row in known.values():
        with suppress(BadReference):
            if row.parent_build is not None:
                sources[row.source] = Reference.parse(row.source)
    named = find_channel_names(connection, {source.recipe for source in sources.values()})
    held = {(recipe, name): version for (recipe, version), names in named.items() for name in names}
    meant = {
        text: (source.recipe, held[source.recipe, source.channel or LATEST])
        for text, source in sources.items()
        if source.version is None
        and source.digest is None
        and held.get((source.recipe, source.channel or LATEST)) is not None
    }
    current: dict[tuple[str, int, str, str], str] = {}
    for part in _cut(sorted(set(meant.values()))):
        columns = (images.c.recipe, images.c.version, image_builds.c.target, image_builds.c.arch)
        linked = select(*columns, builds.c.id).select_from(images.join(image_builds).join(builds))
        wanted = tuple_(images.c.recipe, images.c.version).in_(part)
        current |= {tuple(row)[:4]: row.id for row in connection.execute(linked.where(wanted))}
    newer = {}
    for row in known.values():
        recipe, version = meant.get(row.source, ("", 0)) if row.parent_build else ("", 0)
        build = current.get((recipe, version, row.target, row.arch))
        if build is not None and build != row.parent_build:
            newer[row.id] = f"{recipe}:{version}"
    return newer
