"""Removing what dead bakes left behind: found in the ledger, and by name or tag at the providers.

What has a *place* lies at a provider that other hosts and other catalogs use as well. These are the rules:

- Nothing of a bake is touched while its process runs on this host with this BAKER_HOME.
- A bake that this catalog knows: what it left is removed if it ran with this store. If it ran elsewhere, what
  has a place is removed once the bake has ended; if it still runs there, or what is left was kept there on
  purpose, only past the deadline, by which it ends itself.
- A bake that this catalog does not know (a throwaway machine, a trial, another catalog's bake): what has no
  place is removed, and so is what is marked with this store; all else only past its deadline. Never a
  capture: the other catalog may hold it as an image.
- The capture of a bake that has a build in this catalog is an image, with its copies in other places: it is
  taken off the ledger and stays, until ``image rm`` or ``image prune`` deletes the build.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from baker import identity
from baker.catalog import Catalog
from baker.errors import BadReference, BakerError, Interrupted
from baker.log import pack_log
from baker.model import Artifact, BakeRecord, Build, Image, ImageStatus, Outcome, Resource
from baker.providers.protocol import Provider
from baker.sidecar import format_wanted, label_image
from baker.teardown import MACHINES, Teardown

BAKE_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
CAPTURE = "capture"
"""The kind of a resource that becomes an artifact; all others are temporary."""
KEPT = "kept"
"""In the ledger's details of what was left on purpose, for those who sweep elsewhere."""
ABANDONED = timedelta(days=1)
"""A bake on another host that has not ended after so long does not work on its image any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """What was removed (or would be), and what could not be, with the reason.

    ``finished`` are images whose bake died between registering and distributing a build of them. ``unasked``
    are targets whose provider did not answer, and why.
    """

    removed: tuple[Resource, ...]
    failed: tuple[tuple[Resource, str], ...]
    finished: tuple[Image, ...] = ()
    unasked: tuple[tuple[str, str], ...] = ()


def sweep_dead_bakes(
    catalog: Catalog,
    providers: Mapping[str, Provider],
    home: Path,
    *,
    bake_id: str | None = None,
    dry_run: bool = False,
    ask: Collection[str] | None = None,
    now: datetime | None = None,
) -> Swept:
    """Remove what no live bake owns. Never raises for one resource: it goes on with the next.

    A named ``bake_id`` is swept even if its machine was kept on purpose; a live one never is. Only the
    providers in ``ask`` (None: every one) are asked for what they know of; what is in the ledger at others is
    removed all the same, and what lies at a provider that is not configured is left to who has it.
    """
    judge = Judge(catalog=catalog, home=home, now=now or datetime.now(UTC))
    dead: list[tuple[str, Resource]] = []
    entries = catalog.open_entries(bake_id)
    for entry in entries:
        kept = bake_id is None and identity.is_kept(home, entry.bake_id)
        if entry.resource.provider in providers and not kept and judge.is_dead(entry.bake_id, entry.resource):
            dead.append((entry.bake_id, entry.resource))
    unasked: list[tuple[str, str]] = []
    if bake_id is None:
        held = {key_of(entry.resource) for entry in entries}
        for target, provider in providers.items():
            if ask is not None and target not in ask:
                continue
            try:
                found = find_leftovers(provider, judge, held)
            except Interrupted:
                raise
            except (BakerError, OSError) as error:
                unasked.append((target, str(error)))
            else:
                dead += found
    removed, failed, finished = [], [], []
    for owner, resource in order_removal(dead):
        try:
            if not dry_run:
                remove(catalog, providers[resource.provider], owner, resource)
            removed.append(resource)
        except Interrupted:
            raise
        except (BakerError, OSError) as error:
            failed.append((resource, str(error)))
    if not dry_run:
        close_records(catalog, home)
        if bake_id is not None:
            identity.unmark_kept(home, bake_id)
    for image, builds in find_unfinished(catalog, providers, home) if bake_id is None else ():
        try:
            if image.status is not ImageStatus.REGISTERED and not is_held(providers, builds):
                continue  # it is in use without them
            finished.append(image if dry_run else finish_image(catalog, providers, image, builds))
        except Interrupted:
            raise
        except (BakerError, OSError) as error:
            resource = Resource(provider=builds[0].target, kind="image", id=image.reference)
            failed.append((resource, str(error)))
    return Swept(
        removed=tuple(removed), failed=tuple(failed), finished=tuple(finished), unasked=tuple(unasked)
    )


def order_removal(dead: Sequence[tuple[str, Resource]]) -> list[tuple[str, Resource]]:
    """Machines first, since other things are in use until they are gone; else what was made last first."""
    newest_first = list(reversed(dead))
    newest_first.sort(key=lambda pair: pair[1].kind not in MACHINES)
    return newest_first


def key_of(resource: Resource) -> tuple[str, str, str, str]:
    """What names a resource among all of all providers."""
    return resource.provider, resource.kind, resource.id, resource.place


def find_leftovers(
    provider: Provider, judge: Judge, held: Collection[tuple[str, str, str, str]]
) -> list[tuple[str, Resource]]:
    """What dead bakes left at a provider and no ledger entry (``held``) tells of, each with its bake."""
    found = []
    for resource in provider.leftovers():
        owner = find_owner(resource)
        if owner and key_of(resource) not in held and judge.is_dead(owner, resource, only_there=True):
            found.append((owner, resource))
    return found


def find_owner(resource: Resource) -> str | None:
    """The bake that a provider's resource is of, by its tags or else its name."""
    told = resource.details.get("bake") or resource.id
    found = BAKE_ID.search(str(told))
    return found[0] if found else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """Decides what is left behind; the rules are at the top of this module."""

    catalog: Catalog
    home: Path
    now: datetime
    _records: dict[str, BakeRecord | None] = field(default_factory=dict)

    def is_dead(self, owner: str, resource: Resource, *, only_there: bool = False) -> bool:
        """Whether a resource of a bake may be removed; ``only_there`` it is, and not in the ledger."""
        if identity.is_alive(self.home, owner):
            return False
        if only_there and identity.is_kept(self.home, owner):
            return False
        if only_there and not resource.place:
            return True
        if only_there and resource.kind == CAPTURE and self.catalog.has_build(owner):
            return False
        record = self._find_record(owner)
        if record is None:
            ours = not resource.place or resource.details.get("store") == identity.store_name(self.home)
            return resource.kind != CAPTURE and (ours or self._is_over(resource))
        if is_of_store(record, self.home):
            return True
        ended = record.outcome is not None and not resource.details.get(KEPT)
        return bool(resource.place) and (ended or self._is_over(resource))

    def _find_record(self, owner: str) -> BakeRecord | None:
        if owner not in self._records:
            try:
                self._records[owner] = self.catalog.bake(owner)
            except BadReference:
                self._records[owner] = None
        return self._records[owner]

    def _is_over(self, resource: Resource) -> bool:
        """Whether a resource's deadline has passed. One without a deadline is never over."""
        try:
            deadline = datetime.fromisoformat(str(resource.details["deadline"]))
        except (KeyError, ValueError):
            return False
        return (deadline if deadline.tzinfo else deadline.replace(tzinfo=UTC)) < self.now


