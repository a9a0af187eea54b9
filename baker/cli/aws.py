"""aws policy."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

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
    from baker.providers.aws.policy_deploy import DeployScope
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
    deploy: Annotated[
        bool, typer.Option("--deploy", help="What environments need instead, for who deploys.")
    ] = False,
) -> int:
    """Print the IAM policy for what is configured, with no right that baker does not use.

    It covers every recipe that has the target aws: bake, promote, prune, sweep and all other commands. What
    deployments take is a policy of its own: --deploy.
    """
    from baker.providers.aws.policy import build_policy, explain_policy

    options: Options = context.obj
    console = Console()
    if deploy:
        return _print_deploy_policy(options, console, account)
    scope = describe_scope(options.project_settings(), account, tuple(further or ()))
    written = build_policy(scope)
    console.result_json(written)
    for note in explain_policy(scope, written):
        console.say(note)
    return 0


def _print_deploy_policy(options: Options, console: Console, account: str | None) -> int:
    from baker.providers.aws.policy_deploy import SERVICE_LINKED_ROLES, build_deploy_policy

    console.result_json(build_deploy_policy(describe_deploy_scope(options.project_settings(), account)))
    console.say(SERVICE_LINKED_ROLES)
    if account is None:
        console.say("It may name no account: --account ID narrows it to one.")
    return 0


def describe_deploy_scope(settings: Settings, account: str | None) -> DeployScope:
    """Raises UsageError where no environment has the target aws, SettingsError without a region."""
    from baker.deploy.reading import list_environments, load_environment
    from baker.providers.aws.policy_deploy import DeployScope, Served

    require_configured(settings, "aws")
    _require_account(account)
    table = base_settings(settings, "aws")
    served = []
    assert settings.project is not None  # aws is configured there
    for name in list_environments(settings.project):
        environment = load_environment(settings.project, name, base={"aws": table})
        if environment.target == "aws":
            profile = environment.settings.get("instance_profile")
            served.append(Served(region=_find_region(environment.settings), instance_profile=profile))
    if not served:
        raise UsageError(
            "no environment has the target aws",
            hint='One that has says target = "aws": environments/NAME.toml',
        )
    role = table.get("role")
    return DeployScope(served=served, account=account or (role.split(":")[4] if role else "*"), role=role)


def _require_account(account: str | None) -> None:
    if account is not None and not re.fullmatch(r"[0-9]{12}", account):
        raise UsageError(f"--account takes the 12 digits of an account, not {account}")


def _find_region(values: Mapping[str, Any]) -> str:
    region = values.get("region") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise SettingsError(
            "no AWS region is set",
            hint='Set it: [aws] region = "eu-west-1" in baker.toml, or AWS_DEFAULT_REGION',
        )
    return str(region)


def describe_scope(settings: Settings, account: str | None, further: tuple[str, ...]) -> Scope:
    """Raises UsageError where aws is not configured or no recipe has it, SettingsError without a region."""
    from baker.providers.aws.policy_scope import Scope, list_needs

    require_configured(settings, "aws")
    _require_account(account)
    recipes = load_project_recipes(settings)
    choose_targets(settings, recipes, ["aws"])
    table = base_settings(settings, "aws")
    needs: list[Need] = []
    for spec in (recipe.targets["aws"] for recipe in recipes.values() if "aws" in recipe.targets):
        values = target_settings(settings, spec)
        query = spec.source.query if isinstance(spec.source, AmiSource) else None
        needs += list_needs(values, query, _find_region(values))
    role = table.get("role")
    return Scope(
        needs=needs,
        account=account or (role.split(":")[4] if role else "*"),
        role=role,
        further=further,
    )
