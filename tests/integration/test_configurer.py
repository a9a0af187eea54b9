"""Recipes applied to a real machine, in the real sandbox."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from baker.configurer import Configured, ConfigureRequest, configure
from baker.configurer.events import Event, OperationEnded, OperationFailed, OperationRetried, OperationStarted
from baker.errors import ConfigureError, HostError, Interrupted, MachineError
from baker.model import Bootstrap, Recipe
from baker.providers.local.provider import LocalProvider
from baker.providers.protocol import Machine
from baker.teardown import Teardown

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("nothing_left_behind")]

Launch = Callable[[], Machine]


@pytest.fixture(scope="module")
def launch(shared_home: Path) -> Iterator[Launch]:
    """Starts build instances that live as long as this module."""
    provider = LocalProvider(shared_home)
    provider.check()
    source = provider.resolve(Bootstrap(distribution="debian", suite="trixie"), None, {})
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
        environment: Mapping[str, str] | None = None,
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
            environment=environment or {},
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


# --- what a deploy may do ----------------------------------------------------------------------------


def test_recipe_is_applied_and_a_second_run_changes_nothing(project: Project) -> None:
    project.write("templates/site.conf.j2", "workers {{ workers }}\n{% include 'templates/part.j2' %}\n")
    project.write("templates/part.j2", "host {{ host.name }}")
    deploy = """
from io import StringIO
from pyinfra import host
from pyinfra.operations import files, server, systemd
files.put(name="Put a file", src="recipes/web/files/motd", dest="/t/motd", mode="600")
files.put(src=StringIO("text"), dest="/t/text")
files.template(src="templates/site.conf.j2", dest="/t/site.conf", workers=host.data.workers)
files.directory("/t/folder", mode="750")
files.link("/t/link", target="/t/motd")
server.group(group="tg")
server.user(user="tu", group="tg", shell="/bin/sh")
files.file("/t/of-tu", user="tu")
systemd.service(service="systemd-timesyncd", enabled=True) if host.data.get("timesync") else None
"""
    project.write("recipes/web/files/motd", "hello\n")
    first = project.apply(deploy, data={"workers": 4})
    assert project.read("/t/site.conf") == "workers 4\nhost @baker/web\n"
    assert project.read("/t/link") == "hello\n"
    stat = project.machine.run(["stat", "-c", "%a %U %n", "/t/motd", "/t/folder", "/t/of-tu"]).stdout.decode()
    assert stat.splitlines() == ["600 root /t/motd", "750 root /t/folder", "644 tu /t/of-tu"]
    assert (first.changed, first.unchanged) == (8, 0)
    assert first.operations[0].name == "Put a file"
    assert first.opaque is None
    again = project.apply(deploy, data={"workers": 4})
    assert (again.changed, again.unchanged) == (0, 8)


def test_deploy_runs_as_with_the_pyinfra_command(project: Project) -> None:
    project.write("config.py", "RETRY = 0\nimport shared\nshared.note('config')\n")
    project.write("group_data/all.py", "import os\nlevel = 'all'\ncolour = 'all'\nkind = 'all'\n")
    project.write("group_data/web.py", "level = 'web'\ncolour = 'web'\n")
    project.write("group_data/db.py", "level = 'db'\n")
    project.write("tasks/part.py", "from pyinfra.operations import files\nfiles.file('/t/included')\n")
    project.write(
        "shared.py",
        """
from pyinfra import host
from pyinfra.api import deploy, operation
from pyinfra.operations import files, server
notes = []
note = notes.append
@deploy("Shared", data_defaults={"shape": "round", "colour": "default"})
def make(path):
    files.file(path, name="file")
    note(host.data.shape)
@operation()
def custom(path):
    yield f"touch {path}"
""",
    )
    configured = project.apply(
        """
from pyinfra import host, inventory, local
from pyinfra.operations import files, python, server
from pyinfra.facts.systemd import SystemdStatus
from pyinfra.facts.server import LinuxName
import shared
local.include("tasks/part.py")
local.include("./more.py")
shared.make("/t/made", _if=lambda: True)
shared.custom("/t/custom")
status = host.get_fact(SystemdStatus)
print("units", status["dbus.service"] if "dbus.service" in status else len(status) > 3)
print("data", host.data.level, host.data.colour, host.data.kind, host.groups, host.get_fact(LinuxName))
print("inventory", [h.name for h in inventory.get_group("web")], shared.notes)
def call(word):
    done = server.shell(name="inner", commands=[f"echo {word}; touch /t/inner"])
    assert done.stdout == "word"
    python.call(name="deeper", function=lambda: server.shell(name="innermost", commands="touch /t/innermost"))
    host.put_file("recipes/web/more.py", "/t/put")
    with open("/tmp/got", "wb") as file:
        host.get_file("/t/put", file)
    print("got", open("/tmp/got").read().strip()[:6])
