"""Which images hold a package, a file or a digest, and who uses these. Each function takes a connection.

Packages, layers and artifacts have an index. Files have none: the catalog keeps them by layer, compressed, so
that layers are read, the newest image's first, until enough was found.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, and_, bindparam, func, or_, select, true, tuple_

from baker.catalog.calls import Calls
from baker.catalog.leases import holds
from baker.catalog.reading import find_channel_names, list_recipes, status_now
from baker.catalog.schema import (
    artifacts,
    build_layers,
    build_packages,
    builds,
    image_builds,
    images,
    layers,
    leases,
    packages,
)
from baker.errors import CatalogError
from baker.layer import make_file
from baker.layer_search import ByContent, ByPath, Looked, list_folders, read_facts, see
from baker.model import FileEntry, ImageStatus, Package
from baker.versions import GLOB, PackageQuestion

CHUNK = 1000
"""Numbers in one statement; SQLite takes 32,766."""

MANY = 200
"""Packages that are looked up one by one; more are looked for in every image."""

COUNTED = 5000
"""Images that are counted one by one."""

BATCH = 500
"""Images whose layers are read at once."""

ENVIRONMENT = "env:"
"""What the owner of an environment's lease begins with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An image that was asked for. ``leases`` are the owners of those that hold now.

    ``packages``, ``files`` or ``roles`` are what was found there; a role says what a digest is of.
    """

    recipe: str
    version: int
    status: ImageStatus
    created: datetime
    channels: tuple[str, ...]
    leases: tuple[str, ...]
    packages: tuple[Package, ...] = ()
    files: tuple[FileEntry, ...] = ()
    roles: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        return f"{self.recipe}:{self.version}"

    @property
    def environments(self) -> tuple[str, ...]:
        return tuple(owner[len(ENVIRONMENT) :] for owner in self.leases if owner.startswith(ENVIRONMENT))


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """The newest images first. Unless the ``total`` is ``exact`` there may be more."""

    images: tuple[Found, ...]
    total: int
    exact: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """Which images are asked: all but the deleted, or ``held`` ones alone, or of one ``recipe``.

    An image is held by a channel (``latest`` is one) or a lease. At most ``limit`` are returned.
    """

    recipe: str | None = None
    held: bool = False
    include_deleted: bool = False
    limit: int | None = None

    def conditions(self, connection: Connection, now: datetime) -> list[ColumnElement[bool]]:
        """On the table ``images``."""
        chosen: list[ColumnElement[bool]] = []
        if self.recipe is not None:
            chosen.append(images.c.recipe == self.recipe)
        if not self.include_deleted:
            chosen.append(images.c.status != ImageStatus.DELETED)
        if self.held:
            chosen.append(images.c.number.in_(_list_held(connection, now)))
        return chosen


class FindCalls(Calls):
    def find_package(self, question: PackageQuestion, scope: Scope) -> Findings:
        """The images with a package that the question means."""
        return self._read(lambda connection: find_package(connection, question, scope, self._clock()))

    def find_file(self, path: str, scope: Scope) -> Findings:
        """The images with a path, or paths that a glob matches; its ``*`` matches slashes too.

        Raises CatalogError for a damaged layer.
        """
        looked = ByPath(path)
        return self._read(lambda connection: find_files(connection, looked, scope, self._clock()))

    def find_digest(self, digest: str, scope: Scope) -> Findings:
        """The images with something of this digest or id: a build, an artifact, a layer; else a file.

        Of ``sha256:`` and 64 digits the first twelve digits or more are enough.
        """
        return self._read(lambda connection: find_digest(connection, digest, scope, self._clock()))

    def known_versions(self, name: str) -> list[Package]:
        """The packages of this binary or source name that any image ever had, sorted."""
        question = PackageQuestion(name=name, conditions=())
        return sorted(self._read(lambda connection: match_packages(connection, question)).values())


# --- packages -------------------------------------------------------------------------------------------


def find_package(connection: Connection, question: PackageQuestion, scope: Scope, now: datetime) -> Findings:
    matched = match_packages(connection, question)
    if not matched:
        return Findings(images=(), total=0, exact=True)
    conditions = scope.conditions(connection, now)
    narrow = scope.held or scope.recipe is not None
    if narrow or len(matched) > MANY or scope.limit is None:
        candidates = list(connection.execute(select(images.c.number).where(*conditions)).scalars())
        inside = _list_packages(connection, candidates, matched)
        total, exact = len(inside), True
        newest = sorted(inside, reverse=True)[: scope.limit]
    else:
        newest = _find_newest(connection, sorted(matched), conditions, scope.limit)
        total, exact = _count_images(connection, sorted(matched), conditions)
        inside = _list_packages(connection, newest, matched)
    described = _describe(connection, newest, now)
    listed = tuple(replace(described[number], packages=tuple(sorted(inside[number]))) for number in newest)
    return Findings(images=listed, total=total, exact=exact)


def _find_newest(
    connection: Connection, numbers: Sequence[int], conditions: Sequence[ColumnElement[bool]], limit: int
) -> list[int]:
    """The images of the builds that were baked last, from the end of each package's part of the index."""
    depth = 2 * limit
    of_package = select(build_packages.c.build).where(build_packages.c.package == bindparam("package"))
    newest_first = of_package.order_by(build_packages.c.build.desc()).limit(bindparam("depth"))
    while True:
        ends = [
            list(connection.execute(newest_first, {"package": number, "depth": depth}).scalars())
            for number in numbers
        ]
        # Below where one of the lists was cut off, there may be builds that are not known.
        cut = max((end[-1] for end in ends if len(end) == depth), default=0)
        known = sorted({build for end in ends for build in end if build >= cut}, reverse=True)
        found: dict[int, None] = {}
        for start in range(0, len(known), CHUNK):
            part = image_builds.c.build.in_(known[start : start + CHUNK])
            chosen = select(image_builds.c.image).join(images).where(part, *conditions)
            ordered = chosen.order_by(image_builds.c.build.desc(), image_builds.c.image.desc())
            found.update(dict.fromkeys(connection.execute(ordered).scalars()))
            if len(found) >= limit:
                break
        if len(found) >= limit or cut == 0:
            return sorted(list(found)[:limit], reverse=True)
        depth *= 8


