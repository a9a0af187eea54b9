"""Places that follow an image and its channels: after the catalog, or named as lagging until repaired."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import baker.cli.publishing
from baker.catalog import Catalog
from baker.cli import make_app
from baker.errors import CloudError, ConflictError
from baker.model import Artifact, Build, Image
from baker.publishing import publish_channel, publish_image
from baker.teardown import Teardown
from tests.factories import make_artifact, make_build, make_image, make_resource

AWS = ("aws", "x86_64")
LOCAL = ("local", "x86_64")


@dataclass
class Regions:
    """What a provider keeps in every region, instead of AWS: artifacts by build, an image id per channel."""

    target: str = "aws"
    follows: dict[str, str] = field(default_factory=dict)
    lagging: list[str] = field(default_factory=list)
    refused: str = ""
    settings: list[Mapping[str, Any] | None] = field(default_factory=list)
    labels: list[Mapping[str, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    meanwhile: Callable[[], object] | None = None

    def check(self) -> None:
        pass

    def publish_channel(self, recipe: str, channel: str, builds: Sequence[Build]) -> Sequence[str]:
        if self.refused:
            raise CloudError(self.refused)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        self.follows[f"{recipe}:{channel}"] = ", ".join(build.artifacts[0].id for build in builds)
        return self.lagging

    def distribute(
        self,
        build: Build,
        labels: Mapping[str, str],
        teardown: Teardown,
        settings: Mapping[str, Any] | None = None,
    ) -> tuple[Artifact, ...]:
        self.settings.append(settings)
        self.labels.append(labels)
        copy = make_resource(build.id, provider="aws", kind="capture", place="eu-north-1")
        with teardown.making(copy, lambda: self.removed.append(copy.place)):
            if self.refused:
                raise CloudError(self.refused)
        teardown.keep(copy)
        added = make_artifact(id=f"ami-north-{build.id}", target="aws", store="eu-north-1")
        return (*(artifact for artifact in build.artifacts if artifact.id != added.id), added)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open(f"sqlite:///{tmp_path}/catalog.db", actor="ann") as catalog:
        yield catalog


def make_two(catalog: Catalog, *, available: bool = True) -> Image:
    """The next version of web, with a local and an AWS build."""
    local, aws = make_build("web", *LOCAL), make_build("web", *AWS)
    make_image(catalog, build=local, wanted=[LOCAL, AWS])
    image = make_image(catalog, build=aws, wanted=[LOCAL, AWS], available=available)
    assert image.complete
    return image


def ami(image: Image) -> str:
    build = image.build_for(*AWS)
    assert build is not None
    return build.artifacts[0].id


def promote(catalog: Catalog, image: Image, channel: str = "prod") -> None:
    held = catalog.channel("web", channel)
    catalog.promote("web", image.version, channel, expected_revision=held[1] if held else None)


# --- channels -------------------------------------------------------------------------------------------


def test_channel_is_published_as_the_catalog_has_it(catalog: Catalog) -> None:
    regions, image = Regions(), make_two(catalog)
    promote(catalog, image)
    assert publish_channel(catalog, {"aws": regions}, "web", "prod") == []  # type: ignore[dict-item]
    assert regions.follows == {"web:prod": ami(image)}


def test_channel_that_was_moved_meanwhile_is_published_again(catalog: Catalog) -> None:
    first, second = make_two(catalog), make_two(catalog)
    promote(catalog, first)
    regions = Regions(meanwhile=lambda: promote(catalog, second))
    assert publish_channel(catalog, {"aws": regions}, "web", "prod") == []  # type: ignore[dict-item]
    assert regions.follows == {"web:prod": ami(second)}


def test_places_that_lag_and_a_provider_that_refuses_are_named(catalog: Catalog) -> None:
    promote(catalog, make_two(catalog))
    regions = Regions(lagging=["eu-west-1: throttled"])
    lagging = publish_channel(catalog, {"aws": regions}, "web", "prod")  # type: ignore[dict-item]
    assert list(map(str, lagging)) == ["web:prod: eu-west-1: throttled"]
    regions.refused = "the credentials are expired"
    lagging = publish_channel(catalog, {"aws": regions}, "web", "prod")  # type: ignore[dict-item]
    assert list(map(str, lagging)) == ["web:prod: aws: the credentials are expired"]


def test_channel_that_is_not_there_is_published_nowhere(catalog: Catalog) -> None:
    regions = Regions()
    make_two(catalog)
    assert publish_channel(catalog, {"aws": regions}, "web", "prod") == []  # type: ignore[dict-item]
    assert regions.follows == {}


# --- images ---------------------------------------------------------------------------------------------


def test_image_is_brought_to_the_regions_of_today_and_its_channels_with_it(catalog: Catalog) -> None:
    image, other = make_two(catalog), make_two(catalog)
    for channel in ("dev", "prod"):
        promote(catalog, image, channel)
    promote(catalog, other, "staging")
    regions = Regions()
    settings = {"regions": ["eu-north-1"]}
    done = publish_image(catalog, {"aws": regions}, catalog.image("web", 1), lambda _: settings)  # type: ignore[dict-item]
    assert regions.settings == [settings]
    assert regions.labels[0]["version"] == "1"
    assert regions.labels[0]["wanted"] == "aws/x86_64 local/x86_64"
    assert regions.follows == {"web:dev": ami(image), "web:prod": ami(image)}
    assert (done.channels, done.lagging) == (("dev", "prod"), ())
    assert [artifact.store for artifact in done.builds[0].added] == ["eu-north-1"]
    held = done.image.build_for(*AWS)
    assert held is not None
    assert [artifact.store for artifact in held.artifacts] == ["builder-1", "eu-north-1"]
    again = publish_image(catalog, {"aws": regions}, done.image, lambda _: settings)  # type: ignore[dict-item]
    assert again.builds[0].added == ()


def test_image_that_was_never_distributed_becomes_available(catalog: Catalog) -> None:
    image = make_two(catalog, available=False)
    assert "latest" not in image.channels
    done = publish_image(catalog, {"aws": Regions()}, image, lambda _: None)  # type: ignore[dict-item]
    assert done.image.channels == ("latest",)


def test_image_that_cannot_be_distributed_is_named_and_its_channels_are_published_all_the_same(
    catalog: Catalog,
) -> None:
    image = make_two(catalog)
    promote(catalog, image)
    regions = Regions(refused="ec2:CopyImage was refused")
    done = publish_image(catalog, {"aws": regions}, image, lambda _: None)  # type: ignore[dict-item]
    assert list(map(str, done.lagging)) == [
        "web:1 for aws/x86_64: ec2:CopyImage was refused",
        "web:prod: aws: ec2:CopyImage was refused",
    ]
    assert regions.removed == ["eu-north-1"], "what was made of the copy"
    assert catalog.open_entries() == []


def test_image_that_is_revoked_meanwhile_is_not_published(catalog: Catalog) -> None:
    image = make_two(catalog)
    catalog.revoke("web", 1, reason="leaky")
    with pytest.raises(ConflictError, match="was revoked meanwhile"):
        publish_image(catalog, {"aws": Regions()}, image, lambda _: None)  # type: ignore[dict-item]


# --- the command line -----------------------------------------------------------------------------------


@pytest.fixture
def regions(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Regions:
    """A project with [aws], whose provider is this one."""
    regions = Regions()
    (tmp_path / "baker.toml").write_text(f'catalog = "{catalog.url}"\n[aws]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BAKER_ACTOR", "ann")

    def make(settings: object, *, targets: set[str]) -> dict[str, Regions]:
        del settings
        assert targets == {"aws"}
        return {"aws": regions}

    monkeypatch.setattr(baker.cli.publishing, "make_providers", make)
    return regions


def run(*arguments: str, status: int = 0) -> tuple[str, str]:
    done = CliRunner().invoke(make_app(), arguments, standalone_mode=False)
    assert done.exception is None, done.exception
    assert done.return_value == status, done.stderr
    return done.stdout, done.stderr


def test_promotion_moves_what_others_follow_after_the_catalog(catalog: Catalog, regions: Regions) -> None:
    image = make_two(catalog)
    regions.meanwhile = lambda: catalog.channel("web", "prod") or pytest.fail("the catalog comes first")
    assert run("promote", "web:1", "prod", "--yes")[0] == "web:prod is web:1\n"
    assert regions.follows == {"web:prod": ami(image)}


def test_promotion_and_rollback_that_leave_a_region_behind_say_so_and_fail(
    catalog: Catalog, regions: Regions
) -> None:
    make_two(catalog)
    run("promote", "web:1", "prod", "--yes")
    make_two(catalog)
    regions.lagging = ["eu-west-1: throttled"]
    out, err = run("promote", "web:2", "prod", "--yes", status=1)
    left = "Left behind: web:prod: eu-west-1: throttled. Repair it: baker image publish web:2\n"
    assert out == "web:prod is web:2\n"
    assert err.endswith(left)
    assert catalog.channel("web", "prod") == (2, 2), "the channel is moved all the same"
    out, err = run("rollback", "web", "prod", "--yes", "--json", status=1)
    assert json.loads(out)["lagging"] == ["web:prod: eu-west-1: throttled"]
    assert "Repair it: baker image publish web:1\n" in err
    out, err = run("promote", "web:1", "prod", "--yes", status=1)
    assert "web:prod is web:1 already" in err, "what lags is asked for again"
    regions.lagging = []
    out, _ = run("image", "publish", "web:1")
    assert "new: eu-north-1" in out
    assert out.endswith("web:prod is published\n")


def test_fall_back_of_a_revoked_image_moves_what_others_follow(catalog: Catalog, regions: Regions) -> None:
    first = make_two(catalog)
    run("promote", "web:1", "prod", "--yes")
    make_two(catalog)
    run("promote", "web:2", "prod", "--yes")
    run("image", "revoke", "web:2", "--reason", "leaky", "--fall-back", "--yes")
    assert regions.follows == {"web:prod": ami(first)}
    out, _ = run("image", "revoke", "web:2", "--reason", "leaky", "--fall-back", "--yes", "--json")
    assert json.loads(out)["lagging"] == []


def test_publishing_says_what_lags_and_fails(catalog: Catalog, regions: Regions) -> None:
    make_two(catalog)
    regions.refused = "ec2:CopyImage was refused"
    out, _ = run("image", "publish", "web:1", "--json", status=1)
    assert json.loads(out) == {
        "image": "web:1",
        "builds": [],
        "channels": [],
        "lagging": ["web:1 for aws/x86_64: ec2:CopyImage was refused"],
    }


def test_image_that_is_only_here_has_nothing_to_publish(catalog: Catalog, regions: Regions) -> None:
    make_image(catalog)
    run("promote", "web:1", "prod", "--yes")
    assert run("image", "publish", "web:1")[0].endswith(
        "web:1 is for local only: there is nothing to publish\n"
    )
    assert regions.follows == {}


def test_promotion_where_aws_is_not_configured_says_that_aws_lags(
    catalog: Catalog, regions: Regions, tmp_path: Path
) -> None:
    make_two(catalog)
    (tmp_path / "baker.toml").write_text(f'catalog = "{catalog.url}"\n')
    _, err = run("promote", "web:1", "prod", "--yes", status=1)
    assert "Left behind: web:prod: aws: it is not configured here" in err
    assert regions.follows == {}


def test_move_to_an_image_without_a_build_for_aws_warns_that_aws_stays(
    catalog: Catalog, regions: Regions
) -> None:
    make_image(catalog, build=make_build("web", *LOCAL), wanted=[LOCAL])
    image = make_two(catalog)
    _, err = run("promote", "web:2", "prod", "--yes")
    assert "warning" not in err
    _, err = run("promote", "web:1", "prod", "--yes")
    assert "warning     web:1 has no build for aws: who follows web:prod there stays with web:2" in err
    assert regions.follows == {"web:prod": ami(image)}
