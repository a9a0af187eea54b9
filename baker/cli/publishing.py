"""image publish; and what promote, rollback and revoke do after they moved a channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli import groups
from baker.cli.completion import complete_reference
from baker.cli.wiring import (
    CONFIGURE_AWS,
    Options,
    base_settings,
    configured_targets,
    make_providers,
    open_catalog,
    recipe_settings,
    require_configured,
)
from baker.console import Console
from baker.errors import BakerError
from baker.model import Build, Image, ImageStatus, Reference
from baker.settings import Settings

if TYPE_CHECKING:
    from baker.catalog import Catalog
    from baker.providers.protocol import Provider
    from baker.publishing import Lag, Published

Ref = Annotated[
    str,
    typer.Argument(
        metavar="REF", help="web, web:12, web:prod or web@sha256:ab12…", autocompletion=complete_reference
    ),
]


def add_commands(_app: typer.Typer) -> None:
    groups.image.command("publish")(publish)


def publish(
    context: typer.Context,
    reference: Ref,
    as_json: Annotated[bool, typer.Option("--json", help="Print the documented JSON.")] = False,
) -> int:
    """Bring an image to every region and account that the settings name now, and its channels up to date.

    Repairs what a promotion or a bake said was left behind. The exit code is 1 while something lags.
    """
    from baker.publishing import publish_image

    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    with open_catalog(settings) as catalog:
        image = catalog.resolve(Reference.parse(reference), allow_unusable=True)
        if image.status in (ImageStatus.REVOKED, ImageStatus.DELETED):
            catalog.resolve(Reference.parse(reference))  # raises, and says why
        targets = remote_targets(image)
        for target in targets:
            require_configured(settings, target)
        providers = make_providers(settings, targets=targets) if targets else {}
        for provider in providers.values():
            provider.check()
        done = publish_image(catalog, providers, image, lambda build: settings_now(settings, build))
    if as_json:
        console.result_json(published_json(done))
    else:
        print_published(console, done)
    return int(bool(done.lagging))


def remote_targets(image: Image) -> set[str]:
    """Where others can follow an image: everywhere but in this host's own store."""
    return {build.target for build in image.builds} - {"local"}


def settings_now(settings: Settings, build: Build) -> Mapping[str, Any]:
    """The target's settings as the recipe has them now; baker.toml's if it is not in this project."""
    found = recipe_settings(settings, build.recipe, build.target)
    return base_settings(settings, build.target) if found is None else found


# --- after a channel was moved ------------------------------------------------------------------------


def publish_moved(
    catalog: Catalog, settings: Settings, console: Console, image: Image, channel: str
) -> list[str]:
    """Bring those who follow a channel after it; says what lags, and how that is repaired."""
    targets = remote_targets(image)
    if not targets:
        return []
    from baker.publishing import Lag, publish_channel

    name = f"{image.recipe}:{channel}"
    configured = targets & set(configured_targets(settings))
    lagging = [
        Lag(what=name, why=f"{target}: it is not configured here. {CONFIGURE_AWS}")
        for target in sorted(targets - configured)
    ]
    try:
        providers: Mapping[str, Provider] = make_providers(settings, targets=configured) if configured else {}
        lagging += publish_channel(catalog, providers, image.recipe, channel)
    except BakerError as error:  # the channel is moved all the same
        lagging.append(Lag(what=name, why=str(error)))
    held = catalog.channel(image.recipe, channel)
    for lag in lagging:
        say_left_behind(console, lag, f"{image.recipe}:{held[0]}" if held else image.reference)
    return [str(lag) for lag in lagging]


def say_left_behind(console: Console, lag: Lag, reference: str) -> None:
    console.say(
        f"{console.style('Left behind:', 'red')} {str(lag).rstrip('.')}. "
        f"Repair it: baker image publish {reference}"
    )


# --- what came out --------------------------------------------------------------------------------------


def print_published(console: Console, done: Published) -> None:
    reference = done.image.reference
    for published in done.builds:
        places = ", ".join(f"{artifact.store} {artifact.id}" for artifact in published.artifacts)
        added = ", ".join(artifact.store for artifact in published.added)
        news = f" (new: {added})" if added else ""
        place = f"{published.build.target}/{published.build.arch}"
        console.result_folded(f"{reference} for {place} is in {places}{news}")
    behind = {lag.what for lag in done.lagging}
    for channel in done.channels:
        if f"{done.image.recipe}:{channel}" not in behind:
            console.result(f"{done.image.recipe}:{channel} is published")
    if not (done.builds or done.lagging):
        console.result(f"{reference} is for local only: there is nothing to publish")
    for lag in done.lagging:
        say_left_behind(console, lag, reference)


def published_json(done: Published) -> dict[str, Any]:
    """``image publish --json``; ``added`` are the stores (regions) that are new."""
    return {
        "image": done.image.reference,
        "builds": [
            {
                "target": published.build.target,
                "arch": published.build.arch,
                "artifacts": [
                    {"id": artifact.id, "store": artifact.store} for artifact in published.artifacts
                ],
                "added": [artifact.store for artifact in published.added],
            }
            for published in done.builds
        ],
        "channels": list(done.channels),
        "lagging": [str(lag) for lag in done.lagging],
    }
