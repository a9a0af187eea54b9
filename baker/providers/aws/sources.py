"""What an AWS bake starts from: a query for an AMI, answered with exactly one, or with why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from baker.errors import SourceError
from baker.model import AmiSource
from baker.providers.aws.images import AmiImage, describe_image
from baker.providers.aws.options import DEB_ARCH
from baker.providers.aws.refusals import Refused
from baker.providers.aws.session import AwsSession


def find_ami(aws: AwsSession, region: str, source: AmiSource, arch: str) -> AmiImage:
    """The AMI that a source means now. Raises SourceError that says why there is none; CloudError."""
    query = {
        key: value.format_map({"arch": arch, "deb_arch": DEB_ARCH[arch]}) if key in ("name", "ssm") else value
        for key, value in source.query.items()
    }
    if "name" in query:
        return _find_newest(aws, region, source, query, arch)
    image_id = query["id"] if "id" in query else _ask_parameter(aws, region, source, query["ssm"])
    image = describe_image(aws, region, image_id)
    if image is None:
        raise SourceError(
            f'{source} is "{image_id}", and {region} has no such AMI that this account may use',
            hint="AMI ids differ from region to region; a private one has to be shared with the account.",
        )
    _require_fit(source, image, region, arch)
    if (owner := query.get("owner")) is not None and not _belongs_to(aws, region, image, owner):
        raise SourceError(
            f"{source}: AMI {image.id} in {region} belongs to the account {image.owner}, not to {owner}",
            hint="Somebody else's AMI may hold anything: check where the id comes from.",
        )
    return image


def _belongs_to(aws: AwsSession, region: str, image: AmiImage, owner: str) -> bool:
    """``owner`` is an account, or a word of AWS's for some: self, amazon, aws-marketplace."""
    if owner.isdigit():
        return image.owner == owner
    return bool(aws.ec2(region, "describe_images", ImageIds=[image.id], Owners=[owner])["Images"])


def _ask_parameter(aws: AwsSession, region: str, source: AmiSource, name: str) -> str:
    try:
        return str(aws.ssm(region, "get_parameter", Name=name)["Parameter"]["Value"]).strip()
    except Refused as error:
        if error.code != "ParameterNotFound":
            raise
        raise SourceError(
            f"{source}: {region} has no SSM parameter {name}",
            hint="Public ones are listed by `aws ssm get-parameters-by-path --path /aws/service/…`.",
        ) from error


def _find_newest(
    aws: AwsSession, region: str, source: AmiSource, query: Mapping[str, str], arch: str
) -> AmiImage:
    filters = [{"Name": "name", "Values": [query["name"]]}]
    wanted = query.get("arch", arch)
    described = _describe(aws, region, query["owner"], filters, wanted)
    found = [image for image in described if explain_unusable(image) is None]
    if found:
        return max(found, key=lambda image: (image.created, image.id))
    raise _explain_none(aws, region, source, query, filters, wanted)


def _describe(
    aws: AwsSession, region: str, owner: str, filters: list[dict[str, Any]], arch: str | None, **more: bool
) -> list[AmiImage]:
    narrowed = [*filters, *([{"Name": "architecture", "Values": [arch]}] if arch else [])]
    answer = aws.ec2(region, "describe_images", Owners=[owner], Filters=narrowed, **more)
    return [AmiImage.of(one) for one in answer["Images"]]


def _explain_none(
    aws: AwsSession,
    region: str,
    source: AmiSource,
    query: Mapping[str, str],
    filters: list[dict[str, Any]],
    arch: str,
) -> SourceError:
    """Look again, less strictly: what is nearly it tells what is wrong."""
    hidden = _describe(
        aws, region, query["owner"], filters, None, IncludeDeprecated=True, IncludeDisabled=True
    )
    near = [image for image in hidden if image.arch == arch]
    if near:
        newest = max(near, key=lambda image: (image.created, image.id))
        return SourceError(
            f"{source} finds no AMI in {region} that may be used: the newest, {newest.id} ({newest.name}), "
            f"{explain_unusable(newest) or 'was not there a moment ago'}",
            hint="Widen the name, so that it finds a newer one.",
        )
    if hidden:
        archs = ", ".join(sorted({image.arch for image in hidden}))
        return SourceError(
            f"{source} finds no AMI for {arch} in {region}, only for {archs}",
            hint="In the name, {arch} stands for x86_64 or arm64 and {deb_arch} for amd64 or arm64.",
        )
    return SourceError(
        f"{source} finds no AMI in {region}",
        hint=f"See what the owner has: aws ec2 describe-images --region {region} --owners {query['owner']}",
    )


def _require_fit(source: AmiSource, image: AmiImage, region: str, arch: str) -> None:
    """Raises SourceError."""
    if (why := explain_unusable(image)) is not None:
        raise SourceError(
            f"{source}: AMI {image.id} ({image.name}) in {region} {why}", hint="Name a newer one."
        )
    if image.arch != arch:
        raise SourceError(
            f"{source}: AMI {image.id} in {region} is for {image.arch}, not for {arch}",
            hint="Set archs in [targets.aws], or name another AMI.",
        )


def explain_unusable(image: AmiImage) -> str | None:
    """Why an AMI is no source; None if it is one."""
    if image.state == "disabled":
        return "was disabled by its owner"
    if image.state != "available":
        return f"is {image.state}" + (f": {image.reason}" if image.reason else "")
    if image.deprecated and datetime.fromisoformat(image.deprecated) <= datetime.now(UTC):
        return f"is deprecated since {image.deprecated[:10]}"
    return None
