"""recipe ls, recipe schema, validate."""

from __future__ import annotations

from typing import Annotated

import typer

from baker.cli.wiring import Options, load_project_recipes
from baker.console import Console
from baker.errors import RecipeError


def add_commands(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="List recipes; what they may hold.")
    group.command("ls")(list_recipes)
    group.command("schema")(print_schema)
    app.add_typer(group, name="recipe")
    app.command("validate")(validate)


def list_recipes(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print the documented JSON.")] = False,
) -> int:
    """List the project's recipes, with what each starts from."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    recipes = load_project_recipes(options.project_settings())
    if as_json:
        described = [
            {
                "name": recipe.name,
                "description": recipe.description,
                "targets": {name: {"from": str(spec.source)} for name, spec in recipe.targets.items()},
                "image_tests": len(recipe.image_tests),
            }
            for recipe in recipes.values()
        ]
        console.result_json({"recipes": described})
        return 0
    rows = [
        (
            recipe.name,
            ", ".join(sorted({str(spec.source) for spec in recipe.targets.values()})),
            ", ".join(recipe.targets),
            recipe.description,
        )
        for recipe in recipes.values()
    ]
    console.table(("RECIPE", "FROM", "TARGETS", "DESCRIPTION"), rows)
    return 0


def print_schema() -> int:
    """Print the JSON Schema of recipe.toml, for editors."""
    from baker.recipes import recipe_schema

    Console().result_json(recipe_schema())
    return 0


def validate(context: typer.Context) -> int:
    """Check every recipe and say all that is wrong. Starts nothing."""
    from baker.recipes import validate_all

    options: Options = context.obj
    settings = options.project_settings()
    assert settings.project is not None
    problems = validate_all(settings.project, folder=settings.recipes)
    if problems:
        raise RecipeError("\n".join(["the recipes do not hold:", *(f"  {problem}" for problem in problems)]))
    Console().result(f"{len(load_project_recipes(settings))} recipes are valid")
    return 0
