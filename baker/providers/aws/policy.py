"""The IAM policy for what is configured: every action that baker calls, each as narrow as IAM can say it.

What baker makes is tagged ``baker:bake`` by the call that makes it; only what has that tag may be changed and
removed. Which resources and conditions an action knows is from AWS's Service Authorization Reference (2026),
what EBS needs of a key from its guide ("Requirements for Amazon EBS encryption"). Needs no boto3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from baker.providers.aws.policy_scope import Condition, Need, Scope, Statement, allow, allow_each, having

MAX_CHARACTERS = 6144
"""What IAM takes as one managed policy, not counting white space."""
MAX_INLINE = 10240
"""What it takes as inline policies of one role."""

TAGGED: Condition = {"Null": {"aws:RequestTag/baker:bake": "false"}}
"""For what a call makes."""
OURS: Condition = {"Null": {"aws:ResourceTag/baker:bake": "false"}}
"""For what is there."""

OWN_WORDS = ("amazon", "aws-marketplace")
USE_KEYS = (
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)


def build_policy(scope: Scope) -> dict[str, Any]:
    """The policy as IAM's JSON. ``scope`` has at least one need."""
    statements = [
        _look(scope),
        *_launch(scope),
        *_launch_from(scope),
        *_launch_into(scope),
        *_groups(scope),
        *_images(scope),
        *_change(scope),
        *_tags(scope),
        *_keys(scope),
        *_parameters(scope),
        *_roles(scope),
    ]
    return {"Version": "2012-10-17", "Statement": statements}


def count_characters(policy: Mapping[str, Any]) -> int:
    """As IAM counts them."""
    return len(json.dumps(policy, separators=(",", ":")))


def explain_policy(scope: Scope, policy: Mapping[str, Any]) -> list[str]:
    """What whoever attaches it has to know."""
    notes = []
    size = count_characters(policy)
    if size > MAX_CHARACTERS:
        notes.append(
            f"It has {size} characters, and IAM takes {MAX_CHARACTERS} as a managed policy: put it into the "
            f"role itself (inline, {MAX_INLINE}), or divide its statements over two policies in any order."
        )
    if scope.account == "*":
        notes.append("It names no account: --account ID narrows it to one.")
    if profiles := sorted({need.options.instance_profile or "" for need in scope.needs} - {""}):
        notes.append(
            f"PassRole takes it that the role of the instance profile {', '.join(profiles)} has its name: "
            "change the statement if it has not."
        )
    if scope.role:
        notes.append(
            f"AssumeRole is for whoever assumes {scope.role}; the other statements are for that role itself."
        )
    if any(need.options.spot for need in scope.needs):
        notes.append(
            "An account that never had a spot instance needs, once: "
            "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com"
        )
    return notes


# --- looking ----------------------------------------------------------------------------------------------


def _look(scope: Scope) -> Statement:
    """Describing knows no resources: the region is all that can be said."""
    actions = [
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:DescribeLaunchConfigurations",
        "ec2:DescribeImages",
        "ec2:DescribeInstances",
        "ec2:DescribeLaunchTemplateVersions",
        "ec2:DescribeLaunchTemplates",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSnapshots",
    ]
    networks = [need.options for need in scope.needs]
    if any(options.subnet is not None or options.vpc is not None for options in networks):
        actions.append("ec2:DescribeSubnets")
    if any(isinstance(options.vpc, Mapping) for options in networks):
        actions.append("ec2:DescribeVpcs")
    return allow("Look", actions, ["*"], {"StringEquals": {"aws:RequestedRegion": scope.everywhere}})


# --- launching --------------------------------------------------------------------------------------------


def _launch(scope: Scope) -> Iterator[Statement]:
    """What a launch makes. A key pair or a snapshot is never named in one."""
    types = dict.fromkeys(name for need in scope.needs for name in need.options.instance_types)
    yield allow(
        "LaunchInstance",
        ["ec2:RunInstances"],
        scope.ec2(scope.baking, "instance"),
        {
            **TAGGED,
            "StringEquals": {"ec2:InstanceType": list(types), "ec2:MetadataHttpTokens": "required"},
        },
    )
    spot = ["spot-instances-request"] if any(need.options.spot for need in scope.needs) else []
    made = scope.ec2(scope.baking, "network-interface", "volume", *spot)
    yield allow("LaunchParts", ["ec2:RunInstances"], made, TAGGED)


