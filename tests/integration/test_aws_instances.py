"""A build instance is launched as the settings say, once, where there is capacity."""

from __future__ import annotations

import base64
import gzip
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from moto.ec2.models import ec2_backends

from baker.errors import CloudError, SettingsError
from tests.aws import (
    ACCOUNT,
    Baking,
    assert_nothing_left,
    calls_of,
    describe_instances,
    make_provider,
    read_tags,
)
from tests.lab import Fault, Lab
from tests.lab.images import make_image

ARM_TYPE = "t4g.small"


def lack(code: str = "InsufficientInstanceCapacity", times: int = 1) -> Fault:
    return Fault(action="RunInstances", kind="refuse", code=code, times=times, message="none now")


# --- types and markets ----------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["InsufficientInstanceCapacity", "Unsupported", "VcpuLimitExceeded"])
def test_the_next_type_is_taken_where_the_preferred_one_cannot_be_had(
    lab: Lab, launch: Any, code: str
) -> None:
    lab.faults.add(lack(code))

    launched = launch(instance_type=["m5.large", "m5a.large", "t3.small"])

    assert launched.instance["InstanceType"] == "m5a.large"
    assert [call["InstanceType"] for call in calls_of(lab, "RunInstances")] == ["m5.large", "m5a.large"]


def test_types_that_cannot_be_had_are_all_named(lab: Lab, tmp_path: Path) -> None:
    lab.faults.add(lack(), Fault(action="RunInstances", kind="refuse", nth=2, code="Unsupported"))
    baking = Baking(make_provider(lab, tmp_path, instance_type=["m5.large", "m5a.large"]))

    with pytest.raises(CloudError) as raised:
        baking.launch()

    assert str(raised.value) == (
        "no instance type can be launched in eu-west-1 now: "
        "m5.large (on-demand): InsufficientInstanceCapacity; m5a.large (on-demand): Unsupported"
    )
    assert "instance_type" in str(raised.value.hint)
    assert_nothing_left(lab, baking)


def test_a_refusal_that_no_other_type_gets_around_ends_the_launch(lab: Lab, tmp_path: Path) -> None:
    lab.faults.add(lack("InvalidParameterValue"))
    baking = Baking(make_provider(lab, tmp_path, instance_type=["m5.large", "m5a.large"]))

    with pytest.raises(CloudError, match="none now"):
        baking.launch()

    assert len(calls_of(lab, "RunInstances")) == 1
    assert_nothing_left(lab, baking)


def test_spot_is_asked_for_first_and_said_to_end_for_good(launch: Any) -> None:
    launched = launch(spot=True)

    assert launched.instance["InstanceLifecycle"] == "spot"
    assert launched.machine.instance.spot
    assert launched.asked["InstanceMarketOptions"] == {
        "MarketType": "spot",
        "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
    }


def test_on_demand_is_taken_where_no_type_can_be_had_on_the_spot_market(lab: Lab, launch: Any) -> None:
    lab.faults.add(lack(times=2))

    launched = launch(spot=True, instance_type=["m5.large", "m5a.large"])

    assert "InstanceLifecycle" not in launched.instance
    assert not launched.machine.instance.spot
    assert [
        (call["InstanceType"], "InstanceMarketOptions" in call) for call in calls_of(lab, "RunInstances")
    ] == [("m5.large", True), ("m5a.large", True), ("m5.large", False)]


def test_without_spot_none_is_asked_for(launch: Any) -> None:
    assert "InstanceMarketOptions" not in launch().asked


def test_arm_images_get_the_arm_types(lab: Lab, launch: Any) -> None:
    launched = launch(arch="arm64", instance_type=["t3.small", ARM_TYPE, "m7gd.large"])

    assert launched.instance["InstanceType"] == ARM_TYPE
    assert launched.instance["Architecture"] == "arm64"
    assert launched.instance["ImageId"] == lab.source("arm64")


# --- disks ----------------------------------------------------------------------------------------


def test_the_root_volume_is_launched_as_configured(launch: Any) -> None:
    disk = {"size": 20, "type": "gp3", "iops": 4000, "throughput": 250, "kms_key": "alias/images"}
    launched = launch(root_volume=disk)

    volume = launched.volume()
    assert (volume["Size"], volume["VolumeType"], volume["Iops"]) == (20, "gp3", 4000)
    assert launched.asked["BlockDeviceMappings"] == [
        {
            "DeviceName": "/dev/xvda",
            "Ebs": {
                "DeleteOnTermination": True,
                "VolumeSize": 20,
                "VolumeType": "gp3",
                "Iops": 4000,
                "Throughput": 250,
                "Encrypted": True,
                "KmsKeyId": "alias/images",
            },
        }
    ]


def test_a_volume_stays_as_the_source_has_it_where_nothing_is_said(launch: Any) -> None:
    launched = launch()

    assert launched.volume()["Size"] == 8
    assert "BlockDeviceMappings" not in launched.asked


def test_further_volumes_are_attached_and_go_with_the_instance(launch: Any) -> None:
    launched = launch(volumes=[{"device": "/dev/sdf", "size": 5}, {"device": "/dev/sdg", "size": 6}])

    assert [launched.volume(device)["Size"] for device in ("/dev/xvda", "/dev/sdf", "/dev/sdg")] == [8, 5, 6]


