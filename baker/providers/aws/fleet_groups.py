"""Auto Scaling groups: the machines of a side, which AWS replaces when they die, whoever looks on.

A group has as many machines as it is meant to have, at least and at most. While some are replaced it has more
for a moment; a tag says then how many are meant.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baker.deploy.fleet import Pause
from baker.deploy.side import Side
from baker.errors import CloudError, MachineError
from baker.providers.aws.fleet_names import DRAIN, ENVIRONMENT, REPLACING, Labels, group_name, group_number
from baker.providers.aws.fleet_waiting import make_or_find, wait_until
from baker.providers.aws.naming import read_tags
from baker.providers.aws.refusals import Refused
from baker.providers.aws.session import AwsSession
from baker.providers.aws.waiting import look_for

RUN_SECONDS = 900.0
"""How long the instances of one batch may take until they run."""

GONE_SECONDS = 900.0
"""How long instances may take to end, beside what they have to finish."""

USUAL_DRAIN = 300.0
LOOK_SECONDS = 10.0
"""How often it is asked, meanwhile, why no instance comes."""

GIVE_UP_SECONDS = 60.0
"""After a launch that failed: Auto Scaling tries again, and perhaps in another zone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """``members`` are instances with their state in the group (``InService``, ``Terminating`` …)."""

    name: str
    number: int
    region: str
    desired: int
    smallest: int
    largest: int
    grace: float
    target_groups: tuple[str, ...]
    members: Mapping[str, str]
    tags: Mapping[str, str]
    deleting: bool

    @property
    def meant(self) -> int:
        """How many machines it is to have."""
        told = self.tags.get(REPLACING, "")
        return int(told) if told.isdecimal() else self.desired

    @property
    def drain(self) -> float:
        told = self.tags.get(DRAIN, "")
        return float(told) if told.isdecimal() else USUAL_DRAIN

    @property
    def running(self) -> list[str]:
        return [name for name, state in self.members.items() if state == "InService"]


def list_groups(aws: AwsSession, region: str, environment: str) -> list[Group]:
    """By release."""
    tagged = [{"Name": f"tag:{ENVIRONMENT}", "Values": [environment]}]
    found = aws.pages(
        "autoscaling", region, "describe_auto_scaling_groups", "AutoScalingGroups", Filters=tagged
    )
    groups = [group for one in found if (group := _read_group(one, region, environment)) is not None]
    return sorted(groups, key=lambda group: group.number)


def find_group(aws: AwsSession, region: str, environment: str, number: int) -> Group | None:
    names = [group_name(environment, number)]
    answer = aws.call("autoscaling", region, "describe_auto_scaling_groups", AutoScalingGroupNames=names)
    groups = [_read_group(one, region, environment) for one in answer["AutoScalingGroups"]]
    return groups[0] if groups else None


def _read_group(described: Mapping[str, Any], region: str, environment: str) -> Group | None:
    number = group_number(environment, described["AutoScalingGroupName"])
    if number is None:
        return None
    return Group(
        name=described["AutoScalingGroupName"],
        number=number,
        region=region,
        desired=described["DesiredCapacity"],
        smallest=described["MinSize"],
        largest=described["MaxSize"],
        grace=float(described.get("HealthCheckGracePeriod", 0)),
        target_groups=tuple(described.get("TargetGroupARNs", ())),
        members={one["InstanceId"]: one["LifecycleState"] for one in described.get("Instances", ())},
        tags=read_tags(described),
        deleting="Status" in described,
    )


# --- making it --------------------------------------------------------------------------------------------


def ensure_group(
    aws: AwsSession,
    region: str,
    side: Side,
    size: int,
    template: Mapping[str, str],
    target_group: str,
    subnets: Sequence[str],
    labels: Labels,
) -> Group:
    """The side's group, which begins with one batch. ``template`` is an id and a numbered version."""
    name = group_name(side.environment, side.number)

    def find() -> Group | None:
        return find_group(aws, region, side.environment, side.number)

    def make() -> Group:
        aws.call(
            "autoscaling",
            region,
            "create_auto_scaling_group",
            AutoScalingGroupName=name,
            LaunchTemplate=dict(template),
            MinSize=0,
            MaxSize=size,
            DesiredCapacity=min(size, side.batch),
            VPCZoneIdentifier=",".join(subnets),
            TargetGroupARNs=[target_group],
            HealthCheckType="ELB",
            HealthCheckGracePeriod=math.ceil(side.health.within),
            Tags=labels.group_tags(name, drain=str(math.ceil(side.drain))),
        )
        made = look_for(find)
        if made is None:
            raise CloudError(f"the Auto Scaling group {name} that was made in {region} is not there")
        return made

    found = find()
    if found is not None and found.deleting:
        raise CloudError(
            f"the Auto Scaling group {name} in {region} is being deleted", hint="Try it again in a minute."
        )
    return found or make_or_find(make, find, ("AlreadyExists",))


def grow_group(
    aws: AwsSession, region: str, environment: str, number: int, size: int, batch: int, pause: Pause
) -> None:
    """Have ``size`` machines run, ``batch`` more at once. Raises MachineError where they do not come."""
    group = require_group(aws, region, environment, number)
    wanted = min(size, max(group.desired, 1))
    while True:
        if wanted != group.desired or wanted > group.largest:
            resize_group(aws, group, desired=wanted, smallest=min(group.smallest, wanted), largest=size)
        wait_for_running(aws, region, environment, number, wanted, pause)
        if wanted >= size:
            break
        wanted = min(size, wanted + batch)
        group = require_group(aws, region, environment, number)
    resize_group(aws, group, desired=size, smallest=size, largest=size)


