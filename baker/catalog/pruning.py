"""Deleting images: what says that they are in use, marking them, and removing what only they consist of.

An image is marked as deleted first, in the transaction that looks for its users; its artifacts go then, its
rows last. What is marked and still linked to builds is *pending*: any later run goes on from there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, bindparam, delete, exists, insert, select, update

from baker.catalog.calls import Calls
from baker.catalog.database import DatabaseNow, lock_table
from baker.catalog.evidence import claim_builds, load_evidence
from baker.catalog.reading import make_artifact
from baker.catalog.schema import (
    artifacts,
    build_layers,
    build_packages,
    builds,
    image_builds,
    image_events,
    images,
    layers,
    package_states,
    recipes,
)
from baker.model import Artifact, ImageStatus

if TYPE_CHECKING:
    from baker.retention import Evidence, Key

CHUNK = 10_000
"""Values in one statement; SQLite takes 32,766."""

DELETED = "deleted"
"""The event of an image; see ``image_events``."""

T = TypeVar("T")

_holders, _holding = images.alias(), image_builds.alias()
_is_held = exists().where(
    _holding.c.build == builds.c.number,
    _holding.c.image == _holders.c.number,
    _holders.c.status != ImageStatus.DELETED,
)
"""On the table ``builds``: an image that is not deleted holds it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingDeletion:
    """An image that is marked as deleted, and the artifacts of its builds that no other image holds."""

    recipe: str
    version: int
    artifacts: tuple[Artifact, ...]

    @property
    def reference(self) -> str:
        return f"{self.recipe}:{self.version}"


class PruneCalls(Calls):
    def claim_builds(self, bake_id: str, build_ids: Sequence[str]) -> None:
        """A bake is about to work from these builds: they are not pruned before it has ended.

        Raises ConflictError if one of them was deleted meanwhile, CatalogError for a bake that is not there.
        """
        self._write(lambda connection: claim_builds(connection, bake_id, build_ids))

    def use_of_images(self, *, dead_bakes: Collection[str] = ()) -> Evidence:
        """Everything that says which images are in use. ``dead_bakes`` count as ended."""
        return self._read(lambda connection: load_evidence(connection, dead_bakes))

    def exclusive_artifacts(self, doomed: Collection[Key]) -> dict[Key, tuple[Artifact, ...]]:
        """What would be removed with the ``doomed`` images: artifacts that no other image names.

        Without their details.
        """
        return self._read(lambda connection: list_exclusive_artifacts(connection, doomed))

    def mark_deleted(
        self,
        wanted: Mapping[Key, str | None],
        obstacles: Callable[[Evidence, Collection[Key]], Mapping[Key, str]],
        *,
        dead_bakes: Collection[str] = (),
    ) -> dict[Key, str]:
        """Delete images, each for its reason, so that nobody can use them any more; their artifacts remain.

        ``obstacles`` says within the transaction, of the images given to it, which stay and why. Returns
        those that were not marked, with the reason: who came first to promote, lease or bake wins.
        """
        return self._write(
            lambda connection: mark_deleted(
                connection, wanted, obstacles, actor=self.actor, now=self._clock(), dead_bakes=dead_bakes
            )
        )

    def pending_deletions(self) -> list[PendingDeletion]:
        """Oldest first."""
        return self._read(list_pending)

    def needs_artifact(self, artifact: Artifact) -> bool:
        """Whether an image that is not deleted names it."""
        return self._read(lambda connection: is_artifact_needed(connection, artifact))

    def finish_deletion(self, recipe: str, version: int, gone: Collection[Artifact]) -> bool:
        """Forget what is ``gone``, and then the builds that nothing is left of. Idempotent.

        Returns whether the image is done with: all that stays of it is its row and its events.
        """
        return self._write(lambda connection: finish_deletion(connection, recipe, version, gone))