def test_no_volume_outlives_the_instance_though_the_source_says_so(lab: Lab, tmp_path: Path) -> None:
    disk = {"VolumeSize": 8, "DeleteOnTermination": False}
    devices = [{"DeviceName": device, "Ebs": dict(disk)} for device in ("/dev/xvda", "/dev/sdh")]
    keeping = make_image(
        ec2_backends[ACCOUNT][lab.region],
        name="debian-keeping",
        architecture="x86_64",
        owner="210987654321",
        public=True,
        devices=devices,
    )
    before = lab.holdings()
    baking = Baking(make_provider(lab, tmp_path), query={"id": keeping.id})
    baking.launch()
    assert len(describe_instances(lab, image_id=keeping.id)[0]["BlockDeviceMappings"]) == 2

    assert_nothing_left(lab, baking)
    assert lab.holdings() == before


# --- the instance itself --------------------------------------------------------------------------


def test_the_instance_profile_is_given_by_name_or_arn(lab: Lab, launch: Any) -> None:
    made = lab.client("iam").create_instance_profile(InstanceProfileName="baking")["InstanceProfile"]
    try:
        assert launch(instance_profile="baking").instance["IamInstanceProfile"]["Arn"] == made["Arn"]
        assert launch(instance_profile=made["Arn"]).instance["IamInstanceProfile"]["Arn"] == made["Arn"]
    finally:
        lab.client("iam").delete_instance_profile(InstanceProfileName="baking")


def test_only_the_second_version_of_the_metadata_service_is_there_and_one_hop_away(launch: Any) -> None:
    assert launch().asked["MetadataOptions"] == {
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
        "HttpEndpoint": "enabled",
    }


def test_an_instance_that_shuts_down_is_gone(lab: Lab, launch: Any) -> None:
    launched = launch()
    assert launched.attribute("instanceInitiatedShutdownBehavior") == "terminate"

    lab.power_off(launched.machine.instance.id)

    assert describe_instances(lab, instance_id=launched.machine.instance.id) == []


def test_the_users_file_reaches_cloud_init_beside_ours(tmp_path: Path, launch: Any) -> None:
    tmp_path.joinpath("cloud.yaml").write_text("#cloud-config\npackages: [jq]\n")

    launched = launch(user_data="cloud.yaml", deadline="90m")

    sent = base64.b64decode(launched.attribute("userData"))
    message = message_from_bytes(gzip.decompress(sent) if sent.startswith(b"\x1f\x8b") else sent)
    parts = [part.get_payload(decode=True) for part in message.walk() if not part.is_multipart()]
    told = b"\n".join(part for part in parts if isinstance(part, bytes)).decode()
    assert "packages: [jq]" in told
    assert launched.machine.access.key.public in told
    assert launched.machine.access.host_key in told
    assert "--on-active=5400s" in told
    assert launched.machine.access.key.private not in told


def test_a_user_data_file_that_is_not_there_is_explained(lab: Lab, tmp_path: Path) -> None:
    baking = Baking(make_provider(lab, tmp_path, user_data="cloud.yaml"))

    with pytest.raises(SettingsError, match=r'user_data = "cloud.yaml" cannot be read: No such file'):
        baking.launch()


def test_everything_of_a_launch_is_tagged_as_it_is_made(lab: Lab, launch: Any) -> None:
    launched = launch(spot=True, tags={"team": "web"})

    expected = {"baker:bake": launched.baking.id, "baker:recipe": "base", "team": "web"}
    kinds = {one["ResourceType"]: read_tags(one) for one in launched.asked["TagSpecifications"]}
    assert set(kinds) == {"instance", "volume", "network-interface", "spot-instances-request"}
    assert launched.asked["ClientToken"].startswith(launched.baking.id)
    [asked] = calls_of(lab, "CreateSecurityGroup")
    for tags in [*kinds.values(), read_tags(asked["TagSpecifications"][0])]:
        assert expected.items() <= tags.items()
        assert {"Name", "baker:store", "baker:actor", "baker:deadline"} <= tags.keys()
    for made in (launched.instance, launched.volume(), launched.group()):
        assert expected.items() <= read_tags(made).items()
    assert calls_of(lab, "CreateTags") == []


# --- once, whatever the network does ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lose", "timeout", "error", "throttle"])
@pytest.mark.parametrize(
    "action",
    ["RunInstances", "CreateSecurityGroup", "AuthorizeSecurityGroupIngress", "DescribeInstances"],
)
def test_a_call_that_is_not_answered_is_made_again_and_done_once(
    lab: Lab, launch: Any, action: str, kind: str
) -> None:
    lab.faults.add(Fault(action=action, kind=kind))

    launched = launch(request_timeout="1s")

    assert len(describe_instances(lab, **{"tag:baker:bake": launched.baking.id})) == 1
    assert len([line for line in lab.holdings() if " security-group " in line]) == 1
    assert len(launched.group()["IpPermissions"]) == 1
