"""What a run came to, and what a plan says, in markdown: for a pull request, or for the page of a CI's job.

Names, versions, paths and errors come from recipes and machines, which others write: none of it is markup
here. GitHub takes 65,536 characters in a comment and 1 MiB per step: nothing is longer than asked.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from baker.comparing import ManifestDifference, find_notable
from baker.console import show_seconds, show_size
from baker.model import BakeResult, Outcome, Stage
from baker.plan import Action, PlanEntry, describe_why
from baker.progress import BakeEnded, count
from baker.since import Touched, describe_touched
from baker.teardown import describe_resource

LIMIT = 60_000
SHOWN_ITEMS, SHOWN_PATHS, SHOWN_NOTABLE = 100, 20, 10
ERROR_LINES, TEXT_CHARACTERS = 20, 300

SecurityUpdates = Collection[tuple[str, str | None]]
"""Packages with the versions of them that come from a distribution's security archive."""

ORDER = (Outcome.FAILED, Outcome.BLOCKED, Outcome.BAKED, Outcome.UNCHANGED)


def markdown_run(ended: Sequence[BakeEnded], *, plan: Sequence[PlanEntry] = (), limit: int = LIMIT) -> str:
    """What was done and why, and what is different inside; failures first, and of each recipe what came last.

    ``plan`` is what was carried out: it knows which package updates are for security.
    """
    last = {(one.result.recipe, one.result.target, one.result.arch): one for one in ended}
    ordered = sorted(last.values(), key=lambda one: ORDER.index(one.result.outcome))
    acted = [one for one in ordered if _did_something(one.result)]
    unchanged = [one.result for one in ordered if not _did_something(one.result)]
    security = {
        (update.name, update.candidate) for entry in plan for update in entry.updates if update.security
    }
    numbers = {outcome: sum(one.result.outcome is outcome for one in ordered) for outcome in ORDER}
    same = [f"{escape(str(result.image))}: {escape(result.reason)}" for result in unchanged]
    return _assemble(
        "### baker: "
        + (", ".join(f"{number} {what}" for what, number in numbers.items() if number) or "nothing to do"),
        ("Image", "What", "Why", "Size", "Packages", "Files", "Time"),
        [_describe_bake(one) for one in acted],
        [
            *(_tell_failure(one) for one in acted if one.result.error or one.left_behind),
            *(_tell_difference(one, security) for one in acted),
            _fold(f"{count(len(same), 'image')} unchanged", _list_items(same)) if same else "",
        ],
        limit,
    )


def markdown_plan(
    entries: Sequence[PlanEntry], *, touched: Sequence[Touched] = (), limit: int = LIMIT
) -> str:
    """What would be done, and why; ``touched`` says why these recipes were looked at, and no others."""
    due = [entry for entry in entries if entry.action is not Action.SKIP]
    numbers = {action: sum(entry.action is action for entry in entries) for action in Action}
    reasons = [f"{escape(one.recipe)}: {escape(describe_touched(one))}" for one in touched]
    same = [f"{_name(entry)}: {_why(entry)}" for entry in entries if entry.action is Action.SKIP]
    return _assemble(
        "### baker plan: "
        + (", ".join(f"{what} {number}" for what, number in numbers.items() if number) or "no recipe"),
        ("Recipe", "For", "What", "Why"),
        [
            (escape(entry.recipe), f"{entry.target}/{entry.arch}", f"**{entry.action}**", _why(entry))
            for entry in due
        ],
        [
            _fold(f"{count(len(reasons), 'recipe')} touched", _list_items(reasons)) if reasons else "",
            *(_tell_updates(entry) for entry in due if entry.updates),
            _fold(f"{count(len(same), 'image')} up to date", _list_items(same)) if same else "",
        ],
        limit,
    )


# --- plans ------------------------------------------------------------------------------------------


def _name(entry: PlanEntry) -> str:
    return f"{escape(entry.recipe)} for {entry.target}/{entry.arch}"


def _why(entry: PlanEntry) -> str:
    return escape(describe_why(entry))