def require_group(aws: AwsSession, region: str, environment: str, number: int) -> Group:
    group = find_group(aws, region, environment, number)
    if group is None or group.deleting:
        name = group_name(environment, number)
        raise CloudError(
            f"the Auto Scaling group {name} in {region} is gone", hint="Somebody deleted it: deploy again."
        )
    return group


def resize_group(aws: AwsSession, group: Group, *, desired: int, smallest: int, largest: int) -> None:
    aws.call(
        "autoscaling",
        group.region,
        "update_auto_scaling_group",
        AutoScalingGroupName=group.name,
        MinSize=smallest,
        MaxSize=largest,
        DesiredCapacity=desired,
    )


def wait_for_running(
    aws: AwsSession, region: str, environment: str, number: int, wanted: int, pause: Pause
) -> None:
    """Until so many machines run, healthy or not. Raises MachineError with Auto Scaling's reason."""
    began = looked = time.monotonic()
    seen = 0

    def ask() -> bool | None:
        nonlocal looked, began, seen
        group = require_group(aws, region, environment, number)
        if len(group.running) >= wanted:
            return True
        now = time.monotonic()
        if len(group.running) > seen:
            seen, began = len(group.running), now
        if now - looked > LOOK_SECONDS:
            looked = now
            if now - began > GIVE_UP_SECONDS and (why := read_failure(aws, group)):
                raise MachineError(
                    f"the Auto Scaling group {group.name} in {region} starts no machine: {why}",
                    hint="Check instance_type, subnets, security_groups and instance_profile in [aws], "
                    "and the account's quotas.",
                )
        return None

    def what() -> str:
        return f"{wanted} machines of {group_name(environment, number)} in {region} do not run"

    wait_until(ask, seconds=RUN_SECONDS, what=what, pause=pause)


def read_failure(aws: AwsSession, group: Group) -> str | None:
    """Why the group's newest launch failed; None if it did not."""
    activities = aws.call(
        "autoscaling",
        group.region,
        "describe_scaling_activities",
        AutoScalingGroupName=group.name,
        MaxRecords=10,
    )["Activities"]
    for activity in activities:
        if activity["StatusCode"] in ("Failed", "Cancelled"):
            return str(activity.get("StatusMessage") or activity.get("Cause") or "no reason was given")
        if activity["StatusCode"] == "Successful":
            return None
    return None


# --- replacing --------------------------------------------------------------------------------------------


def begin_replacing(aws: AwsSession, group: Group, count: int) -> None:
    """Have it grow by so many; what it is meant to have is written down before."""
    mark = {"ResourceId": group.name, "ResourceType": "auto-scaling-group", "Key": REPLACING}
    tag = {**mark, "Value": str(group.meant), "PropagateAtLaunch": False}
    aws.call("autoscaling", group.region, "create_or_update_tags", Tags=[tag])
    more = group.meant + count
    resize_group(aws, group, desired=more, smallest=group.meant, largest=more)


def end_replacing(aws: AwsSession, group: Group) -> None:
    meant = group.meant
    resize_group(aws, group, desired=meant, smallest=meant, largest=meant)
    mark = {"ResourceId": group.name, "ResourceType": "auto-scaling-group", "Key": REPLACING}
    aws.call("autoscaling", group.region, "delete_tags", Tags=[mark])


def end_machines(aws: AwsSession, group: Group, names: Collection[str]) -> None:
    """Drain and end machines of a group that has more than it is meant to have. Idempotent."""
    for name in names:
        try:
            aws.call(
                "autoscaling",
                group.region,
                "terminate_instance_in_auto_scaling_group",
                InstanceId=name,
                ShouldDecrementDesiredCapacity=True,
            )
        except Refused as error:
            if "not found" not in str(error).lower():  # it has gone meanwhile, or is going
                raise


# --- removing ---------------------------------------------------------------------------------------------


def empty_group(aws: AwsSession, group: Group, pause: Pause) -> None:
    """Have its machines finish what they do, and end. Idempotent. Raises CloudError."""
    if group.members and not group.deleting:
        resize_group(aws, group, desired=0, smallest=0, largest=0)
    environment = group.tags[ENVIRONMENT]

    def ask() -> bool | None:
        found = find_group(aws, group.region, environment, group.number)
        return True if found is None or found.deleting or not found.members else None

    def what() -> str:
        return f"machines of the Auto Scaling group {group.name} in {group.region} have not ended"

    wait_until(ask, seconds=group.drain + GONE_SECONDS, what=what, pause=pause)


def delete_group(aws: AwsSession, group: Group, pause: Pause) -> None:
    """Until it is gone, with what is left in it. Idempotent. Raises CloudError."""
    environment = group.tags[ENVIRONMENT]

    def ask() -> bool | None:
        found = find_group(aws, group.region, environment, group.number)
        if found is None:
            return True
        if not found.deleting:
            try:
                aws.call(
                    "autoscaling",
                    group.region,
                    "delete_auto_scaling_group",
                    AutoScalingGroupName=group.name,
                    ForceDelete=True,
                )
            except Refused as error:
                if error.code not in ("ValidationError", "ScalingActivityInProgress", "ResourceInUse"):
                    raise
        return None

    def what() -> str:
        return f"the Auto Scaling group {group.name} in {group.region} is still there"

    wait_until(ask, seconds=GONE_SECONDS, what=what, pause=pause)
