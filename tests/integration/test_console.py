"""What a person sees on a terminal of some width, and a program in a pipe."""

from __future__ import annotations

import io
import os
import pty
import termios
from collections.abc import Callable, Iterator
from typing import TextIO

import pytest

from baker.configurer.events import OperationEnded
from baker.errors import HostError
from baker.progress import RecipeEvent
from baker.progress_console import ProgressConsole

OpenTerminal = Callable[[int], tuple[TextIO, Callable[[], str]]]
NAME = "Make a folder whose name says all there is to say about what is in it"
REASON = "nothing that it depends on moved since 2026-11-23 01:39 UTC"


@pytest.fixture
def open_terminal() -> Iterator[OpenTerminal]:
    """Makes a terminal of so many columns; returns it, and what reads what it was sent."""
    opened: list[tuple[int, TextIO]] = []

    def open_one(columns: int) -> tuple[TextIO, Callable[[], str]]:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, columns))
        terminal = os.fdopen(theirs, "w")
        opened.append((ours, terminal))
        return terminal, lambda: read_all(ours, terminal)

    yield open_one
    for ours, terminal in opened:
        terminal.close()
        os.close(ours)


def read_all(ours: int, terminal: TextIO) -> str:
    """Everything that was written to the other end: a mark that is written last comes last."""
    terminal.write("\0")
    terminal.flush()
    said = b""
    while not said.endswith(b"\0"):
        said += os.read(ours, 65536)
    return said[:-1].decode().replace("\r\n", "\n")


def show_much(console: ProgressConsole) -> None:
    console.error(HostError("the disk of the builder is full", hint="Free some space; then bake again."))
    ended = OperationEnded(name=NAME, number=1, changed=True, seconds=0.05, nested=False, ignored_error=False)
    console.show(RecipeEvent(bake="01J", recipe="web", event=ended))
    console.table(("RECIPE", "WHY"), [("web", REASON)])


def test_lines_fit_a_terminal_and_nothing_is_lost(open_terminal: OpenTerminal) -> None:
    terminal, read = open_terminal(40)
    show_much(ProgressConsole(out=terminal, err=terminal, environ={"NO_COLOR": "1"}))
    shown = read()
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 40
    assert f"{NAME} RECIPE WHY web {REASON}" in " ".join(shown.split())
    assert "\n                        whose name" in shown, "below where the name begins"


def test_terminal_of_unknown_width_folds_by_itself(open_terminal: OpenTerminal) -> None:
    terminal, read = open_terminal(0)
    show_much(ProgressConsole(out=terminal, err=terminal, environ={"TERM": "dumb"}))
    assert f"web     {REASON}\n" in read()


def test_styles_are_for_terminals(open_terminal: OpenTerminal) -> None:
    terminal, read = open_terminal(80)
    show_much(ProgressConsole(out=terminal, err=terminal, environ={"TERM": "xterm"}))
    assert "\x1b[31mError:\x1b[0m the disk" in read()


def test_pipe_gets_whole_lines_without_styles() -> None:
    out, err = io.StringIO(), io.StringIO()
    show_much(ProgressConsole(out=out, err=err, environ={"TERM": "xterm", "COLUMNS": "40"}))
    assert out.getvalue() == f"RECIPE  WHY\nweb     {REASON}\n"
    assert err.getvalue().splitlines() == [
        "Error: the disk of the builder is full",
        "  Free some space; then bake again.",
        f"    changed     0.05 s  {NAME}",
    ]


def test_moving_line_is_cut_visibly(open_terminal: OpenTerminal) -> None:
    terminal, read = open_terminal(20)
    ProgressConsole(out=terminal, err=terminal, environ={"NO_COLOR": "1"}).status("  configure one two three")
    assert read() == "  configure one tw…"