def _count_images(
    connection: Connection, numbers: Sequence[int], conditions: Sequence[ColumnElement[bool]]
) -> tuple[int, bool]:
    """How many there are, and whether these are all: beyond COUNTED it takes too long."""
    linked = image_builds.join(build_packages, build_packages.c.build == image_builds.c.build).join(images)
    found = select(image_builds.c.image).select_from(linked)
    chosen = found.where(build_packages.c.package.in_(numbers), *conditions).distinct().limit(COUNTED + 1)
    count = connection.execute(select(func.count()).select_from(chosen.subquery())).scalar_one()
    return min(count, COUNTED), count <= COUNTED


def match_packages(connection: Connection, question: PackageQuestion) -> dict[int, Package]:
    """Every package that the question means, by its number."""
    if GLOB.search(question.name):
        pattern = _write_like(question.name)
        named = or_(packages.c.name.like(pattern, escape="\\"), packages.c.source.like(pattern, escape="\\"))
    else:
        named = or_(packages.c.name == question.name, packages.c.source == question.name)
    columns = (packages.c[name] for name in ("type", "name", "version", "arch", "source", "source_version"))
    found = connection.execute(select(packages.c.number, *columns).where(named))
    known = {
        number: Package(
            type=kind, name=name, version=version, arch=arch, source=source, source_version=source_version
        )
        for number, kind, name, version, arch, source, source_version in found
    }
    return {number: package for number, package in known.items() if question.is_met(package)}


def _write_like(glob: str) -> str:
    """As LIKE, which finds a little more: a set of characters is any one."""
    escaped = re.sub(r"([\\%_])", r"\\\1", glob)
    return re.sub(r"\[[^]]*\]", "_", escaped).replace("*", "%").replace("?", "_")


