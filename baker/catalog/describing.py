"""Which catalog this is and how much is in it; and bringing its schema up to date."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, Table, func, select

from baker.catalog.database import Database, read_revision, require_known
from baker.catalog.engines import describe_engine, measure_bytes
from baker.catalog.leases import holds
from baker.catalog.schema import REVISION, bakes, builds, channels, images, layers, leases, packages, recipes

COUNTED: Mapping[str, Table] = {
    "recipes": recipes,
    "builds": builds,
    "packages": packages,
    "layers": layers,
    "channels": channels,
    "bakes": bakes,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """How much is in a catalog. ``images`` counts by state; ``leases`` are those that hold."""

    images: Mapping[str, int]
    counts: Mapping[str, int]
    leases: int
    oldest: datetime | None
    newest: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogInfo:
    """``schema`` is None where nothing was made yet; ``contents`` where the schema is not ours."""

    description: str
    engine: str
    schema: str | None
    size_bytes: int
    contents: Contents | None


def describe_catalog(url: str) -> CatalogInfo:
    """Reads only, whatever schema there is. Raises CatalogError."""
    database = Database(url, read_only=True, any_schema=True)
    try:
        return database.read(_describe(database.description))
    finally:
        database.close()


def _describe(description: str) -> Callable[[Connection], CatalogInfo]:
    def query(connection: Connection) -> CatalogInfo:
        revision = read_revision(connection)
        return CatalogInfo(
            description=description,
            engine=describe_engine(connection),
            schema=revision,
            size_bytes=measure_bytes(connection),
            contents=_count(connection) if revision == REVISION else None,
        )

    return query


def _count(connection: Connection) -> Contents:
    states = (
        select(images.c.status, func.count().label("total"))
        .group_by(images.c.status)
        .order_by(images.c.status)
    )
    span = connection.execute(select(func.min(images.c.created), func.max(images.c.created))).one()
    held = select(func.count()).select_from(leases).where(holds(datetime.now(UTC)))
    return Contents(
        images={row.status: row.total for row in connection.execute(states)},
        counts={
            name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in COUNTED.items()
        },
        leases=connection.execute(held).scalar_one(),
        oldest=span[0],
        newest=span[1],
    )


def read_schema(url: str) -> str | None:
    """The schema that is there; None in an empty database. Raises CatalogError for one newer than ours."""
    database = Database(url, read_only=True, any_schema=True)
    try:
        found = database.read(read_revision)
        require_known(found, database.description)
        return found
    finally:
        database.close()


def migrate_catalog(url: str) -> None:
    """Make the catalog, or bring its schema up to date. Raises CatalogError."""
    Database(url).close()
