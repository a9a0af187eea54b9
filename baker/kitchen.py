"""What bakes are run with, and one that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime

from baker.catalog import Catalog
from baker.configurer import Standby
from baker.configurer.events import Event
from baker.errors import BakerError, CatalogError
from baker.interrupt import Interruption
from baker.knowledge import ProjectKnowledge, Updates
from baker.log import BakeLog
from baker.model import Recipe, Stage
from baker.plan import PlanEntry
from baker.progress import Progress, RecipeEvent, StageEnded, StageStarted
from baker.providers.protocol import Machine, Provider
from baker.settings import Settings
from baker.teardown import Teardown
from baker.time_limits import choose_pause, find_limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Kitchen:
    """What bakes are run with. ``environ`` holds what recipes may ask for by name, secrets among it.

    ``targets`` are those that are baked for (None: every one). ``preview`` is the channel that is baked for,
    if what comes out is not to become ``latest``. ``updates`` looks for package updates. ``enter_failed``
    lets somebody look into the machine of a failed bake before it is torn down.
    """

    catalog: Catalog
    providers: Mapping[str, Provider]
    settings: Settings
    environ: Mapping[str, str]
    show: Callable[[Progress], None]
    interruption: Interruption
    targets: Collection[str] | None = None
    preview: str | None = None
    updates: Updates | None = None
    keep_failed: bool = False
    enter_failed: Callable[[Machine, BakerError], None] | None = None
    choose_pause: Callable[[int], float] = choose_pause

    @property
    def knowledge(self) -> ProjectKnowledge:
        return ProjectKnowledge(
            catalog=self.catalog,
            providers=self.providers,
            settings=self.settings,
            environ=self.environ,
            preview=self.preview,
            updates=self.updates,
        )


@dataclass(kw_only=True, slots=True)
class Bake:
    """A running bake: says in the catalog, the log and on the screen which stage it is in.

    ``machine`` is the one that the bake is at work on, if there is one. ``begun`` is when it ``started``,
    by a clock that nobody sets. ``attempts`` counts its tries; ``seconds`` has, by stage, those of all tries.
    """

    id: str
    recipe: Recipe
    entry: PlanEntry
    kitchen: Kitchen
    log: BakeLog
    teardown: Teardown
    started: datetime
    begun: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    machine: Machine | None = None
    standby: Standby = field(default_factory=Standby)
    changed: int = 0
    unchanged: int = 0
    attempts: int = 1

    @property
    def provider(self) -> Provider:
        return self.kitchen.providers[self.entry.target]

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[list[str]]:
        """Time a stage. What is appended to the yielded list is shown as what it came to.

        Raises Interrupted instead of beginning one that is not the teardown, when the bake is to end, and
        StageTimeout where it took longer than it may: then what it waited for was broken off.
        """
        if stage is not Stage.TEARDOWN:
            self.kitchen.interruption.check()
        detail: list[str] = []
        started = time.monotonic()
        self.log.write(f"== {stage}")
        self.kitchen.catalog.begin_stage(self.id, stage)
        self.kitchen.show(StageStarted(bake=self.id, recipe=self.recipe.name, stage=stage))
        failed = True
        try:
            limit = find_limit(stage, self.recipe, self.kitchen.settings.bake)
            with self.kitchen.interruption.limited(*limit) if limit else nullcontext():
                yield detail
            failed = False
        finally:
            seconds = time.monotonic() - started
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + seconds, 3)
            outcome = "failed" if failed else "done"
            self.log.write(f"== {stage} {outcome} after {seconds:.2f} s {'; '.join(detail)}")
            with self.kitchen.interruption.shielded():
                try:
                    self.kitchen.catalog.end_stage(self.id, stage, outcome, self.seconds[stage])
                except CatalogError as error:
                    if not failed:
                        raise
                    self.log.write(f"not written down: {error}")  # why the stage failed is what counts
            self.kitchen.show(
                StageEnded(
                    bake=self.id,
                    recipe=self.recipe.name,
                    stage=stage,
                    seconds=seconds,
                    failed=failed,
                    detail="; ".join(detail),
                )
            )

    def show_event(self, event: Event) -> None:
        self.kitchen.show(RecipeEvent(bake=self.id, recipe=self.recipe.name, event=event))
