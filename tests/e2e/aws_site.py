"""A project that bakes for aws on a lab, and the command line in processes that are forked."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.aws import NO_LATENCY, answer_scripts, quick_waits
from tests.lab import Lab, running_lab

COPY_REGION = "eu-central-1"

RECIPE = """
description = "bakes in a moment"
[targets.aws]
from = { owner = "136693071363", name = "debian-13-{deb_arch}-*" }
"""
DEPLOY = """
from pyinfra.operations import server

server.shell(name="Do something", commands=["true"])
"""


HANGS_SECONDS = 120.0
"""After so long a command will never end."""
SETTINGS = {"request_timeout": "1s", "share_accounts": ["111122223333"]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What one command came to."""

    status: int | None
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        return f"{self.stdout}\n{self.stderr}"


@dataclass(kw_only=True)
class Running:
    """A command that is under way."""

    process: Any
    streams: Sequence[Path]

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def wait(self) -> Done:
        self.process.join(HANGS_SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        stdout, stderr = (stream.read_text() for stream in self.streams)
        for stream in self.streams:
            stream.unlink()
        return Done(status=self.process.exitcode, stdout=stdout, stderr=stderr)


@dataclass(kw_only=True)
class Site:
    """A project and a BAKER_HOME for a lab. ``attempts`` of a call, before baker gives it up; ``retries`` of
    a bake, once it is configured."""

    lab: Lab
    folder: Path
    home: Path
    variables: dict[str, str] = field(default_factory=dict)
    attempts: int | None = None
    retries: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        own = {"BAKER_HOME": str(self.home), "BAKER_ACTOR": "tester"}
        return {**self.lab.environment, **own, **self.variables}

    def write(self, path: str, text: str) -> None:
        """A file of the project, that everybody may read: the configurer is nobody."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in file.relative_to(self.folder).parents:
            (self.folder / folder).chmod(0o755)
        file.write_text(text)

    def recipe(self, name: str, toml: str = RECIPE, deploy: str = DEPLOY) -> None:
        self.write(f"recipes/{name}/recipe.toml", toml)
        self.write(f"recipes/{name}/deploy.py", deploy)

    def configure(self, **settings: Any) -> None:
        """What [aws] of baker.toml has besides what leads to the lab."""
        chosen: dict[str, Any] = {"regions": [COPY_REGION], **SETTINGS, **settings}
        lines = [f"{key} = {json.dumps(value)}" for key, value in chosen.items() if value is not None]
        tries = "" if self.retries is None else f"[bake]\nretries = {self.retries}\n"
        self.write("baker.toml", self.lab.settings + "\n".join(lines) + "\n" + tries)

    def start(self, *arguments: str) -> Running:
        streams = [Path(tempfile.mkstemp(dir=self.folder.parent)[1]) for _ in range(2)]
        process = context().Process(
            target=be_baker,
            args=(arguments, str(self.folder), self.environment, list(map(str, streams)), self.attempts),
        )
        process.start()
        return Running(process=process, streams=streams)

    def run(self, *arguments: str, status: int = 0) -> Done:
        """Fails unless the command ends with ``status``; a traceback is never shown."""
        done = self.start(*arguments).wait()
        assert done.status == status, done.said
        assert "Traceback" not in done.said
        return done

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", status=status).stdout)

    # --- looking at it ----------------------------------------------------------------------------

    def amis(self, reference: str) -> dict[str, str]:
        """An image's AMIs by region."""
        builds = self.json("image", "show", reference)["builds"]
        return {
            artifact["store"]: artifact["id"]
            for build in builds
            if build["target"] == "aws"
            for artifact in build["artifacts"]
        }

    def parameters(self, recipe: str, channel: str) -> dict[str, str]:
        """What follows a channel, by region."""
        name = f"parameter /baker/{recipe}/{channel} "
        found = [line.partition(" ") for line in self.lab.holdings()]
        return {region: rest.removeprefix(name) for region, _, rest in found if rest.startswith(name)}

    def is_held(self) -> list[str]:
        """All that the account holds but images, their snapshots and parameters."""
        kept = ("image", "snapshot", "parameter")
        return [line for line in self.lab.holdings() if line.split()[1] not in kept]


def context() -> Any:
    """Processes are forked from one that has imported everything and runs nothing."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.e2e.aws_site", "tests.e2e.aws_preload"])
    return found


def be_baker(
    arguments: Sequence[str],
    folder: str,
    environment: Mapping[str, str],
    streams: Sequence[str],
    attempts: int | None,
) -> None:
    """In the child: the command line, as its entry point has it."""
    from baker import cli
    from baker.providers.aws import session

    for number, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_APPEND), number)
    sys.stdin = io.StringIO()
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith(("BAKER_", "AWS_"))]:
        del os.environ[name]
    os.environ.update(environment)
    sys.argv = ["baker", *arguments]
    if attempts is not None:
        session.ATTEMPTS = attempts
    with quick_waits():
        cli.main()


@contextlib.contextmanager
def running_site(template: Path | None = None, *recipes: str) -> Iterator[Site]:
    """An empty account, and a project that bakes ``recipes`` (``probe``) into two regions. ``template`` is a
    BAKER_HOME to begin with."""
    with (
        tempfile.TemporaryDirectory(prefix="baker-site-") as scratch,
        running_lab(latency=NO_LATENCY) as lab,
    ):
        lab.fleet.answers.append(answer_scripts)  # type: ignore[attr-defined]
        Path(scratch).chmod(0o755)
        site = Site(lab=lab, folder=Path(scratch, "project"), home=Path(scratch, "home"))
        for recipe in recipes or ("probe",):
            site.recipe(recipe)
        site.configure()
        if template is not None:
            shutil.copytree(template, site.home)
        yield site
