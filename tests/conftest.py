"""What tests share: a store with one bootstrap, and sentences about what is left behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from baker.model import Bootstrap
from baker.providers.local.cgroups import find_cgroup_roots, find_groups
from baker.providers.local.host import children_of, missing_tools
from baker.providers.local.provider import LocalProvider
from baker.settings import CI_ACTORS
from baker.teardown import Teardown
from tests.postgresql import catalog_url, new_url, postgresql, postgresql_url

for variable in ("CI", *CI_ACTORS):  # baker is not to behave as in a CI because its tests run in one
    os.environ.pop(variable, None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of what a shell started with &
    signal.signal(signal.SIGINT, signal.default_int_handler)  # commands of tests inherit it

WORKER = os.environ.get("PYTEST_XDIST_WORKER")
"""Which of the processes that share the tests among them this is, if there are several."""

__all__ = ["catalog_url", "new_url", "postgresql", "postgresql_url"]  # fixtures for every test


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One BAKER_HOME for the whole run: its bootstrap and packages are fetched once.

    BAKER_TEST_HOME names one that outlives the run, for whoever works on baker. Of workers that run side by
    side each has its own, which begins with what one of them fetched: what a test leaves behind is told by
    where it lies.
    """
    require_root()
    chosen = os.environ.get("BAKER_TEST_HOME")
    if WORKER is None:
        return Path(chosen) if chosen else tmp_path_factory.mktemp("home")
    home = tmp_path_factory.mktemp("home")
    seed = find_seed(tmp_path_factory)
    with holding(seed, "bootstrap"):
        make_bootstrap(seed)
        copy_bootstraps(seed / "local", home / "local")
    return home


@pytest.fixture(scope="session")
def bodies_home(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for a lab with machines: there is what its instances start from, made once as well."""
    from tests.lab.source_body import ensure_source

    if WORKER is not None:
        seed = find_seed(tmp_path_factory)
        with holding(seed, "source"):
            ensure_source(seed)
            shutil.copytree(seed / "lab", shared_home / "lab", symlinks=True)
    return shared_home


def find_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The BAKER_HOME that workers copy from, and in which nobody tests."""
    chosen = os.environ.get("BAKER_TEST_HOME")
    seed = Path(chosen) if chosen else tmp_path_factory.getbasetemp().parent / "seed"
    seed.mkdir(parents=True, exist_ok=True)
    return seed


@contextlib.contextmanager
def holding(seed: Path, name: str) -> Iterator[None]:
    """One worker at a time; the others find what it made."""
    with (seed / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def copy_bootstraps(seed: Path, store: Path) -> None:
    """With the packages that they were made of, and no other layer: a home that is kept has many."""
    for name in ("apt", "bootstraps"):
        shutil.copytree(seed / name, store / name, symlinks=True)
    (store / "layers").mkdir()
    for made in (store / "bootstraps").glob("*.json"):
        for digest in json.loads(made.read_text())["layers"]:
            for file in (seed / "layers").glob(f"{digest.removeprefix('sha256:')}.*"):
                shutil.copy2(file, store / "layers" / file.name)


def make_bootstrap(home: Path) -> None:
    provider = LocalProvider(home)
    provider.check()
    source = provider.resolve(Bootstrap(distribution="debian", suite="trixie"), None, {}, provider.arch)
    teardown = Teardown("BOOTSTRAP", None)
    provider._chain(source, teardown)
    assert teardown.close() == []


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
