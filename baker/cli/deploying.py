"""deploy, env promote."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli import groups
from baker.cli.completion import complete_environment, complete_reference
from baker.cli.deployers import (
    Json,
    Name,
    Wait,
    Why,
    find_environment,
    interruptible,
    make_deployer,
    options_of,
    read_wait,
    require_here,
)
from baker.cli.proposals import describe_change, list_changed_settings
from baker.cli.wiring import base_settings, explaining_refusals, make_providers, open_catalog
from baker.console import Console, say_warnings
from baker.errors import CatalogError, StoreError, UsageError
from baker.life import list_warnings
from baker.model import Artifact, Build, Image, Reference
from baker.settings import TARGETS, Settings

if TYPE_CHECKING:
    from baker.deploy.deployer import Deployer
    from baker.deploy.environment import Environment
    from baker.deploy.proposal import Proposal
    from baker.deploy.side import FirstBoot

Steps = Annotated[
    str | None,
    typer.Option("--steps", metavar="10,50,100", help="Percent of the traffic, one step after the other."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would change; make nothing.")]
Force = Annotated[bool, typer.Option("--force", help="New machines also where nothing would change.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """How a deployment is asked for."""

    steps: tuple[int, ...] | None
    dry_run: bool
    force: bool
    wait: float
    reason: str | None


def add_commands(app: typer.Typer) -> None:
    app.command("deploy")(deploy)
    groups.env.command("promote")(promote)


@explaining_refusals()
def deploy(
    context: typer.Context,
    name: Name,
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="[REF]",
            help="web:12, web:prod, web@sha256:ab12…, or 12 or prod; else what the environment's file says.",
            autocompletion=complete_reference,
        ),
    ] = None,
    steps: Steps = None,
    dry_run: DryRun = False,
    force: Force = False,
    wait: Wait = None,
    reason: Why = None,
    as_json: Json = False,
) -> int:
    """Replace an environment's machines by new ones from an image, and move the traffic once all are healthy.

    Whatever fails before that, or Ctrl-C, takes it back. The machines before stay for a roll-back.
    """
    settings = options_of(context).project_settings()
    console = Console(as_json=as_json)
    request = read_request(steps, dry_run, force, wait, reason)
    environment = read_environment(settings, name)
    wanted = read_reference(environment, reference)
    return run_deployment(settings, console, environment, wanted, request)


@explaining_refusals()
def promote(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(metavar="FROM", help="What it serves.", autocompletion=complete_environment),
    ],
    name: Annotated[
        str, typer.Argument(metavar="TO", help="Shall serve.", autocompletion=complete_environment)
    ],
    steps: Steps = None,
    dry_run: DryRun = False,
    force: Force = False,
    wait: Wait = None,
    reason: Why = None,
    as_json: Json = False,
) -> int:
    """Deploy the very image that one environment serves to another one."""
    settings = options_of(context).project_settings()
    console = Console(as_json=as_json)
    request = read_request(steps, dry_run, force, wait, reason or f"promoted from {source}")
    if source == name:
        raise UsageError(f"{source} would be promoted to itself", hint=f"Deploy to it: baker deploy {name}")
    environment = read_environment(settings, name)
    with open_catalog(settings, read_only=True) as catalog:
        live = find_environment(catalog, source).live
    if live is None:
        raise CatalogError(
            f"{source} serves nothing that could be promoted", hint=f"Look: baker env show {source}"
        )
    if live.recipe != environment.recipe:
        raise UsageError(
            f"{source} serves {live.image}, and {environment.file} is for the recipe {environment.recipe}"
        )
    wanted = Reference(recipe=live.recipe, version=live.version)
    return run_deployment(settings, console, environment, wanted, request)


# --- what is asked for ----------------------------------------------------------------------------------


def read_request(
    steps: str | None, dry_run: bool, force: bool, wait: str | None, reason: str | None
) -> Request:
    """Raises UsageError."""
    return Request(
        steps=None if steps is None else read_steps(steps),
        dry_run=dry_run,
        force=force,
        wait=read_wait(wait),
        reason=reason,
    )


def read_steps(text: str) -> tuple[int, ...]:
    """Raises UsageError."""
    words = [word.strip() for word in text.split(",")]
    steps = tuple(int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 4)
    if len(steps) != len(words) or sorted(set(steps)) != list(steps) or steps[0] < 1 or steps[-1] != 100:
        raise UsageError(
            f"--steps takes percentages that ascend and end with 100, not {text!r}",
            hint="Such as --steps 10,50,100",
        )
    return steps


def read_environment(settings: Settings, name: str) -> Environment:
    """Raises EnvironmentFileError."""
    from baker.deploy.reading import load_environment

    assert settings.project is not None
    base = {target: base_settings(settings, target) for target in TARGETS}
    return load_environment(settings.project, name, recipes_folder=settings.recipes, base=base)


def read_reference(environment: Environment, reference: str | None) -> Reference:
    """Raises UsageError for another recipe's."""
    if reference is None:
        return environment.image
    short = ":" not in reference and "@" not in reference and reference != environment.recipe
    wanted = Reference.parse(f"{environment.recipe}:{reference}" if short else reference)
    if wanted.recipe != environment.recipe:
        raise UsageError(
            f"{environment.file} is for the recipe {environment.recipe}, not {wanted.recipe}",
            hint=f"Deploy an image of it, such as {environment.recipe}:latest, or change the file.",
        )
    return wanted


