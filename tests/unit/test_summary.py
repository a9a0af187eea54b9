"""Markdown for a pull request: it says what matters, and stays a table whatever is put into it."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from baker.comparing import compare_manifests
from baker.model import BakeResult, Manifest, Outcome, Reason
from baker.package_state import PackageUpdate
from baker.plan import Action, PlanEntry
from baker.progress import BakeEnded
from baker.since import Touched
from baker.summary import LIMIT, ORDER, escape, markdown_plan, markdown_run
from baker.teardown import LeftBehind
from tests.factories import make_build, make_file, make_package, make_resource

HOSTILE = "a|b `c` <img src=x> [l](http://e.vil) *s* _u_ @team #12 \\| $x$ ~~d~~ https://e.vil/"
HOSTILE += "\n| new | row |\r\n\x1b[31m\u202ered"


def make_result(recipe: str = "web", outcome: Outcome = Outcome.BAKED, **changes: Any) -> BakeResult:
    values: dict[str, Any] = {
        "bake": "01J5",
        "recipe": recipe,
        "target": "local",
        "arch": "amd64",
        "outcome": outcome,
        "image": f"{recipe}:2",
        "reason": "templates/index.html.j2 changed",
        "seconds": 12.34,
        "stages": {"configure": 5.0, "capture": 0.5},
    }
    return BakeResult(**{**values, **changes})


def make_ended(recipe: str = "web", **changes: Any) -> BakeEnded:
    """A bake that upgraded one package, took one away and changed a file."""
    old = Manifest(
        packages=(
            make_package("nginx", "1.26.3-3"),
            make_package("openssl", "3.0.1"),
            make_package("vim", "9"),
        ),
        files=(make_file("/etc/motd", "a"),),
    )
    new = Manifest(
        packages=(make_package("nginx", "1.26.3-4"), make_package("openssl", "3.0.2")),
        files=(make_file("/etc/motd", "abc"), make_file("/usr/bin/su", mode=0o4755)),
    )
    values: dict[str, Any] = {
        "result": make_result(recipe),
        "build": make_build(recipe, size_bytes=45_100_000),
        "previous": f"{recipe}:1",
        "difference": compare_manifests(old, new),
    }
    return BakeEnded(**{**values, **changes})


def make_entry(recipe: str = "web", action: Action = Action.BAKE, **changes: Any) -> PlanEntry:
    reasons = (Reason(kind="changed", detail="recipes/web/deploy.py changed"),)
    values = {"recipe": recipe, "target": "local", "arch": "amd64", "action": action, "reasons": reasons}
    return PlanEntry(**{**values, **changes})


def parse(markdown: str) -> list[Token]:
    """As a reader of markdown with tables and raw HTML has it."""
    return MarkdownIt("js-default", {"html": True}).parse(markdown)


def read_tables(markdown: str) -> list[list[list[str]]]:
    """The rows of every table, headers first; a cell is its text."""
    tables: list[list[list[str]]] = []
    cell = False
    for token in parse(markdown):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("th_open", "td_open"):
            cell = True
        elif token.type == "inline" and cell:
            tables[-1][-1].append("".join(child.content for child in token.children or ()))
            cell = False
    return tables


def test_run_says_what_was_baked_why_and_what_is_different_inside() -> None:
    update = PackageUpdate(name="openssl", arch="amd64", installed="3.0.1", candidate="3.0.2", security=True)
    text = markdown_run([make_ended()], plan=[make_entry(updates=(update,))])
    run, packages = read_tables(text)
    assert text.startswith("### baker: 1 baked\n")
    assert run[1] == [
        *("web:2", "baked", "templates/index.html.j2 changed", "45.1 MB (+2 B)", "3", "2", "12.3 s")
    ]
    assert packages[1:] == [
        ["openssl", "upgraded", "3.0.1", "3.0.2", "security"],
        ["nginx", "upgraded", "1.26.3-3", "1.26.3-4", ""],
        ["vim", "removed", "9", "", ""],
    ]
    assert "<summary>3 packages, 1 for security</summary>" in text
    assert "- /etc/motd changed\n- /usr/bin/su added" in text
    assert "Worth a look:\n\n- /usr/bin/su: added setuid of 0" in text
    assert "Stages: configure 5.00 s, capture 0.50 s" in text
    assert "1 package removed, 2 packages upgraded, 1 file added, 1 file changed, +2 B" in text


def test_first_image_of_a_recipe_has_nothing_to_be_compared_with() -> None:
    text = markdown_run([make_ended(difference=None, previous=None)])
    assert "There was none before it" in text
    assert "<details>" not in text


def test_failures_come_first_with_the_last_lines_of_the_error_and_what_is_left() -> None:
    error = "\n".join(f"line {number}" for number in range(50)) + "\n```` not the end of it"
    left = LeftBehind(resource=make_resource("machine-7"), error="busy")
    failed = make_result("api", Outcome.FAILED, image=None, error=error)
    blocked = make_result("child", Outcome.BLOCKED, image=None, bake=None, stages={}, reason="its parent")
    text = markdown_run(
        [make_ended(), BakeEnded(result=blocked), BakeEnded(result=failed, left_behind=(left,))]
    )
    assert text.startswith("### baker: 1 failed, 1 blocked, 1 baked\n")
    assert [row[:2] for row in read_tables(text)[0][1:]] == [
        ["api", "failed"],
        ["child", "blocked"],
        ["web:2", "baked"],
    ]
    assert "`````text\n…\nline 31\n" in text
    assert "line 49\n```` not the end of it\n`````\n" in text
    assert "line 30\n" not in text
    assert "machine machine-7 (busy)" in text
    assert "`baker logs 01J5`" in text


def test_what_was_not_configured_is_told_from_what_was() -> None:
    again = make_result("base", Outcome.UNCHANGED)
    issued = make_result("db", stages={"register": 0.1})
    same = make_result("cache", Outcome.UNCHANGED, bake=None, reason="nothing moved")
    text = markdown_run([BakeEnded(result=one) for one in (again, issued, same)])
    assert [row[:2] for row in read_tables(text)[0][1:]] == [
        ["db:2", "issued again"],
        ["base:2", "verified again"],
    ]
    assert "<summary>1 image unchanged</summary>\n\n- cache:2: nothing moved\n" in text


def test_nothing_that_a_recipe_or_a_machine_says_is_markup() -> None:
    package = make_package(HOSTILE, "1", source="x")
    old, new = (
        Manifest(packages=(), files=()),
        Manifest(packages=(package,), files=(make_file(f"/{HOSTILE}"),)),
    )
    result = make_result(reason=HOSTILE, target="aws", error=f"{HOSTILE}\n```\n# no heading")
    ended = make_ended(result=result, difference=compare_manifests(old, new))
    text = markdown_run([ended])
    run, packages = read_tables(text)
    assert [len(row) for row in run] == [7, 7]
    assert [len(row) for row in packages] == [5, 5]
    assert run[1][2].replace("\u200b", "") == " ".join(
        HOSTILE.replace("\x1b", " ").replace("\u202e", " ").split()
    )
    tokens = [token for block in parse(text) for token in (block, *(block.children or ()))]
    ours = {"p", "h3", "h4", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "strong"}
    assert {token.tag for token in tokens if token.type.endswith("_open")} <= ours
    code = {token.content for token in tokens if token.type == "code_inline"}
    assert ended.build
    assert code == {"baker logs 01J5", ended.build.digest}
    folded = [token.content.strip() for token in tokens if token.type.startswith("html")]
    assert [re.sub("<summary>[^<]*</summary>", "", one) for one in folded] == ["<details>", "</details>"] * 2
    shown = " ".join("".join(child.content for child in token.children or ()) for token in tokens)
    assert "team" in shown
    assert not re.search(r"[@#]\w", shown)
    fence = next(token for token in tokens if token.type == "fence")
    assert "://" not in text.replace(fence.content, "")
    assert fence.content.endswith("```\n# no heading\n")


@pytest.mark.parametrize("text", ["@team", "#12", "see\n# heading", "&lt;b&gt;", "&#64;x", "a\u2028b"])
def test_escaped_text_reads_as_it_was_in_one_line(text: str) -> None:
    read = html.unescape(escape(text))
    assert read.replace("\u200b", "") == " ".join(text.split())
    assert not re.search(r"[@#]\w", read)


def test_summary_of_a_thousand_bakes_fits_into_a_comment_and_counts_what_it_leaves_out() -> None:
    error = "x" * 10_000 + "\n" + "y|" * 5_000
    many = [make_ended(f"web-{number}") for number in range(1000)]
    failed = make_result("api", Outcome.FAILED, error=error, reason="|" * 10_000)
    text = markdown_run([*many, BakeEnded(result=failed)])
    assert len(text) <= LIMIT
    shown = len(read_tables(text)[0]) - 1
    assert f"… and {1001 - shown} more" in text
    assert re.search(r"There is more than goes in here: \d+ parts left out", text)
    assert "#### api:2: failed" in text
    assert text.count("<details>") == text.count("</details>") > 10


def test_bake_that_came_out_unchanged_and_joined_its_sibling_later_is_told_once() -> None:
    unchanged = make_result(outcome=Outcome.UNCHANGED, bake=None, reason="nothing moved")
    text = markdown_run([BakeEnded(result=unchanged), make_ended()])
    assert text.startswith("### baker: 1 baked\n")
    assert "unchanged" not in text


def test_run_of_nothing_says_so() -> None:
    assert markdown_run([]) == "### baker: nothing to do\n"
    assert set(ORDER) == set(Outcome)


def test_plan_says_what_would_be_done_and_what_the_change_touches() -> None:
    update = PackageUpdate(
        name="libssl3t64", arch="amd64", installed="3.0.1", candidate="3.0.2", security=True
    )
    entries = [
        make_entry("base", Action.SKIP, reasons=(Reason(kind="unchanged", detail="nothing moved"),)),
        make_entry(updates=(update, replace(update, name="curl", security=False)), note="one list is old"),
    ]
    touched = [Touched(recipe="web", reasons=("a changed", "b changed", "c changed", "d changed"))]
    text = markdown_plan(entries, touched=touched)
    plan, packages = read_tables(text)
    assert text.startswith("### baker plan: bake 1, skip 1\n")
    assert plan[1:] == [["web", "local/amd64", "bake", "recipes/web/deploy.py changed (one list is old)"]]
    assert packages[1:] == [["libssl3t64", "3.0.1", "3.0.2", "security"], ["curl", "3.0.1", "3.0.2", ""]]
    assert "<summary>web for local/amd64: 2 packages outdated, 1 for security</summary>" in text
    assert "- web: a changed; b changed; c changed; and 1 more\n" in text
    assert "<summary>1 image up to date</summary>\n\n- base for local/amd64: nothing moved\n" in text