def _list_packages(
    connection: Connection, chosen: Sequence[int], matched: Mapping[int, Package]
) -> defaultdict[int, set[Package]]:
    """Which of the packages are in each of these images; images without any are left out."""
    holders: defaultdict[int, list[int]] = defaultdict(list)
    for start in range(0, len(chosen), CHUNK):
        part = image_builds.c.image.in_(chosen[start : start + CHUNK])
        links = select(image_builds.c.image, image_builds.c.build).where(part)
        for image, build in connection.execute(links):
            holders[build].append(image)
    inside: defaultdict[int, set[Package]] = defaultdict(set)
    few = build_packages.c.package.in_(sorted(matched)) if len(matched) <= CHUNK else true()
    known = sorted(holders)
    for start in range(0, len(known), CHUNK):
        part = build_packages.c.build.in_(known[start : start + CHUNK])
        pairs = select(build_packages.c.build, build_packages.c.package).where(part, few)
        for build, package in connection.execute(pairs):
            if package in matched:
                for image in holders[build]:
                    inside[image].add(matched[package])
    return inside


# --- files ----------------------------------------------------------------------------------------------


def find_files(connection: Connection, looked: Looked, scope: Scope, now: datetime) -> Findings:
    conditions = scope.conditions(connection, now)
    found: list[tuple[int, tuple[FileEntry, ...]]] = []
    texts: dict[int, bytes] = {}
    below: int | None = None
    more = True
    while more and (scope.limit is None or len(found) < scope.limit):
        older = [] if below is None else [images.c.number < below]
        chosen = select(images.c.number).where(*conditions, *older).order_by(images.c.number.desc())
        size = BATCH if below is not None else min(scope.limit or BATCH, BATCH)
        batch = list(connection.execute(chosen.limit(size)).scalars())
        more = len(batch) == size
        if batch:
            below = batch[-1]
            found += _look_into(connection, batch, looked, texts)
    kept = found[: scope.limit]
    described = _describe(connection, [number for number, _ in kept], now)
    listed = tuple(replace(described[number], files=files) for number, files in kept)
    return Findings(images=listed, total=len(found), exact=not more)


def _look_into(
    connection: Connection, batch: Sequence[int], looked: Looked, texts: dict[int, bytes]
) -> list[tuple[int, tuple[FileEntry, ...]]]:
    """Which of the images have it. ``texts`` keeps the layers that the last batch had too."""
    stacks: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    linked = image_builds.join(build_layers, build_layers.c.build == image_builds.c.build)
    rows = select(image_builds.c.image, build_layers.c.build, build_layers.c.layer).select_from(linked)
    top_first = rows.where(image_builds.c.image.in_(batch)).order_by(build_layers.c.position.desc())
    for image, build, layer in connection.execute(top_first):
        stacks[image, build].append(layer)
    _load_texts(connection, {layer for stack in stacks.values() for layer in stack}, texts)
    paths = {path for text in texts.values() for path in looked.find_paths(text)}
    if not paths:
        return []
    around = paths | {folder for path in paths for folder in list_folders(path)}
    seen = {layer: read_facts(text, paths, around) for layer, text in texts.items()}
    found: defaultdict[int, set[FileEntry]] = defaultdict(set)
    for (image, _), stack in stacks.items():
        rows_seen = see([seen[layer] for layer in stack])
        found[image].update(make_file(row) for row in rows_seen if looked.is_met(row))
    return [
        (image, tuple(sorted(found[image], key=lambda file: (file.path, file.digest))))
        for image in batch
        if found[image]
    ]


def _load_texts(connection: Connection, wanted: set[int], texts: dict[int, bytes]) -> None:
    """Make ``texts`` hold what these layers have, and nothing else. Raises CatalogError."""
    for layer in texts.keys() - wanted:
        del texts[layer]
    missing = sorted(wanted - texts.keys())
    for start in range(0, len(missing), CHUNK):
        part = layers.c.number.in_(missing[start : start + CHUNK])
        rows = connection.execute(select(layers.c.number, layers.c.digest, layers.c.content).where(part))
        for number, digest, content in rows:
            try:
                texts[number] = zlib.decompress(content)
            except zlib.error as error:
                raise CatalogError(
                    f"the catalog's file list of layer {digest} is damaged: {error}",
                    hint="Restore the catalog from a backup.",
                ) from error


