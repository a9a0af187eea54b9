"""What commands that plan and bake have in common: their options, the recipes they mean, a kitchen."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli.completion import complete_channel, complete_recipe, complete_target
from baker.cli.wiring import check_providers, choose_targets, make_providers, make_updates, open_catalog
from baker.errors import UsageError
from baker.settings import Settings

if TYPE_CHECKING:
    from baker.interrupt import Interruption
    from baker.kitchen import Kitchen
    from baker.model import Recipe
    from baker.progress_console import ProgressConsole
    from baker.since import Touched

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
Refresh = Annotated[
    bool, typer.Option("--refresh", help="Fetch package indexes also where they are younger than an hour.")
]
Jobs = Annotated[
    int, typer.Option("--jobs", "-j", metavar="N", min=1, help="How many recipes are baked at once.")
]
Gate = Annotated[
    str | None,
    typer.Option(
        "--gate",
        metavar="CHANNEL",
        help="Build children upon what this channel of their parent holds, not upon its newest image.",
        autocompletion=complete_channel,
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="REF",
        help="Only what was changed since this git commit or branch, and what is built upon it.",
    ),
]
Preview = Annotated[
    str | None,
    typer.Option(
        "--channel",
        metavar="NAME",
        help="For a preview of this name (pr-123): its images are nobody's latest, and go when it expires.",
        autocompletion=complete_channel,
    ),
]
Summary = Annotated[
    Path | None, typer.Option("--summary", metavar="FILE", help="Append a summary to it, as markdown.")
]
Ephemeral = Annotated[
    bool, typer.Option("--ephemeral", help="In CI: the catalog may be thrown away after this job.")
]


def select_recipes(
    settings: Settings, names: Sequence[str] | None, overrides: Sequence[str] | None, gate: str | None = None
) -> dict[str, Recipe]:
    """The named recipes with their ancestors (all if none is named); ``--set`` goes to the named ones.

    With a ``gate`` children start from what that channel of their parent holds.
    """
    from baker.plan import follow_channel
    from baker.recipes import apply_overrides, load_recipes

    assert settings.project is not None
    found = dict(load_recipes(settings.project, names or None, folder=settings.recipes))
    for name in names or list(found):
        found[name] = apply_overrides(found[name], overrides or [])
    return follow_channel(found, gate) if gate else found


def find_touched_since(
    kitchen: Kitchen,
    recipes: Mapping[str, Recipe],
    named: Sequence[str] | None,
    since: str,
    console: ProgressConsole,
) -> list[Touched]:
    """Of the named recipes (all if none is) those that were touched since a commit; says which, and why."""
    from baker.execution import archs_here
    from baker.since import describe_touched, find_touched, list_changes, newest_builds

    assert kitchen.settings.project is not None
    changes = list_changes(kitchen.settings.project, since)
    knowledge = kitchen.knowledge.foreseeing(recipes)
    builds = newest_builds(recipes, knowledge.known_builds, archs_here(kitchen))
    selection = find_touched(changes, recipes, builds, kitchen.settings)
    for note in selection.notes:
        console.say(note)
    touched = [one for one in selection.touched if not named or one.recipe in named]
    for one in touched:
        console.say(f"{console.style(one.recipe, 'bold')}: {describe_touched(one)}")
    if not touched:
        console.say(f"Nothing that a recipe depends on was changed since {since}")
    return touched


def append_summary(path: Path | None, markdown: str) -> None:
    """Raises UsageError where it cannot be written."""
    if path is None:
        return
    try:
        with path.open("a") as file:
            file.write(markdown)
    except OSError as error:
        raise UsageError(f"the summary {path} cannot be written: {error.strerror}") from error


@contextmanager
def open_kitchen(
    settings: Settings,
    console: ProgressConsole,
    recipes: Mapping[str, Recipe],
    interruption: Interruption,
    *,
    asked: Sequence[str] | None,
    targets: Sequence[str] | None,
    bakes: bool,
    offline: bool = False,
    refresh: bool = False,
    detached: bool = False,
    **options: Any,
) -> Iterator[Kitchen]:
    """A kitchen for the targets that the recipes asked for have. ``options`` are more of ``Kitchen``.

    One that ``bakes`` is checked before anything starts, writes the catalog, and has the providers of every
    target of its recipes: what makes a version complete is theirs to say.
    """
    from baker.kitchen import Kitchen

    chosen = choose_targets(settings, {name: recipes[name] for name in asked or recipes}, targets)
    wanted = {target for recipe in recipes.values() for target in recipe.targets} if bakes else chosen
    providers = make_providers(settings, targets=wanted, offline=offline, refresh=refresh, detached=detached)
    if bakes:
        check_providers(providers, chosen)
    with open_catalog(settings, read_only=not bakes, or_empty=not bakes) as catalog:
        yield Kitchen(
            catalog=catalog,
            providers=providers,
            settings=settings,
            environ=os.environ,
            show=console.show,
            interruption=interruption,
            targets=chosen,
            updates=make_updates(settings, offline=offline, refresh=refresh),
            **options,
        )
