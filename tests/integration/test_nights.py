"""What a night does in which order, and what it does whatever fails: on a real catalog, without machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from baker.catalog import Catalog
from baker.errors import CloudError, Interrupted
from baker.gates import OPEN, Gate
from baker.interrupt import Interruption
from baker.kitchen import Kitchen
from baker.locking import LockHeld
from baker.model import BakeResult, Build, Outcome, Reason, Recipe, Reference
from baker.nightly import Orders, run_nightly
from baker.nightly_report import NightlyReport
from baker.plan import Action, PlanEntry
from baker.progress import BakeEnded
from baker.retention import Retention
from baker.runs import RunOutcome
from baker.settings import load_settings
from tests.factories import make_artifact, make_build, make_image
from tests.unit.test_plan import make_recipe


@pytest.fixture
def kitchen(tmp_path: Path) -> Iterator[Kitchen]:
    """One that bakes for no target at all."""
    (tmp_path / "baker.toml").touch()
    with Catalog.open(f"sqlite:///{tmp_path}/catalog.db", actor="nightly") as catalog:
        yield Kitchen(
            catalog=catalog,
            providers={},
            settings=load_settings(tmp_path, {"BAKER_HOME": f"{tmp_path}/home"}),
            environ={},
            show=lambda _: None,
            interruption=Interruption(),
            targets=frozenset(),
        )


def make_orders(gate: Gate = OPEN, **changes: Any) -> Orders:
    values: dict[str, Any] = {
        "selected": None,
        "jobs": 1,
        "promote": ("dev",),
        "gate_of": lambda _: gate,
        "retention": Retention(),
        "prune": None,
        **changes,
    }
    return Orders(**values)


def run(
    kitchen: Kitchen,
    orders: Orders,
    recipes: Mapping[str, Recipe] | None = None,
    everywhere: Mapping[str, Any] | None = None,
) -> NightlyReport:
    return run_nightly(recipes or {}, kitchen, everywhere or {}, orders)


# --- begin and end ----------------------------------------------------------------------------------------


def test_night_waits_its_random_time_before_it_takes_the_lock(kitchen: Kitchen) -> None:
    happened: list[Any] = []

    class Waiting(Interruption):
        def pause(self, seconds: float) -> None:
            happened.append((seconds, kitchen.catalog.find_lock("nightly"), kitchen.catalog.runs()))

    waiting = replace(kitchen, interruption=Waiting())
    orders = make_orders(jitter_seconds=600.0)
    report = run_nightly({}, waiting, {}, orders, begun=lambda: happened.append("begun"))
    assert happened == [(600.0, None, []), "begun"]
    assert report.outcome is RunOutcome.DONE
    kitchen.catalog.hold_lock("nightly", "01J", seconds=600, store="builder-1:/b#1", pid=7)
    with pytest.raises(LockHeld):
        run(waiting, orders)


@dataclass
class Interrupting:
    """A provider that is asked for leftovers when the signal comes, and notices it or does not."""

    interruption: Interruption
    notices: bool

    def leftovers(self) -> Sequence[Any]:
        self.interruption.end("interrupted by SIGTERM")
        if self.notices:
            self.interruption.check()
        return ()


@pytest.mark.parametrize("notices", [True, False])
def test_night_that_is_interrupted_in_its_last_step_says_so(kitchen: Kitchen, notices: bool) -> None:
    report = run(kitchen, make_orders(), everywhere={"aws": Interrupting(kitchen.interruption, notices)})
    assert (report.outcome, report.broken_off) == (RunOutcome.INTERRUPTED, "interrupted by SIGTERM")
    assert report.failures == ()


# --- who follows channels ---------------------------------------------------------------------------------


@dataclass
class Follower:
    """A target where others follow channels, which may fail."""

    error: Exception | None = None
    follows: dict[str, str] = field(default_factory=dict)

    def publish_channel(self, recipe: str, channel: str, builds: Sequence[Build]) -> Sequence[str]:
        if self.error:
            raise self.error
        self.follows[f"{recipe}:{channel}"] = builds[0].artifacts[0].id
        return ()


def test_who_does_not_follow_a_channel_yet_does_so_after_any_later_night(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    follower = Follower(CloudError("ssm:PutParameter was throttled"))
    abroad = replace(kitchen, providers={"aws": follower})  # type: ignore[dict-item]
    recipes = {"web": make_recipe("web", targets=("aws",))}
    build = make_build(target="aws", artifacts=(make_artifact(id="ami-1", target="aws"),))
    make_image(kitchen.catalog, build=build, wanted=[("aws", "amd64")])
    report = run(abroad, make_orders(), recipes)
    assert (report.outcome, report.lagging) == (RunOutcome.FAILED, ("web:dev",))
    assert [promotion.image for promotion in report.moved] == ["web:1"]
    follower.error = None
    elsewhere = replace(abroad, settings=replace(kitchen.settings, project=tmp_path / "another-checkout"))
    report = run(elsewhere, make_orders(), recipes)
    assert (report.outcome, report.lagging) == (RunOutcome.DONE, ())
    assert follower.follows == {"web:dev": "ami-1"}
    assert run(kitchen, make_orders(), recipes).lagging == (), "nothing was moved, and aws is not there"


def test_night_that_is_interrupted_while_it_publishes_ends(kitchen: Kitchen) -> None:
    abroad = replace(kitchen, providers={"aws": Follower(Interrupted("interrupted by SIGTERM"))})  # type: ignore[dict-item]
    build = make_build(target="aws", artifacts=(make_artifact(id="ami-1", target="aws"),))
    make_image(kitchen.catalog, build=build, wanted=[("aws", "amd64")])
    report = run(abroad, make_orders(), {"web": make_recipe("web", targets=("aws",))})
    assert (report.outcome, report.failures) == (RunOutcome.INTERRUPTED, ())


# --- what is built upon channels ----------------------------------------------------------------------------


@dataclass
class Oven:
    """Instead of planning and baking: everything is due once, and again when its channel holds another image.

    ``baked`` says in which order, and upon what.
    """

    catalog: Catalog
    recipes: Mapping[str, Recipe]
    baked: list[tuple[str, str | None]] = field(default_factory=list)

    def find_source(self, name: str) -> str | None:
        source = self.recipes[name].targets["local"].source
        if not isinstance(source, Reference):
            return None
        held = self.catalog.channel(source.recipe, str(source.channel))
        return f"{source.recipe}:{held[0]}" if held else None

    def plan(self, *_: object, **__: object) -> list[PlanEntry]:
        reasons = (Reason(kind="packages-outdated", detail="openssl"),)
        return [
            PlanEntry(
                recipe=name,
                target="local",
                arch="amd64",
                action=Action.SKIP if (name, self.find_source(name)) in self.baked else Action.BAKE,
                reasons=reasons,
            )
            for name in self.recipes
        ]

    def bake(
        self, _: object, plan: Sequence[PlanEntry], kitchen: Kitchen, **__: object
    ) -> Sequence[BakeResult]:
        for entry in plan:
            if entry.action is Action.BAKE:
                self.baked.append((entry.recipe, self.find_source(entry.recipe)))
                result = BakeResult(
                    bake=None,
                    recipe=entry.recipe,
                    target="local",
                    arch="amd64",
                    outcome=Outcome.BAKED,
                    image=make_image(self.catalog, entry.recipe).reference,
                    reason="openssl",
                    seconds=1.0,
                )
                kitchen.show(BakeEnded(result=result))
        return ()


@pytest.fixture
def oven(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> Oven:
    """Three recipes upon one another's channel dev, which holds an image of each."""
    recipes = {
        "base": make_recipe("base"),
        "tool": make_recipe("tool", "base:dev"),
        "web": make_recipe("web", "tool:dev"),
    }
    for name in recipes:
        make_image(kitchen.catalog, name)
        kitchen.catalog.promote(name, 1, "dev", expected_revision=None)
    oven = Oven(kitchen.catalog, recipes)
    monkeypatch.setattr("baker.nightly.plan_bakes", oven.plan)
    monkeypatch.setattr("baker.nightly.execute_plan", oven.bake)
    return oven


