"""image resolve: an image's artifact, for other tools."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from baker.cli import groups
from baker.cli.completion import complete_reference
from baker.cli.wiring import Options, open_catalog
from baker.console import Console, say_warnings
from baker.errors import UsageError
from baker.formats import (
    FORMATS,
    Choice,
    Query,
    choose_artifact,
    packer_manifest,
    read_query,
    write_env,
    write_tfvars,
)
from baker.life import list_warnings
from baker.model import Image, Reference


def add_commands(_app: typer.Typer) -> None:
    groups.image.command("resolve")(resolve_image)


def resolve_image(
    context: typer.Context,
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="REF",
            help="web, web:12, web:prod or web@sha256:ab12…; with external it may come from the query.",
            autocompletion=complete_reference,
        ),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help=", ".join(FORMATS) + ".",
            autocompletion=lambda incomplete: [name for name in FORMATS if name.startswith(incomplete)],
        ),
    ] = "plain",
    target: Annotated[
        str | None, typer.Option("--target", help="local or aws; else the only one, or local.")
    ] = None,
    arch: Annotated[str | None, typer.Option("--arch", help="amd64, arm64, …")] = None,
    region: Annotated[
        str | None, typer.Option("--region", help="Region or store, if it is in several.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> int:
    """Print an image's artifact, alone or as another tool reads it.

    An image that is revoked, deleted or not yet distributed is refused; a deprecated one warns on stderr.
    """
    if format_ not in FORMATS:
        raise UsageError(f"there is no format {format_}", hint=f"Formats: {', '.join(FORMATS)}")
    format_ = "json" if as_json else format_
    query = find_query(format_, reference, target=target, arch=arch, region=region)
    options: Options = context.obj
    console = Console()
    with open_catalog(options.settings(), read_only=True) as catalog:
        image = catalog.resolve(query.reference)
    say_warnings(console, list_warnings(image))
    if format_ == "packer-manifest":
        console.result_json(list_packer_builds(image, query))
        return 0
    choice = choose_artifact(image, target=query.target, arch=query.arch, region=query.region)
    if format_ in ("json", "external"):
        console.result_json(describe_choice(choice) if format_ == "json" else choice.values)
    else:
        write = {"plain": lambda choice: choice.artifact.id, "env": write_env, "tfvars": write_tfvars}
        console.result(write[format_](choice))
    return 0


def find_query(
    format_: str, reference: str | None, *, target: str | None, arch: str | None, region: str | None
) -> Query:
    """From the flags; for ``external`` also from standard input, unless that is a terminal."""
    if format_ == "external":
        text = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
        flags = {"reference": reference, "target": target, "arch": arch, "region": region}
        return read_query(text, flags)
    if reference is None:
        raise UsageError("no image is named", hint="Name one: baker image resolve web:prod")
    return Query(reference=Reference.parse(reference), target=target, arch=arch, region=region)


def list_packer_builds(image: Image, query: Query) -> dict[str, object]:
    """Every build, or the one that is asked for."""
    builds = [
        build
        for build in image.builds
        if query.target in (None, build.target) and query.arch in (None, build.arch)
    ]
    if not builds or query.region is not None:
        builds = [choose_artifact(image, target=query.target, arch=query.arch, region=query.region).build]
    return packer_manifest(image, builds)


def describe_choice(choice: Choice) -> dict[str, object]:
    """The documented JSON: ``region`` is null but on AWS, the rest is never."""
    image = choice.image
    return {
        **choice.values,
        "version": image.version,
        "region": choice.values["region"] or None,
        "created": choice.build.created,
        "size_bytes": choice.artifact.size_bytes,
        "channels": list(image.channels),
        "warnings": list_warnings(image),
    }
