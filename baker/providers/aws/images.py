"""AMIs: found as sources, made from an instance, waited for, tagged, deleted with their snapshots."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from baker.errors import CloudError
from baker.model import Resource
from baker.providers.aws.experience import Usual
from baker.providers.aws.naming import Marks, bake_of, read_tags, tag_filter
from baker.providers.aws.refusals import Refused
from baker.providers.aws.session import AwsSession
from baker.providers.aws.waiting import LATER, look_for, wait_for

DESCRIPTION_LENGTH = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class AmiImage:
    """An AMI as EC2 describes it. ``devices`` maps its volumes to whether they end with their instance;
    ``size_bytes`` are those of its volumes, used or not."""

    id: str
    name: str
    owner: str
    arch: str
    state: str
    root_device: str
    created: str
    devices: Mapping[str, bool]
    snapshots: tuple[str, ...]
    size_bytes: int
    tags: Mapping[str, str]
    deprecated: str | None = None
    reason: str | None = None
    imds: str | None = None

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> AmiImage:
        disks = {
            mapping["DeviceName"]: mapping["Ebs"]
            for mapping in described.get("BlockDeviceMappings", ())
            if "Ebs" in mapping
        }
        return cls(
            id=described["ImageId"],
            name=described.get("Name", ""),
            owner=described.get("OwnerId", ""),
            arch=described.get("Architecture", ""),
            state=described["State"],
            root_device=described.get("RootDeviceName", "/dev/xvda"),
            created=described.get("CreationDate", ""),
            devices={device: ebs.get("DeleteOnTermination", True) for device, ebs in disks.items()},
            snapshots=tuple(ebs["SnapshotId"] for ebs in disks.values() if ebs.get("SnapshotId")),
            size_bytes=sum(int(ebs.get("VolumeSize", 0)) for ebs in disks.values()) << 30,
            tags=read_tags(described),
            deprecated=described.get("DeprecationTime"),
            reason=described.get("StateReason", {}).get("Message"),
            imds=described.get("ImdsSupport"),
        )


def describe_image(aws: AwsSession, region: str, image_id: str) -> AmiImage | None:
    """None if there is none that we may see."""
    try:
        found = aws.ec2(
            region, "describe_images", ImageIds=[image_id], IncludeDeprecated=True, IncludeDisabled=True
        )["Images"]
    except Refused as error:
        if error.says_absent or error.code == "InvalidAMIID.Malformed":
            return None
        raise
    return AmiImage.of(found[0]) if found else None


def find_images(aws: AwsSession, region: str, bake: str) -> list[AmiImage]:
    """Our own AMIs of a bake in a region, whatever state they are in."""
    found = aws.ec2(region, "describe_images", Owners=["self"], Filters=[tag_filter("baker:bake", bake)])
    return [AmiImage.of(one) for one in found["Images"]]


def find_image_named(aws: AwsSession, region: str, name: str, bake: str) -> AmiImage | None:
    """A bake's own AMI of a name."""
    filters = [{"Name": "name", "Values": [name]}, tag_filter("baker:bake", bake)]
    found = aws.ec2(region, "describe_images", Owners=["self"], Filters=filters)["Images"]
    return AmiImage.of(found[0]) if found else None


def look_up_named(aws: AwsSession, region: str, name: str, bake: str) -> AmiImage | None:
    """As ``find_image_named``, for one that may have been asked for a moment ago."""
    return look_for(lambda: find_image_named(aws, region, name, bake))


def make_image(
    aws: AwsSession, region: str, instance_id: str, *, name: str, description: str, marks: Marks
) -> str:
    """Ask for an AMI of an instance; returns its id. Where the answer was lost, that of the one there is."""
    try:
        made = aws.ec2(
            region,
            "create_image",
            InstanceId=instance_id,
            Name=name,
            Description=description[:DESCRIPTION_LENGTH],
            TagSpecifications=marks.specifications("image", "snapshot", Name=name),
        )
        return str(made["ImageId"])
    except Refused as error:
        if error.code != "InvalidAMIName.Duplicate":
            raise
        found = look_up_named(aws, region, name, marks.bake)
        if found is None:
            raise
        return found.id


