"""How a bake ends: torn down or kept for a look, written down, and described."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from baker import identity
from baker.errors import BakerError, CatalogError, Interrupted
from baker.kitchen import Bake
from baker.log import pack_log
from baker.model import BakeResult, Build, Image, Outcome, Stage
from baker.plan import Action, describe_reasons
from baker.progress import BakeEnded
from baker.sweep import KEPT
from baker.teardown import MACHINES, LeftBehind, describe_resource


def finish(bake: Bake, image: Image | None, error: BakerError | None) -> BakeEnded:
    """Tear down (or keep what failed), and write down how it ended. Never raises for a failing clean-up."""
    kitchen, entry = bake.kitchen, bake.entry
    kept = None
    left = []
    bake.standby.close()
    if error is not None and kitchen.keep_failed and not isinstance(error, Interrupted):
        kept = keep_machine(bake)
    if error is not None and kitchen.enter_failed and bake.machine and not isinstance(error, Interrupted):
        kitchen.enter_failed(bake.machine, error)
    if kept is None:
        left = tear_down(bake)
    for item in left:
        bake.log.write(f"left behind: {describe_resource(item.resource)}: {item.error}")
    baked = Outcome.UNCHANGED if entry.action is Action.VERIFY else Outcome.BAKED
    outcome = baked if image else Outcome.FAILED
    message = None if error is None else str(error) + (f"\n{error.hint}" if error.hint else "")
    if image is None and message is None:
        message = "an unexpected error; see the log"
    reference = image.reference if image else None
    keep_log(bake)  # first: who waits for the end of the bake finds the log
    with written_if_possible(bake):
        kitchen.catalog.finish_bake(bake.id, outcome, reference, message)
    result = BakeResult(
        bake=bake.id,
        recipe=entry.recipe,
        target=entry.target,
        arch=entry.arch,
        outcome=outcome,
        image=reference,
        reason=describe_reasons(entry),
        seconds=round(time.monotonic() - bake.begun, 3),
        stages=dict(bake.seconds),
        changed_operations=bake.changed,
        unchanged_operations=bake.unchanged,
        error=message,
        attempts=bake.attempts,
    )
    ended = BakeEnded(result=result, image=image, left_behind=tuple(left), kept=kept, log=str(bake.log.path))
    return describe_success(ended, bake, image) if image and outcome is Outcome.BAKED else ended


def tear_down(bake: Bake) -> list[LeftBehind]:
    """Undo everything that is left, whether or not that can be written down."""
    left: list[LeftBehind] = []
    with written_if_possible(bake), bake.stage(Stage.TEARDOWN) as detail:
        left += bake.teardown.close()
        if calls := bake.provider.describe_calls():
            detail.append(f"{calls} in all")
    return left + bake.teardown.close()


def keep_log(bake: Bake) -> None:
    """For teammates on other hosts; the file stays the whole of it."""
    with written_if_possible(bake), contextlib.suppress(OSError):
        bake.kitchen.catalog.keep_log(bake.id, pack_log(bake.log.path))


@contextmanager
def written_if_possible(bake: Bake) -> Iterator[None]:
    """A catalog that cannot be written (full disk) does not hide how the bake ended; sweep writes it down."""
    try:
        yield
    except CatalogError as error:
        bake.log.write(f"not written down: {error}")


def keep_machine(bake: Bake) -> str | None:
    """Leave the failed build instance for a look; `baker system sweep --bake` removes it.

    Returns the command that opens a shell in it; None where there is none to look at.
    """
    kept = bake.teardown.resources
    machines = [item for item in kept if item.kind in MACHINES]
    at_work = [item for item in machines if bake.machine is not None and item.id == bake.machine.name]
    machine = next(iter([*at_work, *machines]), None)
    if machine is None:
        return None
    try:
        access = bake.provider.describe_access(machine)
    except (BakerError, OSError) as error:
        bake.log.write(f"nothing is kept: {error}")
        return None
    for item in kept:
        if item.place:  # others could take it for left behind
            bake.kitchen.catalog.exists(bake.id, replace(item, details={**item.details, KEPT: True}))
    identity.mark_kept(bake.kitchen.settings.home, bake.id)
    return access


def describe_success(ended: BakeEnded, bake: Bake, image: Image) -> BakeEnded:
    """Add what changed against the version before."""
    build = image.build_for(bake.entry.target, bake.entry.arch)
    previous = previous_build(bake, image)
    if build is None or previous is None:
        return replace(ended, build=build)
    reference, before = previous
    difference = bake.kitchen.catalog.compare(before.id, build.id)
    return replace(ended, build=build, previous=reference, difference=difference)


def previous_build(bake: Bake, image: Image) -> tuple[str, Build] | None:
    """What came before it for the same place; other previews are somebody else's."""
    for other in bake.kitchen.catalog.images(image.recipe):
        build = other.build_for(bake.entry.target, bake.entry.arch)
        is_ours = other.preview in (None, image.preview)
        if other.version < image.version and build is not None and is_ours:
            return other.reference, build
    return None
