"""git, asked about a project. A work tree's own settings may start programs: those of whom it belongs to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any


def run_git(project: str | Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run git in the project's folder; its output is bytes. Raises FileNotFoundError where there is no git.

    Root asks as the user whom the folder belongs to. What belongs to neither root nor this user is left to
    git's own guard (``safe.directory``).
    """
    owner = Path(project).stat()
    git = ["git", "-c", "core.fsmonitor=false", "-C", str(project)]
    options: dict[str, Any] = {}
    if owner.st_uid in (0, os.geteuid()):
        git[1:1] = ["-c", "safe.directory=*"]  # a folder above may be somebody else's
    elif os.geteuid() == 0:
        variables = {name: value for name, value in os.environ.items() if name != "XDG_CONFIG_HOME"}
        options = {
            "user": owner.st_uid,
            "group": owner.st_gid,
            "extra_groups": [],
            "env": {**variables, "HOME": "/nonexistent"},
        }
    return subprocess.run([*git, *arguments], capture_output=True, stdin=subprocess.DEVNULL, **options)
