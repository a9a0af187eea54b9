"""Promoting, rolling back, revoking, publishing for aws: every region follows the catalog."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from baker.catalog import Catalog
from tests.e2e.aws_site import COPY_REGION, Site, running_site
from tests.lab import Fault

REGION = "eu-west-1"
THIRD_REGION = "eu-north-1"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """An account with probe:1 and probe:2 in two regions. Tests move channels of their own."""
    with running_site() as site:
        site.run("bake")
        site.run("bake", "--force")
        yield site


@pytest.fixture(autouse=True)
def no_faults(site: Site) -> Iterator[None]:
    yield
    site.lab.faults.clear()


def test_parameters_of_both_regions_follow_promotion_and_rollback(site: Site) -> None:
    first, second = site.amis("probe:1"), site.amis("probe:2")
    assert set(first) == {REGION, COPY_REGION}
    site.run("promote", "probe:1", "staging", "--yes")
    assert site.parameters("probe", "staging") == first
    site.run("promote", "probe:2", "staging", "--yes")
    assert site.parameters("probe", "staging") == second
    site.run("rollback", "probe", "staging", "--yes")
    assert site.parameters("probe", "staging") == first


def test_artifact_of_a_channel_is_told_by_region(site: Site) -> None:
    site.run("promote", "probe:2", "dev", "--yes")
    for region, ami in site.amis("probe:2").items():
        told = site.run("image", "resolve", "probe:dev", "--target", "aws", "--region", region).stdout
        assert told == f"{ami}\n"
    refused = site.run("image", "resolve", "probe:dev", "--region", THIRD_REGION, status=2)
    assert THIRD_REGION in refused.stderr


def test_region_that_refuses_a_parameter_lags_until_the_image_is_published(site: Site) -> None:
    site.run("promote", "probe:1", "prod", "--yes")
    refusal = {"code": "AccessDeniedException", "message": "no right"}
    site.lab.faults.add(Fault(action="PutParameter", kind="refuse", region=COPY_REGION, **refusal))
    done = site.run("promote", "probe:2", "prod", "--yes", status=1)
    assert f"Left behind: probe:prod: {COPY_REGION}: " in done.stderr
    assert "ssm:PutParameter" in done.stderr
    assert "Repair it: baker image publish probe:2" in done.stderr
    expected = {REGION: site.amis("probe:2")[REGION], COPY_REGION: site.amis("probe:1")[COPY_REGION]}
    assert site.parameters("probe", "prod") == expected
    site.run("image", "publish", "probe:2")
    assert site.parameters("probe", "prod") == site.amis("probe:2")


def test_parameter_ends_at_what_the_channel_holds_although_an_earlier_promotion_is_late(site: Site) -> None:
    # Late, but answered: what is given up would come into force after all.
    site.configure(request_timeout="30s")
    site.lab.faults.add(Fault(action="PutParameter", kind="delay", seconds=2.0, times=1))
    late = site.start("promote", "probe:1", "race", "--yes")
    with Catalog.open(f"sqlite:///{site.home}/catalog.db", actor="tester") as catalog:
        while catalog.channel("probe", "race") is None:
            assert late.process.is_alive(), late.wait().said
            time.sleep(0.02)
    site.run("promote", "probe:2", "race", "--yes")
    assert late.process.is_alive(), "it was not late"
    assert late.wait().status == 0
    assert site.parameters("probe", "race") == site.amis("probe:2")
    site.configure()


def test_image_is_brought_to_a_region_that_was_added(site: Site) -> None:
    site.run("promote", "probe:2", "wide", "--yes")
    site.configure(regions=[COPY_REGION, THIRD_REGION])
    try:
        done = site.run("image", "publish", "probe:2")
    finally:
        site.configure()
    assert f"(new: {THIRD_REGION})" in done.stdout
    amis = site.amis("probe:2")
    assert set(amis) == {REGION, COPY_REGION, THIRD_REGION}
    assert site.parameters("probe", "wide") == amis
    copy = site.lab.client("ec2", THIRD_REGION).describe_images(ImageIds=[amis[THIRD_REGION]])["Images"][0]
    assert copy["State"] == "available"
    permission = site.lab.client("ec2", THIRD_REGION).describe_image_attribute(
        ImageId=copy["ImageId"], Attribute="launchPermission"
    )
    assert permission["LaunchPermissions"] == [{"UserId": "111122223333"}]


def test_parameters_fall_back_with_the_channel_of_a_revoked_image(site: Site) -> None:
    site.run("bake", "--force")
    site.run("promote", "probe:1", "fallen", "--yes")
    site.run("promote", "probe:3", "fallen", "--yes")
    assert site.parameters("probe", "fallen") == site.amis("probe:3")
    site.run("image", "revoke", "probe:3", "--reason", "leaky", "--fall-back", "--yes")
    assert site.parameters("probe", "fallen") == site.amis("probe:1")


def test_lost_catalog_is_rebuilt_from_what_amis_tell_and_goes_on(site: Site) -> None:
    before = {reference: site.amis(reference) for reference in ("probe:1", "probe:2")}
    moved = site.folder.parent / "lost"
    lost = Site(lab=site.lab, folder=site.folder, home=moved)
    shutil.copytree(site.home, moved)
    for path in moved.glob("catalog.db*"):
        path.unlink()
    done = lost.run("catalog", "rebuild", "--from", "aws")
    assert "probe:1          restored" in done.stdout
    assert {reference: lost.amis(reference) for reference in before} == before
    lost.run("promote", "probe:1", "rebuilt", "--yes")
    assert lost.parameters("probe", "rebuilt") == before["probe:1"]
    for region, ami in before["probe:1"].items():
        assert lost.run("image", "resolve", "probe:rebuilt", "--region", region).stdout == f"{ami}\n"
    assert "nothing is left behind" in lost.run("system", "sweep").stdout
    [reason] = lost.json("plan")["recipes"][0]["reasons"]
    assert reason["detail"] == "it was restored from an artifact that does not tell what it was made of"


# --- deleting -------------------------------------------------------------------------------------------


@contextmanager
def instance_of(site: Site, region: str, ami: str) -> Iterator[str]:
    ec2 = site.lab.client("ec2", region)
    launched = ec2.run_instances(ImageId=ami, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    yield launched
    ec2.terminate_instances(InstanceIds=[launched])


@contextmanager
def template_of(site: Site, region: str, ami: str) -> Iterator[str]:
    ec2 = site.lab.client("ec2", region)
    ec2.create_launch_template(LaunchTemplateName="theirs", LaunchTemplateData={"ImageId": ami})
    yield "theirs"
    ec2.delete_launch_template(LaunchTemplateName="theirs")


def test_deleted_image_is_gone_from_every_region_but_not_while_somebody_uses_it(site: Site) -> None:
    site.recipe("old")
    for _ in range(3):
        site.run("bake", "old", "--force")
    amis = {reference: site.amis(reference) for reference in ("old:1", "old:2")}

    def bake_of(reference: str) -> str:
        [line] = [line for line in site.lab.holdings() if f"image {amis[reference][REGION]} " in line]
        return line.split("baker:bake=")[1]

    bakes = {reference: bake_of(reference) for reference in amis}

    def held(reference: str) -> list[str]:
        found = [line.split() for line in site.lab.holdings() if line.endswith(bakes[reference])]
        return [f"{region} {kind}" for region, kind, *_ in found]

    everything = [f"{region} {kind}" for region in (COPY_REGION, REGION) for kind in ("image", "snapshot")]
    assert held("old:1") == held("old:2") == everything
    for use in (instance_of, template_of):
        with use(site, COPY_REGION, amis["old:1"][COPY_REGION]) as user:
            refused = site.run("image", "rm", "old:1", "--yes", status=1)
            assert user in refused.stderr
    assert held("old:1") == everything
    site.run("image", "rm", "old:1", "--yes")
    assert held("old:1") == []
    assert site.json("image", "show", "old:1")["status"] == "deleted"

    site.write("baker.toml", f"{site.folder.joinpath('baker.toml').read_text()}[retention]\nkeep_last = 1\n")
    try:
        with instance_of(site, REGION, amis["old:2"][REGION]) as user:
            assert user in site.run("image", "prune", "old", "--yes").stdout
            assert held("old:2") == everything
        site.run("image", "prune", "old", "--yes")
    finally:
        site.configure()
    assert held("old:2") == []
