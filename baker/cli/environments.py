"""env rollback, reconcile, rm: what changes an environment, and needs no image for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli import groups
from baker.cli.completion import complete_environment
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
    region_of,
    require_here,
)
from baker.cli.wiring import (
    configured_targets,
    explaining_refusals,
    open_catalog,
)
from baker.console import Console
from baker.errors import BadReference, BakerError, Interrupted, UsageError

if TYPE_CHECKING:
    from baker.catalog import Catalog
    from baker.deploy.deployer import Deployer
    from baker.deploy.environment import Environment
    from baker.deploy.reconciling import Replaced
    from baker.interrupt import Interruption
    from baker.settings import Settings

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def add_commands(_app: typer.Typer) -> None:
    groups.env.command("rollback")(roll_back_environment)
    groups.env.command("reconcile")(reconcile_environments)
    groups.env.command("rm")(remove)


@explaining_refusals()
def roll_back_environment(
    context: typer.Context, name: Name, reason: Why = None, as_json: Json = False
) -> int:
    """Move the traffic back at once: to the machines before, or away from a deployment that is at work."""
    from baker.deploy.rollback import roll_back

    begun = time.monotonic()
    settings = options_of(context).settings()
    console = Console(as_json=as_json)
    with open_catalog(settings) as catalog, interruptible() as interruption:
        record = find_environment(catalog, name)
        require_here(settings, record)
        deployer = make_deployer(settings, catalog, record.target, console, interruption)
        before = record.live
        live = roll_back(deployer, name, reason=reason)
        seconds = round(time.monotonic() - begun, 3)
    if as_json:
        console.result_json(
            {
                "environment": name,
                "outcome": "rolled back",
                "release": live.number,
                "image": live.image,
                "before": before.image if before else None,
                "seconds": seconds,
            }
        )
    else:
        console.result(f"{name} is {live.image} (release {live.number})")
    return 0


# --- reconcile ------------------------------------------------------------------------------------------


@explaining_refusals()
def reconcile_environments(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ENV]…", autocompletion=complete_environment),
    ] = None,
    wait: Wait = None,
    as_json: Json = False,
) -> int:
    """Replace dead machines by new ones, and finish or undo what died half-way.

    Of all environments of this store, where none is named: so a host does it as it starts.
    """
    settings = options_of(context).settings()
    console = Console(as_json=as_json)
    seconds = read_wait(wait)
    done: list[dict[str, Any]] = []
    with open_catalog(settings) as catalog, interruptible() as interruption:
        chosen = choose_environments(settings, catalog, console, interruption, names)
        for name, deployer in chosen:
            done.append(reconcile_one(deployer, name, seconds, console, named=bool(names)))
    if as_json:
        console.result_json({"environments": done})
    elif not done:
        console.result("no environments here")
    return int(any(not one["ok"] for one in done))


def choose_environments(
    settings: Settings,
    catalog: Catalog,
    console: Console,
    interruption: Interruption,
    names: Sequence[str] | None,
) -> list[tuple[str, Deployer]]:
    """With who deploys to each. Raises BadReference, HostError for one that is named and not here."""
    if names:
        records = [find_environment(catalog, name) for name in dict.fromkeys(names)]
        for record in records:
            require_here(settings, record)
        targets = dict.fromkeys(record.target for record in records)
        deployers = {
            target: make_deployer(settings, catalog, target, console, interruption) for target in targets
        }
        return [(record.name, deployers[record.target]) for record in records]
    return list_here(settings, catalog, console, interruption, configured_targets(settings))


def list_here(
    settings: Settings,
    catalog: Catalog,
    console: Console,
    interruption: Interruption,
    targets: Sequence[str],
) -> list[tuple[str, Deployer]]:
    """Every environment that is served from here, or that something is left of here. A target that does
    not answer is said, and left out."""
    from baker import identity
    from baker.deploy.collecting import names_here

    stores = {"local": identity.store_name(settings.home), "aws": region_of(settings)}
    found: list[tuple[str, Deployer]] = []
    for target in targets:
        records = [record for record in catalog.environments() if record.target == target]
        if not records and not (settings.home / target / "environments").is_dir():
            continue  # nothing was ever deployed from here: who only bakes may have no right to ask
        deployer = make_deployer(settings, catalog, target, console, interruption)
        try:
            named = names_here(catalog, {target: deployer.fleet}, stores)
        except Interrupted:
            raise
        except BakerError as error:
            console.say(f"Not asked which environments are at {target}: {error}")
            continue
        found += [(name, deployer) for name in sorted(named)]
    return found


def reconcile_one(
    deployer: Deployer, name: str, wait: float, console: Console, *, named: bool
) -> dict[str, Any]:
    """What stops one environment stops no other. One at which somebody is at work needs nothing."""
    from baker.deploy.collecting import collect_environment
    from baker.deploy.reconciling import reconcile
    from baker.locking import LockHeld

    replaced: Sequence[Replaced] = ()
    error: BakerError | None = None
    try:
        with deployer.holding(name, wait_seconds=wait):
            record = deployer.catalog.environment(name)
            if record is not None and record.releases:
                replaced = reconcile(deployer, name)
            else:
                collect_environment(deployer, name)
    except LockHeld as held:
        if named:
            error = held
        else:
            console.say(f"{name} is left alone: {held}")
    except Interrupted:
        raise
    except BakerError as failure:
        error = failure
    if error is not None:
        console.say(f"{name}: {error}")
    told = reconciled_json(name, replaced, error)
    if not console.as_json:
        console.result("\n".join(describe_reconciled(told)))
    return told


def describe_reconciled(told: dict[str, Any]) -> list[str]:
    name = told["environment"]
    lines = []
    for one in told["replaced"]:
        old, new = ", ".join(one["old"]), ", ".join(one["new"])
        what = f"could not replace {old}: {one['error']}" if one["error"] else f"replaced {old} by {new}"
        lines.append(f"{name}: {what}")
    if told["error"]:
        lines.append(f"{name}: failed")
    return lines or [f"{name}: nothing to replace"]


def reconciled_json(name: str, replaced: Sequence[Replaced], error: BakerError | None) -> dict[str, Any]:
    """One element of ``environments`` in ``env reconcile --json``."""
    return {
        "environment": name,
        "ok": error is None and not any(one.error for one in replaced),
        "replaced": [
            {
                "release": one.number,
                "old": list(one.old),
                "new": list(one.new),
                "reason": one.reason,
                "error": one.error,
            }
            for one in replaced
        ],
        "error": str(error) if error else None,
    }


# --- rm -------------------------------------------------------------------------------------------------


@explaining_refusals()
def remove(
    context: typer.Context,
    name: Name,
    wait: Wait = None,
    reason: Why = None,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Remove an environment with all of its machines: nothing serves it any more. Its history stays."""
    from baker.deploy.deployment import count_machines
    from baker.deploy.removing import remove_environment

    settings = options_of(context).settings()
    console = Console(as_json=as_json)
    with open_catalog(settings) as catalog, interruptible() as interruption:
        target, described = find_removable(settings, catalog, name)
        deployer = make_deployer(settings, catalog, target, console, interruption)
        serving = sum(
            deployer.fleet.traffic(name).weights.get(one.number, 0) > 0 and one.alive
            for one in deployer.fleet.machines(name)
        )
        if not yes:
            verb = "serves" if serving == 1 else "serve"
            console.say(f"{name}: {count_machines(serving)} {verb} now")
            if not console.can_ask():
                raise UsageError("env rm asks before it removes an environment", hint="In a script: --yes.")
            typer.confirm("Remove it?", abort=True, err=True)
        with deployer.holding(name, wait_seconds=read_wait(wait)):
            sides = remove_environment(deployer, name, reason=reason or "removed", described=described)
    if as_json:
        console.result_json({"environment": name, "removed_sides": list(sides), "served": serving})
    else:
        gone = ", ".join(f"{name}-{number}" for number in sides)
        console.result(f"removed {name}" + (f" ({gone})" if gone else ""))
    return 0


def find_removable(settings: Settings, catalog: Catalog, name: str) -> tuple[str, Environment | None]:
    """Its target, and what its file says where the catalog does not know it. Raises BadReference."""
    from baker.cli.wiring import make_fleet

    record = catalog.environment(name)
    if record is not None and (record.removed is None or record.releases):
        require_here(settings, record)
        return record.target, None
    for target in configured_targets(settings):
        if not (settings.home / target / "environments").is_dir():
            continue
        if name in make_fleet(settings, target).sides():
            return target, read_file(settings, name)
    if record is not None:
        raise BadReference(f"{name} is removed already", hint=f"What became of it: baker env history {name}")
    find_environment(catalog, name)  # raises
    raise AssertionError


def read_file(settings: Settings, name: str) -> Environment | None:
    """What environments/NAME.toml says, as far as there is one that is sound."""
    from baker.cli.deploying import read_environment

    if settings.project is None:
        return None
    try:
        return read_environment(settings, name)
    except BakerError:
        return None