def _tell_updates(entry: PlanEntry) -> str:
    rows = [
        (escape(update.name), _version(update.installed), _version(update.candidate), _mark(update.security))
        for update in entry.updates
    ]
    grave = sum(update.security for update in entry.updates)
    title = f"{_name(entry)}: {count(len(rows), 'package')} outdated" + (
        f", {grave} for security" if grave else ""
    )
    return _fold(
        title, _table(("Package", "From", "To", ""), rows[:SHOWN_ITEMS]) + _tell_more(len(rows) - SHOWN_ITEMS)
    )


# --- bakes ------------------------------------------------------------------------------------------


def _describe_bake(ended: BakeEnded) -> tuple[str, ...]:
    result, difference = ended.result, ended.difference
    size = packages = files = ""
    if ended.build:
        size = show_size(ended.build.size_bytes)
    if difference:
        size += f" ({_show_change(difference.size_delta)})"
        packages = str(len(_list_packages(difference, ())) or "")
        files = str(len(_list_paths(difference)) or "")
    return (
        _bake_name(result),
        f"**{_what(result)}**",
        escape(result.reason),
        size,
        packages,
        files,
        show_seconds(result.seconds),
    )


def _did_something(result: BakeResult) -> bool:
    return result.outcome is not Outcome.UNCHANGED or result.bake is not None


def _bake_name(result: BakeResult) -> str:
    where = "" if result.target == "local" else f" for {result.target}/{result.arch}"
    return f"{escape(result.image or result.recipe)}{where}"


def _what(result: BakeResult) -> str:
    if result.outcome is Outcome.UNCHANGED:
        return "verified again"
    issued = result.outcome is Outcome.BAKED and Stage.CONFIGURE not in result.stages
    return "issued again" if issued else str(result.outcome)


def _tell_failure(ended: BakeEnded) -> str:
    result = ended.result
    lines = [f"#### {_bake_name(result)}: {_what(result)}"]
    if result.error:
        lines += ["", _quote(result.error)]
    if result.bake:
        lines += ["", f"The whole log: `baker logs {result.bake}`"]
    for left in ended.left_behind:
        lines += ["", f"**Left behind**: {escape(f'{describe_resource(left.resource)} ({left.error})')}"]
    return "\n".join(lines)


def _tell_difference(ended: BakeEnded, security: SecurityUpdates) -> str:
    if ended.build is None:
        return ""
    lines = [f"#### {_bake_name(ended.result)}", "", f"`{ended.build.digest}`"]
    if ended.result.stages:
        spent = ", ".join(
            f"{stage} {show_seconds(seconds)}" for stage, seconds in ended.result.stages.items()
        )
        lines += ["", f"Stages: {spent}"]
    difference = ended.difference
    if difference is None or ended.previous is None:
        return "\n".join([*lines, "", "There was none before it."])
    lines += [
        "",
        f"Against {escape(ended.previous)}: "
        + ("the same content" if difference.empty else _count_changes(difference)),
    ]
    notable = [f"{escape(one.path)}: {escape(one.detail)}" for one in find_notable(difference)]
    if notable:
        lines += ["", "Worth a look:", "", _list_items(notable, SHOWN_NOTABLE)]
    if packages := _list_packages(difference, security):
        grave = sum(bool(row[-1]) for row in packages)
        title = count(len(packages), "package") + (f", {grave} for security" if grave else "")
        table = _table(("Package", "What", "From", "To", ""), packages[:SHOWN_ITEMS])
        lines += ["", _fold(title, table + _tell_more(len(packages) - SHOWN_ITEMS))]
    if paths := _list_paths(difference):
        lines += ["", _fold(count(len(paths), "file"), _list_items(paths, SHOWN_PATHS))]
    return "\n".join(lines)


def _count_changes(difference: ManifestDifference) -> str:
    numbers = (
        ("package", "added", difference.packages_added),
        ("package", "removed", difference.packages_removed),
        ("package", "upgraded", difference.packages_upgraded),
        ("package", "downgraded", difference.packages_downgraded),
        ("file", "added", difference.files_added),
        ("file", "removed", difference.files_removed),
        ("file", "changed", difference.files_changed),
    )
    told = [f"{count(len(found), thing)} {what}" for thing, what, found in numbers if found]
    return ", ".join([*told, _show_change(difference.size_delta)])


