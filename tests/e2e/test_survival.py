"""What a bake leaves behind when it is killed, when the disk is full, when its machine dies."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from baker.providers.local.host import PR_SET_CHILD_SUBREAPER
from tests.e2e.project import BAKER, Project, make_project
from tests.e2e.survival import CELLS, FAULTS, catalog_file, find_unsound, inject, make_slow_project
from tests.mirror import Mirror, serving_mirror

pytestmark = pytest.mark.machine

REDUCED = {
    ("capture", "full disk"),
    ("register", "kill -9"),
}


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Iterator[Project]:
    """A project whose BAKER_HOME is a small disk of its own, and whose catalog is another."""
    folder = tmp_path_factory.mktemp("survival")
    home, ledger = folder / "home", folder / "ledger"
    make_project(folder / "first", shared_home).recipe("slow")
    Project(folder=folder / "first", home=shared_home).bake("slow")  # the bootstrap is there afterwards
    with contextlib.ExitStack() as mounted:
        for place, size in ((home, "1500m"), (ledger, "64m")):
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "survival", place], check=True)
            mounted.callback(subprocess.run, ["umount", place], check=True)
        copy_downloads(shared_home, home)
        yield make_slow_project(folder / "project", home, ledger)


def copy_downloads(shared: Path, home: Path) -> None:
    """Copies: the tests damage them."""
    for name in ("apt", "bootstraps", "layers"):
        shutil.copytree(shared / "local" / name, home / "local" / name)


@pytest.mark.parametrize(
    ("stage", "fault"),
    [cell if cell in REDUCED else pytest.param(*cell, marks=pytest.mark.slow) for cell in CELLS],
)
def test_fault_in_a_stage_leaves_nothing_and_the_next_bake_works(
    survivor: Project, traces: Callable[[], set[str]], stage: str, fault: str
) -> None:
    survived = inject(survivor, stage, fault, traces)
    assert "Traceback" not in survived.stderr
    assert survived.status in FAULTS[fault].statuses, survived.stderr
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


@pytest.mark.parametrize(
    "command",
    ["poweroff -f; sleep 5", pytest.param("kill -SEGV 1; sleep 5; true", marks=pytest.mark.slow)],
    ids=["switched off", "init crashed"],
)
@pytest.mark.usefixtures("nothing_left_behind")
def test_machine_whose_init_is_gone_is_not_captured(project: Project, command: str) -> None:
    error = fails(project, "off", command)
    assert "died" in error or "does not run any more" in error


def test_machine_ends_on_a_host_whose_first_process_reaps_nobody(project: Project) -> None:
    """What ran out of time is dead in the machine, and the nsenter that would have reaped it is too."""
    deploy = "from pyinfra.operations import server\n\nserver.shell(commands=['sleep 600'], _timeout=1)\n"
    project.recipe("late", deploy=deploy)
    adopter = subprocess.Popen(
        [sys.executable, "-c", ADOPTER, BAKER, "bake", "late"],
        cwd=project.folder,
        env=project.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    said, _ = adopter.communicate(timeout=300)
    assert said.split() == ["1"], "baker failed, and left nobody to adopt"


ADOPTER = f"""
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl({PR_SET_CHILD_SUBREAPER}, 1, 0, 0, 0)
print(subprocess.run(sys.argv[1:]).returncode)
with open(f"/proc/self/task/{{os.getpid()}}/children") as children:
    print(children.read())
