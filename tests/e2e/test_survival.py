"""What a bake leaves behind when it is killed, when the disk is full, when its machine dies."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.project import Project, make_project
from tests.e2e.survival import CELLS, find_unsound, inject, make_slow_project

pytestmark = pytest.mark.machine

REDUCED = {
    ("launch", "SIGTERM"),
    ("configure", "SIGINT"),
    ("configure", "kill -9 child"),
    ("capture", "full disk"),
    ("register", "kill -9"),
}


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Iterator[Project]:
    """A project whose BAKER_HOME is a small disk of its own."""
    folder = tmp_path_factory.mktemp("survival")
    home = folder / "home"
    home.mkdir()
    make_project(folder / "first", shared_home).recipe("slow")
    Project(folder=folder / "first", home=shared_home).bake("slow")  # the bootstrap is there afterwards
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500m", "survival", home], check=True)
    try:
        for name in ("apt", "bootstraps", "layers"):
            shutil.copytree(shared_home / "local" / name, home / "local" / name)
        yield make_slow_project(folder / "project", home)
    finally:
        subprocess.run(["umount", home], check=True)


@pytest.mark.parametrize(
    ("stage", "fault"),
    [cell if cell in REDUCED else pytest.param(*cell, marks=pytest.mark.slow) for cell in CELLS],
)
def test_fault_in_a_stage_leaves_nothing_and_the_next_bake_works(
    survivor: Project, traces: Callable[[], set[str]], stage: str, fault: str
) -> None:
    survived = inject(survivor, stage, fault, traces)
    assert "Traceback" not in survived.stderr
    if fault.startswith("SIG"):
        assert survived.status == 130, survived.stderr
    assert survived.leaks == ()
    assert find_unsound(survivor) == []


# --- what a recipe does to its machine ------------------------------------------------------------


def fails(project: Project, name: str, command: str, toml: str = "") -> str:
    """Bake a recipe of one command, which must fail; returns the error."""
    deploy = f"from pyinfra.operations import server\n\nserver.shell(commands=[{command!r}])\n"
    project.recipe(name, toml=f'from = "debian:trixie"\n{toml}', deploy=deploy)
    (bake,) = project.bake(name, status=1)
    return str(bake["error"])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Project:
    return make_slow_project(tmp_path_factory.mktemp("limits") / "project", shared_home)


@pytest.mark.usefixtures("nothing_left_behind")
def test_recipe_that_fills_memory_fails_with_the_limit(project: Project) -> None:
    error = fails(
        project, "hungry", "head -c 1G /dev/zero > /dev/shm/full", '[targets.local]\nmemory = "200M"\n'
    )
    assert "reached its memory limit of 200 MiB" in error


@pytest.mark.usefixtures("nothing_left_behind")
def test_fork_bomb_fails_with_the_limit(project: Project) -> None:
    bomb = "bomb() { while :; do sleep 100 & done; }; bomb"
    error = fails(project, "bomb", bomb, "[targets.local]\npids = 200\n")
    assert "reached its limit of 200 processes" in error


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left_behind")
def test_fork_bomb_that_hides_its_failure_is_not_captured(project: Project) -> None:
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 2; true"
    error = fails(project, "sly", bomb, "[targets.local]\npids = 200\n")
    assert "reached its limit of 200 processes" in error


@pytest.mark.usefixtures("nothing_left_behind")
def test_machine_that_was_switched_off_is_not_captured(project: Project) -> None:
    error = fails(project, "off", "poweroff -f; sleep 5")
    assert "died" in error or "does not run any more" in error


@pytest.mark.usefixtures("nothing_left_behind")
def test_server_reboot_goes_on_with_network_in_the_rebooted_machine(project: Project) -> None:
    deploy = """
from pyinfra.operations import server

server.shell(name="Before", commands=["echo > /etc/before", "touch /run/before"])
server.reboot(delay=2, interval=1, reboot_timeout=60)
server.shell(
    name="After", commands=["test -e /etc/before", "! test -e /run/before", "grep eth0 /proc/net/dev"]
)
"""
    project.recipe("rebooting", deploy=deploy)
    assert [bake["outcome"] for bake in project.bake("rebooting")] == ["baked"]


# --- the store and the catalog --------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["corrupted", pytest.param("missing", marks=pytest.mark.slow)])
def test_bake_on_a_broken_layer_names_it_and_force_mends_it(
    tmp_path: Path, shared_home: Path, damage: str
) -> None:
    home = tmp_path / "home"
    for name in ("apt", "bootstraps", "layers"):
        shutil.copytree(shared_home / "local" / name, home / "local" / name)
    project = make_slow_project(tmp_path / "project", home)
    project.bake("slow")
    artifact = project.run("image", "resolve", "slow").stdout.strip()
    chain = json.loads((home / f"local/artifacts/{artifact.removeprefix('sha256:')}.json").read_text())
    layer = home / f"local/layers/{chain['layers'][-1].removeprefix('sha256:')}.erofs"
    if damage == "missing":
        layer.unlink()
    else:
        content = bytearray(layer.read_bytes())
        content[len(content) // 2] ^= 255
        layer.write_bytes(content)
    failed = project.run("run", "slow", "--", "true", status=1)
    assert chain["layers"][-1] in failed.stderr
    assert "--force" in failed.stderr
    assert [bake["outcome"] for bake in project.bake("slow", "--force")] == ["baked"]
    project.run("run", "slow", "--", "true")


@pytest.mark.usefixtures("nothing_left_behind")
def test_nothing_is_launched_when_the_ledger_cannot_be_written(tmp_path: Path, shared_home: Path) -> None:
    project = make_slow_project(tmp_path / "project", shared_home)
    project.environ["BAKER_CATALOG"] = f"sqlite:///{tmp_path}/catalog.db"
    project.bake("slow")
    logs = set((shared_home / "logs").iterdir())
    subprocess.run(["mount", "--bind", "-o", "ro", tmp_path, tmp_path], check=True)
    try:
        project.environ["TMPDIR"] = "/dev/shm"
        failed = project.run("bake", "slow", "--force", status=1)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert "catalog" in failed.stderr
    begun = [path.read_text() for path in set((shared_home / "logs").iterdir()) - logs]
    assert not any("== launch" in text for text in begun)