def split(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many at a time as one statement takes."""
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))


# --- marking ----------------------------------------------------------------------------------------


def mark_deleted(
    connection: Connection,
    wanted: Mapping[Key, str | None],
    obstacles: Callable[[Evidence, Collection[Key]], Mapping[Key, str]],
    *,
    actor: str,
    now: datetime,
    dead_bakes: Collection[str],
) -> dict[Key, str]:
    """See ``PruneCalls.mark_deleted``."""
    names = sorted({recipe for recipe, _ in wanted})
    for some in split(names):  # nobody registers a build of theirs again meanwhile
        locked = select(recipes.c.name).where(recipes.c.name.in_(some)).order_by(recipes.c.name)
        connection.execute(locked.with_for_update())
    there = {(row.recipe, row.version): row for row in _find_images(connection, wanted)}
    numbers = [row.number for row in there.values() if row.status != ImageStatus.DELETED]
    free = _lock_images(connection, numbers)
    staying = {
        key: "it is deleted already"
        if row.status == ImageStatus.DELETED
        else "somebody else is changing it right now"
        for key, row in there.items()
        if row.number not in free
    }
    doomed = {key for key, row in there.items() if row.number in free}
    staying |= obstacles(load_evidence(connection, dead_bakes), doomed)
    rows = [
        {"key_number": there[key].number, "reason": wanted[key]} for key in sorted(doomed - staying.keys())
    ]
    if rows:
        marked = update(images).where(images.c.number == bindparam("key_number"))
        values = {"status": ImageStatus.DELETED, "status_actor": actor, "status_at": now}
        connection.execute(marked.values(status_reason=bindparam("reason"), **values), rows)
        events = [{"image": row["key_number"], "reason": row["reason"]} for row in rows]
        same = {"event": DELETED, "actor": actor, "at": DatabaseNow()}
        connection.execute(insert(image_events).values(same), events)
    return staying


def _find_images(connection: Connection, wanted: Collection[Key]) -> Iterator[Any]:
    columns = select(images.c.number, images.c.recipe, images.c.version, images.c.status)
    versions: defaultdict[str, list[int]] = defaultdict(list)
    for recipe, version in wanted:
        versions[recipe].append(version)
    for recipe, some in versions.items():
        for chunk in split(some):
            chosen = columns.where(images.c.recipe == recipe, images.c.version.in_(chunk))
            yield from connection.execute(chosen)


def _lock_images(connection: Connection, numbers: Iterable[int]) -> set[int]:
    """Those that nobody else is changing at this moment, as they stay until the transaction ends.

    Never waits for one: whoever holds it may be waiting for us.
    """
    found: set[int] = set()
    for chunk in split(sorted(numbers)):
        chosen = select(images.c.number).where(
            images.c.number.in_(chunk), images.c.status != ImageStatus.DELETED
        )
        free = chosen.order_by(images.c.number).with_for_update(skip_locked=True)
        found |= set(connection.execute(free).scalars())
    return found


# --- removing ---------------------------------------------------------------------------------------


def list_exclusive_artifacts(
    connection: Connection, doomed: Collection[Key]
) -> dict[Key, tuple[Artifact, ...]]:
    """See ``PruneCalls.exclusive_artifacts``."""
    columns = (artifacts.c.target, artifacts.c.store, artifacts.c.id, artifacts.c.arch, artifacts.c.kind)
    named = (
        select(images.c.recipe, images.c.version, *columns, artifacts.c.size_bytes)
        .select_from(images.join(image_builds).join(builds).join(artifacts))
        .where(images.c.status != ImageStatus.DELETED)
        .order_by(artifacts.c.number)
    )
    found: list[tuple[Key, tuple[str, str, str], Artifact]] = []
    kept: set[tuple[str, str, str]] = set()
    for recipe, version, target, store, id_, arch, kind, size in connection.execute(named) if doomed else ():
        place = (target, store, id_)
        if (recipe, version) in doomed:
            artifact = Artifact(id=id_, target=target, arch=arch, kind=kind, store=store, size_bytes=size)
            found.append(((recipe, version), place, artifact))
        else:
            kept.add(place)
    exclusive: defaultdict[Key, tuple[Artifact, ...]] = defaultdict(tuple)
    for key, place, artifact in found:
        if place not in kept:
            exclusive[key] += (artifact,)
    return dict(exclusive)


def list_pending(connection: Connection) -> list[PendingDeletion]:
    """See ``PruneCalls.pending_deletions``."""
    links = images.join(image_builds).join(builds)
    marked = images.c.status == ImageStatus.DELETED
    found: dict[Key, list[Artifact]] = {}
    linked = select(images.c.recipe, images.c.version).select_from(links).where(marked)
    for recipe, version in connection.execute(linked.order_by(images.c.number)):
        found[recipe, version] = []
    named = select(images.c.recipe, images.c.version, *artifacts.c).select_from(links.join(artifacts))
    for row in connection.execute(named.where(marked, ~_is_held).order_by(artifacts.c.number)):
        found[row.recipe, row.version].append(make_artifact(row))
    return [
        PendingDeletion(recipe=recipe, version=version, artifacts=tuple(mine))
        for (recipe, version), mine in found.items()
    ]


def is_artifact_needed(connection: Connection, artifact: Artifact) -> bool:
    """See ``PruneCalls.needs_artifact``."""
    same = (
        artifacts.c.id == artifact.id,
        artifacts.c.store == artifact.store,
        artifacts.c.target == artifact.target,
    )
    named = select(artifacts.c.number).join(builds).where(*same, _is_held).limit(1)
    return connection.execute(named).first() is not None


def finish_deletion(connection: Connection, recipe: str, version: int, gone: Collection[Artifact]) -> bool:
    """See ``PruneCalls.finish_deletion``."""
    # Whoever registers a build refers to layers that it found there: not while they are removed.
    lock_table(connection, recipes)
    chosen = select(images.c.number).where(images.c.recipe == recipe, images.c.version == version)
    image = connection.execute(chosen.where(images.c.status == ImageStatus.DELETED)).scalar_one()
    done = True
    linked = select(image_builds.c.build, _is_held.label("is_held")).join(builds)
    for build, is_held in connection.execute(linked.where(image_builds.c.image == image)).all():
        if not is_held:
            for artifact in gone:
                mine = (artifacts.c.id == artifact.id, artifacts.c.store == artifact.store)
                connection.execute(delete(artifacts).where(artifacts.c.build == build, *mine))
            if connection.execute(
                select(artifacts.c.number).where(artifacts.c.build == build).limit(1)
            ).first():
                done = False
                continue
        link = (image_builds.c.image == image, image_builds.c.build == build)
        connection.execute(delete(image_builds).where(*link))
        if not is_held:
            _remove_build(connection, build)
    return done


def _remove_build(connection: Connection, build: int) -> None:
    """With the layers that no other one consists of; unless another deleted image still has it."""
    left = select(image_builds.c.image).where(image_builds.c.build == build).limit(1)
    if connection.execute(left).first():
        return
    consists_of = select(build_layers.c.layer).where(build_layers.c.build == build)
    numbers = list(connection.execute(consists_of).scalars())
    for links in (build_packages, build_layers, package_states):
        connection.execute(delete(links).where(links.c.build == build))
    connection.execute(delete(builds).where(builds.c.number == build))
    needed = exists().where(build_layers.c.layer == layers.c.number)
    connection.execute(delete(layers).where(layers.c.number.in_(numbers), ~needed))