def find_unfinished(
    catalog: Catalog, providers: Mapping[str, Provider], home: Path
) -> list[tuple[Image, tuple[Build, ...]]]:
    """Images with builds that are not distributed, and that no bake still works on.

    What is not reached from here is left to whoever bakes there.
    """
    waiting = catalog.unfinished()
    running = catalog.bakes(running_only=True) if waiting else ()
    busy = {record.recipe for record in running if is_at_work(record, home)}
    return [
        (image, builds)
        for image, builds in waiting
        if image.recipe not in busy and is_reached(providers, builds)
    ]


def is_at_work(record: BakeRecord, home: Path) -> bool:
    """Whether a bake that has not ended may still go on."""
    if is_of_store(record, home):
        return identity.is_alive(home, record.id)
    return datetime.now(UTC) - record.started < ABANDONED


def is_reached(providers: Mapping[str, Provider], builds: Sequence[Build]) -> bool:
    """Whether every artifact lies where these providers can do something about it."""
    return all(
        build.target in providers and providers[build.target].reaches(artifact)
        for build in builds
        for artifact in build.artifacts
    )


def is_held(providers: Mapping[str, Provider], builds: Sequence[Build]) -> bool:
    """Whether every artifact is still there."""
    return all(providers[build.target].holds(artifact) for build in builds for artifact in build.artifacts)


def is_of_store(record: BakeRecord, home: Path) -> bool:
    """Whether a bake ran on this host with this BAKER_HOME."""
    return record.host == identity.host_name() and Path(record.log_path).is_relative_to(home)


def finish_image(
    catalog: Catalog, providers: Mapping[str, Provider], image: Image, builds: Sequence[Build]
) -> Image:
    """Distribute its ``builds``, so that it is available; one whose artifacts are gone is deleted."""
    if not is_held(providers, builds):
        reason = "its bake died, and its artifacts are gone"
        return catalog.set_status(image.recipe, image.version, ImageStatus.DELETED, reason)
    distributed = {
        build.id: distribute_build(catalog, providers[build.target], image, build) for build in builds
    }
    return catalog.make_available(image.recipe, image.version, distributed)


def distribute_build(
    catalog: Catalog,
    provider: Provider,
    image: Image,
    build: Build,
    settings: Mapping[str, Any] | None = None,
) -> tuple[Artifact, ...]:
    """Bring a build to its places (see ``Provider.distribute``), when its bake is over.

    What was made of them is removed again if it fails half-way.
    """
    teardown = Teardown(build.id, catalog)
    try:
        return tuple(provider.distribute(build, image_labels(image, build.id), teardown, settings))
    finally:
        teardown.close()


def image_labels(image: Image, bake_id: str) -> dict[str, str]:
    """What an artifact carries of its image."""
    wanted = format_wanted([(build.target, build.arch) for build in image.builds]) if image.complete else ""
    return label_image(image, bake_id, wanted)


def remove(catalog: Catalog, provider: Provider, owner: str, resource: Resource) -> None:
    """Remove one resource; what a build of the catalog consists of is only taken off the ledger."""
    if not (resource.kind == CAPTURE and catalog.has_build(owner)):
        provider.remove(resource)
    if owner:
        catalog.removed(owner, resource)


def close_records(catalog: Catalog, home: Path) -> None:
    """Bakes of this store whose process is gone have failed."""
    for record in catalog.bakes(running_only=True):
        if is_of_store(record, home) and not identity.is_alive(home, record.id):
            with contextlib.suppress(OSError):
                catalog.keep_log(record.id, pack_log(Path(record.log_path)))
            catalog.finish_bake(record.id, Outcome.FAILED, None, "its process died")
            identity.forget_dead(home, record.id)
    for run in catalog.runs(unfinished=True):
        if run.host == identity.host_name() and not identity.is_alive(home, run.id):
            identity.forget_dead(home, run.id)  # the run itself stays as it is: `bake --resume` may go on
