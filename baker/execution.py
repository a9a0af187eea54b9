"""Plans, and what carries them out: parents first, one failure blocking only what is built upon it."""

from __future__ import annotations

import functools
import hashlib
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace

from baker import identity
from baker.bake import bake
from baker.catalog import Catalog
from baker.digest_cache import remembering_digests
from baker.errors import BadReference, BakerError, CatalogError, ConflictError, Interrupted
from baker.kitchen import Kitchen
from baker.knowledge import resolve_parent
from baker.life import list_warnings
from baker.model import BakeRecord, BakeResult, Outcome, Recipe, Reference
from baker.plan import (
    Action,
    ArchsOf,
    IsForced,
    Node,
    PlanEntry,
    describe_reasons,
    followed_parent,
    make_plan,
)
from baker.progress import BakeEnded, Note
from baker.sweep import sweep_dead_bakes

FAILURES = (Outcome.FAILED, Outcome.BLOCKED)
WORK = (Action.BAKE, Action.VERIFY)
WAIT_SECONDS = 0.1

Ended = queue.SimpleQueue[tuple[Node, BakeResult | BaseException]]
"""What the threads of bakes tell the one that started them."""


def plan_bakes(
    recipes: Mapping[str, Recipe],
    kitchen: Kitchen,
    *,
    selected: Sequence[str] | None,
    force: bool | IsForced = False,
) -> tuple[PlanEntry, ...]:
    """What would be baked for the kitchen's targets, and why. Starts nothing."""
    knowledge = kitchen.knowledge.foreseeing(recipes if selected is None else selected)
    archs, project = archs_here(kitchen), kitchen.settings.project
    with remembering_digests(kitchen.settings.home, project) if project else nullcontext():
        return make_plan(recipes, knowledge, archs=archs, selected=selected, force=force)


def archs_here(kitchen: Kitchen) -> ArchsOf:
    """What recipes are baked for in a kitchen."""
    knowledge, targets = kitchen.knowledge, kitchen.targets

    def find_archs(recipe: Recipe, target: str) -> Sequence[str]:
        return knowledge.archs(recipe, target) if targets is None or target in targets else ()

    return find_archs


def plan_carried(
    recipes: Mapping[str, Recipe], plan: Sequence[PlanEntry], kitchen: Kitchen
) -> tuple[PlanEntry, ...]:
    """What is known of the targets that were not asked for, of every recipe that is baked.

    Their builds go on into the next versions where they are up to date. What cannot be told from here
    (a right, a credential is missing) is not carried over, and stops nothing.
    """
    names = sorted({entry.recipe for entry in plan if entry.action is Action.BAKE})
    if kitchen.targets is None or not names:
        return ()
    others = frozenset(kitchen.providers) - frozenset(kitchen.targets)
    found: list[PlanEntry] = []
    for target in sorted(others):
        with suppress(BakerError, OSError):
            found += plan_bakes(recipes, replace(kitchen, targets={target}), selected=names)
    return tuple(found)


def list_source_warnings(
    recipes: Mapping[str, Recipe], plan: Sequence[PlanEntry], catalog: Catalog
) -> list[str]:
    """What there is to know of the images that planned recipes are pinned to."""
    warnings: dict[str, None] = {}
    for entry in plan:
        source = recipes[entry.recipe].targets[entry.target].source
        if isinstance(source, Reference) and followed_parent(source) is None:
            with suppress(BadReference):  # then it is blocked, and says why
                for warning in list_warnings(resolve_parent(catalog, source)):
                    warnings[f"{entry.recipe} starts from {source}: {warning}"] = None
    return list(warnings)


def execute_plan(
    recipes: Mapping[str, Recipe],
    plan: Sequence[PlanEntry],
    kitchen: Kitchen,
    *,
    jobs: int = 1,
    wait: bool = True,
) -> list[BakeResult]:
    """Do what the plan says, at most ``jobs`` bakes at once; results are in the plan's order.

    A recipe starts as soon as its parent is done. A failing bake blocks only what is built upon it. What
    another process bakes right now is waited for and then planned again, or has failed unless ``wait``.

    Raises Interrupted after every bake that was broken off is cleaned up and reported.
    """
    if any(entry.action in WORK for entry in plan):
        targets = {entry.target for entry in plan}
        concerned = {name: provider for name, provider in kitchen.providers.items() if name in targets}
        sweep_dead_bakes(kitchen.catalog, concerned, kitchen.settings.home, ask={"local"} & targets)
    with kitchen.interruption.shielded():
        results = _execute_in_threads(recipes, plan, kitchen, jobs=jobs, wait=wait)
        if late := plan_latecomers(recipes, results, kitchen):
            joined = _execute_in_threads(recipes, late, kitchen, jobs=jobs, wait=wait)
            ended = {node_of(result): result for result in joined}
            results = [ended.get(node_of(result), result) for result in results]
    kitchen.interruption.check()
    return results


