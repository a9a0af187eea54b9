"""The instances of an environment's groups as they are now, and new ones in the place of some."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from baker.deploy.fleet import FleetMachine, Pause
from baker.errors import CloudError, MachineError
from baker.providers.aws.fleet_groups import (
    RUN_SECONDS,
    Group,
    begin_replacing,
    end_machines,
    end_replacing,
    list_groups,
    require_group,
)
from baker.providers.aws.fleet_targets import TargetHealth, read_health
from baker.providers.aws.fleet_waiting import wait_until
from baker.providers.aws.session import AwsSession

MAX_NAMED = 200
"""Values of one filter."""


def list_machines(aws: AwsSession, region: str, environment: str) -> list[FleetMachine]:
    """Every member of every group, by release. Raises CloudError."""
    groups = list_groups(aws, region, environment)
    described = _describe(aws, region, [name for group in groups for name in group.members])
    found = []
    for group in groups:
        health: dict[str, TargetHealth] = {}
        for arn in group.target_groups if group.members else ():
            health |= read_health(aws, region, arn)
        for name in sorted(group.members, key=lambda name: (str(_launched(described, name)), name)):
            found.append(_describe_machine(environment, group, name, described.get(name), health.get(name)))
    return found


def _launched(described: Mapping[str, Mapping[str, Any]], name: str) -> Any:
    return described.get(name, {}).get("LaunchTime", "")


def _describe(aws: AwsSession, region: str, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """By id; one that was made just now may be missing."""
    found: dict[str, Mapping[str, Any]] = {}
    for start in range(0, len(names), MAX_NAMED):
        filters = [{"Name": "instance-id", "Values": list(names[start : start + MAX_NAMED])}]
        for reservation in aws.pages("ec2", region, "describe_instances", "Reservations", Filters=filters):
            found |= {one["InstanceId"]: one for one in reservation["Instances"]}
    return found


def _describe_machine(
    environment: str,
    group: Group,
    name: str,
    described: Mapping[str, Any] | None,
    health: TargetHealth | None,
) -> FleetMachine:
    instance = described or {}
    state = instance.get("State", {}).get("Name", "pending")
    lifecycle = group.members[name]
    alive = state in ("pending", "running") and not lifecycle.startswith(("Terminat", "Detach"))
    healthy = alive and health is not None and health.state == "healthy"
    if healthy:
        detail = ""
    elif state != "running":
        detail = f"the instance is {state}"
    elif health is None:
        detail = f"{lifecycle}: the load balancer does not know it (yet)"
    else:
        detail = f"{health.state}: {health.detail}" if health.detail else health.state
    return FleetMachine(
        environment=environment,
        number=group.number,
        name=name,
        hostname=instance.get("PrivateDnsName", "").partition(".")[0],
        address=instance.get("PrivateIpAddress", ""),
        alive=alive,
        healthy=healthy,
        detail=detail,
        since=None,
        started=instance.get("LaunchTime"),
    )


# --- replacing --------------------------------------------------------------------------------------------


def replace_machines(
    aws: AwsSession,
    region: str,
    environment: str,
    names: Collection[str],
    read_end_of_log: Callable[[str], str],
    pause: Pause,
) -> list[str]:
    """See ``Fleet.replace``; one that is not there any more was replaced by AWS."""
    made = []
    for group in list_groups(aws, region, environment):
        old = [name for name in group.members if name in names]
        if old:
            made += _replace_in(aws, group, environment, old, read_end_of_log, pause)
    return made


def _replace_in(
    aws: AwsSession,
    group: Group,
    environment: str,
    old: Sequence[str],
    read_end_of_log: Callable[[str], str],
    pause: Pause,
) -> list[str]:
    region, number = group.region, group.number
    before = set(group.members)
    well = [one.name for one in _others(aws, region, environment, number, old) if one.healthy]
    needed = min(group.meant, len(well) + len(old))
    begin_replacing(aws, group, len(old))
    last: list[FleetMachine] = []

    def ask() -> list[FleetMachine] | None:
        require_group(aws, region, environment, number)
        last[:] = _others(aws, region, environment, number, old)
        return list(last) if sum(one.healthy for one in last) >= needed else None

    try:
        now = wait_until(
            ask, seconds=RUN_SECONDS + group.grace, what=lambda: "no new machine is healthy", pause=pause
        )
    except BaseException as error:
        sick = [one for one in last if one.name not in before and not one.healthy]
        told = _explain_sick(group, sick, read_end_of_log) if isinstance(error, CloudError) else None
        with contextlib.suppress(CloudError):
            grown = require_group(aws, region, environment, number)
            end_machines(aws, grown, [name for name in grown.members if name not in before])
            end_replacing(aws, grown)
        if told is None:
            raise
        raise told from error
    end_machines(aws, group, old)
    end_replacing(aws, require_group(aws, region, environment, number))
    return [one.name for one in now if one.name not in before]


def _others(
    aws: AwsSession, region: str, environment: str, number: int, old: Collection[str]
) -> list[FleetMachine]:
    machines = list_machines(aws, region, environment)
    return [one for one in machines if one.number == number and one.name not in old and one.alive]


def _explain_sick(
    group: Group, sick: Sequence[FleetMachine], read_end_of_log: Callable[[str], str]
) -> MachineError:
    if not sick:
        return MachineError(f"the Auto Scaling group {group.name} in {group.region} starts no new machine")
    first = sick[0]
    return MachineError(
        f"the new machine {first.name} did not become healthy ({first.detail})\nthe end of its log:\n"
        f"{read_end_of_log(first.name)}"
    )
