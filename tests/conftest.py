"""What tests share: a store with one bootstrap, and sentences about what is left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from baker.providers.local.cgroups import find_cgroup_roots
from baker.providers.local.host import missing_tools


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One BAKER_HOME for the whole run: its bootstrap and packages are fetched once.

    BAKER_TEST_HOME names one that outlives the run, for whoever works on baker.
    """
    require_root()
    chosen = os.environ.get("BAKER_TEST_HOME")
    return Path(chosen) if chosen else tmp_path_factory.mktemp("home")


def require_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("boots machines: needs root")
    if missing := missing_tools():
        pytest.fail(f"missing tools: {missing}; run make test, which installs them")


def list_traces() -> set[str]:
    """Everything that a machine could leave on this host."""
    mounts = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    loops = set(
        subprocess.run(
            ["losetup", "--noheadings", "--output", "NAME,BACK-FILE"], capture_output=True, text=True
        )
        .stdout.strip()
        .splitlines()
    )
    groups = {str(path) for root in find_cgroup_roots().all for path in root.glob("baker-*")}
    names = ("systemd-nspawn", "pasta", "unshare", "bwrap")
    processes = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "comm").read_text().strip() in names:
                processes.add(f"{path.name} {(path / 'comm').read_text().strip()}")
        except (FileNotFoundError, ProcessLookupError):
            continue
    namespaces = {str(path) for path in Path("/run/netns").glob("*")}
    return mounts | loops | groups | processes | namespaces


@pytest.fixture
def nothing_left_behind() -> Iterator[None]:
    """The test leaves no mount, loop device, cgroup, process or network namespace."""
    before = list_traces()
    yield
    assert list_traces() - before == set()
