"""A command becomes root's without being written down on the way: sudo logs what it is given."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from baker.providers.aws.machine import AS_ROOT, SHOWN, shorten_command, write_line
from tests.aws import Baking, assert_nothing_left, make_provider, quick_lab

SECRET = "hunter2"
SUDO = """#!/bin/sh
printf '%s\\n' "$*" >>"{log}"
[ "$1 $2" = "-n --" ] && shift 2
exec "$@"
"""


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize(
    "argument",
    [
        f"export TOKEN='{SECRET}'; echo",
        "a\nb\n\n",
        "\\n \\\\ \\c \\0101 %s",
        "'\"$HOME`id`",
        "grün",
        "-n",
        "",
    ],
)
def test_sudo_is_told_nothing_of_the_command_and_the_rest_of_the_input_is_the_commands(
    tmp_path: Path, shell: str, argument: str
) -> None:
    log, sudo = tmp_path / "log", tmp_path / "sudo"
    sudo.write_text(SUDO.format(log=log))
    sudo.chmod(0o755)
    words = ["sh", "-c", 'printf %s. "$1"; cat; exit 3', "sh", argument]
    program = f"exec {shlex.join(words)}"

    done = subprocess.run(
        [shell, "-c", AS_ROOT],
        input=write_line(program) + b"the rest\n",
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
    )

    assert (done.returncode, done.stdout, done.stderr) == (3, f"{argument}.the rest\n".encode(), b"")
    assert SECRET not in log.read_text()


def test_no_command_line_that_a_user_who_is_not_root_sends_holds_what_is_run(tmp_path: Path) -> None:
    with quick_lab() as lab:
        baking = Baking(make_provider(lab, tmp_path))
        machine = baking.launch()
        received: list[tuple[str, bytes]] = []
        lab.fleet.answers.insert(0, lambda *told: received.append(told))  # type: ignore[attr-defined]

        machine.run(["sh", "-c", f"TOKEN={SECRET} true"], env={"TOKEN": SECRET}, stdin=b"the rest")

        commands = [command for _, command in lab.fleet.commands]  # type: ignore[attr-defined]
        assert set(commands) == {AS_ROOT}
        [(command, rest)] = received
        assert f"TOKEN={SECRET} true" in command
        assert rest == b"the rest"
        assert_nothing_left(lab, baking)


@pytest.mark.parametrize("before", range(SHOWN - 40, SHOWN + 1, 4))
def test_a_message_never_holds_a_part_of_a_word_of_a_command(before: int) -> None:
    """The whole secret would be taken out of it afterwards, a part of it not."""
    secret = "s3cr3t" * 5
    script = f"{'x ' * (before // 2)}TOKEN={secret} {'y ' * 100}"

    shown = shorten_command(["sh", "-c", script])

    assert len(shown) <= SHOWN + 2
    assert secret in shown or "s3cr" not in shown


def test_a_short_command_is_told_whole() -> None:
    assert shorten_command(["cat", "two words"]) == "cat 'two words'"
