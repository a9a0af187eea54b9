"""A project's nights: real bakes, promotions, notifications; nothing but what is due is done."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from baker.catalog import Catalog
from tests.apt_repository import keys, make_repository
from tests.e2e.project import TRIVIAL, Project, make_project
from tests.integration.test_channels import let_time_pass
from tests.integration.test_notifying import Listener, listening

__all__ = ["keys"]

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("nothing_left_behind")]

SETTINGS = """
[nightly]
promote = ["dev", "staging"]
notify = ["env:HOOK"]
ping = "env:PING"

[channels.staging]
after = "dev"
soak = "1h"

[retention]
keep_last = 1
channels = { dev = 1, staging = 1 }
"""
REPOSITORY = """
[local]
repositories = [{ uri = "archive", suite = "stable", keyring = "archive.gpg" }]
"""
INSTALLS = """
from pyinfra.operations import apt

apt.packages(name="Install it", packages=["tiny-tool"], update=True)
"""
FAILS = """
from pyinfra.operations import server

server.shell(name="Break", commands=["exit 3"])
"""
WAITS = """
from pyinfra.operations import server

server.shell(name="Wait", commands=["sleep 600"])
"""
WAIT_SECONDS = 120


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as listener:
        yield listener


@pytest.fixture
def project(tmp_path: Path, shared_home: Path, listener: Listener) -> Project:
    project = make_project(tmp_path / "project", shared_home)
    project.environ["BAKER_CATALOG"] = f"sqlite:///{tmp_path}/catalog.db"
    project.environ["HOOK"] = listener.address
    project.environ["PING"] = listener.ping
    project.write("baker.toml", SETTINGS)
    return project


def outcomes(night: Mapping[str, Any]) -> dict[str, str]:
    return {bake["recipe"]: bake["outcome"] for bake in night["bakes"]}


def promotions(night: Mapping[str, Any]) -> dict[str, str]:
    """``web:dev`` to ``moved web:1``."""
    return {
        f"{move['recipe']}:{move['channel']}": f"{move['outcome']} {move['image']}"
        for move in night["promotions"]
    }


def wait(project: Project, seconds: float) -> None:
    with Catalog.open(project.environ["BAKER_CATALOG"], actor="ann") as catalog:
        let_time_pass(catalog, seconds)


def wait_for_configure(project: Project, recipe: str, process: subprocess.Popen[str]) -> None:
    """Until the recipe's bake is at work on its machine."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not any(
        running["recipe"] == recipe and running["stage"] == "configure"
        for running in project.json("status")["running"]
    ):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_nights_bake_what_is_due_promote_tell_and_do_nothing_when_nothing_happened(
    project: Project, listener: Listener, tmp_path: Path, keys: list[Path]
) -> None:
    archive = make_repository(project.folder / "archive", keys[0])
    shutil.copy(keys[0], project.folder / "archive.gpg")
    project.write("baker.toml", REPOSITORY + SETTINGS)
    project.recipe("base")
    project.recipe("web", toml='from = "base"\n', deploy=TRIVIAL.replace("made", "web"))
    project.recipe("tool", deploy=INSTALLS)

    first = project.json("nightly", "--summary", str(tmp_path / "summary.md"))
    assert first["outcome"] == "done"
    assert outcomes(first) == {"base": "baked", "tool": "baked", "web": "baked"}
    assert promotions(first) == {
        f"{name}:{channel}": f"{outcome} {name}:1"
        for name in ("base", "tool", "web")
        for channel, outcome in (("dev", "moved"), ("staging", "waiting"))
    }
    title = "project: nightly done: 3 baked, 3 promoted"
    assert [told["title"] for told in listener.notified] == [title]
    assert listener.pinged == ["/ping/s3cret/start", "/ping/s3cret"]
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith(f"## {title}\n\n```\n")
    assert "s3cret" not in summary + json.dumps(first)

    # A package is newer, and a recipe breaks: what that does not concern is done all the same.
    make_repository(archive, keys[0], version="1.1")
    project.recipe("base", deploy=FAILS)
    broken = project.json("nightly", status=1)
    assert broken["outcome"] == "failed"
    assert outcomes(broken) == {"base": "failed", "tool": "baked", "web": "blocked"}
    plan = {entry["recipe"]: [reason["kind"] for reason in entry["reasons"]] for entry in broken["plan"]}
    assert plan == {"base": ["changed"], "tool": ["packages-outdated"], "web": ["parent-will-be-baked"]}
    changes = {bake["recipe"]: bake["changes"] for bake in broken["bakes"]}
    assert changes["tool"]["packages"] == [
        {"name": "tiny-tool", "from": "1.0", "to": "1.1", "security": False}
    ]
    moved = {name: what for name, what in promotions(broken).items() if what.startswith("moved")}
    assert moved == {"tool:dev": "moved tool:2"}
    since = {bake["recipe"]: bake["failing_since"] for bake in broken["bakes"]}
    assert since == {"base": broken["started"], "web": broken["started"], "tool": None}
    assert listener.pinged[-1] == "/ping/s3cret/fail"
    told = listener.notified[1]
    assert (told["title"], told["type"]) == ("project: nightly failed: base", "failure")
    assert "tiny-tool 1.0 to 1.1" in told["message"]

    # It is well again: what was baked from it before is still there.
    project.recipe("base")
    well = project.json("nightly")
    assert (well["outcome"], well["recovered"]) == ("done", True)
    assert {bake["recipe"]: (bake["outcome"], bake["recovered"]) for bake in well["bakes"]} == {
        "base": ("unchanged", True),
        "tool": ("unchanged", False),
        "web": ("unchanged", True),
    }
    assert listener.notified[2]["title"] == "project: nightly recovered"

    quiet = project.run("nightly")
    lines = quiet.stdout.splitlines()
    assert lines[0].startswith("project: nightly done (")
    assert [line.split()[:2] for line in lines[1:]] == [
        ["unchanged", "base:1"],
        ["unchanged", "tool:2"],
        ["unchanged", "web:1"],
        *(["waiting", f"{name}:staging"] for name in ("base", "tool", "web")),
    ]
    assert len(listener.notified) == 3, "nothing happened"
    assert listener.pinged[-2:] == ["/ping/s3cret/start", "/ping/s3cret"]


