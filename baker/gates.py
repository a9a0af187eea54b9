"""Gates: what must be true of an image before a channel moves to it. Pure rules.

A gate comes from ``[channels.NAME]`` in baker.toml, from what the catalog keeps (``channel protect``), or
from both: then the stricter of the two holds in every point.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from baker.ages import parse_age, show_age
from baker.errors import GateError, UsageError
from baker.model import Image

TESTS = "tests"
NO_REVOKED_ANCESTOR = "no-revoked-ancestor"
LABEL = "label:"
LABEL_KEY = r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?"
REQUIREMENT = rf"^({TESTS}|{NO_REVOKED_ANCESTOR}|{LABEL}{LABEL_KEY}(=[^\n]+)?)$"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """``after``: channels that must hold the image, or have held it, and for how many seconds at least.

    ``require``: see ``REQUIREMENT``. ``only``: who may move the channel; None means everybody.
    """

    after: Mapping[str, int] = field(default_factory=dict)
    require: frozenset[str] = frozenset()
    only: frozenset[str] | None = None

    @property
    def empty(self) -> bool:
        return not self.after and not self.require and self.only is None

    @property
    def for_way_back(self) -> Gate:
        """The part that is asked of what a channel held before: it has been through the channels before."""
        return Gate(require=self.require, only=self.only)


OPEN = Gate()
"""Lets everything through."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """One thing that a gate misses, and what to do about it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}. {self.remedy}"


def join_gates(gates: Sequence[Gate]) -> Gate:
    """What lets through only what each of them lets through."""
    after: dict[str, int] = {}
    for gate in gates:
        for channel, soak in gate.after.items():
            after[channel] = max(soak, after.get(channel, 0))
    allowed = [gate.only for gate in gates if gate.only is not None]
    return Gate(
        after=after,
        require=frozenset().union(*(gate.require for gate in gates)),
        only=frozenset.intersection(*allowed) if allowed else None,
    )


def find_missing(gate: Gate, image: Image, held: Mapping[str, float]) -> tuple[Missing, ...]:
    """Everything that an image lacks to pass, in a fixed order; empty: it passes.

    ``held`` gives, per channel that ever held the image, for how many seconds it did without a break and
    without being revoked. Who moves it is not asked here: see ``require_actor``.
    """
    stays = [_check_stay(channel, soak, image, held) for channel, soak in sorted(gate.after.items())]
    requirements = [_check_requirement(requirement, image) for requirement in sorted(gate.require)]
    return tuple(missing for missing in (*stays, *requirements) if missing is not None)


def _check_stay(channel: str, soak: int, image: Image, held: Mapping[str, float]) -> Missing | None:
    seconds = held.get(channel)
    if seconds is None:
        return Missing(
            what=f"{channel} never held it", remedy=f"Promote it: baker promote {image.reference} {channel}"
        )
    if seconds >= soak:
        return None
    what = f"{channel} held it for {show_age(seconds)}, and {show_age(soak)} are asked"
    if channel in image.channels:
        return Missing(what=what, remedy=f"Try it again in {show_age(soak - seconds + 1)}")
    return Missing(
        what=what, remedy=f"Promote it there again, and wait: baker promote {image.reference} {channel}"
    )


def _check_requirement(requirement: str, image: Image) -> Missing | None:
    if requirement == TESTS:
        untested = [f"{build.target}/{build.arch}" for build in image.builds if not build.image_tests]
        if image.builds and not untested:
            return None
        return Missing(
            what=f"no image tests passed on {', '.join(untested) or 'any build of it'}",
            remedy=f"Write recipes/{image.recipe}/test_image.py, then: baker bake {image.recipe}",
        )
    if requirement == NO_REVOKED_ANCESTOR:
        if not image.revoked_ancestors:
            return None
        return Missing(
            what=f"it is built upon {', '.join(image.revoked_ancestors)}, which is revoked",
            remedy=f"Bake it upon another one: baker bake {image.recipe}",
        )
    key, _, value = requirement.removeprefix(LABEL).partition("=")
    has = image.labels.get(key)
    if has and value in ("", has):
        return None
    wanted = f"{key}={value or '…'}"
    return Missing(
        what=f"its label {key} is {has}, not {value}" if has else f"it has no label {wanted}",
        remedy=f"Whoever may say so: baker image label {image.reference} {wanted}",
    )


def refuse(image: Image, channel: str, missing: Sequence[Missing]) -> GateError:
    """What is said where a gate does not let an image through."""
    lines = "".join(f"\n  - {part}" for part in missing)
    return GateError(
        f"the gate of {image.recipe}:{channel} does not let {image.reference} through:{lines}",
        hint='Nothing was moved. To move it all the same, on the record: --override "REASON"',
    )


def require_actor(gate: Gate, channel: str, actor: str) -> None:
    """Raises UsageError for somebody who may not move the channel. Nothing overrides this."""
    if gate.only is not None and actor not in gate.only:
        allowed = ", ".join(sorted(gate.only)) or "nobody: its protections name nobody in common"
        raise UsageError(
            f"{actor} may not move {channel}: it is protected, and moved only by {allowed}",
            hint="Ask one of them. See what protects it: baker channel ls",
        )


# --- as text --------------------------------------------------------------------------------------------


def check_requirement(requirement: str) -> str:
    """Raises UsageError for one that no gate knows."""
    if not re.match(REQUIREMENT, requirement):
        raise UsageError(
            f"{requirement!r} is nothing that a gate can require",
            hint=f"It can require {TESTS}, {NO_REVOKED_ANCESTOR}, {LABEL}KEY or {LABEL}KEY=VALUE.",
        )
    return requirement


def read_gate(table: Mapping[str, Any]) -> Gate:
    """The gate of a ``[channels.NAME]`` table, whose form settings.py has checked."""
    soak = parse_age(table.get("soak", "0m"))
    after = {table["after"]: soak} if "after" in table else {}
    return Gate(after=after, require=frozenset(table.get("require", ())))


def gate_rules(gate: Gate) -> dict[str, Any]:
    """A gate as JSON; what it does not ask is left out."""
    rules: dict[str, Any] = {}
    if gate.after:
        rules["after"] = dict(sorted(gate.after.items()))
    if gate.require:
        rules["require"] = sorted(gate.require)
    if gate.only is not None:
        rules["only"] = sorted(gate.only)
    return rules


def parse_rules(rules: Mapping[str, Any]) -> Gate:
    """What ``gate_rules`` wrote."""
    return Gate(
        after=dict(rules.get("after", {})),
        require=frozenset(rules.get("require", ())),
        only=frozenset(rules["only"]) if "only" in rules else None,
    )


def describe_gate(gate: Gate) -> str:
    """In one line."""
    parts = [
        f"after {channel}" + (f" for {show_age(soak)}" if soak else "")
        for channel, soak in sorted(gate.after.items())
    ]
    parts += sorted(gate.require)
    if gate.only is not None:
        parts.append(f"only by {', '.join(sorted(gate.only)) or 'nobody'}")
    return ", ".join(parts)
