"""What at AWS uses an AMI of ours, so that it may not be deleted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from baker.model import Artifact
from baker.providers.aws.refusals import Refused
from baker.providers.aws.session import AwsSession


def find_uses(aws: AwsSession, artifacts: Iterable[Artifact]) -> dict[str, str]:
    """Of these AMIs' ids those that something at AWS uses right now, with what that is. Raises CloudError."""
    templates: dict[str, dict[str, str]] = {}
    found = {}
    for artifact in artifacts:
        region = artifact.store
        if (why := _find_instance(aws, region, artifact.id)) is None:
            if region not in templates:
                templates[region] = _list_launched(aws, region)
            why = templates[region].get(artifact.id) or _find_sharer(aws, artifact)
        if why is not None:
            found[artifact.id] = why
    return found


def _find_instance(aws: AwsSession, region: str, image_id: str) -> str | None:
    filters = [
        {"Name": "image-id", "Values": [image_id]},
        {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
    ]
    for reservation in aws.pages("ec2", region, "describe_instances", "Reservations", Filters=filters):
        for instance in reservation["Instances"]:
            return f"instance {instance['InstanceId']} in {region} was made from it"
    return None


def _find_sharer(aws: AwsSession, artifact: Artifact) -> str | None:
    region = artifact.store
    for snapshot in artifact.details.get("snapshots", ()):
        filters = [{"Name": "block-device-mapping.snapshot-id", "Values": [snapshot]}]
        for other in aws.ec2(region, "describe_images", Owners=["self"], Filters=filters)["Images"]:
            if other["ImageId"] != artifact.id:
                return f"AMI {other['ImageId']} in {region} uses its snapshot {snapshot}"
    return None


def _list_launched(aws: AwsSession, region: str) -> dict[str, str]:
    """The AMIs of the newest and default versions of launch templates, of the versions that Auto Scaling
    groups use, and of launch configurations; with what that is."""
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
    found: dict[str, str] = {}
    for template_id, versions in used.items():
        for version in _list_versions(aws, region, template_id, sorted(versions)):
            number = str(version["VersionNumber"])
            what = f"launch template {version['LaunchTemplateName']}, version {number}, in {region} has it"
            if user := groups.get((template_id, number)):
                what += f", which the Auto Scaling group {user} uses"
            found.setdefault(version["LaunchTemplateData"].get("ImageId", ""), what)
    for one in aws.pages("autoscaling", region, "describe_launch_configurations", "LaunchConfigurations"):
        what = f"launch configuration {one['LaunchConfigurationName']} in {region} has it"
        if user := configurations.get(one["LaunchConfigurationName"]):
            what += f", which the Auto Scaling group {user} uses"
        found.setdefault(one["ImageId"], what)
    return found


def _list_versions(
    aws: AwsSession, region: str, template_id: str, versions: Sequence[str]
) -> list[Mapping[str, Any]]:
    """Those that are there: a group may name a template or a version that was deleted."""
    try:
        answer = aws.ec2(
            region, "describe_launch_template_versions", LaunchTemplateId=template_id, Versions=list(versions)
        )
        return list(answer["LaunchTemplateVersions"])
    except Refused as error:
        if not error.code.startswith("InvalidLaunchTemplate"):
            raise
    if len(versions) == 1:
        return []
    return [found for one in versions for found in _list_versions(aws, region, template_id, [one])]


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
