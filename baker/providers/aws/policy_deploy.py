"""The IAM policy for deployments: every action that a fleet calls, each as narrow as IAM can say it.

It is a policy of its own, since who deploys need not bake. What a fleet makes is tagged ``baker:environment``
by the call that makes it, or has a name that begins with ``baker-``; only that may be changed and removed.
Auto Scaling asks of whoever names a launch template that he may launch what is in it. Needs no boto3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baker.providers.aws.policy_scope import Condition, Statement, allow, partition_of

TAGGED: Condition = {"Null": {"aws:RequestTag/baker:environment": "false"}}
"""For what a call makes."""
OURS: Condition = {"Null": {"aws:ResourceTag/baker:environment": "false"}}
"""For what is there."""
BAKED: Condition = {"Null": {"aws:ResourceTag/baker:bake": "false"}}

SERVICE_LINKED_ROLES = (
    "An account that never had an Auto Scaling group or a load balancer needs, once: aws iam "
    "create-service-linked-role --aws-service-name autoscaling.amazonaws.com (and elasticloadbalancing)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """One environment: where it is, and the profile that its machines have."""

    region: str
    instance_profile: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeployScope:
    """``account`` is ``*`` where it is not known; ``served`` has at least one."""

    served: Sequence[Served]
    account: str = "*"
    role: str | None = None

    @property
    def regions(self) -> list[str]:
        return list(dict.fromkeys(one.region for one in self.served))

    @property
    def domain(self) -> str:
        return "amazonaws.com.cn" if partition_of(self.regions[0]) == "aws-cn" else "amazonaws.com"

    def arns(self, service: str, *resources: str, owned: bool = True) -> list[str]:
        """These resources in every region."""
        owner = self.account if owned else ""
        return [
            f"arn:{partition_of(region)}:{service}:{region}:{owner}:{resource}"
            for resource in resources
            for region in self.regions
        ]


def build_deploy_policy(scope: DeployScope) -> dict[str, Any]:
    """The policy as IAM's JSON."""
    statements = [
        _look(scope),
        *_templates(scope),
        *_launches(scope),
        *_groups(scope),
        *_balancing(scope),
        *_roles(scope),
    ]
    return {"Version": "2012-10-17", "Statement": statements}


def _look(scope: DeployScope) -> Statement:
    """Describing knows no resources: the region is all that can be said."""
    described = {
        "autoscaling": ("AutoScalingGroups", "ScalingActivities"),
        "ec2": (
            "Images",
            "Instances",
            "KeyPairs",
            "LaunchTemplateVersions",
            "LaunchTemplates",
            "SecurityGroups",
            "Subnets",
            "Vpcs",
        ),
        "elasticloadbalancing": (
            "Listeners",
            "LoadBalancers",
            "Rules",
            "Tags",
            "TargetGroups",
            "TargetHealth",
        ),
    }
    actions = [f"{service}:Describe{what}" for service, kinds in described.items() for what in kinds]
    return allow("Look", actions, ["*"], {"StringEquals": {"aws:RequestedRegion": scope.regions}})


def _templates(scope: DeployScope) -> Iterator[Statement]:
    templates = scope.arns("ec2", "launch-template/*")
    yield allow("MakeTemplate", ["ec2:CreateLaunchTemplate"], templates, TAGGED)
    changing = ("CreateLaunchTemplateVersion", "DeleteLaunchTemplate", "DeleteLaunchTemplateVersions")
    yield allow("ChangeTemplate", [f"ec2:{action}" for action in changing], templates, OURS)
    yield allow("MoveTemplate", ["ec2:CreateTags"], templates, OURS)
    made = [*templates, *scope.arns("ec2", "instance/*", "volume/*")]
    makers = {"StringEquals": {"ec2:CreateAction": ["CreateLaunchTemplate", "RunInstances"]}}
    yield allow("TagWhatIsMade", ["ec2:CreateTags"], made, makers)


def _launches(scope: DeployScope) -> Iterator[Statement]:
    """Nothing but our own images, and only through a launch template."""
    through: Condition = {"ArnLike": {"ec2:LaunchTemplate": scope.arns("ec2", "launch-template/*")}}
    kinds = ("instance", "volume", "network-interface", "subnet", "security-group", "key-pair")
    launched = scope.arns("ec2", *(f"{kind}/*" for kind in kinds))
    yield allow("Launch", ["ec2:RunInstances"], launched, through)
    yield allow("LaunchTemplate", ["ec2:RunInstances"], scope.arns("ec2", "launch-template/*"), OURS)
    images = scope.arns("ec2", "image/*", owned=False)
    yield allow("LaunchImage", ["ec2:RunInstances"], images, {**BAKED, **through})
    yield allow("ReadConsole", ["ec2:GetConsoleOutput"], scope.arns("ec2", "instance/*"), OURS)


def _groups(scope: DeployScope) -> Iterator[Statement]:
    groups = scope.arns("autoscaling", "autoScalingGroup:*:autoScalingGroupName/baker-*")
    yield allow("MakeGroup", ["autoscaling:CreateAutoScalingGroup"], groups, TAGGED)
    # A group has no tags yet while it is made: its name is all that can be said.
    yield allow("TagGroup", ["autoscaling:CreateOrUpdateTags"], groups)
    changing = (
        "DeleteAutoScalingGroup",
        "DeleteTags",
        "TerminateInstanceInAutoScalingGroup",
        "UpdateAutoScalingGroup",
    )
    yield allow("ChangeGroup", [f"autoscaling:{action}" for action in changing], groups, OURS)


def _balancing(scope: DeployScope) -> Iterator[Statement]:
    service = "elasticloadbalancing"
    targets = scope.arns(service, "targetgroup/baker-*/*")
    listeners = scope.arns(service, "listener/app/*/*/*")
    rules = scope.arns(service, "listener-rule/app/*/*/*/*")
    yield allow("MakeTargets", [f"{service}:CreateTargetGroup"], targets, TAGGED)
    changing = [f"{service}:DeleteTargetGroup", f"{service}:ModifyTargetGroupAttributes"]
    yield allow("ChangeTargets", changing, targets, OURS)
    yield allow("MakeRule", [f"{service}:CreateRule"], listeners, TAGGED)
    changing = [f"{service}:{action}" for action in ("DeleteRule", "ModifyRule", "SetRulePriorities")]
    yield allow("ChangeRule", changing, rules, OURS)
    makers = {"StringEquals": {f"{service}:CreateAction": ["CreateRule", "CreateTargetGroup"]}}
    yield allow("TagTargetsAndRule", [f"{service}:AddTags"], [*targets, *rules], makers)


def _roles(scope: DeployScope) -> Iterator[Statement]:
    roles = dict.fromkeys(_name_role(scope, one) for one in scope.served if one.instance_profile is not None)
    if roles:
        to: Mapping[str, Any] = {"StringEquals": {"iam:PassedToService": f"ec2.{scope.domain}"}}
        yield allow("PassRole", ["iam:PassRole"], list(roles), to)
    if scope.role:
        yield allow("AssumeRole", ["sts:AssumeRole"], [scope.role])


def _name_role(scope: DeployScope, served: Served) -> str:
    """The role of an instance profile, named as the profile is: nothing else can be known without a call."""
    profile = served.instance_profile or ""
    if profile.startswith("arn:"):
        return profile.replace(":instance-profile/", ":role/", 1)
    return f"arn:{partition_of(served.region)}:iam::{scope.account}:role/{profile}"
