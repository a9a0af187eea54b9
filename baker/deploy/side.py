"""A side: the machines of one release, described so that any of them can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baker.deploy.environment import Health
from baker.model import Artifact


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstBoot:
    """What a machine's first boot is rendered from. ``text`` is the template's; ``secrets`` are values, so
    this is never shown, logged or written into the catalog."""

    template: str
    text: str
    data: Mapping[str, Any]
    secrets: Mapping[str, str]
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineFacts:
    """What a first boot template may say of its machine, as ``machine``.

    Where a provider knows it only once the machine runs, a value is an expression that cloud-init fills in
    there (then ``filled_in_there``, and the user data begins with ``## template: jinja``).
    """

    name: str
    hostname: str
    number: int
    role: str
    address: str
    filled_in_there: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """All that a fleet needs to make the machines of one release, and to make one of them again.

    ``number`` counts the releases of an environment; ``release`` is its id, ``image`` its reference
    (``web:12``). ``settings`` are the target's, as the environment has them.
    """

    environment: str
    number: int
    release: str
    image: str
    artifact: Artifact
    port: int
    health: Health
    drain: float
    batch: int
    settings: Mapping[str, Any]
    first_boot: FirstBoot | None = None

    @property
    def name(self) -> str:
        """``demo-3``: machines are ``demo-3-1``, ``demo-3-2`` …"""
        return f"{self.environment}-{self.number}"


def find_role(roles: tuple[str, ...], number: int) -> str:
    """The role of a side's machine; they count from 1. Empty where there are no roles."""
    return roles[min(number, len(roles)) - 1] if roles else ""


def tell_facts(target: str, environment: str, name: str, roles: tuple[str, ...]) -> MachineFacts:
    """What the first boot of a machine of this name (``3-1``) is told of it.

    At AWS all machines of a side are told the same, whatever they are called: cloud-init fills in there what
    differs.
    """
    if target == "aws":
        return MachineFacts(
            name="{{ v1.instance_id }}",
            hostname="{{ v1.local_hostname }}",
            number=1,
            role=find_role(roles, 1),
            address="{{ ds.meta_data.local_ipv4 }}",
            filled_in_there=True,
        )
    number = int(name.rpartition("-")[2])
    return MachineFacts(
        name=name,
        hostname=f"{environment}-{name}",
        number=number,
        role=find_role(roles, number),
        address="127.0.0.1",
    )
