"""Code that is run as a user who is not root, with a home, credentials and a BAKER_HOME of his own.

Run as a program, it applies the recipe of a project, or runs its image tests, and prints what came of it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baker.configurer import ConfigureRequest, configure, run_image_tests
from baker.configurer.events import Event, Unconfined
from baker.errors import BakerError
from baker.model import Recipe
from baker.providers.protocol import CommandResult, OutputSink

REPOSITORY = Path(__file__).parents[1]
NOBODY = 65534
BECOME = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def open_the_way(path: Path) -> None:
    """Others may enter every folder above a path; pytest's own are for one user alone."""
    for folder in path.parents:
        if os.geteuid() == 0 and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o055)


def as_nobody(argv: Sequence[str], scratch: Path) -> list[str]:
    """The command as nobody, who finds baker and its interpreter although they may lie in root's home.

    What else is there he does not see. Whoever is not root runs it as himself.
    """
    if os.geteuid() != 0:
        return list(argv)
    places = sorted({REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)})
    closed = {path: folder for path in places if (folder := close_of(path)) is not None}
    bridges = {path: scratch / f"bridge-{number}" for number, path in enumerate(closed)}
    script = []
    for path, bridge in bridges.items():
        bridge.mkdir(exist_ok=True)
        script.append(f"mount --bind {shlex.quote(str(path))} {shlex.quote(str(bridge))}")
    for folder in sorted(set(closed.values())):
        script.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(folder))}")
    for path, bridge in bridges.items():
        script.append(f"mkdir -p {shlex.quote(str(path))}")
        script.append(f"mount --bind {shlex.quote(str(bridge))} {shlex.quote(str(path))}")
    script.append('exec "$@"')
    return ["unshare", "--mount", "sh", "-euc", "\n".join(script), "sh", *BECOME, *argv]


def close_of(path: Path) -> Path | None:
    """The outermost folder above a path that others may not enter."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)


@dataclass(kw_only=True)
class Outcome:
    """What came of a recipe: the log, what the parent said of a missing sandbox, and the error."""

    log: list[str]
    unconfined: list[str]
    error: str | None
    hint: str | None
    commands: int


@dataclass(kw_only=True)
class User:
    """Somebody who bakes: ``home`` with credentials in it, ``machine`` where the recipe's commands run."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    interpreter: str = sys.executable

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def project(self) -> Path:
        return self.home / "site"

    @property
    def machine(self) -> Path:
        return self.root / "machine"

    @property
    def variables(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(self.home),
            "AWS_SECRET_ACCESS_KEY": "of the user",
            **self.environ,
        }

    def settle(self) -> None:
        """Make the folders, all his and closed to others."""
        self.root.mkdir(parents=True)
        open_the_way(self.root)
        self.write(".aws/credentials", "his secret")
        self.write("letter.txt", "his letter")
        self.machine.mkdir()
        self.give(self.machine)

    def write(self, path: str, text: str) -> Path:
        """A file of his, in his home."""
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        for found in (file, *file.parents):
            if found.is_relative_to(self.root):
                self.give(found)
        return file

    def give(self, path: Path) -> None:
        path.chmod(0o700 if path.is_dir() else 0o600)
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)

    def start(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            as_nobody(argv, self.root),
            env=self.variables,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def python(self, code: str) -> str:
        """What code prints; it must not fail."""
        process = self.start([sys.executable, "-c", code])
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        return out

    def start_recipe(
        self, deploy: str, *, project: Path | None = None, hidden: Sequence[Path] = (), **request: Any
    ) -> subprocess.Popen[str]:
        name = "test_image.py" if request.get("tests") else "deploy.py"
        project = project or self.project
        self.write(f"site/recipes/web/{name}", deploy)
        request = {
            "project": str(project),
            "folder": str(self.project / "recipes" / "web"),
            "machine": str(self.machine),
            "hidden": list(map(str, hidden)),
            **request,
        }
        return self.start([self.interpreter, __file__, json.dumps(request)])

    def apply(self, deploy: str, **options: Any) -> Outcome:
        """Apply a deploy (or run image tests, with ``tests``); ``options``: see ``start_recipe``."""
        process = self.start_recipe(deploy, **options)
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        return Outcome(**json.loads(out.splitlines()[-1]))


class Folder:
    """A machine only in so far as commands run in one folder. For what is not about machines."""

    def __init__(self, folder: str) -> None:
        self.name = "web"
        self.commands = 0
        self._folder = folder

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_output: OutputSink | None = None,
    ) -> CommandResult:
        self.commands += 1
        done = subprocess.run(
            argv,
            input=stdin or b"",
            env={**os.environ, **(env or {})},
            cwd=self._folder,
            capture_output=True,
            timeout=timeout,
        )
        if on_output is not None:
            on_output("stdout", done.stdout)
            on_output("stderr", done.stderr)
        return CommandResult(exit_status=done.returncode, stdout=done.stdout, stderr=done.stderr)


def main() -> None:
    request = json.loads(sys.argv[1])
    recipe = Recipe(
        name="web",
        folder=request["folder"],
        project=request["project"],
        description="",
        targets={},
        timeout=request.get("timeout", 60.0),
        total_timeout=120.0,
    )
    machine: Any = Folder(request["machine"])
    log: list[str] = []
    events: list[Event] = []
    error: BakerError | None = None

    def tell(line: str) -> None:
        log.append(line)
        print(line, flush=True)

    shared = {"on_event": events.append, "log": tell, "cancel": threading.Event()}
    try:
        if request.get("tests"):
            run_image_tests(
                recipe, machine, files=["test_image.py"], timeout=60.0, hidden=request["hidden"], **shared
            )
        else:
            asked = ConfigureRequest(
                recipe=recipe, target="aws", data={}, secrets={}, environment={}, hidden=request["hidden"]
            )
            configure(asked, machine, **shared)
    except BakerError as failure:
        error = failure
    outcome = Outcome(
        log=log,
        unconfined=[event.why for event in events if isinstance(event, Unconfined)],
        error=None if error is None else f"{type(error).__name__}: {error}",
        hint=None if error is None else error.hint,
        commands=machine.commands,
    )
    print(json.dumps(vars(outcome)))


if __name__ == "__main__":
    main()
