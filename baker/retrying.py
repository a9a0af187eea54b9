"""Trying again what failed for a passing reason: no way to an archive, no capacity, a machine taken back."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import TypeVar

from baker.errors import BakerError
from baker.kitchen import Bake
from baker.progress import Note
from baker.teardown import describe_resource
from baker.time_limits import find_retries

Made = TypeVar("Made")

REASON_LENGTH = 300
"""Characters of an error in the line that says that it is tried again."""


def retried(bake: Bake, work: Callable[[], Made]) -> Made:
    """What ``work`` makes. What fails for a passing reason is tried again, each time after a longer pause,
    until the bake's retries are used up.

    Before that, whatever the last try made is removed. Raises its error where something cannot be (the bake
    ends, and names it), and Interrupted at once when the bake is to end.
    """
    retries = find_retries(bake.recipe, bake.kitchen.settings.bake)
    while True:
        try:
            return work()
        except BakerError as error:
            if not error.passing or bake.attempts > retries:
                raise
            bake.kitchen.interruption.check()  # breaking it off may be all that failed
            start_over(bake, error)
            seconds = bake.kitchen.choose_pause(bake.attempts)
            reason = textwrap.shorten(str(error), REASON_LENGTH, placeholder=" …")
            said = f"{reason}; trying again in {seconds:.0f} s, {bake.attempts} of {retries}"
        bake.log.write(said)
        bake.kitchen.show(Note(text=f"{bake.recipe.name}: {said}"))
        bake.kitchen.interruption.pause(seconds)
        bake.attempts += 1


def start_over(bake: Bake, error: BakerError) -> None:
    """Remove what was made so far. Raises ``error`` if something stays."""
    bake.log.write(f"failed for a passing reason: {error}")
    bake.machine = None
    bake.standby.close()  # breaking off may have killed what is in it
    for resource in reversed(bake.teardown.resources):
        try:
            bake.teardown.undo(resource)
        except (BakerError, OSError) as failure:
            bake.log.write(f"not removed: {describe_resource(resource)}: {failure}")
            raise error from failure
