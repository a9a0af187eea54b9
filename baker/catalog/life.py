"""What becomes of an image: its states, labels and events. Changes take a connection that writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, insert, select, update

from baker.catalog.ancestry import RESTORED, WITHDRAWN, list_descendants
from baker.catalog.calls import Calls
from baker.catalog.database import DatabaseNow, insert_or_update
from baker.catalog.reading import find_build_number, list_images
from baker.catalog.references import find_image
from baker.catalog.schema import image_builds, image_events, image_labels, images
from baker.catalog.writing import insert_artifacts
from baker.errors import CatalogError, ConflictError, UsageError
from baker.life import ImageEvent
from baker.model import Artifact, Image, ImageStatus

# --- states --------------------------------------------------------------------------------------------


def make_available(
    connection: Connection,
    *,
    actor: str,
    now: datetime,
    recipe: str,
    version: int,
    distributed: Mapping[str, Sequence[Artifact]],
) -> Image:
    """See ``Catalog.make_available``."""
    row = lock_image(connection, recipe, version)
    if row.status in WITHDRAWN:
        raise ConflictError(
            f"{recipe}:{version} was {row.status} meanwhile by {row.status_actor}: {row.status_reason}",
            hint=f"Look: baker image show {recipe}:{version}",
        )
    for build_id, added in distributed.items():
        number = find_build_number(connection, build_id)
        link = (image_builds.c.image == row.number, image_builds.c.build == number)
        marked = connection.execute(update(image_builds).where(*link).values(available=True))
        if marked.rowcount != 1:
            raise CatalogError(f"{recipe}:{version} does not hold the build {build_id}")
        insert_artifacts(connection, number, added)
    if row.status == ImageStatus.REGISTERED:
        write_status(connection, row, ImageStatus.AVAILABLE, None, actor=actor, now=now)
    return find_image(connection, recipe, version)


def set_status(
    connection: Connection,
    *,
    actor: str,
    now: datetime,
    recipe: str,
    version: int,
    status: ImageStatus,
    reason: str | None,
) -> Image:
    """See ``Catalog.set_status``."""
    row = lock_image(connection, recipe, version)
    if row.status == ImageStatus.DELETED and status != ImageStatus.DELETED:
        raise ConflictError(
            f"{recipe}:{version} was deleted by {row.status_actor}: it cannot become {status}",
            hint=f"Bake it anew: baker bake {recipe} --force",
        )
    write_status(connection, row, status, reason, actor=actor, now=now)
    return find_image(connection, recipe, version)


def lock_image(connection: Connection, recipe: str, version: int) -> Row[Any]:
    """The row of an image, which stays as it is until the transaction ends. Raises BadReference."""
    chosen = select(images).where(images.c.recipe == recipe, images.c.version == version)
    row = connection.execute(chosen.with_for_update()).first()
    if row is None:
        find_image(connection, recipe, version)  # raises, and says what there is
        raise ConflictError(f"{recipe}:{version} appeared just now", hint="Try it again.")
    return row


def write_status(
    connection: Connection,
    row: Row[Any],
    status: ImageStatus,
    reason: str | None,
    *,
    actor: str,
    now: datetime,
    deprecated_from: datetime | None = None,
) -> None:
    """Write an image's state, and the event that led to it. ``row`` is the image as it was."""
    values = {
        "status": status,
        "status_reason": reason,
        "status_actor": actor,
        "status_at": now,
        "deprecated_from": deprecated_from,
    }
    connection.execute(update(images).where(images.c.number == row.number).values(values))
    back = status in (ImageStatus.AVAILABLE, ImageStatus.REGISTERED) and row.status != ImageStatus.REGISTERED
    event = RESTORED if back else status.value
    if status != row.status or (reason, deprecated_from) != (row.status_reason, row.deprecated_from):
        said = f"from {deprecated_from:%Y-%m-%d %H:%M} UTC on" if deprecated_from else None
        write_event(connection, row.number, event, actor, ": ".join(filter(None, (said, reason))) or None)


