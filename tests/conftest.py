"""What tests share: a store with one bootstrap, and sentences about what is left behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from baker.providers.local.cgroups import find_cgroup_roots, find_groups
from baker.providers.local.host import children_of, missing_tools
from baker.providers.local.provider import LocalProvider
from baker.settings import CI_ACTORS
from tests.postgresql import catalog_url, new_url, postgresql, postgresql_url

for variable in ("CI", *CI_ACTORS):  # baker is not to behave as in a CI because its tests run in one
    os.environ.pop(variable, None)

__all__ = ["catalog_url", "new_url", "postgresql", "postgresql_url"]  # fixtures for every test


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


def list_descendants(pid: int) -> set[str]:
    """Every process below ``pid`` that is not dead yet, as "PID name"."""
    found = set()
    for child in children_of(pid):
        found |= {describe_process(child)} | list_descendants(child)
    return found - {""}


def list_orphans(marks: Sequence[str]) -> set[str]:
    """Processes whose parent is gone and whose command or control group names one of ``marks``."""
    found = set()
    for child in children_of(1):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            told = Path(f"/proc/{child}/cmdline").read_text() + Path(f"/proc/{child}/cgroup").read_text()
            if any(mark in told for mark in marks):
                found |= {describe_process(child)} | list_descendants(child)
    return found - {""}


def describe_process(pid: int) -> str:
    """ "PID name", or nothing for one that is dead."""
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition(" (")[2].rpartition(") ")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if rest.startswith("Z") else f"{pid} {name}"


def list_traces(folders: Sequence[Path]) -> set[str]:
    """Everything of this run that a bake could leave on this host: what happens below ``folders``, or by us.

    Others may bake on the same host meanwhile: what is theirs does not count.
    """
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    loops = subprocess.run(
        ["losetup", "--noheadings", "--output", "NAME,BACK-FILE"], capture_output=True, text=True
    ).stdout.splitlines()
    ours = {trace for trace in [*mounts, *loops] if any(str(folder) in trace for folder in folders)}
    stores = [
        path
        for folder in folders
        for depth in ("local", "*/local", "*/*/local")
        for path in folder.glob(depth)
    ]
    prefixes = [LocalProvider(store.parent).cgroup_of("") for store in stores]
    for prefix in prefixes:
        ours |= {str(path) for path in find_groups(find_cgroup_roots(), prefix)}
    marks = [*map(str, folders), *prefixes]
    return ours | list_descendants(os.getpid()) | list_orphans(marks)


@pytest.fixture
def traces(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], set[str]]:
    """A function that lists them."""
    return lambda: list_traces([shared_home, tmp_path_factory.getbasetemp()])


@pytest.fixture
def nothing_left_behind(traces: Callable[[], set[str]]) -> Iterator[None]:
    """The test leaves no mount, loop device, cgroup or process."""
    before = traces()
    yield
    # The kernel takes a moment for the last of what was killed.
    deadline = time.monotonic() + 5.0
    while (left := traces() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == set()
