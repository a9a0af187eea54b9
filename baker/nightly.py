"""The nightly build: plan, bake what is stale, promote, prune, sweep, report; ``run_nightly`` reads top-down.

Whatever fails, everything else is still done: a recipe that fails blocks only what is built upon it, and a
step that fails no other step. A lock in the catalog sees to it that no two are at work at once, on whatever
hosts.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from baker import identity
from baker.errors import BakerError, CatalogError, Interrupted, RecipeError
from baker.execution import WORK, execute_plan, list_source_warnings, node_of, parent_of, plan_bakes
from baker.kitchen import Kitchen
from baker.lifecycle import GateOf
from baker.locking import holding_lock
from baker.model import Outcome, Recipe, Reference
from baker.nightly_report import Ended, Failure, NightlyReport, Past, read_past
from baker.plan import Action, Node, PlanEntry
from baker.previews import Collected, collect_expired
from baker.progress import BakeEnded, Note, Progress
from baker.promoting import Promotion, Standing, promote_newest, publish_to_followers
from baker.providers.protocol import Provider
from baker.prune import Pruned, PrunePlan, delete_images, plan_prune
from baker.retention import Retention
from baker.sweep import Swept, sweep_dead_bakes

KIND = "nightly"
"""Of its runs in the catalog, and the name of its lock."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """What is asked of a night. ``selected`` are recipes by name (None: every one); ``promote`` are channels.

    ``prune`` are the recipes whose images the rules of ``retention`` may let go; None: nothing is pruned.
    ``broken`` says what is wrong with recipes that are left out.
    """

    selected: Sequence[str] | None
    jobs: int
    promote: Sequence[str]
    gate_of: GateOf
    retention: Retention
    prune: frozenset[str] | None
    jitter_seconds: float = 0.0
    wait_seconds: float = 0.0
    broken: Sequence[str] = ()


def run_nightly(
    recipes: Mapping[str, Recipe],
    kitchen: Kitchen,
    everywhere: Mapping[str, Provider],
    orders: Orders,
    *,
    begun: Callable[[], None] = lambda: None,
) -> NightlyReport:
    """One night, and what came of it. ``everywhere`` are all providers, for pruning and sweeping.

    ``begun`` is called once the lock is held. Interrupted, it cleans up and tells what was done. Raises
    LockHeld while another one is at work, CatalogError where the catalog cannot be written at all,
    Interrupted before it began.
    """
    wait_a_while(kitchen, orders.jitter_seconds)  # not with the lock: others may be at work meanwhile
    night = Night(run=identity.make_bake_id(), recipes=recipes, kitchen=kitchen, orders=orders)
    with night.holding_lock():
        night.start()
        try:
            begun()
            night.promote_followed()  # what soaked since: else children would be baked upon what it replaces
            night.bake(night.plan_first)
            while (night.promote() or night.put_off) and night.bake(night.plan_due):
                pass  # once more: what is built upon a channel is due when the channel was moved
            night.collect_previews(everywhere)
            night.prune(everywhere)
            night.sweep(everywhere)
        except Interrupted as error:
            night.broken_off = str(error)
        finally:
            report = night.finish()
    return report


def wait_a_while(kitchen: Kitchen, seconds: float) -> None:
    """Raises Interrupted."""
    if seconds:
        kitchen.show(Note(text=f"Begins in {seconds:.0f} s"))
        kitchen.interruption.pause(seconds)


@dataclass(kw_only=True, slots=True)
class Night:
    """One night at work: what was done so far, of which ``finish`` makes the report."""

    run: str
    recipes: Mapping[str, Recipe]
    kitchen: Kitchen
    orders: Orders
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    past: Past = field(default_factory=Past)
    planned: dict[Node, PlanEntry] = field(default_factory=dict)
    ended: dict[Node, BakeEnded] = field(default_factory=dict)
    awaited: dict[Node, str] = field(default_factory=dict)
    promotions: dict[tuple[str, str, str], Promotion] = field(default_factory=dict)
    put_off: frozenset[Node] = frozenset()
    published: set[tuple[str, str]] = field(default_factory=set)
    lagging: dict[str, None] = field(default_factory=dict)
    expired: Sequence[Collected] = ()
    pruning: PrunePlan | None = None
    pruned: Pruned | None = None
    swept: Swept | None = None
    failures: list[Failure] = field(default_factory=list)
    warnings: dict[str, None] = field(default_factory=dict)
    broken_off: str | None = None

    # --- begin and end --------------------------------------------------------------------------------

    @contextmanager
    def holding_lock(self) -> Iterator[None]:
        cancel, said = self.kitchen.interruption.cancel, False

        def pause(seconds: float) -> None:
            nonlocal said
            if not said:
                said = True
                self.kitchen.show(Note(text="Another nightly is at work; waiting for it"))
            cancel.wait(seconds)
            self.kitchen.interruption.check()

        with holding_lock(
            self.kitchen.catalog,
            self.kitchen.settings.home,
            KIND,
            self.run,
            on_lost=self.lose_lock,
            wait_seconds=self.orders.wait_seconds,
            pause=pause,
        ):
            yield

    def lose_lock(self, why: str) -> None:
        self.fail("lock", BakerError(why))
        self.kitchen.interruption.end(why)

    def start(self) -> None:
        catalog, orders = self.kitchen.catalog, self.orders
        project = str(self.kitchen.settings.project)
        options = {
            "recipes": None if orders.selected is None else list(orders.selected),
            "targets": None if self.kitchen.targets is None else sorted(self.kitchen.targets),
            "promote": list(orders.promote),
        }
        self.past = read_past(catalog.runs(kind=KIND, project=project, limit=10), options)
        catalog.start_run(self.run, KIND, project, options)
        for problem in orders.broken:
            self.fail("recipes", RecipeError(problem, hint="What is built upon it is left out too."))

    def finish(self) -> NightlyReport:
        """Tell what was done, and write down what the next night asks of this one."""
        with self.kitchen.interruption.shielded():
            report = NightlyReport(
                run=self.run,
                project=str(self.kitchen.settings.project),
                catalog=self.kitchen.catalog.description,
                started=self.started,
                finished=datetime.now(UTC),
                broken_off=self.broken_off,
                plan=tuple(self.planned.values()),
                ended=tuple(self.tell_end(node) for node in self.planned if node in self.ended),
                promotions=tuple(self.promotions.values()),
                lagging=tuple(self.lagging),
                expired=tuple(self.expired),
                pruning=self.pruning,
                pruned=self.pruned,
                swept=self.swept,
                failures=tuple(self.failures),
                warnings=tuple(self.warnings),
                failed_before=self.past.failed,
            )
            try:
                self.kitchen.catalog.record_results(self.run, report.results)
                self.kitchen.catalog.finish_run(self.run, str(report.outcome))
            except CatalogError as error:
                self.fail("report", error)
                report = replace(report, failures=tuple(self.failures))
        return report

    def tell_end(self, node: Node) -> Ended:
        ended, entry = self.ended[node], self.planned[node]
        return Ended(
            result=ended.result,
            previous=ended.previous,
            difference=ended.difference,
            security=frozenset(update.name for update in entry.updates if update.security),
            waits_for=self.awaited.get(node) if ended.result.outcome is Outcome.BLOCKED else None,
            failing_since=self.past.failing.get(node),
            now=self.started,
        )

    # --- steps ----------------------------------------------------------------------------------------

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """What fails within is in the report, and stops no other step."""
        self.kitchen.interruption.check()
        try:
            yield
            self.kitchen.interruption.check()  # no step need notice it by itself
        except Interrupted:
            raise
        except (BakerError, OSError) as error:
            self.kitchen.interruption.check()  # breaking off makes other things fail
            self.fail(name, error)
        except Exception as fault:
            self.fail(name, self.explain_fault(fault))

    def explain_fault(self, fault: Exception) -> BakerError:
        log = self.kitchen.settings.home / "logs" / f"{self.run}.log"
        with suppress(OSError):
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("".join(traceback.format_exception(fault)))
        what = f"a fault of baker: {type(fault).__name__}: {fault}"
        return BakerError(what, hint=f"Please report it, with {log}.")

    def fail(self, step: str, error: BakerError | OSError) -> None:
        hint = error.hint if isinstance(error, BakerError) else None
        self.failures.append(Failure(step=step, what=str(error), hint=hint))

    def warn(self, *warnings: str) -> None:
        self.warnings |= dict.fromkeys(warnings)

    def plan_first(self) -> Sequence[PlanEntry]:
        plan = plan_bakes(self.recipes, self.kitchen, selected=self.orders.selected)
        self.warn(*list_source_warnings(self.recipes, plan, self.kitchen.catalog))
        self.warn(*(f"{entry.recipe} for {entry.target}: {entry.note}" for entry in plan if entry.note))
        return plan

    def plan_due(self) -> Sequence[PlanEntry]:
        """What came to be stale since, by what was promoted, and was not tried in this night."""
        plan = plan_bakes(self.recipes, self.kitchen, selected=self.orders.selected)
        return find_due(
            self.recipes, plan, {node: ended.result.outcome for node, ended in self.ended.items()}
        )

    def bake(self, make_plan: Callable[[], Sequence[PlanEntry]]) -> bool:
        """Whether anything came of it. Results come by events: those of one that is broken off too.

        What is ``put_off`` is planned, and baked in a later round.
        """
        plan: Sequence[PlanEntry] = ()
        before = dict(self.ended)
        with self.step("plan"):
            plan = make_plan()
            self.awaited |= self.find_awaited(plan)
        self.planned |= {node_of(entry): entry for entry in plan}
        self.put_off = find_put_off(self.recipes, plan, self.orders.promote, self.ended)
        now = [entry for entry in plan if node_of(entry) not in self.put_off]
        with self.step("bake"):
            watched = replace(self.kitchen, show=self.watch)
            execute_plan(self.recipes, now, watched, jobs=self.orders.jobs)
        return self.ended != before

    def watch(self, progress: Progress) -> None:
        if isinstance(progress, BakeEnded):
            node = node_of(progress.result)
            if node not in self.ended or progress.result.outcome is not Outcome.UNCHANGED:
                self.ended[node] = progress
        self.kitchen.show(progress)

    def promote_followed(self) -> None:
        """Move the channels that recipes start from."""
        sources = [spec.source for recipe in self.recipes.values() for spec in recipe.targets.values()]
        followed = {(source.recipe, source.channel) for source in sources if isinstance(source, Reference)}
        self.promote(lambda name, channel: (name, channel) in followed)

    def promote(self, is_meant: Callable[[str, str], bool] = lambda _name, _channel: True) -> bool:
        """Whether a channel was moved."""
        moved = False
        names = [name for name in self.recipes if self.is_ours(name)]
        for channel in self.orders.promote:
            for name in names:
                if is_meant(name, channel):
                    with self.step("promote"):
                        moved |= self.promote_one(name, channel)
        return moved

    def is_ours(self, name: str) -> bool:
        """Whether a recipe was asked for, or baked since one that was lacked it."""
        selected = self.orders.selected
        return selected is None or name in selected or any(recipe == name for recipe, _, _ in self.planned)

    def promote_one(self, name: str, channel: str) -> bool:
        catalog, gate = self.kitchen.catalog, self.orders.gate_of(channel)
        reason = f"{KIND} {self.run}"
        found = promote_newest(catalog, name, channel, gate, reason=reason)
        moved = any(promotion.standing is Standing.MOVED for promotion in found)
        for standing in (Standing.WAITING, Standing.LEFT):  # that was before
            self.promotions.pop((name, channel, standing), None)
        for promotion in found:
            key = name, channel, promotion.standing
            earlier = self.promotions.get(key)  # moved in this night already: one line tells of both
            self.promotions[key] = replace(promotion, held=earlier.held) if earlier else promotion
        if moved or (name, channel) not in self.published:  # unmoved too: an earlier night may have failed
            self.published.add((name, channel))
            for lag in publish_to_followers(catalog, self.kitchen.providers, name, channel, moved=moved):
                self.lagging[lag.what] = None
                hint = f"Repair it: baker image publish {lag.what}; the next nightly tries as well."
                self.fail("publish", BakerError(str(lag), hint=hint))
        return moved

    def collect_previews(self, everywhere: Mapping[str, Provider]) -> None:
        with self.step("previews"):
            self.expired = collect_expired(self.kitchen.catalog, everywhere)

    def prune(self, everywhere: Mapping[str, Provider]) -> None:
        if self.orders.prune is None:
            return
        catalog, home, retention = self.kitchen.catalog, self.kitchen.settings.home, self.orders.retention
        with self.step("prune"):
            self.pruning = plan_prune(catalog, everywhere, home, retention, recipes=self.orders.prune)
            if not (self.pruning.doomed or self.pruning.pending):
                return
            self.pruned = delete_images(
                catalog, everywhere, home, self.pruning.doomed, retention, by_rules=True
            )
            hint = "The next one goes on: baker image prune --yes"
            for reference, error in dict.fromkeys(self.pruned.failed):
                self.fail("prune", BakerError(f"{reference}: {error}", hint=hint))

    def sweep(self, everywhere: Mapping[str, Provider]) -> None:
        with self.step("sweep"):
            self.swept = sweep_dead_bakes(self.kitchen.catalog, everywhere, self.kitchen.settings.home)
            hint = "Try it again: baker system sweep"
            for resource, error in self.swept.failed:
                self.fail("sweep", BakerError(f"{resource.kind} {resource.id}: {error}", hint=hint))
            for target, error in self.swept.unasked:
                self.fail("sweep", BakerError(f"{target} was not asked what is left: {error}", hint=hint))

    # --- what is due -----------------------------------------------------------------------------------

    def find_awaited(self, plan: Sequence[PlanEntry]) -> dict[Node, str]:
        """What is blocked since it starts from a channel of this night that holds nothing yet, and which."""
        sources = {
            node_of(entry): self.recipes[entry.recipe].targets[entry.target].source
            for entry in plan
            if entry.action is Action.BLOCKED
        }
        return {
            node: str(source)
            for node, source in sources.items()
            if isinstance(source, Reference)
            and source.channel in self.orders.promote
            and self.kitchen.catalog.channel(source.recipe, str(source.channel)) is None
        }


def find_due(
    recipes: Mapping[str, Recipe], plan: Sequence[PlanEntry], tried: Mapping[Node, Outcome]
) -> list[PlanEntry]:
    """What of a plan is to be baked, was not baked yet, and is not built upon what failed."""
    due: list[PlanEntry] = []
    stuck: set[Node | None] = set()
    for entry in plan:  # parents first
        node, outcome = node_of(entry), tried.get(node_of(entry))
        if outcome is Outcome.FAILED or parent_of(recipes, entry) in stuck:
            stuck.add(node)
        elif entry.action in WORK and outcome is not Outcome.BAKED:
            due.append(entry)
    return due


def find_put_off(
    recipes: Mapping[str, Recipe],
    plan: Sequence[PlanEntry],
    promote: Collection[str],
    tried: Collection[Node],
) -> frozenset[Node]:
    """What of a plan waits for another round: it starts from a channel that will move to what is baked now.

    A parent that was ``tried`` before is not waited for again: its channel has moved, or does not.
    """
    due = {node_of(entry) for entry in plan if entry.action in WORK} - set(tried)
    found: set[Node | None] = set()
    for entry in plan:  # parents first
        source = recipes[entry.recipe].targets[entry.target].source
        if entry.action in WORK and isinstance(source, Reference):
            parent = source.recipe, entry.target, entry.arch
            if (source.channel in promote and parent in due) or parent_of(recipes, entry) in found:
                found.add(node_of(entry))
    return frozenset(node for node in found if node)
