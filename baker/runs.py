"""A run: one command that bakes, with how everything ended that it was asked for."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from baker.plan import Node


class RunOutcome(enum.StrEnum):
    """How a run ended, as the catalog keeps it."""

    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """``kind`` is the command: bake or nightly. ``project`` is the project's folder on ``host``.

    ``results`` are those so far. While ``outcome`` is None it runs, or its process died.
    """

    id: str
    kind: str
    project: str
    actor: str
    host: str
    pid: int
    started: datetime
    finished: datetime | None
    outcome: str | None
    options: Mapping[str, Any]
    results: Mapping[Node, Mapping[str, Any]]
    report: Mapping[str, Any] | None
