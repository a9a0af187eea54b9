"""What the shell offers on <tab>. Quick, and silent whatever is wrong: a prompt is no place for an error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import typer

from baker.cli.wiring import Options, open_catalog
from baker.model import LATEST
from baker.settings import TARGETS

if TYPE_CHECKING:
    from baker.catalog import Catalog

VARIABLE = "_BAKER_COMPLETE"
"""Set by the shell's script when it asks for completions."""

BEFORE_COLON = "_BAKER_COMPLETE_BEFORE_COLON"

NEWEST = 20
"""So many versions and bakes are offered; older ones can still be typed."""


def complete_recipe(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the project's recipes."""
    with suppress(Exception):
        given = context.params.get("recipes") or ()
        return [name for name in _fitting(_list_recipes(context), incomplete) if name not in given]
    return []


def complete_reference(context: typer.Context, incomplete: str) -> list[str]:
    """Names of recipes; after a colon the recipe's channels and newest versions."""
    before = os.environ.get(BEFORE_COLON, "")
    recipe, colon, _ = f"{before}{incomplete}".partition(":")
    if not colon:
        return complete_recipe(context, incomplete)
    offered = _ask_catalog(
        context, f"{before}{incomplete}", lambda catalog: _list_references(catalog, recipe)
    )
    return [word.removeprefix(before) for word in offered]


def complete_channel(context: typer.Context, incomplete: str) -> list[str]:
    return _ask_catalog(context, incomplete, _list_channels)


def complete_environment(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the project's environments, and of those that were deployed."""
    found: list[str] = []
    with suppress(Exception):
        found += _fitting(_list_environments(context), incomplete)
    found += _ask_catalog(
        context, incomplete, lambda catalog: [record.name for record in catalog.environments()]
    )
    return sorted(set(found))


def complete_target(incomplete: str) -> list[str]:
    return _fitting(TARGETS, incomplete)


def complete_bake(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of bakes, the newest first."""
    return _ask_catalog(
        context, incomplete, lambda catalog: [record.id for record in catalog.bakes(limit=NEWEST)]
    )


def complete_log(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of bakes, and environments."""
    environments = [f"{name}/" for name in complete_environment(context, incomplete)]
    return [*environments, *complete_bake(context, incomplete)]


def join_words_at_colons(environ: MutableMapping[str, str]) -> None:
    """bash splits web:prod into three words, and completes the last: here they are one again.

    What stands before it, up to the colon, is left in ``BEFORE_COLON``.
    """
    if environ.get(VARIABLE) != "complete_bash" or "COMP_WORDS" not in environ:
        return
    words = environ["COMP_WORDS"].split("\n")[: int(environ.get("COMP_CWORD", "0")) + 1]
    joined = words[:1]
    for before, word in pairwise(words):
        if len(joined) > 1 and (word == ":" or before == ":"):
            joined[-1] += word
        else:
            joined.append(word)
    before, colon, last = joined[-1].rpartition(":")
    environ[BEFORE_COLON] = before + colon
    environ["COMP_WORDS"], environ["COMP_CWORD"] = "\n".join([*joined[:-1], last]), str(len(joined) - 1)


def _list_recipes(context: typer.Context) -> list[str]:
    folder = _options(context).project_settings().recipes
    return sorted(path.parent.name for path in folder.glob("[a-z]*/recipe.toml")) if folder else []


def _list_environments(context: typer.Context) -> list[str]:
    """By their files alone: ``baker.deploy.reading`` would take as long to import as all the rest."""
    project = _options(context).project_settings().project
    return sorted(path.stem for path in project.glob("environments/[a-z]*.toml")) if project else []


def _list_references(catalog: Catalog, recipe: str) -> Iterable[str]:
    images = catalog.images(recipe)
    yield from (f"{recipe}:{channel}" for image in images for channel in image.channels)
    yield from (image.reference for image in images[:NEWEST])


def _list_channels(catalog: Catalog) -> Iterable[str]:
    return (move.channel for move in catalog.channels() if move.channel != LATEST)


def _ask_catalog(
    context: typer.Context, incomplete: str, question: Callable[[Catalog], Iterable[str]]
) -> list[str]:
    with suppress(Exception), open_catalog(_options(context).settings(), read_only=True) as catalog:
        return _fitting(question(catalog), incomplete)
    return []


def _fitting(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in dict.fromkeys(map(str, words)) if word.startswith(incomplete)]


def _options(context: typer.Context) -> Options:
    """What stands before the command: its callback, which keeps it, does not run for a completion."""
    given: dict[str, Any] = context.find_root().params
    return Options(project=given.get("project") or None, catalog=given.get("catalog") or None)
