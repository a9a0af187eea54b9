"""Writing down again what artifacts tell of their builds. Takes a connection in a write transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, case, insert, select, update

from baker.catalog.database import insert_ignoring
from baker.catalog.life import write_event
from baker.catalog.references import find_image
from baker.catalog.schema import builds, image_builds, images, recipes
from baker.catalog.writing import insert_build, insert_layers, insert_packages, link_build, list_places
from baker.layer import Layer
from baker.model import Build, Image, ImageStatus, Package

if TYPE_CHECKING:
    from baker.sidecar import Issue

REBUILT = "rebuilt"
"""The event of an image that was restored from what its artifact tells."""


def restore_build(
    connection: Connection,
    build: Build,
    issue: Issue,
    *,
    layers: Sequence[Layer],
    packages: Sequence[Package],
    actor: str,
    now: datetime,
) -> Image | None:
    """See ``Catalog.restore_build``."""
    recipe, version = build.recipe, issue.version
    insert_ignoring(connection, recipes, [{"name": recipe, "last_version": 0}])
    connection.execute(select(recipes).where(recipes.c.name == recipe).with_for_update())
    image = _find_row(connection, recipe, version)
    if image is not None and (held := _find_held(connection, image.number, build)) is not None:
        return find_image(connection, recipe, version) if held == build.id else None
    if image is None:
        image = _insert_image(connection, recipe, issue, actor=actor, now=now)
        write_event(connection, image.number, REBUILT, actor, None)
    number = connection.execute(select(builds.c.number).where(builds.c.id == build.id)).scalar()
    if number is None:
        number = insert_build(connection, build)
        insert_layers(connection, number, layers)
        insert_packages(connection, number, packages)
    link_build(connection, image.number, number, build.target, build.arch, available=True)
    complete = list_places(connection, image.number).issuperset(issue.wanted)
    connection.execute(update(images).where(images.c.number == image.number).values(complete=complete))
    return find_image(connection, recipe, version)


def _find_row(connection: Connection, recipe: str, version: int) -> Row[Any] | None:
    chosen = select(images).where(images.c.recipe == recipe, images.c.version == version)
    return connection.execute(chosen).first()


def _find_held(connection: Connection, image: int, build: Build) -> str | None:
    """The id of the build that an image holds where this one would be."""
    place = (image_builds.c.target == build.target, image_builds.c.arch == build.arch)
    held = select(builds.c.id).join(image_builds).where(image_builds.c.image == image, *place)
    return connection.execute(held).scalar()


def _insert_image(
    connection: Connection, recipe: str, issue: Issue, *, actor: str, now: datetime
) -> Row[Any]:
    last = case((recipes.c.last_version < issue.version, issue.version), else_=recipes.c.last_version)
    connection.execute(update(recipes).where(recipes.c.name == recipe).values(last_version=last))
    values = {
        "recipe": recipe,
        "version": issue.version,
        "complete": False,
        "created": issue.at,
        "status": ImageStatus.AVAILABLE,
        "status_actor": actor,
        "status_at": now,
        "preview": issue.preview,
    }
    return connection.execute(insert(images).values(values).returning(images.c.number)).one()
