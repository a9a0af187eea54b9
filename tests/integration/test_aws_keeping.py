"""What is used stays, what is ours and nobody needs goes, and what is not ours is never touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baker import identity
from baker.errors import CloudError, HostError
from baker.model import Artifact, Resource
from baker.providers.aws.provider import AwsProvider
from tests.aws import NEWEST, Baking, artifact_in, assert_nothing_left, calls_of, make_provider
from tests.factories import make_resource
from tests.lab import Fault, Lab

FRANKFURT = "eu-central-1"


@pytest.fixture
def provider(lab: Lab, tmp_path: Path) -> AwsProvider:
    return make_provider(lab, tmp_path)


@pytest.fixture
def artifact(provider: AwsProvider) -> Artifact:
    """The one AMI of a build."""
    return Baking(provider).bake().artifacts[0]


# --- in use ---------------------------------------------------------------------------------------


def test_an_ami_that_nothing_uses_is_not_in_use(provider: AwsProvider, artifact: Artifact) -> None:
    assert provider.in_use(artifact) == {}


def test_an_instance_uses_its_ami_until_it_is_terminated(
    lab: Lab, provider: AwsProvider, artifact: Artifact
) -> None:
    ec2 = lab.client("ec2")
    ran = ec2.run_instances(MinCount=1, MaxCount=1, InstanceType="t3.small", ImageId=artifact.id)
    instance = ran["Instances"][0]["InstanceId"]
    expected = {artifact.id: f"instance {instance} in {lab.region} was made from it"}

    assert provider.in_use(artifact) == expected
    ec2.stop_instances(InstanceIds=[instance])
    assert provider.in_use(artifact) == expected
    ec2.terminate_instances(InstanceIds=[instance])
    assert provider.in_use(artifact) == {}


@pytest.fixture
def template(lab: Lab) -> Iterator[Callable[..., str]]:
    """A function that makes a launch template, or its next version, and returns its id."""
    ec2 = lab.client("ec2")
    made: dict[str, str] = {}

    def make(image: str, name: str = "web") -> str:
        data = {"ImageId": image, "InstanceType": "t3.small"}
        if name in made:
            ec2.create_launch_template_version(LaunchTemplateId=made[name], LaunchTemplateData=data)
        else:
            answer = ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
            made[name] = answer["LaunchTemplate"]["LaunchTemplateId"]
        return made[name]

    yield make
    for template_id in made.values():
        ec2.delete_launch_template(LaunchTemplateId=template_id)


def test_the_newest_and_the_default_version_of_a_launch_template_use_their_amis(
    lab: Lab, provider: AwsProvider, artifact: Artifact, template: Callable[..., str]
) -> None:
    template_id = template(artifact.id)
    template(lab.source())
    expected = {artifact.id: f"launch template web, version 1, in {lab.region} has it"}
    assert provider.in_use(artifact) == expected

    lab.client("ec2").modify_launch_template(LaunchTemplateId=template_id, DefaultVersion="2")
    assert provider.in_use(artifact) == {}

    template(artifact.id)
    assert provider.in_use(artifact) == {artifact.id: expected[artifact.id].replace("1,", "3,")}


@pytest.fixture
def group(lab: Lab) -> Iterator[Callable[..., None]]:
    """A function that makes an Auto Scaling group."""
    scaling = lab.client("autoscaling")
    made: list[str] = []

    def make(name: str, **how: Any) -> None:
        scaling.create_auto_scaling_group(
            AutoScalingGroupName=name, MinSize=0, MaxSize=0, AvailabilityZones=[f"{lab.region}a"], **how
        )
        made.append(name)

    yield make
    for name in made:
        scaling.delete_auto_scaling_group(AutoScalingGroupName=name, ForceDelete=True)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_group_uses_the_ami_of_the_version_that_it_names(
    lab: Lab,
    provider: AwsProvider,
    artifact: Artifact,
    template: Callable[..., str],
    group: Callable[..., None],
    mixed: bool,
) -> None:
    template_id = template(artifact.id)
    template(lab.source())
    lab.client("ec2").modify_launch_template(LaunchTemplateId=template_id, DefaultVersion="2")
    assert provider.in_use(artifact) == {}

    named = {"LaunchTemplateId": template_id, "Version": "1"}
    policy = {"MixedInstancesPolicy": {"LaunchTemplate": {"LaunchTemplateSpecification": named}}}
    group("blue", **(policy if mixed else {"LaunchTemplate": named}))

    assert provider.in_use(artifact) == {
        artifact.id: f"launch template web, version 1, in {lab.region} has it, which the Auto Scaling group "
        "blue uses"
    }


def test_groups_may_name_what_was_deleted(
    lab: Lab,
    provider: AwsProvider,
    artifact: Artifact,
    template: Callable[..., str],
    group: Callable[..., None],
) -> None:
    template_id = template(lab.source())
    group("stale", LaunchTemplate={"LaunchTemplateId": template_id, "Version": "1"})
    missing = "InvalidLaunchTemplateId.VersionNotFound"
    lab.faults.add(Fault(action="DescribeLaunchTemplateVersions", kind="refuse", code=missing))

    assert provider.in_use(artifact) == {}
    assert {tuple(call["Versions"]) for call in calls_of(lab, "DescribeLaunchTemplateVersions")} >= {
        ("$Default",),
        ("$Latest",),
        ("1",),
    }


def test_templates_are_listed_once_for_many_amis(
    lab: Lab, provider: AwsProvider, artifact: Artifact, template: Callable[..., str]
) -> None:
    template(artifact.id)
    others = [replace(artifact, id=lab.source(purpose), details={}) for purpose in ("older", "arm64")]

    assert set(provider.in_use(artifact, *others)) == {artifact.id}

    assert len(calls_of(lab, "DescribeLaunchTemplateVersions")) == 1


def test_a_launch_configuration_uses_its_ami(
    lab: Lab, provider: AwsProvider, artifact: Artifact, group: Callable[..., None]
) -> None:
    scaling = lab.client("autoscaling")
    scaling.create_launch_configuration(
        LaunchConfigurationName="old", ImageId=artifact.id, InstanceType="t3.small"
    )
    try:
        assert provider.in_use(artifact) == {artifact.id: f"launch configuration old in {lab.region} has it"}
        group("green", LaunchConfigurationName="old")
        told = provider.in_use(artifact)[artifact.id]
        assert told.endswith(" has it, which the Auto Scaling group green uses")
    finally:
        scaling.delete_launch_configuration(LaunchConfigurationName="old")


def test_an_ami_that_shares_the_snapshot_uses_it(lab: Lab, provider: AwsProvider, artifact: Artifact) -> None:
    ec2 = lab.client("ec2")
    other = Baking(provider).bake().artifacts[0]
    shared = replace(artifact, details={**artifact.details, "snapshots": other.details["snapshots"]})

    [snapshot] = other.details["snapshots"]
    assert provider.in_use(shared) == {
        artifact.id: f"AMI {other.id} in {lab.region} uses its snapshot {snapshot}"
    }
    ec2.deregister_image(ImageId=other.id)


# --- deleting -------------------------------------------------------------------------------------


def test_deleting_removes_amis_and_snapshots_everywhere_and_may_be_repeated(lab: Lab, tmp_path: Path) -> None:
    provider = make_provider(lab, tmp_path, regions=[FRANKFURT])
    before = lab.holdings()
    build = Baking(provider).bake()
    assert all(provider.holds(artifact) for artifact in build.artifacts)

    provider.delete(*build.artifacts)
    provider.delete(*build.artifacts)

    assert lab.holdings() == before
    assert not any(provider.holds(artifact) for artifact in build.artifacts)


def test_an_ami_that_somebody_needs_stays(lab: Lab, provider: AwsProvider, artifact: Artifact) -> None:
    before = lab.holdings()
    asked: list[tuple[str, list[str]]] = []

    provider.delete(artifact, is_needed=lambda one, bakes: asked.append((one.id, list(bakes))) is None)

    assert asked == [(artifact.id, [artifact.details["bake"]])]
    assert lab.holdings() == before


def test_a_deletion_that_was_interrupted_is_finished_by_the_next(
    lab: Lab, provider: AwsProvider, artifact: Artifact
) -> None:
    lab.faults.add(Fault(action="DeleteSnapshot", kind="refuse", code="UnauthorizedOperation"))
    with pytest.raises(CloudError, match="may not call ec2:DeleteSnapshot"):
        provider.delete(artifact)
    assert any(artifact.details["snapshots"][0] in line for line in lab.holdings())

    provider.delete(artifact)

    assert not any(artifact.details["snapshots"][0] in line for line in lab.holdings())


@pytest.mark.parametrize("action", ["DeregisterImage", "DeleteSnapshot"])
def test_a_deletion_whose_answer_gets_lost_is_done(
    lab: Lab, provider: AwsProvider, artifact: Artifact, action: str
) -> None:
    lab.faults.add(Fault(action=action, kind="lose"))

    provider.delete(artifact)

    assert not any(f"baker:bake={artifact.details['bake']}" in line for line in lab.holdings())


def test_a_snapshot_that_another_ami_uses_stays(lab: Lab, provider: AwsProvider, artifact: Artifact) -> None:
    lab.faults.add(Fault(action="DeleteSnapshot", kind="refuse", code="InvalidSnapshot.InUse", times=1000))

    provider.delete(artifact)
    lab.faults.clear()

    assert any(artifact.details["snapshots"][0] in line for line in lab.holdings())
    lab.client("ec2").delete_snapshot(SnapshotId=artifact.details["snapshots"][0])


def test_what_is_gone_is_not_held(lab: Lab, tmp_path: Path, artifact: Artifact) -> None:
    assert make_provider(lab, tmp_path).holds(artifact)
    lab.client("ec2").deregister_image(ImageId=artifact.id)
    assert not make_provider(lab, tmp_path).holds(artifact)


# --- leftovers ------------------------------------------------------------------------------------


def find_leftovers(provider: AwsProvider, baking: Baking) -> list[Resource]:
    return [resource for resource in provider.leftovers() if resource.details["bake"] == baking.id]


def test_leftovers_tell_what_a_bake_has_whose_it_is_and_until_when(lab: Lab, tmp_path: Path) -> None:
    provider = make_provider(lab, tmp_path, regions=[FRANKFURT])
    baking = Baking(provider)
    build = baking.distribute(baking.register())
    verifying = f"{baking.id}-verify"
    provider.start(verifying, "base", build.artifacts[0], baking.teardown, baking.settings)

    found = find_leftovers(make_provider(lab, tmp_path), baking)

    assert {(resource.kind, resource.id, resource.place) for resource in found} == {
        ("instance", verifying, lab.region),
        ("security-group", baking.id, lab.region),
        ("capture", baking.id, lab.region),
        ("capture", baking.id, FRANKFURT),
    }
    for resource in found:
        assert resource.provider == "aws"
        assert resource.details["store"] == identity.store_name(tmp_path)
        assert resource.details["deadline"]
    for resource in found:
        provider.remove(resource)


def test_each_leftover_is_removed_whatever_the_order_and_again(lab: Lab, tmp_path: Path) -> None:
    before = lab.holdings()
    baking = Baking(make_provider(lab, tmp_path, regions=[FRANKFURT]))
    baking.distribute(baking.register())
    sweeping = make_provider(lab, tmp_path)  # another process
    found = sorted(find_leftovers(sweeping, baking), key=lambda one: one.kind == "security-group")

    for resource in found * 2:
        sweeping.remove(resource)

    assert lab.holdings() == before
    assert find_leftovers(sweeping, baking) == []


def test_regions_that_were_used_once_are_still_looked_at(lab: Lab, tmp_path: Path) -> None:
    baking = Baking(make_provider(lab, tmp_path, region=FRANKFURT))
    baking.settings["region"] = FRANKFURT
    baking.launch()

    elsewhere = make_provider(lab, tmp_path)

    assert {resource.place for resource in find_leftovers(elsewhere, baking)} == {FRANKFURT}
    assert_nothing_left(lab, baking)


def test_snapshots_of_an_ami_that_never_came_to_be_are_leftovers(
    lab: Lab, provider: AwsProvider, artifact: Artifact
) -> None:
    lab.client("ec2").deregister_image(ImageId=artifact.id)

    [resource] = [one for one in provider.leftovers() if one.id == artifact.details["bake"]]
    provider.remove(resource)

    assert not any(artifact.details["snapshots"][0] in line for line in lab.holdings())


def test_what_is_not_there_is_removed_already(provider: AwsProvider) -> None:
    for kind in ("instance", "security-group", "capture"):
        provider.remove(
            make_resource("01JNOTTHERE000000000000000", provider="aws", kind=kind, place="eu-west-1")
        )


def test_what_the_provider_does_not_know_is_refused(provider: AwsProvider) -> None:
    with pytest.raises(HostError, match="the aws provider has no machine x"):
        provider.remove(make_resource("x", provider="aws"))


def test_nothing_without_our_tags_is_ever_touched(lab: Lab, provider: AwsProvider) -> None:
    """Not even what has the names that ours would have."""
    ec2, baking = lab.client("ec2"), Baking(provider)
    group = ec2.create_security_group(GroupName=f"baker-{baking.id}", Description="theirs")["GroupId"]
    ran = ec2.run_instances(
        MinCount=1,
        MaxCount=1,
        InstanceType="t3.small",
        ImageId=lab.source(),
        SecurityGroupIds=[group],
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": f"baker base {baking.id}"}]}
        ],
    )["Instances"][0]["InstanceId"]
    ec2.stop_instances(InstanceIds=[ran])
    image = ec2.create_image(InstanceId=ran, Name=f"base-{baking.id}")["ImageId"]
    before = lab.holdings()

    assert find_leftovers(provider, baking) == []
    for kind in ("instance", "security-group", "capture"):
        provider.remove(make_resource(baking.id, provider="aws", kind=kind, place=lab.region))
    with pytest.raises(CloudError, match=f"baker-{baking.id}.*already exists|InvalidGroup.Duplicate"):
        baking.launch()
    assert_nothing_left(lab, baking)

    assert lab.holdings() == before
    ec2.terminate_instances(InstanceIds=[ran])
    ec2.deregister_image(ImageId=image)


# --- waiting for what still holds on ----------------------------------------------------------------


def test_a_group_is_removed_once_its_instances_are_gone(lab: Lab, provider: AwsProvider) -> None:
    baking = Baking(provider)
    baking.launch()
    lab.faults.add(Fault(action="DeleteSecurityGroup", kind="refuse", code="DependencyViolation", times=3))

    assert_nothing_left(lab, baking)

    assert len(calls_of(lab, "DeleteSecurityGroup")) == 4


def test_two_bakes_at_once_do_not_touch_each_other(lab: Lab, provider: AwsProvider) -> None:
    first, second = Baking(provider, query=NEWEST), Baking(provider, query=NEWEST)
    first.launch()
    machine = second.launch()

    assert_nothing_left(lab, first)

    assert machine.run(["true"]).exit_status == 0
    assert artifact_in(second.bake(), lab.region)
