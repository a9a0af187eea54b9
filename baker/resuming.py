"""Runs of `bake` as the catalog keeps them: how one is written down, and goes on after it was interrupted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from baker import identity
from baker.catalog import Catalog
from baker.errors import ConflictError, Interrupted, UsageError
from baker.execution import WORK
from baker.kitchen import Kitchen
from baker.model import Outcome
from baker.plan import Node, PlanEntry
from baker.progress import BakeEnded, Progress
from baker.runs import Run, RunOutcome
from baker.settings import Settings

BAKE = "bake"
SETTLED = (Outcome.BAKED, Outcome.UNCHANGED)


@contextmanager
def recorded_run(
    kitchen: Kitchen, plan: Sequence[PlanEntry], options: Mapping[str, Any]
) -> Iterator[Kitchen]:
    """Within, a run of `bake` with these options goes on, with a kitchen that writes down how each bake ends.

    A run with nothing to do is not written down.
    """
    if not any(entry.action in WORK for entry in plan):
        yield kitchen
        return
    catalog, settings = kitchen.catalog, kitchen.settings
    run_id = identity.make_bake_id()
    ended: dict[Node, Outcome] = {}

    def show(progress: Progress) -> None:
        if isinstance(progress, BakeEnded):
            result = progress.result
            node = result.recipe, result.target, result.arch
            ended[node] = result.outcome
            told = {"outcome": str(result.outcome), "image": result.image, "bake": result.bake}
            catalog.record_results(run_id, {node: told})
        kitchen.show(progress)

    with identity.alive(settings.home, run_id):
        catalog.start_run(run_id, BAKE, str(settings.project), options)
        outcome = RunOutcome.FAILED
        try:
            yield replace(kitchen, show=show)
            if all(one in SETTLED for one in ended.values()):
                outcome = RunOutcome.DONE
            if kitchen.interruption.cancel.is_set():
                outcome = RunOutcome.INTERRUPTED
        except Interrupted:
            outcome = RunOutcome.INTERRUPTED
            raise
        finally:
            with kitchen.interruption.shielded():
                catalog.finish_run(run_id, outcome)


def find_interrupted(catalog: Catalog, settings: Settings) -> Run:
    """This project's last run of `bake` on this host, which did not come to its end.

    Raises UsageError where it did, or there is none; ConflictError while it still goes on.
    """
    mine = [
        run
        for run in catalog.runs(kind=BAKE, project=str(settings.project), limit=20)
        if run.host == identity.host_name()
    ]
    if not mine:
        raise UsageError("no run of bake is known of this project on this host", hint="Start one: baker bake")
    last = mine[0]
    if last.outcome is None and identity.is_alive(settings.home, last.id):
        raise ConflictError(
            f"the last run, of {last.actor} since {last.started:%H:%M:%S} UTC, still goes on",
            hint="Watch it: baker status",
        )
    if last.outcome not in (None, RunOutcome.INTERRUPTED):
        when = f" at {last.finished:%Y-%m-%d %H:%M} UTC" if last.finished else ""
        raise UsageError(
            f"the last run of bake came to its end{when} ({last.outcome}): there is nothing to resume",
            hint="What failed is baked again by: baker bake",
        )
    return last


def is_settled(run: Run, node: Node) -> bool:
    """Whether an interrupted run was done with this recipe, target and architecture."""
    return run.results.get(node, {}).get("outcome") in SETTLED
