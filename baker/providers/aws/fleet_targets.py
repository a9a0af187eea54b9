"""Target groups: whom the load balancer asks whether it is well, one for each side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baker.deploy.environment import Health
from baker.deploy.fleet import Pause
from baker.deploy.side import Side
from baker.providers.aws.fleet_names import Labels, target_group_name
from baker.providers.aws.fleet_settings import Site
from baker.providers.aws.fleet_waiting import make_or_find, wait_until
from baker.providers.aws.refusals import Refused
from baker.providers.aws.session import AwsSession

MIN_INTERVAL, MIN_TIMEOUT, THRESHOLD = 5, 2, 2
"""What ELB takes at least: seconds between two looks and for an answer, looks that change a mind."""

MAX_DRAIN = 3600
RELEASE_SECONDS = 120.0
"""How long a rule that was changed may go on using a target group."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetHealth:
    """``state`` is ELB's: initial, healthy, unhealthy, draining, unused, unavailable."""

    state: str
    detail: str


def describe_checks(health: Health) -> dict[str, Any]:
    """The health check as ELB takes it, which looks no more often than every 5 seconds."""
    interval = max(MIN_INTERVAL, round(health.interval))
    return {
        "HealthCheckProtocol": "HTTP",
        "HealthCheckPort": "traffic-port",
        "HealthCheckPath": health.path or "/",
        "HealthCheckIntervalSeconds": interval,
        "HealthCheckTimeoutSeconds": min(max(MIN_TIMEOUT, math.ceil(health.timeout)), interval - 1),
        "HealthyThresholdCount": THRESHOLD,
        "UnhealthyThresholdCount": THRESHOLD,
        "Matcher": {"HttpCode": str(health.status)},
    }


def find_target_group(aws: AwsSession, region: str, environment: str, number: int) -> str | None:
    """Its ARN."""
    names = [target_group_name(environment, number)]
    try:
        found = aws.call("elbv2", region, "describe_target_groups", Names=names)["TargetGroups"]
    except Refused as error:
        if error.code != "TargetGroupNotFound":
            raise
        return None
    return str(found[0]["TargetGroupArn"]) if found else None


def ensure_target_group(aws: AwsSession, side: Side, site: Site, labels: Labels) -> str:
    """The ARN of the side's target group."""
    region, name = site.region, target_group_name(side.environment, side.number)

    def find() -> str | None:
        return find_target_group(aws, region, side.environment, side.number)

    def make() -> str:
        made = aws.call(
            "elbv2",
            region,
            "create_target_group",
            Name=name,
            Protocol="HTTP",
            Port=side.port,
            VpcId=site.vpc,
            TargetType="instance",
            Tags=labels.tags(Name=side.name),
            **describe_checks(side.health),
        )
        return str(made["TargetGroups"][0]["TargetGroupArn"])

    arn = find() or make_or_find(make, find, ("DuplicateTargetGroupName",))
    attributes = {
        "deregistration_delay.timeout_seconds": str(min(math.ceil(side.drain), MAX_DRAIN)),
        "stickiness.enabled": "false",
    }
    aws.call(
        "elbv2",
        region,
        "modify_target_group_attributes",
        TargetGroupArn=arn,
        Attributes=[{"Key": key, "Value": value} for key, value in attributes.items()],
    )
    return arn


def delete_target_group(aws: AwsSession, region: str, arn: str, pause: Pause) -> None:
    """Once no rule uses it. Idempotent. Raises CloudError."""

    def ask() -> bool | None:
        try:
            aws.call("elbv2", region, "delete_target_group", TargetGroupArn=arn)
        except Refused as error:
            if error.code == "ResourceInUse":
                return None
            if error.code != "TargetGroupNotFound":
                raise
        return True

    wait_until(
        ask,
        seconds=RELEASE_SECONDS,
        what=lambda: f"a rule in {region} still uses the target group {arn.split('/')[1]}",
        pause=pause,
    )


def read_health(aws: AwsSession, region: str, arn: str) -> Mapping[str, TargetHealth]:
    """By instance."""
    try:
        answer = aws.call("elbv2", region, "describe_target_health", TargetGroupArn=arn)
    except Refused as error:
        if error.code != "TargetGroupNotFound":
            raise
        return {}
    return {
        one["Target"]["Id"]: TargetHealth(
            state=one["TargetHealth"]["State"],
            detail=one["TargetHealth"].get("Description") or one["TargetHealth"].get("Reason") or "",
        )
        for one in answer["TargetHealthDescriptions"]
    }