def choose_artifact(settings: Settings, environment: Environment, image: Image) -> tuple[Build, Artifact]:
    """What its machines would be made from. Raises BadReference, StoreError."""
    from baker.cli.machines import choose_build
    from baker.knowledge import explain_absence

    provider = make_providers(settings, targets={environment.target})[environment.target]
    provider.check()
    build = choose_build(image, provider, environment.settings)
    fitting = list(build.artifacts)
    if environment.target == "aws":
        region = environment.settings.get("region") or provider_region(settings)
        fitting = [artifact for artifact in build.artifacts if artifact.store == region]
        if not fitting:
            remedy = f'Add "{region}" to regions in [aws] of baker.toml; baker image publish'
            there = ", ".join(sorted(artifact.store for artifact in build.artifacts))
            raise StoreError(
                f"{image.reference} has no AMI in {region}, where {environment.name} is (only in {there})",
                hint=f"{remedy} {image.reference}",
            )
    if not fitting or not provider.holds(fitting[0]):
        raise StoreError(
            explain_absence(image.reference, build),
            hint=f"Run it there, or bake it here: baker bake {image.recipe}",
        )
    return build, fitting[0]


def provider_region(settings: Settings) -> str:
    """The region of AWS where nothing in the project names one."""
    from baker.providers.aws.fleet import AwsFleet

    fleet = AwsFleet(settings.home, base_settings(settings, "aws"), actor=settings.actor)
    return fleet.aws.region


def read_secrets(settings: Settings, environment: Environment) -> FirstBoot | None:
    """What is said at first boot, with the secrets' values from this command's environment."""
    from baker.deploy.first_boot import read_first_boot

    if environment.first_boot is None:
        return None
    assert settings.project is not None
    return read_first_boot(settings.project, environment.first_boot, os.environ)


# --- doing it -------------------------------------------------------------------------------------------


def run_deployment(
    settings: Settings, console: Console, environment: Environment, wanted: Reference, request: Request
) -> int:
    from baker.deploy.collecting import collect_environment
    from baker.deploy.deployment import deploy as replace_machines
    from baker.deploy.recovery import recover

    begun = time.monotonic()
    with open_catalog(settings, read_only=request.dry_run) as catalog, interruptible() as interruption:
        image = catalog.resolve(wanted)
        say_warnings(console, list_warnings(image))
        first_boot = read_secrets(settings, environment)
        record = catalog.environment(environment.name)
        if record is not None:
            require_here(settings, record)
        build, artifact = choose_artifact(settings, environment, image)
        deployer = make_deployer(settings, catalog, environment.target, console, interruption)
        parts = (environment, image, build, artifact, first_boot)
        if request.dry_run:
            proposal = propose_change(deployer, *parts)
            return print_proposal(console, deployer, proposal, force=request.force)
        with deployer.holding(environment.name, wait_seconds=request.wait) as holder:
            record = catalog.environment(environment.name)
            if record is not None:
                recover(deployer, record)
                collect_environment(deployer, environment.name)
            proposal = propose_change(deployer, *parts)
            if proposal.unchanged and not request.force:
                return print_outcome(console, deployer, proposal, "unchanged", begun)
            for line in describe_change(deployer, proposal):
                console.say(line)
            replace_machines(deployer, proposal, holder, steps=request.steps, reason=request.reason)
        return print_outcome(console, deployer, proposal, "deployed", begun)


def propose_change(
    deployer: Deployer,
    environment: Environment,
    image: Image,
    build: Build,
    artifact: Artifact,
    first_boot: FirstBoot | None,
) -> Proposal:
    from baker.deploy.proposal import propose

    return propose(deployer, environment, image, build, artifact, first_boot)


# --- what came of it ---------------------------------------------------------------------------------------


def print_proposal(console: Console, deployer: Deployer, proposal: Proposal, *, force: bool) -> int:
    unchanged = proposal.unchanged and not force
    if console.as_json:
        outcome = "unchanged" if unchanged else "deployed"
        console.result_json(outcome_json(deployer, proposal, outcome, None))
    elif unchanged:
        console.result(describe_unchanged(proposal))
    else:
        for line in describe_change(deployer, proposal):
            console.result(line)
    return 0


def print_outcome(
    console: Console, deployer: Deployer, proposal: Proposal, outcome: str, begun: float
) -> int:
    if console.as_json:
        seconds = round(time.monotonic() - begun, 3)
        console.result_json(outcome_json(deployer, proposal, outcome, seconds))
    elif outcome == "unchanged":
        console.result(describe_unchanged(proposal))
    else:
        name, place = proposal.environment.name, deployer.fleet.place(proposal.environment)
        console.result(f"{name} is {proposal.image.reference} (release {proposal.number}) at {place}")
    return 0


def describe_unchanged(proposal: Proposal) -> str:
    live = proposal.live
    assert live is not None
    return f"unchanged: {proposal.environment.name} serves {live.image} already (release {live.number})"


# --- documented JSON ------------------------------------------------------------------------------------


def outcome_json(
    deployer: Deployer, proposal: Proposal, outcome: str, seconds: float | None
) -> dict[str, Any]:
    """``outcome`` is ``deployed`` or ``unchanged``. ``seconds`` is null where nothing was done: with
    ``--dry-run`` it is what would come of it. ``before`` is null for a first deployment."""
    unchanged = outcome == "unchanged" and proposal.live is not None
    live = proposal.live
    return {
        "environment": proposal.environment.name,
        "outcome": outcome,
        "release": live.number if unchanged and live else proposal.number,
        "image": proposal.image.reference,
        "before": live.image if live else None,
        "machines": proposal.size,
        "changed_settings": list_changed_settings(proposal),
        "place": deployer.fleet.place(proposal.environment),
        "seconds": seconds,
        "dry_run": seconds is None,
    }
