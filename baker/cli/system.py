"""system doctor, system sweep."""

from __future__ import annotations

from typing import Annotated

import typer

from baker.cli.wiring import Options, make_providers, open_catalog
from baker.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print the documented JSON.")]


def add_commands(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="This host and what bakes left on it.")
    group.command("doctor")(doctor)
    group.command("sweep")(sweep)
    app.add_typer(group, name="system")


def doctor(context: typer.Context, as_json: Json = False) -> int:
    """Check what baking needs of this host; say what brings what is missing (then the exit code is 1)."""
    from baker.providers.local.doctor import examine_host

    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    checks = examine_host(settings.home, settings.catalog_url)
    if as_json:
        described = [{"check": c.name, "ok": c.ok, "detail": c.detail, "remedy": c.remedy} for c in checks]
        console.result_json({"checks": described})
    else:
        for check in checks:
            mark = console.style("ok     ", "green") if check.ok else console.style("missing", "red")
            console.result(f"{mark}  {check.name:<16} {check.detail}")
            if check.remedy:
                console.result(f"         {'':<16} {check.remedy}")
    return int(any(not check.ok for check in checks))


def sweep(
    context: typer.Context,
    bake_id: Annotated[
        str | None, typer.Option("--bake", metavar="BAKE", help="Only what this bake left.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed.")] = False,
    as_json: Json = False,
) -> int:
    """Remove what dead bakes left behind. Live bakes and registered images are never touched."""
    from baker.sweep import sweep_dead_bakes

    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    providers = make_providers(settings)
    for provider in providers.values():
        provider.check()
    with open_catalog(settings) as catalog:
        full_id = catalog.bake(bake_id).id if bake_id else None
        swept = sweep_dead_bakes(catalog, providers, settings.home, bake_id=full_id, dry_run=dry_run)
    if as_json:
        removed = [{"provider": r.provider, "kind": r.kind, "id": r.id} for r in swept.removed]
        failed = [{"provider": r.provider, "kind": r.kind, "id": r.id, "error": e} for r, e in swept.failed]
        console.result_json({"removed": removed, "failed": failed, "dry_run": dry_run})
    else:
        verb = "would remove" if dry_run else "removed"
        for resource in swept.removed:
            console.result(f"{verb} {resource.kind} {resource.id}")
        for resource, error in swept.failed:
            console.say(f"Left behind: {resource.kind} {resource.id}: {error}")
        if not swept.removed and not swept.failed:
            console.result("nothing is left behind")
    return int(bool(swept.failed))
