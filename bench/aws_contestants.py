"""Packer and baker at the same work on the lab, each a whole process started as a user would."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.contestants import FOLDER, PATH, PROGRAM
from bench.measuring import Run
from bench.process_tree import Running
from tests.lab import Call, Lab

PROJECT = FOLDER / "aws_project"
PACKER = "packer"
RECIPE = "small"


class Contestant(Protocol):
    """``lab`` is the account that it works in."""

    name: str
    lab: Lab

    def start(self) -> Running:
        """Begin to make one AMI."""


@dataclass(kw_only=True)
class Build:
    """One AMI that was made: ``stages`` are baker's seconds in each."""

    run: Run
    calls: Sequence[Call]
    ami: str
    stages: Mapping[str, float] = field(default_factory=dict)

    @property
    def verify(self) -> float:
        return self.stages.get("verify", 0.0)

    @property
    def verify_calls(self) -> int:
        """Those for machines of the AMI that was made: all instances but the first one."""
        named = [set(call.params.get("InstanceIds", ())) for call in self.calls]
        first = next((ids for ids in named if ids), set())
        launches = [call for call in self.calls if call.action == "RunInstances"]
        return len([ids for ids in named if ids - first]) + len(launches[1:])


def find_packer() -> str:
    """Its version. Raises SystemExit where it is missing."""
    if shutil.which(PACKER) is None:
        raise SystemExit("packer is not installed: apt-get install packer (Debian 12 has 1.6.6)")
    told = subprocess.run([PACKER, "version"], capture_output=True, text=True, check=True)
    return told.stdout.splitlines()[0]


@dataclass(kw_only=True)
class Packer:
    """``packer build`` of amazon-ebs with a file and a shell provisioner, all else as it is by default."""

    lab: Lab
    folder: Path
    name: str = "packer"
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def start(self, script: str = "provision.sh") -> Running:
        variables = {
            "endpoint": self.lab.endpoint,
            "region": self.lab.region,
            "ssh_username": self.lab.ssh_user,
            "name": f"{RECIPE}-{time.time_ns()}",
            "script": script,
        }
        told = [word for name, value in variables.items() for word in ("-var", f"{name}={value}")]
        environment = {"PATH": PATH, "HOME": str(self.folder), "LANG": "C.UTF-8", "CHECKPOINT_DISABLE": "1"}
        return Running(
            [PACKER, "build", "-color=false", *told, f"{RECIPE}.pkr.hcl"],
            env=environment,
            cwd=self.folder,
            folder=self.folder / "said" / f"packer-{next(self._numbers)}",
        )


@dataclass(kw_only=True)
class Baker:
    """``baker bake --force`` with a project and a BAKER_HOME of its own in ``folder``."""

    lab: Lab
    folder: Path
    name: str = "baker"
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def start(self) -> Running:
        return self.command("bake", RECIPE, "--force", "--json")

    def command(self, *arguments: str) -> Running:
        (self.folder / "baker.toml").write_text(self.lab.settings)
        environment = {
            **self.lab.environment,
            "PATH": PATH,
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "BAKER_HOME": str(self.folder / "home"),
        }
        return Running(
            [PROGRAM, *arguments],
            env=environment,
            cwd=self.folder,
            folder=self.folder / "said" / f"baker-{next(self._numbers)}",
        )


def make_folder(folder: Path) -> Path:
    """A copy of the project that both work in; a recipe's process, which is nobody, may read it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PROJECT, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def build(contestant: Contestant) -> Build:
    """Make one AMI; what the account was asked for meanwhile is the contestant's."""
    before = list_own_images(contestant.lab)
    contestant.lab.forget_calls()
    run = contestant.start().require_success()
    calls = contestant.lab.calls
    [ami] = list_own_images(contestant.lab) - before
    stages = json.loads(run.stdout)["bakes"][0]["stages"] if run.stdout.startswith("{") else {}
    return Build(run=run, calls=calls, ami=ami, stages=stages)


def list_own_images(lab: Lab) -> set[str]:
    found = lab.client("ec2").describe_images(Owners=["self"])["Images"]
    return {image["ImageId"] for image in found}
