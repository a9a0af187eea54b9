"""Deployments on AWS: sides are made, get traffic, are replaced and removed, whatever is lost on the way."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from baker import identity
from baker.deploy.environment import Environment, FirstBootFile, Health, Rollout
from baker.deploy.fleet import Traffic
from baker.deploy.side import FirstBoot, Side
from baker.errors import BadReference, ConflictError, EnvironmentFileError, MachineError
from baker.model import Artifact, Reference
from baker.providers.aws.fleet import AwsFleet
from baker.providers.aws.policy import MAX_CHARACTERS, count_characters
from baker.providers.aws.ssh import KeyPair
from tests.aws import ACCOUNT, NEWEST, calls_of, make_table, quick_lab, read_tags
from tests.integration.test_aws_policy import list_actions, print_policy, write_project
from tests.lab import Fault, Lab
from tests.lab.bodies import Bodies

WEB = Environment(
    name="demo",
    file="environments/demo.toml",
    description="",
    recipe="web",
    image=Reference.parse("web"),
    target="aws",
    machines=2,
    port=8080,
    health=Health(within=60.0),
    rollout=Rollout(),
    first_boot=None,
    settings={},
)


@dataclass(kw_only=True)
class Site:
    """An account with a load balancer, and a fleet for it."""

    lab: Lab
    fleet: AwsFleet
    listener: str
    subnets: list[str]
    account: str
    settings: Mapping[str, Any]

    @property
    def environment(self) -> Environment:
        return replace(WEB, settings=self.settings)

    def side(self, number: int = 1, **changes: Any) -> Side:
        values: dict[str, Any] = {
            "environment": "demo",
            "number": number,
            "release": f"{self.account}{number}",
            "image": f"web:{number}",
            "artifact": Artifact(
                id=self.lab.source_ami,
                target="aws",
                arch="x86_64",
                kind="ami",
                store=self.lab.region,
                size_bytes=0,
                details={"ssh_user": "admin", "bake": "B"},
            ),
            "port": 8080,
            "health": WEB.health,
            "drain": 0.0,
            "batch": 2,
            "settings": self.settings,
        }
        return Side(**{**values, **changes})

    def start(self, number: int = 1, size: int = 2, **changes: Any) -> Side:
        side = self.side(number, **changes)
        self.fleet.start(side, size, time.sleep)
        return side

    def serve(self, number: int, **changes: Any) -> Side:
        """Start a side, and give it all the traffic once it is healthy."""
        side = self.start(number, **changes)
        self.wait_until_healthy(number, len(self.names(number)))
        self.shift({number: 100})
        return side

    def shift(self, weights: Mapping[int, int], standby: int | None = None) -> None:
        self.fleet.shift(self.environment, Traffic(weights=weights, standby=standby))

    def weights(self) -> Mapping[int, int]:
        return self.fleet.traffic("demo").weights

    def names(self, number: int) -> list[str]:
        return [one.name for one in self.fleet.machines("demo") if one.number == number]

    def wait_until_healthy(self, number: int, count: int) -> None:
        deadline = time.monotonic() + 60.0
        while sum(one.healthy for one in self.fleet.machines("demo") if one.number == number) < count:
            assert time.monotonic() < deadline, self.fleet.machines("demo")
            time.sleep(0.02)

    def rule(self) -> Mapping[str, Any]:
        rules = self.lab.client("elbv2").describe_rules(ListenerArn=self.listener)["Rules"]
        [found] = [rule for rule in rules if not rule["IsDefault"]]
        return dict(found)

    def group(self, number: int) -> Mapping[str, Any]:
        client = self.lab.client("autoscaling")
        names = [f"baker-demo-{number}"]
        [found] = client.describe_auto_scaling_groups(AutoScalingGroupNames=names)["AutoScalingGroups"]
        return dict(found)

    def remains(self) -> list[str]:
        kinds = ("instance", "volume", "launch-template", "scaling-group", "target-group", "rule")
        return [line for line in self.lab.holdings() if line.split()[1] in kinds]

    def remove_all(self, *numbers: int) -> None:
        self.shift({})
        for number in numbers:
            self.fleet.remove("demo", number, time.sleep)
        self.fleet.dismantle("demo")
        wait_for(lambda: self.remains() == [])


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def make_balancer(lab: Lab, name: str = "front", port: int = 80) -> tuple[str, list[str]]:
    """A load balancer in the default VPC: its listener, its subnets."""
    subnets = [one["SubnetId"] for one in lab.client("ec2").describe_subnets()["Subnets"]][:2]
    elb = lab.client("elbv2")
    arn = elb.create_load_balancer(Name=name, Subnets=subnets)["LoadBalancers"][0]["LoadBalancerArn"]
    answer = {"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "404"}}
    listener = elb.create_listener(LoadBalancerArn=arn, Protocol="HTTP", Port=port, DefaultActions=[answer])[
        "Listeners"
    ][0]
    return listener["ListenerArn"], subnets


def make_site(lab: Lab, folder: Path) -> Site:
    listener, subnets = make_balancer(lab)
    return Site(
        lab=lab,
        fleet=AwsFleet(folder / "home", {"region": lab.region}, actor="ann", project=folder),
        listener=listener,
        subnets=subnets,
        account=identity.make_bake_id()[-10:],
        settings={"region": lab.region, "ssh_port": lab.ssh_port, "load_balancer": "front"},
    )


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    made = make_site(lab, tmp_path)
    yield made
    lab.faults.clear()
    lab.fleet.sick.clear()  # type: ignore[attr-defined]
    lab.fleet.sickness = None  # type: ignore[attr-defined]
    lab.scaling.refusal = None
    assert made.remains() == []
    arn = lab.client("elbv2").describe_load_balancers(Names=["front"])["LoadBalancers"][0]
    lab.client("elbv2").delete_load_balancer(LoadBalancerArn=arn["LoadBalancerArn"])


# --- a life -----------------------------------------------------------------------------------------------


def test_sides_are_made_get_traffic_step_by_step_and_leave_nothing(site: Site) -> None:
    site.fleet.check(site.environment)
    site.start(1)
    assert site.weights() == {}
    site.wait_until_healthy(1, 2)
    site.shift({1: 100})
    assert site.weights() == {1: 100}
    site.start(2)
    assert site.weights() == {1: 100}
    site.wait_until_healthy(2, 2)
    for share in (10, 50, 100):
        site.shift({1: 100 - share, 2: share}, standby=1)
        assert site.weights() == {number: one for number, one in {1: 100 - share, 2: share}.items() if one}
    assert [one.number for one in site.fleet.machines("demo")] == [1, 1, 2, 2]
    assert site.fleet.sides() == {"demo": {1, 2}}
    site.fleet.remove("demo", 1, time.sleep)
    assert site.fleet.sides() == {"demo": {2}}
    assert site.weights() == {2: 100}
    site.remove_all(2)
    assert site.fleet.sides() == {}


def test_a_side_is_of_a_numbered_version_with_an_ami_and_marked_throughout(site: Site) -> None:
    site.start(1, settings={**site.settings, "tags": {"team": "shop"}})

    group = site.group(1)
    [version] = site.lab.client("ec2").describe_launch_template_versions(
        LaunchTemplateId=group["LaunchTemplate"]["LaunchTemplateId"],
        Versions=[group["LaunchTemplate"]["Version"]],
    )["LaunchTemplateVersions"]
    assert version["LaunchTemplateData"]["ImageId"] == site.lab.source_ami
    assert version["LaunchTemplateData"]["MetadataOptions"]["HttpTokens"] == "required"
    assert (group["MinSize"], group["MaxSize"], group["DesiredCapacity"]) == (2, 2, 2)
    assert (group["HealthCheckType"], group["HealthCheckGracePeriod"]) == ("ELB", 60)
    [instances] = [
        one["Instances"]
        for one in site.lab.client("ec2").describe_instances(InstanceIds=[site.names(1)[0]])["Reservations"]
    ]
    for tags in (read_tags(group), read_tags(instances[0])):
        assert tags["baker:environment"] == "demo"
        assert tags["baker:number"] == "1"
        assert tags["baker:release"] == f"{site.account}1"
        assert tags["baker:image"] == "web:1"
        assert tags["team"] == "shop"
    assert read_tags(instances[0])["Name"] == "demo-1"
    site.remove_all(1)


def test_machines_come_in_batches(site: Site) -> None:
    site.start(1, size=5, batch=2)

    asked = [calls_of(site.lab, "CreateAutoScalingGroup")[0], *calls_of(site.lab, "UpdateAutoScalingGroup")]
    assert [call["DesiredCapacity"] for call in asked] == [2, 4, 5, 5]
    assert len(site.names(1)) == site.fleet.size("demo", 1) == 5
    site.remove_all(1)


def test_the_size_is_what_the_group_is_to_have_now(site: Site) -> None:
    site.start(1)
    site.lab.client("autoscaling").update_auto_scaling_group(
        AutoScalingGroupName="baker-demo-1", MaxSize=3, DesiredCapacity=3
    )

    assert site.fleet.size("demo", 1) == 3
    assert site.fleet.size("demo", 7) == 0
    site.remove_all(1)


def test_a_machine_that_is_not_healthy_says_why(site: Site) -> None:
    site.lab.fleet.sickness = 500  # type: ignore[attr-defined]
    site.start(1, size=1)

    wait_for(lambda: "500" in site.fleet.machines("demo")[0].detail)
    [machine] = site.fleet.machines("demo")
    assert (machine.alive, machine.healthy) == (True, False)
    site.remove_all(1)


def test_a_side_with_traffic_is_not_removed(site: Site) -> None:
    site.serve(1)

    with pytest.raises(ConflictError, match="100 %"):
        site.fleet.remove("demo", 1, time.sleep)
    with pytest.raises(ConflictError, match="still has release 1"):
        site.fleet.dismantle("demo")
    assert len(site.names(1)) == 2
    site.remove_all(1)


def test_a_rule_that_somebody_changed_is_put_right(site: Site) -> None:
    site.serve(1)
    elb, rule = site.lab.client("elbv2"), site.rule()
    elsewhere = {"Field": "path-pattern", "PathPatternConfig": {"Values": ["/elsewhere"]}}
    answer = {"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "503"}}
    elb.modify_rule(RuleArn=rule["RuleArn"], Conditions=[elsewhere], Actions=[answer])
    assert site.weights() == {}

    site.shift({1: 100})

    assert site.weights() == {1: 100}
    assert site.rule()["Conditions"] == rule["Conditions"]
    elb.delete_rule(RuleArn=rule["RuleArn"])
    site.shift({1: 100})
    assert site.weights() == {1: 100}
    site.remove_all(1)


def test_dead_machines_are_replaced_by_aws_itself(site: Site) -> None:
    site.serve(1)
    before = site.names(1)

    site.lab.power_off(before[0])

    wait_for(lambda: before[0] not in site.names(1) and len(site.names(1)) == 2)
    site.wait_until_healthy(1, 2)
    site.remove_all(1)


# --- replacing --------------------------------------------------------------------------------------------


def test_new_machines_are_healthy_before_the_old_ones_go(site: Site) -> None:
    site.serve(1)
    old, kept = site.names(1)

    made = site.fleet.replace("demo", [old], time.sleep)

    assert len(made) == 1
    wait_for(lambda: set(site.names(1)) == {kept, *made})
    assert site.fleet.size("demo", 1) == 2
    group = site.group(1)
    assert (group["MinSize"], group["MaxSize"], group["DesiredCapacity"]) == (2, 2, 2)
    grown = next(
        call for call in calls_of(site.lab, "UpdateAutoScalingGroup") if call["DesiredCapacity"] == 3
    )
    assert grown["MinSize"] == 2
    site.remove_all(1)


def test_where_the_new_one_does_not_become_healthy_the_old_one_stays(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.serve(1, health=replace(WEB.health, within=1.0))
    old, kept = site.names(1)
    site.lab.fleet.sick.update({old: 200, kept: 200})  # type: ignore[attr-defined]
    site.lab.fleet.sickness = 500  # type: ignore[attr-defined]
    monkeypatch.setattr("baker.providers.aws.fleet_machines.RUN_SECONDS", 0.5)

    with pytest.raises(MachineError, match="did not become healthy"):
        site.fleet.replace("demo", [old], time.sleep)

    wait_for(lambda: set(site.names(1)) == {old, kept})
    assert site.fleet.size("demo", 1) == 2
    site.remove_all(1)


def test_a_replacement_that_was_killed_does_not_make_the_side_larger(site: Site) -> None:
    site.serve(1)
    old, _ = site.names(1)
    with pytest.raises(Killed):
        dying(site, "UpdateAutoScalingGroup").replace("demo", [old], time.sleep)

    assert site.fleet.size("demo", 1) == 2
    site.fleet.replace("demo", [old], time.sleep)
    wait_for(lambda: old not in site.names(1) and len(site.names(1)) == 2)
    site.remove_all(1)


# --- what goes wrong --------------------------------------------------------------------------------------

MAKING = (
    "CreateLaunchTemplate",
    "CreateLaunchTemplateVersion",
    "CreateTargetGroup",
    "ModifyTargetGroupAttributes",
    "CreateRule",
    "CreateAutoScalingGroup",
    "UpdateAutoScalingGroup",
)
REMOVING = (
    "UpdateAutoScalingGroup",
    "DeleteAutoScalingGroup",
    "DeleteRule",
    "DeleteTargetGroup",
    "DeleteLaunchTemplateVersions",
    "DeleteLaunchTemplate",
)


class Killed(BaseException):
    pass


def dying(site: Site, action: str) -> AwsFleet:
    """Another process, which dies when a call of this action is done: it makes no other."""
    fleet = fresh(site)
    call, pages = fleet.aws.call, fleet.aws.pages
    dead: list[str] = []

    def call_and_die(service: str, region: str, operation: str, **parameters: Any) -> Any:
        if dead:
            raise Killed
        answer = call(service, region, operation, **parameters)
        if operation.replace("_", "") == action.lower():
            dead.append(operation)
            raise Killed
        return answer

    def list_and_die(service: str, region: str, operation: str, key: str, **parameters: Any) -> Any:
        if dead:
            raise Killed
        return pages(service, region, operation, key, **parameters)

    fleet.aws.call, fleet.aws.pages = call_and_die, list_and_die  # type: ignore[method-assign]
    return fleet


@pytest.mark.parametrize("kind", ["lose", pytest.param("throttle", marks=pytest.mark.slow), "error"])
def test_calls_that_are_lost_or_throttled_make_everything_once(site: Site, kind: str) -> None:
    site.lab.faults.add(*(Fault(action=action, kind=kind) for action in {*MAKING, *REMOVING}))

    site.serve(1)

    assert site.weights() == {1: 100}
    held = [line.split()[1] for line in site.remains()]
    assert sorted(held) == sorted(
        ["instance", "volume"] * 2 + ["launch-template", "rule", "scaling-group", "target-group"]
    )
    assert [one.number for one in site.fleet.machines("demo")] == [1, 1]
    site.remove_all(1)


@pytest.mark.parametrize("action", MAKING)
def test_a_start_that_was_killed_goes_on_in_another_process(site: Site, action: str) -> None:
    with pytest.raises(Killed):
        dying(site, action).start(site.side(1), 2, time.sleep)

    fresh(site).start(site.side(1), 2, time.sleep)

    assert len(site.names(1)) == 2
    assert site.fleet.sides() == {"demo": {1}}
    site.remove_all(1)


@pytest.mark.slow
@pytest.mark.parametrize("action", MAKING)
def test_a_start_that_was_killed_is_removed_by_another_process(site: Site, action: str) -> None:
    with pytest.raises(Killed):
        dying(site, action).start(site.side(1), 2, time.sleep)

    assert "demo" in site.fleet.sides()
    fresh(site).remove("demo", 1, time.sleep)
    site.fleet.dismantle("demo")
    wait_for(lambda: site.remains() == [])


@pytest.mark.slow
@pytest.mark.parametrize("action", REMOVING)
def test_a_removal_that_was_killed_goes_on_in_another_process(site: Site, action: str) -> None:
    site.serve(1)
    site.shift({})
    with pytest.raises(Killed):
        remove_and_dismantle(dying(site, action))

    if fresh(site).sides().get("demo"):
        fresh(site).remove("demo", 1, time.sleep)
    fresh(site).dismantle("demo")
    wait_for(lambda: site.remains() == [])


def remove_and_dismantle(fleet: AwsFleet) -> None:
    fleet.remove("demo", 1, time.sleep)
    fleet.dismantle("demo")


def fresh(site: Site) -> AwsFleet:
    """As another process has it."""
    return AwsFleet(site.fleet._home, {"region": site.lab.region}, actor="ann", project=site.fleet._project)


def test_a_group_that_starts_no_machine_says_why(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baker.providers.aws.fleet_groups.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("baker.providers.aws.fleet_groups.GIVE_UP_SECONDS", 0.2)
    site.lab.scaling.refusal = "We currently do not have sufficient t3.small capacity"

    with pytest.raises(MachineError, match=r"sufficient t3\.small capacity"):
        site.start(1)

    site.remove_all(1)


def test_whoever_waits_may_give_up(site: Site) -> None:
    site.lab.scaling.refusal = "none now"

    def pause(_: float) -> None:
        raise ConflictError("somebody aborted it")

    with pytest.raises(ConflictError, match="aborted"):
        site.fleet.start(site.side(1), 2, pause)
    site.remove_all(1)


def test_a_release_of_another_catalog_is_neither_used_nor_removed(site: Site, tmp_path: Path) -> None:
    site.serve(1)
    other = AwsFleet(tmp_path / "other", {"region": site.lab.region}, actor="bob")

    with pytest.raises(ConflictError, match="another catalog"):
        other.start(site.side(1, release="THEIRS"), 2, time.sleep)
    other.remove("demo", 1, time.sleep)

    assert other.sides() == {}
    assert len(site.names(1)) == 2
    site.remove_all(1)


# --- what is checked --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"load_balancer": "nobody"}, "load_balancer", "no load balancer nobody"),
        ({"listener_port": 8443}, "listener_port", "does not listen on port 8443"),
        ({"vpc": "vpc-0123abcd"}, "vpc", "no VPC vpc-0123abcd"),
        ({"subnets": ["subnet-0123abcd"]}, "subnets", "subnet-0123abcd"),
        ({"security_groups": ["sg-0123abcd"]}, "security_groups", "sg-0123abcd"),
        ({"key_name": "nobody"}, "key_name", "nobody"),
    ],
)
def test_what_is_not_there_is_named_with_its_key(
    site: Site, changes: Mapping[str, Any], key: str, said: str
) -> None:
    environment = replace(site.environment, settings={**site.settings, **changes})

    with pytest.raises(EnvironmentFileError) as raised:
        site.fleet.check(environment)

    assert str(raised.value).startswith(f"environments/demo.toml: {key} in [aws]: ")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"health": Health(path=None, command=("/bin/true",))}, "command in [health]"),
        ({"health": Health(status=503)}, "status in [health]"),
        ({"first_boot": FirstBootFile(template="x", roles=("a", "b"))}, "roles in [first_boot]"),
        ({"settings": {}}, "does not say which load balancer"),
    ],
)
def test_what_aws_cannot_do_is_refused(site: Site, changes: Mapping[str, Any], said: str) -> None:
    with pytest.raises(EnvironmentFileError) as raised:
        site.fleet.check(replace(site.environment, **changes))
    assert said in str(raised.value)


def test_a_priority_that_is_taken_is_named_and_without_one_the_first_free_one_is_used(site: Site) -> None:
    elb = site.lab.client("elbv2")
    answer = {"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "200"}}
    condition = {"Field": "path-pattern", "Values": ["/theirs"]}
    theirs = elb.create_rule(ListenerArn=site.listener, Priority=1, Conditions=[condition], Actions=[answer])[
        "Rules"
    ][0]["RuleArn"]

    with pytest.raises(EnvironmentFileError, match="priority in"):
        site.start(1, settings={**site.settings, "priority": 1})
    site.start(1)

    rules = elb.describe_rules(ListenerArn=site.listener)["Rules"]
    assert [rule["Priority"] for rule in rules] == ["1", "2", "default"]
    elb.delete_rule(RuleArn=theirs)
    site.remove_all(1)


def test_the_place_is_the_hosts_where_there_is_one(site: Site) -> None:
    assert site.fleet.place(site.environment).startswith("http://front-")
    named = {**site.settings, "host": "shop.example.com", "path": "/app/*"}
    assert site.fleet.place(replace(WEB, settings=named)) == "http://shop.example.com/app/"


# --- first boot, logs -------------------------------------------------------------------------------------

FIRST_BOOT = FirstBoot(
    template="templates/first-boot/web.yaml.j2",
    text="#cloud-config\nwrite_files:\n  - path: /srv/who\n    content: {{ machine.name | yaml }}\n"
    "  - path: /srv/token\n    content: {{ secrets.TOKEN | yaml }}\n",
    data={},
    secrets={"TOKEN": "s3cret"},
)


def test_a_first_boot_is_rendered_once_for_all_machines(site: Site) -> None:
    side = site.start(1, first_boot=FIRST_BOOT)

    [facts] = site.fleet.list_facts(side, 2)
    assert facts.filled_in_there
    for name in site.names(1):
        told = site.fleet.user_data("demo", name)
        assert told is not None
        assert told.startswith("## template: jinja\n#cloud-config\n")
        assert "{{ v1.instance_id }}" in told
        assert "s3cret" in told
    site.remove_all(1)


def test_without_a_key_the_log_is_the_console_and_nothing_is_observed(site: Site) -> None:
    site.start(1, size=1)
    [name] = site.names(1)

    assert site.fleet.log("demo", name, 1) == f"{name} login: \n"
    assert site.fleet.user_data("demo", name) is None
    with pytest.raises(BadReference, match="no machine i-0"):
        site.fleet.log("demo", "i-0123456789abcdef0")
    site.remove_all(1)


# --- rights -----------------------------------------------------------------------------------------------


def test_the_policy_for_deployments_is_what_is_called_and_no_action_more(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {**make_table(site.lab), "instance_profile": "server"}
    site.lab.client("iam").create_instance_profile(InstanceProfileName="server")
    project = write_project(tmp_path / "project", table, NEWEST)
    (project / "environments").mkdir()
    (project / "environments" / "demo.toml").write_text(
        'recipe = "base"\ntarget = "aws"\n[aws]\nload_balancer = "front"\nvpc = "vpc-0123abcd"\n'
    )
    statements = print_policy(project, "--deploy", "--account", ACCOUNT)
    ec2 = site.lab.client("ec2")
    group = ec2.create_security_group(GroupName="ours", Description="x")["GroupId"]
    vpc = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["VpcId"]
    ec2.create_tags(Resources=[vpc], Tags=[{"Key": "Name", "Value": "shop"}])
    site.settings = {
        **site.settings,
        "instance_profile": "server",
        "vpc": {"Name": "shop"},
        "subnets": site.subnets,
        "security_groups": [group],
        "key_name": ec2.create_key_pair(KeyName="ours")["KeyName"],
    }
    site.lab.forget_calls()

    do_everything(site, monkeypatch)

    assert site.lab.permissions() == list_actions(statements)
    assert count_characters({"Version": "2012-10-17", "Statement": statements}) < MAX_CHARACTERS
    for call in site.lab.calls:
        mine = [one for one in statements if f"{call.service}:{call.action}" in one["Action"]]
        for statement in mine:
            if "aws:RequestTag/baker:environment" in statement.get("Condition", {}).get("Null", {}):
                assert '"baker:environment"' in json.dumps(call.params, default=str), call


def do_everything(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment that goes well, one whose machines do not come, and what becomes of them."""
    site.fleet.check(site.environment)
    site.serve(1)
    site.fleet.replace("demo", site.names(1)[:1], time.sleep)
    site.fleet.log("demo", site.names(1)[0])
    site.lab.scaling.refusal = "none now"
    with monkeypatch.context() as patch:
        patch.setattr("baker.providers.aws.fleet_groups.LOOK_SECONDS", 0.0)
        patch.setattr("baker.providers.aws.fleet_groups.GIVE_UP_SECONDS", 0.0)
        with pytest.raises(MachineError):
            site.start(2)
    site.lab.scaling.refusal = None
    site.settings = {**site.settings, "priority": 7}
    site.shift({1: 100})
    site.remove_all(1, 2)


