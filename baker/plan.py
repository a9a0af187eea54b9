"""Which recipes need a bake, in what order, and why. Pure: what is known comes in through Knowledge.

A recipe's *parent* here is one that it follows: ``from = "base"`` or ``"base:latest"``. A recipe pinned to
``base:3``, ``base:prod`` or ``base@sha256:…`` does not care whether base is baked.

Parents that were not asked for are planned only where they have no usable build; a stale one that was not
asked for is used as it is. A parent that was asked for (or is missing) goes first, and where it will be
baked, its children are planned as ``parent-will-be-baked``. That is a forecast: the parent's re-bake may
come out the same, so whoever executes the plan compares fingerprints again once the parent is there.

A build whose inputs did not move is baked again all the same where the package archive has moved on, where it
is older than it may be, or where nobody can tell what it depends on.
"""

from __future__ import annotations

import enum
import graphlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from baker.errors import CloudError, RecipeError, SourceError
from baker.fingerprint import TESTS_CHANGED, explain_image_tests
from baker.judging import Judged, judge
from baker.model import LATEST, Build, Reason, Recipe, Reference, Source
from baker.package_state import PackageUpdate

Node = tuple[str, str, str]
"""Recipe, target, architecture."""

IsForced = Callable[[Node], bool]
"""Whether a bake was asked for whatever is known."""

ArchsOf = Callable[[Recipe, str], Sequence[str]]
"""The architectures that a recipe is planned for on one of its targets; none where it is left out."""


class Action(enum.StrEnum):
    BAKE = "bake"
    VERIFY = "verify"
    SKIP = "skip"
    BLOCKED = "blocked"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanEntry:
    """What is to be done for one recipe on one target and architecture.

    ``build`` is the usable build that is hit: on a skip the newest one, as on a verify, which runs the image
    tests on it anew; on a bake an older one that the next version re-issues (reason ``reissue``), so that
    nothing has to be configured. ``updates`` are the packages that a bake would bring up to date; ``note``
    says why that cannot be told, where it cannot.
    """

    recipe: str
    target: str
    arch: str
    action: Action
    reasons: tuple[Reason, ...]
    build: Build | None = None
    updates: tuple[PackageUpdate, ...] = ()
    note: str | None = None

    @property
    def is_stale(self) -> bool:
        """Whether there is something to do, or something in the way."""
        return self.action is not Action.SKIP

    @property
    def verifies(self) -> bool:
        """Whether the image tests are not those that ``build`` passed."""
        return any(reason.kind == TESTS_CHANGED for reason in self.reasons)


def describe_reasons(entry: PlanEntry) -> str:
    return "; ".join(reason.detail for reason in entry.reasons)


def describe_why(entry: PlanEntry) -> str:
    """The reasons, and what could not be told."""
    return describe_reasons(entry) + (f" ({entry.note})" if entry.note else "")


class Knowledge(Protocol):
    """What planning asks of the catalog, the provider and the project."""

    def usable_builds(self, recipe: str, target: str, arch: str) -> Sequence[Build]:
        """Distinct usable builds, newest first; the first one is in the newest available image."""

    def preview_builds(self, recipe: str, target: str, arch: str) -> Sequence[Build]:
        """Those of (other) previews, newest first: one that fits is issued again, and never baked upon."""

    def find_build(self, reference: Reference, target: str, arch: str) -> Build | None:
        """The usable build that a reference means now, if there is one.

        ``latest`` means the newest build for this target, whether or not its version is complete: no target
        waits for another one.
        """

    def waiting_version(self, recipe: str, target: str, arch: str) -> str | None:
        """The reference of the recipe's newest image, if that lacks a build for this target."""

    def explain_no_build(self, reference: Reference, target: str, arch: str) -> str:
        """Why ``find_build`` finds none."""

    def current_inputs(
        self, recipe: Recipe, target: str, arch: str, parent: Build | None, build: Build
    ) -> Mapping[str, str]:
        """What ``build``'s inputs are now: static ones (on top of ``parent``), and its traced ones again.

        Raises SourceError or RecipeError where the source cannot be resolved or a file cannot be read:
        the recipe is blocked then.
        """

    def image_tests(self, recipe: Recipe) -> Mapping[str, str]:
        """What the recipe's image tests are now. Raises RecipeError."""

    def package_updates(
        self, recipe: Recipe, target: str, arch: str, build: Build
    ) -> tuple[Sequence[PackageUpdate], str | None]:
        """The packages that baking the recipe again would change; or none, and why that cannot be told.

        Raises SourceError where the archive cannot be asked.
        """

    def max_age(self, recipe: Recipe) -> str | None:
        """How old a build may become (``30d``), if anybody said so."""

    def now(self) -> datetime:
        """The time that ages are measured by."""

    def explain_revoked(self, recipe: str, target: str, arch: str) -> str | None:
        """Which image, newer than every usable build, was revoked, and why; None where there is none."""

    def name_build(self, build_id: str) -> str | None:
        """The reference of the newest image that holds a build; None where the catalog does not know it."""