def _launch_from(scope: Scope) -> Iterator[Statement]:
    """The AMIs: the sources, and our own, which are verified and which children start from."""
    own = (
        ["image"]
        if all(need.options.security_groups for need in scope.needs)
        else ["image", "security-group"]
    )
    yield allow("LaunchOwn", ["ec2:RunInstances"], scope.ec2(scope.baking, *own), OURS)
    images: list[tuple[str, Condition]] = []
    owners: dict[str, list[str]] = {}
    for need in scope.needs:
        if need.query is None:
            continue
        owner = scope.account if need.query.get("owner") == "self" else need.query.get("owner", "*")
        if "id" in need.query:
            images.append((scope.ec2_one(need.region, "image", need.query["id"]), {}))
        elif owner == "*":
            images.append((scope.ec2_one(need.region, "image", "*"), {}))
        else:
            # EC2 knows the publishers that it has verified (Debian, Canonical) as "amazon".
            owners.setdefault(need.region, []).extend([owner] if owner in OWN_WORDS else [owner, "amazon"])
    for region, known in owners.items():
        condition = {"StringEquals": {"ec2:Owner": sorted(set(known))}}
        images.append((scope.ec2_one(region, "image", "*"), condition))
    yield from allow_each("LaunchFrom", ["ec2:RunInstances"], images)


def _launch_into(scope: Scope) -> Iterator[Statement]:
    subnets: list[tuple[str, Condition]] = []
    groups: list[tuple[str, Condition]] = []
    for need in scope.needs:
        options, region = need.options, need.region
        condition: dict[str, dict[str, str]] = {}
        if isinstance(options.vpc, str):
            condition["ArnEquals"] = {"ec2:Vpc": scope.ec2_one(region, "vpc", options.vpc)}
        if isinstance(options.subnet, Mapping) and options.subnet:
            condition["StringEquals"] = having(options.subnet)
        subnet = options.subnet if isinstance(options.subnet, str) else "*"
        subnets.append((scope.ec2_one(region, "subnet", subnet), {} if subnet != "*" else condition))
        groups += [(scope.ec2_one(region, "security-group", group), {}) for group in options.security_groups]
    yield from allow_each("LaunchInto", ["ec2:RunInstances"], [*subnets, *groups])


# --- what is made, and what becomes of it -----------------------------------------------------------------


def _groups(scope: Scope) -> Iterator[Statement]:
    grouped = [need for need in scope.needs if not need.options.security_groups]
    if not grouped:
        return
    regions = dict.fromkeys(need.region for need in grouped)
    yield allow("MakeGroup", ["ec2:CreateSecurityGroup"], scope.ec2(regions, "security-group"), TAGGED)
    vpcs: list[tuple[str, Condition]] = []
    for need in grouped:
        vpc = need.options.vpc
        condition = {"StringEquals": having(vpc)} if isinstance(vpc, Mapping) and vpc else {}
        vpcs.append((scope.ec2_one(need.region, "vpc", vpc if isinstance(vpc, str) else "*"), condition))
    yield from allow_each("MakeGroupIn", ["ec2:CreateSecurityGroup"], vpcs)


def _images(scope: Scope) -> Iterator[Statement]:
    made = scope.ec2(scope.baking, "image", "snapshot")
    yield allow("MakeImage", ["ec2:CreateImage"], made, TAGGED)
    yield allow("MakeImageOf", ["ec2:CreateImage"], scope.ec2(scope.baking, "instance"), OURS)
    if scope.copying:
        yield allow("CopyImage", ["ec2:CopyImage"], scope.ec2(scope.copying, "image", "snapshot"), TAGGED)
        # CopyImage does not know the tags of what it copies.
        known = {} if scope.account == "*" else {"StringEquals": {"ec2:Owner": scope.account}}
        sources = dict.fromkeys(need.region for need in scope.needs if need.copies)
        yield allow("CopyFrom", ["ec2:CopyImage"], scope.ec2(sources, "image"), known)


def _change(scope: Scope) -> Iterator[Statement]:
    """One statement for all: each of these actions knows but one kind of thing."""
    distributions = [need.options.distribution for need in scope.needs]
    actions = [
        "ec2:DeleteSnapshot",
        "ec2:DeregisterImage",
        "ec2:GetConsoleOutput",
        "ec2:ModifyImageAttribute",
        "ec2:StopInstances",
        "ec2:TerminateInstances",
    ]
    kinds = ["instance"]
    if any(not need.options.security_groups for need in scope.needs):
        actions += ["ec2:AuthorizeSecurityGroupIngress", "ec2:DeleteSecurityGroup"]
        kinds.append("security-group")
    if any(wanted.deprecate_after for wanted in distributions):
        actions.append("ec2:EnableImageDeprecation")
    regions = dict.fromkeys([*scope.baking, *scope.further])
    changed = [*scope.ec2(regions, *kinds), *scope.ec2(scope.everywhere, "image", "snapshot")]
    yield allow("ChangeOwn", sorted(actions), changed, OURS)
    if accounts := dict.fromkeys(account for wanted in distributions for account in wanted.accounts):
        yield allow(
            "ShareSnapshot",
            ["ec2:ModifySnapshotAttribute"],
            scope.ec2(scope.holding, "snapshot"),
            {
                "Null": {**OURS["Null"], "ec2:Add/group": "true"},
                "ForAllValues:StringEquals": {"ec2:Add/userId": list(accounts)},
            },
        )


