"""Plans, and what carries them out: parents first, one failure blocking only what is built upon it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from baker.bake import bake, describe_reasons
from baker.kitchen import Kitchen
from baker.model import BakeResult, Outcome, Recipe, Reference
from baker.plan import Action, PlanEntry, make_plan
from baker.progress import BakeEnded
from baker.sweep import sweep_dead_bakes


def plan_bakes(
    recipes: Mapping[str, Recipe], kitchen: Kitchen, *, selected: Sequence[str] | None, force: bool = False
) -> tuple[PlanEntry, ...]:
    """What would be baked, and why. Starts nothing."""
    archs = {name: (provider.arch,) for name, provider in kitchen.providers.items()}
    return make_plan(recipes, kitchen.knowledge, archs=archs, selected=selected, force=force)


def execute_plan(
    recipes: Mapping[str, Recipe], plan: Sequence[PlanEntry], kitchen: Kitchen
) -> list[BakeResult]:
    """Do what the plan says, parents first. One failing bake blocks only what is built upon it.

    Raises Interrupted after the bake that was broken off is cleaned up and reported.
    """
    if any(entry.action is Action.BAKE for entry in plan):
        sweep_dead_bakes(kitchen.catalog, kitchen.providers, kitchen.settings.home)
    results: list[BakeResult] = []
    for entry in plan:
        recipe = recipes[entry.recipe]
        failed = {(result.recipe, result.target) for result in results if result.outcome in FAILURES}
        source = recipe.targets[entry.target].source
        if isinstance(source, Reference) and (source.recipe, entry.target) in failed:
            results.append(report_blocked(entry, f"its parent {source.recipe} was not baked", kitchen))
            continue
        if any(reason.kind == "parent-will-be-baked" for reason in entry.reasons):
            entry = replan(recipes, entry, kitchen)
        if entry.action is Action.BLOCKED:
            results.append(report_blocked(entry, describe_reasons(entry), kitchen))
        elif entry.action is Action.SKIP:
            results.append(report_unchanged(entry, kitchen))
        else:
            carried = [other.build.id for other in plan if is_carried_with(other, entry) and other.build]
            results.append(bake(recipe, entry, carried, kitchen))
        kitchen.interruption.check()
    return results


FAILURES = (Outcome.FAILED, Outcome.BLOCKED)


def is_carried_with(other: PlanEntry, entry: PlanEntry) -> bool:
    """Whether ``other`` is the same recipe on another target whose build goes on into the next version."""
    return other.recipe == entry.recipe and other.target != entry.target and other.action is Action.SKIP


def replan(recipes: Mapping[str, Recipe], entry: PlanEntry, kitchen: Kitchen) -> PlanEntry:
    """Decide again, now that the parent is there: its bake may have come out the same as before."""
    forced = any(reason.kind == "forced" for reason in entry.reasons)
    plan = plan_bakes(recipes, kitchen, selected=[entry.recipe], force=forced)
    return next(found for found in plan if (found.recipe, found.target) == (entry.recipe, entry.target))


def report_blocked(entry: PlanEntry, reason: str, kitchen: Kitchen) -> BakeResult:
    return _report(entry, Outcome.BLOCKED, None, reason, kitchen)


def report_unchanged(entry: PlanEntry, kitchen: Kitchen) -> BakeResult:
    image = kitchen.catalog.resolve(Reference(recipe=entry.recipe))
    return _report(entry, Outcome.UNCHANGED, image.reference, describe_reasons(entry), kitchen)


def _report(
    entry: PlanEntry, outcome: Outcome, image: str | None, reason: str, kitchen: Kitchen
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
    )
    kitchen.show(BakeEnded(result=result))
    return result
