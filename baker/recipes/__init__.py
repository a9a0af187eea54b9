"""The folder ``recipes/`` as Recipe values, and everything that can be wrong with it.

Reading never executes a recipe. A problem names file, line and key; ``validate_all`` finds them all.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from baker.errors import RecipeError, RecipeNotFound
from baker.model import Recipe, Reference, Source
from baker.recipes.data import apply_overrides, merge_data
from baker.recipes.reading import ReadRecipe, read_recipe
from baker.recipes.schema import DISTRIBUTIONS, recipe_schema
from baker.toml_file import Document, KeyPath, Problem, nearest

__all__ = [
    "apply_overrides",
    "load_recipe",
    "load_recipes",
    "load_sound_recipes",
    "merge_data",
    "parent_of",
    "recipe_schema",
    "validate_all",
]


def load_recipes(
    project: Path, names: Iterable[str] | None = None, *, folder: Path | None = None
) -> Mapping[str, Recipe]:
    """All recipes, or the named ones with their ancestors, sorted by name.

    ``folder`` is the project's ``recipes/`` if not given. A problem in a recipe that was not asked for
    does not matter. Raises RecipeNotFound (offers the nearest), or RecipeError with one line per problem.
    """
    folder = folder or project / "recipes"
    if not folder.is_dir():
        raise RecipeError(f"{folder} is no folder", hint='Make it, or set "recipes" in baker.toml')
    known = dict.fromkeys(_find_folders(folder))
    wanted = list(known if names is None else names)
    for name in wanted:
        if name not in known:
            raise RecipeNotFound(
                f'no recipe "{name}" in {folder}{nearest(name, known)}',
                hint="List them: baker recipe ls",
            )
    read: dict[str, ReadRecipe] = {}
    while wanted:
        name = wanted.pop()
        if name not in read:
            read[name] = read_recipe(project, folder / name)
            wanted += [parent for parent in _find_parents(read[name].recipe) if parent in known]
    problems = _collect_problems(read, known)
    if problems:
        raise RecipeError("\n".join(map(str, problems)), hint="Check them all: baker validate")
    return {name: recipe for name in sorted(read) if (recipe := read[name].recipe) is not None}


def load_recipe(project: Path, name: str, *, folder: Path | None = None) -> Recipe:
    """One recipe; its ancestors are checked too. Raises RecipeNotFound or RecipeError."""
    return load_recipes(project, [name], folder=folder)[name]


def validate_all(project: Path, *, folder: Path | None = None) -> list[Problem]:
    """Everything that is wrong with any recipe, in the order of files and lines."""
    folder = folder or project / "recipes"
    if not folder.is_dir():
        return [Problem(file=str(folder.relative_to(project)), message="no such folder")]
    return load_sound_recipes(project, folder=folder)[1]


def load_sound_recipes(
    project: Path, *, folder: Path | None = None
) -> tuple[Mapping[str, Recipe], list[Problem]]:
    """The recipes that nothing is wrong with, nor with what they are built upon; and all that is wrong."""
    folder = folder or project / "recipes"
    known = dict.fromkeys(_find_folders(folder))
    read = {name: read_recipe(project, folder / name) for name in known}
    problems = _collect_problems(read, known)
    bad = {name for name in known if any(Path(each.file).parent.name == name for each in problems)}
    bad |= {name for name in known if read[name].recipe is None}
    while blocked := {name for name in read.keys() - bad if bad & {*_find_parents(read[name].recipe)}}:
        bad |= blocked
    sound = {name: recipe for name in known if name not in bad and (recipe := read[name].recipe)}
    return sound, problems


def parent_of(source: Source) -> str | None:
    """The parent recipe's name, None for a root."""
    return source.recipe if isinstance(source, Reference) else None


def _find_folders(folder: Path) -> list[str]:
    """Names of the folders that are meant as recipes. Paths are text: there may be a thousand."""
    if not folder.is_dir():
        return []
    marks = ("recipe.toml", "deploy.py")
    return sorted(
        name
        for name in os.listdir(folder)  # noqa: PTH208
        if not name.startswith((".", "_"))
        and any(os.path.exists(f"{folder}/{name}/{mark}") for mark in marks)  # noqa: PTH110
    )


# --- checks across recipes --------------------------------------------------------------------------


def _find_parents(recipe: Recipe | None) -> list[str]:
    sources = [spec.source for spec in recipe.targets.values()] if recipe else []
    return [parent for source in sources if (parent := parent_of(source)) is not None]


def _collect_problems(read: Mapping[str, ReadRecipe], known: Collection[str]) -> list[Problem]:
    problems = [problem for one in read.values() for problem in one.problems]
    for one in read.values():
        problems += _check_parents(one, read, known)
    problems += _check_cycles(read)
    return sorted(set(problems), key=lambda problem: (problem.file, problem.line or 0, problem.column or 0))


def _from_path(document: Document, target: str) -> KeyPath:
    own = "from" in document.values.get("targets", {}).get(target, {})
    return ("targets", target, "from") if own else ("from",)


def _check_parents(
    one: ReadRecipe, read: Mapping[str, ReadRecipe], known: Collection[str]
) -> Iterator[Problem]:
    if one.recipe is None or one.document is None:
        return
    for target, spec in one.recipe.targets.items():
        parent = parent_of(spec.source)
        path = _from_path(one.document, target)
        if parent is not None and parent not in known:
            offered = nearest(parent, {*known, *DISTRIBUTIONS} - {one.name})
            yield one.document.problem(path, f'from = "{spec.source}": no recipe "{parent}"{offered}')
        elif parent is not None and (found := read[parent].recipe) and target not in found.targets:
            only = ", ".join(found.targets)
            message = f'from = "{spec.source}": recipe {parent} has no target {target} ({only} only)'
            yield one.document.problem(path, message)


def _check_cycles(read: Mapping[str, ReadRecipe]) -> Iterator[Problem]:
    """One problem per circle, at the alphabetically first recipe of it. Targets are taken together."""
    parents = {name: _find_parents(one.recipe) for name, one in read.items()}
    for name, one in read.items():
        circle = _find_circle(name, parents)
        if circle and name == min(circle) and one.recipe and one.document:
            target = next(t for t, spec in one.recipe.targets.items() if parent_of(spec.source) == circle[1])
            message = f'"from" goes in a circle: {" -> ".join(circle)}'
            yield one.document.problem(_from_path(one.document, target), message)


def _find_circle(name: str, parents: Mapping[str, Sequence[str]]) -> list[str] | None:
    """The shortest way from a recipe over parents back to itself."""
    trails, seen = [[name]], set[str]()
    for trail in trails:  # grows: breadth first
        for parent in parents.get(trail[-1], ()):
            if parent == name:
                return [*trail, name]
            if parent not in seen:
                seen.add(parent)
                trails.append([*trail, parent])
    return None