# --- with machines ----------------------------------------------------------------------------------------

SERVICE = FirstBoot(
    template="templates/first-boot/web.yaml.j2",
    text="#cloud-config\n"
    "write_files:\n"
    "  - path: /srv/index.html\n"
    "    content: {{ data.said | yaml }}\n"
    "  - path: /srv/who\n"
    "    content: {{ machine.name | yaml }}\n"
    "runcmd:\n"
    "  - [systemd-run, --unit=web, python3, -m, http.server, '{{ port }}', --directory, /srv]\n",
    data={},
    secrets={},
)


class Load:
    """Requests without a pause, from a few users; ``answers`` are what they got, ``failures`` what they did
    not."""

    def __init__(self, url: str, users: int = 3) -> None:
        self.answers: list[str] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url,)) for _ in range(users)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(fetch(url))
            except OSError as error:
                self.failures.append(str(error))


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.machine
@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left_behind")
def test_real_machines_serve_and_hand_over_without_a_failed_request(
    bodies_home: Path, tmp_path: Path
) -> None:
    with quick_lab(Bodies(bodies_home), answered=False) as lab:
        site = make_site(lab, tmp_path)
        key = KeyPair.make()
        (tmp_path / "fleet-key").write_text(key.private)
        lab.client("ec2").import_key_pair(KeyName="fleet", PublicKeyMaterial=key.public.encode())
        site.settings = {**site.settings, "key_name": "fleet", "key_file": "fleet-key"}
        first = replace(SERVICE, data={"said": "one"})
        site.serve(1, first_boot=first, drain=5.0)
        with lab.balancer(site.listener) as url, Load(url) as load:
            wait_for(lambda: "one" in load.answers)
            site.start(2, first_boot=replace(SERVICE, data={"said": "two"}), drain=5.0)
            assert set(load.answers) == {"one"}
            site.wait_until_healthy(2, 2)
            site.shift({1: 50, 2: 50})
            wait_for(lambda: "two" in load.answers)
            site.shift({2: 100}, standby=1)
            names = site.names(2)
            wait_for(lambda: fetch(f"{url}/who") in names)
            assert "/who" in site.fleet.log("demo", names[0]) + site.fleet.log("demo", names[1])
            told = site.fleet.user_data("demo", names[0])
            assert told is not None
            site.fleet.remove("demo", 1, time.sleep)
            [new] = site.fleet.replace("demo", names[:1], time.sleep)
            seen = len(load.answers)
            wait_for(lambda: len(load.answers) > seen + 20)
        lab.power_off(names[1])
        wait_for(lambda: names[1] not in site.names(2))
        site.wait_until_healthy(2, 2)
        assert new in site.names(2)
        site.remove_all(2)
    assert load.failures == []
    assert load.answers[-1] == "two"