def _tags(scope: Scope) -> Iterator[Statement]:
    """Tags are written by the call that makes a thing; later, only on our own images."""
    makers = ["CopyImage"] if scope.copying else []
    makers += ["CreateImage", "RunInstances"]
    kinds = ["instance", "network-interface", "volume"]
    kinds += ["spot-instances-request"] if any(need.options.spot for need in scope.needs) else []
    if any(not need.options.security_groups for need in scope.needs):
        makers.append("CreateSecurityGroup")
        kinds.append("security-group")
    made = [*scope.ec2(scope.baking, *kinds), *scope.ec2(scope.holding, "image", "snapshot")]
    yield allow(
        "TagWhatIsMade", ["ec2:CreateTags"], made, {"StringEquals": {"ec2:CreateAction": sorted(makers)}}
    )
    images = scope.ec2(scope.holding, "image", "snapshot")
    yield allow("TagImage", ["ec2:CreateTags"], images, OURS)


# --- keys, parameters, roles ------------------------------------------------------------------------------


def _keys(scope: Scope) -> Iterator[Statement]:
    """Used by EC2 for us, never by us. No alias can be a resource of a policy: it is a condition."""
    via = {"StringLike": {"kms:ViaService": f"ec2.*.{scope.domain}"}}
    use: list[tuple[str, Condition]] = []
    grant: list[tuple[str, Condition]] = []
    for region, key in dict.fromkeys(pair for need in scope.needs for pair in _list_keys(need)):
        resource, alias = _name_key(scope, region, key)
        named = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias}} if alias else {}
        use.append((resource, {**via, **named}))
        grant.append((resource, {**via, "Bool": {"kms:GrantIsForAWSResource": "true"}, **named}))
    yield from allow_each("UseKey", USE_KEYS, use)
    yield from allow_each("GrantKey", ["kms:CreateGrant"], grant)


def _list_keys(need: Need) -> Iterator[tuple[str, str]]:
    root = [need.options.root_volume] if need.options.root_volume else []
    for disk in (*root, *need.options.volumes):
        if disk.kms_key:
            yield need.region, disk.kms_key
    for region, key in need.options.distribution.kms_keys.items():
        if region in need.copies:
            yield region, key


def _name_key(scope: Scope, region: str, key: str) -> tuple[str, str | None]:
    """The ARN of a key that is named by its ARN, its id or an alias, and the alias."""
    beginning, _, name = key.rpartition(":")
    beginning = beginning or scope.arn("kms", region, "")[:-1]
    if name.startswith("alias/"):
        return f"{beginning}:key/*", name
    return f"{beginning}:key/{name.removeprefix('key/')}", None


def _parameters(scope: Scope) -> Iterator[Statement]:
    prefixes = dict.fromkeys(need.options.distribution.parameters for need in scope.needs)
    kept = [
        scope.arn("ssm", region, f"parameter{prefix}/*")
        for prefix in prefixes
        if prefix
        for region in scope.holding
    ]
    if kept:
        yield allow("KeepParameter", ["ssm:GetParameter", "ssm:PutParameter", "ssm:DeleteParameter"], kept)
    read = dict.fromkeys(
        # AWS's own public parameters are in no account.
        scope.arn("ssm", need.region, f"parameter{name}", "" if name.startswith("/aws/") else None)
        for need in scope.needs
        if (name := (need.query or {}).get("ssm"))
    )
    if read:
        yield allow("ReadParameter", ["ssm:GetParameter"], list(read))


def _roles(scope: Scope) -> Iterator[Statement]:
    roles = dict.fromkeys(
        _name_role(scope, need.options.instance_profile)
        for need in scope.needs
        if need.options.instance_profile
    )
    if roles:
        to = {"StringEquals": {"iam:PassedToService": f"ec2.{scope.domain}"}}
        yield allow("PassRole", ["iam:PassRole"], list(roles), to)
    if scope.role:
        yield allow("AssumeRole", ["sts:AssumeRole"], [scope.role])


def _name_role(scope: Scope, profile: str) -> str:
    """The role of an instance profile, named as the profile is: nothing else can be known without a call."""
    if profile.startswith("arn:"):
        return profile.replace(":instance-profile/", ":role/", 1)
    return scope.arn("iam", "", f"role/{profile}")
