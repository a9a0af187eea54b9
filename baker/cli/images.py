"""image ls, image show, image resolve, promote."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from baker.cli.completion import complete_channel, complete_recipe, complete_reference
from baker.cli.wiring import Options, open_catalog
from baker.console import Console, describe_difference, show_age, show_size
from baker.errors import BadReference, UsageError
from baker.model import Build, ChannelMove, Image, Package, Reference

Json = Annotated[bool, typer.Option("--json", help="Print the documented JSON.")]
Ref = Annotated[
    str,
    typer.Argument(
        metavar="REF", help="web, web:12, web:prod or web@sha256:ab12…", autocompletion=complete_reference
    ),
]


def add_commands(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="List, inspect and resolve images.")
    group.command("ls")(list_images)
    group.command("show")(show_image)
    group.command("resolve")(resolve_image)
    app.add_typer(group, name="image")
    app.command("promote")(promote)


def list_images(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", autocompletion=complete_recipe)] = None,
    as_json: Json = False,
) -> int:
    """List images, newest first."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    with open_catalog(options.settings(), read_only=True, or_empty=True) as catalog:
        images = catalog.images(recipe)
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
            str(image.status) + ("" if image.complete else " (incomplete)"),
            ", ".join(image.channels),
            show_age(image.created),
            show_size(sum(build.size_bytes for build in image.builds)),
            ", ".join(f"{build.target}/{build.arch} {build.digest[:19]}" for build in image.builds),
        )
        for image in images
    ]
    console.table(("IMAGE", "STATUS", "CHANNELS", "AGE", "SIZE", "BUILDS"), rows)
    console.say(console.style(f"in {description}", "dim"))
    return 0


def show_image(context: typer.Context, reference: Ref, as_json: Json = False) -> int:
    """Show one image: its builds, where they came from, what is in them, its history."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    with open_catalog(options.settings(), read_only=True) as catalog:
        image = catalog.resolve(Reference.parse(reference), allow_unusable=True)
        packages = {build.id: catalog.packages(build.id) for build in image.builds}
        history = [
            move
            for channel in catalog.channels(image.recipe)
            for move in catalog.channel_history(image.recipe, channel.channel)
            if image.version in (move.from_version, move.to_version)
        ]
    if as_json:
        shown = image_json(image)
        for build, described in zip(image.builds, shown["builds"], strict=True):
            described["provenance"] = provenance_json(build)
            described["packages"] = [package_json(package) for package in packages[build.id]]
        shown["history"] = [move_json(move) for move in history]
        console.result_json(shown)
        return 0
    channels = f"  in {', '.join(image.channels)}" if image.channels else ""
    console.result(f"{image.reference}  {image.status}{channels}  made {show_age(image.created)} ago")
    for build in image.builds:
        print_build(console, build, packages[build.id])
    for move in history:
        before = f"{move.recipe}:{move.from_version}" if move.from_version else "nothing"
        reason = f": {move.reason}" if move.reason else ""
        after = f"{move.recipe}:{move.to_version}"
        console.result(
            f"  {move.at:%Y-%m-%d %H:%M} {move.actor} moved {move.channel} from {before} to {after}{reason}"
        )
    return 0


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
        "source": f"{provenance.source} ({provenance.source_digest[:19]})",
        "commit": commit,
        "baked by": f"{provenance.actor} on {provenance.host} in bake {build.id}",
        "tools": tools,
        "packages": f"{len(packages)}",
        "inputs": f"{len(provenance.inputs)}"
        + (f", opaque: {provenance.opaque}" if provenance.opaque else ""),
    }
    for name, value in lines.items():
        console.result(f"  {name:<12} {value}")
    for artifact in build.artifacts:
        console.result(f"  {artifact.kind:<12} {artifact.id} in {artifact.store}")


def resolve_image(
    context: typer.Context,
    reference: Ref,
    target: Annotated[str, typer.Option("--target", help="local or aws.")] = "local",
) -> int:
    """Print the id of an image's artifact, alone: for scripts."""
    options: Options = context.obj
    with open_catalog(options.settings(), read_only=True) as catalog:
        image = catalog.resolve(Reference.parse(reference))
    builds = [build for build in image.builds if build.target == target]
    if not builds:
        has = ", ".join(sorted({build.target for build in image.builds})) or "none"
        raise BadReference(f"{image.reference} has no build for the target {target} (it has: {has})")
    Console().result(builds[0].artifacts[0].id)
    return 0


def promote(
    context: typer.Context,
    reference: Ref,
    channel: Annotated[
        str,
        typer.Argument(metavar="CHANNEL", help="dev, staging, prod, …", autocompletion=complete_channel),
    ],
    reason: Annotated[str | None, typer.Option("--reason", help="Kept in the channel's history.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> int:
    """Move a channel to an image."""
    from baker.lifecycle import describe_promotion

    options: Options = context.obj
    console = Console(as_json=as_json)
    with open_catalog(options.settings()) as catalog:
        promotion = describe_promotion(catalog, Reference.parse(reference), channel)
        image = promotion.image
        if promotion.held is not None and promotion.held.version == image.version:
            console.say(f"{image.recipe}:{channel} is {image.reference} already")
            move = None
        else:
            held = promotion.held.reference if promotion.held else "nothing"
            console.say(f"{image.recipe}:{channel}: {held} -> {image.reference}")
            if promotion.difference is not None:
                console.say(f"  {describe_difference(promotion.difference)}")
            if not yes:
                if not console.can_ask():
                    raise UsageError("promote asks before it moves a channel", hint="In a script: --yes.")
                typer.confirm("Move it?", abort=True, err=True)
            move = catalog.promote(
                image.recipe, image.version, channel, reason=reason, expected_revision=promotion.revision
            )
    if as_json:
        console.result_json(
            {"image": image.reference, "channel": channel, "move": move_json(move) if move else None}
        )
    elif move is not None:
        console.result(f"{image.recipe}:{channel} is {image.reference}")
    return 0


# --- documented JSON -----------------------------------------------------------------------------------


def image_json(image: Image) -> dict[str, Any]:
    """One element of ``image ls --json``."""
    return {
        "reference": image.reference,
        "recipe": image.recipe,
        "version": image.version,
        "status": str(image.status),
        "complete": image.complete,
        "channels": list(image.channels),
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


def move_json(move: ChannelMove) -> dict[str, Any]:
    return {
        "channel": move.channel,
        "revision": move.revision,
        "from": None if move.from_version is None else f"{move.recipe}:{move.from_version}",
        "to": f"{move.recipe}:{move.to_version}",
        "actor": move.actor,
        "reason": move.reason,
        "at": move.at,
    }