def wait_for_images(
    aws: AwsSession,
    wanted: Mapping[str, str],
    *,
    seconds: float,
    cancel: threading.Event | None = None,
    usual: Usual | None = None,
    seen_in: Iterable[str] = (),
    at_once: bool = False,
) -> dict[str, AmiImage]:
    """Wait until these AMIs (region to id) are all available. Those ``seen_in`` a region were there before.
    ``at_once`` looks before the first pause.

    Raises CloudError for one that failed or vanished, or when the time is over; naming it.
    """
    ready: dict[str, AmiImage] = {}
    seen = set(seen_in)

    def ask() -> bool | None:
        for region, image_id in wanted.items():
            if region in ready:
                continue
            image = describe_image(aws, region, image_id)
            if image is None:
                if region in seen:  # a new one may stay unseen for a moment
                    raise CloudError(
                        f"AMI {image_id} in {region} is gone",
                        hint="Somebody deregistered it. Try it again, or bake anew: baker bake --force",
                    )
                continue
            seen.add(region)
            if image.state == "available":
                ready[region] = image
            elif image.state != "pending":
                raise CloudError(
                    f"AMI {image_id} in {region} is {image.state}: {image.reason or 'AWS gives no reason'}",
                    hint="Try it again; a key that the copy cannot use is a common reason.",
                )
        return True if len(ready) == len(wanted) else None

    def what() -> str:
        late = ", ".join(
            f"{image_id} in {region}" for region, image_id in wanted.items() if region not in ready
        )
        return f"AMI {late} is still not available"

    hint = "Large volumes take their time: raise image_timeout of [aws]."
    wait_for(
        ask, seconds=seconds, pace=LATER, what=what, hint=hint, cancel=cancel, usual=usual, at_once=at_once
    )
    return ready


def require_imds_v2(aws: AwsSession, region: str, image: AmiImage) -> None:
    """Let instances of the AMI only have version 2 of the metadata service."""
    if image.imds != "v2.0":
        aws.ec2(region, "modify_image_attribute", ImageId=image.id, ImdsSupport={"Value": "v2.0"})


# --- removing -------------------------------------------------------------------------------------------


def remove_images(aws: AwsSession, resource: Resource, *, lost: bool = False) -> None:
    """Remove a bake's AMIs and snapshots in one region. Idempotent. Raises CloudError.

    ``lost``: one was asked for a moment ago, and it is not known whether that was done.
    """
    region, bake = resource.place, bake_of(resource.id)
    images = find_images(aws, region, bake)
    if lost and not images:
        images = look_for(lambda: find_images(aws, region, bake) or None) or []
    for image in images:
        delete_image(aws, region, image.id, image.snapshots)
    delete_snapshots(aws, region, find_snapshots(aws, region, bake))


def find_snapshots(aws: AwsSession, region: str, bake: str) -> list[str]:
    found = aws.pages(
        "ec2",
        region,
        "describe_snapshots",
        "Snapshots",
        OwnerIds=["self"],
        Filters=[tag_filter("baker:bake", bake)],
    )
    return [one["SnapshotId"] for one in found]


def delete_image(aws: AwsSession, region: str, image_id: str, snapshots: Sequence[str]) -> None:
    """Deregister it and delete its snapshots. Idempotent. Raises CloudError."""
    try:
        aws.ec2(region, "deregister_image", ImageId=image_id)
    except Refused as error:
        if not error.says_absent:
            raise
    delete_snapshots(aws, region, snapshots)


def delete_snapshots(aws: AwsSession, region: str, snapshots: Sequence[str]) -> None:
    """Those that another AMI uses stay: that is not ours to break."""
    for snapshot in snapshots:
        # Its own AMI may count for a moment longer.
        look_for(partial(_delete_snapshot, aws, region, snapshot))


def _delete_snapshot(aws: AwsSession, region: str, snapshot: str) -> bool | None:
    """None while an AMI uses it."""
    try:
        aws.ec2(region, "delete_snapshot", SnapshotId=snapshot)
    except Refused as error:
        if error.code == "InvalidSnapshot.InUse":
            return None
        if not error.says_absent:
            raise
    return True
