"""A sweep waits for what AWS does not know everywhere yet, and stops before what somebody came to use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from baker.errors import CloudError
from baker.model import Resource
from tests.aws import Baking, assert_nothing_left, calls_of, make_provider, quick_lab
from tests.lab import Fault, Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with quick_lab() as lab:
        yield lab


def capture_of(baking: Baking) -> Resource:
    return Resource(provider="aws", kind="capture", id=baking.id, place="eu-west-1")


def test_an_image_that_is_in_use_stays_though_no_catalog_has_it(lab: Lab, tmp_path: Path) -> None:
    """As after a catalog was restored from a copy that is older than the end of the bake."""
    provider = make_provider(lab, tmp_path)
    baking = Baking(provider)
    [artifact] = baking.bake().artifacts
    ec2 = lab.client("ec2")
    ran = ec2.run_instances(MinCount=1, MaxCount=1, InstanceType="t3.small", ImageId=artifact.id)
    instance = ran["Instances"][0]["InstanceId"]
    before = lab.holdings()

    with pytest.raises(CloudError, match=f"{artifact.id} .* as base:1: instance {instance} ") as raised:
        provider.remove(capture_of(baking))

    assert "baker catalog rebuild --from aws" in str(raised.value.hint)
    assert lab.holdings() == before
    ec2.terminate_instances(InstanceIds=[instance])
    provider.remove(capture_of(baking))
    assert not any(baking.id in line for line in lab.holdings())


def test_what_a_dead_bake_left_half_done_is_removed_without_asking_who_uses_it(
    lab: Lab, tmp_path: Path
) -> None:
    baking = Baking(make_provider(lab, tmp_path))
    baking.register()

    make_provider(lab, tmp_path).remove(capture_of(baking))

    assert calls_of(lab, "DescribeLaunchTemplates") == []
    assert_nothing_left(lab, baking)


def test_an_instance_that_aws_does_not_know_everywhere_yet_is_terminated(lab: Lab, tmp_path: Path) -> None:
    baking = Baking(make_provider(lab, tmp_path))
    baking.launch()
    lab.faults.add(Fault(action="TerminateInstances", kind="refuse", code="InvalidInstanceID.NotFound"))

    assert_nothing_left(lab, baking)

    assert len(calls_of(lab, "TerminateInstances")) == 2
