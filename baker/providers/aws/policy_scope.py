"""What an IAM policy is written from: what recipes need, in which regions and account; ARNs, statements."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baker.providers.aws.options import DEB_ARCH, Options, read_archs, read_options

Condition = Mapping[str, Mapping[str, Any]]
Statement = Mapping[str, Any]

WITHOUT_ACCOUNT = ("image", "snapshot")
"""EC2's ARNs of these name no account."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """One recipe for one architecture. ``query`` finds its source's AMI, placeholders filled in; None where
    it starts from another recipe's."""

    region: str
    options: Options
    query: Mapping[str, str] | None

    @property
    def copies(self) -> list[str]:
        return [region for region in self.options.distribution.regions if region != self.region]


def list_needs(settings: Mapping[str, Any], query: Mapping[str, str] | None, region: str) -> Iterator[Need]:
    """Those of one recipe, by architecture. ``region`` is the one to bake in unless ``settings`` name one.

    Raises SettingsError.
    """
    for arch in read_archs(settings):
        known = {"arch": arch, "deb_arch": DEB_ARCH[arch]}
        filled = query and {
            key: value.format_map(known) if key in ("name", "ssm") else value for key, value in query.items()
        }
        yield Need(
            region=str(settings.get("region") or region), options=read_options(settings, arch), query=filled
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """What all is needed for, and where. ``account`` is ``*`` where it is not known; ``further`` are regions
    in which images are that no recipe goes to any more."""

    needs: Sequence[Need]
    account: str = "*"
    role: str | None = None
    further: Sequence[str] = ()

    @property
    def baking(self) -> list[str]:
        return list(dict.fromkeys(need.region for need in self.needs))

    @property
    def copying(self) -> list[str]:
        return list(dict.fromkeys(region for need in self.needs for region in need.copies))

    @property
    def holding(self) -> list[str]:
        return list(dict.fromkeys([*self.baking, *self.copying]))

    @property
    def everywhere(self) -> list[str]:
        return list(dict.fromkeys([*self.holding, *self.further]))

    @property
    def partition(self) -> str:
        return partition_of(self.baking[0])

    @property
    def domain(self) -> str:
        return "amazonaws.com.cn" if self.partition == "aws-cn" else "amazonaws.com"

    def arn(self, service: str, region: str, resource: str, account: str | None = None) -> str:
        owner = self.account if account is None else account
        return f"arn:{self.partition}:{service}:{region}:{owner}:{resource}"

    def ec2(self, regions: Iterable[str], *kinds: str) -> list[str]:
        """All things of these kinds in these regions."""
        return [self.ec2_one(region, kind, "*") for kind in kinds for region in regions]

    def ec2_one(self, region: str, kind: str, name: str) -> str:
        return self.arn("ec2", region, f"{kind}/{name}", "" if kind in WITHOUT_ACCOUNT else None)


def partition_of(region: str) -> str:
    for beginning, partition in (("cn-", "aws-cn"), ("us-gov-", "aws-us-gov"), ("eusc-", "aws-eusc")):
        if region.startswith(beginning):
            return partition
    return "aws"


# --- statements -------------------------------------------------------------------------------------------


def having(tags: Mapping[str, str]) -> dict[str, str]:
    return {f"aws:ResourceTag/{key}": value for key, value in tags.items()}


def allow(
    sid: str, actions: Sequence[str], resources: Sequence[str], condition: Condition | None = None
) -> Statement:
    statement = {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": list(resources)}
    return {**statement, "Condition": condition} if condition else statement


def allow_each(
    sid: str, actions: Sequence[str], wanted: Iterable[tuple[str, Condition]]
) -> Iterator[Statement]:
    """Resources with a condition each: those of one condition in one statement, none that another covers."""
    pairs = list(wanted)
    free = {resource for resource, condition in pairs if not condition}
    grouped: dict[str, dict[str, None]] = {}
    for resource, condition in pairs:
        wider = free - {resource} if not condition else free
        if not any(fnmatch.fnmatchcase(resource, pattern) for pattern in wider):
            grouped.setdefault(json.dumps(condition), {})[resource] = None
    for number, (told, resources) in enumerate(grouped.items(), start=1):
        name = sid if number == 1 else f"{sid}{number}"
        yield allow(name, actions, list(resources), json.loads(told))
