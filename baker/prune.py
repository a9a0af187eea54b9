"""Deleting images that nothing needs: marked in the catalog, then their artifacts, then their rows.

Every step can be the last one of a process that is killed: ``delete_images`` first goes on with what earlier
ones left. An artifact in a store that is not reached from here is left to the next prune where it lies.

What an instance, a launch template or the like uses at a provider is not deleted: that is asked before an
image is marked, and again before its artifacts go. What cannot be asked counts as used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from baker import identity
from baker.catalog import Catalog
from baker.errors import BakerError, ConflictError, Interrupted
from baker.knowledge import LOCAL
from baker.model import Artifact, Image
from baker.providers.protocol import Provider
from baker.retention import Evidence, Key, Retention, Verdict, decide, find_obstacles, recheck
from baker.sweep import is_of_store


@dataclass(frozen=True, kw_only=True, slots=True)
class PrunePlan:
    """What would be deleted and what stays. ``frees`` are the bytes of those that go, where that is known.

    ``elsewhere`` are their artifacts that lie out of reach; ``pending`` are images that were deleted before
    and of which something is left.
    """

    verdicts: tuple[Verdict, ...]
    frees: Mapping[Key, int]
    elsewhere: Mapping[Key, tuple[Artifact, ...]]
    pending: tuple[str, ...]

    @property
    def doomed(self) -> dict[Key, str]:
        return {
            verdict.image.key: f"retention: {verdict.detail}" for verdict in self.verdicts if verdict.goes
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What was deleted now, and what stays after all, with the reason.

    ``finished`` were deleted before and are done with now. ``left`` are artifacts of deleted images in other
    stores, or that a running bake came to as well; ``used`` are those that something at the provider came to
    use meanwhile, with what; ``failed`` could not be removed, with the error.
    """

    deleted: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    finished: tuple[str, ...]
    left: tuple[tuple[str, Artifact], ...]
    failed: tuple[tuple[str, str], ...]
    used: tuple[tuple[str, Artifact, str], ...] = ()


# --- planning ---------------------------------------------------------------------------------------


def plan_prune(
    catalog: Catalog,
    providers: Mapping[str, Provider],
    home: Path,
    retention: Retention,
    *,
    recipes: Collection[str] | None = None,
) -> PrunePlan:
    """Decide on every image (of ``recipes``). Changes nothing.

    Channels that have expired count as taken away: whoever deletes does that first (``collect_expired``).
    Raises BakerError if what uses the images cannot be read.
    """
    evidence = replace(catalog.use_of_images(dead_bakes=find_dead_bakes(catalog, home)), expired={})
    verdicts = tuple(decide(evidence, retention, recipes=recipes))
    used = find_used(catalog, providers, {verdict.image.key for verdict in verdicts if verdict.goes})
    if used:
        verdicts = tuple(decide(replace(evidence, used=used), retention, recipes=recipes))
    frees, elsewhere = measure(
        catalog, providers, [verdict.image.key for verdict in verdicts if verdict.goes]
    )
    pending = tuple(deletion.reference for deletion in catalog.pending_deletions())
    return PrunePlan(verdicts=verdicts, frees=frees, elsewhere=elsewhere, pending=pending)


def find_dead_bakes(catalog: Catalog, home: Path) -> set[str]:
    """Bakes that have not ended and whose process is gone. Those of other stores count as alive."""
    return {
        record.id
        for record in catalog.bakes(running_only=True)
        if is_of_store(record, home) and not identity.is_alive(home, record.id)
    }


def measure(
    catalog: Catalog, providers: Mapping[str, Provider], doomed: Sequence[Key]
) -> tuple[dict[Key, int], dict[Key, tuple[Artifact, ...]]]:
    """Bytes that deleting the images frees, and their artifacts that lie out of reach.

    What several of them share counts for the one that comes last.
    """
    artifacts = catalog.exclusive_artifacts(set(doomed))
    frees = dict.fromkeys(doomed, 0)
    elsewhere: defaultdict[Key, tuple[Artifact, ...]] = defaultdict(tuple)
    here: defaultdict[str, list[tuple[Key, Artifact]]] = defaultdict(list)
    for key in doomed:
        for artifact in artifacts.get(key, ()):
            if is_reached(providers, artifact):
                here[artifact.target].append((key, artifact))
            else:
                elsewhere[key] += (artifact,)
    for target, mine in here.items():
        sizes = providers[target].measure(*(artifact for _, artifact in mine))
        for (key, _), size in zip(mine, sizes, strict=True):
            frees[key] += size
    return frees, dict(elsewhere)


def find_used(
    catalog: Catalog, providers: Mapping[str, Provider], doomed: Collection[Key]
) -> dict[Key, list[str]]:
    """What uses the artifacts that would go with these images; also why that cannot be asked."""
    artifacts = catalog.exclusive_artifacts(doomed) if doomed else {}
    every = [artifact for mine in artifacts.values() for artifact in mine]
    users = ask_for_users(providers, every)
    found: defaultdict[Key, list[str]] = defaultdict(list)
    for key, mine in artifacts.items():
        for user in dict.fromkeys(users[artifact.id] for artifact in mine if artifact.id in users):
            found[key].append(user)
    return dict(found)


