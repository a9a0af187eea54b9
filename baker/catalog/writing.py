"""Writing down what was baked. Each function takes a connection within a write transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, exists, insert, select, update

from baker.catalog.ancestry import WITHDRAWN, require_sound_ancestors
from baker.catalog.database import insert_ignoring, insert_or_update
from baker.catalog.reading import find_build_number
from baker.catalog.references import find_image
from baker.catalog.schema import (
    artifacts,
    build_layers,
    build_packages,
    builds,
    image_builds,
    images,
    layers,
    package_states,
    packages,
    recipes,
)
from baker.errors import CatalogError
from baker.layer import Layer, encode_layer
from baker.model import (
    Artifact,
    Build,
    Image,
    ImageStatus,
    Package,
)

CHUNK = 1000
"""Packages that are looked up in one statement; SQLite takes 32,766 values."""

# --- registering --------------------------------------------------------------------------------


def register(
    connection: Connection,
    *,
    actor: str,
    now: datetime,
    recipe: str,
    build: Build | None,
    layers: Sequence[Layer],
    packages: Sequence[Package],
    carry: Sequence[str],
    wanted: Iterable[tuple[str, str]],
    preview: str | None = None,
    package_state: bytes | None = None,
) -> Image:
    """See ``Catalog.register``."""
    insert_ignoring(connection, recipes, [{"name": recipe, "last_version": 0}])
    # Registrations of one recipe go one after the other; where a write locks everything, this adds nothing.
    connection.execute(select(recipes).where(recipes.c.name == recipe).with_for_update())
    if build is not None and (held := _find_holder(connection, build.id)) is not None:
        return find_image(connection, recipe, held)
    carried = [_find_carried(connection, recipe, build_id) for build_id in carry]
    parent = build.provenance.parent_build if build else None
    require_sound_ancestors(connection, recipe, [*carry, *([parent] if parent else [])])
    first = build or carried[0]
    image = _find_joinable(connection, recipe, (first.target, first.arch), preview)
    if image is None:
        image = _insert_image(connection, recipe, preview, actor=actor, now=now)
    if build is not None:
        number = insert_build(connection, build)
        insert_layers(connection, number, layers)
        insert_packages(connection, number, packages)
        if package_state is not None:
            connection.execute(insert(package_states).values(build=number, content=package_state))
        link_build(connection, image.number, number, build.target, build.arch, available=False)
    places = list_places(connection, image.number)
    for row in carried:
        if (row.target, row.arch) not in places:
            available = _is_available(connection, row.number)
            link_build(connection, image.number, row.number, row.target, row.arch, available=available)
            places.add((row.target, row.arch))
    complete = places.issuperset(wanted)
    connection.execute(update(images).where(images.c.number == image.number).values(complete=complete))
    return find_image(connection, recipe, image.version)


def _find_holder(connection: Connection, build_id: str) -> int | None:
    """The version that a build was first registered with."""
    holding = select(images.c.version).select_from(images.join(image_builds).join(builds))
    versions = holding.where(builds.c.id == build_id).order_by(images.c.version)
    return connection.execute(versions.limit(1)).scalar()


def _find_carried(connection: Connection, recipe: str, build_id: str) -> Row[Any]:
    number = find_build_number(connection, build_id)
    row = connection.execute(select(builds).where(builds.c.number == number)).one()
    if row.recipe != recipe:
        raise CatalogError(f"build {build_id} is one of {row.recipe}: a version of {recipe} cannot hold it")
    return row


def find_waiting(
    connection: Connection, recipe: str, place: tuple[str, str], preview: str | None
) -> str | None:
    """See ``Catalog.waiting_version``."""
    row = _find_joinable(connection, recipe, place, preview)
    return None if row is None else f"{recipe}:{row.version}"


def _find_joinable(
    connection: Connection, recipe: str, place: tuple[str, str], preview: str | None
) -> Row[Any] | None:
    """The newest version of its kind, if it waits for a build for this target and architecture."""
    alike = (images.c.recipe == recipe, images.c.preview.is_not_distinct_from(preview))
    newest = select(images).where(*alike).order_by(images.c.version.desc()).limit(1)
    row = connection.execute(newest).first()
    if row is None or row.complete or row.status in WITHDRAWN:
        return None
    return None if place in list_places(connection, row.number) else row


def list_places(connection: Connection, image: int) -> set[tuple[str, str]]:
    places = select(image_builds.c.target, image_builds.c.arch).where(image_builds.c.image == image)
    return {(target, arch) for target, arch in connection.execute(places)}


def _is_available(connection: Connection, build: int) -> bool:
    linked = exists().where(image_builds.c.build == build, image_builds.c.available)
    return bool(connection.execute(select(linked)).scalar())


def _insert_image(
    connection: Connection, recipe: str, preview: str | None, *, actor: str, now: datetime
) -> Row[Any]:
    counted = update(recipes).where(recipes.c.name == recipe).values(last_version=recipes.c.last_version + 1)
    version = connection.execute(counted.returning(recipes.c.last_version)).scalar_one()
    values = {
        "recipe": recipe,
        "version": version,
        "complete": False,
        "created": now,
        "status": ImageStatus.REGISTERED,
        "status_actor": actor,
        "status_at": now,
        "preview": preview,
    }
    inserted = insert(images).values(values).returning(images.c.number, images.c.version)
    return connection.execute(inserted).one()


def link_build(
    connection: Connection, image: int, build: int, target: str, arch: str, *, available: bool
) -> None:
    values = {"image": image, "target": target, "arch": arch, "build": build, "available": available}
    connection.execute(insert(image_builds), values)


def insert_build(connection: Connection, build: Build) -> int:
    origin = build.provenance
    values = {
        "id": build.id,
        "recipe": build.recipe,
        "target": build.target,
        "arch": build.arch,
        "fingerprint": build.fingerprint,
        "digest": build.digest,
        "size_bytes": build.size_bytes,
        "created": build.created,
        "source": origin.source,
        "source_digest": origin.source_digest,
        "inputs": dict(origin.inputs),
        "commit": origin.commit,
        "dirty": origin.dirty,
        "actor": origin.actor,
        "host": origin.host,
        "started": origin.started,
        "finished": origin.finished,
        "tools": dict(origin.tools),
        "opaque": origin.opaque,
        "parent_build": origin.parent_build,
        "image_tests": None if build.image_tests is None else dict(build.image_tests),
    }
    number = connection.execute(insert(builds).values(values).returning(builds.c.number)).scalar_one()
    insert_artifacts(connection, number, build.artifacts)
    return int(number)


def insert_artifacts(connection: Connection, build: int, added: Sequence[Artifact]) -> None:
    rows = [
        {
            "build": build,
            "id": artifact.id,
            "target": artifact.target,
            "arch": artifact.arch,
            "kind": artifact.kind,
            "store": artifact.store,
            "size_bytes": artifact.size_bytes,
            "details": dict(artifact.details),
        }
        for artifact in added
    ]
    insert_or_update(connection, artifacts, ["build", "store", "id"], rows)


def insert_layers(connection: Connection, build: int, stack: Sequence[Layer]) -> None:
    known = _find_layers(connection, stack)
    missing = [layer for layer in stack if layer.digest not in known]
    rows = [{"digest": layer.digest, "content": encode_layer(layer)} for layer in missing]
    insert_ignoring(connection, layers, rows)
    known |= _find_layers(connection, missing)
    links = [
        {"build": build, "position": position, "layer": known[layer.digest]}
        for position, layer in enumerate(stack)
    ]
    if links:
        connection.execute(insert(build_layers), links)


def _find_layers(connection: Connection, wanted: Sequence[Layer]) -> dict[str, int]:
    digests = [layer.digest for layer in wanted]
    found = select(layers.c.digest, layers.c.number).where(layers.c.digest.in_(digests))
    return {row.digest: row.number for row in connection.execute(found)}


def insert_packages(connection: Connection, build: int, contained: Sequence[Package]) -> None:
    # In one order everywhere: two that insert the same new packages never wait for each other in a circle.
    keys = {package_key(package): package for package in sorted(contained)}
    known = _find_packages(connection, list(keys))
    missing = [
        {
            "key": key,
            "type": package.type,
            "name": package.name,
            "version": package.version,
            "arch": package.arch,
            "source": package.source,
            "source_version": package.source_version,
        }
        for key, package in keys.items()
        if key not in known
    ]
    insert_ignoring(connection, packages, missing)
    known |= _find_packages(connection, [row["key"] for row in missing])
    links = [{"build": build, "package": known[key]} for key in keys]
    if links:
        connection.execute(insert(build_packages), links)


def _find_packages(connection: Connection, keys: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for start in range(0, len(keys), CHUNK):
        wanted = packages.c.key.in_(keys[start : start + CHUNK])
        rows = connection.execute(select(packages.c.key, packages.c.number).where(wanted))
        found |= {row.key: row.number for row in rows}
    return found


def package_key(package: Package) -> str:
    """What makes two packages the same one, in one column: many are looked up at once by it."""
    fields = (package.type, package.name, package.version, package.arch, package.source)
    return hashlib.sha256("\0".join((*fields, package.source_version)).encode()).hexdigest()


def record_image_tests(connection: Connection, build_id: str, image_tests: Mapping[str, str]) -> None:
    """See ``Catalog.record_image_tests``."""
    number = find_build_number(connection, build_id)
    connection.execute(update(builds).where(builds.c.number == number).values(image_tests=dict(image_tests)))
