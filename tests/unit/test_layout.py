"""What is too wide for a terminal is broken between words and columns, and nothing of it is lost."""

from __future__ import annotations

import pytest

from baker.layout import fold, lay_out, measure

GREEN, RESET = "\x1b[32m", "\x1b[0m"
DIGEST = f"sha256:{'ab' * 32}"


@pytest.mark.parametrize("width", [12, 24, 40, 80, 200])
def test_folded_text_fits_and_keeps_every_word(width: int) -> None:
    text = "  Failed: web: the image tests of web failed because a file was not there\n  and so on"
    folded = fold(text, width)
    assert folded.split() == text.split()
    assert all(measure(line) <= width for line in folded.splitlines())


def test_text_that_fits_is_left_alone() -> None:
    text = "    changed     0.05 s  Make   a folder"
    assert fold(text, len(text)) == text


def test_continued_lines_begin_below_what_they_continue() -> None:
    assert fold("  one two three", 10) == "  one two\n    three"
    assert fold("key    one two three", 15, hang=7) == "key    one two\n       three"


def test_styles_take_no_room() -> None:
    text = f"{GREEN}changed{RESET} one two"
    assert fold(text, 15) == text
    assert fold(text, 14) == f"{GREEN}changed{RESET} one\n  two"


def test_word_that_fits_only_further_left_is_put_there_whole() -> None:
    assert fold(f"  digest       {DIGEST}", 80, hang=15) == f"  digest\n    {DIGEST}"
    assert fold(DIGEST, 40) == DIGEST


def test_table_is_one_line_per_row_where_nobody_looks_at_a_terminal() -> None:
    rows = [("A", "WHY"), ("x", "word " * 50), ("long", "")]
    assert lay_out(rows, None) == ["A     WHY", f"x     {'word ' * 50}".rstrip(), "long"]


def test_last_column_is_folded_below_its_head() -> None:
    rows = [("RECIPE", "WHY"), ("web", "its parent base will be baked; it has no build")]
    assert lay_out(rows, 40) == [
        "RECIPE  WHY",
        "web     its parent base will be baked;\n        it has no build",
    ]


def test_columns_that_have_no_room_continue_below_in_every_row() -> None:
    rows = [("BAKE", "RECIPE", "WHO"), ("01J" * 8, "web-server", "ann"), ("01K" * 8, "db", "")]
    head, first, second = lay_out(rows, 30)
    assert head == "BAKE\n    RECIPE      WHO"
    assert first == f"{'01J' * 8}\n    web-server  ann"
    assert second == f"{'01K' * 8}\n    db"