"""


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


# --- sources, the store and the catalog --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["corrupted", "missing"])
def test_bake_on_a_broken_layer_names_it_and_force_mends_it(
    tmp_path: Path, shared_home: Path, damage: str
) -> None:
    copy_downloads(shared_home, tmp_path / "home")
    project = make_slow_project(tmp_path / "project", tmp_path / "home")
    project.recipe("child", toml='from = "slow"\n')
    project.bake("slow")
    layer = layers_of(project, "slow")[-1]
    break_layer(layer, damage)
    failed = project.run("run", "slow", "--", "true", status=1)
    assert layer.stem in failed.stderr
    assert "--force" in failed.stderr
    if damage == "missing":  # its parent is no image any more, and is baked with it
        assert [bake["recipe"] for bake in project.bake("child")] == ["slow", "child"]
    else:
        (child,) = project.bake("child", status=1)
        assert layer.stem in str(child["error"])
        assert [bake["outcome"] for bake in project.bake("slow", "--force")] == ["baked"]
        assert [bake["outcome"] for bake in project.bake("child")] == ["baked"]
    for image in ("slow", "child"):
        project.run("run", image, "--", "test", "-e", "/etc/unique")


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["corrupted", "missing"])
def test_broken_layer_of_the_distribution_is_made_again(
    tmp_path: Path, shared_home: Path, damage: str
) -> None:
    copy_downloads(shared_home, tmp_path / "home")
    project = make_slow_project(tmp_path / "project", tmp_path / "home")
    project.bake("slow")
    layer = layers_of(project, "slow")[0]
    break_layer(layer, damage)
    assert [bake["outcome"] for bake in project.bake("slow", "--force")] == ["baked"]
    assert layers_of(project, "slow")[0] == layer
    project.run("run", "slow:1", "--", "test", "-e", "/etc/unique")


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left_behind")
def test_packages_that_break_off_are_fetched_by_the_next_bake(tmp_path: Path, shared_home: Path) -> None:
    copy_downloads(shared_home, tmp_path / "home")
    project = make_slow_project(tmp_path / "project", tmp_path / "home")
    (cached,) = (project.home / "local/apt/debs").glob("base-passwd_*")
    cached.unlink()
    with serving_mirror(shared_home) as mirror:
        project.write(
            "baker.toml",
            f'[local]\nmirror = "{mirror}/debian"\nsecurity_mirror = "{mirror}/debian-security"\n'
            "[bake]\nretries = 0\n",
        )
        Mirror.cut = "base-passwd_"
        (bake,) = project.bake("slow", status=1)
        assert "packages of debian:trixie cannot be fetched" in str(bake["error"])
        assert project.run("system", "sweep").stdout == "nothing is left behind\n"
        assert list((project.home / "local/machines").iterdir()) == []
        assert not cached.exists()
        Mirror.cut = None
        assert [bake["outcome"] for bake in project.bake("slow")] == ["baked"]


def layers_of(project: Project, reference: str) -> list[Path]:
    """The files of an image's layers, lowest first."""
    artifact = project.run("image", "resolve", reference).stdout.strip().removeprefix("sha256:")
    chain = json.loads((project.home / f"local/artifacts/{artifact}.json").read_text())
    return [
        project.home / f"local/layers/{digest.removeprefix('sha256:')}.erofs" for digest in chain["layers"]
    ]


def break_layer(layer: Path, damage: str) -> None:
    if damage == "missing":
        layer.unlink()
    else:
        content = bytearray(layer.read_bytes())
        content[len(content) // 2] ^= 255
        layer.write_bytes(content)


def test_build_that_joined_an_image_and_was_not_distributed_is_finished_by_sweep(project: Project) -> None:
    project.recipe("joined")
    project.bake("joined")
    with contextlib.closing(sqlite3.connect(catalog_file(project))) as catalog, catalog:
        joined = "SELECT number FROM builds WHERE recipe = 'joined'"
        catalog.execute(f"UPDATE image_builds SET available = 0 WHERE build IN ({joined})")
    assert (
        "no complete version that is available" in project.run("image", "resolve", "joined", status=2).stderr
    )
    assert project.run("system", "sweep", "--dry-run").stdout == "would finish joined:1: available\n"
    assert project.run("system", "sweep").stdout == "finished joined:1: available\n"
    project.run("image", "resolve", "joined")
    assert project.run("system", "sweep").stdout == "nothing is left behind\n"


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
