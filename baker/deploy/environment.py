"""An environment as its file says: which image, on which machines, and how one release replaces another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from baker.model import Reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What a machine must answer: ``path`` with ``status``, or ``command`` (run in the machine) with 0.

    Looked at every ``interval`` seconds; no answer within ``timeout`` seconds is a failure. A new machine has
    ``within`` seconds to become healthy. Exactly one of ``path`` and ``command`` is set.
    """

    path: str | None = "/"
    status: int = 200
    command: tuple[str, ...] | None = None
    interval: float = 1.0
    timeout: float = 2.0
    within: float = 120.0

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Health:
        """What ``dataclasses.asdict`` made of one, as it comes back."""
        command = kept["command"]
        return cls(**{**kept, "command": None if command is None else tuple(command)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """How a release replaces the one before. Times are seconds.

    ``batch`` machines are started at once. All of them must be healthy for ``soak``, then traffic moves in
    ``steps`` (percent, ascending, the last one 100), each watched for ``watch``. The old side is kept for
    ``window``; one that goes has ``drain`` to finish the requests that it has.
    """

    batch: int = 4
    soak: float = 5.0
    watch: float = 10.0
    steps: tuple[int, ...] = (100,)
    window: float = 1800.0
    drain: float = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstBootFile:
    """What is said of a machine's first boot: a Jinja2 ``template`` (from the project's root), its ``data``,
    the names of ``secrets``, and ``roles`` by machine (the last one for all that follow)."""

    template: str
    data: Mapping[str, Any] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """A validated ``environments/NAME.toml``. ``file`` is relative to the project.

    ``image`` is what is deployed if a command names nothing else. ``settings`` is the table of the
    ``target``, over what baker.toml says of that target. ``allow`` are globs of paths that may change while a
    machine serves, ``allow_ports`` ports that may be listened on, beyond what the recipe allows.
    """

    name: str
    file: str
    description: str
    recipe: str
    image: Reference
    target: str
    machines: int
    port: int
    health: Health
    rollout: Rollout
    first_boot: FirstBootFile | None
    settings: Mapping[str, Any]
    allow: Sequence[str] = ()
    allow_ports: Sequence[int] = ()
