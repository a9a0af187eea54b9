"""Promotion: what moving a channel would change."""

from __future__ import annotations

from dataclasses import dataclass

from baker.catalog import Catalog
from baker.manifest import ManifestDifference, compare_manifests
from baker.model import Image, Reference, require_channel_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """A channel's move before it is made: to ``image``, from ``held`` (None: the channel is new).

    ``revision`` is the channel's as it was looked at; the move is refused if somebody moved it since.
    ``difference`` is that of the builds both have for one target; None if there is none.
    """

    image: Image
    held: Image | None
    revision: int | None
    difference: ManifestDifference | None


def describe_promotion(catalog: Catalog, reference: Reference, channel: str) -> Promotion:
    """Raises BadReference, or UsageError for a name that no channel may have."""
    require_channel_name(channel)
    image = catalog.resolve(reference)
    found = catalog.channel(image.recipe, channel)
    if found is None:
        return Promotion(image=image, held=None, revision=None, difference=None)
    version, revision = found
    held = catalog.image(image.recipe, version)
    return Promotion(
        image=image, held=held, revision=revision, difference=compare_images(catalog, held, image)
    )


def compare_images(catalog: Catalog, old: Image, new: Image) -> ManifestDifference | None:
    """The difference of the first target that both have a build for."""
    for build in new.builds:
        before = old.build_for(build.target, build.arch)
        if before is not None:
            return compare_manifests(catalog.manifest(before.id), catalog.manifest(build.id))
    return None
