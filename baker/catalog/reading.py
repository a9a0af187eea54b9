"""Questions to the catalog about images, builds, their contents and channels. Each takes a connection."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, case, exists, or_, select

from baker.catalog.ancestry import find_revoked_ancestors, merge_references
from baker.catalog.database import DatabaseNow
from baker.catalog.schema import (
    artifacts,
    build_layers,
    build_packages,
    builds,
    channels,
    image_builds,
    image_labels,
    images,
    layers,
    packages,
    recipes,
)
from baker.errors import CatalogError
from baker.layer import Layer, decode_layer
from baker.manifest import fold_layers
from baker.model import (
    LATEST,
    Artifact,
    Build,
    Image,
    ImageStatus,
    Manifest,
    Package,
    Provenance,
)

USABLE = (ImageStatus.AVAILABLE, ImageStatus.DEPRECATED)

_is_deprecated_later = and_(
    images.c.status == ImageStatus.DEPRECATED, images.c.deprecated_from > DatabaseNow()
)

status_now = case((_is_deprecated_later, ImageStatus.AVAILABLE.value), else_=images.c.status)
"""The state of an image: one that will be deprecated some day is available until then."""

_is_available = or_(images.c.status == ImageStatus.AVAILABLE, _is_deprecated_later)

_is_whole = and_(
    _is_available,
    images.c.complete,
    ~exists().where(image_builds.c.image == images.c.number, ~image_builds.c.available),
)
"""Complete, and distributed everywhere: a build that joined a version may still be on its way."""

_is_ordinary = images.c.preview.is_(None)

is_over = and_(channels.c.expires.is_not(None), channels.c.expires <= DatabaseNow())
"""On the table ``channels``: it has expired, by the clock of the database."""

_links, _holders = image_builds.alias(), images.alias()
_is_revoked_elsewhere = exists().where(
    _links.c.build == image_builds.c.build,
    _links.c.image == _holders.c.number,
    _holders.c.status == ImageStatus.REVOKED,
)


def is_in_view(preview: str | None) -> ColumnElement[bool]:
    """The images that count for whoever bakes for a preview (None: for none): its own, and ordinary ones."""
    return _is_ordinary if preview is None else or_(_is_ordinary, images.c.preview == preview)


def list_recipes(connection: Connection) -> list[str]:
    return list(connection.execute(select(recipes.c.name).order_by(recipes.c.name)).scalars())


# --- images and builds ----------------------------------------------------------------------------


def list_images(
    connection: Connection, *conditions: ColumnElement[bool], limit: int | None = None
) -> list[Image]:
    """The images that meet all conditions (on the table ``images``), newest first, in six queries.

    At most ``limit`` of them, which takes one more.
    """
    if limit is not None:
        newest = select(images.c.number).where(*conditions).order_by(images.c.number.desc()).limit(limit)
        conditions = (images.c.number.in_(connection.execute(newest).scalars().all()),)
    chosen = select(images, status_now.label("status_now")).where(*conditions)
    rows = connection.execute(chosen.order_by(images.c.number.desc())).all()
    linked = (
        select(image_builds.c.image, image_builds.c.build)
        .join(images)
        .where(*conditions)
        .order_by(image_builds.c.target, image_builds.c.arch)
    )
    members: defaultdict[int, list[int]] = defaultdict(list)
    for image, build in connection.execute(linked):
        members[image].append(build)
    holding = select(image_builds.c.build).join(images).where(*conditions)
    known = load_builds(connection, builds.c.number.in_(holding))
    names = find_channel_names(connection, {row.recipe for row in rows})
    ends = _find_ends(connection, {row.recipe for row in rows if row.preview is not None})
    labels = _list_labels(connection, *conditions)
    revoked = find_revoked(connection, known.values())
    return [
        Image(
            recipe=row.recipe,
            version=row.version,
            status=ImageStatus(row.status_now),
            complete=row.complete,
            created=row.created,
            channels=tuple(sorted(names[row.recipe, row.version])),
            builds=tuple(known[number] for number in members[row.number]),
            status_reason=row.status_reason,
            deprecated_from=row.deprecated_from,
            labels=labels[row.number],
            revoked_ancestors=merge_references(revoked[known[number].id] for number in members[row.number]),
            preview=row.preview,
            preview_ends=ends.get((row.recipe, row.preview, row.version)),
        )
        for row in rows
    ]


def _find_ends(connection: Connection, wanted: set[str]) -> dict[tuple[str, str, int], datetime]:
    """When the channels of these recipes expire, by recipe, name and the version that they hold."""
    chosen = select(channels).where(channels.c.recipe.in_(wanted), channels.c.expires.is_not(None), ~is_over)
    rows = connection.execute(chosen).all() if wanted else ()
    return {(row.recipe, row.name, row.version): row.expires for row in rows}


def find_revoked(connection: Connection, loaded: Iterable[Build]) -> defaultdict[str, tuple[str, ...]]:
    return find_revoked_ancestors(connection, {build.id: build.provenance.parent_build for build in loaded})


def _list_labels(
    connection: Connection, *conditions: ColumnElement[bool]
) -> defaultdict[int, dict[str, str]]:
    """The labels of the images that meet all conditions, by the image's number, sorted by key."""
    chosen = select(image_labels.c.image, image_labels.c.key, image_labels.c.value).join(images)
    labels: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for image, key, value in connection.execute(chosen.where(*conditions).order_by(image_labels.c.key)):
        labels[image][key] = value
    return labels


