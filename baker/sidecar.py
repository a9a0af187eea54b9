"""What an artifact tells of its builds, so that a lost catalog can be restored from the artifacts.

A provider keeps ``describe_build``'s JSON with the artifact when it distributes a build. What an artifact
does not tell: the states, labels and leases of images, channels and their history, bakes and their logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from baker.model import Artifact, Build, Image, Provenance

UNKNOWN = "unknown"
MOMENTS = ("started", "finished")


@dataclass(frozen=True, kw_only=True, slots=True)
class Issue:
    """One version that a build was distributed with, when, and what makes that version complete.

    ``wanted`` are targets with architectures; empty where nobody wrote it down. ``preview`` is the channel
    that it was baked for, if it is not to become ``latest``.
    """

    version: int
    at: datetime
    wanted: tuple[tuple[str, str], ...] = ()
    preview: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar:
    """A build as its artifact tells of it. ``missing`` names what the artifact does not say."""

    build: Build
    issues: tuple[Issue, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """An artifact that cannot be made sense of."""

    artifact: str
    reason: str


def describe_build(build: Build) -> dict[str, Any]:
    """JSON of everything about a build but its artifacts and contents."""
    described = {**asdict(build), "created": build.created.isoformat()}
    del described["artifacts"]
    for name in MOMENTS:
        described["provenance"][name] = described["provenance"][name].isoformat()
    return described


def parse_build(described: Mapping[str, Any], artifact: Artifact) -> Build:
    """The inverse. Raises KeyError, TypeError or ValueError for what is not one."""
    provenance = dict(described["provenance"])
    for name in MOMENTS:
        provenance[name] = datetime.fromisoformat(provenance[name])
    values = {
        **described,
        "created": datetime.fromisoformat(described["created"]),
        "provenance": Provenance(**provenance),
    }
    return Build(**values, artifacts=(artifact,))


def describe_issue(labels: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """JSON of the version in ``labels``, distributed now."""
    described = {"at": now.isoformat(), "wanted": labels.get("wanted", "").split()}
    return described | ({"preview": labels["preview"]} if "preview" in labels else {})


def parse_issue(version: str, described: Mapping[str, Any]) -> Issue:
    """The inverse. Raises KeyError, TypeError or ValueError for what is not one."""
    wanted = tuple(
        (target, arch) for target, _, arch in (text.partition("/") for text in described["wanted"])
    )
    at = datetime.fromisoformat(described["at"])
    return Issue(version=int(version), at=at, wanted=wanted, preview=described.get("preview"))


def format_wanted(places: list[tuple[str, str]]) -> str:
    """The label ``wanted``: what makes a version complete."""
    return " ".join(sorted(f"{target}/{arch}" for target, arch in places))


def label_image(image: Image, bake_id: str, wanted: str) -> dict[str, str]:
    """What an artifact carries of its image; ``wanted`` as ``format_wanted`` has it, empty if not known."""
    labels = {"recipe": image.recipe, "version": str(image.version), "bake": bake_id, "wanted": wanted}
    return labels | ({"preview": image.preview} if image.preview is not None else {})


def made_at(bake_id: str) -> datetime:
    """The time that a bake's id begins with. Raises ValueError for what is no id."""
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    number = 0
    for character in bake_id[:10]:
        number = number << 5 | alphabet.index(character)
    return datetime.fromtimestamp(number / 1000, UTC)
