"""What a deployment would do, before it does anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baker import identity
from baker.deploy.deployer import Deployer, describe_settings
from baker.deploy.environment import Environment
from baker.deploy.first_boot import AWS_LIMIT, check_rendered, mask, render
from baker.deploy.release import Release
from baker.deploy.side import FirstBoot, Side
from baker.errors import ConflictError, EnvironmentFileError
from baker.model import Artifact, Build, Image

MAKES_MACHINES = ("target", "machines", "port", "health", "first_boot", "settings")
"""What of an environment's file a release's machines depend on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What a deployment would do: ``image`` to ``size`` machines, in the place of ``live``.

    ``unchanged``: the same image with the same settings serves already. ``first_boot_texts`` are what the
    machines would be told, secrets included.
    """

    environment: Environment
    image: Image
    build: Build
    live: Release | None
    number: int
    size: int
    unchanged: bool
    side: Side
    first_boot_texts: Sequence[str]


def propose(
    deployer: Deployer,
    environment: Environment,
    image: Image,
    build: Build,
    artifact: Artifact,
    first_boot: FirstBoot | None,
    *,
    release_id: str | None = None,
) -> Proposal:
    """What ``deploy`` would do now. Makes nothing. Raises EnvironmentFileError for first boot settings that
    are wrong, and what ``Fleet.check`` raises."""
    deployer.fleet.check(environment)
    record = deployer.catalog.environment(environment.name)
    live = record.live if record else None
    number = next_number(deployer, environment.name)
    require_new(deployer, environment.name, number)
    side = Side(
        environment=environment.name,
        number=number,
        release=release_id or identity.make_bake_id(),
        image=image.reference,
        artifact=artifact,
        port=environment.port,
        health=environment.health,
        drain=environment.rollout.drain,
        batch=environment.rollout.batch,
        settings=environment.settings,
        first_boot=first_boot,
    )
    size = choose_size(deployer, environment, live)
    settings = describe_settings(environment, first_boot)
    return Proposal(
        environment=environment,
        image=image,
        build=build,
        live=live,
        number=number,
        size=size,
        unchanged=live is not None
        and (live.recipe, live.version, live.build) == (image.recipe, image.version, build.id)
        and all(live.settings.get(key) == settings[key] for key in MAKES_MACHINES),
        side=side,
        first_boot_texts=render_all(deployer, side, size),
    )


def next_number(deployer: Deployer, environment: str) -> int:
    """After every release that the catalog knows, as ``begin_release`` counts."""
    newest = deployer.catalog.releases(environment, limit=1)
    return newest[0].number + 1 if newest else 1


def require_new(deployer: Deployer, environment: str, number: int) -> None:
    """Raises ConflictError for machines that a catalog before this one knew (it was lost)."""
    newer = [known for known in deployer.fleet.sides().get(environment, ()) if known >= number]
    if newer:
        raise ConflictError(
            f"{environment} has machines of release {max(newer)}, which this catalog does not know",
            hint=f"Remove them: baker env rm {environment}",
        )


def choose_size(deployer: Deployer, environment: Environment, live: Release | None) -> int:
    """As many machines as serve now, unless the file asks for another number than it did for those."""
    if live is None or live.settings["machines"] != environment.machines:
        return environment.machines
    return deployer.fleet.size(environment.name, live.number) or environment.machines


def render_all(deployer: Deployer, side: Side, size: int) -> list[str]:
    """Raises EnvironmentFileError with every problem."""
    if side.first_boot is None:
        return []
    facts = deployer.fleet.list_facts(side, size)
    texts = [render(side.first_boot, side, machine) for machine in facts]
    limit = AWS_LIMIT if deployer.fleet.target == "aws" else None
    found = [
        mask(problem, side.first_boot.secrets)
        for text in texts
        for problem in check_rendered(text, side.first_boot.template, limit=limit)
    ]
    if found:
        raise EnvironmentFileError("\n".join(dict.fromkeys(found)))
    return texts
