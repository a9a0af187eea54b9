"""The catalog, as the rest of the product sees it: frozen values in and out, one transaction per call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Self

from sqlalchemy import Connection, exists, select

from baker import identity
from baker.catalog import bakes, reading, references, schema, writing
from baker.catalog.calls import Calls, read_clock
from baker.catalog.contents import CompareCalls
from baker.catalog.database import Database
from baker.catalog.environments import EnvironmentCalls
from baker.catalog.expiring import ExpiryCalls
from baker.catalog.family import FamilyCalls
from baker.catalog.finding import FindCalls
from baker.catalog.leases import LeaseCalls
from baker.catalog.life import LifeCalls
from baker.catalog.locks import LockCalls
from baker.catalog.logs import LogCalls
from baker.catalog.moving import MovingCalls
from baker.catalog.package_states import PackageStateCalls
from baker.catalog.planning import PlanningCalls
from baker.catalog.promoting import ChannelCalls
from baker.catalog.pruning import PruneCalls
from baker.catalog.runs import RunCalls
from baker.errors import CatalogError
from baker.layer import Layer
from baker.model import (
    BakeRecord,
    Build,
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


class Catalog(
    FindCalls,
    CompareCalls,
    FamilyCalls,
    LifeCalls,
    ChannelCalls,
    PlanningCalls,
    ExpiryCalls,
    LeaseCalls,
    PruneCalls,
    LogCalls,
    PackageStateCalls,
    RunCalls,
    LockCalls,
    EnvironmentCalls,
    MovingCalls,
    Calls,
):
    """What was baked. ``baker.teardown.Ledger`` is part of it.

    Threads may share one; processes open their own. Every call raises CatalogError when the database is
    locked, full, damaged, read-only or out of reach; then nothing of the call was applied.
    """

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

    def images(
        self, recipe: str | None = None, *, limit: int | None = None, deleted: bool = True
    ) -> list[Image]:
        """Versions in every state (but ``deleted``, if not wanted), newest first, at most ``limit``.

        ``channels`` of an image include ``latest``.
        """
        conditions = [] if recipe is None else [schema.images.c.recipe == recipe]
        if not deleted:
            conditions.append(schema.images.c.status != ImageStatus.DELETED)
        return self._read(lambda connection: reading.list_images(connection, *conditions, limit=limit))

    def newest_image(self, recipe: str, *, preview: str | None = None) -> Image | None:
        """The newest version in whatever state: of the ``preview``, else of the ordinary ones."""
        of_recipe, kind = schema.images.c.recipe == recipe, schema.images.c.preview

        def query(connection: Connection) -> list[Image]:
            own = reading.list_images(connection, of_recipe, kind == preview, limit=1) if preview else []
            return own or reading.list_images(connection, of_recipe, kind.is_(None), limit=1)

        return next(iter(self._read(query)), None)

    def image(self, recipe: str, version: int) -> Image:
        """Raises BadReference."""
        return self._database.read(lambda connection: references.find_image(connection, recipe, version))

    def resolve(
        self,
        reference: Reference,
        *,
        allow_unusable: bool = False,
        place: tuple[str, str] | None = None,
        preview: str | None = None,
    ) -> Image:
        """The image that a reference means; one with nothing behind the name means ``latest``.

        ``latest`` is the newest complete one; with a ``place`` (target, architecture) the newest with a
        distributed build for that, complete or not. An image that was baked for a preview is nobody's
        ``latest`` but for that ``preview``, for which it goes before the ordinary ones.

        A digest means the newest version that holds a build of it. Raises BadReference for what names
        nothing (with the nearest that exists) or more than one thing, and, unless ``allow_unusable``, for
        an image that is registered, revoked or deleted.
        """
        return self._database.read(
            lambda connection: references.resolve(
                connection, reference, allow_unusable=allow_unusable, place=place, preview=preview
            )
        )

    def waiting_version(
        self, recipe: str, target: str, arch: str, *, preview: str | None = None
    ) -> str | None:
        """The reference of the recipe's newest version (of the ``preview``, else the newest ordinary one), if
        a build for this target would join that."""
        return self._database.read(
            lambda connection: writing.find_waiting(connection, recipe, (target, arch), preview)
        )

    def usable_builds(
        self, recipe: str, target: str, arch: str, *, preview: str | None = None
    ) -> list[Build]:
        """Distributed builds of images that are available or deprecated, newest first: those of the
        ``preview``, then those of ordinary images."""
        return self._database.read(
            lambda connection: reading.list_usable_builds(connection, recipe, target, arch, preview)
        )

    def preview_builds(
        self, recipe: str, target: str, arch: str, *, preview: str | None = None
    ) -> list[Build]:
        """The same of the images of (other) previews; what was revoked elsewhere is not among them."""
        return self._database.read(
            lambda connection: reading.list_preview_builds(connection, recipe, target, arch, preview)
        )

    def unfinished(self) -> list[tuple[Image, tuple[Build, ...]]]:
        """Images that are not distributed yet, newest first, each with its builds that have to be.

        One that is registered with all its builds; one in use with a build that joined it.
        """
        return self._database.read(reading.list_unfinished)

    def holder(self, build_id: str, *, preview: str | None = None) -> Image:
        """The newest image in use that holds a build: of the ``preview``, else an ordinary one, else any.

        Raises CatalogError.
        """
        holding = select(schema.image_builds.c.image).join(schema.builds)
        chosen = schema.images.c.number.in_(holding.where(schema.builds.c.id == build_id))
        in_use = schema.images.c.status.in_(reading.USABLE)
        found = self._database.read(lambda connection: reading.list_images(connection, chosen, in_use))
        if not found:
            raise CatalogError(
                f"no image that may be used holds the build {build_id} any more", hint="Try it again."
            )
        return next(
            (image for wanted in (preview, None) for image in found if image.preview == wanted), found[0]
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
        preview: str | None = None,
        package_state: bytes | None = None,
    ) -> Image:
        """Write down a build with all that is in it, and give it a version: all of it or nothing.

        ``layers`` are the whole stack, lowest first. The build joins the newest version if that is
        incomplete, not revoked or deleted, and has none for this target and architecture; else it gets the
        next version. ``carry`` are ids of builds that go along, each where the version has none of its
        place. Without ``build`` the carried ones are issued again, in the version that waits for the place
        of the first one, or else in the next. The version is complete when every pair of ``wanted`` has a
        build. A build that is registered already is not registered again: its version is returned.
        With ``preview`` the version is one for that channel only, and joined by its builds alone.
        ``package_state`` is what apt in the build knew (``baker.package_state.encode_state``).

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
                preview=preview,
                package_state=package_state,
            )
        )

    def record_image_tests(self, build_id: str, image_tests: Mapping[str, str]) -> None:
        """A build passed these image tests (see ``Build``). Raises CatalogError for one that is not there."""
        self._write(lambda connection: writing.record_image_tests(connection, build_id, image_tests))

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
