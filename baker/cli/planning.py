"""plan."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli.kitchens import (
    Ephemeral,
    Force,
    Gate,
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
from baker.cli.wiring import Options, explaining_refusals
from baker.console import say_warnings
from baker.errors import UsageError
from baker.progress_console import ProgressConsole

if TYPE_CHECKING:
    from baker.model import Recipe
    from baker.plan import PlanEntry

FOUND = 3
"""The exit code of --check where something is stale."""


def add_commands(app: typer.Typer) -> None:
    app.command("plan")(plan)


@explaining_refusals()
def plan(
    context: typer.Context,
    recipes: Recipes = None,
    targets: Targets = None,
    force: Force = False,
    overrides: Set = None,
    gate: Gate = None,
    since: Since = None,
    channel: Preview = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 3 if anything is to be baked, verified or is blocked.")
    ] = False,
    graph: Annotated[bool, typer.Option("--graph", help="Draw what is built upon what.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print markdown; with --graph as mermaid.")
    ] = False,
    summary: Summary = None,
    offline: Offline = False,
    refresh: Refresh = False,
    ephemeral: Ephemeral = False,
    as_json: Json = False,
) -> int:
    """Say what `bake` would do, and why. Starts no machine and needs no root."""
    from baker.ci import refuse_throwaway
    from baker.execution import list_source_warnings, plan_bakes
    from baker.interrupt import Interruption
    from baker.previews import require_preview_channel

    if markdown and as_json:
        raise UsageError("--markdown and --json do not go together")
    if offline and refresh:
        raise UsageError("--offline forbids to fetch what --refresh asks for")
    options: Options = context.obj
    console = ProgressConsole(as_json=as_json)
    settings = options.project_settings()
    refuse_throwaway(settings, os.environ, ephemeral=ephemeral)
    found = select_recipes(settings, recipes, overrides, gate)
    with open_kitchen(
        settings,
        console,
        found,
        Interruption(),
        asked=recipes,
        targets=targets,
        bakes=False,
        offline=offline,
        refresh=refresh,
        preview=channel,
    ) as kitchen:
        if channel:
            require_preview_channel(kitchen.catalog, channel, found, settings.named_channels)
        touched = find_touched_since(kitchen, found, recipes, since, console) if since else None
        selected = (recipes or None) if touched is None else [one.recipe for one in touched]
        entries = plan_bakes(found, kitchen, selected=selected, force=force)
        say_warnings(console, list_source_warnings(found, entries, kitchen.catalog))
    told = ""
    if markdown or summary:
        from baker.summary import markdown_plan

        told = markdown_plan(entries, touched=touched or ())
    append_summary(summary, told)
    if as_json:
        console.result_json(plan_json(found, entries, graph=graph))
    elif graph:
        print_graph(console, found, entries, markdown=markdown)
    elif markdown:
        console.result(told.rstrip())
    else:
        print_plan(console, entries)
    return FOUND if check and any(entry.is_stale for entry in entries) else 0


def print_plan(console: ProgressConsole, entries: Sequence[PlanEntry]) -> None:
    from baker.plan import describe_why

    rows = [
        (entry.recipe, f"{entry.target}/{entry.arch}", str(entry.action), describe_why(entry))
        for entry in entries
    ]
    console.table(("RECIPE", "TARGET", "ACTION", "WHY"), rows)


def print_graph(
    console: ProgressConsole, recipes: Mapping[str, Recipe], entries: Sequence[PlanEntry], *, markdown: bool
) -> None:
    from baker.graph import draw_mermaid, draw_tree

    if markdown:
        console.result("\n".join(["```mermaid", *draw_mermaid(recipes, entries), "```"]))
    else:
        console.result("\n".join(draw_tree(recipes, entries)))


# --- documented JSON ----------------------------------------------------------------------------------


def plan_json(
    recipes: Mapping[str, Recipe], entries: Sequence[PlanEntry], *, graph: bool = False
) -> dict[str, Any]:
    """``plan --json``; with ``--graph`` it says what each recipe starts from."""
    return {
        "stale": any(entry.is_stale for entry in entries),
        "recipes": [entry_json(entry, recipes if graph else None) for entry in entries],
    }


def entry_json(entry: PlanEntry, recipes: Mapping[str, Recipe] | None = None) -> dict[str, Any]:
    source = {} if recipes is None else {"source": str(recipes[entry.recipe].targets[entry.target].source)}
    return {
        "recipe": entry.recipe,
        "target": entry.target,
        "arch": entry.arch,
        **source,
        "action": str(entry.action),
        "reasons": [{"kind": reason.kind, "detail": reason.detail} for reason in entry.reasons],
        "updates": [
            {
                "package": update.name,
                "arch": update.arch,
                "from": update.installed,
                "to": update.candidate,
                "security": update.security,
            }
            for update in entry.updates
        ],
        "note": entry.note,
    }
