"""From one AMI to all places that it is wanted in: copied, shared, tagged; in all of them or in none."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from baker.errors import CloudError
from baker.model import Artifact
from baker.providers.aws.images import (
    AmiImage,
    delete_image,
    describe_image,
    find_image_named,
    look_up_named,
    remove_images,
    require_imds_v2,
    wait_for_images,
)
from baker.providers.aws.naming import Marks, write_tags
from baker.providers.aws.options import Distribution, parse_age
from baker.providers.aws.refusals import Refused
from baker.providers.aws.session import AwsSession
from baker.teardown import Teardown


def spread_image(
    aws: AwsSession,
    source: Artifact,
    wanted: Distribution,
    marks: Marks,
    teardown: Teardown,
    *,
    seconds: float,
) -> dict[str, AmiImage]:
    """The AMI in its own region and a copy in every other one that is wanted, all available.

    Copies that are there are used, failed ones made again. Raises CloudError; the copies made now are then
    ``teardown``'s to remove.
    """
    name = source.details["name"]
    ids = {source.store: source.id}
    for region in wanted.regions:
        if region != source.store:
            ids[region] = _copy(aws, source, name, region, wanted, marks, teardown)
    images = wait_for_images(
        aws,
        ids,
        seconds=seconds,
        cancel=teardown.cancel,
        seen_in=[source.store],
        at_once=len(ids) == 1,  # nothing was copied: it is there
    )
    for region, image in images.items():
        require_imds_v2(aws, region, image)
    return images


def _copy(
    aws: AwsSession,
    source: Artifact,
    name: str,
    region: str,
    wanted: Distribution,
    marks: Marks,
    teardown: Teardown,
) -> str:
    """The id of the copy in a region, which may be pending."""
    there = find_image_named(aws, region, name, marks.bake)
    if there is not None and there.state in ("available", "pending"):
        return there.id
    if there is not None:  # it failed: its name is taken until it is gone
        delete_image(aws, region, there.id, there.snapshots)
    key = wanted.kms_keys.get(region)
    resource = marks.resource("capture", marks.bake, region)
    lost = False
    with teardown.making(resource, lambda: remove_images(aws, resource, lost=lost)):
        try:
            made = aws.ec2(
                region,
                "copy_image",
                Name=name,
                Description=f"{marks.recipe}, copied from {source.id} in {source.store}",
                SourceRegion=source.store,
                SourceImageId=source.id,
                # For the tries of this call alone: one that is made again is never answered with the old one.
                ClientToken=f"{marks.bake}-{region}-{secrets.token_hex(4)}",
                TagSpecifications=marks.specifications("image", "snapshot", Name=name),
                **({"Encrypted": True, "KmsKeyId": key} if key else {}),
            )
            return str(made["ImageId"])
        except Refused as error:
            lost = error.outcome_unknown
            if error.code != "InvalidAMIName.Duplicate":
                raise
            found = look_up_named(aws, region, name, marks.bake)
            if found is None:
                raise
            return found.id


# --- who may use it ---------------------------------------------------------------------------------------


def share_image(aws: AwsSession, region: str, image: AmiImage, wanted: Distribution, made: datetime) -> None:
    """Give and date what ``wanted`` says; idempotent. Nothing is taken back from whom it was given before."""
    grants: list[dict[str, str]] = [{"UserId": account} for account in wanted.accounts]
    grants += [{"OrganizationArn": arn} for arn in wanted.organizations]
    grants += [{"OrganizationalUnitArn": arn} for arn in wanted.units]
    grants += [{"Group": "all"}] if wanted.public else []
    if grants:
        aws.ec2(region, "modify_image_attribute", ImageId=image.id, LaunchPermission={"Add": grants})
    if wanted.accounts:
        for snapshot in image.snapshots:
            aws.ec2(
                region,
                "modify_snapshot_attribute",
                SnapshotId=snapshot,
                Attribute="createVolumePermission",
                OperationType="add",
                UserIds=list(wanted.accounts),
            )
    if wanted.deprecate_after:
        # AWS takes no time that has passed: an old AMI is deprecated in a moment.
        at = max(made + parse_age(wanted.deprecate_after), datetime.now(UTC) + timedelta(minutes=2))
        aws.ec2(region, "enable_image_deprecation", ImageId=image.id, DeprecateAt=at)


def label_image(aws: AwsSession, region: str, image: AmiImage, tags: Mapping[str, str]) -> None:
    """Write tags on an AMI and its snapshots, unless all are there."""
    if any(image.tags.get(key) != value for key, value in tags.items() if value):
        aws.ec2(region, "create_tags", Resources=[image.id, *image.snapshots], Tags=write_tags(tags))


def require_there(aws: AwsSession, artifact: Artifact) -> AmiImage:
    """Raises CloudError."""
    image = describe_image(aws, artifact.store, artifact.id)
    if image is None:
        raise CloudError(
            f"AMI {artifact.id} is not in {artifact.store} any more",
            hint="Somebody deregistered it. Bake it again: baker bake --force",
        )
    return image
