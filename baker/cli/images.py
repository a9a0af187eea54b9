"""image ls, image show."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from baker.cli import groups
from baker.cli.channels import describe_move, move_json
from baker.cli.completion import complete_recipe, complete_reference
from baker.cli.wiring import Options, open_catalog
from baker.console import Console, show_age, show_size
from baker.leases import Lease
from baker.life import ImageEvent
from baker.model import Build, Image, Package, Reference, shorten_digest

NEWEST = 50
"""So many images are listed for people, unless they ask for more."""

Json = Annotated[bool, typer.Option("--json", help="Print the documented JSON.")]
Ref = Annotated[
    str,
    typer.Argument(
        metavar="REF", help="web, web:12, web:prod or web@sha256:ab12…", autocompletion=complete_reference
    ),
]


def add_commands(_app: typer.Typer) -> None:
    groups.image.command("ls")(list_images)
    groups.image.command("show")(show_image)


def list_images(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", autocompletion=complete_recipe)] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="So many at most (50 where people read it).")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them, deleted ones too.")] = False,
    as_json: Json = False,
) -> int:
    """List images, newest first."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    if limit is None and not everything and not as_json:
        limit = NEWEST
    with open_catalog(options.settings(), read_only=True, or_empty=True) as catalog:
        one_more = None if limit is None else limit + 1
        found = catalog.images(recipe, limit=one_more, deleted=everything or as_json)
        images = found[:limit]
        description = catalog.description
        if recipe is not None and not images:
            catalog.resolve(Reference(recipe=recipe))
    if as_json:
        console.result_json({"images": [image_json(image) for image in images]})
        return 0
    if not images:
        console.say("No images yet. Bake some: baker bake")
        return 0
    rows = [
        (
            image.reference,
            describe_state(image),
            ", ".join(image.channels),
            show_age(image.created),
            show_size(sum(build.size_bytes for build in image.builds)),
            ", ".join(f"{build.target}/{build.arch} {build.digest[:19]}" for build in image.builds),
        )
        for image in images
    ]
    console.table(("IMAGE", "STATUS", "CHANNELS", "AGE", "SIZE", "BUILDS"), rows)
    if len(found) > len(images):
        console.say("There are older ones: --limit N, --all")
    console.say(console.style(f"in {description}", "dim"))
    return 0


