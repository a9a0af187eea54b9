"""A night in words: what a person reads in the morning, on the screen and in a notification."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import PurePath

from baker.console import show_seconds, show_size
from baker.layout import lay_out
from baker.model import Outcome
from baker.nightly_report import Ended, NightlyReport, PackageMove
from baker.progress_console import name_work
from baker.promoting import Standing
from baker.runs import RunOutcome
from baker.teardown import describe_resource

VERBS = {Standing.MOVED: "promoted", Standing.WAITING: "waiting", Standing.LEFT: "left alone"}
SHOWN_PACKAGES = 12

Line = tuple[str, str, str]
"""What happened, to what, and why or with what."""


def describe_title(report: NightlyReport) -> str:
    """In one line, for a subject."""
    name = PurePath(report.project).name
    if report.outcome is RunOutcome.FAILED:
        bad = [ended.result for ended in report.ended if ended.is_bad]
        failed = [result for result in bad if result.outcome is Outcome.FAILED] or bad
        steps = [failure.step for failure in report.failures]
        what = dict.fromkeys([*(result.recipe for result in failed), *steps])
        return f"{name}: nightly failed: {', '.join(what)}"
    if report.outcome is RunOutcome.INTERRUPTED:
        return f"{name}: nightly {report.broken_off}"
    done = [f"{len(report.baked)} baked"] if report.baked else []
    done += [f"{len(report.moved)} promoted"] if report.moved else []
    said = f"{name}: nightly {'recovered' if report.recovered else 'done'}"
    return f"{said}: {', '.join(done)}" if done else said


def describe_night(report: NightlyReport) -> list[str]:
    """One line for each recipe, promotion and image that went; packages under the image that has them."""
    lines = [*list_bakes(report), *list_promotions(report), *list_removed(report), *list_complaints(report)]
    laid = lay_out(lines, None) if lines else []
    return [
        f"{describe_title(report)} ({show_seconds(report.seconds)}, run {report.run})",
        *(f"  {line}" for line in laid),
    ]


def list_bakes(report: NightlyReport) -> Iterator[Line]:
    for ended in report.ended:
        yield describe_end(ended)
        yield from (("", "", describe_package(move)) for move in ended.packages[:SHOWN_PACKAGES])
        if more := len(ended.packages) - SHOWN_PACKAGES:
            yield from [("", "", f"and {more} more packages")] if more > 0 else []


def describe_end(ended: Ended) -> Line:
    result = ended.result
    name = name_work(result.recipe, result.target, result.arch)
    if ended.waits_for is not None:
        return "waiting", name, f"{ended.waits_for} holds nothing yet"
    verb = "recovered" if ended.recovered else str(result.outcome)
    why = (result.error or result.reason).splitlines()[0]
    if ended.is_bad and ended.failing_since is not None:
        why += f" (since {show_day(ended.failing_since)})"
    return verb, result.image or name, f"{why}{describe_change(ended)}"


def describe_change(ended: Ended) -> str:
    difference = ended.difference
    if difference is None:
        return ""
    if difference.empty:
        return f"; the same as {ended.previous}"
    files = [*difference.files_added, *difference.files_removed, *difference.files_changed]
    sign = "+" if difference.size_delta >= 0 else "-"
    return f"; {len(files)} files, {sign}{show_size(abs(difference.size_delta))} against {ended.previous}"


def describe_package(move: PackageMove) -> str:
    mark = " (security)" if move.security else ""
    if move.old is None:
        return f"{move.name} {move.new} is new"
    if move.new is None:
        return f"{move.name} {move.old} is gone"
    return f"{move.name} {move.old} to {move.new}{mark}"


def list_promotions(report: NightlyReport) -> Iterator[Line]:
    for promotion in report.promotions:
        moved = promotion.standing is Standing.MOVED
        what = f"{promotion.held or 'nothing'} to {promotion.image}"
        why = what if moved else f"{promotion.image}: {'; '.join(promotion.why)}"
        yield VERBS[promotion.standing], promotion.name, one_line(why)


def list_removed(report: NightlyReport) -> Iterator[Line]:
    for one in report.expired:
        why = "it expired" if one.why_not is None else f"it expired, and stays: {one.why_not}"
        yield "removed" if one.why_not is None else "left alone", one.channel.move.name, why
    if report.pruned is not None and report.pruning is not None:
        goes = {verdict.image.reference: verdict for verdict in report.pruning.verdicts if verdict.goes}
        for reference in (*report.pruned.deleted, *report.pruned.finished):
            verdict = goes.get(reference)
            frees = f", frees {show_size(report.pruning.frees.get(verdict.image.key, 0))}" if verdict else ""
            yield "deleted", reference, f"{verdict.detail if verdict else 'begun before'}{frees}"
        yield from (("kept", reference, why) for reference, why in report.pruned.skipped)
    if report.swept is not None:
        yield from (("swept", describe_resource(resource), "") for resource in report.swept.removed)
        yield from (("finished", image.reference, str(image.status)) for image in report.swept.finished)


def list_complaints(report: NightlyReport) -> Iterator[Line]:
    for failure in report.failures:
        yield "failed", failure.step, one_line(failure.what) + (f" {failure.hint}" if failure.hint else "")
    yield from (("warning", "", one_line(warning)) for warning in report.warnings)
    if report.broken_off:
        yield "broken off", "", report.broken_off


def one_line(text: str) -> str:
    return " ".join(text.split())


def show_day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
