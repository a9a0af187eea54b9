"""A build instance is put where the settings say, and one address may reach it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baker.errors import CloudError, SettingsError
from baker.providers.aws import network
from tests.aws import (
    Baking,
    Launched,
    assert_nothing_left,
    calls_of,
    make_provider,
)
from tests.lab import Fault, Lab

ARM_TYPE = "t4g.small"


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


@pytest.mark.parametrize("action", ["AuthorizeSecurityGroupIngress", "RunInstances"])
def test_a_new_group_may_stay_unseen_for_a_moment(lab: Lab, launch: Any, action: str) -> None:
    lab.faults.add(Fault(action=action, kind="refuse", code="InvalidGroup.NotFound", times=2))

    launched = launch()

    assert len(calls_of(lab, action)) == 3
    assert len({call.get("ClientToken") for call in calls_of(lab, action)}) == 1
    assert len(launched.group()["IpPermissions"]) == 1


def test_a_group_of_ones_own_that_is_not_there_is_told_at_once(lab: Lab, tmp_path: Path) -> None:
    baking = Baking(make_provider(lab, tmp_path, security_groups=["sg-0123456789abcdef0"]))

    with pytest.raises(CloudError, match="sg-0123456789abcdef0"):
        baking.launch()

    assert len(calls_of(lab, "RunInstances")) == 1
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
