"""A build instance is launched as the settings say, once, where there is capacity, open to one address."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator, Mapping
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from moto.ec2.models import ec2_backends

from baker.errors import CloudError, SettingsError
from baker.providers.aws import network
from tests.aws import (
    ACCOUNT,
    Baking,
    assert_nothing_left,
    calls_of,
    describe_instances,
    make_provider,
    quick_lab,
    read_tags,
)
from tests.lab import Fault, Lab
from tests.lab.images import make_image

ARM_TYPE = "t4g.small"


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    with quick_lab() as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Lab:
    shared_lab.faults.clear()
    shared_lab.forget_calls()
    return shared_lab


class Launched:
    """What one launch with these settings came to."""

    def __init__(self, lab: Lab, home: Path, *, arch: str = "x86_64", **settings: Any) -> None:
        self.lab = lab
        self.baking = Baking(make_provider(lab, home, **settings), arch=arch)
        self.machine = self.baking.launch()
        self.instance = describe_instances(lab, instance_id=self.machine.instance.id)[0]
        self.asked = calls_of(lab, "RunInstances")[-1]

    def volume(self, device: str = "/dev/xvda") -> Mapping[str, Any]:
        mappings = self.instance["BlockDeviceMappings"]
        ids = [one["Ebs"]["VolumeId"] for one in mappings if one["DeviceName"] == device]
        return dict(self.lab.client("ec2").describe_volumes(VolumeIds=ids)["Volumes"][0])

    def group(self) -> Mapping[str, Any]:
        tagged = [{"Name": "tag:baker:bake", "Values": [self.baking.id]}]
        [found] = self.lab.client("ec2").describe_security_groups(Filters=tagged)["SecurityGroups"]
        interfaces = self.asked.get("NetworkInterfaces", [self.asked])
        assert interfaces[0].get("Groups", self.asked.get("SecurityGroupIds")) == [found["GroupId"]]
        return dict(found)

    def attribute(self, name: str) -> Any:
        client = self.lab.client("ec2")
        found = client.describe_instance_attribute(InstanceId=self.machine.instance.id, Attribute=name)
        return found[name[0].upper() + name[1:]]["Value"]


@pytest.fixture
def launch(lab: Lab, tmp_path: Path) -> Iterator[Any]:
    """A function that launches; afterwards nothing of it may be left."""
    made: list[Launched] = []

    def launch(**settings: Any) -> Launched:
        made.append(Launched(lab, tmp_path, **settings))
        return made[-1]

    yield launch
    for one in made:
        assert_nothing_left(lab, one.baking)


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


# --- where ----------------------------------------------------------------------------------------


@pytest.fixture
def places(lab: Lab) -> Iterator[dict[str, str]]:
    """A VPC of one's own with two subnets, and what else has tags like them."""
    ec2 = lab.client("ec2")

    def tagged(kind: str, **tags: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]

    vpc, twin = (
        ec2.create_vpc(CidrBlock="10.9.0.0/16", TagSpecifications=tagged("vpc", team="web", name=name))["Vpc"]
        for name in ("one", "two")
    )
    small, large = (
        ec2.create_subnet(
            VpcId=vpc["VpcId"],
            CidrBlock=block,
            AvailabilityZone=f"{lab.region}{zone}",
            TagSpecifications=tagged("subnet", team="web", zone=zone),
        )["Subnet"]
        for block, zone in (("10.9.1.0/28", "a"), ("10.9.2.0/24", "b"))
    )
    yield {
        "vpc": vpc["VpcId"],
        "twin": twin["VpcId"],
        "small": small["SubnetId"],
        "large": large["SubnetId"],
    }
    for subnet in (small, large):
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    for one in (vpc, twin):
        ec2.delete_vpc(VpcId=one["VpcId"])


def test_without_settings_the_default_vpc_is_used(lab: Lab, launch: Any) -> None:
    launched = launch()

    vpcs = lab.client("ec2").describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    assert launched.instance["VpcId"] == vpcs[0]["VpcId"] == launched.group()["VpcId"]


def test_a_subnet_by_id_brings_its_vpc(launch: Any, places: dict[str, str]) -> None:
    launched = launch(subnet=places["small"])

    assert (launched.instance["SubnetId"], launched.instance["VpcId"]) == (places["small"], places["vpc"])
    assert launched.group()["VpcId"] == places["vpc"]
    assert launched.asked["NetworkInterfaces"][0]["AssociatePublicIpAddress"] is True


def test_of_several_subnets_with_the_tags_the_one_with_most_room_is_used(
    launch: Any, places: dict[str, str]
) -> None:
    assert launch(subnet={"team": "web"}).instance["SubnetId"] == places["large"]


def test_the_zone_narrows_the_subnets(lab: Lab, launch: Any, places: dict[str, str]) -> None:
    launched = launch(subnet={"team": "web"}, zone=f"{lab.region}a")

    assert launched.instance["SubnetId"] == places["small"]


