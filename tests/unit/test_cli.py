"""Which module has which command: only that one is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from baker.cli import COMMANDS, choose_modules, make_app


def list_commands(group: typer.core.TyperGroup, prefix: str = "") -> set[str]:
    found = set()
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            found |= list_commands(command, f"{prefix}{name} ")
        else:
            found.add(prefix + name)
    return found


def test_table_of_commands_is_what_the_modules_have() -> None:
    group = typer.main.get_command(make_app())
    assert isinstance(group, typer.core.TyperGroup)
    assert list_commands(group) == {command for commands in COMMANDS.values() for command in commands}


@pytest.mark.parametrize(
    ("arguments", "modules"),
    [
        (["image", "ls", "web"], ["images"]),
        (["bake"], ["bakes"]),
        (["promote", "web:1", "prod"], ["promoting"]),
        (["system", "df"], ["system"]),
        (["image"], list(COMMANDS)),
        (["--help"], list(COMMANDS)),
        (["--project", "site", "bake"], list(COMMANDS)),
        (["imagels"], list(COMMANDS)),
        ([], list(COMMANDS)),
    ],
)
def test_module_of_a_command_is_found(arguments: list[str], modules: list[str]) -> None:
    assert choose_modules(arguments) == modules


def test_listing_images_imports_only_what_it_needs() -> None:
    script = (
        "import sys; from baker.cli import choose_modules, make_app;"
        "make_app(choose_modules(['image', 'ls']));"
        "print(' '.join(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for name in ("baker.comparing", "baker.progress_console", "baker.cli.bakes", "pydantic", "asyncio"):
        assert name not in loaded.stdout.split()
