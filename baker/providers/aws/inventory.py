"""Everything of ours at AWS, found by tags: what bakes left, and what AMIs tell of their builds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from baker.model import Artifact, Build, Provenance, Resource
from baker.providers.aws.images import AmiImage
from baker.providers.aws.naming import read_tags
from baker.providers.aws.session import AwsSession
from baker.sidecar import UNKNOWN, Issue, Sidecar, Unreadable, made_at, parse_issue

MARKED = {"Name": "tag-key", "Values": ["baker:bake"]}
MAX_ISSUES = 6
"""Versions that an AMI tells: a tag holds 256 characters."""

NOT_IN_TAGS = ("packages", "files", "inputs", "image tests")


# --- what bakes left --------------------------------------------------------------------------------------


def list_leftovers(aws: AwsSession, region: str) -> Iterator[Resource]:
    """Everything of bakes in a region; an AMI with its snapshots is one thing. Raises CloudError."""
    yield from list_own(aws, region)
    known: set[str] = set()
    for one in aws.pages(
        "ec2", region, "describe_images", "Images", Owners=["self"], Filters=[MARKED], IncludeDeprecated=True
    ):
        known.add(read_tags(one)["baker:bake"])
        yield _describe("capture", read_tags(one), region)
    for one in aws.pages(
        "ec2", region, "describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=[MARKED]
    ):
        tags = read_tags(one)
        if tags["baker:bake"] not in known:  # of an AMI that is gone, or never came to be
            known.add(tags["baker:bake"])
            yield _describe("capture", tags, region)


def list_own(aws: AwsSession, region: str) -> Iterator[Resource]:
    """The temporary ones: instances that have not ended, and security groups."""
    states = {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}
    for reservation in aws.pages(
        "ec2", region, "describe_instances", "Reservations", Filters=[MARKED, states]
    ):
        for one in reservation["Instances"]:
            tags = read_tags(one)
            yield _describe("instance", tags, region, tags.get("baker:machine"))
    for one in aws.pages("ec2", region, "describe_security_groups", "SecurityGroups", Filters=[MARKED]):
        yield _describe("security-group", read_tags(one), region)


def _describe(kind: str, tags: Mapping[str, str], region: str, name: str | None = None) -> Resource:
    bake = tags["baker:bake"]
    details = {"bake": bake, "store": tags.get("baker:store", ""), "deadline": tags.get("baker:deadline", "")}
    return Resource(provider="aws", kind=kind, id=name or bake, place=region, details=details)


# --- what AMIs tell ---------------------------------------------------------------------------------------


def describe_build_tags(build: Build, labels: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """The tags of the AMIs of a build that is distributed: enough to restore it into a lost catalog.

    ``before`` are the tags that are there; earlier versions with the same build stay known by them.
    """
    origin = build.provenance
    version = labels["version"]
    issues = dict(text.partition("=")[::2] for text in before.get("baker:issues", "").split())
    issues.setdefault(version, datetime.now(tz=build.created.tzinfo).isoformat(timespec="seconds"))
    newest = sorted(issues, key=int)[-MAX_ISSUES:]
    previews = dict(text.partition("=")[::2] for text in before.get("baker:previews", "").split())
    if "preview" in labels:
        previews[version] = labels["preview"]
    told = " ".join(f"{number}={previews[number]}" for number in newest if number in previews)
    return {
        **({"baker:previews": told} if told or "baker:previews" in before else {}),
        "Name": f"{build.recipe}:{newest[-1]}",
        "baker:version": newest[-1],
        "baker:issues": " ".join(f"{number}={issues[number]}" for number in newest),
        "baker:wanted": labels.get("wanted", "") or before.get("baker:wanted", ""),
        "baker:digest": build.digest,
        "baker:fingerprint": build.fingerprint,
        "baker:created": build.created.isoformat(),
        "baker:source": origin.source,
        "baker:source-digest": origin.source_digest,
        "baker:parent": origin.parent_build or "",
        "baker:commit": origin.commit or "",
        "baker:host": origin.host,
        "baker:tools": " ".join(f"{name}={version}" for name, version in sorted(origin.tools.items())),
    }


def list_sidecars(aws: AwsSession, regions: Iterable[str]) -> Iterator[Sidecar | Unreadable]:
    """The builds that AMIs tell of, each with its AMIs in all these regions. Raises CloudError."""
    found: dict[str, list[tuple[str, AmiImage]]] = {}
    for region in regions:
        for one in aws.pages(
            "ec2",
            region,
            "describe_images",
            "Images",
            Owners=["self"],
            Filters=[MARKED],
            IncludeDeprecated=True,
        ):
            image = AmiImage.of(one)
            if "baker:issues" in image.tags:  # else it was never distributed
                found.setdefault(image.tags["baker:bake"], []).append((region, image))
    for places in found.values():
        try:
            yield _read_build(places)
        except (KeyError, ValueError) as error:
            yield Unreadable(artifact=places[0][1].id, reason=f"its tags tell no build: {error}")


def _read_build(places: list[tuple[str, AmiImage]]) -> Sidecar:
    image = places[0][1]
    tags = image.tags
    bake = tags["baker:bake"]
    tools: dict[str, Any] = dict(text.partition("=")[::2] for text in tags.get("baker:tools", "").split())
    created = datetime.fromisoformat(tags["baker:created"])
    provenance = Provenance(
        source=tags.get("baker:source", UNKNOWN),
        source_digest=tags.get("baker:source-digest", UNKNOWN),
        inputs={},
        commit=tags.get("baker:commit"),
        dirty=None,
        actor=tags.get("baker:actor", UNKNOWN),
        host=tags.get("baker:host", UNKNOWN),
        started=made_at(bake),
        finished=created,
        tools=tools,
        parent_build=tags.get("baker:parent"),
    )
    build = Build(
        id=bake,
        recipe=tags["baker:recipe"],
        target="aws",
        arch=image.arch,
        fingerprint=tags["baker:fingerprint"],
        digest=tags["baker:digest"],
        size_bytes=image.size_bytes,
        provenance=provenance,
        artifacts=tuple(describe_artifact(region, found) for region, found in places),
        created=created,
    )
    wanted = tags.get("baker:wanted", "").split()
    previews = dict(text.partition("=")[::2] for text in tags.get("baker:previews", "").split())
    issues: tuple[Issue, ...] = tuple(
        parse_issue(version, {"at": at, "wanted": wanted, "preview": previews.get(version)})
        for version, _, at in (text.partition("=") for text in tags["baker:issues"].split())
    )
    return Sidecar(build=build, issues=issues, missing=NOT_IN_TAGS)


def describe_artifact(region: str, image: AmiImage, **details: Any) -> Artifact:
    """An AMI as the catalog keeps it."""
    known = {
        "name": image.name,
        "bake": image.tags["baker:bake"],
        "owner": image.owner,
        "snapshots": list(image.snapshots),
    }
    user = {"ssh_user": image.tags["baker:ssh-user"]} if "baker:ssh-user" in image.tags else {}
    return Artifact(
        id=image.id,
        target="aws",
        arch=image.arch,
        kind="ami",
        store=region,
        size_bytes=image.size_bytes,
        details={**known, **user, **details},
    )
