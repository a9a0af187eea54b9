"""What a command tells while it works, as frozen values. ``console.py`` shows them, nothing else does."""

from __future__ import annotations

from dataclasses import dataclass

from baker.comparing import ManifestDifference
from baker.configurer.events import Event
from baker.model import BakeResult, Build, Image, Reason, Stage
from baker.teardown import LeftBehind


@dataclass(frozen=True, kw_only=True, slots=True)
class BakeStarted:
    bake: str
    recipe: str
    target: str
    arch: str
    reasons: tuple[Reason, ...]
    log: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StageStarted:
    bake: str
    recipe: str
    stage: Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class StageEnded:
    """``detail`` says in a few words what the stage came to; ``failed`` stages have ended as well."""

    bake: str
    recipe: str
    stage: Stage
    seconds: float
    failed: bool
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeEvent:
    """Something happened while the recipe was applied, or while its image tests ran."""

    bake: str
    recipe: str
    event: Event


@dataclass(frozen=True, kw_only=True, slots=True)
class BakeEnded:
    """``image`` and ``build`` are set on success; ``previous`` and ``difference`` if there was one before."""

    result: BakeResult
    image: Image | None = None
    build: Build | None = None
    previous: str | None = None
    difference: ManifestDifference | None = None
    left_behind: tuple[LeftBehind, ...] = ()
    kept: str | None = None
    log: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """One line that the user should see."""

    text: str


def count(number: int, thing: str) -> str:
    """``1 operation``, ``2 operations``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


Progress = BakeStarted | StageStarted | StageEnded | RecipeEvent | BakeEnded | Note
