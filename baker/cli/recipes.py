"""recipe ls, recipe schema, validate."""

from __future__ import annotations

from typing import Annotated

import typer

from baker.cli.wiring import Options, load_project_recipes
from baker.console import Console
from baker.errors import EnvironmentFileError, RecipeError


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


def print_schema(
    of_environment: Annotated[
        bool, typer.Option("--environment", help="Of environments/NAME.toml instead.")
    ] = False,
) -> int:
    """Print the JSON Schema of recipe.toml, for editors."""
    from baker.deploy.schema import environment_schema
    from baker.recipes import recipe_schema

    Console().result_json(environment_schema() if of_environment else recipe_schema())
    return 0


def validate(context: typer.Context) -> int:
    """Check every recipe and environment, and say all that is wrong. Starts nothing."""
    from baker.deploy.reading import list_environments, validate_environments
    from baker.recipes import load_sound_recipes, validate_all

    options: Options = context.obj
    settings = options.project_settings()
    assert settings.project is not None
    recipes, problems = load_sound_recipes(settings.project, folder=settings.recipes)
    if not recipes and not problems:  # for want of the folder, which only this says
        problems = validate_all(settings.project, folder=settings.recipes)
    unfit = validate_environments(settings.project, recipes, recipes_folder=settings.recipes)
    lines = ["the recipes do not hold:", *(f"  {problem}" for problem in problems)] if problems else []
    if unfit:
        lines += ["the environments do not hold:", *(f"  {problem}" for problem in unfit)]
    if lines:
        raise (RecipeError if problems else EnvironmentFileError)("\n".join(lines))
    environments = len(list_environments(settings.project))
    also = f" and {environments} environment{'s' * (environments > 1)}" if environments else ""
    Console().result(f"{len(recipes)} recipes{also} are valid")
    return 0
