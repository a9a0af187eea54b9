"""What at AWS uses an AMI of ours, so that it may not be deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baker.model import Artifact
from baker.providers.aws.session import AwsSession


def explain_use(aws: AwsSession, artifact: Artifact) -> str | None:
    """What at AWS uses an AMI of ours right now; None if nothing does. Raises CloudError."""
    region, image_id = artifact.store, artifact.id
    for reservation in aws.pages(
        "ec2",
        region,
        "describe_instances",
        "Reservations",
        Filters=[
            {"Name": "image-id", "Values": [image_id]},
            {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
        ],
    ):
        for instance in reservation["Instances"]:
            return f"instance {instance['InstanceId']} in {region} was made from it"
    if (template := _find_template(aws, region, image_id)) is not None:
        return template
    for snapshot in artifact.details.get("snapshots", ()):
        filters = [{"Name": "block-device-mapping.snapshot-id", "Values": [snapshot]}]
        for other in aws.ec2(region, "describe_images", Owners=["self"], Filters=filters)["Images"]:
            if other["ImageId"] != image_id:
                return f"AMI {other['ImageId']} in {region} uses its snapshot {snapshot}"
    return None


def _find_template(aws: AwsSession, region: str, image_id: str) -> str | None:
    """A launch template whose newest or default version has the AMI, or that an Auto Scaling group uses in a
    version that has it; a launch configuration that has it."""
    used: dict[str, set[str]] = {}
    for template in aws.pages("ec2", region, "describe_launch_templates", "LaunchTemplates"):
        used[template["LaunchTemplateId"]] = {"$Latest", "$Default"}
    groups: dict[tuple[str, str], str] = {}
    configurations: dict[str, str] = {}
    for group in aws.pages("autoscaling", region, "describe_auto_scaling_groups", "AutoScalingGroups"):
        for specification in _list_specifications(group):
            key = specification.get("LaunchTemplateId", ""), specification.get("Version", "$Default")
            groups[key] = group["AutoScalingGroupName"]
            used.setdefault(key[0], set()).add(key[1])
        if name := group.get("LaunchConfigurationName"):
            configurations[name] = group["AutoScalingGroupName"]
    for template_id, versions in used.items():
        answer = aws.ec2(
            region,
            "describe_launch_template_versions",
            LaunchTemplateId=template_id,
            Versions=sorted(versions),
        )
        for version in answer["LaunchTemplateVersions"]:
            if version["LaunchTemplateData"].get("ImageId") == image_id:
                number = str(version["VersionNumber"])
                what = (
                    f"launch template {version['LaunchTemplateName']}, version {number}, in {region} has it"
                )
                user = groups.get((template_id, number))
                return f"{what}, which the Auto Scaling group {user} uses" if user else what
    for found in aws.pages("autoscaling", region, "describe_launch_configurations", "LaunchConfigurations"):
        if found["ImageId"] == image_id:
            return f"launch configuration {found['LaunchConfigurationName']} in {region} has it"
    return None


def _list_specifications(group: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every launch template that a group names."""
    found = [group["LaunchTemplate"]] if "LaunchTemplate" in group else []
    policy = group.get("MixedInstancesPolicy", {}).get("LaunchTemplate", {})
    found += [policy["LaunchTemplateSpecification"]] if "LaunchTemplateSpecification" in policy else []
    overrides = policy.get("Overrides", ())
    found += [one["LaunchTemplateSpecification"] for one in overrides if "LaunchTemplateSpecification" in one]
    for instance in group.get("Instances", ()):
        found += [instance["LaunchTemplate"]] if "LaunchTemplate" in instance else []
    return found
