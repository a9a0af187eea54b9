"""env audit: whether what runs is what was baked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from baker.cli import groups
from baker.cli.deployers import (
    Json,
    Name,
    Wait,
    find_environment,
    interruptible,
    make_deployer,
    options_of,
    read_wait,
    require_here,
)
from baker.cli.wiring import explaining_refusals, open_catalog
from baker.console import Console
from baker.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from baker.deploy.auditing import Allowed, Audited
    from baker.deploy.deployer import Deployer
    from baker.deploy.reconciling import Replaced
    from baker.settings import Settings


def add_commands(_app: typer.Typer) -> None:
    groups.env.command("audit")(audit_environment)


@explaining_refusals()
def audit_environment(
    context: typer.Context,
    name: Name,
    full: Annotated[
        bool, typer.Option("--full", help="Read every file, also what shows no sign of a change.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 3 if a machine was changed.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace changed machines by new ones.")] = False,
    wait: Wait = None,
    as_json: Json = False,
) -> int:
    """Compare what runs with what was baked, by looking only.

    Packages, files, units, users, listening ports, mounts and processes of every machine. What may change
    (logs, state, what the first boot did) is told from what may not; recipes say more in [audit].
    """
    from baker.deploy.auditing import audit
    from baker.deploy.collecting import collect_environment
    from baker.deploy.recovery import recover

    options = options_of(context)
    settings = options.settings()
    console = Console(as_json=as_json)
    replaced: list[Replaced] = []
    with open_catalog(settings) as catalog, interruptible() as interruption:
        record = find_environment(catalog, name)
        require_here(settings, record)
        deployer = make_deployer(settings, catalog, record.target, console, interruption)
        allowed = find_allowed(settings, record.live.recipe if record.live else None)
        if replace:
            with deployer.holding(name, wait_seconds=read_wait(wait)):
                recover(deployer, record)
                found = audit(deployer, find_environment(catalog, name), allowed, full=full)
                replaced = replace_drifted(deployer, found)
                collect_environment(deployer, name)
        else:
            found = audit(deployer, record, allowed, full=full)
    console.status("")
    if as_json:
        console.result_json(
            {
                "environment": name,
                "full": full,
                "unmodified": all(one.unmodified for one in found),
                "machines": [one.to_json() for one in found],
                "replaced": [
                    {"old": list(one.old), "new": list(one.new), "error": one.error} for one in replaced
                ],
            }
        )
    else:
        print_audit(console, found, replaced)
    unseen = any(one.error for one in found) or any(one.error for one in replaced)
    if check and any(one.drifts for one in found):
        return 3
    return int(unseen)


def find_allowed(settings: Settings, recipe: str | None) -> Allowed:
    """What the recipe of the project says may change; nothing more where there is no such recipe here."""
    from baker.deploy.auditing import Allowed

    if settings.project is None or recipe is None:
        return Allowed()
    from baker.recipes import load_recipe

    try:
        found = load_recipe(settings.project, recipe, folder=settings.recipes)
    except RecipeError:
        return Allowed()
    return Allowed(paths=found.audit_allow, ports=found.audit_ports)


def replace_drifted(deployer: Deployer, found: Sequence[Audited]) -> list[Replaced]:
    """New machines for those that were changed."""
    from baker.deploy.reconciling import replace_machines

    done = []
    for release in {one.release.id: one.release for one in found}.values():
        drifted = [one for one in found if one.release.id == release.id and one.drifts]
        if drifted:
            why = "; ".join(f"{one.machine.name}: {one.drifts[0].message}" for one in drifted)
            done.append(replace_machines(deployer, release, [one.machine.name for one in drifted], why))
    return done


def print_audit(console: Console, found: Sequence[Audited], replaced: Sequence[Replaced]) -> None:
    if not found:
        console.result("no machines")
    for one in found:
        if one.error is not None:
            console.result_folded(f"{one.machine.name}  {one.release.image}  not looked at: {one.error}")
            continue
        state = "unmodified" if one.unmodified else "changed"
        console.result(f"{one.machine.name}  {one.release.image}  {state}")
        for drift in one.drifts:
            console.result(f"  {drift.message}")
        if not one.birth_known:
            console.say(f"{one.machine.name}: what it was before it got traffic is not known")
    for each in replaced:
        if each.error is None:
            console.result(f"replaced {', '.join(each.old)} by {', '.join(each.new)}")
