"""What deployments make at AWS is called and tagged so; all of it is found again by name or tag.

===========================  =============================================================================
launch template              ``baker-ENV``; one version per release, made first of all and deleted last: what
                             is left of a release is left of its version
target group                 ``baker-ENV-N-DIGEST``, of at most 32 characters
Auto Scaling group           ``baker-ENV-N``
listener rule                has no name: by its tags
``baker:environment``        on everything
``baker:number``             the release's number; on what belongs to one
``baker:release``            its id
``baker:store``              which BAKER_HOME made it (``identity.store_name``)
``baker:image``              ``web:12``
``baker:host-key``           of an instance: the public SSH host key that its user data gave it
``baker:ssh-user``           of an instance: who logs in
``baker:drain``              of a group: how many seconds its machines may take to finish
``baker:listener``           of a launch template: where its environment is served
``baker:replacing``          of a group: how many machines it is meant to have while some are replaced
===========================  =============================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from baker.deploy.side import Side
from baker.providers.aws.naming import write_tags

ENVIRONMENT = "baker:environment"
STORE = "baker:store"
RELEASE = "baker:release"
HOST_KEY = "baker:host-key"
SSH_USER = "baker:ssh-user"
DRAIN = "baker:drain"
LISTENER = "baker:listener"
REPLACING = "baker:replacing"


def template_name(environment: str) -> str:
    return f"baker-{environment}"


def group_name(environment: str, number: int) -> str:
    return f"baker-{environment}-{number}"


def group_number(environment: str, name: str) -> int | None:
    """The release whose group is called so; None for the name of something else."""
    _, _, number = name.rpartition("-")
    return int(number) if number.isdecimal() and group_name(environment, int(number)) == name else None


def target_group_name(environment: str, number: int) -> str:
    digest = hashlib.sha256(group_name(environment, number).encode()).hexdigest()[:8]
    return f"baker-{environment[:9].rstrip('-')}-{number}-{digest}"


def target_group_number(environment: str, arn: str) -> int | None:
    """The release whose target group has this ARN (``…:targetgroup/NAME/ID``); None for another's."""
    name = arn.split("/")[1] if arn.count("/") == 2 else ""
    number = name.split("-")[-2] if name.count("-") >= 2 else ""
    return int(number) if number.isdecimal() and target_group_name(environment, int(number)) == name else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """The tags of what one release, or an environment as a whole, has at AWS. ``extra`` are configured."""

    environment: str
    store: str
    actor: str
    side: Side | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def values(self, **more: str) -> dict[str, str]:
        """``more`` are further ``baker:`` tags, with _ for -; ``Name`` is its own."""
        own = {ENVIRONMENT: self.environment, STORE: self.store, "baker:actor": self.actor}
        if self.side is not None:
            own |= {
                "baker:number": str(self.side.number),
                RELEASE: self.side.release,
                "baker:image": self.side.image,
            }
        named = {
            key if key == "Name" else f"baker:{key.replace('_', '-')}": value for key, value in more.items()
        }
        return {**self.extra, **own, **named}

    def tags(self, **more: str) -> list[dict[str, str]]:
        return write_tags(self.values(**more))

    def group_tags(self, group: str, **more: str) -> list[dict[str, Any]]:
        """As Auto Scaling takes them; its instances get them too."""
        common = {
            "ResourceId": group,
            "ResourceType": "auto-scaling-group",
            "PropagateAtLaunch": True,
        }
        return [{**tag, **common} for tag in self.tags(**more)]
