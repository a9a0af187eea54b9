"""Deployments to AWS through the command line, on the lab: the file of one host, with another target."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.aws_site import Site, running_site
from tests.integration.test_aws_fleet import make_balancer

ENVIRONMENT = """
recipe = "probe"
target = "aws"
machines = 2
port = 80

[health]
path = "/"
within = "60s"

[rollout]
soak = "1s"
watch = "1s"
steps = [50, 100]
window = "1h"
drain = "0s"

[local]
listen = "127.0.0.1:8080"

[aws]
vpc = "VPC"
load_balancer = "front"
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as site:
        yield site


def test_environment_of_aws_is_deployed_to_rolled_back_and_removed(site: Site) -> None:
    listener, _ = make_balancer(site.lab)
    ec2 = site.lab.client("ec2")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    site.write("environments/demo.toml", ENVIRONMENT.replace("VPC", vpc))
    site.run("bake")
    before = site.is_held()

    assert site.json("deploy", "demo", "probe:1")["outcome"] == "deployed"
    ami = next(iter(set(site.amis("probe:1").values()) & set(running_images(site))))
    assert running_images(site) == [ami, ami]
    assert "unchanged" in site.run("deploy", "demo", "probe:1").said

    site.run("bake", "--force")
    deployed = site.json("deploy", "demo", "probe:2")
    assert (deployed["image"], deployed["before"]) == ("probe:2", "probe:1")
    assert weights(site, listener) == {1: 0, 2: 100}
    assert site.json("env", "rollback", "demo")["image"] == "probe:1"
    assert weights(site, listener) == {1: 100, 2: 0}
    assert "probe:1" in site.run("env", "show", "demo").stdout
    assert "probe:1 is needed: environment demo" in site.run("image", "rm", "probe:1", "--yes", status=1).said

    site.run("env", "rm", "demo", "--yes")
    assert site.is_held() == before


def running_images(site: Site) -> list[str]:
    states = [{"Name": "instance-state-name", "Values": ["running"]}]
    found = site.lab.client("ec2").describe_instances(Filters=states)["Reservations"]
    return [one["ImageId"] for reservation in found for one in reservation["Instances"]]


def weights(site: Site, listener: str) -> dict[int, int]:
    """Of each side, by its number, as the rule has them."""
    elb = site.lab.client("elbv2")
    names = {
        one["TargetGroupArn"]: one["TargetGroupName"] for one in elb.describe_target_groups()["TargetGroups"]
    }
    rule = next(one for one in elb.describe_rules(ListenerArn=listener)["Rules"] if not one["IsDefault"])
    groups = rule["Actions"][0]["ForwardConfig"]["TargetGroups"]
    return {int(names[one["TargetGroupArn"]].split("-")[2]): one["Weight"] for one in groups}
