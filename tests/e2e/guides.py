"""The guides under docs/, read as a user reads them: the commands of one, in their order."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.project import BAKER, REPOSITORY, share_downloads

GUIDES = REPOSITORY / "docs"


def read_blocks(guide: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", guide.read_text(), re.MULTILINE | re.DOTALL)


def follow_guide(name: str, folder: Path, shared_home: Path, environ: Mapping[str, str] | None = None) -> str:
    """Run every command in a new home below ``folder``, with these variables too; returns what they printed,
    errors included."""
    home = folder / "home"
    share_downloads(shared_home, home)
    script = "set -eo pipefail\n" + "".join(read_blocks(GUIDES / name, "console"))
    path = f"{BAKER.parent}:{os.environ['PATH']}"
    variables = {**os.environ, **(environ or {}), "BAKER_HOME": str(home), "PATH": path}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
