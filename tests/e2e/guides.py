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


def follow_guide(
    name: str,
    folder: Path,
    shared_home: Path,
    environ: Mapping[str, str] | None = None,
    *,
    clone: Path | None = None,
    ports: Mapping[str, str] | None = None,
) -> str:
    """Run every command in a new home below ``folder``, with these variables too; returns what they printed,
    errors included. ``clone`` is where a guide begins that is read in a clone of baker. ``ports`` are others
    than the guide's, since a test shares the host."""
    home = folder / "home"
    share_downloads(shared_home, home)
    script = "set -eo pipefail\n" + "".join(read_blocks(GUIDES / name, "console"))
    for port, other in (ports or {}).items():
        script = script.replace(f":{port}", f":{other}")
    path = f"{BAKER.parent}:{os.environ['PATH']}"
    variables = {**os.environ, **(environ or {}), "BAKER_HOME": str(home), "PATH": path}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=clone or folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