def _execute_in_threads(
    recipes: Mapping[str, Recipe], plan: Sequence[PlanEntry], kitchen: Kitchen, *, jobs: int, wait: bool
) -> list[BakeResult]:
    """After a fault, or when interrupted, nothing more is started; the fault is raised once all have ended.

    Each bake has a thread of its own, which lives as long as it: the kernel ends a machine together with the
    thread that started it.
    """
    nodes = {node_of(entry): entry for entry in plan}
    others = [*plan, *plan_carried(recipes, plan, kitchen)]
    waiting = dict(nodes)
    threads: dict[Node, threading.Thread] = {}
    ended: Ended = queue.SimpleQueue()
    results: dict[Node, BakeResult] = {}
    fault: BaseException | None = None
    while waiting or threads:
        for node, entry in list(waiting.items()):
            if fault or kitchen.interruption.cancel.is_set():
                break
            parent = parent_of(recipes, entry)
            if parent in nodes and parent not in results:
                continue
            if entry.action not in WORK:
                results[node] = report_planned(entry, kitchen)
            elif parent in results and results[parent].outcome in FAILURES:
                results[node] = report_blocked(entry, f"its parent {parent[0]} was not baked", kitchen)
            elif len(threads) < jobs:
                carried = [
                    other.build.id for other in others if is_carried_with(other, entry) and other.build
                ]
                own = replace(kitchen, interruption=kitchen.interruption.part())
                work = functools.partial(bake_in_turn, recipes, entry, carried, own, wait=wait)
                threads[node] = threading.Thread(target=_tell_end, args=(node, work, ended))
                threads[node].start()
            else:
                continue
            del waiting[node]
        if not threads:
            break
        node, result = ended.get()
        threads.pop(node).join()
        if isinstance(result, BakeResult):
            results[node] = result
        elif not isinstance(result, Interrupted):
            fault = fault or result
    if fault is not None:
        raise fault
    return [results[node] for node in nodes if node in results]


def _tell_end(node: Node, work: Callable[[], BakeResult], ended: Ended) -> None:
    try:
        ended.put((node, work()))
    except BaseException as error:
        ended.put((node, error))


def plan_latecomers(
    recipes: Mapping[str, Recipe], results: Sequence[BakeResult], kitchen: Kitchen
) -> tuple[PlanEntry, ...]:
    """What was expected to be baked, came out unchanged, and is lacking in the version that its sibling for
    another target began."""
    baked = {result.recipe for result in results if result.outcome is Outcome.BAKED}
    unchanged = {node_of(result) for result in results if result.outcome is Outcome.UNCHANGED}
    names = sorted({recipe for recipe, _, _ in unchanged} & baked)
    if not names or kitchen.interruption.cancel.is_set():
        return ()
    plan = plan_bakes(recipes, kitchen, selected=names)
    return tuple(
        entry for entry in plan if entry.action is Action.BAKE and entry.build and node_of(entry) in unchanged
    )


def node_of(entry: PlanEntry | BakeResult) -> Node:
    return entry.recipe, entry.target, entry.arch


def parent_of(recipes: Mapping[str, Recipe], entry: PlanEntry) -> Node | None:
    """What has to be done before; a recipe that is pinned to one image of its parent waits for nothing."""
    parent = followed_parent(recipes[entry.recipe].targets[entry.target].source)
    return (parent, entry.target, entry.arch) if parent else None


def is_carried_with(other: PlanEntry, entry: PlanEntry) -> bool:
    """Whether ``other`` is the same recipe on another target or architecture, whose build goes on into the
    next version."""
    kept = other.action in (Action.SKIP, Action.VERIFY)
    return other.recipe == entry.recipe and node_of(other) != node_of(entry) and kept


# --- one recipe ---------------------------------------------------------------------------------------


