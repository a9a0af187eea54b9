"""CI on a change: the Action and the script, run as a CI runs them, in a repository of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.action import Runner
from tests.e2e.project import BAKER, REPOSITORY, Project, make_project, share_downloads
from tests.integration.test_since import commit, git

SCRIPT = REPOSITORY / "ci/bake.sh"

PAGE = """
from pyinfra.operations import files

files.template(name="Write the page", src="templates/page.j2", dest="/srv/page")
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Two recipes in git, of which one reads a template; nothing is baked, and the branch is ``change``."""
    project = make_project(tmp_path / "images", tmp_path / "home")
    project.recipe("page", deploy=PAGE)
    project.recipe("plain")
    project.write("templates/page.j2", "one\n")
    git(tmp_path, "init", "-q", "-b", "main", "images")
    commit(project.folder)
    git(project.folder, "checkout", "-q", "-b", "change")
    project.environ["PATH"] = f"{BAKER.parent}:{os.environ['PATH']}"
    return project


def make_runner(project: Project, scratch: Path) -> Runner:
    scratch.mkdir()
    environ = project.variables
    del environ["BAKER_ACTOR"]
    return Runner(action=REPOSITORY, workspace=project.folder, scratch=scratch, environ=environ)


def without_baker(path: str) -> str:
    return os.pathsep.join(folder for folder in path.split(os.pathsep) if not Path(folder, "baker").exists())


def run_script(project: Project, status: int = 0, **variables: str) -> str:
    """As a CI that is not GitHub; what it said."""
    with start_script(project, **variables) as running:
        said = running.communicate()[0]
    assert running.returncode == status, said
    assert "Traceback" not in said
    return said


def start_script(project: Project, **variables: str) -> subprocess.Popen[str]:
    """In a group of processes of its own."""
    environ = {**project.variables, "CI": "true"}
    environ |= {f"BAKER_CI_{name.upper()}": value for name, value in variables.items()}
    return subprocess.Popen(
        [SCRIPT],
        cwd=project.folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def stand_in(project: Project, name: str, text: str) -> None:
    """A program of this name comes first on PATH."""
    folder = project.home.with_name("stand-ins")
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}")
    (folder / name).chmod(0o755)
    project.environ["PATH"] = f"{folder}:{project.environ['PATH'].removeprefix(f'{folder}:')}"


@pytest.mark.machine
def test_action_bakes_what_a_pull_request_touches_and_tells_the_pipeline(
    project: Project, tmp_path: Path, shared_home: Path
) -> None:
    share_downloads(shared_home, project.home)
    runner = make_runner(project, tmp_path / "runner")
    outputs = runner.run(
        recipes="page", channel="pr-7", expires="7d", ephemeral="true", install="false", sudo="false"
    )
    assert runner.status == 0, runner.said
    assert json.loads(outputs["baked"]) == ["page:1"]
    assert outputs["changed"] == "true"
    [planned] = json.loads(outputs["plan"])["recipes"]
    assert (planned["recipe"], planned["action"]) == ("page", "bake")
    assert "### baker: 1 baked" in runner.summary
    assert "| page:1 | **baked** |" in runner.summary
    assert Path(outputs["summary"]).read_text() == runner.summary
    [bake] = json.loads((Path(outputs["folder"]) / "bake.json").read_text())["bakes"]
    assert bake["outcome"] == "baked"
    image = project.json("image", "show", "page:1")
    assert image["channels"] == ["pr-7"]
    assert image["builds"][0]["provenance"]["actor"] == "ann"

    # What nobody reads is changed: nothing is baked, although nothing is known of the other recipe.
    project.write("README.md", "new\n")
    outputs = runner.run(
        since="main", recipes="page", channel="pr-7", ephemeral="true", install="false", sudo="false"
    )
    assert runner.status == 0, runner.said
    assert (outputs["baked"], outputs["changed"]) == ("[]", "false")
    assert json.loads(outputs["plan"])["recipes"] == []

    # The template is changed: its reader is to be baked, and the plan says why.
    project.write("templates/page.j2", "two\n")
    outputs = runner.run(
        command="plan", since="main", recipes="page", channel="pr-7", ephemeral="true", install="false"
    )
    assert runner.status == 0, runner.said
    assert (outputs["baked"], outputs["changed"]) == ("[]", "true")
    assert "templates/page.j2 changed" in runner.summary


def test_action_takes_inputs_as_text_and_nothing_as_a_command(project: Project, tmp_path: Path) -> None:
    runner = make_runner(project, tmp_path / "runner")
    text = "x $(touch stolen) `touch stolen` '; touch stolen; \"\ntouch stolen\n"
    asked = dict.fromkeys(("recipes", "targets", "since", "channel", "catalog"), text)
    for given in ({"command": text}, asked, {"recipes": "plain", "jobs": text, "expires": text}):
        runner.run(**given, install="false", ephemeral="true", sudo="false")
        assert runner.status == 2, runner.said
    assert not list(tmp_path.rglob("stolen"))


def test_value_of_an_output_cannot_end_it_nor_begin_another(project: Project, tmp_path: Path) -> None:
    """Details hold names of files, which a pull request may choose."""
    project.write("recipes/page/x\nEOF\nbaked<<EOF\nevil", "")
    runner = make_runner(project, tmp_path / "runner")
    outputs = runner.run(command="plan", since="main", install="false", ephemeral="true", sudo="false")
    assert runner.status == 0, runner.said
    assert outputs["baked"] == "[]"
    assert json.loads(outputs["plan"])["stale"]
    assert "page: " in runner.said  # which recipes are touched, once


def test_ci_with_a_catalog_that_goes_with_the_job_is_told_so(project: Project, tmp_path: Path) -> None:
    runner = make_runner(project, tmp_path / "runner")
    outputs = runner.run(command="plan", install="false", sudo="false")
    assert runner.status == 2
    assert "number the versions from 1 again" in runner.said
    assert "--ephemeral" in runner.said
    assert outputs["changed"] == "false"


def test_script_leaves_a_plan_as_files_in_any_ci(project: Project) -> None:
    said = run_script(project, command="plan", recipes="plain", ephemeral="true")
    out = project.folder / "baker-ci"
    assert sorted(path.name for path in out.iterdir()) == [
        *(".gitignore", "baked.json", "changed", "plan.json", "summary.md")
    ]
    summary = (out / "summary.md").read_text()
    assert summary.startswith("### baker plan: bake 1")
    assert summary in said
    assert (out / "changed").read_text() == "true\n"
    assert git(project.folder, "status", "--porcelain") == ""
    # Nothing of an earlier run is taken for this one's.
    said = run_script(project, status=2, command="plan", recipes="nosuch", ephemeral="true")
    assert 'no recipe "nosuch"' in said
    assert sorted(path.name for path in out.iterdir()) == [
        *(".gitignore", "baked.json", "changed", "summary.md")
    ]
    assert (out / "changed").read_text() == "false\n"


def test_script_refuses_a_command_that_it_does_not_know(project: Project) -> None:
    assert "BAKER_CI_COMMAND is bake, plan or nightly" in run_script(project, status=2, command="image")


def test_script_keeps_what_a_project_ignores_and_refuses_to_write_into_it(project: Project) -> None:
    ignored = project.write(".gitignore", "*.qcow2\n")
    for here in (".", str(project.folder)):
        said = run_script(project, status=2, command="plan", ephemeral="true", out=here)
        assert "a folder of its own" in said
    project.write("artifacts/theirs", "")
    run_script(project, status=2, command="plan", recipes="nosuch", ephemeral="true", out="artifacts")
    assert ignored.read_text() == "*.qcow2\n"
    assert "artifacts/" in git(project.folder, "status", "--porcelain")


def test_script_that_is_cancelled_ends_baker_and_waits_for_it(project: Project) -> None:
    project.write("baker.toml", '[nightly]\njitter = "1000d"\n')
    with start_script(project, command="nightly", ephemeral="true", sudo="false") as running:
        assert running.stdout
        assert "Begins in" in running.stdout.readline()
        os.killpg(running.pid, signal.SIGTERM)
        said = running.stdout.read()
    assert running.returncode == 130, said
    assert "Left as it is" not in said
    assert (project.folder / "baker-ci/changed").read_text() == "false\n"


STUBBORN = """
[ "$1" = nightly ] || exit 2
trap 'echo ended >> "$PWD/told"; sleep 0.5; trap - TERM; echo cleaned >> "$PWD/told"; exit 130' TERM INT HUP
printf '{"outcome": "inter'
echo ready >&2
while :; do sleep 0.05; done
"""
"""Says a half, and takes its time to clean up."""
SUDO = """
while [ "${1#-}" != "$1" ]; do shift; done
echo "$1" >> sudo
exec "$@"
"""


@pytest.mark.parametrize("sudo", ["true", "false"])
def test_script_tells_baker_once_however_often_it_is_told_and_fails_as_it_does(
    project: Project, sudo: str
) -> None:
    stand_in(project, "baker", STUBBORN)
    stand_in(project, "sudo", SUDO)
    with start_script(project, command="nightly", ephemeral="true", sudo=sudo) as running:
        assert running.stdout
        assert running.stdout.readline() == "ready\n"
        os.killpg(running.pid, signal.SIGINT)
        while not (project.folder / "told").exists():
            assert running.poll() is None
        running.terminate()  # as a runner does whose patience ends
        said = running.stdout.read()
    assert running.returncode == 130, said
    assert "Traceback" not in said
    assert (project.folder / "told").read_text() == "ended\ncleaned\n"
    assert not (project.folder / "baker-ci/nightly.json").exists()
    assert (project.folder / "sudo").exists() == (sudo == "true")


@pytest.mark.machine
@pytest.mark.slow
def test_script_fails_as_the_bake_does_and_says_why_in_the_summary(
    project: Project, shared_home: Path
) -> None:
    share_downloads(shared_home, project.home)
    project.recipe("broken", deploy="raise ValueError('the <b>mirror</b> | is gone')\n")
    run_script(project, status=1, recipes="broken plain", ephemeral="true", jobs="2")
    out = project.folder / "baker-ci"
    assert json.loads((out / "baked.json").read_text()) == ["plain:1"]
    assert (out / "changed").read_text() == "true\n"
    summary = (out / "summary.md").read_text()
    assert summary.startswith("### baker: 1 failed, 1 baked\n")
    assert "the <b>mirror</b> | is gone\n" in summary


@pytest.mark.machine
@pytest.mark.slow
def test_script_runs_a_night(project: Project, shared_home: Path) -> None:
    share_downloads(shared_home, project.home)
    run_script(project, command="nightly", recipes="plain", ephemeral="true")
    out = project.folder / "baker-ci"
    assert json.loads((out / "baked.json").read_text()) == ["plain:1"]
    assert json.loads((out / "nightly.json").read_text())["outcome"] == "done"
    assert "plain:1" in (out / "summary.md").read_text()


@pytest.mark.slow
def test_action_installs_what_it_needs(project: Project, tmp_path: Path) -> None:
    """In a copy of this repository: what an action is made of is checked out for it."""
    copy = tmp_path / "action"
    tracked = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in tracked.split("\0")[:-1]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, copy / name)
    runner = make_runner(project, tmp_path / "runner")
    runner.action = copy
    before = runner.environ["PATH"] = without_baker(os.environ["PATH"])
    runner.run(command="plan", recipes="plain", ephemeral="true")
    assert runner.status == 0, runner.said
    assert Path(shutil.which("baker", path=runner.environ["PATH"]) or "").resolve().is_relative_to(copy)
    assert shutil.which("python3", path=runner.environ["PATH"]) == shutil.which("python3", path=before)
    assert "| plain | local/" in runner.summary
