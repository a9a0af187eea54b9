"""How long a stage may take, how often a bake is tried again, and after which pauses.

What a recipe says goes over [bake] of baker.toml.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from baker.errors import StageTimeout
from baker.model import Recipe, Stage
from baker.recipes.reading import parse_duration

RETRIES = 2
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 300.0


def find_limit(stage: Stage, recipe: Recipe, table: Mapping[str, Any]) -> tuple[float, StageTimeout] | None:
    """Seconds, and the error when they are over; None where nothing limits the stage.

    ``table`` is [bake] of baker.toml. Only a launch that takes too long is tried again: the next machine may
    come up. A recipe that hangs, or a test, would hang again.
    """
    common = table.get("limits", {})
    if stage in recipe.limits:
        seconds, where, file = recipe.limits[stage], recipe.name, f"{recipe.name}'s recipe.toml"
    elif stage in common:
        seconds, where, file = parse_duration(common[stage]), "[bake]", "[bake] of baker.toml"
    else:
        return None
    return seconds, StageTimeout(
        f"{stage} took longer than {show_duration(seconds)} (limits.{stage} of {where})",
        hint=f"If it needs more time, raise limits.{stage} in {file}.",
        passing=stage is Stage.LAUNCH,
    )


def find_retries(recipe: Recipe, table: Mapping[str, Any]) -> int:
    """How often a bake of the recipe is tried again; ``table`` is [bake] of baker.toml."""
    return int(table.get("retries", RETRIES) if recipe.retries is None else recipe.retries)


def choose_pause(tries: int) -> float:
    """Seconds between the ``tries``-th try of a bake and the next: 5, 10, 20 … and some more by chance.

    So bakes that failed together do not come back together.
    """
    return min(FIRST_PAUSE_SECONDS * 2.0 ** (tries - 1), LONGEST_PAUSE_SECONDS) * random.uniform(1.0, 1.5)


def show_duration(seconds: float) -> str:
    """As it would be written: ``90s``, ``5m``, ``2h``."""
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:g}s"
