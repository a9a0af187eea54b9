"""git in a work tree that is somebody else's."""

import os
import subprocess
from pathlib import Path

import pytest

from baker.git import run_git
from baker.identity import read_commit
from tests.nobody import open_the_way


def make_repository(folder: Path, marker: Path) -> None:
    """One whose settings start a program at each `git diff` and `git status`."""
    for arguments in (
        ["init", "-q"],
        ["config", "filter.x.clean", f"id -u >> {marker}; cat"],
        ["config", "user.name", "Ann"],
        ["config", "user.email", "ann@example.com"],
    ):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)
    (folder / ".gitattributes").write_text("* filter=x\n")
    (folder / "file").write_text("one\n")
    for arguments in (["add", "."], ["commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)
    (folder / "file").write_text("two\n")
    marker.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_root_asks_as_the_owner_of_the_work_tree(tmp_path: Path) -> None:
    folder, marker = tmp_path / "project", tmp_path / "ran"
    folder.mkdir()
    make_repository(folder, marker)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
    open_the_way(folder)
    marker.touch(mode=0o666)
    marker.chmod(0o666)
    assert run_git(folder, "diff", "--name-only").stdout == b"file\n"
    commit, dirty = read_commit(str(folder))
    assert commit is not None
    assert dirty is True
    assert set(marker.read_text().split()) == {"65534"}


def test_work_tree_of_this_user_below_another_repository_is_read(tmp_path: Path) -> None:
    make_repository(tmp_path, tmp_path / "ran")
    commit, dirty = read_commit(str(tmp_path))
    assert (len(commit or ""), dirty) == (40, True)