python.call(name="Call", function=call, word="word")
""",
        groups=("web",),
        data={"colour": "recipe"},
    ) if project.write("recipes/web/more.py", "from pyinfra.operations import files\nfiles.file('/t/more')\n") else None
    assert configured is not None
    for name in ("included", "more", "made", "custom", "inner", "innermost", "put"):
        project.read(f"/t/{name}")
    printed = "\n".join(project.log)
    assert "data web recipe all ['@baker', 'web'] Debian" in printed
    assert "units True" in printed
    assert "inventory ['@baker/web'] ['config', 'round']" in printed
    assert "got from p" in printed
    nested = [event.name for event in project.of_kind(OperationStarted) if event.nested]
    assert nested == ["inner", "deeper", "innermost"]
    ended = [event.name for event in project.of_kind(OperationEnded)]
    assert sorted(ended) == sorted(event.name for event in project.of_kind(OperationStarted))
    assert "Shared | file" in ended
    assert ended.index("innermost") < ended.index("deeper") < ended.index("Call")
    totals = [event.total for event in project.of_kind(OperationStarted)]
    assert (totals[0], totals[-1]) == (5, 8)


def test_workdir_makes_the_recipe_folder_the_place_where_paths_start(project: Project) -> None:
    project.write("recipes/web/files/motd", "own\n")
    project.write("recipes/web/group_data/all.py", "word = 'own'\n")
    project.write("group_data/all.py", "word = 'of the project'\n")
    project.apply(
        "from pyinfra import host\nfrom pyinfra.operations import files\n"
        "files.put(src='files/motd', dest=f'/t/{host.data.word}')",
        workdir=".",
    )
    assert project.read("/t/own") == "own\n"


def test_conditions_and_retries_hold(project: Project) -> None:
    project.apply(
        """
from pyinfra.operations import files, server
first = files.file("/t/first")
again = files.file("/t/first")
server.shell(name="after a change", commands="touch /t/after-change", _if=first.did_change)
server.shell(name="after no change", commands="touch /t/after-none", _if=again.did_change)
server.shell(name="flaky", commands="test -e /t/flag || { touch /t/flag; false; }", _retries=2, _retry_delay=0)
server.shell(name="wrong but fine", commands="false", _ignore_errors=True)
"""
    )
    assert project.machine.run(["ls", "/t"]).stdout.split() == [b"after-change", b"first", b"flag"]
    outcomes = [(event.name, event.changed, event.ignored_error) for event in project.of_kind(OperationEnded)]
    assert outcomes[2:] == [
        ("after a change", True, False),
        ("after no change", False, False),
        ("flaky", True, False),
        ("wrong but fine", False, True),
    ]
    [retry] = project.of_kind(OperationRetried)
    assert (retry.name, retry.attempt, retry.attempts) == ("flaky", 2, 3)
    assert project.of_kind(OperationFailed) == []


def test_other_users_sudo_standard_input_and_large_files_work(project: Project) -> None:
    with (project.root / "large").open("wb") as file:
        file.write(os.urandom(6 << 20))
    project.apply(
        """
from pyinfra import host
from pyinfra.operations import files, server
from pyinfra.facts.files import Sha256File
server.shell(commands="id -un > /t/root", _sudo=True)
server.shell(commands="id -un > /tmp/nobody", _su_user="nobody", _su_shell="sh")
server.shell(commands="cat > /t/input", _stdin=["one", "two"])
server.shell(commands="echo $A-$PWD > /t/env", _env={"A": "a b"}, _chdir="/usr")
server.shell(commands="exit 3", _success_exit_codes=[3])
files.put(src="large", dest="/t/large")
""",
    )
    assert project.read("/t/root") == "root\n"
    assert project.read("/tmp/nobody") == "nobody\n"
    assert project.read("/t/input") == "one\ntwo\n"
    assert project.read("/t/env") == "a b-/usr\n"
    assert project.machine.run(["cat", "/t/large"]).stdout == (project.root / "large").read_bytes()


def test_upload_onto_an_absolute_link_stays_inside_the_machine(project: Project, tmp_path: Path) -> None:
    bait = tmp_path / "bait"
    bait.write_text("of the host")
    project.machine.run(["ln", "-s", str(bait), "/t/link"])
    project.machine.run(["mkdir", "-p", str(bait.parent)])
    deploy = "from io import StringIO\nfrom pyinfra.operations import files\n"
    project.apply(deploy + "files.put(src=StringIO('inside'), dest='/t/link', force=False)")
    assert bait.read_text() == "of the host"
    assert project.read(str(bait)) == "inside"


def test_allow_listed_variables_get_in_and_no_others(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the caller")
    project.apply(
        "import os; print(sorted(os.environ)); print(os.environ['COLOUR'])",
        environment={"COLOUR": "red", "OTHER": "x"},
        environment_names=None,
    ) if False else project.apply_with_environment()
    assert "red" in project.log
