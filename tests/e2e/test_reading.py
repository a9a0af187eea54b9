"""Reading needs no right but to read: a store made by root, looked at by a user in no special group."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from baker.catalog import Catalog
from baker.model import Outcome
from tests.conftest import require_root
from tests.e2e.project import BAKER, REPOSITORY, Project, make_project
from tests.factories import make_build, make_image

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
READING = [
    ("image", "ls"),
    ("image", "show", "web:1"),
    ("image", "resolve", "web:1"),
    ("status",),
    ("plan",),
    ("recipe", "ls"),
    ("system", "df"),
    ("system", "clean", "--dry-run"),
]


def close_of(path: Path) -> Path | None:
    """The outermost folder above a path that others may not enter."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)


def run_as_nobody(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a mount namespace where nobody may enter what baker itself consists of."""
    script = []
    for number, path in enumerate({REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)}):
        if (closed := close_of(path)) is not None:
            bridge = project.home.parent / f"bridge-{number}"
            bridge.mkdir(exist_ok=True)
            show, over, target = shlex.quote(str(bridge)), shlex.quote(str(closed)), shlex.quote(str(path))
            script.append(f"mount --bind {target} {show}; mount -t tmpfs -o mode=755 tmpfs {over}")
            script.append(f"mkdir -p {target}; mount --bind {show} {target}")
    script.append('exec "$@"')
    return subprocess.run(
        ["unshare", "--mount", "sh", "-euc", "\n".join(script), "sh", *NOBODY, BAKER, *arguments],
        cwd=project.folder,
        env={**project.variables, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    require_root()
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o055)
    project = make_project(tmp_path / "project", tmp_path / "home")
    project.recipe("fresh")
    with open_catalog(project) as catalog:
        build = make_build("web", arch="x86_64")
        log = project.home / "logs" / f"{build.id}.log"
        log.parent.mkdir()
        log.write_text("everything\n")
        catalog.start_bake(id=build.id, recipe="web", target="local", arch="x86_64", log_path=str(log))
        image = make_image(catalog, build=build)
        catalog.finish_bake(build.id, Outcome.BAKED, image.reference, None)
    for name in ("local/artifacts", "local/bootstraps", "bakes"):
        (project.home / name).mkdir(parents=True)
    yield project
    shutil.rmtree(project.home)


def open_catalog(project: Project) -> Catalog:
    return Catalog.open(f"sqlite:///{project.home}/catalog.db", actor="root")


def list_files(project: Project) -> list[str]:
    return sorted(path.name for path in project.home.iterdir())


def test_every_reading_command_works_for_nobody(project: Project) -> None:
    before = list_files(project)
    assert before == ["bakes", "catalog.db", "local", "logs"], "no write-ahead log: nobody writes"
    for arguments in READING:
        done = run_as_nobody(project, *arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
    assert list_files(project) == before


def test_catalog_is_read_by_nobody_while_a_bake_writes(project: Project) -> None:
    with open_catalog(project) as catalog:
        catalog.start_bake(id="01LIVE", recipe="web", target="local", arch="x86_64", log_path="/x")
        assert "catalog.db-wal" in list_files(project)
        assert "01LIVE" in run_as_nobody(project, "status").stdout
        (bake,) = [record.id for record in catalog.bakes() if record.image]
        assert run_as_nobody(project, "logs", bake).stdout == "everything\n"


def test_what_nobody_may_not_do_is_said_with_what_to_do(project: Project) -> None:
    for arguments in [("promote", "web:1", "dev", "--yes"), ("bake",), ("run", "web:1")]:
        done = run_as_nobody(project, *arguments)
        assert done.returncode == 1
        assert "Run it with sudo" in done.stderr, arguments
        assert "a fault of baker" not in done.stderr, arguments


@pytest.mark.parametrize(
    ("closed", "commands"),
    [
        ("", ["image ls", "system df", "system clean --dry-run"]),
        ("catalog.db", ["status", "plan"]),
        ("local", ["system df"]),
        ("logs", ["logs BAKE"]),
    ],
    ids=["home", "catalog", "store", "logs"],
)
def test_what_nobody_may_not_read_is_named(project: Project, closed: str, commands: list[str]) -> None:
    with open_catalog(project) as catalog:
        (bake,) = [record.id for record in catalog.bakes()]
    (project.home / closed).chmod(0o600)
    for command in commands:
        done = run_as_nobody(project, *command.replace("BAKE", bake).split())
        assert done.returncode == 1, command
        assert f"{project.home / closed}" in done.stderr, command
        assert "Permission denied\n  Run it with sudo, or ask its owner" in done.stderr, command
    if not closed:
        doctor = run_as_nobody(project, "system", "doctor")
        assert f"not root, and {project.home} may not be read" in doctor.stdout
