"""lease ls, lease add, lease rm."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli import groups
from baker.cli.completion import complete_recipe
from baker.cli.images import Json, Ref, lease_json
from baker.cli.wiring import Options, open_catalog
from baker.console import Console
from baker.errors import UsageError
from baker.model import Reference

if TYPE_CHECKING:
    from baker.leases import Lease


def add_commands(_app: typer.Typer) -> None:
    groups.lease.command("ls")(list_leases)
    groups.lease.command("add")(add_lease)
    groups.lease.command("rm")(remove_lease)


def list_leases(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", autocompletion=complete_recipe)] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Those that were released or have expired as well.")
    ] = False,
    as_json: Json = False,
) -> int:
    """List who needs which image, newest first."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    with open_catalog(options.settings(), read_only=True, or_empty=True) as catalog:
        leases = catalog.leases(recipe, include_ended=everything)
        description = catalog.description
    now = datetime.now(UTC)
    if as_json:
        console.result_json({"leases": [held_lease_json(lease, now) for lease in leases]})
        return 0
    if not leases:
        console.say("No leases. Claim an image: baker lease add REF --owner NAME")
        return 0
    console.table(
        ("LEASE", "IMAGE", "OWNER", "HOLDS", "REASON"),
        [
            (
                lease.id,
                lease.reference,
                lease.owner,
                describe_term(lease, now),
                lease.reason or "",
            )
            for lease in leases
        ],
    )
    console.say(console.style(f"in {description}", "dim"))
    return 0


def add_lease(
    context: typer.Context,
    reference: Ref,
    owner: Annotated[str, typer.Option("--owner", metavar="NAME", help="Who needs the image.")],
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="7d|DATE", help="When it ends by itself; else when it is removed."),
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Kept with the lease.")] = None,
    as_json: Json = False,
) -> int:
    """Claim an image: it is not pruned while the lease holds."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    now = datetime.now(UTC)
    ends = parse_end(expires, now) if expires is not None else None
    with open_catalog(options.settings()) as catalog:
        image = catalog.resolve(Reference.parse(reference), allow_unusable=True)
        lease = catalog.add_lease(image.recipe, image.version, owner=owner, expires=ends, reason=reason)
    if as_json:
        console.result_json({"lease": held_lease_json(lease, now)})
    else:
        console.result(lease.id)
        console.say(f"{lease.owner} leases {lease.reference} {describe_term(lease, now)}")
    return 0


def remove_lease(
    context: typer.Context,
    lease_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")],
    as_json: Json = False,
) -> int:
    """End a lease. The image may be pruned then."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    with open_catalog(options.settings()) as catalog:
        lease = catalog.release_lease(lease_id)
    if as_json:
        console.result_json({"lease": held_lease_json(lease, datetime.now(UTC))})
    else:
        console.result(f"released {lease.id}: {lease.owner} does not need {lease.reference} any more")
    return 0


def parse_end(text: str, now: datetime) -> datetime:
    """``7d`` from now, or a date (its first moment) or time, in UTC unless it says otherwise."""
    from baker.ages import parse_age

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return now + timedelta(seconds=parse_age(text))
        except UsageError:
            raise UsageError(
                f"{text!r} is no end of a lease", hint='Write it like "12h", "7d" or 2026-12-31.'
            ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def describe_term(lease: Lease, now: datetime) -> str:
    if lease.released:
        return f"released {lease.released:%Y-%m-%d %H:%M} UTC"
    if lease.expires is None:
        return "until it is removed"
    verb = "until" if lease.holds_at(now) else "expired"
    return f"{verb} {lease.expires:%Y-%m-%d %H:%M} UTC"


def held_lease_json(lease: Lease, now: datetime) -> dict[str, Any]:
    return {**lease_json(lease), "holds": lease.holds_at(now)}
