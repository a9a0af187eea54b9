"""bake."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.ages import parse_age
from baker.cli.kitchens import (
    Ephemeral,
    Force,
    Gate,
    Jobs,
    Json,
    Offline,
    Preview,
    Recipes,
    Refresh,
    Set,
    Since,
    Summary,
    Targets,
    append_summary,
    find_touched_since,
    open_kitchen,
    select_recipes,
)
from baker.cli.shell import require_terminal, shell_opener
from baker.cli.wiring import Options, open_catalog
from baker.console import bake_json, say_warnings
from baker.errors import UsageError
from baker.progress_console import ProgressConsole

if TYPE_CHECKING:
    from baker.kitchen import Kitchen
    from baker.model import BakeResult
    from baker.previews import PreviewMove
    from baker.progress import BakeEnded, Progress
    from baker.runs import Run
    from baker.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a run of `bake` is asked for, as far as one that goes on with it has to know."""

    recipes: list[str] | None = None
    targets: list[str] | None = None
    force: bool = False
    overrides: list[str] | None = None
    jobs: int = 1
    gate: str | None = None
    since: str | None = None
    channel: str | None = None
    expires: str | None = None
    offline: bool = False
    refresh: bool = False


def add_commands(app: typer.Typer) -> None:
    app.command("bake")(bake)


def bake(
    context: typer.Context,
    recipes: Recipes = None,
    targets: Targets = None,
    force: Force = False,
    overrides: Set = None,
    on_error: Annotated[
        str,
        typer.Option(
            "--on-error",
            metavar="teardown|keep|shell",
            help="Keep the build instance of a failed bake, or open a shell in it before it goes.",
        ),
    ] = "teardown",
    jobs: Jobs = 1,
    gate: Gate = None,
    since: Since = None,
    channel: Preview = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="7d", help="How long the preview of --channel lasts (7d)."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last run, which was interrupted.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Fail where another process bakes the same recipe now.")
    ] = False,
    offline: Offline = False,
    refresh: Refresh = False,
    ephemeral: Ephemeral = False,
    summary: Summary = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the summary, as markdown.")] = False,
    as_json: Json = False,
) -> int:
    """Bake what is not up to date: all recipes, or those named."""
    from baker.ci import refuse_throwaway
    from baker.execution import FAILURES, execute_plan, list_source_warnings, plan_bakes
    from baker.interrupt import Interruption
    from baker.previews import require_preview_channel
    from baker.resuming import recorded_run
    from baker.summary import markdown_run

    if on_error not in ("teardown", "keep", "shell"):
        raise UsageError(f"--on-error takes teardown, keep or shell, not {on_error!r}")
    wanted = Wanted(
        recipes=recipes,
        targets=targets,
        force=force,
        overrides=overrides,
        jobs=jobs,
        gate=gate,
        since=since,
        channel=channel,
        expires=expires,
        offline=offline,
        refresh=refresh,
    )
    check_options(wanted, markdown=markdown, as_json=as_json)
    options: Options = context.obj
    settings = options.project_settings()
    refuse_throwaway(settings, os.environ, ephemeral=ephemeral)
    interrupted = find_interrupted_run(settings, wanted) if resume else None
    if interrupted is not None:
        wanted = read_wanted(interrupted)
    console = ProgressConsole(as_json=as_json, several=wanted.jobs > 1)
    if on_error == "shell":
        require_terminal(console, jobs=wanted.jobs)
    interruption = Interruption()
    with interruption.installed():
        found = select_recipes(settings, wanted.recipes, wanted.overrides, wanted.gate)
        with open_kitchen(
            settings,
            console,
            found,
            interruption,
            asked=wanted.recipes,
            targets=wanted.targets,
            bakes=True,
            offline=wanted.offline,
            refresh=wanted.refresh,
            detached=on_error == "keep",
            preview=wanted.channel,
            keep_failed=on_error == "keep",
            enter_failed=shell_opener(console) if on_error == "shell" else None,
        ) as kitchen:
            if wanted.channel:
                require_preview_channel(kitchen.catalog, wanted.channel, found, settings.named_channels)
            selected: Sequence[str] | None = wanted.recipes or None
            if wanted.since:
                touched = find_touched_since(kitchen, found, selected, wanted.since, console)
                selected = [one.recipe for one in touched]
            entries = plan_bakes(found, kitchen, selected=selected, force=forcing(wanted, interrupted))
            say_warnings(console, list_source_warnings(found, entries, kitchen.catalog))
            ended: list[BakeEnded] = []
            collecting = replace(kitchen, show=collecting_ends(console, ended))
            with recorded_run(collecting, entries, asdict(wanted)) as recording:
                results = execute_plan(found, entries, recording, jobs=wanted.jobs, wait=not no_wait)
            moves = move_channel(kitchen, results, wanted)
    told = markdown_run(ended, plan=entries)
    append_summary(summary, told)
    say_moves(console, moves)
    if as_json:
        bakes = [bake_json(result) for result in results]
        console.result_json({"bakes": bakes, "channel": [preview_json(move) for move in moves]})
    if markdown:
        console.result(told.rstrip())
    failed = any(result.outcome in FAILURES for result in results)
    return int(failed or any(move.failed or move.lagging for move in moves))


