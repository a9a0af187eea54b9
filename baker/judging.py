"""Whether a build may be used as it is, and if not, why: inputs, package archive, age. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from baker.ages import parse_age
from baker.fingerprint import explain, fingerprint
from baker.model import Build, Reason, Recipe
from baker.package_state import PackageUpdate

if TYPE_CHECKING:
    from baker.plan import Knowledge

UNTOLD = Reason(
    kind="changed", detail="it was restored from an artifact that does not tell what it was made of"
)


SHOWN_UPDATES = 5
"""So many packages are named in words; ``PlanEntry.updates`` has them all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """How the builds there are compare with what is known now.

    ``hit`` is the newest one that may be used as it is; ``changes`` say why that is not the newest one.
    ``updates`` and ``note`` are the newest one's.
    """

    hit: Build | None
    changes: tuple[Reason, ...]
    updates: tuple[PackageUpdate, ...] = ()
    note: str | None = None


def judge(
    recipe: Recipe,
    target: str,
    arch: str,
    knowledge: Knowledge,
    parent: Build | None,
    builds: Iterable[Build],
) -> Judged:
    """Compare every build with what is known now, newest first, until one may be used as it is.

    Where the newest one has the right inputs and is outdated, too old or opaque, an older one is no better;
    nor is one of which nobody can tell whether it is outdated, where that can be told of the newest.
    """
    newest: Judged | None = None
    made: datetime | None = None
    for build in builds:
        inputs = knowledge.current_inputs(recipe, target, arch, parent, build)
        same = fingerprint(inputs) == build.fingerprint
        if newest is not None and (not same or (made is not None and build.created <= made)):
            continue
        changes = _explain_inputs(recipe, build, inputs, parent, knowledge)
        aged = _explain_age(recipe, build, knowledge)
        updates, note = knowledge.package_updates(recipe, target, arch, build)
        outdated = [_explain_updates(updates)] if updates else []
        changes = [*changes, *outdated, *aged]
        if newest is None:
            newest = Judged(
                hit=None if changes else build, changes=tuple(changes), updates=tuple(updates), note=note
            )
            if not changes:
                return newest
            made = build.created if same else None
        elif not changes and (note is None or newest.note is not None):
            return replace(newest, hit=build)
    assert newest is not None
    return newest


def _explain_inputs(
    recipe: Recipe, build: Build, inputs: Mapping[str, str], parent: Build | None, knowledge: Knowledge
) -> list[Reason]:
    """Why a build is not what its inputs would come to now; empty where it is."""
    if fingerprint(inputs) == build.fingerprint:
        opaque = build.provenance.opaque if not recipe.inputs else None
        detail = f"what it depends on cannot be told: {opaque} (declare its inputs to let it be skipped)"
        return [Reason(kind="opaque", detail=detail)] if opaque else []
    if not build.provenance.inputs:
        return [UNTOLD]
    changes = explain(build.provenance.inputs, inputs)
    if parent is not None:
        changes = [
            _name_move(build, parent, knowledge) or change if change.kind == "source-moved" else change
            for change in changes
        ]
    return changes or [Reason(kind="changed", detail="its fingerprint is made up in another way now")]


def _name_move(build: Build, parent: Build, knowledge: Knowledge) -> Reason | None:
    """By which images the source moved, where the catalog still knows the first."""
    old = knowledge.name_build(build.provenance.parent_build) if build.provenance.parent_build else None
    new = knowledge.name_build(parent.id)
    if old is None or new is None or old == new:
        return None
    return Reason(kind="source-moved", detail=f"its source moved from {old} to {new}")


def _explain_age(recipe: Recipe, build: Build, knowledge: Knowledge) -> list[Reason]:
    limit = knowledge.max_age(recipe)
    if limit is None or knowledge.now() - build.created <= timedelta(seconds=parse_age(limit)):
        return []
    detail = f"its build of {build.created:%Y-%m-%d %H:%M} UTC is older than {limit}"
    return [Reason(kind="too-old", detail=detail)]


def _explain_updates(updates: Sequence[PackageUpdate]) -> Reason:
    """Security updates first, a few by name."""
    ordered = sorted(updates, key=lambda update: (not update.security, update.name))
    told = [describe_update(update) for update in ordered[:SHOWN_UPDATES]]
    if len(ordered) > SHOWN_UPDATES:
        told.append(f"{len(ordered) - SHOWN_UPDATES} more")
    packages = "package" if len(ordered) == 1 else f"{len(ordered)} packages"
    return Reason(kind="packages-outdated", detail=f"{packages} outdated: {', '.join(told)}")


def describe_update(update: PackageUpdate) -> str:
    """``openssl 3.0.15 -> 3.0.16 (security)``."""
    moved = f"{update.installed or 'new'} -> {update.candidate or 'gone'}"
    return f"{update.name} {moved}" + (" (security)" if update.security else "")
