"""What everything that baker makes at AWS is called and tagged with, so that it is found again.

========================  ==================================================================================
``baker:bake``            the id of the bake that made it
``baker:recipe``
``baker:store``           which BAKER_HOME baked (``identity.store_name``): it can tell whether the bake lives
``baker:actor``
``baker:deadline``        after this time (ISO 8601, UTC) nothing of the bake can be alive
``baker:machine``         of an instance: BAKE or BAKE-verify
========================  ==================================================================================

An AMI of a finished build also has what ``sidecars`` reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from baker.model import Resource

BAKE_ID_LENGTH = 26
TAG_VALUE_LENGTH = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """The tags of all that one bake makes. ``extra`` are the configured ones, for cost reports."""

    bake: str
    recipe: str
    store: str
    actor: str
    deadline: datetime
    extra: Mapping[str, str]

    @classmethod
    def of(
        cls, machine: str, recipe: str, *, store: str, actor: str, seconds: float, extra: Mapping[str, str]
    ) -> Marks:
        """``machine`` is a bake's id, perhaps with something after it."""
        deadline = datetime.now(UTC) + timedelta(seconds=seconds)
        return cls(
            bake=bake_of(machine), recipe=recipe, store=store, actor=actor, deadline=deadline, extra=extra
        )

    def tags(self, **more: str) -> list[dict[str, str]]:
        """As EC2 takes them; ``more`` are further ``baker:`` tags, ``Name`` is its own."""
        own = {
            "baker:bake": self.bake,
            "baker:recipe": self.recipe,
            "baker:store": self.store,
            "baker:actor": self.actor,
            "baker:deadline": self.deadline.isoformat(timespec="seconds"),
        }
        named = {key if key == "Name" else f"baker:{key}": value for key, value in more.items()}
        return write_tags({**self.extra, **own, **named})

    def specifications(self, *kinds: str, **more: str) -> list[dict[str, Any]]:
        """``TagSpecifications`` of a call that makes these kinds of things."""
        return [{"ResourceType": kind, "Tags": self.tags(**more)} for kind in kinds]

    def resource(self, kind: str, machine: str, region: str) -> Resource:
        """For the ledger."""
        details = {"bake": self.bake, "store": self.store, "deadline": self.deadline.isoformat()}
        return Resource(provider="aws", kind=kind, id=machine, place=region, details=details)


def bake_of(machine: str) -> str:
    return machine[:BAKE_ID_LENGTH]


def group_name(bake: str) -> str:
    return f"baker-{bake}"


def image_name(recipe: str, bake: str) -> str:
    return f"{recipe}-{bake}"


def write_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value[:TAG_VALUE_LENGTH]} for key, value in tags.items() if value]


def read_tags(described: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a thing as an answer of EC2 describes it."""
    tags: Iterable[Mapping[str, str]] = described.get("Tags") or ()
    return {tag["Key"]: tag["Value"] for tag in tags}


def tag_filter(key: str, *values: str) -> dict[str, Any]:
    return {"Name": f"tag:{key}", "Values": list(values)}
