"""What came of a night: for the person who reads it in the morning, for programs, and for the next night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from baker.comparing import ManifestDifference
from baker.execution import FAILURES
from baker.model import BakeResult, Outcome
from baker.plan import Node, PlanEntry
from baker.previews import Collected
from baker.promoting import Promotion, Standing
from baker.prune import Pruned, PrunePlan
from baker.runs import Run, RunOutcome
from baker.sweep import Swept

# --- the night before -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """What earlier nights left: whether something ``failed`` that is done again now, and which recipes are
    ``failing`` and since when."""

    failed: bool = False
    failing: Mapping[Node, datetime] = field(default_factory=dict)


def read_past(runs: Sequence[Run], options: Mapping[str, Any]) -> Past:
    """``runs`` are newest first. Of each recipe the newest one counts that tells of it. ``options`` are those
    of this night."""
    newest: dict[Node, Mapping[str, Any]] = {}
    for run in reversed(runs):
        newest |= run.results
    return Past(
        failed=has_failed(runs, options),
        failing={
            node: datetime.fromisoformat(result["failing_since"])
            for node, result in newest.items()
            if result.get("failing_since")
        },
    )


def has_failed(runs: Sequence[Run], options: Mapping[str, Any]) -> bool:
    """Whether a night failed all of which is done again, and no night since did as much and was well.

    Of one that did more nobody can tell here whether what failed is among this.
    """
    for run in runs:
        if run.outcome == RunOutcome.FAILED and includes(options, run.options):
            return True
        if run.outcome in (RunOutcome.DONE, RunOutcome.FAILED) and includes(run.options, options):
            return False
    return False


def includes(options: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether a night with these options does all that one with the others does."""
    for key in ("recipes", "targets"):
        mine, theirs = options.get(key), others.get(key)
        if mine is not None and (theirs is None or not set(theirs) <= set(mine)):
            return False
    return True


# --- this one -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A step that did not do all that it should."""

    step: str
    what: str
    hint: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageMove:
    """``old`` is None for a package that is new, ``new`` for one that is gone."""

    name: str
    old: str | None
    new: str | None
    security: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How it ended with one recipe on one target; ``difference`` is that against ``previous``.

    ``security`` names packages that have a security update. ``waits_for`` is the channel that it is to be
    built upon, where that holds nothing yet. ``failing_since`` is when it began to fail in earlier nights;
    ``now`` when this one began.
    """

    result: BakeResult
    previous: str | None
    difference: ManifestDifference | None
    security: frozenset[str]
    waits_for: str | None
    failing_since: datetime | None
    now: datetime

    @property
    def node(self) -> Node:
        return self.result.recipe, self.result.target, self.result.arch

    @property
    def is_bad(self) -> bool:
        return self.result.outcome in FAILURES and self.waits_for is None

    @property
    def recovered(self) -> bool:
        return self.failing_since is not None and self.result.outcome not in FAILURES

    @property
    def bad_since(self) -> datetime | None:
        """Since when it fails; None if it does not."""
        return (self.failing_since or self.now) if self.is_bad else None

    @property
    def packages(self) -> list[PackageMove]:
        """Those that changed, security updates first."""
        if self.difference is None:
            return []
        changes = [*self.difference.packages_upgraded, *self.difference.packages_downgraded]
        moves = [
            *((change.new.name, change.old.version, change.new.version) for change in changes),
            *((package.name, None, package.version) for package in self.difference.packages_added),
            *((package.name, package.version, None) for package in self.difference.packages_removed),
        ]
        found = [
            PackageMove(name=name, old=old, new=new, security=name in self.security)
            for name, old, new in moves
        ]
        return sorted(found, key=lambda move: (not move.security, move.name))


@dataclass(frozen=True, kw_only=True, slots=True)
class NightlyReport:
    """``plan`` is what was found, ``ended`` how it ended, in its order. ``broken_off`` is why the night ended
    early. ``lagging`` are channels that others do not follow yet, ``expired`` previews that had expired.
    ``pruned`` is None where nothing was to be deleted. ``failed_before``: so did the last night that was to
    do this, or a part of this since.
    """

    run: str
    project: str
    catalog: str
    started: datetime
    finished: datetime
    broken_off: str | None
    plan: tuple[PlanEntry, ...]
    ended: tuple[Ended, ...]
    promotions: tuple[Promotion, ...]
    lagging: tuple[str, ...]
    expired: tuple[Collected, ...]
    pruning: PrunePlan | None
    pruned: Pruned | None
    swept: Swept | None
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]
    failed_before: bool

    @property
    def outcome(self) -> RunOutcome:
        lost = any(failure.step == "lock" for failure in self.failures)
        if self.broken_off and not lost:
            return RunOutcome.INTERRUPTED
        bad = self.failures or any(ended.is_bad for ended in self.ended)
        return RunOutcome.FAILED if bad else RunOutcome.DONE

    @property
    def recovered(self) -> bool:
        """Whether everything is well again that was not."""
        return self.failed_before and self.outcome is RunOutcome.DONE

    @property
    def is_news(self) -> bool:
        """Whether somebody should hear of it. Whoever broke it off knows."""
        if self.outcome is RunOutcome.INTERRUPTED:
            return False
        return bool(self.outcome is RunOutcome.FAILED or self.recovered or self.baked or self.moved)

    @property
    def baked(self) -> list[Ended]:
        return [ended for ended in self.ended if ended.result.outcome is Outcome.BAKED]

    @property
    def moved(self) -> list[Promotion]:
        return [promotion for promotion in self.promotions if promotion.standing is Standing.MOVED]

    @property
    def seconds(self) -> float:
        return (self.finished - self.started).total_seconds()

    @property
    def results(self) -> dict[Node, dict[str, Any]]:
        """What the next night asks. Of a night that was broken off, failures tell nothing."""
        return {
            ended.node: {
                "outcome": str(ended.result.outcome),
                "image": ended.result.image,
                "failing_since": since.isoformat() if (since := ended.bad_since) else None,
            }
            for ended in self.ended
            if not (self.broken_off and ended.is_bad)
        }
