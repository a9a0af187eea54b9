"""Questions to the catalog about images, builds, their contents and channels. Each takes a connection."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, exists, func, select

from baker.catalog.schema import (
    artifacts,
    build_layers,
    build_packages,
    builds,
    channel_moves,
    channels,
    image_builds,
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
    ChannelMove,
    Image,
    ImageStatus,
    Manifest,
    Package,
    Provenance,
)

USABLE = (ImageStatus.AVAILABLE, ImageStatus.DEPRECATED)

_is_latest_candidate = and_(
    images.c.status == ImageStatus.AVAILABLE,
    images.c.complete,
    ~exists().where(image_builds.c.image == images.c.number, ~image_builds.c.available),
)
"""Complete, and distributed everywhere: a build that joined a version may still be on its way."""


def list_recipes(connection: Connection) -> list[str]:
    return list(connection.execute(select(recipes.c.name).order_by(recipes.c.name)).scalars())


# --- images and builds ----------------------------------------------------------------------------


def list_images(connection: Connection, *conditions: ColumnElement[bool]) -> list[Image]:
    """The images that meet all conditions (on the table ``images``), newest first, in four queries."""
    rows = connection.execute(select(images).where(*conditions).order_by(images.c.number.desc())).all()
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
    known = _load_builds(connection, builds.c.number.in_(holding))
    names = _list_channel_names(connection, {row.recipe for row in rows})
    return [
        Image(
            recipe=row.recipe,
            version=row.version,
            status=ImageStatus(row.status),
            complete=row.complete,
            created=row.created,
            channels=tuple(sorted(names[row.recipe, row.version])),
            builds=tuple(known[number] for number in members[row.number]),
            status_reason=row.status_reason,
        )
        for row in rows
    ]


def list_usable_builds(connection: Connection, recipe: str, target: str, arch: str) -> list[Build]:
    usable = (
        select(image_builds.c.build)
        .join(images)
        .where(images.c.recipe == recipe, images.c.status.in_(USABLE), image_builds.c.available)
    )
    place = and_(builds.c.recipe == recipe, builds.c.target == target, builds.c.arch == arch)
    found = _load_builds(connection, place, builds.c.number.in_(usable))
    return sorted(found.values(), key=lambda build: (build.created, build.id), reverse=True)


def _load_builds(connection: Connection, *conditions: ColumnElement[bool]) -> dict[int, Build]:
    """Builds by their number, with their artifacts in the order in which these were added."""
    of_build: defaultdict[int, list[Artifact]] = defaultdict(list)
    wanted = select(artifacts).join(builds).where(*conditions).order_by(artifacts.c.number)
    for row in connection.execute(wanted):
        artifact = Artifact(
            id=row.id,
            target=row.target,
            arch=row.arch,
            kind=row.kind,
            store=row.store,
            size_bytes=row.size_bytes,
            details=row.details,
        )
        of_build[row.build].append(artifact)
    rows = connection.execute(select(builds).where(*conditions))
    return {row.number: _make_build(row, of_build[row.number]) for row in rows}


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
    return [_read_layer(digest, content) for digest, content in connection.execute(stack)]


def _read_layer(digest: str, content: bytes) -> Layer:
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


def list_moves(connection: Connection, recipe: str, channel: str) -> list[ChannelMove]:
    """The whole history of a channel, newest first."""
    moves = select(channel_moves).where(channel_moves.c.recipe == recipe, channel_moves.c.channel == channel)
    rows = connection.execute(moves.order_by(channel_moves.c.revision.desc()))
    return [_make_move(row) for row in rows]


def list_channels(connection: Connection, recipe: str | None) -> list[ChannelMove]:
    """The newest move of every channel, by recipe and name."""
    last = (
        channel_moves.c.recipe == channels.c.recipe,
        channel_moves.c.channel == channels.c.name,
        channel_moves.c.revision == channels.c.revision,
    )
    found = select(channel_moves).join(channels, and_(*last)).order_by(channels.c.recipe, channels.c.name)
    if recipe is not None:
        found = found.where(channels.c.recipe == recipe)
    return [_make_move(row) for row in connection.execute(found)]


def find_channel(connection: Connection, recipe: str, name: str) -> tuple[int, int] | None:
    """The version that a channel holds, and its revision; None if there is no such channel."""
    held = select(channels.c.version, channels.c.revision)
    row = connection.execute(held.where(channels.c.recipe == recipe, channels.c.name == name)).first()
    return None if row is None else (row.version, row.revision)


def _make_move(row: Row[Any]) -> ChannelMove:
    return ChannelMove(
        recipe=row.recipe,
        channel=row.channel,
        revision=row.revision,
        from_version=row.from_version,
        to_version=row.to_version,
        actor=row.actor,
        reason=row.reason,
        at=row.at,
    )


def find_latest(connection: Connection, recipe: str) -> int | None:
    """The newest version that is available and complete."""
    candidates = select(images.c.version).where(images.c.recipe == recipe, _is_latest_candidate)
    return connection.execute(candidates.order_by(images.c.version.desc()).limit(1)).scalar()


def _list_channel_names(connection: Connection, wanted: set[str]) -> defaultdict[tuple[str, int], list[str]]:
    held = select(channels.c.recipe, channels.c.version, channels.c.name)
    latest = select(images.c.recipe, func.max(images.c.version)).where(_is_latest_candidate)
    if len(wanted) == 1:
        held = held.where(channels.c.recipe.in_(wanted))
        latest = latest.where(images.c.recipe.in_(wanted))
    names: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for recipe, version, name in connection.execute(held):
        names[recipe, version].append(name)
    for recipe, version in connection.execute(latest.group_by(images.c.recipe)):
        names[recipe, version].append(LATEST)
    return names