@pytest.mark.slow
def test_image_that_soaked_goes_on_and_what_it_replaces_is_pruned(
    project: Project, listener: Listener
) -> None:
    project.recipe("base")
    project.json("nightly")
    wait(project, 4000)
    soaked = project.json("nightly")
    assert (outcomes(soaked), promotions(soaked)) == (
        {"base": "unchanged"},
        {"base:staging": "moved base:1"},
    )
    assert listener.notified[-1]["title"] == "project: nightly done: 1 promoted"
    project.recipe("base", deploy=TRIVIAL.replace("made", "changed"))
    night = project.json("nightly")
    assert promotions(night) == {"base:dev": "moved base:2", "base:staging": "waiting base:2"}
    assert night["pruned"]["deleted"] == [], "staging holds it"
    wait(project, 4000)
    night = project.json("nightly")
    assert promotions(night) == {"base:staging": "moved base:2"}
    assert (night["pruned"]["deleted"], night["failures"]) == (["base:1"], [])
    assert project.json("nightly")["pruned"]["deleted"] == []
    # What fails night after night says since when.
    project.recipe("base", deploy=FAILS)
    first = project.json("nightly", status=1)
    again = project.run("nightly", status=1)
    assert f"(since {first['started'][:10]})" in again.stdout
    assert [told["type"] for told in listener.notified[-2:]] == ["failure", "failure"]


@pytest.mark.slow
def test_child_is_baked_upon_what_was_promoted_in_the_same_night(project: Project) -> None:
    project.recipe("base")
    project.recipe("web", toml='from = "base"\n', deploy=TRIVIAL.replace("made", "web"))
    night = project.json("nightly", "--gate", "dev", "--no-prune")
    assert outcomes(night) == {"base": "baked", "web": "baked"}
    assert promotions(night)["web:dev"] == "moved web:1"
    # A gate that is not passed is no failure: what is built upon it waits.
    project.recipe("tool", toml='from = "base:staging"\n', deploy=TRIVIAL.replace("made", "tool"))
    night = project.json("nightly")
    assert (night["outcome"], outcomes(night)["tool"]) == ("done", "blocked")
    (tool,) = (bake for bake in night["bakes"] if bake["recipe"] == "tool")
    assert (tool["waits_for"], tool["failing_since"]) == ("base:staging", None)
    wait(project, 4000)
    night = project.json("nightly")
    assert outcomes(night)["tool"] == "baked"
    assert promotions(night)["tool:dev"] == "moved tool:1"
    # A person's roll-back holds.
    project.recipe("base", deploy=TRIVIAL.replace("made", "changed"))
    project.json("nightly", "base")
    project.run("rollback", "base", "dev", "--yes", "--reason", "it hangs")
    night = project.json("nightly", "base")
    assert promotions(night)["base:dev"] == "left base:2"
    assert "it hangs" in night["promotions"][0]["why"][0]


def test_night_while_another_one_is_at_work_does_nothing_and_says_who(
    project: Project, listener: Listener
) -> None:
    project.recipe("base")
    with Catalog.open(project.environ["BAKER_CATALOG"], actor="ann") as catalog:
        lock = catalog.hold_lock("nightly", "01J", seconds=600, store="builder-1:/b#1", pid=7)
        done = project.run("nightly", "--json", status=1)
        since = f"{lock.since:%Y-%m-%d %H:%M:%S} UTC"
        assert f"nightly is held by ann on builder-1 (process 7) since {since}" in done.stderr
        assert "--wait" in done.stderr
        assert (done.stdout, listener.pinged, listener.notified) == ("", [], [])
        assert (catalog.bakes(), catalog.runs()) == ([], [])