# --- digests ----------------------------------------------------------------------------------------------

DIGITS = re.compile(r"(?:sha256:)?([0-9a-f]{12,64})")


def find_digest(connection: Connection, digest: str, scope: Scope, now: datetime) -> Findings:
    digits = DIGITS.fullmatch(digest)
    conditions = scope.conditions(connection, now)
    roles: defaultdict[int, set[str]] = defaultdict(set)

    def begins(column: Column[str]) -> ColumnElement[bool]:
        if digits is None:
            return column == digest
        # No digit of a digest comes after f: a range, which an index answers, on either database.
        return and_(column >= f"sha256:{digits[1]}", column < f"sha256:{digits[1]}g")

    linked = images.join(image_builds, image_builds.c.image == images.c.number)
    place = (images.c.number, image_builds.c.target, image_builds.c.arch)
    of_build = select(*place).select_from(linked.join(builds)).where(begins(builds.c.digest), *conditions)
    for image, target, arch in connection.execute(of_build):
        roles[image].add(f"build for {target}/{arch}")
    held = linked.join(artifacts, artifacts.c.build == image_builds.c.build)
    of_artifact = select(*place, artifacts.c.kind, artifacts.c.store).select_from(held)
    for image, target, arch, kind, store in connection.execute(
        of_artifact.where(begins(artifacts.c.id), *conditions)
    ):
        roles[image].add(f"artifact ({kind}) for {target}/{arch} in {store}")
    stacked = linked.join(build_layers, build_layers.c.build == image_builds.c.build).join(layers)
    of_layer = select(*place).select_from(stacked).where(begins(layers.c.digest), *conditions)
    for image, target, arch in connection.execute(of_layer):
        roles[image].add(f"layer for {target}/{arch}")
    if not roles and digits is not None:
        return find_files(connection, ByContent(digits[1]), scope, now)
    newest = sorted(roles, reverse=True)[: scope.limit]
    described = _describe(connection, newest, now)
    listed = tuple(replace(described[number], roles=tuple(sorted(roles[number]))) for number in newest)
    return Findings(images=listed, total=len(roles), exact=True)


# --- who uses it --------------------------------------------------------------------------------------------


def _list_held(connection: Connection, now: datetime) -> list[int]:
    """Numbers of the images that a channel or a lease holds."""
    held = set(connection.execute(select(leases.c.image).where(holds(now))).scalars())
    pairs = sorted(find_channel_names(connection, set(list_recipes(connection))))
    key = tuple_(images.c.recipe, images.c.version)
    for start in range(0, len(pairs), CHUNK):
        part = key.in_(pairs[start : start + CHUNK])
        held.update(connection.execute(select(images.c.number).where(part)).scalars())
    return sorted(held)


def _describe(connection: Connection, numbers: Sequence[int], now: datetime) -> dict[int, Found]:
    """Images by their number, with who holds them."""
    owners: defaultdict[int, list[str]] = defaultdict(list)
    rows: list[Any] = []
    for start in range(0, len(numbers), CHUNK):
        part = numbers[start : start + CHUNK]
        columns = (images.c.number, images.c.recipe, images.c.version, images.c.created)
        chosen = select(*columns, status_now.label("status")).where(images.c.number.in_(part))
        rows += connection.execute(chosen).all()
        leased = select(leases.c.image, leases.c.owner).where(leases.c.image.in_(part), holds(now))
        for image, owner in connection.execute(leased):
            owners[image].append(owner)
    names = find_channel_names(connection, {row.recipe for row in rows})
    return {
        row.number: Found(
            recipe=row.recipe,
            version=row.version,
            status=ImageStatus(row.status),
            created=row.created,
            channels=tuple(sorted(names.get((row.recipe, row.version), ()))),
            leases=tuple(sorted(owners[row.number])),
        )
        for row in rows
    }
