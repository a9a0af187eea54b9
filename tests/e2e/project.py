"""A project of a test: recipes small enough to bake in seconds, and the command line as a user runs it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from baker import cli

REPOSITORY = Path(__file__).parents[2]
BAKER = Path(sys.executable).with_name("baker")


@dataclass(kw_only=True)
class Project:
    """A folder with baker.toml, and a BAKER_HOME.

    ``in_process``: commands that only read or write the catalog are run in the test's own process, which
    takes a fifth of the time. Whatever makes a machine, or dies of a signal, needs one of its own.
    """

    folder: Path
    home: Path
    environ: dict[str, str] = field(default_factory=dict)
    in_process: bool = False

    def write(self, path: str, text: str) -> Path:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def recipe(self, name: str, *, toml: str = "", deploy: str = "", test: str | None = None) -> None:
        """A recipe on a plain trixie, unless ``toml`` says otherwise."""
        self.write(f"recipes/{name}/recipe.toml", toml or 'from = "debian:trixie"\n')
        self.write(f"recipes/{name}/deploy.py", deploy or TRIVIAL)
        if test is not None:
            self.write(f"recipes/{name}/test_image.py", test)

    @property
    def variables(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BAKER_")}
        return {**inherited, "BAKER_HOME": str(self.home), "BAKER_ACTOR": "tester", **self.environ}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BAKER, *arguments],
            cwd=self.folder,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, status: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run baker; fails unless it ends with ``status``. No output ever holds a traceback."""
        run = run_here if self.in_process else run_command
        done = run(arguments, self.folder, self.variables, stdin)
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == status, said
        assert "Traceback" not in said
        return done

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", status=status).stdout)

    def bake(self, *arguments: str, status: int = 0) -> list[Mapping[str, Any]]:
        bakes: list[Mapping[str, Any]] = self.json("bake", *arguments, status=status)["bakes"]
        return bakes


def run_command(
    arguments: Sequence[str], folder: Path, variables: Mapping[str, str], stdin: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BAKER, *arguments], cwd=folder, env=variables, input=stdin, capture_output=True, text=True
    )


def run_here(
    arguments: Sequence[str], folder: Path, variables: Mapping[str, str], stdin: str
) -> subprocess.CompletedProcess[str]:
    """The same by the entry point, in this process."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        for name in os.environ.keys() - variables.keys():
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["baker", *arguments])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    stdout, stderr = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), stdout, stderr)


TRIVIAL = """
from pyinfra.operations import files

files.directory(name="Make a folder", path="/srv/made")
"""


def make_project(folder: Path, home: Path, *, in_process: bool = False) -> Project:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "baker.toml").touch()
    return Project(folder=folder, home=home, in_process=in_process)


def copy_shipped_project(folder: Path, home: Path) -> Project:
    """The recipes and templates of this repository."""
    project = make_project(folder, home)
    for name in ("recipes", "templates"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "baker.toml", folder)
    return project


def share_downloads(shared: Path, home: Path) -> None:
    """Let a new home begin with the packages and bootstraps of the shared one, but with no image."""
    for name in ("apt", "layers", "bootstraps"):
        source = shared / "local" / name
        if source.exists():
            shutil.copytree(source, home / "local" / name, dirs_exist_ok=True, copy_function=link_or_copy)


def link_or_copy(source: str, target: str) -> None:
    """Packages and layers never change once they are there: link them."""
    if source.endswith((".deb", ".erofs")):
        os.link(source, target)
    else:
        shutil.copy2(source, target)
