"""Bringing an image to every place of its targets, and pointing those who follow a channel to what it holds.

The catalog is moved first: it is the truth, and what others follow is brought after it. A place that cannot
be brought there is named as lagging, and the same once more repairs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from baker.catalog import Catalog
from baker.errors import BakerError, ConflictError, Interrupted
from baker.model import LATEST, Artifact, Build, Image
from baker.providers.protocol import Provider
from baker.sweep import distribute_build

SettingsOf = Callable[[Build], Mapping[str, Any] | None]
"""The settings of a build's target as they are now; None: those that it was captured with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lag:
    """A place that does not follow, and why. ``what`` is a channel (``web:prod``) or a build's place."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedBuild:
    """One build's artifacts now, and those of them that it did not have before."""

    build: Build
    artifacts: tuple[Artifact, ...]
    added: tuple[Artifact, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What publishing an image came to. ``channels`` are those that hold it."""

    image: Image
    builds: tuple[PublishedBuild, ...]
    channels: tuple[str, ...]
    lagging: tuple[Lag, ...]


def publish_image(
    catalog: Catalog, providers: Mapping[str, Provider], image: Image, settings_of: SettingsOf
) -> Published:
    """Distribute the image's builds for these providers once more, then publish the channels that hold it.

    Regions, shares and tags are those of the settings as they are now; what is there already is used. An
    image that was registered and never distributed becomes available. Raises ConflictError for one that was
    revoked or deleted meanwhile.
    """
    builds: list[PublishedBuild] = []
    lagging: list[Lag] = []
    for build in image.builds:
        if build.target not in providers:
            continue
        try:
            artifacts = distribute_build(catalog, providers[build.target], image, build, settings_of(build))
            catalog.make_available(image.recipe, image.version, {build.id: artifacts})
        except (ConflictError, Interrupted):
            raise
        except BakerError as error:
            lagging.append(Lag(what=f"{image.reference} for {build.target}/{build.arch}", why=str(error)))
            continue
        before = {(artifact.store, artifact.id) for artifact in build.artifacts}
        added = tuple(artifact for artifact in artifacts if (artifact.store, artifact.id) not in before)
        builds.append(PublishedBuild(build=build, artifacts=artifacts, added=added))
    held = [
        move.channel
        for move in catalog.channels(image.recipe)
        if providers and move.held == image.reference and move.channel != LATEST
    ]
    for channel in held:
        lagging += publish_channel(catalog, providers, image.recipe, channel)
    return Published(
        image=catalog.image(image.recipe, image.version),
        builds=tuple(builds),
        channels=tuple(held),
        lagging=tuple(lagging),
    )


def publish_channel(
    catalog: Catalog, providers: Mapping[str, Provider], recipe: str, channel: str
) -> list[Lag]:
    """Point those who follow a channel to what it holds, wherever its image has a build; returns what lags.

    Two that do this at once end with what the channel holds then: whoever finds that it was moved meanwhile
    publishes again.
    """
    while (held := catalog.channel(recipe, channel)) is not None:
        image = catalog.image(recipe, held[0])
        lagging: list[Lag] = []
        for target in sorted({build.target for build in image.builds} & providers.keys()):
            builds = tuple(build for build in image.builds if build.target == target)
            try:
                places = providers[target].publish_channel(recipe, channel, builds)
            except Interrupted:
                raise
            except BakerError as error:
                places = (f"{target}: {error}",)
            lagging += [Lag(what=f"{recipe}:{channel}", why=place) for place in places]
        if catalog.channel(recipe, channel) == held:
            return lagging
    return []
