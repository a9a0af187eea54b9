"""The SSM parameters that follow a channel, for others: launch templates, Terraform, CloudFormation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from baker.errors import CloudError
from baker.model import Build
from baker.providers.aws.refusals import Refused
from baker.providers.aws.session import AwsSession
from baker.providers.aws.waiting import SOON, wait_for

MAIN_ARCH = "x86_64"
VALID_SECONDS = 15.0
"""How long AWS may take to see for itself that an AMI is one: only then the parameter has the new value."""


def name_parameter(prefix: str, recipe: str, channel: str, arch: str, *, only: bool) -> str:
    """The architecture is in the name where it is not x86_64 and there are others."""
    name = f"{prefix}/{recipe}/{channel}"
    return name if only or arch == MAIN_ARCH else f"{name}/{arch}"


def point_parameters(
    aws: AwsSession, recipe: str, channel: str, builds: Sequence[Build], prefix: str
) -> list[str]:
    """Let the parameters of every region name the builds' AMIs; returns the regions that lag, with why.

    ``prefix`` is for builds whose AMI does not say what it was distributed with (a recipe may have its own).
    """
    description = f"baker: {recipe}:{channel}"

    def point(region: str, name: str, image_id: str) -> None:
        _put(aws, region, name, image_id, description)

    return _change(builds, recipe, channel, prefix, point)


def remove_parameters(
    aws: AwsSession, recipe: str, channel: str, builds: Sequence[Build], prefix: str
) -> list[str]:
    """Remove those parameters; returns the regions where that failed, with why."""
    return _change(
        builds, recipe, channel, prefix, lambda region, name, _image_id: _delete(aws, region, name)
    )


def _change(
    builds: Sequence[Build],
    recipe: str,
    channel: str,
    prefix: str,
    change: Callable[[str, str, str], None],
) -> list[str]:
    """``change`` takes a region, the name of a parameter there, and the AMI that it names."""
    failed: dict[str, str] = {}
    for build in builds:
        told = build.artifacts[0].details.get("distribution", {}).get("parameters", prefix)
        name = name_parameter(told, recipe, channel, build.arch, only=len(builds) == 1)
        for artifact in build.artifacts if told else ():
            if artifact.store in failed:
                continue
            try:
                change(artifact.store, name, artifact.id)
            except CloudError as error:
                failed[artifact.store] = str(error)
    return [f"{region}: {why}" for region, why in failed.items()]


def _delete(aws: AwsSession, region: str, name: str) -> None:
    try:
        aws.ssm(region, "delete_parameter", Name=name)
    except Refused as error:
        if error.code != "ParameterNotFound":
            raise


def _put(aws: AwsSession, region: str, name: str, image_id: str, description: str) -> None:
    aws.ssm(
        region,
        "put_parameter",
        Name=name,
        Value=image_id,
        Type="String",
        DataType="aws:ec2:image",
        Description=description,
        Overwrite=True,
    )

    def ask() -> bool | None:
        try:
            value = aws.ssm(region, "get_parameter", Name=name)["Parameter"]["Value"]
        except Refused as error:
            if error.code != "ParameterNotFound":
                raise
            return None
        return True if value == image_id else None

    wait_for(
        ask,
        seconds=VALID_SECONDS,
        pace=SOON,
        what=lambda: f"parameter {name} in {region} does not name {image_id}",
        at_once=True,
    )
