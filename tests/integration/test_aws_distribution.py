"""An AMI comes to all regions or to none, and to whom the settings name."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from moto.ec2.models import ec2_backends

from baker.errors import CloudError
from baker.model import Build
from baker.sidecar import Sidecar
from tests.aws import (
    ACCOUNT,
    artifact_in,
    calls_of,
    describe_image,
    list_images,
    make_provider,
    read_tags,
    start_baking,
)
from tests.lab import Fault, ImageFault, Lab

FRANKFURT, OHIO = "eu-central-1", "us-east-2"
ORGANIZATION = "arn:aws:organizations::111122223333:organization/o-abcdefghij"
UNIT = "arn:aws:organizations::111122223333:ou/o-abcdefghij/ou-ab12-cdefgh34"


# --- all regions or none --------------------------------------------------------------------------


def test_an_ami_that_somebody_deregistered_is_not_waited_for(lab: Lab, tmp_path: Path) -> None:
    baking = start_baking(lab, tmp_path, image_timeout="2s")
    build = baking.bake()
    lab.client("ec2").deregister_image(ImageId=build.artifacts[0].id)

    with pytest.raises(CloudError, match="in eu-west-1 is gone") as raised:
        baking.distribute(build, baking.settings)

    assert "baker bake --force" in str(raised.value.hint)


def test_a_build_gets_an_ami_in_every_region(lab: Lab, tmp_path: Path) -> None:
    baking = start_baking(lab, tmp_path, regions=[FRANKFURT, OHIO], tags={"team": "web"})

    build = baking.bake()

    assert [artifact.store for artifact in build.artifacts] == [lab.region, FRANKFURT, OHIO]
    for artifact in build.artifacts:
        image = describe_image(lab, artifact)
        assert (image["State"], image["ImdsSupport"], image["Name"]) == (
            "available",
            "v2.0",
            f"base-{baking.id}",
        )
        snapshots = lab.client("ec2", artifact.store).describe_snapshots(
            SnapshotIds=artifact.details["snapshots"]
        )["Snapshots"]
        for made in (image, *snapshots):
            expected = {"baker:bake": baking.id, "team": "web", "baker:version": "1", "Name": "base:1"}
            assert expected.items() <= read_tags(made).items()
        assert artifact.details["ssh_user"] == lab.ssh_user
    for call in calls_of(lab, "CopyImage"):
        kinds = {one["ResourceType"]: read_tags(one) for one in call["TagSpecifications"]}
        assert set(kinds) == {"image", "snapshot"}
        assert all(tags["team"] == "web" and tags["baker:bake"] == baking.id for tags in kinds.values())


def test_a_region_of_the_bake_itself_is_not_copied_to(lab: Lab, tmp_path: Path) -> None:
    build = start_baking(lab, tmp_path, regions=[lab.region]).bake()

    assert [artifact.store for artifact in build.artifacts] == [lab.region]
    assert calls_of(lab, "CopyImage") == []


def test_each_region_has_its_own_key(lab: Lab, tmp_path: Path) -> None:
    keys = {FRANKFURT: "alias/images", OHIO: "arn:aws:kms:us-east-2:123456789012:key/1234abcd"}
    start_baking(lab, tmp_path, regions=[FRANKFURT, OHIO, "us-west-2"], kms_keys=keys).bake()

    asked = {call.region: call.params for call in lab.calls if call.action == "CopyImage"}
    assert {region: asked[region].get("KmsKeyId") for region in asked} == {**keys, "us-west-2": None}
    assert [asked[region].get("Encrypted") for region in (FRANKFURT, OHIO, "us-west-2")] == [True, True, None]


@pytest.mark.parametrize("kind", ["lose", "timeout", "error", "throttle"])
@pytest.mark.parametrize("action", ["CopyImage", "CreateTags", "ModifySnapshotAttribute"])
def test_a_distribution_whose_answers_get_lost_makes_one_copy(
    lab: Lab, tmp_path: Path, action: str, kind: str
) -> None:
    baking = start_baking(
        lab, tmp_path, request_timeout="1s", regions=[FRANKFURT], share_accounts=["111122223333"]
    )
    build = baking.register()
    lab.faults.add(Fault(action=action, kind=kind))

    baking.distribute(build)

    assert list_images(lab, baking) == [FRANKFURT, lab.region]
    assert baking.teardown.close() == []


@pytest.mark.parametrize("kind", ["fails", "stuck"])
def test_a_copy_that_fails_takes_the_other_copies_with_it_and_is_made_again_by_the_next_run(
    lab: Lab, tmp_path: Path, kind: str
) -> None:
    baking = start_baking(lab, tmp_path, regions=[FRANKFURT, OHIO], image_timeout="1s")
    build = baking.register()
    lab.faults.add(ImageFault(action="CopyImage", kind=kind, region=OHIO))

    with pytest.raises(CloudError, match=f"in {OHIO} is "):
        baking.distribute(build)

    assert baking.teardown.close() == []
    assert list_images(lab, baking) == [lab.region]
    assert "baker:issues" not in read_tags(describe_image(lab, build.artifacts[0]))
    build = baking.distribute(build)
    assert [describe_image(lab, artifact)["State"] for artifact in build.artifacts] == ["available"] * 3


def test_a_failed_copy_that_was_left_is_replaced(lab: Lab, tmp_path: Path) -> None:
    baking = start_baking(lab, tmp_path, regions=[FRANKFURT])
    build = baking.register()
    lab.faults.add(ImageFault(action="CopyImage", kind="fails"))
    with pytest.raises(CloudError):
        baking.distribute(build)
    # Nobody closed the teardown: the process was killed.
    assert list_images(lab, baking) == [FRANKFURT, lab.region]

    distributed = baking.distribute(build)

    assert list_images(lab, baking) == [FRANKFURT, lab.region]
    assert describe_image(lab, artifact_in(distributed, FRANKFURT))["State"] == "available"


def test_copies_that_are_there_are_used(lab: Lab, tmp_path: Path) -> None:
    baking = start_baking(lab, tmp_path, regions=[FRANKFURT])
    build = baking.bake()
    lab.forget_calls()

    again = baking.distribute(build)

    assert again.artifacts == build.artifacts
    assert calls_of(lab, "CopyImage") == calls_of(lab, "CreateTags") == []


def test_a_copy_that_would_take_the_older_metadata_service_is_mended(lab: Lab, tmp_path: Path) -> None:
    baking = start_baking(lab, tmp_path, regions=[FRANKFURT])
    build = baking.bake()
    copy = artifact_in(build, FRANKFURT)
    ec2_backends[ACCOUNT][FRANKFURT].amis[copy.id].lab.imds_support = None

    baking.distribute(build)

    assert describe_image(lab, copy)["ImdsSupport"] == "v2.0"


def test_an_ami_of_somebody_with_the_copys_name_is_not_taken_for_it(lab: Lab, tmp_path: Path) -> None:
    baking = start_baking(lab, tmp_path, regions=[FRANKFURT])
    build = baking.register()
    copied = lab.client("ec2", FRANKFURT).copy_image(
        Name=f"base-{baking.id}", SourceRegion=lab.region, SourceImageId=build.artifacts[0].id
    )

    build = baking.distribute(build)

    assert artifact_in(build, FRANKFURT).id != copied["ImageId"]


def test_new_settings_bring_a_build_to_further_regions(lab: Lab, tmp_path: Path) -> None:
    baking = start_baking(lab, tmp_path, regions=[FRANKFURT])
    build = baking.bake()
    copy = artifact_in(build, FRANKFURT)

    build = baking.distribute(build, {**baking.settings, "regions": [OHIO]})

    assert {artifact.store for artifact in build.artifacts} == {lab.region, FRANKFURT, OHIO}
    assert artifact_in(build, FRANKFURT).id == copy.id


def test_a_build_is_distributed_as_it_was_configured_when_it_was_captured(lab: Lab, tmp_path: Path) -> None:
    """Whoever finishes the work of a dead bake may not have its settings."""
    baking = start_baking(lab, tmp_path, regions=[FRANKFURT], share_accounts=["111122223333"])
    build = baking.register()
    baking.provider = make_provider(lab, tmp_path)

    build = baking.distribute(build)

    assert [artifact.store for artifact in build.artifacts] == [lab.region, FRANKFURT]
    assert permissions(lab, build, FRANKFURT) == [{"UserId": "111122223333"}]


# --- who may use it -------------------------------------------------------------------------------


def permissions(lab: Lab, build: Build, region: str) -> list[dict[str, str]]:
    found = lab.client("ec2", region).describe_image_attribute(
        ImageId=artifact_in(build, region).id, Attribute="launchPermission"
    )
    return list(found["LaunchPermissions"])


def snapshot_permissions(lab: Lab, build: Build, region: str) -> list[dict[str, str]]:
    [snapshot] = artifact_in(build, region).details["snapshots"]
    found = lab.client("ec2", region).describe_snapshot_attribute(
        SnapshotId=snapshot, Attribute="createVolumePermission"
    )
    return list(found["CreateVolumePermissions"])


def test_nobody_else_may_use_it_unless_the_settings_say_so(lab: Lab, tmp_path: Path) -> None:
    build = start_baking(lab, tmp_path, regions=[FRANKFURT]).bake()

    for region in (lab.region, FRANKFURT):
        assert permissions(lab, build, region) == []
        assert snapshot_permissions(lab, build, region) == []
        assert describe_image(lab, artifact_in(build, region))["Public"] is False


def test_it_is_shared_with_accounts_organizations_and_units_in_every_region(lab: Lab, tmp_path: Path) -> None:
    settings = {
        "share_accounts": ["111122223333", "444455556666"],
        "share_organizations": [ORGANIZATION],
        "share_ous": [UNIT],
    }
    start_baking(lab, tmp_path, regions=[FRANKFURT], **settings).bake()

    granted = {
        call.region: call.params["LaunchPermission"]["Add"]
        for call in lab.calls
        if call.action == "ModifyImageAttribute" and "LaunchPermission" in call.params
    }
    expected = [
        {"UserId": "111122223333"},
        {"UserId": "444455556666"},
        {"OrganizationArn": ORGANIZATION},
        {"OrganizationalUnitArn": UNIT},
    ]
    assert granted == {lab.region: expected, FRANKFURT: expected}


def test_accounts_may_use_the_snapshots_too(lab: Lab, tmp_path: Path) -> None:
    build = start_baking(lab, tmp_path, regions=[FRANKFURT], share_accounts=["111122223333"]).bake()

    for region in (lab.region, FRANKFURT):
        assert permissions(lab, build, region) == [{"UserId": "111122223333"}]
        assert snapshot_permissions(lab, build, region) == [{"UserId": "111122223333"}]


def test_it_is_public_by_the_switch_alone(lab: Lab, tmp_path: Path) -> None:
    build = start_baking(lab, tmp_path, public=True).bake()

    assert describe_image(lab, build.artifacts[0])["Public"] is True
    assert snapshot_permissions(lab, build, lab.region) == []


def test_it_is_deprecated_so_long_after_it_was_made(lab: Lab, tmp_path: Path) -> None:
    baking = start_baking(lab, tmp_path, regions=[FRANKFURT])
    build = baking.register()
    now = datetime.now(UTC).replace(microsecond=0)
    settings = {**baking.settings, "deprecate_after": "90d"}

    recent = baking.distribute(replace_created(build, now), settings)

    for artifact in recent.artifacts:
        told = datetime.fromisoformat(describe_image(lab, artifact)["DeprecationTime"])
        assert abs(told - (now + timedelta(days=90))) <= timedelta(minutes=1)


def test_one_that_is_older_already_is_deprecated_in_a_moment(lab: Lab, tmp_path: Path) -> None:
    """AWS takes no time that has passed."""
    build = start_baking(lab, tmp_path, deprecate_after="90d").bake()

    told = datetime.fromisoformat(describe_image(lab, build.artifacts[0])["DeprecationTime"])
    assert timedelta(0) < told - datetime.now(UTC) <= timedelta(minutes=3)


def replace_created(build: Build, created: datetime) -> Build:
    return replace(build, created=created)


# --- what they tell -------------------------------------------------------------------------------


def test_amis_tell_which_of_their_versions_was_a_preview(lab: Lab, tmp_path: Path) -> None:
    baking = start_baking(lab, tmp_path)
    build = baking.bake()
    for labels in ({"version": "2", "preview": "pr-1"}, {"version": "3"}):
        baking.provider.distribute(build, labels, baking.teardown)

    sidecars = [each for each in baking.provider.sidecars() if isinstance(each, Sidecar)]
    (told,) = [each for each in sidecars if each.build.id == build.id]
    assert {issue.version: issue.preview for issue in told.issues} == {1: None, 2: "pr-1", 3: None}