def make_plan(
    recipes: Mapping[str, Recipe],
    knowledge: Knowledge,
    *,
    archs: ArchsOf,
    selected: Iterable[str] | None = None,
    force: bool | IsForced = False,
) -> tuple[PlanEntry, ...]:
    """The plan for the selected recipes (all if None) and the parents they lack, parents first.

    ``recipes`` holds the selected ones and their ancestors. ``force`` bakes what was selected (or those of it
    that it says), whatever is known.
    """
    is_forced = force if callable(force) else lambda _node: bool(force)
    asked = set(recipes if selected is None else selected)
    needed = _find_needed(recipes, knowledge, archs, asked)
    planned: dict[Node, PlanEntry] = {}
    for name in _order(recipes):
        for target in recipes[name].targets:
            for arch in archs(recipes[name], target):
                node = name, target, arch
                if node in needed:
                    try:
                        planned[node] = _plan_one(
                            recipes[name], target, arch, knowledge, planned, name in asked and is_forced(node)
                        )
                    except CloudError as error:  # the other targets do not depend on it
                        reason = Reason(kind="blocked", detail=str(error))
                        planned[node] = PlanEntry(
                            recipe=name, target=target, arch=arch, action=Action.BLOCKED, reasons=(reason,)
                        )
    return tuple(planned.values())


def followed_parent(source: Source) -> str | None:
    """The recipe whose newest image is the source; None on a root and on a pinned one."""
    if (
        isinstance(source, Reference)
        and source.channel in (None, LATEST)
        and not source.version
        and not source.digest
    ):
        return source.recipe
    return None


def _order(recipes: Mapping[str, Recipe]) -> list[str]:
    """Parents first, on whatever target; else by name."""
    sorter = graphlib.TopologicalSorter[str]()
    for name, recipe in recipes.items():
        sources = (spec.source for spec in recipe.targets.values())
        parents = {source.recipe for source in sources if isinstance(source, Reference)}
        sorter.add(name, *(parents & recipes.keys()))
    sorter.prepare()
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    return order


def _find_needed(
    recipes: Mapping[str, Recipe], knowledge: Knowledge, archs: ArchsOf, asked: set[str]
) -> set[Node]:
    """What was asked for, and upwards from it every followed parent without a usable build."""
    pending = [
        (name, target, arch)
        for name in asked
        for target in recipes[name].targets
        for arch in archs(recipes[name], target)
    ]
    needed: set[Node] = set()
    while pending:
        node = name, target, arch = pending.pop()
        if node in needed:
            continue
        needed.add(node)
        source = recipes[name].targets[target].source
        parent = followed_parent(source)
        with suppress(CloudError):  # then it is blocked, and says why
            if parent is not None and knowledge.find_build(Reference(recipe=parent), target, arch) is None:
                pending.append((parent, target, arch))
    return needed


def follow_channel(recipes: Mapping[str, Recipe], channel: str) -> dict[str, Recipe]:
    """The recipes, each starting from what its parent's channel holds, where it followed its newest image."""

    def gate(source: Source) -> Source:
        parent = followed_parent(source)
        return Reference(recipe=parent, channel=channel) if parent else source

    return {
        name: replace(
            recipe,
            targets={
                target: replace(spec, source=gate(spec.source)) for target, spec in recipe.targets.items()
            },
        )
        for name, recipe in recipes.items()
    }


# --- one recipe -------------------------------------------------------------------------------------


