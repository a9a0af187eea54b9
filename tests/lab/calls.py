"""What was asked of the lab, and the permissions that this takes at AWS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call. ``fault`` is the kind of the fault that struck it, ``error`` the code of its answer.

    ``params`` are those of boto3's method of that name.
    """

    number: int
    service: str
    action: str
    region: str
    account: str
    seconds: float
    fault: str
    error: str
    user_agent: str
    params: Mapping[str, Any]

    def __str__(self) -> str:
        told = " ".join(word for word in (self.error, self.fault and f"({self.fault})") if word)
        return f"{self.number} {self.service}:{self.action} {self.region} {told}".rstrip()

    @property
    def has_tags(self) -> bool:
        """Whether what it makes is tagged by the same call."""
        return bool(self.params.get("TagSpecifications") or self.params.get("TagSpecification"))


KMS_USE = frozenset(
    {
        "kms:CreateGrant",
        "kms:Decrypt",
        "kms:DescribeKey",
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncryptFrom",
        "kms:ReEncryptTo",
    }
)
"""What EBS needs of a customer's key: launching with it, and copying to it (EBS guide, "Requirements")."""
LAUNCHING = frozenset({"autoscaling:CreateOrUpdateTags", "ec2:CreateTags", "ec2:RunInstances"})
"""What Auto Scaling asks of whoever gives it a launch template ("Control launch template usage")."""
FREE = frozenset({"sts:GetCallerIdentity"})
"""Needs no permission."""


def permissions_of(call: Call) -> set[str]:
    """The IAM actions that a call takes."""
    needed = {f"{call.service}:{call.action}"} - FREE
    if call.service == "ec2" and call.has_tags:
        needed.add("ec2:CreateTags")
    if call.action == "RunInstances":
        if call.params.get("IamInstanceProfile"):
            needed.add("iam:PassRole")
        devices = call.params.get("BlockDeviceMappings", [])
        if any(device.get("Ebs", {}).get("KmsKeyId") for device in devices):
            needed |= KMS_USE
        if str(call.params.get("ImageId", "")).startswith("resolve:ssm:"):
            needed.add("ssm:GetParameters")
    if call.service == "elasticloadbalancing" and call.params.get("Tags"):
        needed.add("elasticloadbalancing:AddTags")
    if call.service == "autoscaling" and call.action == "CreateAutoScalingGroup":
        needed |= LAUNCHING
    if call.action == "CreateLaunchTemplateVersion" and call.params["LaunchTemplateData"].get(
        "IamInstanceProfile"
    ):
        needed.add("iam:PassRole")  # asked for when a group is to launch from it
    if call.action in ("CopyImage", "CopySnapshot") and call.params.get("KmsKeyId"):
        needed |= KMS_USE
    if call.action == "CopyImage" and call.params.get("CopyImageTags"):
        needed.add("ec2:CreateTags")
    if call.action == "DeregisterImage" and call.params.get("DeleteAssociatedSnapshots"):
        needed.add("ec2:DeleteSnapshot")
    if call.action == "PutParameter" and call.params.get("Tags"):
        needed.add("ssm:AddTagsToResource")
    if call.action == "PutParameter" and call.params.get("DataType") == "aws:ec2:image":
        needed.add("ec2:DescribeImages")
    return needed


def permissions(calls: Iterable[Call]) -> set[str]:
    return set().union(*map(permissions_of, calls))
