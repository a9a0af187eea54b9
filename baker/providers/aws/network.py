"""Where build instances are put, and the security group that lets one address reach them."""

from __future__ import annotations

import ipaddress
import socket
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from baker.errors import CloudError, SettingsError
from baker.model import Resource
from baker.providers.aws.naming import Marks, bake_of, group_name, read_tags
from baker.providers.aws.options import Options
from baker.providers.aws.refusals import Refused
from baker.providers.aws.session import AwsSession
from baker.providers.aws.waiting import SOON, look_for, wait_for
from baker.teardown import Teardown

CALLER_ADDRESS = "https://checkip.amazonaws.com"
SEEN_SECONDS = 15.0
"""How long AWS may take until all of it knows a group that it made."""

DETACH_SECONDS = 600.0
"""How long the instances of a security group may take to be gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """``subnet`` and ``vpc`` are ids; None means the account's default."""

    subnet: str | None
    vpc: str | None


def find_network(aws: AwsSession, region: str, options: Options) -> Network:
    """Raises SettingsError for tags that find none or several, CloudError."""
    vpc = options.vpc if isinstance(options.vpc, str) else None
    if isinstance(options.vpc, Mapping):
        vpc = _find_one(aws, region, "vpc", options.vpc, {})["VpcId"]
    if options.subnet is None and vpc is None:
        return Network(subnet=None, vpc=None)
    narrowed = {"vpc-id": vpc, "availability-zone": options.zone}
    if isinstance(options.subnet, str):
        found = aws.ec2(region, "describe_subnets", SubnetIds=[options.subnet])["Subnets"][0]
    else:
        found = _find_one(aws, region, "subnet", options.subnet or {}, narrowed)
    return Network(subnet=found["SubnetId"], vpc=found["VpcId"])


def _find_one(
    aws: AwsSession, region: str, kind: str, tags: Mapping[str, str], narrowed: Mapping[str, str | None]
) -> Mapping[str, Any]:
    filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in tags.items()]
    filters += [{"Name": name, "Values": [value]} for name, value in narrowed.items() if value]
    operation, key = ("describe_vpcs", "Vpcs") if kind == "vpc" else ("describe_subnets", "Subnets")
    found = aws.ec2(region, operation, Filters=filters)[key]
    asked = ", ".join(f"{name}={value}" for name, value in {**tags, **narrowed}.items() if value)
    if not found:
        raise SettingsError(
            f"no {kind} in {region} has {asked}", hint=f"Check {kind} in [aws] of baker.toml."
        )
    if kind == "vpc" and len(found) > 1:
        ids = ", ".join(sorted(one["VpcId"] for one in found))
        raise SettingsError(f"several VPCs in {region} have {asked}: {ids}", hint="Name one by its id.")
    # Any of several subnets will do: the one with the most room.
    return max(found, key=lambda one: (one.get("AvailableIpAddressCount", 0), one.get("SubnetId", "")))


# --- who may reach an instance ------------------------------------------------------------------------


def find_caller_range(options: Options) -> str:
    """The address range that instances are opened to: the configured one, or this host's own address.

    Raises CloudError where that cannot be found out.
    """
    if options.open_to is not None:
        try:
            return str(ipaddress.ip_network(options.open_to))
        except ValueError as error:
            raise SettingsError(f'open_to = "{options.open_to}": {error}') from error
    try:
        address = ipaddress.ip_address(_own_address() if options.private else _ask_address())
    except (OSError, ValueError) as error:
        raise CloudError(
            f"this host's address, to open the build instance to, cannot be found out: {error}",
            hint='Say it in [aws] of baker.toml: open_to = "203.0.113.7/32"',
        ) from error
    return f"{address}/{address.max_prefixlen}"


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.0.0.1", 9))  # sends nothing: asks the routing table
        return str(probe.getsockname()[0])


def _ask_address() -> str:
    with urllib.request.urlopen(CALLER_ADDRESS, timeout=10) as answer:
        return str(answer.read(64).decode("ascii").strip())


def make_security_group(
    aws: AwsSession, region: str, network: Network, options: Options, marks: Marks, teardown: Teardown
) -> str:
    """The id of a group for all instances of one bake, open to one address. Removed by ``teardown``."""
    resource = marks.resource("security-group", marks.bake, region)
    allowed = find_caller_range(options)
    known: list[str] = []
    with teardown.making(resource, lambda: remove_security_group(aws, resource, known)):
        group = _create_group(aws, region, network, marks)
        known.append(group)
        ranges: dict[str, Any] = {"IpRanges": [{"CidrIp": allowed, "Description": "the host that bakes"}]}
        if ":" in allowed:
            ranges = {"Ipv6Ranges": [{"CidrIpv6": allowed, "Description": "the host that bakes"}]}
        port = {"IpProtocol": "tcp", "FromPort": options.ssh_port, "ToPort": options.ssh_port}
        wait_for(
            partial(_open_group, aws, region, group, {**port, **ranges}),
            seconds=SEEN_SECONDS,
            pace=SOON,
            what=lambda: f"the security group {group} that was made in {region} is not there",
            cancel=teardown.cancel,
            at_once=True,
        )
    return group


def _open_group(aws: AwsSession, region: str, group: str, permission: Mapping[str, Any]) -> bool | None:
    """None while the new group is not seen."""
    try:
        aws.ec2(region, "authorize_security_group_ingress", GroupId=group, IpPermissions=[permission])
    except Refused as error:
        if error.code == "InvalidGroup.NotFound":
            return None
        if error.code != "InvalidPermission.Duplicate":  # done before, and the answer was lost
            raise
    return True


def _create_group(aws: AwsSession, region: str, network: Network, marks: Marks) -> str:
    name = group_name(marks.bake)
    try:
        made = aws.ec2(
            region,
            "create_security_group",
            GroupName=name,
            Description=f"baker: temporary, for bake {marks.bake}",
            TagSpecifications=marks.specifications("security-group", Name=name),
            **({"VpcId": network.vpc} if network.vpc else {}),
        )
        return str(made["GroupId"])
    except Refused as error:
        if error.code != "InvalidGroup.Duplicate":
            raise
        # It was made before, and the answer was lost.
        found = look_for(lambda: find_security_groups(aws, region, marks.bake) or None)
        if found is None:
            raise
        return found[0]


def find_security_groups(aws: AwsSession, region: str, bake: str) -> list[str]:
    """Ids of the groups of a bake: by name and tag, since there is no token for them."""
    filters = [{"Name": "group-name", "Values": [group_name(bake)]}]
    found = aws.ec2(region, "describe_security_groups", Filters=filters)["SecurityGroups"]
    return [one["GroupId"] for one in found if read_tags(one).get("baker:bake") == bake]


def remove_security_group(aws: AwsSession, resource: Resource, known: Sequence[str] = ()) -> None:
    """Delete it once its instances are gone; ``known`` is its id. Idempotent. Raises CloudError."""
    region = resource.place
    for group in known or find_security_groups(aws, region, bake_of(resource.id)):
        wait_for(
            partial(_delete_group, aws, region, group),
            seconds=DETACH_SECONDS,
            pace=SOON,
            what=partial("something still uses the security group {} in {}".format, group, region),
            at_once=True,
            usual=aws.experience.of("detachment", region),
        )


def _delete_group(aws: AwsSession, region: str, group: str) -> bool | None:
    """None while something still uses it."""
    try:
        aws.ec2(region, "delete_security_group", GroupId=group)
    except Refused as error:
        if error.code in ("DependencyViolation", "InvalidGroup.InUse"):
            return None
        if not error.says_absent:
            raise
    return True
