"""bake, plan, logs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from baker.cli.wiring import Options, make_providers, open_catalog
from baker.console import Console, bake_json
from baker.errors import CatalogError, UsageError
from baker.model import Outcome, Recipe
from baker.settings import Settings

Recipes = Annotated[
    list[str] | None, typer.Argument(metavar="[RECIPE]…", help="All recipes if none is named.")
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
    app.command("logs")(logs)


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
    force: Force = False,
    overrides: Set = None,
    on_error: Annotated[
        str,
        typer.Option("--on-error", metavar="teardown|keep", help="Keep the build instance of a failed bake."),
    ] = "teardown",
    offline: Offline = False,
    as_json: Json = False,
) -> int:
    """Bake what is not up to date: all recipes, or those named."""
    from baker.execution import execute_plan, plan_bakes
    from baker.interrupt import Interruption
    from baker.kitchen import Kitchen

    if on_error not in ("teardown", "keep"):
        raise UsageError(f"--on-error takes teardown or keep, not {on_error!r}")
    options: Options = context.obj
    console = Console(as_json=as_json)
    interruption = Interruption()
    with interruption.installed():
        settings = options.project_settings()
        found = select_recipes(settings, recipes, overrides)
        providers = make_providers(settings, offline=offline, detached=on_error == "keep")
        for provider in providers.values():
            provider.check()
        with open_catalog(settings) as catalog:
            kitchen = Kitchen(
                catalog=catalog,
                providers=providers,
                settings=settings,
                environ=os.environ,
                show=console.show,
                interruption=interruption,
                keep_failed=on_error == "keep",
            )
            entries = plan_bakes(found, kitchen, selected=recipes or None, force=force)
            results = execute_plan(found, entries, kitchen)
    if as_json:
        console.result_json({"bakes": [bake_json(result) for result in results]})
    return int(any(result.outcome in (Outcome.FAILED, Outcome.BLOCKED) for result in results))


def plan(
    context: typer.Context,
    recipes: Recipes = None,
    force: Force = False,
    overrides: Set = None,
    offline: Offline = False,
    as_json: Json = False,
) -> int:
    """Say what `bake` would do, and why. Starts nothing."""
    from baker.execution import plan_bakes
    from baker.interrupt import Interruption
    from baker.kitchen import Kitchen

    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.project_settings()
    found = select_recipes(settings, recipes, overrides)
    with open_catalog(settings, read_only=True, or_empty=True) as catalog:
        kitchen = Kitchen(
            catalog=catalog,
            providers=make_providers(settings, offline=offline),
            settings=settings,
            environ=os.environ,
            show=console.show,
            interruption=Interruption(),
        )
        entries = plan_bakes(found, kitchen, selected=recipes or None, force=force)
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


def logs(
    context: typer.Context,
    bake_id: Annotated[str, typer.Argument(metavar="BAKE", help="Its id, or the beginning of it.")],
) -> int:
    """Print the complete log of a bake."""
    from baker.identity import host_name

    options: Options = context.obj
    console = Console()
    with open_catalog(options.settings(), read_only=True) as catalog:
        record = catalog.bake(bake_id)
    path = Path(record.log_path)
    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        where = "" if record.host == host_name() else f" (the bake ran on {record.host})"
        raise CatalogError(f"the log {path} cannot be read{where}: {error.strerror}") from error
    with file:
        for line in file:
            console.result(line.rstrip("\n"))
    return 0