def bake_in_turn(
    recipes: Mapping[str, Recipe], entry: PlanEntry, carried: Sequence[str], kitchen: Kitchen, *, wait: bool
) -> BakeResult:
    """Bake when nobody else on this host bakes the same, and if it is due then.

    It is planned again: the bake of its parent, or somebody else's of itself, may have come out the same.
    """
    cancel = kitchen.interruption.cancel
    said = False

    def wait_a_little() -> None:
        nonlocal said
        kitchen.interruption.check()
        holder = find_holder(entry, kitchen)
        if not wait:
            hint = f" Stop it: baker cancel {holder.id}." if holder else ""
            raise ConflictError(
                describe_holder(entry, holder), hint=f"Leave out --no-wait to wait for it.{hint}"
            )
        if holder and not said:
            said = True
            kitchen.show(Note(text=f"{describe_holder(entry, holder)}; waiting for it"))
        cancel.wait(WAIT_SECONDS)

    try:
        with identity.in_turn(kitchen.settings.home, turn_name(entry, kitchen), wait_a_little):
            entry = replan(recipes, entry, kitchen)
            if entry.action not in WORK:
                return report_planned(entry, kitchen)
            kitchen.interruption.check()
            return bake(recipes[entry.recipe], entry, carried, kitchen)
    except Interrupted:
        raise
    except BakerError as error:  # before or after the bake itself, of which its own failures come as results
        return report_failed(entry, error, kitchen)


def turn_name(entry: PlanEntry, kitchen: Kitchen) -> str:
    """Bakes of one recipe into different catalogs do not meet."""
    catalog = hashlib.sha256(kitchen.settings.catalog_url.encode()).hexdigest()[:8]
    return f"{entry.recipe}.{entry.target}.{entry.arch}.{catalog}"


def find_holder(entry: PlanEntry, kitchen: Kitchen) -> BakeRecord | None:
    """The bake on this host whose turn it is; None while it is still planning."""
    home, host = kitchen.settings.home, identity.host_name()
    for record in kitchen.catalog.bakes(running_only=True):
        same = (record.recipe, record.target, record.arch) == node_of(entry)
        if same and record.host == host and identity.is_alive(home, record.id):
            return record
    return None


def describe_holder(entry: PlanEntry, holder: BakeRecord | None) -> str:
    what = f"{entry.recipe} for {entry.target}/{entry.arch}"
    if holder is None:
        return f"another process on this host has just begun to bake {what}"
    return f"{holder.actor} bakes {what} since {holder.started:%H:%M:%S} UTC (bake {holder.id})"


def replan(recipes: Mapping[str, Recipe], entry: PlanEntry, kitchen: Kitchen) -> PlanEntry:
    """Decide again, as things are now."""
    forced = any(reason.kind == "forced" for reason in entry.reasons)
    plan = plan_bakes(recipes, kitchen, selected=[entry.recipe], force=forced)
    return next(found for found in plan if node_of(found) == node_of(entry))


# --- what was not baked -------------------------------------------------------------------------------


def report_planned(entry: PlanEntry, kitchen: Kitchen) -> BakeResult:
    """For an entry that asks for no bake."""
    if entry.action is Action.BLOCKED:
        return report_blocked(entry, describe_reasons(entry), kitchen)
    assert entry.build is not None
    try:
        image = kitchen.catalog.holder(entry.build.id, preview=kitchen.preview)
    except CatalogError as error:
        return report_failed(entry, error, kitchen)
    return _report(entry, Outcome.UNCHANGED, kitchen, image=image.reference, reason=describe_reasons(entry))


def report_blocked(entry: PlanEntry, reason: str, kitchen: Kitchen) -> BakeResult:
    return _report(entry, Outcome.BLOCKED, kitchen, reason=reason)


def report_failed(entry: PlanEntry, error: BakerError, kitchen: Kitchen) -> BakeResult:
    """For a bake that did not begin."""
    told = f"{error}\n{error.hint}" if error.hint else str(error)
    return _report(entry, Outcome.FAILED, kitchen, reason=describe_reasons(entry), error=told)


def _report(
    entry: PlanEntry,
    outcome: Outcome,
    kitchen: Kitchen,
    *,
    reason: str,
    image: str | None = None,
    error: str | None = None,
) -> BakeResult:
    result = BakeResult(
        bake=None,
        recipe=entry.recipe,
        target=entry.target,
        arch=entry.arch,
        outcome=outcome,
        image=image,
        reason=reason,
        seconds=0.0,
        error=error,
    )
    kitchen.show(BakeEnded(result=result))
    return result
