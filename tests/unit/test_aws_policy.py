"""The IAM policy allows what is configured, as narrowly as IAM can say it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from baker.providers.aws.policy import MAX_CHARACTERS, build_policy, count_characters, explain_policy
from baker.providers.aws.policy_scope import Scope, list_needs

REGION, OTHER = "eu-west-1", "eu-central-1"
ACCOUNT = "123456789012"
DEBIAN = {"owner": "136693071363", "name": "debian-13-{deb_arch}-*"}
OURS = {"aws:ResourceTag/baker:bake": "false"}
TAGGED = {"aws:RequestTag/baker:bake": "false"}
KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"


def make_scope(
    *recipes: Mapping[str, Any],
    query: Mapping[str, str] | None = DEBIAN,
    region: str = REGION,
    **changes: Any,
) -> Scope:
    """Of recipes with these settings, all with the same source."""
    needs = [need for settings in recipes or ({},) for need in list_needs(settings, query, region)]
    return Scope(**{"needs": needs, "account": ACCOUNT, **changes})


def statements_of(scope: Scope, action: str = "") -> list[Mapping[str, Any]]:
    return [one for one in build_policy(scope)["Statement"] if action in one["Action"] or not action]


def statement_of(scope: Scope, sid: str) -> Mapping[str, Any]:
    [found] = [one for one in build_policy(scope)["Statement"] if one["Sid"] == sid]
    return dict(found)


def actions_of(scope: Scope) -> set[str]:
    return {action for one in statements_of(scope) for action in one["Action"]}


def resources_of(scope: Scope, action: str) -> set[str]:
    return {resource for one in statements_of(scope, action) for resource in one["Resource"]}


EVERYTHING: dict[str, Any] = {
    "regions": [OTHER],
    "kms_keys": {OTHER: "alias/images"},
    "spot": True,
    "vpc": {"Name": "builds"},
    "subnet": {"Name": "builds"},
    "instance_profile": "builder",
    "root_volume": {"kms_key": KEY},
    "share_accounts": ["111122223333"],
    "deprecate_after": "90d",
}


# --- the whole --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["minimal", "everything"])
def test_every_statement_is_one_that_iam_takes(settings: Mapping[str, Any]) -> None:
    policy = json.loads(json.dumps(build_policy(make_scope(settings, {}))))

    assert policy["Version"] == "2012-10-17"
    sids = [one["Sid"] for one in policy["Statement"]]
    assert len(sids) == len(set(sids))
    for one in policy["Statement"]:
        assert re.fullmatch(r"[A-Za-z0-9]+", one["Sid"])
        assert one["Effect"] == "Allow"
        assert one["Action"]
        assert one["Resource"]
        assert all(re.fullmatch(r"[a-z0-9]+:[A-Za-z]+", action) for action in one["Action"])


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["minimal", "everything"])
def test_only_what_describes_is_allowed_on_everything(settings: Mapping[str, Any]) -> None:
    for one in statements_of(make_scope(settings)):
        if "*" in one["Resource"]:
            assert all(":Describe" in action for action in one["Action"])
            regions = [REGION, *settings.get("regions", ())]
            assert one["Condition"] == {"StringEquals": {"aws:RequestedRegion": regions}}


CHANGING = ("Stop", "Terminate", "Deregister", "Delete", "Modify", "Enable", "Authorize", "GetConsole")


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["minimal", "everything"])
def test_nothing_may_be_changed_that_baker_did_not_make(settings: Mapping[str, Any]) -> None:
    changing = [
        one
        for one in statements_of(make_scope(settings))
        if any(action.partition(":")[2].startswith(CHANGING) for action in one["Action"])
        and one["Sid"] != "KeepParameter"  # which are baker's by their names; see below
    ]
    assert changing
    for one in changing:
        assert one["Condition"]["Null"].items() >= OURS.items()


@pytest.mark.parametrize(
    ("action", "kinds"),
    [
        ("ec2:RunInstances", {"instance", "volume", "network-interface", "spot-instances-request"}),
        ("ec2:CreateSecurityGroup", {"security-group"}),
        ("ec2:CreateImage", {"image", "snapshot"}),
        ("ec2:CopyImage", {"image", "snapshot"}),
    ],
)
def test_what_is_made_has_to_be_tagged_by_the_call(action: str, kinds: set[str]) -> None:
    tagged = [
        one for one in statements_of(make_scope(EVERYTHING), action) if one["Condition"].get("Null") == TAGGED
    ]
    assert {arn.split(":")[5] for one in tagged for arn in one["Resource"]} == {f"{kind}/*" for kind in kinds}


def test_tags_are_written_by_calls_that_make_things_or_on_bakers_own_images() -> None:
    on_making, on_own = statements_of(make_scope({"security_groups": ["sg-1"]}), "ec2:CreateTags")

    assert on_making["Condition"] == {"StringEquals": {"ec2:CreateAction": ["CreateImage", "RunInstances"]}}
    assert not any("security-group" in arn for arn in on_making["Resource"])
    assert on_own["Condition"] == {"Null": OURS}
    assert on_own["Resource"] == [f"arn:aws:ec2:{REGION}::image/*", f"arn:aws:ec2:{REGION}::snapshot/*"]


def test_no_launch_is_allowed_that_is_not_as_baker_launches() -> None:
    asked = statement_of(make_scope({"instance_type": "m7i.large"}), "LaunchInstance")["Condition"]

    assert asked == {
        "Null": TAGGED,
        "StringEquals": {"ec2:InstanceType": ["m7i.large"], "ec2:MetadataHttpTokens": "required"},
    }


def test_no_launch_may_name_a_key_pair_or_a_snapshot() -> None:
    launched = resources_of(make_scope(EVERYTHING), "ec2:RunInstances")
    assert not [arn for arn in launched if "key-pair" in arn or "snapshot" in arn]


# --- features ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "actions"),
    [
        ({"regions": [OTHER]}, {"ec2:CopyImage"}),
        ({"regions": [REGION]}, set()),
        ({"deprecate_after": "90d"}, {"ec2:EnableImageDeprecation"}),
        ({"share_accounts": ["111122223333"]}, {"ec2:ModifySnapshotAttribute"}),
        ({"share_ous": ["arn:aws:organizations::111122223333:ou/o-abcdefghij/ou-1"]}, set()),
        ({"subnet": "subnet-1"}, {"ec2:DescribeSubnets"}),
        ({"vpc": "vpc-1"}, {"ec2:DescribeSubnets"}),
        ({"vpc": {"Name": "builds"}}, {"ec2:DescribeSubnets", "ec2:DescribeVpcs"}),
        ({"instance_profile": "builder"}, {"iam:PassRole"}),
        ({"spot": True}, set()),
        ({"public": True}, set()),
    ],
)
def test_a_feature_that_is_off_brings_no_action(settings: Mapping[str, Any], actions: set[str]) -> None:
    assert actions_of(make_scope(settings)) - actions_of(make_scope({})) == actions
    assert actions_of(make_scope({})) <= actions_of(make_scope(settings))


def test_groups_of_ones_own_are_the_only_ones_to_launch_behind_and_no_other_is_made() -> None:
    scope = make_scope({"security_groups": ["sg-1", "sg-2"]})

    assert {arn for arn in resources_of(scope, "ec2:RunInstances") if "security-group" in arn} == {
        f"arn:aws:ec2:{REGION}:{ACCOUNT}:security-group/{group}" for group in ("sg-1", "sg-2")
    }
    assert not {action for action in actions_of(scope) if action.endswith(("SecurityGroup", "Ingress"))}


def test_without_groups_of_ones_own_only_those_of_bakes_are_launched_behind() -> None:
    own = statement_of(make_scope({}), "LaunchOwn")
    assert f"arn:aws:ec2:{REGION}:{ACCOUNT}:security-group/*" in own["Resource"]
    assert own["Condition"] == {"Null": OURS}


@pytest.mark.parametrize(
    ("settings", "resource", "condition"),
    [
        ({}, "subnet/*", None),
        ({"subnet": "subnet-1", "vpc": "vpc-1"}, "subnet/subnet-1", None),
        ({"subnet": {"Name": "a"}}, "subnet/*", {"StringEquals": {"aws:ResourceTag/Name": "a"}}),
        (
            {"vpc": "vpc-1"},
            "subnet/*",
            {"ArnEquals": {"ec2:Vpc": f"arn:aws:ec2:{REGION}:{ACCOUNT}:vpc/vpc-1"}},
        ),
    ],
)
def test_instances_go_into_the_configured_subnets(
    settings: Mapping[str, Any], resource: str, condition: Any
) -> None:
    into = statement_of(make_scope(settings), "LaunchInto")
    assert into["Resource"] == [f"arn:aws:ec2:{REGION}:{ACCOUNT}:{resource}"]
    assert into.get("Condition") == condition


@pytest.mark.parametrize(
    ("vpc", "resource", "condition"),
    [
        (None, "vpc/*", None),
        ("vpc-1", "vpc/vpc-1", None),
        ({"Name": "a"}, "vpc/*", {"StringEquals": {"aws:ResourceTag/Name": "a"}}),
    ],
)
def test_groups_are_made_in_the_configured_vpc(vpc: Any, resource: str, condition: Any) -> None:
    made = statement_of(make_scope({"vpc": vpc} if vpc else {}), "MakeGroupIn")
    assert made["Resource"] == [f"arn:aws:ec2:{REGION}:{ACCOUNT}:{resource}"]
    assert made.get("Condition") == condition


def test_snapshots_are_shared_with_the_configured_accounts_and_never_made_public() -> None:
    shared = statement_of(make_scope({"share_accounts": ["111122223333"]}), "ShareSnapshot")
    assert shared["Condition"] == {
        "Null": {**OURS, "ec2:Add/group": "true"},
        "ForAllValues:StringEquals": {"ec2:Add/userId": ["111122223333"]},
    }


# --- sources ----------------------------------------------------------------------------------------------


def list_sources(scope: Scope) -> list[tuple[list[str], Any]]:
    statements = [one for one in statements_of(scope) if one["Sid"].startswith("LaunchFrom")]
    return [(one["Resource"], one.get("Condition")) for one in statements]


def owned_by(*owners: str) -> Any:
    return {"StringEquals": {"ec2:Owner": list(owners)}}


IMAGES = f"arn:aws:ec2:{REGION}::image/"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"id": "ami-0123456789abcdef0"}, [([f"{IMAGES}ami-0123456789abcdef0"], None)]),
        (DEBIAN, [([f"{IMAGES}*"], owned_by("136693071363", "amazon"))]),
        ({**DEBIAN, "owner": "amazon"}, [([f"{IMAGES}*"], owned_by("amazon"))]),
        ({**DEBIAN, "owner": "self"}, [([f"{IMAGES}*"], owned_by(ACCOUNT, "amazon"))]),
        ({"ssm": "/aws/service/x"}, [([f"{IMAGES}*"], None)]),
        (None, []),
    ],
)
def test_instances_start_from_the_sources(query: Any, expected: Any) -> None:
    assert list_sources(make_scope(query=query)) == expected
    assert statement_of(make_scope(query=query), "LaunchOwn")["Condition"] == {"Null": OURS}


def test_ones_own_images_of_an_unknown_account_cannot_be_told_from_others() -> None:
    scope = make_scope(query={**DEBIAN, "owner": "self"}, account="*")
    assert list_sources(scope) == [([f"{IMAGES}*"], None)]


def test_a_source_that_any_other_covers_is_not_listed_besides() -> None:
    pinned = make_scope(query={"id": "ami-0123456789abcdef0"}).needs
    anything = make_scope(query={"ssm": "/ours/{arch}"}).needs
    scope = make_scope(needs=[*pinned, *anything])
    assert list_sources(scope) == [([f"{IMAGES}*"], None)]


def test_parameters_of_sources_may_be_read_for_every_architecture() -> None:
    both = {"archs": ["x86_64", "arm64"]}

    public = statement_of(make_scope(both, query={"ssm": "/aws/service/{deb_arch}"}), "ReadParameter")
    own = statement_of(make_scope(both, query={"ssm": "/ours/{arch}"}), "ReadParameter")

    beginning = f"arn:aws:ssm:{REGION}:"
    assert public["Resource"] == [f"{beginning}:parameter/aws/service/{arch}" for arch in ("amd64", "arm64")]
    assert own["Resource"] == [f"{beginning}{ACCOUNT}:parameter/ours/{arch}" for arch in ("x86_64", "arm64")]
    assert own["Action"] == ["ssm:GetParameter"]


# --- keys, parameters, roles ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "resource", "alias"),
    [
        (KEY, f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{KEY}", None),
        (
            f"arn:aws:kms:{REGION}:999988887777:key/{KEY}",
            f"arn:aws:kms:{REGION}:999988887777:key/{KEY}",
            None,
        ),
        ("alias/x", f"arn:aws:kms:{REGION}:{ACCOUNT}:key/*", "alias/x"),
        (f"arn:aws:kms:{REGION}:999988887777:alias/x", f"arn:aws:kms:{REGION}:999988887777:key/*", "alias/x"),
    ],
)
def test_keys_are_used_by_ec2_alone_and_granted_to_aws_alone(
    key: str, resource: str, alias: str | None
) -> None:
    scope = make_scope({"volumes": [{"device": "/dev/sdf", "size": 1, "kms_key": key}]})
    named = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias}} if alias else {}
    via = {"StringLike": {"kms:ViaService": "ec2.*.amazonaws.com"}}

    assert statement_of(scope, "UseKey")["Resource"] == [resource]
    assert statement_of(scope, "UseKey")["Condition"] == {**via, **named}
    grant = statement_of(scope, "GrantKey")
    assert (grant["Action"], grant["Resource"]) == (["kms:CreateGrant"], [resource])
    assert grant["Condition"] == {**via, "Bool": {"kms:GrantIsForAWSResource": "true"}, **named}


def test_keys_of_regions_without_a_copy_are_not_used() -> None:
    keys = {REGION: "a", OTHER: "b", "us-east-1": "c"}
    scope = make_scope({"kms_keys": keys, "regions": [REGION, OTHER]})
    assert resources_of(scope, "kms:Decrypt") == {f"arn:aws:kms:{OTHER}:{ACCOUNT}:key/b"}


def test_parameters_are_kept_below_the_prefix_in_every_region_that_has_an_image() -> None:
    scope = make_scope({"regions": [OTHER], "parameters": "/golden/images"})
    kept = {f"arn:aws:ssm:{region}:{ACCOUNT}:parameter/golden/images/*" for region in (REGION, OTHER)}
    assert resources_of(scope, "ssm:PutParameter") == resources_of(scope, "ssm:DeleteParameter") == kept
    assert "ssm:PutParameter" not in actions_of(make_scope({"parameters": ""}))
    assert resources_of(make_scope({}), "ssm:PutParameter") == {
        f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/baker/*"
    }


@pytest.mark.parametrize(
    ("profile", "role"),
    [
        ("builder", f"arn:aws:iam::{ACCOUNT}:role/builder"),
        (
            "arn:aws:iam::999988887777:instance-profile/ci/builder",
            "arn:aws:iam::999988887777:role/ci/builder",
        ),
    ],
)
def test_the_role_of_the_instance_profile_is_passed_to_ec2_alone(profile: str, role: str) -> None:
    passed = statement_of(make_scope({"instance_profile": profile}), "PassRole")
    assert passed["Resource"] == [role]
    assert passed["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}


def test_the_configured_role_may_be_assumed() -> None:
    role = f"arn:aws:iam::{ACCOUNT}:role/baker"
    assert statement_of(make_scope(role=role), "AssumeRole")["Resource"] == [role]
    assert "sts:AssumeRole" not in actions_of(make_scope())


# --- where ------------------------------------------------------------------------------------------------


def regions_named(scope: Scope) -> set[str]:
    return set(re.findall(r"[a-z]{2}-(?:gov-)?[a-z]+-[0-9]", json.dumps(build_policy(scope))))


def test_no_region_is_named_that_no_recipe_uses() -> None:
    assert regions_named(make_scope({}, {"regions": [OTHER]}, {"region": "us-east-1"})) == {
        REGION,
        OTHER,
        "us-east-1",
    }


def test_images_in_a_region_of_former_times_can_be_found_and_removed_but_not_made() -> None:
    scope = make_scope(further=["us-east-1"])

    looked = statement_of(scope, "Look")["Condition"]["StringEquals"]["aws:RequestedRegion"]
    assert looked == [REGION, "us-east-1"]
    assert "arn:aws:ec2:us-east-1::snapshot/*" in resources_of(scope, "ec2:DeleteSnapshot")
    assert f"arn:aws:ec2:us-east-1:{ACCOUNT}:instance/*" in resources_of(scope, "ec2:TerminateInstances")
    for action in ("ec2:RunInstances", "ec2:CreateImage", "ec2:CreateTags", "ssm:PutParameter"):
        assert not [arn for arn in resources_of(scope, action) if "us-east-1" in arn]


@pytest.mark.parametrize(
    ("region", "partition", "domain"),
    [
        ("cn-north-1", "aws-cn", "amazonaws.com.cn"),
        ("us-gov-west-1", "aws-us-gov", "amazonaws.com"),
    ],
)
def test_other_partitions_have_their_own_names(region: str, partition: str, domain: str) -> None:
    scope = make_scope({"instance_profile": "builder", "root_volume": {"kms_key": KEY}}, region=region)

    assert set(re.findall(r"arn:([a-z-]+):", json.dumps(build_policy(scope)))) == {partition}
    passed = statement_of(scope, "PassRole")["Condition"]["StringEquals"]["iam:PassedToService"]
    assert passed == f"ec2.{domain}"
    used = statement_of(scope, "UseKey")["Condition"]["StringLike"]["kms:ViaService"]
    assert used == f"ec2.*.{domain}"


def test_without_an_account_every_arn_is_of_any() -> None:
    assert resources_of(make_scope(account="*"), "ec2:CreateSecurityGroup") == {
        f"arn:aws:ec2:{REGION}:*:security-group/*",
        f"arn:aws:ec2:{REGION}:*:vpc/*",
    }


# --- notes ------------------------------------------------------------------------------------------------


def notes_of(scope: Scope) -> str:
    return "\n".join(explain_policy(scope, build_policy(scope)))


def test_a_policy_that_iam_takes_as_it_is_needs_no_word() -> None:
    assert notes_of(make_scope()) == ""


def test_a_policy_too_large_for_iam_is_told_with_what_to_do() -> None:
    regions = ["us-east-1", "us-west-2", "ap-south-1", "ap-east-1", "sa-east-1"]
    large = make_scope({**EVERYTHING, "regions": regions})

    size = count_characters(build_policy(large))
    assert size > MAX_CHARACTERS
    assert f"It has {size} characters, and IAM takes 6144 as a managed policy" in notes_of(large)
    assert count_characters(build_policy(make_scope())) < MAX_CHARACTERS


def test_what_cannot_be_known_is_said() -> None:
    told = notes_of(
        make_scope(
            {"instance_profile": "builder", "spot": True}, account="*", role="arn:aws:iam::1:role/baker"
        )
    )
    assert "--account ID" in told
    assert "the role of the instance profile builder has its name" in told
    assert "AssumeRole is for whoever assumes arn:aws:iam::1:role/baker" in told
    assert "create-service-linked-role --aws-service-name spot.amazonaws.com" in told


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    recipe = tmp_path / "recipes" / "base"
    recipe.mkdir(parents=True)
    recipe.joinpath("deploy.py").write_text("")
    tmp_path.joinpath("baker.toml").write_text(f'[aws]\nregion = "{REGION}"\n')
    recipe.joinpath("recipe.toml").write_text(
        'description = "x"\n[targets.aws]\nspot = true\n'
        'from = { owner = "136693071363", name = "debian-13-*" }\n'
    )
    return tmp_path


def run(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    baker = Path(sys.executable).with_name("baker")
    known = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "BAKER_"))}
    return subprocess.run(
        [baker, "--project", project, "aws", *arguments],
        capture_output=True,
        text=True,
        env={**known, **environment},
    )


def test_the_policy_is_the_result_and_notes_are_not(project: Path) -> None:
    done = run(project, "policy", "--account", ACCOUNT)

    assert done.returncode == 0
    assert json.loads(done.stdout) == build_policy(make_scope({"spot": True}))
    assert "spot.amazonaws.com" in done.stderr


def test_variables_and_the_configured_role_count(project: Path) -> None:
    role = "arn:aws:iam::999988887777:role/baker"
    done = run(project, "policy", BAKER_AWS_ROLE=role, BAKER_AWS_INSTANCE_TYPE="m7i.large")

    assert "arn:aws:ec2:eu-west-1:999988887777:instance/*" in done.stdout
    assert '"m7i.large"' in done.stdout
    assert "t3.small" not in done.stdout
    assert role in done.stdout


def test_the_region_may_come_from_boto3s_variable(project: Path) -> None:
    project.joinpath("baker.toml").write_text("[aws]\n")

    assert "no AWS region is set" in run(project, "policy").stderr
    assert "arn:aws:ec2:us-east-1:" in run(project, "policy", AWS_DEFAULT_REGION="us-east-1").stdout


@pytest.mark.parametrize(
    ("settings", "targets", "arguments", "said"),
    [
        ("", '[targets.aws]\nfrom = { id = "ami-01234567" }\n', [], "the target aws is not configured"),
        ("[aws]\n", 'from = "debian:trixie"\n[targets.local]\n', [], "none has the target aws"),
        (
            "[aws]\n",
            '[targets.aws]\nfrom = { id = "ami-01234567" }\n',
            ["--account", "me"],
            "--account takes the 12 digits of an account, not me",
        ),
    ],
)
def test_what_keeps_a_policy_from_being_written_is_explained(
    project: Path, settings: str, targets: str, arguments: list[str], said: str
) -> None:
    project.joinpath("baker.toml").write_text(settings)
    project.joinpath("recipes/base/recipe.toml").write_text(f'description = "x"\n{targets}')

    done = run(project, "policy", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_the_noun_alone_shows_its_verbs(project: Path) -> None:
    done = run(project)
    assert "policy" in done.stdout + done.stderr
    assert "Usage: baker aws" in done.stdout + done.stderr


def test_writing_a_policy_imports_no_boto3() -> None:
    script = (
        "import sys; from baker.cli import make_app; make_app(['aws']);"
        "import baker.providers.aws.policy; print(' '.join(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"boto3", "botocore", "paramiko"} & set(loaded.stdout.split())