def ask_for_users(providers: Mapping[str, Provider], artifacts: Sequence[Artifact]) -> dict[str, str]:
    """Of these artifacts' ids, those that something uses or that cannot be asked for, and what is known."""
    users: dict[str, str] = {}
    here: defaultdict[str, list[Artifact]] = defaultdict(list)
    for artifact in artifacts:
        if artifact.target in providers:
            here[artifact.target].append(artifact)
        elif artifact.target != LOCAL:
            users[artifact.id] = f"{artifact.target} is not configured here, so its use cannot be asked"
    for target, mine in here.items():
        try:
            users |= providers[target].in_use(
                *(artifact for artifact in mine if is_reached(providers, artifact))
            )
        except Interrupted:
            raise
        except BakerError as error:
            users |= {artifact.id: f"its use cannot be asked: {error}" for artifact in mine}
    return users


def is_reached(providers: Mapping[str, Provider], artifact: Artifact) -> bool:
    return artifact.target in providers and providers[artifact.target].reaches(artifact)


def require_unneeded(
    catalog: Catalog, providers: Mapping[str, Provider], home: Path, retention: Retention, image: Image
) -> None:
    """Raises ConflictError with everything that needs the image; no rule of number, age or label counts."""
    key = (image.recipe, image.version)
    evidence = catalog.use_of_images(dead_bakes=find_dead_bakes(catalog, home))
    evidence = replace(evidence, used=find_used(catalog, providers, {key}))
    reasons = find_obstacles(evidence, retention, {key}).get(key, ())
    if reasons:
        raise explain_need(image.reference, "; ".join(reason.detail for reason in reasons))


def explain_need(reference: str, reasons: str) -> ConflictError:
    return ConflictError(
        f"{reference} is needed: {reasons}",
        hint="Nothing was deleted. First move the channel, end the lease, or delete what is built upon it; "
        "revoke what is latest.",
    )


# --- deleting ---------------------------------------------------------------------------------------


def delete_images(
    catalog: Catalog,
    providers: Mapping[str, Provider],
    home: Path,
    wanted: Mapping[Key, str | None],
    retention: Retention,
    *,
    by_rules: bool,
) -> Pruned:
    """Delete images, each for its reason, unless somebody came to need one meanwhile; and finish deletions.

    ``by_rules``: the rules of ``retention`` are asked again, not only what needs the images. Raises
    BakerError before anything is deleted if what uses them cannot be read, or artifacts not be removed.
    """
    exclusive = catalog.exclusive_artifacts(wanted.keys())
    earlier = [artifact for deletion in catalog.pending_deletions() for artifact in deletion.artifacts]
    concerned = [*earlier, *(artifact for artifacts in exclusive.values() for artifact in artifacts)]
    for target in {artifact.target for artifact in concerned if is_reached(providers, artifact)}:
        providers[target].check()

    used = find_used(catalog, providers, wanted.keys())

    def stay(evidence: Evidence, doomed: Collection[Key]) -> dict[Key, str]:
        return recheck(replace(evidence, used=used), retention, doomed, by_rules=by_rules)

    dead = find_dead_bakes(catalog, home)
    skipped = catalog.mark_deleted(wanted, stay, dead_bakes=dead) if wanted else {}
    deleted = [show_key(key) for key in wanted if key not in skipped]
    finished, left, failed, busy = finish_deletions(catalog, providers, home)
    return Pruned(
        deleted=tuple(deleted),
        skipped=tuple((show_key(key), why) for key, why in sorted(skipped.items())),
        finished=tuple(reference for reference in finished if reference not in deleted),
        left=tuple(left),
        failed=tuple(failed),
        used=tuple(busy),
    )


def show_key(key: Key) -> str:
    return f"{key[0]}:{key[1]}"


def finish_deletions(
    catalog: Catalog, providers: Mapping[str, Provider], home: Path
) -> tuple[list[str], list[tuple[str, Artifact]], list[tuple[str, str]], list[tuple[str, Artifact, str]]]:
    """Remove what is left of deleted images: artifacts first, then what the catalog knows of them.

    Returns the images that are done with, the artifacts that stay for now, what failed, and the artifacts
    that are used.
    """
    deletions = catalog.pending_deletions()
    reached: defaultdict[str, list[Artifact]] = defaultdict(list)
    every = [artifact for deletion in deletions for artifact in deletion.artifacts]
    users = ask_for_users(providers, [artifact for artifact in every if is_reached(providers, artifact)])
    for artifact in every:
        if artifact.id not in users and is_reached(providers, artifact):
            reached[artifact.target].append(artifact)
    busy: list[Artifact] = []

    def is_needed(artifact: Artifact, bakes: Sequence[str]) -> bool:
        # In this order: a bake that ends in between has registered what it came to.
        if any(identity.is_alive(home, bake_id) for bake_id in bakes):
            busy.append(artifact)
            return True
        return catalog.needs_artifact(artifact)

    errors: dict[str, str] = {}
    for target, artifacts in reached.items():
        try:
            providers[target].delete(*artifacts, is_needed=is_needed)
        except Interrupted:
            raise
        except (BakerError, OSError) as error:
            errors[target] = str(error)
    finished, left, failed, used = [], [], [], []
    for deletion in deletions:
        gone = []
        for artifact in deletion.artifacts:
            if artifact.id in users:
                used.append((deletion.reference, artifact, users[artifact.id]))
            elif artifact.target in errors and is_reached(providers, artifact):
                failed.append((deletion.reference, errors[artifact.target]))
            elif artifact in busy or not is_reached(providers, artifact):
                left.append((deletion.reference, artifact))
            else:
                gone.append(artifact)
        if catalog.finish_deletion(deletion.recipe, deletion.version, gone):
            finished.append(deletion.reference)
    return finished, left, failed, used
