"""Real machines for tests of what is done to them, and projects whose recipe is applied to one."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from baker.configurer import Configured, ConfigureRequest, configure
from baker.configurer.events import Event
from baker.errors import ConfigureError
from baker.model import Bootstrap, Recipe
from baker.providers.local.provider import LocalProvider
from baker.providers.protocol import Machine
from baker.teardown import Teardown

Launch = Callable[[], Machine]


@pytest.fixture
def no_sandbox_left_behind() -> Iterator[None]:
    """The test leaves no sandbox of this process running or unreaped."""
    reap_adopted()
    yield
    assert find_children(os.getpid(), "bwrap") == []


def reap_adopted() -> None:
    """A process that made machines is the one that orphans go to: reap the sandboxes of others that died."""
    deadline = time.monotonic() + 10.0
    for pid in find_children(os.getpid(), "bwrap"):
        while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.02)


def find_children(parent: int, name: str = "") -> list[int]:
    """Processes that ``parent`` started, zombies too; all, or those with a name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            command, _, rest = path.read_text().partition("(")[2].rpartition(")")
            if int(rest.split()[1]) == parent and name in ("", command):
                found.append(int(path.parent.name))
    return found


@pytest.fixture(scope="module")
def launch(shared_home: Path) -> Iterator[Launch]:
    """Starts build instances that live as long as this module."""
    provider = LocalProvider(shared_home)
    provider.check()
    source = provider.resolve(Bootstrap(distribution="debian", suite="trixie"), None, {}, provider.arch)
    recipe = Recipe(name="probe", folder="/nowhere", project="/nowhere", description="", targets={})
    teardowns = []

    def start() -> Machine:
        teardowns.append(Teardown(f"T{time.time_ns()}", None))
        return provider.launch(teardowns[-1].bake_id, recipe, source, teardowns[-1])

    yield start
    assert [left for teardown in teardowns for left in teardown.close()] == []


@pytest.fixture(scope="module")
def machine(launch: Launch) -> Machine:
    return launch()


@dataclass(kw_only=True)
class Project:
    """A project with one recipe, ``web``, and what applying it came to."""

    root: Path
    machine: Machine
    events: list[Event] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    cancel: threading.Event = field(default_factory=threading.Event)

    @property
    def folder(self) -> Path:
        return self.root / "recipes" / "web"

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def apply(
        self,
        deploy: str,
        *,
        data: Mapping[str, Any] | None = None,
        secrets: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
        machine: Machine | None = None,
        hidden: tuple[str, ...] = (),
        **settings: Any,
    ) -> Configured:
        self.write("recipes/web/deploy.py", deploy)
        recipe = Recipe(
            name="web",
            folder=str(self.folder),
            project=str(self.root),
            description="",
            targets={},
            secrets=tuple(secrets or ()),
            **{"timeout": 60.0, "total_timeout": 120.0, **settings},
        )
        request = ConfigureRequest(
            recipe=recipe,
            target="local",
            data=data or {},
            secrets=secrets or {},
            environment=variables or {},
            hidden=hidden,
        )
        return configure(
            request,
            machine or self.machine,
            on_event=self.events.append,
            log=self.log.append,
            cancel=self.cancel,
        )

    def fail(self, deploy: str, **options: Any) -> str:
        """The message with which applying the deploy fails."""
        with pytest.raises(ConfigureError) as raised:
            self.apply(deploy, **options)
        return str(raised.value)

    def read(self, path: str) -> str:
        done = self.machine.run(["cat", path])
        assert done.exit_status == 0, done.stderr
        return done.stdout.decode()

    def processes(self, pattern: str) -> list[str]:
        found = self.machine.run(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).stdout.decode()
        return re.findall(pattern, found)

    def of_kind(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def project(tmp_path: Path, machine: Machine) -> Project:
    root = tmp_path / "site"
    root.mkdir(mode=0o755)
    machine.run(["sh", "-c", "rm -rf /t && mkdir /t"])
    return Project(root=root, machine=machine)
