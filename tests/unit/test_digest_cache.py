"""What is remembered of a project's files between processes, and when it is not believed."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baker import digest_cache
from baker.digest_cache import find_cache, remembering_digests
from baker.fingerprint import static_inputs
from baker.model import Recipe
from baker.project_files import describe_path, seen_files
from baker.recipes import load_recipe


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "recipes/web").mkdir(parents=True)
    (folder / "recipes/web/recipe.toml").write_text('from = "debian:trixie"\n')
    (folder / "recipes/web/deploy.py").write_text("one = 1\n")
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read so far."""
    names: list[str] = []

    def file_digest(file: Any, algorithm: str, real: Any = hashlib.file_digest) -> Any:
        names.append(Path(file.name).name)
        return real(file, algorithm)

    monkeypatch.setattr("hashlib.file_digest", file_digest)
    return names


@pytest.fixture(autouse=True)
def _like_a_new_process() -> Iterator[None]:
    forget()
    yield
    forget()


def forget() -> None:
    digest_cache._loaded.clear()
    seen_files.known = {}
    seen_files.is_new = False


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all files had been as they are for a while."""
    later = time.time_ns() + 3_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: later)


def look(project: Path, home: Path) -> str:
    """What a new process finds deploy.py to be."""
    forget()
    recipe: Recipe = load_recipe(project, "web")
    with remembering_digests(home, project):
        inputs = static_inputs(recipe, "local", "x86_64", "sha256:0", {}, {}, {})
    return inputs["recipe:deploy.py"]


def digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def test_next_process_does_not_read_what_has_not_changed(
    project: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    assert look(project, tmp_path) == digest("one = 1\n")
    assert look(project, tmp_path) == digest("one = 1\n")
    assert read == ["deploy.py"]


def test_edit_within_the_same_second_is_seen(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where stamps are coarse, size, times and inode may be as they were: a young file is not remembered."""
    deploy = project / "recipes/web/deploy.py"
    before, real = deploy.stat(), os.stat
    monkeypatch.setattr(
        "os.stat", lambda path, **options: before if path == str(deploy) else real(path, **options)
    )
    for text in ("one = 1\n", "one = 2\n"):
        deploy.write_text(text)
        forget()
        with remembering_digests(tmp_path, project):
            assert describe_path(str(project), str(deploy)) == digest(text)
            assert describe_path(str(project), str(deploy)) == digest(text)


def test_edit_that_keeps_size_and_modification_time_is_seen(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy = project / "recipes/web/deploy.py"
    settle(monkeypatch)
    status = deploy.stat()
    assert look(project, tmp_path) == digest("one = 1\n")
    deploy.write_text("one = 2\n")
    os.utime(deploy, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert look(project, tmp_path) == digest("one = 2\n")


def test_changed_permission_is_seen(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(monkeypatch)
    assert look(project, tmp_path) == digest("one = 1\n")
    (project / "recipes/web/deploy.py").chmod(0o755)
    assert look(project, tmp_path) == digest("one = 1\n") + "+x"


def test_folder_that_became_a_link_out_of_the_project_is_seen(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files behind it are the same ones, with the same times."""
    settle(monkeypatch)
    assert look(project, tmp_path) == digest("one = 1\n")
    (project / "recipes/web").rename(tmp_path / "elsewhere")
    (project / "recipes/web").symlink_to(tmp_path / "elsewhere")
    assert look(project, tmp_path) == "outside"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b"sha256:", b"sha256:0"),
        lambda _content: b"",
        lambda _content: b"\xff\n\xff",
        lambda _content: b"[]\n[]",
    ],
    ids=["cut", "changed", "empty", "no-text", "other-json"],
)
def test_damaged_cache_is_ignored_and_made_again(
    project: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    settle(monkeypatch)
    cache = find_cache(tmp_path, project)
    look(project, tmp_path)
    whole = cache.read_bytes()
    cache.write_bytes(damage(whole))
    assert look(project, tmp_path) == digest("one = 1\n")
    assert read == ["deploy.py", "deploy.py"]
    assert cache.read_bytes() == whole


def test_cache_that_cannot_be_written_stops_nothing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    (tmp_path / "home").touch()
    assert look(project, tmp_path / "home") == digest("one = 1\n")


def test_what_is_gone_leaves_the_cache(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    extra = project / "recipes/web/extra"
    extra.write_text("")
    look(project, tmp_path)
    assert b"web/extra" in find_cache(tmp_path, project).read_bytes()
    extra.unlink()
    (project / "recipes/web/other").write_text("")
    look(project, tmp_path)
    assert b"web/extra" not in find_cache(tmp_path, project).read_bytes()
