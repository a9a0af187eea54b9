"""bake, plan."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from baker.cli.completion import complete_recipe, complete_target
from baker.cli.shell import require_terminal, shell_opener
from baker.cli.wiring import (
    Options,
    check_providers,
    choose_targets,
    explaining_refusals,
    make_providers,
    open_catalog,
)
from baker.console import bake_json, say_warnings
from baker.errors import UsageError
from baker.model import Outcome, Recipe
from baker.progress_console import ProgressConsole
from baker.settings import Settings

Recipes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RECIPE]…", help="All recipes if none is named.", autocompletion=complete_recipe),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="TARGET",
        help="Only for this target (local, aws); may be repeated.",
        autocompletion=complete_target,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the documented JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Bake also what is unchanged.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override recipe data.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Fetch nothing: use the package indexes that are here.")
]


def add_commands(app: typer.Typer) -> None:
    app.command("bake")(bake)
    app.command("plan")(plan)


def select_recipes(
    settings: Settings, names: list[str] | None, overrides: list[str] | None
) -> dict[str, Recipe]:
    """The named recipes with their ancestors (all if none is named); ``--set`` goes to the named ones."""
    from baker.recipes import apply_overrides, load_recipes

    assert settings.project is not None
    found = dict(load_recipes(settings.project, names or None, folder=settings.recipes))
    for name in names or list(found):
        found[name] = apply_overrides(found[name], overrides or [])
    return found


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
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", metavar="N", min=1, help="How many recipes are baked at once.")
    ] = 1,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Fail where another process bakes the same recipe now.")
    ] = False,
    offline: Offline = False,
    as_json: Json = False,
) -> int:
    """Bake what is not up to date: all recipes, or those named."""
    from baker.execution import execute_plan, list_source_warnings, plan_bakes
    from baker.interrupt import Interruption
    from baker.kitchen import Kitchen

    if on_error not in ("teardown", "keep", "shell"):
        raise UsageError(f"--on-error takes teardown, keep or shell, not {on_error!r}")
    options: Options = context.obj
    console = ProgressConsole(as_json=as_json, several=jobs > 1)
    if on_error == "shell":
        require_terminal(console, jobs=jobs)
    interruption = Interruption()
    with interruption.installed():
        settings = options.project_settings()
        found = select_recipes(settings, recipes, overrides)
        asked = {name: found[name] for name in recipes or found}
        chosen = choose_targets(settings, asked, targets)
        # Those that are not baked for as well: what makes a version complete is theirs to say.
        wanted = {target for recipe in found.values() for target in recipe.targets}
        detached = on_error == "keep"
        providers = make_providers(settings, targets=wanted, offline=offline, detached=detached)
        check_providers(providers, chosen)
        with open_catalog(settings) as catalog:
            kitchen = Kitchen(
                catalog=catalog,
                providers=providers,
                settings=settings,
                environ=os.environ,
                show=console.show,
                interruption=interruption,
                targets=chosen,
                keep_failed=on_error == "keep",
                enter_failed=shell_opener(console) if on_error == "shell" else None,
            )
            entries = plan_bakes(found, kitchen, selected=recipes or None, force=force)
            say_warnings(console, list_source_warnings(found, entries, catalog))
            results = execute_plan(found, entries, kitchen, jobs=jobs, wait=not no_wait)
    if as_json:
        console.result_json({"bakes": [bake_json(result) for result in results]})
    return int(any(result.outcome in (Outcome.FAILED, Outcome.BLOCKED) for result in results))


@explaining_refusals()
def plan(
    context: typer.Context,
    recipes: Recipes = None,
    targets: Targets = None,
    force: Force = False,
    overrides: Set = None,
    offline: Offline = False,
    as_json: Json = False,
) -> int:
    """Say what `bake` would do, and why. Starts nothing."""
    from baker.execution import list_source_warnings, plan_bakes
    from baker.interrupt import Interruption
    from baker.kitchen import Kitchen

    options: Options = context.obj
    console = ProgressConsole(as_json=as_json)
    settings = options.project_settings()
    found = select_recipes(settings, recipes, overrides)
    asked = {name: found[name] for name in recipes or found}
    chosen = choose_targets(settings, asked, targets)
    with open_catalog(settings, read_only=True, or_empty=True) as catalog:
        kitchen = Kitchen(
            catalog=catalog,
            providers=make_providers(settings, targets=chosen, offline=offline),
            settings=settings,
            environ=os.environ,
            show=console.show,
            interruption=Interruption(),
            targets=chosen,
        )
        entries = plan_bakes(found, kitchen, selected=recipes or None, force=force)
        say_warnings(console, list_source_warnings(found, entries, catalog))
    if as_json:
        console.result_json({"recipes": [plan_json(entry) for entry in entries]})
        return 0
    rows = [
        (
            entry.recipe,
            f"{entry.target}/{entry.arch}",
            str(entry.action),
            "; ".join(r.detail for r in entry.reasons),
        )
        for entry in entries
    ]
    console.table(("RECIPE", "TARGET", "ACTION", "WHY"), rows)
    return 0


def plan_json(entry: Any) -> dict[str, Any]:
    return {
        "recipe": entry.recipe,
        "target": entry.target,
        "arch": entry.arch,
        "action": str(entry.action),
        "reasons": [{"kind": reason.kind, "detail": reason.detail} for reason in entry.reasons],
    }
