"""Fitting text to the width of a terminal: between words and columns, never within them."""

from __future__ import annotations

import re
from collections.abc import Sequence

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
"""What a style puts into a text; it takes no room."""

ENOUGH = 24
"""Columns that are worth being folded into."""

GAP = "  "
INDENT = "    "


def measure(text: str) -> int:
    """How many columns a line takes."""
    return len(ESCAPE.sub("", text))


def fold(text: str, width: int, hang: int | None = None) -> str:
    """Each line broken between words where it is too long; a word that is longer than a line stays whole.

    Continued lines begin ``hang`` columns in, by default two more than the line that they continue.
    """
    return "\n".join("\n".join(_fold_line(line, width, hang)) for line in text.split("\n"))


def _fold_line(line: str, width: int, hang: int | None) -> list[str]:
    if measure(line) <= width:
        return [line]
    plain = ESCAPE.sub("", line)
    least = len(plain) - len(plain.lstrip()) + 2
    hang = least if hang is None else hang
    folded, current = [], ""
    for word in re.findall(r"\s*\S+", line):
        if current and measure(current + word) > width:
            folded.append(current)
            word = word.lstrip()
            if hang + measure(word) > width:  # a digest fits if it need not stand below its column
                hang = min(hang, least)
            current = " " * hang + word
        else:
            current += word
    return [*folded, current]


def lay_out(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """The lines of a table, one text per row: columns as wide as they must be.

    Where that is wider than ``width`` the last column is folded, or the last ones continue below.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    taken = sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
    if width is None or taken + widths[-1] <= width:
        return [_join(row, widths) for row in rows]
    if width - taken >= ENOUGH:
        return [_hang_last(row, widths, width - taken, " " * taken) for row in rows]
    groups: list[list[int]] = [[]]
    for column in range(len(widths)):
        used = sum(widths[each] + len(GAP) for each in groups[-1]) + len(INDENT) * (len(groups) > 1)
        if groups[-1] and used + widths[column] > width:
            groups.append([])
        groups[-1].append(column)
    return [
        f"\n{INDENT}".join(
            fold(_join([row[each] for each in group], [widths[each] for each in group]), width - len(INDENT))
            for group in groups
        )
        for row in rows
    ]


def _join(row: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _hang_last(row: Sequence[str], widths: Sequence[int], room: int, below: str) -> str:
    first, *further = fold(row[-1], room, 0).split("\n")
    return "\n".join([_join([*row[:-1], first], widths), *(below + line for line in further)])
