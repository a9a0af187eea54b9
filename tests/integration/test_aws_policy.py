"""The printed policy is what baker calls and no action more: all that it does at AWS is done on the lab."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from baker.errors import MachineError
from baker.model import Artifact, Build, Resource
from baker.providers.aws.provider import AwsProvider
from tests.aws import ACCOUNT, NEWEST, Baking, make_table, quick_lab
from tests.factories import make_build
from tests.lab import Fault, InstanceFault, Lab
from tests.lab.calls import Call
from tests.lab.stock import PARAMETER

OTHER_REGION = "eu-central-1"
KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
BAKER = Path(sys.executable).with_name("baker")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with quick_lab() as lab:
        yield lab


def write_toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {write_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(write_toml, value))}]"
    return json.dumps(value)


def write_project(folder: Path, settings: Mapping[str, Any], query: Mapping[str, str]) -> Path:
    """A project with this [aws] and the recipe base."""
    recipe = folder / "recipes" / "base"
    recipe.mkdir(parents=True)
    lines = [f"{key} = {write_toml(value)}" for key, value in settings.items()]
    folder.joinpath("baker.toml").write_text("[aws]\n" + "\n".join(lines) + "\n")
    recipe.joinpath("recipe.toml").write_text(
        f'description = "x"\n[targets.aws]\nfrom = {write_toml(query)}\n'
    )
    recipe.joinpath("deploy.py").write_text("")
    return folder


def print_policy(project: Path, *arguments: str) -> list[Mapping[str, Any]]:
    """The statements."""
    done = subprocess.run(
        [BAKER, "--project", project, "aws", "policy", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    statements: list[Mapping[str, Any]] = json.loads(done.stdout)["Statement"]
    return statements


def list_actions(statements: list[Mapping[str, Any]]) -> set[str]:
    return {action for statement in statements for action in statement["Action"]}


# --- everything that baker does at AWS --------------------------------------------------------------------


def do_everything(lab: Lab, provider: AwsProvider, query: Mapping[str, str]) -> None:
    """Bakes that go well and badly, and what is done with images afterwards."""
    build = bake_with_lost_answers(lab, provider, query)
    fail_to_reach(lab, provider, query)
    assert provider.publish_channel("base", "prod", [build]) == []
    provider._launcher.images.clear()  # as another process: it has seen no AMI yet
    verify(provider, build.artifacts[0])
    make_launch_template(lab, *build.artifacts)
    assert provider.in_use(*build.artifacts) == {}
    assert provider.withdraw_channel("base", "prod", [build]) == []
    assert [provider.holds(artifact) for artifact in build.artifacts] == [True] * len(build.artifacts)
    assert [sidecar.build.id for sidecar in provider.sidecars()] == [build.id]  # type: ignore[union-attr]
    provider.distribute(build, {"version": "2"}, Baking(provider, query=query).teardown)
    provider.delete(*build.artifacts)
    sweep(provider, query)
    assert [line for line in lab.holdings() if "baker:bake=" in line] == []


def bake_with_lost_answers(lab: Lab, provider: AwsProvider, query: Mapping[str, str]) -> Build:
    """On the second offer, or on-demand after two by the spot. Calls done twice meet what they made first."""
    lab.faults.add(
        *(
            Fault(action=action, kind="lose")
            for action in ("CreateSecurityGroup", "AuthorizeSecurityGroupIngress", "CreateImage", "CopyImage")
        ),
        Fault(
            action="RunInstances",
            kind="refuse",
            times=2 if provider._table.get("spot") else 1,
            code="InsufficientInstanceCapacity",
        ),
    )
    baking = Baking(provider, query=query)
    build = baking.bake()
    lab.faults.clear()
    return build


def fail_to_reach(lab: Lab, provider: AwsProvider, query: Mapping[str, str]) -> None:
    """A build instance that is silent (its console is read), and one that is not who it should be."""
    for kind in ("no-ssh", "wrong-host-key"):
        lab.faults.add(InstanceFault(kind=kind))
        baking = Baking(provider, query=query)
        with pytest.raises(MachineError):
            baking.launch()
        assert baking.teardown.close() == []
        lab.faults.clear()


def verify(provider: AwsProvider, artifact: Artifact) -> None:
    baking = Baking(provider)
    machine = provider.start(f"{baking.id}-verify", "base", artifact, baking.teardown)
    assert machine.run(["true"]).exit_status == 0
    machine.stop()
    assert baking.teardown.close() == []


def make_launch_template(lab: Lab, *artifacts: Artifact) -> None:
    """Of somebody, in every region: whoever deletes an AMI has to look into it."""
    for artifact in artifacts:
        data = {"ImageId": lab.source("older", artifact.store)}
        lab.client("ec2", artifact.store).create_launch_template(
            LaunchTemplateName="theirs", LaunchTemplateData=data
        )


def sweep(provider: AwsProvider, query: Mapping[str, str]) -> None:
    """A bake that died with all it made, swept by tags alone."""
    baking = Baking(provider, query=query)
    captured = baking.capture()
    registered = make_build("base", "aws", "x86_64", id=baking.id, artifacts=(captured.artifact,))
    provider.distribute(registered, {"version": "3"}, baking.teardown)
    provider.start(f"{baking.id}-verify", "base", captured.artifact, baking.teardown, baking.settings)
    left = provider.leftovers()
    assert {resource.kind for resource in left} >= {"instance", "capture"}
    for resource in sorted(left, key=order_of_removal):
        provider.remove(resource)
    assert provider.leftovers() == []


def order_of_removal(resource: Resource) -> int:
    return ("instance", "security-group", "capture").index(resource.kind)


# --- configurations ---------------------------------------------------------------------------------------


def everything(lab: Lab) -> dict[str, Any]:
    """An [aws] table with all that needs rights of its own. The account has what it names."""
    ec2, iam = lab.client("ec2"), lab.client("iam")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    ec2.create_tags(Resources=[vpc, subnet], Tags=[{"Key": "Name", "Value": "builds"}])
    iam.create_instance_profile(InstanceProfileName="builder")
    return make_table(
        lab,
        regions=[OTHER_REGION],
        kms_keys={OTHER_REGION: "alias/images"},
        spot=True,
        vpc={"Name": "builds"},
        subnet={"Name": "builds"},
        instance_profile="builder",
        root_volume={"size": 10, "kms_key": KEY},
        volumes=[{"device": "/dev/sdf", "size": 4}],
        share_accounts=["111122223333", "444455556666"],
        share_organizations=["arn:aws:organizations::111122223333:organization/o-abcdefghij"],
        public=True,
        deprecate_after="90d",
        parameters="/golden",
        ssh_timeout="1s",
        role=f"arn:aws:iam::{ACCOUNT}:role/baker",
        external_id="images",
    )


def minimal(lab: Lab) -> dict[str, Any]:
    return make_table(lab, parameters="", ssh_timeout="1s")


FROM_PARAMETER = {"ssm": f"{PARAMETER}/{{deb_arch}}"}


@pytest.mark.parametrize(
    ("configure", "query"),
    [(minimal, NEWEST), (everything, FROM_PARAMETER)],
    ids=["minimal", "everything"],
)
def test_the_policy_is_what_baker_calls_and_no_action_more(
    lab: Lab, tmp_path: Path, configure: Any, query: Mapping[str, str]
) -> None:
    table = configure(lab)
    project = write_project(tmp_path / "project", table, query)
    provider = AwsProvider(tmp_path / "home", table, project=project, actor="ann")

    do_everything(lab, provider, query)

    statements = print_policy(project)
    assert lab.permissions() == list_actions(statements)
    for call in lab.calls:
        assert_fits(call, statements)


def test_with_security_groups_of_ones_own_none_may_be_made_opened_or_deleted(
    lab: Lab, tmp_path: Path
) -> None:
    group = lab.client("ec2").create_security_group(GroupName="ours", Description="x")["GroupId"]
    lab.client("ec2").authorize_security_group_ingress(
        GroupId=group, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="127.0.0.1/32"
    )
    table = {**minimal(lab), "security_groups": [group]}
    project = write_project(tmp_path / "project", table, NEWEST)
    provider = AwsProvider(tmp_path / "home", table, project=project, actor="ann")

    do_everything(lab, provider, NEWEST)

    actions = list_actions(print_policy(project))
    assert lab.permissions() == actions
    assert [action for action in actions if action.endswith(("SecurityGroup", "Ingress"))] == []


# --- whether one call is covered --------------------------------------------------------------------------


def assert_fits(call: Call, statements: list[Mapping[str, Any]]) -> None:
    """The statements of its action allow its region, the tags that it gives and what they ask of a launch."""
    mine = [one for one in statements if f"{call.service}:{call.action}" in one["Action"]]
    if not mine:
        assert call.action == "GetCallerIdentity"
        return
    regions = {region for one in mine for region in regions_of(one)}
    assert "" in regions or call.region in regions, call
    for statement in mine:
        if "aws:RequestTag/baker:bake" in statement.get("Condition", {}).get("Null", {}):
            kinds = {arn.split(":")[5].split("/")[0] for arn in statement["Resource"]}
            if "InstanceMarketOptions" not in call.params:
                kinds -= {"spot-instances-request"}
            assert kinds <= tagged_kinds(call), call
    if call.action == "RunInstances":
        asked = next(one for one in mine if one["Sid"] == "LaunchInstance")["Condition"]["StringEquals"]
        assert call.params["InstanceType"] in asked["ec2:InstanceType"]
        assert call.params["MetadataOptions"]["HttpTokens"] == asked["ec2:MetadataHttpTokens"]


def regions_of(statement: Mapping[str, Any]) -> set[str]:
    """Where a statement holds; "" for everywhere (IAM and STS know no regions)."""
    requested = statement.get("Condition", {}).get("StringEquals", {}).get("aws:RequestedRegion")
    if requested is not None:
        return set(requested)
    return {arn.split(":")[3] for arn in statement["Resource"]}


def tagged_kinds(call: Call) -> set[str]:
    """The kinds of things that a call marks as baker's."""
    return {
        specification["ResourceType"]
        for specification in call.params.get("TagSpecifications", ())
        if any(tag["Key"] == "baker:bake" for tag in specification["Tags"])
    }
