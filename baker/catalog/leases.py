"""Leases: who needs which image. Each function takes a connection; what changes takes one that writes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, insert, or_, select, update

from baker import identity
from baker.catalog.ancestry import WITHDRAWN
from baker.catalog.calls import Calls
from baker.catalog.life import lock_image
from baker.catalog.schema import images, leases, releases
from baker.deploy.release import ReleaseState
from baker.errors import BadReference, CatalogError, ConflictError, UsageError
from baker.leases import Lease


def holds(now: datetime) -> ColumnElement[bool]:
    """The condition, on the table ``leases``, of those that are neither released nor expired."""
    return and_(leases.c.released.is_(None), or_(leases.c.expires.is_(None), leases.c.expires > now))


def list_leases(connection: Connection, *conditions: ColumnElement[bool]) -> list[Lease]:
    """Newest first."""
    found = select(leases, images.c.recipe, images.c.version).join(images).where(*conditions)
    rows = connection.execute(found.order_by(leases.c.created.desc(), leases.c.id.desc()))
    return [_make_lease(row) for row in rows]


def _make_lease(row: Row[Any]) -> Lease:
    return Lease(
        id=row.id,
        recipe=row.recipe,
        version=row.version,
        owner=row.owner,
        actor=row.actor,
        reason=row.reason,
        created=row.created,
        expires=row.expires,
        released=row.released,
    )


def find_lease(connection: Connection, id_prefix: str) -> Lease:
    """The one lease whose id starts so. Raises BadReference."""
    wanted = leases.c.id.startswith(id_prefix.upper(), autoescape=True)
    found = list_leases(connection, wanted) if id_prefix else []
    if len(found) == 1:
        return found[0]
    hint = "List them: baker lease ls"
    if not found:
        raise BadReference(f"there is no lease {id_prefix}", hint=hint)
    ids = ", ".join(lease.id for lease in found[:4]) + (" and more" if len(found) > 4 else "")
    raise BadReference(f"{id_prefix} is more than one lease: {ids}", hint="Give more of its id.")


class LeaseCalls(Calls):
    def add_lease(
        self,
        recipe: str,
        version: int,
        *,
        owner: str,
        expires: datetime | None = None,
        reason: str | None = None,
    ) -> Lease:
        """Claim an image. Raises BadReference for an unknown version, CatalogError for one that is revoked
        or deleted, UsageError for a lease without owner or that would have expired already."""
        now = self._clock()
        if not owner.strip():
            raise UsageError("a lease needs an owner", hint="Say who needs the image: --owner NAME.")
        if expires is not None and expires <= now:
            raise UsageError(f"a lease that expires {expires:%Y-%m-%d %H:%M} UTC holds nothing any more")

        def change(connection: Connection) -> Lease:
            row = lock_image(connection, recipe, version)
            if row.status in WITHDRAWN:
                raise CatalogError(
                    f"{recipe}:{version} cannot be leased: it is {row.status}",
                    hint=f"List the others: baker image ls {recipe}",
                )
            lease_id = identity.make_bake_id(now=now.timestamp())
            values = {
                "id": lease_id,
                "image": row.number,
                "owner": owner,
                "actor": self.actor,
                "reason": reason,
                "created": now,
                "expires": expires,
            }
            connection.execute(insert(leases).values(values))
            return find_lease(connection, lease_id)

        return self._write(change)

    def leases(self, recipe: str | None = None, *, include_ended: bool = False) -> list[Lease]:
        """Newest first; those that were released or have expired only if they are asked for."""
        conditions = [] if recipe is None else [images.c.recipe == recipe]
        if not include_ended:
            conditions.append(holds(self._clock()))
        return self._read(lambda connection: list_leases(connection, *conditions))

    def release_lease(self, id_prefix: str) -> Lease:
        """End the one lease whose id starts so; one that has ended stays as it is.

        Raises BadReference, and ConflictError for one that a release holds: it ends with the release.
        """
        now = self._clock()

        def change(connection: Connection) -> Lease:
            lease = find_lease(connection, id_prefix)
            held = select(releases.c.environment).where(
                releases.c.lease == lease.id, releases.c.state != ReleaseState.ENDED
            )
            environment = connection.execute(held).scalar()
            if environment is not None:
                raise ConflictError(
                    f"lease {lease.id} is {environment}'s, whose machines run {lease.reference}",
                    hint=f"It ends with them: baker deploy {environment}, or baker env rm {environment}",
                )
            mine = (leases.c.id == lease.id, holds(now))
            connection.execute(update(leases).where(*mine).values(released=now))
            return find_lease(connection, lease.id)

        return self._write(change)
