"""Runs a composite GitHub Action as the runner does: inputs, conditions, variables, files for outputs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

EXPRESSION = re.compile(r"\$\{\{ (.*?) \}\}")
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail")
"""What ``shell: bash`` means."""


@dataclass(kw_only=True)
class Runner:
    """One job. ``workspace`` is the checked out repository, ``said`` the log, ``summary`` the job's page."""

    action: Path
    workspace: Path
    scratch: Path
    environ: dict[str, str]
    said: str = ""
    status: int = 0
    summary: str = ""
    outputs: dict[str, str] = field(default_factory=dict)

    def run(self, **inputs: str) -> dict[str, str]:
        """Run the action's steps until one fails, with these inputs over its defaults; its outputs."""
        action = yaml.safe_load(self.action.joinpath("action.yml").read_text())
        assert inputs.keys() <= action["inputs"].keys()
        defaults = {name: declared["default"] for name, declared in action["inputs"].items()}
        context = {f"inputs.{name}": value for name, value in {**defaults, **inputs}.items()}
        self.status, self.said, self.summary = 0, "", ""
        for number, step in enumerate(action["runs"]["steps"]):
            if self.status == 0 and self._is_due(step, context):
                outputs = self._run_step(step, context, self.scratch / f"step-{number}")
                context |= {f"steps.{step.get('id')}.outputs.{name}": text for name, text in outputs.items()}
        self.outputs = {
            name: resolve(declared["value"], context) for name, declared in action["outputs"].items()
        }
        return self.outputs

    def _is_due(self, step: Mapping[str, Any], context: Mapping[str, str]) -> bool:
        if "if" not in step:
            return True
        compared = re.fullmatch(r"\$\{\{ (\S+) == '(.*)' \}\}", step["if"])
        assert compared, step["if"]
        return context[compared[1]] == compared[2]

    def _run_step(self, step: Mapping[str, Any], context: Mapping[str, str], folder: Path) -> dict[str, str]:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"]  # what is put into a script runs there
        files = {
            name: folder / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_PATH", "script")
        }
        folder.mkdir(exist_ok=True)
        for file in files.values():
            file.write_text("")
        files["script"].write_text(step["run"])
        given = {name: resolve(text, context) for name, text in step.get("env", {}).items()}
        (self.scratch / "temp").mkdir(exist_ok=True)
        done = subprocess.run(
            [*BASH, files["script"]],
            cwd=self.workspace / resolve(step.get("working-directory", "."), context),
            env={
                **self.environ,
                **{name: str(file) for name, file in files.items() if name != "script"},
                "CI": "true",
                "GITHUB_ACTIONS": "true",
                "GITHUB_ACTOR": "ann",
                "GITHUB_ACTION_PATH": str(self.action),
                "GITHUB_WORKSPACE": str(self.workspace),
                "RUNNER_TEMP": str(self.scratch / "temp"),
                **given,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said += done.stdout
        self.status = done.returncode
        self.summary += files["GITHUB_STEP_SUMMARY"].read_text()
        added = files["GITHUB_PATH"].read_text().split("\n")[:-1]
        self.environ["PATH"] = os.pathsep.join([*reversed(added), self.environ["PATH"]])
        return read_outputs(files["GITHUB_OUTPUT"].read_text())


def resolve(text: str, context: Mapping[str, str]) -> str:
    """Expressions are names here, no more; an output that was not set is empty."""
    for name in EXPRESSION.findall(text):
        assert re.fullmatch(r"(inputs|steps\.\w+\.outputs)\.[\w-]+", name), name
        assert name in context or not name.startswith("inputs."), name
    return EXPRESSION.sub(lambda found: context.get(found[1], ""), text)


def read_outputs(text: str) -> dict[str, str]:
    """``NAME=VALUE``, or ``NAME<<MARK``, lines and a line with the mark."""
    outputs = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, heredoc, mark = line.partition("<<")
        if heredoc:
            value = []
            for inner in lines:
                if inner == mark:
                    break
                value.append(inner)
            else:
                raise AssertionError(f"{name} does not end")
            outputs[name] = "\n".join(value)
        else:
            name, equals, value_there = line.partition("=")
            assert equals, line
            outputs[name] = value_there
    return outputs
