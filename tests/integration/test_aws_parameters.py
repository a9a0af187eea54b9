"""The SSM parameters of a channel name its AMIs, in every region."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baker.model import Build
from tests.aws import Baking, artifact_in, make_provider
from tests.lab import Fault, Lab

FRANKFURT = "eu-central-1"


def bake(lab: Lab, home: Path, **settings: Any) -> Build:
    return Baking(make_provider(lab, home, regions=[FRANKFURT]), **settings).bake()


def read(lab: Lab, name: str, region: str | None = None) -> str:
    return str(lab.client("ssm", region).get_parameter(Name=name)["Parameter"]["Value"])


def test_each_regions_parameter_names_its_own_ami_and_follows_the_channel(lab: Lab, tmp_path: Path) -> None:
    provider = make_provider(lab, tmp_path)
    first, second = bake(lab, tmp_path), bake(lab, tmp_path)

    for build in (first, second, first):
        assert provider.publish_channel("base", "prod", [build]) == []
        for region in (lab.region, FRANKFURT):
            assert read(lab, "/baker/base/prod", region) == artifact_in(build, region).id
    described = lab.client("ssm").describe_parameters()["Parameters"]
    assert [one["DataType"] for one in described if one["Name"] == "/baker/base/prod"] == ["aws:ec2:image"]


def test_further_architectures_have_parameters_of_their_own(lab: Lab, tmp_path: Path) -> None:
    provider = make_provider(lab, tmp_path)
    intel, arm = bake(lab, tmp_path), bake(lab, tmp_path, arch="arm64")

    assert provider.publish_channel("base", "both", [intel, arm]) == []
    assert provider.publish_channel("base", "arm", [arm]) == []

    assert read(lab, "/baker/base/both") == intel.artifacts[0].id
    assert read(lab, "/baker/base/both/arm64") == read(lab, "/baker/base/arm") == arm.artifacts[0].id


def test_withdrawn_channel_leaves_no_parameter_in_any_region(lab: Lab, tmp_path: Path) -> None:
    provider, build = make_provider(lab, tmp_path), bake(lab, tmp_path)
    provider.publish_channel("base", "pr-1", [build])
    provider.publish_channel("base", "pr-2", [build])

    for _ in range(2):
        assert provider.withdraw_channel("base", "pr-1", [build]) == []
        for region in (lab.region, FRANKFURT):
            found = lab.client("ssm", region).describe_parameters()["Parameters"]
            names = [one["Name"] for one in found]
            assert "/baker/base/pr-1" not in names
            assert "/baker/base/pr-2" in names


def test_withdrawing_says_where_it_failed(lab: Lab, tmp_path: Path) -> None:
    provider, build = make_provider(lab, tmp_path), bake(lab, tmp_path)
    provider.publish_channel("base", "pr-1", [build])
    lab.faults.add(
        Fault(action="DeleteParameter", kind="refuse", code="AccessDeniedException", region=FRANKFURT)
    )

    (place,) = provider.withdraw_channel("base", "pr-1", [build])

    assert place.startswith(f"{FRANKFURT}: ")


def test_builds_of_other_targets_have_none(lab: Lab, tmp_path: Path) -> None:
    local = replace(bake(lab, tmp_path), target="local")
    lab.forget_calls()

    assert make_provider(lab, tmp_path).publish_channel("base", "local", [local]) == []

    assert lab.calls == []


def test_the_recipes_own_prefix_is_used_in_every_region(lab: Lab, tmp_path: Path) -> None:
    build = bake(lab, tmp_path, parameters="/images")

    assert make_provider(lab, tmp_path).publish_channel("base", "prod", [build]) == []

    for region in (lab.region, FRANKFURT):
        assert read(lab, "/images/base/prod", region) == artifact_in(build, region).id


def test_an_empty_prefix_means_none(lab: Lab, tmp_path: Path) -> None:
    build = bake(lab, tmp_path, parameters="")
    lab.forget_calls()

    assert make_provider(lab, tmp_path).publish_channel("base", "none", [build]) == []

    assert lab.calls == []


def test_a_region_that_lags_behind_is_told_and_the_others_are_moved(lab: Lab, tmp_path: Path) -> None:
    build = bake(lab, tmp_path)
    lab.faults.add(
        Fault(action="PutParameter", kind="refuse", code="AccessDeniedException", region=lab.region)
    )
    provider = make_provider(lab, tmp_path)

    [lagging] = provider.publish_channel("base", "late", [build])

    assert lagging == "eu-west-1: these AWS credentials may not call ssm:PutParameter in eu-west-1"
    assert read(lab, "/baker/base/late", FRANKFURT) == artifact_in(build, FRANKFURT).id
    assert provider.publish_channel("base", "late", [build]) == []
    assert read(lab, "/baker/base/late") == build.artifacts[0].id


@pytest.mark.parametrize("kind", ["lose", "timeout", "throttle", "error"])
def test_a_move_whose_answer_gets_lost_is_made(lab: Lab, tmp_path: Path, kind: str) -> None:
    build = bake(lab, tmp_path)
    lab.faults.add(Fault(action="PutParameter", kind=kind))

    provider = make_provider(lab, tmp_path, request_timeout="1s")

    assert provider.publish_channel("base", kind, [build]) == []
    assert read(lab, f"/baker/base/{kind}") == build.artifacts[0].id
