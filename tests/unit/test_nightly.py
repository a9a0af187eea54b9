"""What a night has still to do, what it remembers of others, and how it is told."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from baker.cli.nightly import nightly_json
from baker.comparing import ManifestDifference, PackageChange
from baker.model import BakeResult, Outcome, Reason
from baker.nightly import find_due, find_put_off
from baker.nightly_report import Ended, Failure, NightlyReport, PackageMove, Past, read_past
from baker.nightly_text import describe_night, describe_title
from baker.plan import Action, PlanEntry
from baker.project_schema import NIGHTLY_SCHEMA
from baker.promoting import Promotion, Standing
from baker.runs import Run, RunOutcome
from tests.factories import make_package
from tests.unit.test_plan import make_recipe

MIDNIGHT = datetime(2025, 6, 1, tzinfo=UTC)
WEB = ("web", "local", "amd64")
BASE = ("base", "local", "amd64")


def make_entry(recipe: str, action: Action = Action.BAKE) -> PlanEntry:
    reasons = (Reason(kind="changed", detail="it changed"),)
    return PlanEntry(recipe=recipe, target="local", arch="amd64", action=action, reasons=reasons)


def make_ended(recipe: str, outcome: Outcome, **changes: Any) -> Ended:
    result = BakeResult(
        bake=None,
        recipe=recipe,
        target=changes.pop("target", "local"),
        arch="amd64",
        outcome=outcome,
        image=None if outcome in (Outcome.FAILED, Outcome.BLOCKED) else f"{recipe}:2",
        reason="its recipe changed",
        seconds=1.0,
        error=changes.pop("error", None),
    )
    values: dict[str, Any] = {
        "previous": None,
        "difference": None,
        "security": frozenset(),
        "waits_for": None,
        "failing_since": None,
        "now": MIDNIGHT,
        **changes,
    }
    return Ended(result=result, **values)


def make_report(*ended: Ended, **changes: Any) -> NightlyReport:
    values: dict[str, Any] = {
        "run": "01J",
        "project": "/srv/images",
        "catalog": "sqlite /c.db",
        "started": MIDNIGHT,
        "finished": MIDNIGHT + timedelta(seconds=75),
        "broken_off": None,
        "plan": (),
        "promotions": (),
        "lagging": (),
        "expired": (),
        "pruning": None,
        "pruned": None,
        "swept": None,
        "failures": (),
        "warnings": (),
        "failed_before": False,
        **changes,
    }
    return NightlyReport(ended=ended, **values)


def make_run(run_id: str, outcome: str | None, **changes: Any) -> Run:
    values: dict[str, Any] = {
        "kind": "nightly",
        "project": "/srv/images",
        "actor": "ann",
        "host": "builder-1",
        "pid": 1,
        "started": MIDNIGHT,
        "finished": MIDNIGHT,
        "options": {},
        "results": {},
        "report": None,
        **changes,
    }
    return Run(id=run_id, outcome=outcome, **values)


def failing(since: datetime | None) -> dict[str, str | None]:
    return {"outcome": "failed", "failing_since": since.isoformat() if since else None}


# --- what is due ------------------------------------------------------------------------------------------


def test_what_was_tried_and_what_is_built_upon_what_failed_is_not_due() -> None:
    recipes = {
        "base": make_recipe("base"),
        "web": make_recipe("web", "base"),
        "shop": make_recipe("shop", "web"),
        "tool": make_recipe("tool", "base:dev"),
        "other": make_recipe("other"),
        "new": make_recipe("new", "other"),
        "fine": make_recipe("fine"),
    }
    plan = [make_entry(name) for name in recipes if name != "fine"] + [make_entry("fine", Action.SKIP)]
    tried = {
        ("base", "local", "amd64"): Outcome.FAILED,
        ("web", "local", "amd64"): Outcome.BLOCKED,
        ("shop", "local", "amd64"): Outcome.BLOCKED,
        ("other", "local", "amd64"): Outcome.BAKED,
        ("tool", "local", "amd64"): Outcome.BLOCKED,
        ("new", "local", "amd64"): Outcome.UNCHANGED,
    }
    assert [entry.recipe for entry in find_due(recipes, plan, tried)] == ["tool", "new"]


def test_what_is_built_upon_a_channel_waits_while_what_the_channel_moves_to_is_baked() -> None:
    recipes = {
        "base": make_recipe("base"),
        "held": make_recipe("held", "base:prod"),
        "pinned": make_recipe("pinned", "base:3"),
        "same": make_recipe("same", "base"),
        "tool": make_recipe("tool", "base:dev"),
        "shop": make_recipe("shop", "tool:dev"),
        "web": make_recipe("web", "tool"),
    }
    plan = [make_entry(name) for name in recipes]

    def put_off(*tried: str) -> set[str]:
        nodes = {(name, "local", "amd64") for name in tried}
        return {recipe for recipe, _, _ in find_put_off(recipes, plan, ["dev"], nodes)}

    assert put_off() == {"tool", "shop", "web"}
    assert put_off("base") == {"shop"}, "web is baked after tool, in the same round"
    assert put_off("base", "tool") == set()
    plan[0] = make_entry("base", Action.VERIFY)
    plan[4] = make_entry("tool", Action.SKIP)
    assert put_off() == set()


# --- the nights before ------------------------------------------------------------------------------------


def test_night_remembers_since_when_what_fails() -> None:
    earlier, later = MIDNIGHT - timedelta(days=2), MIDNIGHT - timedelta(days=1)
    past = read_past(
        [
            make_run("01JD", None),
            make_run("01JC", "interrupted", results={BASE: failing(None)}),
            make_run("01JB", "failed", results={WEB: failing(later)}),
            make_run("01JA", "done", results={WEB: failing(None), BASE: failing(earlier)}),
        ],
        {},
    )
    assert past == Past(failed=True, failing={WEB: later})
    assert read_past([], {}) == Past()


def test_night_recovers_only_from_what_it_did_again() -> None:
    def failed(asked: list[str] | None, *runs: tuple[str, list[str] | None]) -> bool:
        """``runs`` are oldest first."""
        made = [
            make_run(f"01J{number}", outcome, options={"recipes": recipes, "targets": ["local"]})
            for number, (outcome, recipes) in enumerate(runs)
        ]
        return read_past(made[::-1], {"recipes": asked, "targets": ["local"]}).failed

    assert failed(None, ("failed", None))
    assert not failed(["web"], ("failed", None)), "what failed may be another one"
    assert failed(None, ("failed", None), ("done", ["web"]), ("interrupted", None))
    assert failed(None, ("done", None), ("failed", ["web"]))
    assert not failed(None, ("failed", None), ("failed", ["web"]), ("done", None))
    assert failed(["web", "db"], ("failed", ["db", "web"]))
    assert not failed(["web"], ("failed", ["web"]), ("done", None))
    assert not failed(["web"], ("failed", ["db"]))


def test_failure_goes_on_recovers_or_begins() -> None:
    since = MIDNIGHT - timedelta(days=3)
    report = make_report(
        make_ended("a", Outcome.FAILED, failing_since=since),
        make_ended("b", Outcome.BLOCKED),
        make_ended("c", Outcome.UNCHANGED, failing_since=since),
        make_ended("d", Outcome.BLOCKED, waits_for="base:staging", failing_since=since),
        make_ended("e", Outcome.BAKED),
    )
    assert [ended.bad_since for ended in report.ended] == [since, MIDNIGHT, None, None, None]
    assert [ended.recovered for ended in report.ended] == [False, False, True, False, False]
    assert {node[0]: result["failing_since"] for node, result in report.results.items()} == {
        "a": since.isoformat(),
        "b": MIDNIGHT.isoformat(),
        "c": None,
        "d": None,
        "e": None,
    }
    broken_off = replace(report, broken_off="interrupted by SIGINT")
    assert [node[0] for node in broken_off.results] == ["c", "d", "e"]


# --- how it is told ----------------------------------------------------------------------------------------


def test_outcome_and_whether_it_is_news() -> None:
    quiet = make_report(make_ended("web", Outcome.UNCHANGED))
    assert (quiet.outcome, quiet.is_news) == (RunOutcome.DONE, False)
    waits = make_report(make_ended("web", Outcome.BLOCKED, waits_for="base:staging"))
    assert (waits.outcome, waits.is_news) == (RunOutcome.DONE, False)
    assert replace(quiet, failed_before=True).is_news, "recovered"
    assert replace(quiet, warnings=("old",)).outcome is RunOutcome.DONE
    baked = make_report(make_ended("web", Outcome.BAKED))
    assert (baked.outcome, baked.is_news) == (RunOutcome.DONE, True)
    step = replace(quiet, failures=(Failure(step="sweep", what="no"),))
    assert (step.outcome, step.is_news) == (RunOutcome.FAILED, True)
    stopped = replace(step, broken_off="interrupted by SIGTERM")
    assert (stopped.outcome, stopped.is_news) == (RunOutcome.INTERRUPTED, False)
    lost = replace(quiet, broken_off="lost", failures=(Failure(step="lock", what="lost"),))
    assert (lost.outcome, lost.is_news) == (RunOutcome.FAILED, True)


def test_title_says_the_most_important() -> None:
    assert describe_title(make_report(make_ended("web", Outcome.UNCHANGED))) == "images: nightly done"
    assert describe_title(make_report(failed_before=True)) == "images: nightly recovered"
    failed = make_report(
        make_ended("web", Outcome.BLOCKED),
        make_ended("base", Outcome.FAILED),
        make_ended("base", Outcome.FAILED, target="aws"),
        failures=(Failure(step="sweep", what="no"),),
    )
    assert describe_title(failed) == "images: nightly failed: base, sweep"
    unreachable = make_report(make_ended("web", Outcome.BLOCKED), make_ended("x", Outcome.UNCHANGED))
    assert describe_title(unreachable) == "images: nightly failed: web"


def test_report_tells_packages_with_security_updates_first() -> None:
    difference = ManifestDifference(
        packages_added=(make_package("new", "1"),),
        packages_removed=(make_package("old", "2"),),
        packages_upgraded=(
            PackageChange(old=make_package("curl", "1"), new=make_package("curl", "2")),
            PackageChange(old=make_package("openssl", "3.0"), new=make_package("openssl", "3.1")),
        ),
        packages_downgraded=(),
        files_added=(),
        files_removed=(),
        files_changed=(),
        size_delta=-1500,
    )
    ended = make_ended(
        "web",
        Outcome.BAKED,
        previous="web:1",
        difference=difference,
        security=frozenset({"openssl"}),
    )
    assert ended.packages[0] == PackageMove(name="openssl", old="3.0", new="3.1", security=True)
    report = make_report(
        ended,
        make_ended("tool", Outcome.FAILED, target="aws", error="it broke\nin two lines"),
        promotions=(
            Promotion(recipe="web", channel="dev", standing=Standing.MOVED, image="web:2", held="web:1"),
            Promotion(
                recipe="web",
                channel="prod",
                standing=Standing.WAITING,
                image="web:2",
                held=None,
                why=("dev held it for 1h, and 24h are asked", "it has no label ok=…"),
            ),
        ),
        failures=(Failure(step="sweep", what="aws was\nnot asked", hint="Again."),),
        warnings=("mind",),
    )
    assert describe_night(report) == [
        "images: nightly failed: tool, sweep (75.0 s, run 01J)",
        "  baked     web:2           its recipe changed; 0 files, -1.5 kB against web:1",
        "                            openssl 3.0 to 3.1 (security)",
        "                            curl 1 to 2",
        "                            new 1 is new",
        "                            old 2 is gone",
        "  failed    tool/aws/amd64  it broke",
        "  promoted  web:dev         web:1 to web:2",
        "  waiting   web:prod        web:2: dev held it for 1h, and 24h are asked; it has no label ok=…",
        "  failed    sweep           aws was not asked Again.",
        "  warning                   mind",
    ]


def test_long_list_of_packages_is_cut_in_text() -> None:
    changes = tuple(
        PackageChange(old=make_package(f"p{number:02}", "1"), new=make_package(f"p{number:02}", "2"))
        for number in range(20)
    )
    empty: dict[str, Any] = dict.fromkeys(
        (
            "packages_added",
            "packages_removed",
            "packages_downgraded",
            "files_added",
            "files_removed",
            "files_changed",
        ),
        (),
    )
    difference = ManifestDifference(packages_upgraded=changes, size_delta=0, **empty)
    report = make_report(make_ended("web", Outcome.BAKED, previous="web:1", difference=difference))
    lines = [line.strip() for line in describe_night(report)]
    assert (len(lines), lines[-2], lines[-1]) == (15, "p11 1 to 2", "and 8 more packages")


# --- what the guide lists ----------------------------------------------------------------------------------

GUIDE = Path(__file__).parents[2] / "docs" / "nightly.md"


def test_guide_has_every_setting_and_every_key_of_the_report() -> None:
    rows = [line.split("|")[1] for line in GUIDE.read_text().splitlines() if line.startswith("| `")]
    told = {word for row in rows for word in re.findall(r"`(\w+)", row)}
    assert NIGHTLY_SCHEMA["properties"].keys() - told == set()
    assert nightly_json(make_report()).keys() - {"broken_off"} - told == set()