def check_options(wanted: Wanted, *, markdown: bool, as_json: bool) -> None:
    """Raises UsageError for what does not go together."""
    if markdown and as_json:
        raise UsageError("--markdown and --json do not go together", hint="--summary FILE goes with both.")
    if wanted.offline and wanted.refresh:
        raise UsageError("--offline forbids to fetch what --refresh asks for")
    if wanted.expires is not None:
        parse_age(wanted.expires)
        if wanted.channel is None:
            raise UsageError("--expires goes with --channel: it says how long that preview lasts")


def collecting_ends(console: ProgressConsole, ended: list[BakeEnded]) -> Callable[[Progress], None]:
    """Shows progress, and keeps how each bake ended."""
    from baker.progress import BakeEnded

    def show(progress: Progress) -> None:
        if isinstance(progress, BakeEnded):
            ended.append(progress)
        console.show(progress)

    return show


# --- a preview ----------------------------------------------------------------------------------------


def move_channel(kitchen: Kitchen, results: Sequence[BakeResult], wanted: Wanted) -> list[PreviewMove]:
    """What was baked, or came out unchanged, is what the preview's channel holds."""
    from baker.previews import TERM_SECONDS, move_preview

    if wanted.channel is None:
        return []
    seconds = parse_age(wanted.expires) if wanted.expires else TERM_SECONDS
    with kitchen.interruption.shielded():
        return move_preview(kitchen.catalog, kitchen.providers, results, wanted.channel, seconds=seconds)


def say_moves(console: ProgressConsole, moves: Sequence[PreviewMove]) -> None:
    for move in moves:
        if move.why_not:
            console.say(f"{console.style('Not moved:', 'red')} {move.name}: {move.why_not}")
        else:
            until = f", until {move.expires:%Y-%m-%d %H:%M} UTC" if move.expires else ""
            console.say(f"{move.name} is {move.image}{until}")
        for lag in move.lagging:
            console.say(f"{console.style('Lags behind:', 'red')} {lag.what}: {lag.why}")


def preview_json(move: PreviewMove) -> dict[str, Any]:
    """One element of ``channel`` in ``bake --json``: what a preview's channel of a recipe holds now."""
    return {
        "channel": move.name,
        "image": move.image,
        "before": move.held,
        "expires": move.expires,
        "error": move.why_not,
        "lagging": [f"{lag.what}: {lag.why}" for lag in move.lagging],
    }


# --- going on after an interruption -------------------------------------------------------------------


def find_interrupted_run(settings: Settings, wanted: Wanted) -> Run:
    """Raises UsageError where there is none, or where more is asked for than to go on."""
    from baker.resuming import find_interrupted

    plain = Wanted()
    if any(getattr(wanted, field.name) not in (getattr(plain, field.name), []) for field in fields(Wanted)):
        raise UsageError("--resume goes on with what was asked for then: leave out the rest")
    with open_catalog(settings, read_only=True) as catalog:
        return find_interrupted(catalog, settings)


def read_wanted(run: Run) -> Wanted:
    """What a run was asked for. Raises UsageError where another version of baker wrote that down."""
    try:
        return Wanted(**run.options)
    except TypeError as error:
        raise UsageError(
            "the last run was started by another version of baker, whose options this one does not know",
            hint="Start anew: what was baked is not baked again.",
        ) from error


def forcing(wanted: Wanted, interrupted: Run | None) -> Any:
    """What ``make_plan`` forces: all that was asked for, but not what the interrupted run was done with."""
    from baker.resuming import is_settled

    if interrupted is None or not wanted.force:
        return wanted.force
    return lambda node: not is_settled(interrupted, node)
