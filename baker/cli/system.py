"""system doctor, sweep, df, clean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli.completion import complete_bake, complete_target
from baker.cli.wiring import (
    Options,
    base_settings,
    check_providers,
    configured_targets,
    explaining_refusals,
    make_providers,
    open_catalog,
    require_configured,
)
from baker.console import Console, show_size
from baker.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from baker.model import Resource
    from baker.providers.protocol import Check
    from baker.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print the documented JSON.")]


def add_commands(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="This host and what bakes left on it.")
    group.command("doctor")(doctor)
    group.command("sweep")(sweep)
    group.command("df")(df)
    group.command("clean")(clean)
    app.add_typer(group, name="system")


def doctor(
    context: typer.Context,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target", metavar="TARGET", help="Only for this target.", autocompletion=complete_target
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Check what baking for the configured targets needs; say what brings what is missing (exit code 1)."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    chosen = target or configured_targets(settings)
    for name in chosen:
        require_configured(settings, name)
    checks = list(examine(settings, chosen))
    if as_json:
        described = [{"check": c.name, "ok": c.ok, "detail": c.detail, "remedy": c.remedy} for c in checks]
        console.result_json({"checks": described})
    else:
        for check in checks:
            mark = console.style("ok     ", "green") if check.ok else console.style("missing", "red")
            console.result_folded(f"{mark}  {check.name:<16} {check.detail}", hang=26)
            if check.remedy:
                console.result_folded(f"{'':<26}{check.remedy}", hang=26)
    return int(any(not check.ok for check in checks))


def examine(settings: Settings, targets: Collection[str]) -> Iterator[Check]:
    if "local" in targets:
        from baker.providers.local.doctor import examine_host

        proxy = base_settings(settings, "local").get("http_proxy")
        yield from examine_host(settings.home, settings.catalog_url, proxy)
    else:
        yield examine_sandbox()
    if "aws" in targets:
        from baker.providers.aws.doctor import examine_access

        yield from examine_access(base_settings(settings, "aws"))


def examine_sandbox() -> Check:
    """Whether a recipe's code can be confined; what the local target needs holds that already."""
    from baker.configurer.sandbox import require_tools, why_no_sandbox
    from baker.providers.protocol import Check

    if why := why_no_sandbox():
        return Check(name="sandbox", ok=True, detail=f"none: {why}")
    try:
        require_tools()
    except HostError as error:
        return Check(name="sandbox", ok=False, detail=str(error), remedy=error.hint)
    return Check(name="sandbox", ok=True, detail="recipes run confined")


def sweep(
    context: typer.Context,
    bake_id: Annotated[
        str | None,
        typer.Option(
            "--bake", metavar="BAKE", help="Only what this bake left.", autocompletion=complete_bake
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target", metavar="TARGET", help="Only at this target.", autocompletion=complete_target
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed.")] = False,
    as_json: Json = False,
) -> int:
    """Remove what dead bakes and deployments left behind, and channels that have expired.

    Live bakes, registered images and what serves traffic are never touched.
    """
    from baker.cli.previews import expired_json, print_expired
    from baker.cli.sweeping import collected_json, print_collected, sweep_environments
    from baker.previews import collect_expired
    from baker.sweep import sweep_dead_bakes
    from baker.teardown import describe_resource

    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    for name in target or ():
        require_configured(settings, name)
    providers = make_providers(settings, targets=target or None)
    check_providers(providers, providers.keys())
    with open_catalog(settings) as catalog:
        full_id = catalog.bake(bake_id).id if bake_id else None
        swept = sweep_dead_bakes(catalog, providers, settings.home, bake_id=full_id, dry_run=dry_run)
        sides = (
            []
            if bake_id
            else sweep_environments(settings, catalog, console, providers.keys(), dry_run=dry_run)
        )
        everything = bake_id is None and not target
        expired = collect_expired(catalog, providers, dry_run=dry_run) if everything else []
    if as_json:
        console.result_json(
            {
                "removed": [resource_json(resource) for resource in swept.removed],
                "failed": [{**resource_json(resource), "error": error} for resource, error in swept.failed],
                "finished": [image.reference for image in swept.finished],
                "unasked": [{"target": name, "error": error} for name, error in swept.unasked],
                **expired_json(expired),
                "sides": [collected_json(side) for side in sides],
                "dry_run": dry_run,
            }
        )
    else:
        verb = "would remove" if dry_run else "removed"
        for resource in swept.removed:
            console.result(f"{verb} {describe_resource(resource)}")
        for image in swept.finished:
            console.result(f"{'would finish' if dry_run else 'finished'} {image.reference}: {image.status}")
        for resource, error in swept.failed:
            console.say(f"Left behind: {describe_resource(resource)}: {error}")
        for name, error in swept.unasked:
            console.say(f"Not asked what is left at {name}: {error}")
        print_expired(console, expired, dry_run=dry_run)
        print_collected(console, sides, dry_run=dry_run)
        if not (swept.removed or swept.failed or swept.finished or swept.unasked or expired or sides):
            console.result("nothing is left behind")
    stays = [one for one in expired if one.why_not is not None]
    return int(bool(swept.failed or swept.unasked or stays or any(side.error for side in sides)))


def resource_json(resource: Resource) -> dict[str, Any]:
    return {
        "provider": resource.provider,
        "kind": resource.kind,
        "id": resource.id,
        "place": resource.place or None,
    }


@explaining_refusals()
def df(context: typer.Context, as_json: Json = False) -> int:
    """Say what uses the disk under BAKER_HOME."""
    import shutil
    from pathlib import Path

    from baker.housekeeping import measure_usage
    from baker.providers.local.doctor import existing_ancestor

    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    url = settings.catalog_url
    catalog = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
    usage = measure_usage(settings.home, catalog)
    total, free = sum(use.bytes for use in usage), shutil.disk_usage(existing_ancestor(settings.home)).free
    if as_json:
        rows = [{"name": use.name, "bytes": use.bytes, "files": use.files} for use in usage]
        console.result_json(
            {"home": str(settings.home), "usage": rows, "total_bytes": total, "free_bytes": free}
        )
        return 0
    table = [(use.name, show_size(use.bytes), str(use.files)) for use in usage]
    console.table(("WHAT", "SIZE", "FILES"), [*table, ("total", show_size(total), "")])
    console.say(f"{show_size(free)} free for {settings.home}")
    return 0


@explaining_refusals()
def clean(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it without asking.")] = False,
    as_json: Json = False,
) -> int:
    """Remove old logs and packages, and layers that nothing needs. Never what an image needs."""
    import time

    from baker.housekeeping import find_removable, remove
    from baker.providers.local.store import Store

    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    found = find_removable(settings.home, settings.clean, now=time.time())
    size = sum(item.bytes for item in found)
    if found and not dry_run:
        if not yes:
            console.say(f"{len(found)} files, {show_size(size)}; --dry-run lists them.")
            typer.confirm("Remove them?", abort=True, err=True)
        with Store(settings.home / "local").lock("layers"):
            remove(settings.home, found)
    if as_json:
        rows = [
            {"kind": item.kind, "path": str(item.path), "bytes": item.bytes, "reason": item.reason}
            for item in found
        ]
        console.result_json({"removed": rows, "bytes": size, "dry_run": dry_run})
        return 0
    verb = "would remove" if dry_run else "removed"
    for item in found:
        console.result_folded(f"{verb} {item.kind} {item.path.name}: {item.reason}")
    console.result(f"{verb} {len(found)} files, {show_size(size)}" if found else "nothing to remove")
    return 0
