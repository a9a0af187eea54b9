"""aws policy."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated

import typer

from baker.cli.wiring import (
    Options,
    base_settings,
    choose_targets,
    load_project_recipes,
    require_configured,
)
from baker.console import Console
from baker.errors import SettingsError, UsageError
from baker.model import AmiSource
from baker.settings import Settings, target_settings

if TYPE_CHECKING:
    from baker.providers.aws.policy_scope import Need, Scope


def add_commands(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="What AWS has to allow.")
    group.command("policy")(policy)
    app.add_typer(group, name="aws")


def policy(
    context: typer.Context,
    account: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The account that bakes (12 digits): names it instead of any."),
    ] = None,
    further: Annotated[
        list[str] | None,
        typer.Option(
            "--region", metavar="REGION", help="Also where older images still are, for prune and sweep."
        ),
    ] = None,
) -> int:
    """Print the IAM policy for what is configured, with no right that baker does not use.

    It covers every recipe that has the target aws: bake, promote, prune, sweep and all other commands.
    """
    from baker.providers.aws.policy import build_policy, explain_policy

    options: Options = context.obj
    console = Console()
    scope = describe_scope(options.project_settings(), account, tuple(further or ()))
    written = build_policy(scope)
    console.result_json(written)
    for note in explain_policy(scope, written):
        console.say(note)
    return 0


def describe_scope(settings: Settings, account: str | None, further: tuple[str, ...]) -> Scope:
    """Raises UsageError where aws is not configured or no recipe has it, SettingsError without a region."""
    from baker.providers.aws.policy_scope import Scope, list_needs

    require_configured(settings, "aws")
    if account is not None and not re.fullmatch(r"[0-9]{12}", account):
        raise UsageError(f"--account takes the 12 digits of an account, not {account}")
    recipes = load_project_recipes(settings)
    choose_targets(settings, recipes, ["aws"])
    table = base_settings(settings, "aws")
    needs: list[Need] = []
    for spec in (recipe.targets["aws"] for recipe in recipes.values() if "aws" in recipe.targets):
        values = target_settings(settings, spec)
        region = values.get("region") or os.environ.get("AWS_DEFAULT_REGION")
        if not region:
            raise SettingsError(
                "no AWS region is set",
                hint='Set it: [aws] region = "eu-west-1" in baker.toml, or AWS_DEFAULT_REGION',
            )
        query = spec.source.query if isinstance(spec.source, AmiSource) else None
        needs += list_needs(values, query, region)
    role = table.get("role")
    return Scope(
        needs=needs,
        account=account or (role.split(":")[4] if role else "*"),
        role=role,
        further=further,
    )