def list_unfinished(connection: Connection) -> list[tuple[Image, tuple[Build, ...]]]:
    """Newest image first: the registered with all their builds, the usable with those on their way."""
    on_its_way = and_(images.c.status.in_(USABLE), ~image_builds.c.available)
    waiting = or_(images.c.status == ImageStatus.REGISTERED, on_its_way)
    linked = images.join(image_builds).join(builds)
    wanted = select(images.c.recipe, images.c.version, builds.c.id).select_from(linked).where(waiting)
    keys = {tuple(row) for row in connection.execute(wanted)}
    numbers = select(images.c.number).select_from(linked).where(waiting)
    return [
        (image, tuple(build for build in image.builds if (image.recipe, image.version, build.id) in keys))
        for image in list_images(connection, images.c.number.in_(numbers))
    ]


def list_usable_builds(
    connection: Connection, recipe: str, target: str, arch: str, preview: str | None
) -> list[Build]:
    """Those of the newest image first: no clock has a say, and a build that is issued again is the newest.

    Those of the ``preview`` come before the ordinary ones. What is built upon something revoked is not for
    another bake.
    """
    return _list_builds(connection, recipe, target, arch, preview, is_in_view(preview))


def list_preview_builds(
    connection: Connection, recipe: str, target: str, arch: str, preview: str | None
) -> list[Build]:
    """Those of other previews; not what was revoked when it had become an ordinary image."""
    elsewhere = and_(~_is_ordinary, images.c.preview != (preview or ""), ~_is_revoked_elsewhere)
    return _list_builds(connection, recipe, target, arch, preview, elsewhere)


def _list_builds(
    connection: Connection,
    recipe: str,
    target: str,
    arch: str,
    preview: str | None,
    condition: ColumnElement[bool],
) -> list[Build]:
    usable = (
        select(image_builds.c.build, images.c.number, images.c.preview)
        .join(images)
        .where(images.c.recipe == recipe, images.c.status.in_(USABLE), image_builds.c.available, condition)
        .where(image_builds.c.target == target, image_builds.c.arch == arch)
    )
    newest: dict[int, tuple[bool, int]] = {}
    for row in connection.execute(usable):
        rank = row.preview is not None and row.preview == preview, row.number
        newest[row.build] = max(newest.get(row.build, rank), rank)
    chosen = builds.c.number.in_(usable.with_only_columns(image_builds.c.build))
    found = load_builds(connection, chosen)
    revoked = find_revoked(connection, found.values())
    ordered = [found[number] for number in sorted(found, key=lambda number: newest[number], reverse=True)]
    return [build for build in ordered if not revoked[build.id]]


def load_builds(connection: Connection, *conditions: ColumnElement[bool]) -> dict[int, Build]:
    """Builds by their number, with their artifacts in the order in which these were added."""
    of_build: defaultdict[int, list[Artifact]] = defaultdict(list)
    wanted = select(artifacts).join(builds).where(*conditions).order_by(artifacts.c.number)
    for row in connection.execute(wanted):
        of_build[row.build].append(make_artifact(row))
    rows = connection.execute(select(builds).where(*conditions))
    return {row.number: _make_build(row, of_build[row.number]) for row in rows}


def make_artifact(row: Row[Any]) -> Artifact:
    return Artifact(
        id=row.id,
        target=row.target,
        arch=row.arch,
        kind=row.kind,
        store=row.store,
        size_bytes=row.size_bytes,
        details=row.details,
    )


