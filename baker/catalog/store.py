"""The catalog, as the rest of the product sees it: frozen values in and out, one transaction per call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Self, TypeVar

from sqlalchemy import Connection, exists, select

from baker import identity
from baker.catalog import bakes, promoting, reading, references, schema, writing
from baker.catalog.database import Database
from baker.layer import Layer
from baker.model import (
    Artifact,
    BakeRecord,
    Build,
    ChannelMove,
    Image,
    ImageStatus,
    LedgerEntry,
    Manifest,
    Outcome,
    Package,
    Reference,
    Resource,
    Stage,
)

T = TypeVar("T")


def read_clock() -> datetime:
    return datetime.now(UTC)


class Catalog:
    """What was baked. ``baker.teardown.Ledger`` is part of it.

    Threads may share one; processes open their own. Every call raises CatalogError when the database is
    locked, full, damaged, read-only or out of reach; then nothing of the call was applied.
    """

    def __init__(
        self, database: Database, *, url: str, actor: str, clock: Callable[[], datetime] = read_clock
    ) -> None:
        self._database = database
        self._clock = clock
        self.url = url
        self.actor = actor

    @classmethod
    def open(
        cls,
        url: str,
        *,
        actor: str,
        read_only: bool = False,
        lock_seconds: float = 30.0,
        clock: Callable[[], datetime] = read_clock,
    ) -> Catalog:
        """Makes the catalog, or brings it up to date, unless ``read_only``.

        ``read_only`` needs no right to write the file or its folder. ``lock_seconds`` is how long a write
        waits for other writers. Raises CatalogError.
        """
        database = Database(url, read_only=read_only, lock_seconds=lock_seconds)
        return cls(database, url=url, actor=actor, clock=clock)

    def close(self) -> None:
        """Idempotent."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def description(self) -> str:
        """Which catalog this is, for people; without a password."""
        return self._database.description

    # --- images -----------------------------------------------------------------------------------

    def recipes(self) -> list[str]:
        """The names of all recipes that were ever registered, sorted."""
        return self._database.read(reading.list_recipes)

    def images(self, recipe: str | None = None) -> list[Image]:
        """Every version in every state, newest first. ``channels`` of an image include ``latest``."""
        conditions = [] if recipe is None else [schema.images.c.recipe == recipe]
        return self._database.read(lambda connection: reading.list_images(connection, *conditions))

    def image(self, recipe: str, version: int) -> Image:
        """Raises BadReference."""
        return self._database.read(lambda connection: references.find_image(connection, recipe, version))

    def resolve(self, reference: Reference, *, allow_unusable: bool = False) -> Image:
        """The image that a reference means; one with nothing behind the name means ``latest``.

        A digest means the newest version that holds a build of it. Raises BadReference for what names
        nothing (with the nearest that exists) or more than one thing, and, unless ``allow_unusable``, for
        an image that is registered, revoked or deleted.
        """
        return self._database.read(
            lambda connection: references.resolve(connection, reference, allow_unusable=allow_unusable)
        )

    def usable_builds(self, recipe: str, target: str, arch: str) -> list[Build]:
        """Distributed builds of images that are available or deprecated, newest first."""
        return self._database.read(
            lambda connection: reading.list_usable_builds(connection, recipe, target, arch)
        )

    def has_build(self, build_id: str) -> bool:
        known = select(exists().where(schema.builds.c.id == build_id))
        return self._database.read(lambda connection: bool(connection.execute(known).scalar()))

    def manifest(self, build_id: str) -> Manifest:
        """Raises CatalogError for a build that is not there."""
        return self._database.read(lambda connection: reading.read_manifest(connection, build_id))

    def packages(self, build_id: str) -> tuple[Package, ...]:
        """Sorted. Raises CatalogError for a build that is not there."""
        return self._database.read(lambda connection: reading.list_packages(connection, build_id))

    def register(
        self,
        *,
        recipe: str,
        build: Build | None,
        layers: Sequence[Layer],
        packages: Sequence[Package],
        carry: Sequence[str],
        wanted: Iterable[tuple[str, str]],
    ) -> Image:
        """Write down a build with all that is in it, and give it a version: all of it or nothing.

        ``layers`` are the whole stack, lowest first. The build joins the newest version if that is
        incomplete, not revoked or deleted, and has none for this target and architecture; else it gets the
        next version. ``carry`` are ids of builds that go along, each where the version has none of its
        place. Without ``build`` the carried ones are issued again, always as a new version. The version is
        complete when every pair of ``wanted`` has a build. A build that is registered already is not
        registered again: its version is returned.

        The image is ``registered``, and not to be used before ``make_available``; one that was joined
        keeps its state. Raises CatalogError for a carried build that is not there or not this recipe's.
        """
        if build is None and not carry:
            raise ValueError("a version needs a build")
        if build is not None and build.recipe != recipe:
            raise ValueError(f"build {build.id} is one of {build.recipe}, not of {recipe}")
        return self._write(
            lambda connection: writing.register(
                connection,
                actor=self.actor,
                now=self._clock(),
                recipe=recipe,
                build=build,
                layers=layers,
                packages=packages,
                carry=carry,
                wanted=wanted,
            )
        )

    def make_available(self, recipe: str, version: int, artifacts: Mapping[str, Sequence[Artifact]]) -> Image:
        """The builds named, by id, are distributed: these are their artifacts, beside those known before.

        A registered image becomes available. It is ``latest`` once all its builds were named here.
        Idempotent. Raises BadReference, ConflictError if it was revoked or deleted meanwhile, and
        CatalogError for a build that is not in this version.
        """
        return self._write(
            lambda connection: writing.make_available(
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
            lambda connection: writing.set_status(
                connection,
                actor=self.actor,
                now=self._clock(),
                recipe=recipe,
                version=version,
                status=status,
                reason=reason,
            )
        )

    # --- channels ---------------------------------------------------------------------------------

    def channel(self, recipe: str, name: str) -> tuple[int, int] | None:
        """The version that a channel holds, and its revision for ``promote``; None if there is none."""
        return self._database.read(lambda connection: reading.find_channel(connection, recipe, name))

    def channels(self, recipe: str | None = None) -> list[ChannelMove]:
        """The newest move of every channel, by recipe and name: what it holds, since when, by whom."""
        return self._database.read(lambda connection: reading.list_channels(connection, recipe))

    def channel_history(self, recipe: str, channel: str) -> list[ChannelMove]:
        """Every move, newest first; empty if there is no such channel."""
        return self._database.read(lambda connection: reading.list_moves(connection, recipe, channel))

    def promote(
        self,
        recipe: str,
        version: int,
        channel: str,
        *,
        reason: str | None = None,
        expected_revision: int | None,
    ) -> ChannelMove:
        """Move a channel, if it is still at the revision that the caller saw (None: there was no channel).

        A channel that holds this version already is not moved: the move that brought it there is returned.
        Raises ConflictError, saying who moved it and to what; UsageError for a name that no channel may
        have; BadReference for an unknown version; CatalogError for one that is not complete and available
        or deprecated.
        """
        return self._write(
            lambda connection: promoting.promote(
                connection,
                actor=self.actor,
                now=self._clock(),
                recipe=recipe,
                version=version,
                channel=channel,
                reason=reason,
                expected_revision=expected_revision,
            )
        )

    # --- bakes ------------------------------------------------------------------------------------

    def start_bake(
        self,
        *,
        id: str,
        recipe: str,
        target: str,
        arch: str,
        log_path: str,
        host: str | None = None,
        pid: int | None = None,
    ) -> BakeRecord:
        """A bake of this process begins. Raises ConflictError for an id that is taken."""
        record = BakeRecord(
            id=id,
            recipe=recipe,
            target=target,
            arch=arch,
            actor=self.actor,
            host=identity.host_name() if host is None else host,
            pid=os.getpid() if pid is None else pid,
            started=self._clock(),
            finished=None,
            outcome=None,
            image=None,
            error=None,
            stages=(),
            log_path=log_path,
        )
        self._database.write(lambda connection: bakes.start_bake(connection, record))
        return record

    def begin_stage(self, bake_id: str, stage: Stage) -> None:
        self._database.write(lambda connection: bakes.begin_stage(connection, bake_id, stage, self._clock()))

    def end_stage(self, bake_id: str, stage: Stage, outcome: str, seconds: float) -> None:
        self._database.write(lambda connection: bakes.end_stage(connection, bake_id, stage, outcome, seconds))

    def finish_bake(self, bake_id: str, outcome: Outcome, image: str | None, error: str | None) -> None:
        self._database.write(
            lambda connection: bakes.finish_bake(connection, bake_id, outcome, image, error, self._clock())
        )

    def bake(self, id_prefix: str) -> BakeRecord:
        """The one bake whose id starts so. Raises BadReference."""
        return self._database.read(lambda connection: bakes.find_bake(connection, id_prefix))

    def bakes(self, limit: int | None = None, running_only: bool = False) -> list[BakeRecord]:
        """Newest first. One whose process died still counts as running until it is finished."""
        return self._database.read(
            lambda connection: bakes.list_bakes(connection, limit, running_only=running_only)
        )

    # --- the ledger -------------------------------------------------------------------------------

    def intend(self, bake_id: str, resource: Resource) -> None:
        self._write_entry(bake_id, resource, bakes.INTENDED)

    def exists(self, bake_id: str, resource: Resource) -> None:
        self._write_entry(bake_id, resource, bakes.EXISTS)

    def removed(self, bake_id: str, resource: Resource) -> None:
        self._write_entry(bake_id, resource, bakes.REMOVED)

    def open_entries(self, bake_id: str | None = None) -> Sequence[LedgerEntry]:
        """Oldest first."""
        return self._database.read(lambda connection: bakes.list_open_entries(connection, bake_id))

    def _write_entry(self, bake_id: str, resource: Resource, state: str) -> None:
        self._write(lambda connection: bakes.write_entry(connection, bake_id, resource, state, self._clock()))

    def _write(self, change: Callable[[Connection], T]) -> T:
        """For what the outside world may know of: it must survive a power cut."""
        return self._database.write(change, durable=True)
