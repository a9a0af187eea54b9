"""env show --first-boot: what machines were told, or would be. Never a secret's value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from baker.cli.deployers import require_here
from baker.cli.wiring import make_fleet, open_catalog
from baker.console import Console
from baker.deploy.side import FirstBoot, tell_facts
from baker.errors import BadReference

if TYPE_CHECKING:
    from baker.deploy.environment import Environment
    from baker.deploy.fleet import Fleet, FleetMachine
    from baker.deploy.release import EnvironmentRecord, Release
    from baker.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What one machine was told (``would``: would be), with every secret masked; None: nothing."""

    machine: str
    text: str | None
    secrets: tuple[str, ...]
    would: bool


def show_first_boot(settings: Settings, console: Console, name: str) -> int:
    with open_catalog(settings, read_only=True, or_empty=True) as catalog:
        record = catalog.environment(name)
    if record is not None and record.releases:
        require_here(settings, record)
        told = list(list_told(make_fleet(settings, record.target), record))
    else:
        told = list(list_would_be_told(settings, name))
    if console.as_json:
        console.result_json({"environment": name, "machines": [told_json(one) for one in told]})
        return 0
    for one in told:
        secrets = f" (masked: {', '.join(one.secrets)})" if one.secrets else ""
        word = "would be told" if one.would else "was told"
        console.result(f"# {one.machine} {word}{secrets}" if one.text else f"# {one.machine} {word} nothing")
        if one.text:
            console.result(one.text.rstrip("\n"))
    return 0


def list_told(fleet: Fleet, record: EnvironmentRecord) -> Iterator[Told]:
    """Of every machine that is there. A text with secrets is made again with masks in the place of their
    values: nobody knows here what they were."""
    by_number = {release.number: release for release in record.releases}
    for machine in fleet.machines(record.name):
        release = by_number.get(machine.number)
        if release is None:
            continue
        first_boot = masked_first_boot(release)
        secrets = tuple(first_boot.secrets) if first_boot else ()
        if first_boot is None or not secrets:
            text = fleet.user_data(record.name, machine.name) if first_boot else None
        else:
            text = render_masked(fleet, release, machine, first_boot)
        yield Told(machine=machine.name, text=text, secrets=secrets, would=False)


def masked_first_boot(release: Release) -> FirstBoot | None:
    from baker.deploy.first_boot import MASK

    kept = release.settings.get("first_boot")
    if not kept:
        return None
    return FirstBoot(
        template=kept["template"],
        text=kept["text"],
        data=kept["data"],
        secrets=dict.fromkeys(kept["secrets"], MASK),
        roles=tuple(kept["roles"]),
    )


def render_masked(fleet: Fleet, release: Release, machine: FleetMachine, first_boot: FirstBoot) -> str:
    from baker.deploy.first_boot import render_for

    side = {
        "environment": release.environment,
        "release": release.number,
        "image": release.image,
        "port": release.settings["port"],
    }
    facts = tell_facts(fleet.target, release.environment, machine.name, first_boot.roles)
    return render_for(first_boot, facts, side)


def list_would_be_told(settings: Settings, name: str) -> Iterator[Told]:
    """Of the machines that a first deployment would make, as the project's file has it."""
    from baker.cli.deploying import read_environment
    from baker.deploy.first_boot import render_for

    if settings.project is None:
        raise BadReference(f"nothing was ever deployed to {name}", hint="Run it in the project's folder.")
    environment = read_environment(settings, name)
    first_boot = planned_first_boot(settings, environment)
    side = {
        "environment": name,
        "release": 1,
        "image": str(environment.image),
        "port": environment.port,
    }
    for number in range(1, environment.machines + 1):
        machine = f"1-{number}"
        text = None
        if first_boot is not None:
            facts = tell_facts(environment.target, name, machine, first_boot.roles)
            text = render_for(first_boot, facts, side)
        secrets = tuple(first_boot.secrets) if first_boot else ()
        yield Told(machine=machine, text=text, secrets=secrets, would=True)


def planned_first_boot(settings: Settings, environment: Environment) -> FirstBoot | None:
    from baker.deploy.first_boot import MASK, read_first_boot

    if environment.first_boot is None or settings.project is None:
        return None
    masks = dict.fromkeys(environment.first_boot.secrets, MASK)
    return read_first_boot(settings.project, environment.first_boot, masks)


def told_json(one: Told) -> dict[str, Any]:
    """One element of ``machines`` in ``env show --first-boot --json``."""
    return {"name": one.machine, "text": one.text, "secrets": list(one.secrets), "would_be": one.would}
