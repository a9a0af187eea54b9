"""A sealed instance becomes one AMI, tagged as it is made; what fails is removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from baker.errors import CloudError, MachineReclaimed
from tests.aws import (
    assert_nothing_left,
    calls_of,
    describe_image,
    list_images,
    read_tags,
    start_baking,
)
from tests.lab import Fault, ImageFault, Lab


def test_the_ami_is_of_the_stopped_instance_and_tagged_with_its_snapshots_as_it_is_made(
    lab: Lab, tmp_path: Path
) -> None:
    baking = start_baking(lab, tmp_path, tags={"team": "web"})

    captured = baking.capture()

    order = [call.action for call in lab.calls if call.action in ("StopInstances", "CreateImage")]
    assert order == ["StopInstances", "CreateImage"]
    image = describe_image(lab, captured.artifact)
    assert image["Name"] == f"base-{baking.id}"
    assert image["ImdsSupport"] == "v2.0"
    snapshots = lab.client("ec2").describe_snapshots(SnapshotIds=captured.artifact.details["snapshots"])
    expected = {"baker:bake": baking.id, "baker:recipe": "base", "team": "web", "Name": f"base-{baking.id}"}
    for made in (image, *snapshots["Snapshots"]):
        assert expected.items() <= read_tags(made).items()
        assert {"baker:store", "baker:actor", "baker:deadline"} <= read_tags(made).keys()
    assert calls_of(lab, "CreateTags") == []
    assert [package.name for package in captured.packages] == ["nginx"]
    assert [file.path for file in captured.layers[0].files] == ["/etc"]
    assert_nothing_left(lab, baking)


def test_the_amis_volumes_are_as_configured(lab: Lab, tmp_path: Path) -> None:
    baking = start_baking(
        lab,
        tmp_path,
        root_volume={"size": 20, "type": "gp3", "iops": 4000, "throughput": 250},
        volumes=[{"device": "/dev/sdf", "size": 5, "type": "gp2"}],
    )

    captured = baking.capture()

    disks = {
        one["DeviceName"]: one["Ebs"] for one in describe_image(lab, captured.artifact)["BlockDeviceMappings"]
    }
    assert (disks["/dev/xvda"]["VolumeSize"], disks["/dev/xvda"]["Iops"]) == (20, 4000)
    assert (disks["/dev/sdf"]["VolumeSize"], disks["/dev/sdf"]["VolumeType"]) == (5, "gp2")
    assert len(captured.artifact.details["snapshots"]) == 2
    assert captured.artifact.size_bytes == 25 << 30
    assert_nothing_left(lab, baking)


def test_an_instance_of_the_spot_market_is_captured_while_it_runs(lab: Lab, tmp_path: Path) -> None:
    """AWS stops none of them; it shuts them down while the AMI is made."""
    baking = start_baking(lab, tmp_path, spot=True)

    baking.capture()

    assert calls_of(lab, "StopInstances") == []
    assert "NoReboot" not in calls_of(lab, "CreateImage")[0]
    assert_nothing_left(lab, baking)


def test_one_that_was_taken_back_before_the_ami_was_made_is_said_to_be(lab: Lab, tmp_path: Path) -> None:
    baking = start_baking(lab, tmp_path, spot=True)
    machine = baking.launch()
    baking.provider.seal(machine)
    lab.interrupt_spot(machine.instance.id)

    with pytest.raises(MachineReclaimed, match="Spot instance termination"):
        baking.provider.capture(baking.id, machine, baking.resolve(), baking.teardown)

    assert_nothing_left(lab, baking)


@pytest.mark.parametrize("kind", ["lose", "timeout", "error"])
@pytest.mark.parametrize("action", ["StopInstances", "CreateImage", "ModifyImageAttribute", "DescribeImages"])
def test_a_capture_whose_answers_get_lost_makes_one_ami(
    lab: Lab, tmp_path: Path, action: str, kind: str
) -> None:
    baking = start_baking(lab, tmp_path, request_timeout="1s")
    baking.resolve()
    lab.faults.add(Fault(action=action, kind=kind))

    captured = baking.capture()

    assert list_images(lab, baking) == [lab.region]
    assert describe_image(lab, captured.artifact)["State"] == "available"
    assert_nothing_left(lab, baking)


def test_an_ami_that_failed_is_explained_and_removed(lab: Lab, tmp_path: Path) -> None:
    lab.faults.add(ImageFault(action="CreateImage", kind="fails"))
    baking = start_baking(lab, tmp_path)

    with pytest.raises(CloudError) as raised:
        baking.capture()

    assert "in eu-west-1 is failed: Client.InternalError: Client error on launch" in str(raised.value)
    assert "Try it again" in str(raised.value.hint)
    assert_nothing_left(lab, baking)


def test_an_ami_that_does_not_get_ready_is_waited_for_so_long_and_removed(lab: Lab, tmp_path: Path) -> None:
    lab.faults.add(ImageFault(action="CreateImage", kind="stuck"))
    baking = start_baking(lab, tmp_path, image_timeout="1s")

    with pytest.raises(CloudError) as raised:
        baking.capture()

    assert str(raised.value).startswith("AMI ami-")
    assert str(raised.value).endswith(" in eu-west-1 is still not available after 1 s")
    assert "image_timeout" in str(raised.value.hint)
    assert_nothing_left(lab, baking)


# --- fresh machines of it -------------------------------------------------------------------------


def test_a_fresh_machine_has_the_disks_of_its_ami(lab: Lab, tmp_path: Path) -> None:
    baking = start_baking(
        lab, tmp_path, root_volume={"size": 20}, volumes=[{"device": "/dev/sdf", "size": 5}]
    )
    captured = baking.capture()

    fresh = baking.provider.start(
        f"{baking.id}-verify", "base", captured.artifact, baking.teardown, baking.settings
    )

    assert fresh.run(["true"]).exit_status == 0
    asked = calls_of(lab, "RunInstances")[-1]
    assert asked["ImageId"] == captured.artifact.id
    assert "BlockDeviceMappings" not in asked
    assert len(calls_of(lab, "CreateSecurityGroup")) == 1
    assert_nothing_left(lab, baking)


def test_a_machine_of_an_ami_that_is_gone_is_not_launched(lab: Lab, tmp_path: Path) -> None:
    build = start_baking(lab, tmp_path).bake()
    lab.client("ec2").deregister_image(ImageId=build.artifacts[0].id)
    lab.forget_calls()
    later = start_baking(lab, tmp_path)

    with pytest.raises(CloudError) as raised:
        later.provider.start(later.id, "base", build.artifacts[0], later.teardown, later.settings)

    assert str(raised.value) == f"AMI {build.artifacts[0].id} is not in eu-west-1 any more"
    assert "baker bake --force" in str(raised.value.hint)
    assert calls_of(lab, "RunInstances") == []
    assert_nothing_left(lab, later)
