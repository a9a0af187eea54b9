"""nightly."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli import timers
from baker.cli.channels import gate_of
from baker.cli.completion import complete_channel
from baker.cli.kitchens import (
    Ephemeral,
    Gate,
    Json,
    Recipes,
    Summary,
    Targets,
    append_summary,
    open_kitchen,
    select_recipes,
)
from baker.cli.planning import entry_json
from baker.cli.previews import expired_json
from baker.cli.pruning import find_own_recipes, find_providers, pruned_json
from baker.cli.system import resource_json
from baker.cli.wiring import Options, explaining_refusals
from baker.console import Console, bake_json
from baker.errors import BakerError, Interrupted, UsageError
from baker.progress_console import ProgressConsole

if TYPE_CHECKING:
    from baker.interrupt import Interruption
    from baker.model import Recipe
    from baker.nightly import Orders
    from baker.nightly_report import Ended, NightlyReport
    from baker.notifying import Herald
    from baker.promoting import Promotion
    from baker.settings import Settings


def add_commands(app: typer.Typer) -> None:
    app.command("nightly")(nightly)


@explaining_refusals()
def nightly(
    context: typer.Context,
    recipes: Recipes = None,
    targets: Targets = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", metavar="N", min=1, help="How many recipes are baked at once."),
    ] = None,
    gate: Gate = None,
    promote: Annotated[
        list[str] | None,
        typer.Option(
            "--promote",
            metavar="CHANNEL",
            help="Move this channel to what was baked, where its gate allows; may be repeated.",
            autocompletion=complete_channel,
        ),
    ] = None,
    no_prune: Annotated[bool, typer.Option("--no-prune", help="Delete no images.")] = False,
    jitter: Annotated[
        str | None, typer.Option("--jitter", metavar="10m", help="Begin after a random time up to this.")
    ] = None,
    wait: Annotated[
        str | None,
        typer.Option("--wait", metavar="2h", help="Wait for a nightly that is at work; else fail."),
    ] = None,
    summary: Summary = None,
    ephemeral: Ephemeral = False,
    install_timer: Annotated[
        bool, typer.Option("--install-timer", help="Have systemd run this with the other options given.")
    ] = False,
    at: Annotated[
        str, typer.Option("--at", metavar="03:00", help="When the timer runs it (systemd.time(7)).")
    ] = "03:00",
    user: Annotated[
        bool, typer.Option("--user", help="A timer of this user, also as root; else one of the system.")
    ] = False,
    remove_timer: Annotated[bool, typer.Option("--remove-timer", help="Remove the timer.")] = False,
    as_json: Json = False,
) -> int:
    """Plan, bake what is stale, promote, prune, sweep, report. What fails stops nothing else.

    The table [nightly] of baker.toml says how; options go over it. Exits with 1 if anything failed.
    """
    from baker.ci import refuse_throwaway
    from baker.interrupt import Interruption
    from baker.nightly_text import describe_night
    from baker.notifying import find_herald
    from baker.runs import RunOutcome

    options: Options = context.obj
    settings = with_options(
        options.project_settings(), jobs=jobs, gate=gate, promote=promote, jitter=jitter, wait=wait
    )
    console = Console(as_json=as_json)
    if remove_timer:
        return timers.remove(settings, console, user=user)
    if install_timer:
        read_orders(settings, recipes, prune=not no_prune)  # raises now, not at night
        find_herald(settings.nightly, os.environ)
        arguments = list_arguments(
            recipes, target=targets, promote=promote, jobs=jobs, gate=gate, wait=wait, summary=summary
        )
        flags = [flag for flag, given in (("--no-prune", no_prune), ("--ephemeral", ephemeral)) if given]
        return timers.install(options, settings, console, [*flags, *arguments], at=at, user=user)
    refuse_throwaway(settings, os.environ, ephemeral=ephemeral)
    herald = find_herald(settings.nightly, os.environ)
    interruption = Interruption()
    with interruption.installed():
        report = run(settings, herald, interruption, recipes=recipes, targets=targets, prune=not no_prune)
        with interruption.shielded():
            said = write_summary(summary, report) if summary else []
            report = replace(report, warnings=(*report.warnings, *said, *tell(herald, report)))
    if as_json:
        console.result_json(nightly_json(report))
    else:
        console.result("\n".join(describe_night(report)))
    failed = BakerError.exit_code if report.outcome is RunOutcome.FAILED else 0
    return Interrupted.exit_code if report.outcome is RunOutcome.INTERRUPTED else failed


def list_arguments(recipes: list[str] | None, **options: Any) -> list[str]:
    """As they would be typed."""
    found: list[str] = []
    for name, given in options.items():
        for value in given if isinstance(given, list) else [given]:
            if value is not None:
                found += [f"--{name}", str(value.absolute() if isinstance(value, Path) else value)]
    return [*found, *(recipes or [])]


def with_options(settings: Settings, **options: Any) -> Settings:
    """``[nightly]`` with the options that were given over it."""
    return replace(
        settings,
        nightly={**settings.nightly, **{key: value for key, value in options.items() if value is not None}},
    )


def run(
    settings: Settings,
    herald: Herald,
    interruption: Interruption,
    *,
    recipes: list[str] | None,
    targets: list[str] | None,
    prune: bool,
) -> NightlyReport:
    """A night. One that could not even begin is told as well: nobody is there to see it."""
    from baker.locking import LockHeld
    from baker.nightly import run_nightly
    from baker.notifying import FAIL, START

    orders = read_orders(settings, recipes, prune=prune)
    # What each bake prints would stand above the report: progress alone, on stderr.
    progress = ProgressConsole(as_json=True, several=orders.jobs > 1)
    try:
        found, problems = select_sound_recipes(settings, recipes)
        orders = replace(orders, broken=problems)
        with open_kitchen(
            settings, progress, found, interruption, asked=recipes, targets=targets, bakes=True, refresh=True
        ) as kitchen:
            warnings: list[str] = []
            report = run_nightly(
                found,
                kitchen,
                find_providers(settings),
                orders,
                begun=lambda: warnings.extend(herald.ping(START)),
            )
        return replace(report, warnings=(*report.warnings, *warnings))
    except (LockHeld, Interrupted):
        raise  # whoever holds it tells; whoever interrupted it knows
    except BakerError as error:
        with interruption.shielded():
            name = settings.project.name if settings.project else ""
            said = [
                *herald.ping(FAIL),
                *herald.notify(f"{name}: nightly could not begin", str(error), bad=True),
            ]
            for warning in said:
                progress.say(f"{progress.style('Warning:', 'yellow')} {warning}")
        raise


def select_sound_recipes(
    settings: Settings, names: list[str] | None
) -> tuple[Mapping[str, Recipe], Sequence[str]]:
    """The recipes that are meant, and what is wrong with those of all that are left out.

    Raises RecipeError where one was named that is wrong, or none is sound.
    """
    from baker.plan import follow_channel
    from baker.recipes import load_sound_recipes

    assert settings.project is not None
    gate = settings.nightly.get("gate")
    sound, problems = load_sound_recipes(settings.project, folder=settings.recipes) if not names else ({}, [])
    if not sound:
        return select_recipes(settings, names, None, gate), ()
    return follow_channel(sound, gate) if gate else sound, [str(problem) for problem in problems]


def read_orders(settings: Settings, recipes: list[str] | None, *, prune: bool) -> Orders:
    from baker.ages import parse_age
    from baker.channels import require_channel_name
    from baker.nightly import Orders
    from baker.retention import Retention

    nightly = settings.nightly
    for channel in nightly.get("promote", ()):
        require_channel_name(channel)
    jitter = parse_age(nightly["jitter"]) if "jitter" in nightly else 0
    prunes = prune and nightly.get("prune", True)
    return Orders(
        selected=recipes or None,
        jobs=nightly.get("jobs", 1),
        promote=tuple(dict.fromkeys(nightly.get("promote", ()))),
        gate_of=lambda channel: gate_of(settings, channel),
        retention=Retention(table=settings.retention),
        prune=frozenset(find_own_recipes(settings)) if prunes else None,
        jitter_seconds=random.uniform(0, jitter),
        wait_seconds=parse_age(nightly["wait"]) if "wait" in nightly else 0,
    )


def tell(herald: Herald, report: NightlyReport) -> list[str]:
    """Notify of failure, recovery, or what changed, and of nothing else; returns what was not delivered."""
    from baker.nightly_text import describe_night, describe_title
    from baker.notifying import FAIL, SUCCESS
    from baker.runs import RunOutcome

    well = report.outcome is RunOutcome.DONE
    warnings = herald.ping(SUCCESS if well else FAIL)
    if report.is_news:
        body = "\n".join(describe_night(report))
        warnings += herald.notify(describe_title(report), body, bad=not well)
    return warnings


def write_summary(path: Path, report: NightlyReport) -> list[str]:
    """Append it; returns why that cannot be."""
    from baker.nightly_text import describe_night, describe_title

    text = "\n".join(describe_night(report)[1:])
    try:
        append_summary(path, f"## {describe_title(report)}\n\n```\n{text}\n```\n")
    except UsageError as error:
        return [str(error)]
    return []


# --- documented JSON ----------------------------------------------------------------------------------


def nightly_json(report: NightlyReport) -> dict[str, Any]:
    """``nightly --json``; see docs/nightly.md."""
    swept = report.swept
    return {
        "run": report.run,
        "project": report.project,
        "catalog": report.catalog,
        "started": report.started,
        "finished": report.finished,
        "outcome": str(report.outcome),
        "broken_off": report.broken_off,
        "plan": [entry_json(entry) for entry in report.plan],
        "bakes": [ended_json(ended) for ended in report.ended],
        "promotions": [promotion_json(promotion) for promotion in report.promotions],
        "lagging": list(report.lagging),
        **expired_json(report.expired),
        "pruned": pruned_json(report.pruned),
        "swept": {
            "removed": [resource_json(resource) for resource in swept.removed] if swept else [],
            "finished": [image.reference for image in swept.finished] if swept else [],
        },
        "failures": [
            {"step": failure.step, "error": failure.what, "hint": failure.hint} for failure in report.failures
        ],
        "warnings": list(report.warnings),
        "recovered": report.recovered,
    }


def ended_json(ended: Ended) -> dict[str, Any]:
    """One element of ``bakes``: that of ``bake --json``, and what changed since the version before."""
    difference = ended.difference
    return {
        **bake_json(ended.result),
        "waits_for": ended.waits_for,
        "failing_since": ended.bad_since,
        "recovered": ended.recovered,
        "previous": ended.previous,
        "changes": None
        if difference is None
        else {
            "packages": [
                {"name": move.name, "from": move.old, "to": move.new, "security": move.security}
                for move in ended.packages
            ],
            "files": {
                "added": len(difference.files_added),
                "removed": len(difference.files_removed),
                "changed": len(difference.files_changed),
            },
            "size_bytes": difference.size_delta,
        },
    }


def promotion_json(promotion: Promotion) -> dict[str, Any]:
    return {
        "recipe": promotion.recipe,
        "channel": promotion.channel,
        "outcome": str(promotion.standing),
        "image": promotion.image,
        "from": promotion.held,
        "why": list(promotion.why),
    }