def test_what_is_built_upon_a_channel_is_baked_once_upon_what_the_channel_moves_to(
    kitchen: Kitchen, oven: Oven
) -> None:
    report = run(kitchen, make_orders(), oven.recipes)
    assert oven.baked == [("base", None), ("tool", "base:2"), ("web", "tool:2")]
    assert [promotion.image for promotion in report.moved] == ["base:2", "tool:2", "web:2"]


def test_what_is_built_upon_a_channel_that_does_not_move_is_baked_all_the_same(
    kitchen: Kitchen, oven: Oven
) -> None:
    report = run(kitchen, make_orders(Gate(require=frozenset({"label:approved-by"}))), oven.recipes)
    assert oven.baked == [("base", None), ("tool", "base:1"), ("web", "tool:1")]
    assert (report.moved, report.outcome) == ([], RunOutcome.DONE)


def test_channel_that_may_move_by_now_does_before_anything_is_built_upon_it(
    kitchen: Kitchen, oven: Oven
) -> None:
    make_image(kitchen.catalog, "base")
    oven.baked.append(("base", None))
    report = run(kitchen, make_orders(), oven.recipes)
    assert oven.baked[1:] == [("tool", "base:2"), ("web", "tool:2")]
    assert [(one.held, one.image) for one in report.moved] == [
        ("base:1", "base:2"),
        ("tool:1", "tool:2"),
        ("web:1", "web:2"),
    ]
