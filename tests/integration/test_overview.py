"""What planning reads at once is what the single questions say, on both databases."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from baker.catalog import Catalog, Overview
from baker.errors import BadReference, BakerError
from baker.knowledge import resolve_parent
from baker.model import Build, Image, ImageStatus, Reference
from tests.factories import make_build, make_image, make_provenance

RECIPES = ("base", "web", "shop", "tools")
PLACES = (("local", "amd64"), ("aws", "amd64"), ("aws", "arm64"))
PREVIEWS = (None, "pr-1", "pr-2")
CHANNELS = ("dev", "prod")


def make_history(catalog: Catalog, seed: int, images: int) -> None:
    """Versions of a few recipes, and what may happen to them, in an order of chance."""
    chance = random.Random(seed)
    made: list[Build] = []
    for _ in range(images):
        recipe, (target, arch) = chance.choice(RECIPES), chance.choice(PLACES)
        parent = chance.choice(made) if made and recipe != "base" else None
        build = make_build(
            recipe, target, arch, provenance=make_provenance(parent_build=parent.id if parent else None)
        )
        carried = [other.id for other in made if other.recipe == recipe and chance.random() < 0.2]
        wanted = chance.sample(PLACES, chance.randint(1, 3))
        try:
            image = make_image(
                catalog,
                recipe,
                build=build,
                carry=carried,
                wanted=wanted,
                preview=chance.choice((None, None, None, "pr-1", "pr-2")),
                available=chance.random() < 0.8,
            )
        except BakerError:  # upon something revoked
            continue
        made.append(build)
        change_one(catalog, chance, recipe, chance.randint(1, image.version))


def change_one(catalog: Catalog, chance: random.Random, recipe: str, version: int) -> None:
    try:
        match chance.randint(0, 9):
            case 0:
                catalog.deprecate(recipe, version)
            case 1:
                catalog.deprecate(recipe, version, from_=datetime.now(UTC) + timedelta(days=1))
            case 2:
                catalog.revoke(recipe, version, reason="bad")
            case 3:
                catalog.set_status(recipe, version, ImageStatus.DELETED)
            case 4 | 5 | 6:
                channel = chance.choice(CHANNELS)
                held = catalog.channel(recipe, channel)
                catalog.promote(recipe, version, channel, expected_revision=held[1] if held else None)
    except BakerError:  # what cannot happen to this one
        pass


def list_differences(catalog: Catalog, overview: Overview, preview: str | None) -> list[object]:
    return [
        (recipe, target, arch)
        for recipe in (*RECIPES, "never-baked")
        for target, arch in PLACES
        if ask(catalog, recipe, target, arch, preview) != look_up(overview, recipe, target, arch)
    ]


def look_up(overview: Overview, recipe: str, target: str, arch: str) -> dict[str, object]:
    place = recipe, target, arch
    return {
        "usable": None if place in overview.unsound else overview.usable.get(place),
        "latest": overview.latest.get(place),
        "previewed": place in overview.previewed,
        "waiting": overview.waiting_version(*place),
        "revoked": recipe in overview.revoked,
    }


def ask(catalog: Catalog, recipe: str, target: str, arch: str, preview: str | None) -> dict[str, object]:
    usable = catalog.usable_builds(recipe, target, arch, preview=preview)
    newest = catalog.newest_image(recipe, preview=preview)
    # What the newest usable image has may be built upon something revoked: then it is left out.
    held = [image for image in catalog.images(recipe) if is_held(image, target, arch, preview)]
    first = max(held, key=lambda image: (image.preview is not None, image.version), default=None)
    is_sound = first is not None and first.build_for(target, arch) in usable
    elsewhere = [image for image in catalog.images(recipe) if image.preview not in (None, preview)]
    return {
        "usable": usable[0] if is_sound else None,
        "latest": find_parent(catalog, Reference(recipe=recipe), (target, arch), preview),
        "previewed": any(is_held(image, target, arch, image.preview) for image in elsewhere),
        "waiting": catalog.waiting_version(recipe, target, arch, preview=preview),
        "revoked": newest is not None
        and (newest.status is ImageStatus.REVOKED or bool(newest.revoked_ancestors)),
    }


def is_held(image: Image, target: str, arch: str, preview: str | None) -> bool:
    """Whether an image in use has a distributed build for the place."""
    usable = image.status in (ImageStatus.AVAILABLE, ImageStatus.DEPRECATED)
    return usable and image.preview in (None, preview) and (target, arch) in distributed[image.reference]


distributed: dict[str, set[tuple[str, str]]] = {}
"""By an image's reference the places of its builds that are where they belong."""


def find_distributed(catalog: Catalog) -> None:
    waiting = {image.reference: {build.id for build in builds} for image, builds in catalog.unfinished()}
    distributed.clear()
    for image in catalog.images():
        late = waiting.get(image.reference, set())
        distributed[image.reference] = {
            (build.target, build.arch) for build in image.builds if build.id not in late
        }


def find_parent(
    catalog: Catalog, reference: Reference, place: tuple[str, str], preview: str | None
) -> Build | None:
    try:
        return resolve_parent(catalog, reference, place=place, preview=preview).build_for(*place)
    except BadReference:
        return None


@pytest.mark.parametrize("seed", range(3))
def test_overview_says_what_the_single_questions_say(catalog_url: str, seed: int) -> None:
    with Catalog.open(catalog_url, actor="ann") as catalog:
        make_history(catalog, seed, 30)
        find_distributed(catalog)
        for preview in PREVIEWS:
            overview = catalog.overview([*RECIPES, "never-baked"], preview=preview)
            assert list_differences(catalog, overview, preview) == []
            assert overview.usable
            assert overview.latest


@pytest.mark.parametrize("seed", range(3))
def test_builds_of_a_channel_are_those_that_its_references_resolve_to(catalog_url: str, seed: int) -> None:
    with Catalog.open(catalog_url, actor="ann") as catalog:
        make_history(catalog, seed, 30)
        for channel in CHANNELS:
            found = catalog.channel_builds(RECIPES, channel)
            for recipe in RECIPES:
                for place in PLACES:
                    reference = Reference(recipe=recipe, channel=channel)
                    assert found.get((recipe, *place)) == find_parent(catalog, reference, place, None)


def test_overview_has_only_the_recipes_that_were_asked_for(catalog_url: str) -> None:
    with Catalog.open(catalog_url, actor="ann") as catalog:
        make_image(catalog, "web")
        make_image(catalog, "shop")
        overview = catalog.overview(["web"])
    assert list(overview.usable) == list(overview.latest) == [("web", "local", "amd64")]


def test_newest_usable_build_upon_something_revoked_has_to_be_asked_for(catalog_url: str) -> None:
    place = "web", "local", "amd64"
    with Catalog.open(catalog_url, actor="ann") as catalog:
        base = make_image(catalog, "base").builds[0]
        older = make_image(catalog, "web").builds[0]
        upon = make_provenance(parent_build=base.id)
        make_image(catalog, build=make_build("web", provenance=upon))
        assert catalog.overview(["web"]).unsound == frozenset()
        catalog.revoke("base", 1, reason="bad")
        overview = catalog.overview(["web"])
        assert overview.unsound == {place}
        assert place not in overview.usable
        assert overview.revoked == {"web"}
        assert catalog.usable_builds(*place) == [older]
