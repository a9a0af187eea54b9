"""Removing what dead bakes left behind: found in the ledger, and by name at the providers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from baker import identity
from baker.catalog import Catalog
from baker.errors import BakerError
from baker.log import pack_log
from baker.model import BakeRecord, Build, Image, ImageStatus, Outcome, Resource
from baker.providers.protocol import Provider
from baker.sidecar import format_wanted

BAKE_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """What was removed (or would be), and what could not be, with the reason.

    ``finished`` are images whose bake died between registering and distributing a build of them.
    """

    removed: tuple[Resource, ...]
    failed: tuple[tuple[Resource, str], ...]
    finished: tuple[Image, ...] = ()


def sweep_dead_bakes(
    catalog: Catalog,
    providers: Mapping[str, Provider],
    home: Path,
    *,
    bake_id: str | None = None,
    dry_run: bool = False,
) -> Swept:
    """Remove what no live bake owns. Never raises for one resource: it goes on with the next.

    A named ``bake_id`` is swept even if its machine was kept on purpose; a live one never is.
    """
    dead: list[tuple[str, Resource]] = []
    for entry in catalog.open_entries(bake_id):
        record = catalog.bake(entry.bake_id)
        kept = bake_id is None and identity.is_kept(home, entry.bake_id)
        if is_of_store(record, home) and not kept and not identity.is_alive(home, entry.bake_id):
            dead.append((entry.bake_id, entry.resource))
    known = {(resource.provider, resource.kind, resource.id) for _, resource in dead}
    held = {resource.id for resource in (entry.resource for entry in catalog.open_entries())}
    for provider in providers.values() if bake_id is None else ():
        for resource in provider.leftovers():
            found = BAKE_ID.search(resource.id)
            is_known = (resource.provider, resource.kind, resource.id) in known
            if found and not is_known and resource.id not in held and not identity.is_alive(home, found[0]):
                dead.append((found[0], resource))
    removed, failed, finished = [], [], []
    for owner, resource in dead:
        try:
            if not dry_run:
                remove(catalog, providers[resource.provider], owner, resource)
            removed.append(resource)
        except (BakerError, OSError) as error:
            failed.append((resource, str(error)))
    if not dry_run:
        close_records(catalog, home)
        if bake_id is not None:
            identity.unmark_kept(home, bake_id)
    for image, builds in find_unfinished(catalog, providers, home) if bake_id is None else ():
        try:
            finished.append(image if dry_run else finish_image(catalog, providers, image, builds))
        except (BakerError, OSError) as error:
            resource = Resource(provider=builds[0].target, kind="image", id=image.reference)
            failed.append((resource, str(error)))
    return Swept(removed=tuple(removed), failed=tuple(failed), finished=tuple(finished))


def find_unfinished(
    catalog: Catalog, providers: Mapping[str, Provider], home: Path
) -> list[tuple[Image, tuple[Build, ...]]]:
    """Images with builds that are not distributed, and that no bake still works on.

    Those of other stores are left to whoever bakes there; a build whose artifacts are gone cannot be helped
    where the image is in use without it.
    """
    waiting = catalog.unfinished()
    records = catalog.bakes() if waiting else ()
    here = {record.id for record in records if is_of_store(record, home)}
    busy = {
        record.recipe
        for record in records
        if record.outcome is None and (record.id not in here or identity.is_alive(home, record.id))
    }
    return [
        (image, builds)
        for image, builds in waiting
        if image.recipe not in busy
        and all(build.target in providers and build.id in here for build in builds)
        and (image.status is ImageStatus.REGISTERED or is_held(providers, builds))
    ]


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
        build.id: providers[build.target].distribute(build, image_labels(image, build.id)) for build in builds
    }
    return catalog.make_available(image.recipe, image.version, distributed)


def image_labels(image: Image, bake_id: str) -> dict[str, str]:
    """What an artifact carries of its image."""
    wanted = format_wanted([(build.target, build.arch) for build in image.builds]) if image.complete else ""
    return {"recipe": image.recipe, "version": str(image.version), "bake": bake_id, "wanted": wanted}


def remove(catalog: Catalog, provider: Provider, owner: str, resource: Resource) -> None:
    """Remove one resource; what a build of the catalog consists of is only taken off the ledger."""
    if not (resource.kind == "capture" and catalog.has_build(owner)):
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