@pytest.mark.parametrize("by_tags", [False, True])
def test_a_vpc_alone_is_enough(launch: Any, places: dict[str, str], by_tags: bool) -> None:
    launched = launch(vpc={"team": "web", "name": "one"} if by_tags else places["vpc"])

    assert launched.instance["SubnetId"] == places["large"]


def test_a_zone_of_the_default_vpc_may_be_named(lab: Lab, launch: Any) -> None:
    launched = launch(zone=f"{lab.region}b")

    assert launched.instance["Placement"]["AvailabilityZone"] == f"{lab.region}b"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subnet": {"team": "none"}}, "no subnet in eu-west-1 has team=none"),
        ({"vpc": {"team": "none"}}, "no vpc in eu-west-1 has team=none"),
        ({"vpc": {"team": "web"}}, "several VPCs in eu-west-1 have team=web: "),
    ],
)
def test_tags_that_find_none_or_too_many_are_explained(
    lab: Lab, tmp_path: Path, places: dict[str, str], settings: dict[str, Any], message: str
) -> None:
    baking = Baking(make_provider(lab, tmp_path, **settings))

    with pytest.raises(SettingsError) as raised:
        baking.launch()

    assert str(raised.value).startswith(message)
    assert raised.value.hint
    if message.startswith("several"):
        assert places["vpc"] in str(raised.value)
        assert places["twin"] in str(raised.value)
    assert_nothing_left(lab, baking)


def test_a_subnet_that_is_not_there_is_explained(lab: Lab, tmp_path: Path) -> None:
    baking = Baking(make_provider(lab, tmp_path, subnet="subnet-0123456789abcdef0"))

    with pytest.raises(CloudError, match="subnet-0123456789abcdef0"):
        baking.launch()

    assert_nothing_left(lab, baking)


def test_a_private_address_is_asked_for_and_used(launch: Any, places: dict[str, str]) -> None:
    launched = launch(subnet=places["small"], address="private")

    assert launched.asked["NetworkInterfaces"][0]["AssociatePublicIpAddress"] is False
    assert "PublicIpAddress" not in launched.instance
    assert launched.machine.access.address == launched.instance["PrivateIpAddress"]


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
    [asked] = calls_of(lab, "CreateSecurityGroup")
    for tags in [*kinds.values(), read_tags(asked["TagSpecifications"][0])]:
        assert expected.items() <= tags.items()
        assert {"Name", "baker:store", "baker:actor", "baker:deadline"} <= tags.keys()
    for made in (launched.instance, launched.volume(), launched.group()):
        assert expected.items() <= read_tags(made).items()
    assert calls_of(lab, "CreateTags") == []


# --- who may reach it -----------------------------------------------------------------------------


def test_the_security_group_is_open_to_the_configured_range_alone(lab: Lab, launch: Any) -> None:
    opened = launch(open_to="127.0.0.0/8").group()["IpPermissions"]

    assert [(one["FromPort"], one["ToPort"], one["IpProtocol"]) for one in opened] == [
        (lab.ssh_port, lab.ssh_port, "tcp")
    ]
    assert [one["CidrIp"] for one in opened[0]["IpRanges"]] == ["127.0.0.0/8"]
    assert opened[0]["Ipv6Ranges"] == []


@pytest.mark.parametrize(
    ("address", "function", "told", "opened"),
    [
        ("public", "_ask_address", "203.0.113.7", "203.0.113.7/32"),
        ("public", "_ask_address", "2001:db8::7", "2001:db8::7/128"),
        ("private", "_own_address", "10.1.2.3", "10.1.2.3/32"),
    ],
)
def test_without_a_range_it_is_open_to_this_hosts_address_alone(
    launch: Any, monkeypatch: pytest.MonkeyPatch, address: str, function: str, told: str, opened: str
) -> None:
    monkeypatch.setattr(network, function, lambda: told)

    [permission] = launch(open_to=None, address=address).group()["IpPermissions"]

    ranges = [one["CidrIp"] for one in permission["IpRanges"]]
    ranges += [one["CidrIpv6"] for one in permission["Ipv6Ranges"]]
    assert ranges == [opened]


def test_an_address_that_cannot_be_found_out_is_explained(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_ask_address", lambda: "<html>please log in</html>")
    baking = Baking(make_provider(lab, tmp_path, open_to=None))

    with pytest.raises(CloudError) as raised:
        baking.launch()

    assert str(raised.value).startswith("this host's address, to open the build instance to, cannot be found")
    assert "open_to" in str(raised.value.hint)
    assert_nothing_left(lab, baking)


def test_security_groups_of_ones_own_are_used_and_stay(lab: Lab, tmp_path: Path) -> None:
    ec2 = lab.client("ec2")
    own = ec2.create_security_group(GroupName="ours", Description="ours")["GroupId"]
    try:
        launched = Launched(lab, tmp_path, security_groups=[own])
        assert [group["GroupId"] for group in launched.instance["SecurityGroups"]] == [own]
        assert calls_of(lab, "CreateSecurityGroup") == []
        assert_nothing_left(lab, launched.baking)
        assert any(own in line for line in lab.holdings())
    finally:
        ec2.delete_security_group(GroupId=own)


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