def _plan_one(
    recipe: Recipe,
    target: str,
    arch: str,
    knowledge: Knowledge,
    planned: Mapping[Node, PlanEntry],
    forced: bool,
) -> PlanEntry:
    judged = Judged(hit=None, changes=())

    def entry(action: Action, reasons: Sequence[Reason], build: Build | None = None) -> PlanEntry:
        return PlanEntry(
            recipe=recipe.name,
            target=target,
            arch=arch,
            action=action,
            reasons=tuple(reasons),
            build=build,
            updates=judged.updates,
            note=judged.note,
        )

    source = recipe.targets[target].source
    parent_name = followed_parent(source)
    upstream = planned.get((parent_name, target, arch)) if parent_name else None
    if upstream and upstream.action is Action.BLOCKED:
        return entry(Action.BLOCKED, [Reason(kind="blocked", detail=f"its parent {parent_name} is blocked")])

    parent = None
    if isinstance(source, Reference):
        reissued = upstream.build if upstream and upstream.action is Action.BAKE else None
        parent = reissued or knowledge.find_build(source, target, arch)
    parent_is_due = upstream is not None and upstream.action is Action.BAKE and upstream.build is None
    if isinstance(source, Reference) and parent is None and not parent_is_due:
        why = knowledge.explain_no_build(source, target, arch)
        detail = f"it starts from {source}, which names no usable {target}/{arch} image: {why}"
        return entry(Action.BLOCKED, [Reason(kind="blocked", detail=detail)])

    reasons = []
    if forced:
        reasons.append(Reason(kind="forced", detail="a bake was asked for whatever is known"))
    if parent_is_due:
        reasons.append(Reason(kind="parent-will-be-baked", detail=f"its parent {parent_name} will be baked"))
    builds = knowledge.usable_builds(recipe.name, target, arch)
    if not builds and not knowledge.preview_builds(recipe.name, target, arch):
        return entry(Action.BAKE, [*reasons, _explain_none(recipe, target, arch, knowledge)])
    if parent_is_due and parent is None:
        return entry(Action.BAKE, reasons)
    try:
        candidates = _list_candidates(recipe, target, arch, knowledge, builds)
        judged = judge(recipe, target, arch, knowledge, parent, candidates)
        hit = judged.hit
        tests = explain_image_tests(hit.image_tests, knowledge.image_tests(recipe)) if hit else []
    except (SourceError, RecipeError) as error:
        return entry(Action.BLOCKED, [Reason(kind="blocked", detail=str(error))])
    changes = judged.changes
    if parent_is_due:  # where the source moves to is not known yet
        changes = tuple(change for change in changes if change.kind != "source-moved")
    if hit is None and not builds:
        judged = Judged(hit=None, changes=())
        return entry(Action.BAKE, [*reasons, _explain_none(recipe, target, arch, knowledge)])
    if hit is None and (revoked := knowledge.explain_revoked(recipe.name, target, arch)):
        changes = (*changes, Reason(kind="revoked", detail=revoked))
    if reasons or hit is None:
        return entry(Action.BAKE, [*reasons, *changes])
    is_newest = hit in builds[:1]
    waiting = knowledge.waiting_version(recipe.name, target, arch) if is_newest else None
    if waiting:
        detail = f"its build of {hit.created:%Y-%m-%d %H:%M} UTC goes into {waiting}, which lacks one"
        return entry(Action.BAKE, [Reason(kind="incomplete", detail=detail), *tests], hit)
    if is_newest and tests:
        return entry(Action.VERIFY, tests, hit)
    if is_newest:
        detail = f"nothing that it depends on moved since {hit.created:%Y-%m-%d %H:%M} UTC"
        return entry(Action.SKIP, [Reason(kind="unchanged", detail=detail)], hit)
    whose = "again those of the build" if hit in builds else "those of a preview's build"
    detail = f"its inputs are {whose} of {hit.created:%Y-%m-%d %H:%M} UTC: issued anew, not baked"
    reissue = Reason(kind="reissue", detail=detail)
    return entry(Action.BAKE, [reissue, *tests, *(changes if builds else ())], hit)


def _list_candidates(
    recipe: Recipe, target: str, arch: str, knowledge: Knowledge, builds: Sequence[Build]
) -> Iterator[Build]:
    """Those of previews are asked for only where none of the recipe's own fits."""
    yield from builds
    yield from knowledge.preview_builds(recipe.name, target, arch)


def _explain_none(recipe: Recipe, target: str, arch: str, knowledge: Knowledge) -> Reason:
    revoked = knowledge.explain_revoked(recipe.name, target, arch)
    if revoked:
        return Reason(kind="revoked", detail=revoked)
    why = knowledge.explain_no_build(Reference(recipe=recipe.name), target, arch)
    return Reason(kind="never-baked", detail=f"it has no usable build for {target}/{arch}: {why}")