@pytest.mark.slow
def test_two_nights_never_overlap_and_one_that_is_interrupted_cleans_up(
    project: Project, listener: Listener
) -> None:
    project.recipe("base", deploy=WAITS)
    project.recipe("fine")
    first = project.start("nightly", "--json", "fine", "base")
    try:
        wait_for_configure(project, "base", first)
        before = len(listener.pinged)
        second = project.run("nightly", status=1)
        assert "nightly is held by tester on " in second.stderr
        assert f"(process {first.pid}) since " in second.stderr
        assert len(listener.pinged) == before, "the other one tells"
        project.recipe("base", deploy=TRIVIAL)
        waiting = project.start("nightly", "--json", "--wait", "1h")
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == "Another nightly is at work; waiting for it\n"
        first.send_signal(signal.SIGINT)
        told, said = first.communicate(timeout=WAIT_SECONDS)
    finally:
        if first.poll() is None:
            first.kill()
    assert first.returncode == 130, said
    night = json.loads(told)
    assert (night["outcome"], night["broken_off"]) == ("interrupted", "interrupted by SIGINT")
    done, progress = waiting.communicate(timeout=WAIT_SECONDS)
    assert waiting.returncode == 0, progress
    assert json.loads(done)["outcome"] == "done"
    assert json.loads(done)["recovered"] is False
    assert listener.pinged[-4:] == [
        "/ping/s3cret/start",
        "/ping/s3cret/fail",
        "/ping/s3cret/start",
        "/ping/s3cret",
    ]
    assert "nothing is left behind" in project.run("system", "sweep").stdout


@pytest.mark.slow
def test_night_that_loses_its_lock_ends_and_has_failed(project: Project, listener: Listener) -> None:
    project.recipe("base", deploy=WAITS)
    night = project.start("nightly", "--json")
    try:
        wait_for_configure(project, "base", night)
        with Catalog.open(project.environ["BAKER_CATALOG"], actor="bob") as catalog:
            held = catalog.find_lock("nightly")
            assert held is not None
            other = catalog.hold_lock(
                "nightly", "01J", seconds=600, store="elsewhere:/b", pid=1, instead_of=held.holder
            )
            told, said = night.communicate(timeout=WAIT_SECONDS)
            assert catalog.find_lock("nightly") == other, "it is the other's"
    finally:
        if night.poll() is None:
            night.kill()
    assert night.returncode == 1, said
    report = json.loads(told)
    assert (report["outcome"], report["broken_off"]) == ("failed", "somebody else took the lock nightly")
    assert listener.notified[-1]["title"] == "project: nightly failed: base, lock"
    assert listener.pinged[-1] == "/ping/s3cret/fail"
    assert "nothing is left behind" in project.run("system", "sweep").stdout


def test_night_that_cannot_begin_is_told(project: Project, listener: Listener) -> None:
    project.recipe("base", toml='from = "debian:trixie"\ncolour = "red"\n')
    done = project.run("nightly", status=1)
    assert "colour" in done.stderr
    assert listener.pinged == ["/ping/s3cret/fail"]
    (told,) = listener.notified
    assert (told["title"], told["type"]) == ("project: nightly could not begin", "failure")
    assert "colour" in told["message"]
    listener.status = 500
    done = project.run("nightly", status=1)
    assert "colour" in done.stderr
    assert "the notification to address 1 (json) was not delivered" in done.stderr
    assert "s3cret" not in done.stderr


def test_recipe_that_is_wrong_keeps_no_other_from_being_baked(project: Project) -> None:
    project.recipe("base")
    project.recipe("wrong", toml='from = "base"\ncolour = "red"\n')
    project.recipe("child", toml='from = "wrong"\n')
    night = project.json("nightly", status=1)
    assert [(bake["recipe"], bake["outcome"]) for bake in night["bakes"]] == [("base", "baked")]
    (failure,) = night["failures"]
    assert failure["step"] == "recipes"
    assert "recipes/wrong/recipe.toml:2" in failure["error"]


@pytest.mark.slow
def test_night_without_settings_and_with_wrong_ones(project: Project) -> None:
    project.write("baker.toml", "")
    project.recipe("base")
    night = project.json("nightly")
    assert (night["outcome"], night["promotions"], outcomes(night)) == ("done", [], {"base": "baked"})
    project.write("baker.toml", '[nightly]\nnotify = ["env:NO_SUCH"]\n')
    assert "NO_SUCH, which is not set" in project.run("nightly", status=2).stderr
    project.write("baker.toml", '[nightly]\npromote = ["latest"]\nping = "gopher://x"\n')
    assert '"nightly.ping" must be an http:// or https:// address' in project.run("nightly", status=2).stderr
    project.write("baker.toml", "")
    assert "latest is always the newest" in project.run("nightly", "--promote", "latest", status=2).stderr
    assert "is not a length of time" in project.run("nightly", "--jitter", "soon", status=2).stderr
    project.environ["CI"] = "true"
    assert "--ephemeral" in project.run("nightly", status=2).stderr