def deprecate(
    connection: Connection,
    recipe: str,
    version: int,
    *,
    actor: str,
    now: datetime,
    message: str | None,
    from_: datetime | None,
) -> Image:
    """See ``LifeCalls.deprecate``."""
    row = lock_image(connection, recipe, version)
    if row.status not in (ImageStatus.AVAILABLE, ImageStatus.DEPRECATED):
        raise CatalogError(
            f"{recipe}:{version} cannot be deprecated: it is {row.status}",
            hint=f"Look: baker image show {recipe}:{version}",
        )
    write_status(
        connection, row, ImageStatus.DEPRECATED, message, actor=actor, now=now, deprecated_from=from_
    )
    return find_image(connection, recipe, version)


def revoke(
    connection: Connection,
    recipe: str,
    version: int,
    *,
    actor: str,
    now: datetime,
    reason: str,
    descendants: bool,
) -> list[Image]:
    """See ``LifeCalls.revoke``."""
    row = lock_image(connection, recipe, version)
    if row.status == ImageStatus.DELETED:
        raise ConflictError(f"{recipe}:{version} was deleted by {row.status_actor}: nobody can use it")
    chosen = [(row, reason)]
    if descendants:
        below = images.c.number.in_(list_descendants(connection, row.number))
        locked = connection.execute(select(images).where(below).order_by(images.c.number).with_for_update())
        chosen += [(below_row, f"built upon {recipe}:{version}: {reason}") for below_row in locked]
    revoked = [(chosen_row, why) for chosen_row, why in chosen if chosen_row.status not in WITHDRAWN]
    for chosen_row, why in revoked:
        write_status(connection, chosen_row, ImageStatus.REVOKED, why, actor=actor, now=now)
    return list_images(connection, images.c.number.in_([chosen_row.number for chosen_row, _ in revoked]))


def restore(connection: Connection, recipe: str, version: int, *, actor: str, now: datetime) -> Image:
    """See ``LifeCalls.restore``."""
    row = lock_image(connection, recipe, version)
    if row.status not in (ImageStatus.REVOKED, ImageStatus.DEPRECATED):
        raise CatalogError(
            f"{recipe}:{version} cannot be restored: it is {row.status}",
            hint="Only what is deprecated or revoked can be.",
        )
    distributed = exists().where(image_builds.c.image == row.number, image_builds.c.available)
    used = connection.execute(select(distributed)).scalar()
    status = ImageStatus.AVAILABLE if used else ImageStatus.REGISTERED
    write_status(connection, row, status, None, actor=actor, now=now)
    return find_image(connection, recipe, version)


# --- labels ---------------------------------------------------------------------------------------------


def label(
    connection: Connection,
    recipe: str,
    version: int,
    *,
    actor: str,
    now: datetime,
    added: Mapping[str, str],
    removed: Iterable[str],
) -> Image:
    """See ``LifeCalls.label``."""
    row = lock_image(connection, recipe, version)
    if row.status == ImageStatus.DELETED:
        raise ConflictError(f"{recipe}:{version} was deleted by {row.status_actor}: it takes no labels")
    before = find_image(connection, recipe, version).labels
    for key in dict.fromkeys(removed):
        if key not in before:
            has = ", ".join(before) or "none"
            raise UsageError(f"{recipe}:{version} has no label {key} (it has: {has})")
        mine = (image_labels.c.image == row.number, image_labels.c.key == key)
        connection.execute(delete(image_labels).where(*mine))
        write_event(connection, row.number, "unlabelled", actor, key)
    changed = {key: value for key, value in added.items() if before.get(key) != value}
    rows = [
        {"image": row.number, "key": key, "value": value, "actor": actor, "at": now}
        for key, value in changed.items()
    ]
    insert_or_update(connection, image_labels, ["image", "key"], rows)
    for key, value in changed.items():
        write_event(connection, row.number, "labelled", actor, f"{key}={value}")
    return find_image(connection, recipe, version)


# --- events ---------------------------------------------------------------------------------------------


def write_event(connection: Connection, image: int, event: str, actor: str, reason: str | None) -> None:
    """By the clock of the database, as the moves of channels are: gates compare the two."""
    values = {"image": image, "event": event, "actor": actor, "reason": reason, "at": DatabaseNow()}
    connection.execute(insert(image_events).values(values))


