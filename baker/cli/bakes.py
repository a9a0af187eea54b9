"""bake."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli.kitchens import (
    Force,
    Gate,
    Jobs,
    Json,
    Offline,
    Recipes,
    Refresh,
    Set,
    Since,
    Targets,
    choose_selected,
    open_kitchen,
    select_recipes,
)
from baker.cli.shell import require_terminal, shell_opener
from baker.cli.wiring import Options, open_catalog
from baker.console import bake_json, say_warnings
from baker.errors import UsageError
from baker.model import Outcome
from baker.progress_console import ProgressConsole

if TYPE_CHECKING:
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
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last run, which was interrupted.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Fail where another process bakes the same recipe now.")
    ] = False,
    offline: Offline = False,
    refresh: Refresh = False,
    as_json: Json = False,
) -> int:
    """Bake what is not up to date: all recipes, or those named."""
    from baker.execution import execute_plan, list_source_warnings, plan_bakes
    from baker.interrupt import Interruption
    from baker.resuming import recorded_run

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
        offline=offline,
        refresh=refresh,
    )
    options: Options = context.obj
    settings = options.project_settings()
    interrupted = find_interrupted_run(settings, wanted) if resume else None
    if interrupted is not None:
        wanted = Wanted(**interrupted.options)
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
            keep_failed=on_error == "keep",
            enter_failed=shell_opener(console) if on_error == "shell" else None,
        ) as kitchen:
            selected = choose_selected(kitchen, found, wanted.recipes, wanted.since, console)
            force_of = forcing(wanted, interrupted)
            entries = plan_bakes(found, kitchen, selected=selected, force=force_of)
            say_warnings(console, list_source_warnings(found, entries, kitchen.catalog))
            with recorded_run(kitchen, entries, asdict(wanted)) as recording:
                results = execute_plan(found, entries, recording, jobs=wanted.jobs, wait=not no_wait)
    if as_json:
        console.result_json({"bakes": [bake_json(result) for result in results]})
    return int(any(result.outcome in (Outcome.FAILED, Outcome.BLOCKED) for result in results))


def find_interrupted_run(settings: Settings, wanted: Wanted) -> Run:
    """Raises UsageError where there is none, or where more is asked for than to go on."""
    from baker.resuming import find_interrupted

    plain = Wanted()
    if any(getattr(wanted, field.name) not in (getattr(plain, field.name), []) for field in fields(Wanted)):
        raise UsageError("--resume goes on with what was asked for then: leave out the rest")
    with open_catalog(settings, read_only=True) as catalog:
        return find_interrupted(catalog, settings)


def forcing(wanted: Wanted, interrupted: Run | None) -> Any:
    """What ``make_plan`` forces: all that was asked for, but not what the interrupted run was done with."""
    from baker.resuming import is_settled

    if interrupted is None or not wanted.force:
        return wanted.force
    return lambda node: not is_settled(interrupted, node)
