"""DescribeImages and DescribeSnapshots: who sees what, and by which filters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from fnmatch import translate
from typing import Any

from moto.ec2.models.amis import Ami

from tests.lab.images import is_visible, require_image
from tests.lab.wire import AwsError, Request, Response, write_result

Forward = Callable[..., Response]


def describe_images(request: Request, _forward: Forward) -> Response:
    backend, params = request.backend, request.params
    named = params.get("ImageIds", [])
    if named:
        images = [require_image(backend, image_id) for image_id in named]
    else:
        images = [image for image in backend.amis.values() if is_visible(backend, image)]
    owners = {backend.account_id if each == "self" else each for each in params.get("Owners", [])}
    if owners:
        images = [each for each in images if each.owner_id in owners or each.owner_alias in owners]
    if not params.get("IncludeDisabled"):
        images = [image for image in images if image.state != "disabled"]
    if not params.get("IncludeDeprecated") and not named:
        now = datetime.now(UTC)
        images = [
            image
            for image in images
            if image.owner_id == backend.account_id or (image.lab.deprecation_time or now) >= now
        ]
    for wanted in params.get("Filters", []):
        images = [image for image in images if matches(image, wanted["Name"], wanted.get("Values", []))]
    return write_result(request, {"Images": [describe_image(image) for image in images]})


def describe_snapshots(request: Request, _forward: Forward) -> Response:
    backend, params = request.backend, request.params
    found = list(backend.snapshots.values())
    if named := params.get("SnapshotIds", []):
        for missing in set(named) - backend.snapshots.keys():
            raise AwsError("InvalidSnapshot.NotFound", f"The snapshot '{missing}' does not exist.")
        found = [snapshot for snapshot in found if snapshot.id in named]
    owners = {backend.account_id if each == "self" else each for each in params.get("OwnerIds", [])}
    if owners:
        found = [snapshot for snapshot in found if snapshot.owner_id in owners]
    filters = {each["Name"]: each.get("Values", []) for each in params.get("Filters", [])}
    for name, values in filters.items():
        found = [each for each in found if matches_any(each.get_filter_value(name), values)]
    return write_result(request, {"Snapshots": found})


def describe_image(image: Ami) -> dict[str, Any]:
    details = image.lab
    told = {
        "ImageId": image.id,
        "Name": image.name,
        "Description": image.description,
        "State": image.state,
        "OwnerId": image.owner_id,
        "ImageOwnerAlias": image.owner_alias,
        "ImageLocation": f"{image.owner_id}/{image.name}",
        "CreationDate": image.creation_date,
        "Public": image.is_public,
        "Architecture": image.architecture,
        "ImageType": "machine",
        "PlatformDetails": "Linux/UNIX",
        "RootDeviceName": image.root_device_name,
        "RootDeviceType": "ebs",
        "VirtualizationType": "hvm",
        "Hypervisor": "xen",
        "EnaSupport": True,
        "SriovNetSupport": "simple",
        "BootMode": image.boot_mode,
        "BlockDeviceMappings": details.devices,
        "ImdsSupport": details.imds_support,
        "DeprecationTime": details.deprecation_time and f"{details.deprecation_time:%Y-%m-%dT%H:%M:%S.000Z}",
        "StateReason": details.state_reason,
        "SourceInstanceId": image.instance_id,
        "SourceImageId": details.source_image,
        "SourceImageRegion": details.source_region,
        "Tags": [{"Key": tag["key"], "Value": tag["value"]} for tag in image.get_tags()] or None,
    }
    return {key: value for key, value in told.items() if value is not None}


FILTERS: Mapping[str, Callable[[Ami], Any]] = {
    "architecture": lambda image: image.architecture,
    "block-device-mapping.snapshot-id": lambda image: [
        device["Ebs"].get("SnapshotId") for device in image.lab.devices
    ],
    "creation-date": lambda image: f"{image.creation_date:%Y-%m-%dT%H:%M:%S.000Z}",
    "description": lambda image: image.description,
    "ena-support": lambda _image: "true",
    "hypervisor": lambda _image: "xen",
    "image-id": lambda image: image.id,
    "image-type": lambda _image: "machine",
    "is-public": lambda image: str(image.is_public).lower(),
    "name": lambda image: image.name,
    "owner-alias": lambda image: image.owner_alias,
    "owner-id": lambda image: image.owner_id,
    "root-device-name": lambda image: image.root_device_name,
    "root-device-type": lambda _image: "ebs",
    "source-image-id": lambda image: image.lab.source_image,
    "source-instance-id": lambda image: image.instance_id,
    "state": lambda image: image.state,
    "tag-key": lambda image: [tag["key"] for tag in image.get_tags()],
    "virtualization-type": lambda _image: "hvm",
}


def matches(image: Ami, name: str, values: list[str]) -> bool:
    if name.startswith("tag:"):
        tags = {tag["key"]: tag["value"] for tag in image.get_tags()}
        return matches_any(tags.get(name.removeprefix("tag:")), values)
    if name not in FILTERS:
        raise AwsError("InvalidParameterValue", f"The filter '{name}' is invalid")
    return matches_any(FILTERS[name](image), values)


def matches_any(found: Any, wanted: list[str]) -> bool:
    """AWS's wildcards: ``*`` and ``?`` alone."""
    patterns = [re.compile(translate(value.replace("[", "[[]"))) for value in wanted]
    candidates = found if isinstance(found, list) else [found]
    return any(pattern.match(str(each)) for each in candidates if each is not None for pattern in patterns)