def _make_build(row: Row[Any], of_build: Sequence[Artifact]) -> Build:
    provenance = Provenance(
        source=row.source,
        source_digest=row.source_digest,
        inputs=row.inputs,
        commit=row.commit,
        dirty=row.dirty,
        actor=row.actor,
        host=row.host,
        started=row.started,
        finished=row.finished,
        tools=row.tools,
        opaque=row.opaque,
        parent_build=row.parent_build,
    )
    return Build(
        id=row.id,
        recipe=row.recipe,
        target=row.target,
        arch=row.arch,
        fingerprint=row.fingerprint,
        digest=row.digest,
        size_bytes=row.size_bytes,
        provenance=provenance,
        artifacts=tuple(of_build),
        created=row.created,
        image_tests=row.image_tests,
    )


# --- what is inside a build -------------------------------------------------------------------------


def find_build_number(connection: Connection, build_id: str) -> int:
    """Raises CatalogError."""
    number = connection.execute(select(builds.c.number).where(builds.c.id == build_id)).scalar()
    if number is None:
        raise CatalogError(f"the catalog has no build {build_id}", hint="List what there is: baker image ls")
    return int(number)


def list_packages(connection: Connection, build_id: str) -> tuple[Package, ...]:
    """Sorted. Raises CatalogError for an unknown build."""
    number = find_build_number(connection, build_id)
    contained = select(packages).join(build_packages).where(build_packages.c.build == number)
    return tuple(
        sorted(
            Package(
                type=row.type,
                name=row.name,
                version=row.version,
                arch=row.arch,
                source=row.source,
                source_version=row.source_version,
            )
            for row in connection.execute(contained)
        )
    )


def list_layers(connection: Connection, build_id: str) -> list[Layer]:
    """Lowest first. Raises CatalogError for an unknown build, or a damaged layer."""
    number = find_build_number(connection, build_id)
    stack = (
        select(layers.c.digest, layers.c.content)
        .join(build_layers)
        .where(build_layers.c.build == number)
        .order_by(build_layers.c.position)
    )
    return [read_layer(digest, content) for digest, content in connection.execute(stack)]


def read_layer(digest: str, content: bytes) -> Layer:
    try:
        return decode_layer(content)
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise CatalogError(
            f"the catalog's file list of layer {digest} is damaged: {error}",
            hint="Restore the catalog from a backup.",
        ) from error


def read_manifest(connection: Connection, build_id: str) -> Manifest:
    """Raises CatalogError."""
    files = fold_layers(list_layers(connection, build_id))
    return Manifest(packages=list_packages(connection, build_id), files=files)


# --- channels -----------------------------------------------------------------------------------------


def find_channel(connection: Connection, recipe: str, name: str) -> Row[Any] | None:
    """The row of a channel, with ``is_over`` if it has expired; None if there is no such channel."""
    held = select(channels, is_over.label("is_over"))
    return connection.execute(held.where(channels.c.recipe == recipe, channels.c.name == name)).first()


def list_channel_names(connection: Connection, recipe: str) -> list[str]:
    """The names of a recipe's channels, sorted; ``latest`` is not among them."""
    named = select(channels.c.name).where(channels.c.recipe == recipe)
    return list(connection.execute(named.order_by(channels.c.name)).scalars())


def find_latest(
    connection: Connection,
    recipe: str,
    place: tuple[str, str] | None = None,
    preview: str | None = None,
) -> int | None:
    """The newest version that is available and complete; of a ``place``, with a distributed build for it.

    The newest of a ``preview``, if it has one; without, a preview's is never meant.
    """
    candidates = select(images.c.version).where(images.c.recipe == recipe, is_in_view(preview))
    if preview is not None:
        candidates = candidates.order_by(_is_ordinary)
    if place is None:
        candidates = candidates.where(_is_whole)
    else:
        target, arch = place
        here = (image_builds.c.target == target, image_builds.c.arch == arch, image_builds.c.available)
        held = exists().where(image_builds.c.image == images.c.number, *here)
        candidates = candidates.where(_is_available, held)
    return connection.execute(candidates.order_by(images.c.version.desc()).limit(1)).scalar()


def find_channel_names(connection: Connection, wanted: set[str]) -> defaultdict[tuple[str, int], list[str]]:
    """The channels that hold each version of the recipes wanted, ``latest`` among them; no expired ones."""
    held = select(channels.c.recipe, channels.c.version, channels.c.name).where(~is_over)
    candidates = select(images.c.version).where(images.c.recipe == recipes.c.name, _is_whole, _is_ordinary)
    # The newest of each recipe alone is looked for, from the end of the index: there may be 100,000 images.
    newest = candidates.order_by(images.c.version.desc()).limit(1).scalar_subquery()
    latest = select(recipes.c.name, newest).where(recipes.c.name.in_(wanted))
    names: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for recipe, version, name in connection.execute(held.where(channels.c.recipe.in_(wanted))):
        names[recipe, version].append(name)
    for recipe, version in connection.execute(latest):
        names[recipe, version].append(LATEST)
    return names