def list_events(connection: Connection, recipe: str, version: int) -> list[ImageEvent]:
    """Newest first."""
    chosen = select(image_events).join(images).where(images.c.recipe == recipe, images.c.version == version)
    rows = connection.execute(chosen.order_by(image_events.c.number.desc()))
    return [ImageEvent(event=row.event, actor=row.actor, at=row.at, reason=row.reason) for row in rows]


class LifeCalls(Calls):
    def make_available(self, recipe: str, version: int, artifacts: Mapping[str, Sequence[Artifact]]) -> Image:
        """The builds named, by id, are distributed: these are their artifacts, beside those known before.

        A registered image becomes available. It is ``latest`` once all its builds were named here.
        Idempotent. Raises BadReference, ConflictError if it was revoked or deleted meanwhile, and
        CatalogError for a build that is not in this version.
        """
        return self._write(
            lambda connection: make_available(
                connection,
                actor=self.actor,
                now=self._clock(),
                recipe=recipe,
                version=version,
                distributed=artifacts,
            )
        )

    def set_status(self, recipe: str, version: int, status: ImageStatus, reason: str | None = None) -> Image:
        """Raises BadReference, and ConflictError for a deleted image: nothing brings that back."""
        return self._write(
            lambda connection: set_status(
                connection,
                actor=self.actor,
                now=self._clock(),
                recipe=recipe,
                version=version,
                status=status,
                reason=reason,
            )
        )

    def deprecate(
        self, recipe: str, version: int, *, message: str | None = None, from_: datetime | None = None
    ) -> Image:
        """Warn whoever resolves it, at once or ``from_`` some day on, by the clock of the database.

        Raises BadReference, and CatalogError for an image that is not in use.
        """
        return self._write(
            lambda connection: deprecate(
                connection,
                recipe,
                version,
                actor=self.actor,
                now=self._clock(),
                message=message,
                from_=from_,
            )
        )

    def revoke(self, recipe: str, version: int, *, reason: str, descendants: bool = False) -> list[Image]:
        """Refuse an image everywhere from now on, and with ``descendants`` all that is built upon it.

        Returns those that were not revoked before, newest first. What holds them stays as it is. Raises
        BadReference, and ConflictError for a deleted image.
        """
        return self._write(
            lambda connection: revoke(
                connection,
                recipe,
                version,
                actor=self.actor,
                now=self._clock(),
                reason=reason,
                descendants=descendants,
            )
        )

    def restore(self, recipe: str, version: int) -> Image:
        """A deprecated or revoked image is again what it was. Raises BadReference, CatalogError."""
        return self._write(
            lambda connection: restore(connection, recipe, version, actor=self.actor, now=self._clock())
        )

    def descendants(self, recipe: str, version: int) -> list[Image]:
        """What is built upon an image and is not deleted, however far down, newest first.

        Raises BadReference.
        """

        def query(connection: Connection) -> list[Image]:
            chosen = select(images.c.number).where(images.c.recipe == recipe, images.c.version == version)
            number = connection.execute(chosen).scalar()
            if number is None:
                find_image(connection, recipe, version)  # raises
            below = list_descendants(connection, number or 0)
            return list_images(connection, images.c.number.in_(below), images.c.status != ImageStatus.DELETED)

        return self._read(query)

    def label(
        self, recipe: str, version: int, *, added: Mapping[str, str], removed: Iterable[str] = ()
    ) -> Image:
        """Give an image labels, over those of the same key, and take others away.

        Raises BadReference, UsageError for one to be removed that it has not, ConflictError for a deleted
        image.
        """
        return self._write(
            lambda connection: label(
                connection,
                recipe,
                version,
                actor=self.actor,
                now=self._clock(),
                added=added,
                removed=removed,
            )
        )

    def events(self, recipe: str, version: int) -> list[ImageEvent]:
        """What happened to an image, newest first."""
        return self._read(lambda connection: list_events(connection, recipe, version))
