"""The project that `baker init` writes. Its files lie beside this module."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from baker.errors import UsageError

STARTER: Mapping[str, str] = {
    "baker.toml": "baker.toml.in",
    "recipes/hello/recipe.toml": "recipe.toml.in",
    "recipes/hello/deploy.py": "deploy.py.in",
    "recipes/hello/test_image.py": "test_image.py.in",
    "templates/hello/index.html.j2": "index.html.j2.in",
    ".github/workflows/images.yml": "workflow.yml.in",
    ".gitignore": "gitignore.in",
}
"""Where each file goes. What is stored has another name: no tool takes it for code of ours."""


def write_starter(folder: Path) -> list[Path]:
    """Write the project into ``folder``, made if it is not there; returns the files.

    Nothing is overwritten: raises UsageError, with what is in the way, before anything is written.
    """
    targets = {folder / path: name for path, name in STARTER.items()}
    in_the_way = [path for path in targets if path.exists() or path.is_symlink()]
    in_the_way += _find_blocked_parents(folder)
    if in_the_way:
        raise UsageError(
            "in the way of a new project: " + ", ".join(map(str, sorted(in_the_way))),
            hint="Name an empty folder, or one that does not exist yet: baker init FOLDER",
        )
    for path, name in targets.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x") as file:
                file.write(files(__name__).joinpath(name).read_text())
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    return list(targets)


def _find_blocked_parents(folder: Path) -> list[Path]:
    """What is no folder where the project needs one."""
    needed = {
        parent for path in STARTER for parent in (folder / path).parents if parent.is_relative_to(folder)
    }
    return [path for path in needed if path.exists() and not path.is_dir()]
