"""A console that shows bakes as they go. Apart from ``console``: most commands show none."""

from __future__ import annotations

from typing import Any

from baker.comparing import ManifestDifference
from baker.configurer.events import (
    ImageTestEnded,
    ImageTestStarted,
    OperationEnded,
    OperationRetried,
    OperationStarted,
    RecipeOutput,
    Unconfined,
)
from baker.console import Console, show_seconds, show_size
from baker.model import Outcome
from baker.progress import BakeEnded, BakeStarted, Note, Progress, RecipeEvent, StageEnded, StageStarted
from baker.teardown import describe_resource

LOCAL = "local"
NAME_COLUMN = len("unchanged   0.05 s  ")
"""Where names of operations and tests begin, after their indentation."""


class ProgressConsole(Console):
    """Shows the progress of bakes on stderr, and what they came to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._labels: dict[str, str] = {}

    def show(self, progress: Progress) -> None:
        """Render one event of a bake. Any thread may call this."""
        self._speaker.recipe = self._label(progress) if self._several else ""
        try:
            self._render(progress)
        finally:
            self._speaker.recipe = ""

    def _label(self, progress: Progress) -> str:
        """Whose bake an event is of."""
        match progress:
            case Note():
                return ""
            case BakeEnded(result=result):
                return self._labels.pop(
                    result.bake or "", name_work(result.recipe, result.target, result.arch)
                )
            case BakeStarted():
                label = name_work(progress.recipe, progress.target, progress.arch)
                self._labels[progress.bake] = label
                return label
            case _:
                return self._labels.get(progress.bake, progress.recipe)

    def _render(self, progress: Progress) -> None:
        match progress:
            case Note(text=text):
                self.say(text)
            case BakeStarted():
                name = self.style(progress.recipe, "bold")
                reasons = "; ".join(reason.detail for reason in progress.reasons)
                self.say(f"{name} for {progress.target}/{progress.arch}: {reasons}")
                self.say(self.style(f"  bake {progress.bake}", "dim"))
            case StageStarted():
                self.status(f"  {progress.stage} …")
            case StageEnded():
                mark = self.style("failed", "red") if progress.failed else progress.detail
                self.say(f"  {progress.stage:<10} {show_seconds(progress.seconds):>8}  {mark}".rstrip())
            case RecipeEvent():
                self._show_recipe_event(progress)
            case BakeEnded():
                self._show_end(progress)

    def _show_recipe_event(self, progress: RecipeEvent) -> None:
        match progress.event:
            case OperationStarted(name=name, number=number, total=total):
                self.status(f"    {number}/{total} {name} …")
            case OperationEnded() as ended:
                verb = "changed  " if ended.changed else "unchanged"
                if ended.ignored_error:
                    verb = "ignored  "
                style = "yellow" if ended.ignored_error else "green" if ended.changed else "dim"
                indent = "      " if ended.nested else "    "
                line = f"{indent}{self.style(verb, style)} {show_seconds(ended.seconds):>8}  {ended.name}"
                self.say(line, hang=len(indent) + NAME_COLUMN)
            case OperationRetried() as retried:
                self.say(f"    retrying  {retried.name} ({retried.attempt} of {retried.attempts})")
            case RecipeOutput(line=line):
                self.say(self.style(f"    | {line}", "dim"))
            case Unconfined(why=why):
                mark = self.style("no sandbox", "red")
                self.say(f"    {mark} ({why}): the recipe's code may read all that you may, credentials too")
            case ImageTestStarted(name=name):
                self.status(f"    {name} …")
            case ImageTestEnded() as test:
                style = {"passed": "green", "skipped": "yellow"}.get(test.outcome, "red")
                mark = self.style(f"{test.outcome:<9}", style)
                self.say(f"    {mark} {show_seconds(test.seconds):>8}  {test.name}", hang=4 + NAME_COLUMN)
            case _:
                pass

    def _show_end(self, ended: BakeEnded) -> None:
        result = ended.result
        work = name_work(result.recipe, result.target, result.arch)
        with self._lock:
            self._statuses.pop(self._recipe_shown, None)
        if result.outcome is Outcome.FAILED:
            self.say(f"{self.style('Failed:', 'red')} {work}: {result.error}")
            if result.bake:
                self.say(f"  baker logs {result.bake} shows everything")
        elif result.outcome is Outcome.BLOCKED:
            self.say(f"{self.style('Blocked:', 'yellow')} {work}: {result.reason}")
        if ended.kept:
            self.say(f"  The build instance is kept. Look into it: {ended.kept}")
            self.say(f"  Remove it: baker system sweep --bake {result.bake}")
        if ended.left_behind:
            things = ", ".join(
                f"{describe_resource(left.resource)} ({left.error})" for left in ended.left_behind
            )
            self.say(f"{self.style('Left behind:', 'red')} {things}")
            self.say(f"  Remove it: baker system sweep --bake {result.bake}")
        if not self.as_json:
            self._print_success(ended)

    def _print_success(self, ended: BakeEnded) -> None:
        result = ended.result
        if result.outcome is Outcome.UNCHANGED:
            again = f", verified again in {show_seconds(result.seconds)}" if result.bake else ""
            self.result_folded(f"unchanged {result.image}{again}: {result.reason}")
        if result.outcome is not Outcome.BAKED or ended.build is None:
            return
        name = self.style(str(result.image), "bold", self._out)
        seconds = show_seconds(result.seconds)
        where = "" if result.target == LOCAL else f" for {result.target}/{result.arch}"
        size, digest = show_size(ended.build.size_bytes), ended.build.digest[:19]
        lines = [f"{name}{where}  {size}  {digest}  baked in {seconds}"]
        if ended.difference is not None and ended.previous is not None:
            lines.append(f"  against {ended.previous}: {describe_difference(ended.difference)}")
        times = ", ".join(f"{stage} {show_seconds(spent)}" for stage, spent in result.stages.items())
        following = f"Next: baker promote {result.image} dev"
        if ended.image is not None and not ended.image.complete:
            following = f"Not complete yet, it lacks a build for another target: baker bake {result.recipe}"
        elif ended.image is not None and ended.image.preview:
            following = f"A preview for {ended.image.preview}: it is nobody's latest"
        self.result_folded("\n".join([*lines, f"  {times}", f"  {following}"]))


def name_work(recipe: str, target: str, arch: str) -> str:
    """``web`` here, ``web/aws/x86_64`` elsewhere: the same recipe may be baked for several at once."""
    return recipe if target == LOCAL else f"{recipe}/{target}/{arch}"


def describe_difference(difference: ManifestDifference) -> str:
    """In one line: packages by name, files by number, size."""
    if difference.empty:
        return "the same content"
    parts = []
    for verb, packages in (
        ("added", [package.name for package in difference.packages_added]),
        ("removed", [package.name for package in difference.packages_removed]),
        (
            "upgraded",
            [f"{c.new.name} {c.old.version} to {c.new.version}" for c in difference.packages_upgraded],
        ),
        (
            "downgraded",
            [f"{c.new.name} {c.old.version} to {c.new.version}" for c in difference.packages_downgraded],
        ),
    ):
        if packages:
            shown = ", ".join(packages[:4]) + (f" and {len(packages) - 4} more" if len(packages) > 4 else "")
            parts.append(
                f"{len(packages)} packages {verb} ({shown})" if len(packages) > 1 else f"{verb} {shown}"
            )
    for verb, paths in (
        ("added", [file.path for file in difference.files_added]),
        ("removed", [file.path for file in difference.files_removed]),
        ("changed", [change.new.path for change in difference.files_changed]),
    ):
        if paths:
            parts.append(f"{len(paths)} files {verb}" if len(paths) > 3 else f"{verb} {', '.join(paths)}")
    sign = "+" if difference.size_delta >= 0 else "-"
    return "; ".join(parts) + f"; {sign}{show_size(abs(difference.size_delta))}"