def show_image(context: typer.Context, reference: Ref, as_json: Json = False) -> int:
    """Show one image: its builds, where they came from, what is in them, its history."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    with open_catalog(options.settings(), read_only=True) as catalog:
        image = catalog.resolve(Reference.parse(reference), allow_unusable=True)
        packages = {build.id: catalog.packages(build.id) for build in image.builds}
        moves = catalog.image_moves(image.recipe, image.version)
        events = catalog.events(image.recipe, image.version)
        leases = [lease for lease in catalog.leases(image.recipe) if lease.version == image.version]
    if as_json:
        shown = image_json(image)
        for build, described in zip(image.builds, shown["builds"], strict=True):
            described["provenance"] = provenance_json(build)
            described["packages"] = [package_json(package) for package in packages[build.id]]
        shown["history"] = [move_json(move) for move in moves]
        shown["events"] = [event_json(event) for event in events]
        shown["leases"] = [lease_json(lease) for lease in leases]
        console.result_json(shown)
        return 0
    channels = f"  in {', '.join(image.channels)}" if image.channels else ""
    state = describe_state(image)
    console.result(f"{image.reference}  {state}{channels}  made {show_age(image.created)} ago")
    print_standing(console, image, leases)
    for build in image.builds:
        if len(image.builds) > 1:
            console.result("")
        print_build(console, build, packages[build.id])
    if len(image.builds) > 1:
        console.result("")
    told = [(move.at, move.actor, describe_move(move)) for move in moves]
    told += [(event.at, event.actor, describe_event(event)) for event in events]
    for at, actor, what in sorted(told, reverse=True):
        console.result_folded(f"  {at:%Y-%m-%d %H:%M} {actor} {what}")
    return 0


def describe_state(image: Image) -> str:
    """``available``, ``deprecated (incomplete)``, ``available, preview for pr-1 until 2026-12-01 12:00 UTC``,
    ``available, revoked ancestor base:3``."""
    state = str(image.status) + ("" if image.complete else " (incomplete)")
    if image.preview is not None:
        ends = f" until {image.preview_ends:%Y-%m-%d %H:%M} UTC" if image.preview_ends else ""
        state += f", preview for {image.preview}{ends}"
    if not image.revoked_ancestors:
        return state
    return f"{state}, revoked ancestor {', '.join(image.revoked_ancestors)}"


def print_standing(console: Console, image: Image, leases: list[Lease]) -> None:
    """What was said of an image, and who claims it."""
    reason = f": {image.status_reason}" if image.status_reason else ""
    if image.deprecated_from is not None:
        console.result_folded(
            f"  {'deprecated':<12} from {image.deprecated_from:%Y-%m-%d %H:%M} UTC on{reason}", hang=15
        )
    elif reason:
        console.result_folded(f"  {image.status!s:<12} {image.status_reason}", hang=15)
    if image.labels:
        labels = ", ".join(f"{key}={value}" for key, value in image.labels.items())
        console.result_folded(f"  {'labels':<12} {labels}", hang=15)
    for lease in leases:
        until = f"until {lease.expires:%Y-%m-%d %H:%M} UTC" if lease.expires else "until it is released"
        why = f": {lease.reason}" if lease.reason else ""
        console.result_folded(f"  {'leased':<12} by {lease.owner} {until} ({lease.id}){why}", hang=15)


def describe_event(event: ImageEvent) -> str:
    what = "made it available" if event.event == "available" else f"{event.event} it"
    return f"{what}: {event.reason}" if event.reason else what


def print_build(console: Console, build: Build, packages: tuple[Package, ...]) -> None:
    provenance = build.provenance
    commit = "not in git"
    if provenance.commit:
        commit = provenance.commit[:12] + (" with uncommitted changes" if provenance.dirty else "")
    tools = ", ".join(f"{name} {version}" for name, version in sorted(provenance.tools.items()))
    lines = {
        "target": f"{build.target}/{build.arch}",
        "digest": build.digest,
        "fingerprint": build.fingerprint,
        "size": show_size(build.size_bytes),
        "source": f"{provenance.source} ({shorten_digest(provenance.source_digest)})",
        "commit": commit,
        "baked by": f"{provenance.actor} on {provenance.host} in bake {build.id}",
        "tools": tools,
        "packages": f"{len(packages)}" if packages or build.target == "local" else "not known",
        "inputs": f"{len(provenance.inputs)}"
        + (f", opaque: {provenance.opaque}" if provenance.opaque else ""),
    }
    for name, value in lines.items():
        console.result_folded(f"  {name:<12} {value}", hang=15)
    for artifact in build.artifacts:
        console.result_folded(f"  {artifact.kind:<12} {artifact.id} in {artifact.store}", hang=15)


# --- documented JSON -----------------------------------------------------------------------------------


def image_json(image: Image) -> dict[str, Any]:
    """One element of ``image ls --json``."""
    return {
        "reference": image.reference,
        "recipe": image.recipe,
        "version": image.version,
        "status": str(image.status),
        "status_reason": image.status_reason,
        "deprecated_from": image.deprecated_from,
        "complete": image.complete,
        "channels": list(image.channels),
        "preview": image.preview,
        "preview_ends": image.preview_ends,
        "labels": dict(image.labels),
        "revoked_ancestors": list(image.revoked_ancestors),
        "created": image.created,
        "builds": [build_json(build) for build in image.builds],
    }


def build_json(build: Build) -> dict[str, Any]:
    return {
        "target": build.target,
        "arch": build.arch,
        "digest": build.digest,
        "fingerprint": build.fingerprint,
        "source": build.provenance.source,
        "size_bytes": build.size_bytes,
        "artifacts": [
            {
                "id": artifact.id,
                "region": artifact.store if artifact.target == "aws" else None,
                "store": artifact.store,
                "kind": artifact.kind,
            }
            for artifact in build.artifacts
        ],
    }


def provenance_json(build: Build) -> dict[str, Any]:
    provenance = build.provenance
    return {
        "bake": build.id,
        "source": provenance.source,
        "source_digest": provenance.source_digest,
        "parent_build": provenance.parent_build,
        "inputs": dict(provenance.inputs),
        "commit": provenance.commit,
        "dirty": provenance.dirty,
        "actor": provenance.actor,
        "host": provenance.host,
        "started": provenance.started,
        "finished": provenance.finished,
        "tools": dict(provenance.tools),
        "opaque": provenance.opaque,
    }


def package_json(package: Package) -> dict[str, str]:
    return {
        "type": package.type,
        "name": package.name,
        "version": package.version,
        "arch": package.arch,
        "source": package.source,
        "source_version": package.source_version,
    }


def event_json(event: ImageEvent) -> dict[str, Any]:
    """One element of ``events`` in ``image show --json``."""
    return {"event": event.event, "actor": event.actor, "at": event.at, "reason": event.reason}


def lease_json(lease: Lease) -> dict[str, Any]:
    """One lease in any ``--json``."""
    return {
        "id": lease.id,
        "image": lease.reference,
        "owner": lease.owner,
        "actor": lease.actor,
        "reason": lease.reason,
        "created": lease.created,
        "expires": lease.expires,
        "released": lease.released,
    }