def _list_packages(difference: ManifestDifference, security: SecurityUpdates) -> list[tuple[str, ...]]:
    """Name, what happened, from, to, and whether the newer one is for security."""
    added, removed = difference.packages_added, difference.packages_removed
    found: list[tuple[str, str, str | None, str | None]] = [
        *(
            (change.new.name, "upgraded", change.old.version, change.new.version)
            for change in difference.packages_upgraded
        ),
        *(
            (change.new.name, "downgraded", change.old.version, change.new.version)
            for change in difference.packages_downgraded
        ),
        *((package.name, "added", None, package.version) for package in added),
        *((package.name, "removed", package.version, None) for package in removed),
    ]
    rows = [
        (escape(name), what, _version(old), _version(new), _mark((name, new) in security))
        for name, what, old, new in found
    ]
    return sorted(rows, key=lambda row: not row[-1])


def _list_paths(difference: ManifestDifference) -> list[str]:
    return [
        *(f"{escape(change.new.path)} changed" for change in difference.files_changed),
        *(f"{escape(file.path)} added" for file in difference.files_added),
        *(f"{escape(file.path)} removed" for file in difference.files_removed),
    ]


# --- markdown ---------------------------------------------------------------------------------------

MARKUP = re.compile(r"[!#$&*<>@\\\[\]_`{|}~]|:(?=//)")
"""What could be markup anywhere in a line. Nothing of ours begins a line with what it was given."""


def escape(text: str) -> str:
    """A text in one line that reads as it is, calls nobody (@team) and links nothing (#1)."""
    line = " ".join(_printable(text).split())
    if len(line) > TEXT_CHARACTERS:
        line = f"{line[: TEXT_CHARACTERS - 1]}…"
    # @ and # call and link also where they were written as entities, unless a space of no width follows.
    return MARKUP.sub(lambda mark: f"&#{ord(mark[0])};" + ("&#8203;" if mark[0] in "@#" else ""), line)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _quote(text: str) -> str:
    """The last lines as they are, in a fence that is longer than any in them."""
    lines = [_printable(line)[:TEXT_CHARACTERS] for line in text.splitlines()]
    kept = [*(["…"] if len(lines) > ERROR_LINES else []), *lines[-ERROR_LINES:]]
    fence = "`" * max(3, 1 + max((len(run) for line in kept for run in re.findall("`+", line)), default=0))
    return "\n".join([f"{fence}text", *kept, fence])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else ""


def _list_items(items: Sequence[str], shown: int = SHOWN_ITEMS) -> str:
    return "\n".join(f"- {item}" for item in items[:shown]) + _tell_more(len(items) - shown)


def _tell_more(number: int) -> str:
    return f"\n\n… and {number} more" if number > 0 else ""


def _fold(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def _version(version: str | None) -> str:
    return escape(version or "")


def _mark(security: bool) -> str:
    return "security" if security else ""


def _show_change(size: int) -> str:
    return f"{'-' if size < 0 else '+'}{show_size(abs(size))}"


def _assemble(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], sections: Iterable[str], limit: int
) -> str:
    """Whole rows, then whole sections, as many as go in; what is left out is counted."""
    fitting = list(rows)
    while fitting and len(_table(header, fitting)) > limit // 2:
        fitting = fitting[: len(fitting) * 9 // 10]
    table = _table(header, fitting)
    parts = [title, *([table + _tell_more(len(rows) - len(fitting))] if table else [])]
    room = limit - sum(len(part) + 2 for part in parts) - 100
    left_out = 0
    for section in filter(None, sections):
        if len(section) + 2 > room:
            left_out += 1
            continue
        parts.append(section)
        room -= len(section) + 2
    if left_out:
        parts.append(f"There is more than goes in here: {count(left_out, 'part')} left out.")
    return "\n\n".join(parts) + "\n"
