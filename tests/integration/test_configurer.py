"""Recipes applied to a real machine, in the real sandbox."""

from __future__ import annotations

import contextlib
import os
import py_compile
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from baker.configurer import Configured
from baker.configurer.events import OperationEnded, OperationFailed, OperationRetried, OperationStarted
from baker.errors import ConfigureError, HostError, Interrupted, MachineError
from tests import machines
from tests.machines import Launch, Project

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("no_sandbox_left_behind")]

no_sandbox_left_behind = machines.no_sandbox_left_behind
launch = machines.launch
machine = machines.machine
project = machines.project


# --- what a deploy may do ----------------------------------------------------------------------------


def test_recipe_is_applied_and_a_second_run_changes_nothing(project: Project) -> None:
    project.write("templates/site.conf.j2", "workers {{ workers }}\n{% include 'templates/part.j2' %}\n")
    project.write("templates/part.j2", "host {{ host.name }}")
    deploy = """
from io import StringIO
from pyinfra import host
from pyinfra.operations import files, server
files.put(name="Put a file", src="recipes/web/files/motd", dest="/t/motd", mode="600")
files.put(src=StringIO("text"), dest="/t/text")
files.template(src="templates/site.conf.j2", dest="/t/site.conf", workers=host.data.workers)
files.directory("/t/folder", mode="750")
files.link("/t/link", target="/t/motd")
server.group(group="tg")
server.user(user="tu", group="tg", shell="/bin/sh")
files.file("/t/of-tu", user="tu")
"""
    project.write("recipes/web/files/motd", "hello\n")
    first = project.apply(deploy, data={"workers": 4})
    assert project.read("/t/site.conf") == "workers 4\nhost web\n"
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
    project.write("recipes/web/more.py", "from pyinfra.operations import files\nfiles.file('/t/more')\n")
    project.apply(
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
print("units", len(status) > 3)
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
    )
    for name in ("included", "more", "made", "custom", "inner", "innermost", "put"):
        project.read(f"/t/{name}")
    printed = "\n".join(project.log)
    assert "data web recipe all ['@baker', 'web'] Debian" in printed
    assert "units True" in printed
    assert "inventory ['web'] ['config', 'round']" in printed
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
flaky = "test -e /t/flag || { touch /t/flag; false; }"
server.shell(name="flaky", commands=flaky, _retries=2, _retry_delay=0)
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


def test_allow_listed_variables_get_in_and_no_others(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the caller")
    project.apply(
        "import os; print(os.environ['COLOUR']); print(sorted(os.environ))",
        variables={"COLOUR": "red", "OTHER": "x"},
        environment=("COLOUR", "UNSET"),
    )
    assert project.log[1] == "red"
    names = {"BAKER_SOCKET", "COLOUR", "HOME", "LANG", "PATH", "PWD", "PYINFRA_PROGRESS"}
    assert set(re.findall("'([A-Z_]+)'", project.log[2])) == names | {"PYTHONDONTWRITEBYTECODE"}


# --- what can go wrong ---------------------------------------------------------------------------------


def test_failing_operation_is_named_with_its_command_status_and_last_lines(project: Project) -> None:
    message = project.fail(
        """from pyinfra.operations import server

server.shell(
    name="Break it",
    commands=["true", "for i in $(seq 50); do echo line $i >&2; done; exit 7", "touch /t/never"],
)
server.shell(commands="touch /t/never")
"""
    )
    first, *tail = message.splitlines()
    assert first == (
        'recipes/web/deploy.py:3: operation "Break it" failed: '
        "for i in $(seq 50); do echo line $i >&2; done; exit 7 exited with status 7"
    )
    assert tail == [f"  line {number}" for number in range(31, 51)]
    [event] = project.of_kind(OperationFailed)
    assert (event.name, event.exit_status, event.line) == ("Break it", 7, 3)
    assert project.machine.run(["ls", "/t"]).stdout == b""
    assert "line 1" in project.log


FAILURES = {
    "exception": (
        "from tasks import work\n\nwork()\n",
        "tasks.py:2: ValueError: bad value",
    ),
    "syntax": ("x = 1\ndef f(:\n", "recipes/web/deploy.py:2: SyntaxError: invalid syntax"),
    "import": (
        "\nimport nonsense\n",
        "recipes/web/deploy.py:2: ModuleNotFoundError: No module named 'nonsense'",
    ),
    "wrong argument": (
        "from pyinfra.operations import files\nfiles.put(source='x', dest='/t/y')\n",
        "recipes/web/deploy.py:2: TypeError: missing a required argument: 'src'",
    ),
    "wrong global argument": (
        "from pyinfra.operations import files\nfiles.file('/t/y', _timeout='soon')\n",
        "recipes/web/deploy.py:2: Invalid argument `_timeout`:: str is not an instance of int",
    ),
    "refusing operation": (
        "from pyinfra.operations import files\n\nfiles.link('/t/l')\n",
        "recipes/web/deploy.py:3: If present is True target must be provided",
    ),
    "callback": (
        "from pyinfra.operations import python\n"
        "def call():\n    {}['x']\npython.call(name='Call', function=call)\n",
        "recipes/web/deploy.py:3: operation \"Call\" failed: KeyError: 'x'",
    ),
    "nested": (
        "from pyinfra.operations import python, server\n"
        "def call():\n    server.shell(name='inner', commands='exit 4')\npython.call(function=call)\n",
        'recipes/web/deploy.py:3: operation "inner" failed: exit 4 exited with status 4',
    ),
    "callback that takes too long": (
        "import time\nfrom pyinfra.operations import python\n"
        "python.call(name='Slow', function=lambda: time.sleep(60), _timeout=1)\n",
        'recipes/web/deploy.py:3: operation "Slow" failed: its function timed out after 1 s',
    ),
    "command that takes too long": (
        "from pyinfra.operations import server\nserver.shell(name='Slow', commands='sleep 60', _timeout=1)\n",
        'recipes/web/deploy.py:2: operation "Slow" failed: sleep 60 timed out after 1 s',
    ),
    "upload": (
        "from io import StringIO\nfrom pyinfra.operations import files\n"
        "files.put(name='Up', src=StringIO(''), dest='/proc/nowhere', create_remote_dir=False)\n",
        'recipes/web/deploy.py:3: operation "Up" failed: upload to /proc/nowhere exited with status 2',
    ),
    "command too long": (
        "from pyinfra.operations import server\nserver.shell(name='Long', commands='true ' + 'x' * 200000)\n",
        'recipes/web/deploy.py:2: operation "Long" failed',
    ),
    "fact": (
        "from pyinfra import host\nfrom pyinfra.facts.server import Command\n\n"
        "host.get_fact(Command, 'exit 5')\n",
        "recipes/web/deploy.py:4: exit 5: exited with status 5",
    ),
    "undefined variable": (
        "from pyinfra.operations import files\nfiles.template(src='templates/bad.j2', dest='/t/x')\n",
        "templates/bad.j2:2: 'workers' is undefined (asked for by recipes/web/deploy.py:2)",
    ),
    "undefined variable in an included template": (
        "from pyinfra.operations import files\nfiles.template(src='templates/outer.j2', dest='/t/x')\n",
        "templates/bad.j2:2: 'workers' is undefined (asked for by recipes/web/deploy.py:2)",
    ),
    "syntax of a template": (
        "from pyinfra.operations import files\nfiles.template(src='templates/syntax.j2', dest='/t/x')\n",
        "templates/syntax.j2:3: Expected an expression, got 'end of statement block'",
    ),
    "missing template": (
        "from pyinfra.operations import files\nfiles.template(src='templates/none.j2', dest='/t/x')\n",
        "recipes/web/deploy.py:2: templates/none.j2: No such file or directory",
    ),
    "missing included template": (
        "from pyinfra.operations import files\nfiles.template(src='templates/lost.j2', dest='/t/x')\n",
        "templates/lost.j2:1: template none.j2 not found (asked for by recipes/web/deploy.py:2)",
    ),
    "exit": (
        "import sys\nsys.exit(3)\n",
        "recipes/web/deploy.py:2: the recipe ended its own process: sys.exit(3)",
    ),
    "hard exit": (
        "import os\nprint('last words')\nos._exit(3)\n",
        "the recipe's process ended too early (status 3)\n  last words",
    ),
    "exception in a file that an included file includes": (
        "from pyinfra import local\nlocal.include('outer.py')\n",
        "inner.py:1: ValueError: deep",
    ),
    "fetching what only the machine could": (
        "import urllib.request\nurllib.request.urlopen('http://192.0.2.1')\n",
        "recipes/web/deploy.py:2: urllib.error.URLError: <urlopen error [Errno 101] Network is unreachable> "
        "(a recipe's own process has no network: fetch in the machine, as files.download does)",
    ),
    "writing into the project": (
        "from pathlib import Path\nPath('built').mkdir()\n",
        "recipes/web/deploy.py:2: built: Read-only file system (a recipe's own process cannot write here",
    ),
    "variable that is not allowed in": (
        "import os\nos.environ['RELEASE']\n",
        "recipes/web/deploy.py:2: KeyError: 'RELEASE' (no such variable: name it in recipe.toml",
    ),
    "missing local program": (
        "import subprocess, pathlib\nsubprocess.run([pathlib.Path('bin/sops')])\n",
        "recipes/web/deploy.py:2: bin/sops: No such file or directory",
    ),
    "rsync": (
        "from pyinfra.operations import files\nfiles.rsync(src='templates', dest='/t')\n",
        "recipes/web/deploy.py:2: files.rsync cannot reach a machine that is baked",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failure_is_told_in_the_recipes_own_terms(project: Project, name: str) -> None:
    project.write("tasks.py", "def work():\n    raise ValueError('bad value')\n")
    project.write("outer.py", "from pyinfra import local\nlocal.include('inner.py')\n")
    project.write("inner.py", "raise ValueError('deep')\n")
    project.write("templates/bad.j2", "first\n{{ workers }}\n")
    project.write("templates/outer.j2", "\n\n\n{% include 'templates/bad.j2' %}")
    project.write("templates/lost.j2", "{% include 'none.j2' %}")
    project.write("templates/syntax.j2", "\n\n{% if %}\n")
    deploy, expected = FAILURES[name]
    message = project.fail(deploy)
    assert message.startswith(expected), message
    assert "site-packages" not in message
    assert "/baker/" not in message


def test_what_only_changes_the_hosts_kernel_is_passed_over_and_what_is_for_the_next_boot_is_written(
    project: Project,
) -> None:
    configured = project.apply(
        """from pyinfra.operations import server
server.modprobe(module="no_such_module", name="module")
server.sysctl(key="kernel.no_such_key", value=7, persist=True, persist_file="/etc/99-web.conf")
server.shell(commands=["sysctl -w kernel.panic=7", "/usr/sbin/sysctl -p /etc/99-web.conf"])
"""
    )
    assert configured.changed == 3
    assert project.read("/etc/99-web.conf") == "kernel.no_such_key = 7\n"
    told = [line for line in project.log if "not in this machine, which has its host's kernel (" in line]
    assert [line.split(":")[0] for line in told] == [
        "modprobe -a no_such_module",
        "sysctl kernel.no_such_key=7",
        "sysctl -w kernel.panic=7",
        "/usr/sbin/sysctl -p /etc/99-web.conf",
    ]


def test_shell_line_that_does_more_than_change_the_kernel_still_fails(project: Project) -> None:
    deploy = (
        "from pyinfra.operations import server\nserver.shell(commands=['sysctl -w kernel.panic=7; false'])"
    )
    assert "failed: sysctl -w kernel.panic=7; false exited with status 1" in project.fail(deploy)
    assert not [line for line in project.log if "executed" in line]  # pyinfra's own words for it


def test_operation_that_hangs_is_ended_with_all_that_it_started(project: Project) -> None:
    with pytest.raises(ConfigureError) as raised:
        project.apply(
            "from pyinfra.operations import server\n"
            "server.shell(name='Hang', commands='sleep 4241 & setsid sleep 4242')",
            timeout=5.0,
        )
    assert str(raised.value) == 'operation "Hang" ran longer than the recipe\'s timeout of 5 s'
    assert "timeout" in str(raised.value.hint)
    assert project.processes("sleep 424[12]") == []


def test_upload_that_hangs_is_ended(project: Project) -> None:
    project.machine.run(["mkfifo", "/t/pipe"])
    message = project.fail(
        "from pyinfra.operations import python\nfrom pyinfra import host\n"
        "python.call(name='Pipe', function=lambda: host.put_file('recipes/web/deploy.py', '/t/pipe'))",
        timeout=5.0,
    )
    assert message == 'operation "Pipe" ran longer than the recipe\'s timeout of 5 s'
    assert project.processes("/t/pipe") == []


def test_command_of_a_callback_that_timed_out_is_ended_too(project: Project) -> None:
    project.apply(
        "from pyinfra.operations import python, server\n"
        "python.call(function=lambda: server.shell(commands='sleep 4243'), _timeout=1, _ignore_errors=True)"
    )
    assert project.processes("sleep 4243") == []


@pytest.mark.parametrize("deploy", ["while True: pass", "import time; time.sleep(1000)"])
def test_recipe_that_never_gets_ready_is_ended(project: Project, deploy: str) -> None:
    message = project.fail(deploy, total_timeout=2.0)
    assert message == "web took longer than its total_timeout of 2 s, at preparing the recipe"


def test_each_operation_has_the_time_of_an_operation(project: Project) -> None:
    project.apply(
        "from pyinfra.operations import python, server\n"
        "for i in range(3): server.shell(commands='sleep 0.9')\n"
        "python.call(function=lambda: [server.shell(commands='sleep 0.9') for i in range(3)])",
        timeout=1.8,
    )


def test_cancel_ends_everything_promptly(project: Project) -> None:
    threading.Timer(1.5, project.cancel.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        project.apply("from pyinfra.operations import server\nserver.shell(commands='sleep 20')")
    assert time.monotonic() - started < 10
    project.machine.run(["pkill", "sleep"])


def test_machine_that_dies_is_what_the_failure_says(project: Project, launch: Launch) -> None:
    with pytest.raises(MachineError, match=r"died|not running"):
        project.apply(
            "from pyinfra.operations import server\n"
            "server.shell(name='Die', commands='systemctl poweroff -ff; sleep 20')",
            machine=launch(),
        )


def test_unreadable_file_is_named_with_the_command_that_helps(project: Project) -> None:
    project.write("templates/x.j2", "x").chmod(0o600)
    (project.write("private/x.j2", "x").parent).chmod(0o700)
    (project.write("helpers/x.py", "x = 1").parent).chmod(0o700)
    template = "from pyinfra.operations import files\nfiles.template(src={!r}, dest='/t/x')"
    for deploy, path, flags in (
        (template.format("templates/x.j2"), "templates/x.j2", "o+r"),
        (template.format("private/x.j2"), "private", "-R o+rX"),
        ("import helpers.x", "helpers", "-R o+rX"),
    ):
        with pytest.raises(ConfigureError) as raised:
            project.apply(deploy)
        assert str(raised.value).startswith(f"{path}: the recipe's process cannot read it")
        assert raised.value.hint == f"chmod {flags} {project.root / path}"


def test_project_that_nobody_may_enter_is_named(project: Project) -> None:
    project.root.chmod(0o700)
    with pytest.raises(ConfigureError) as raised:
        project.apply("")
    assert raised.value.hint == f"chmod -R o+rX {project.root}"


def test_missing_sandbox_tool_is_named_with_its_package(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostError, match="bwrap is missing") as raised:
        project.apply("")
    assert raised.value.hint == "apt-get install bubblewrap"


# --- secrets -------------------------------------------------------------------------------------------


def test_secret_is_usable_and_shown_nowhere(project: Project) -> None:
    secret = "hunter2-0aF'\"x"
    seen: list[bytes] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.append(path.read_bytes())
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        project.apply(
            """
import os, shlex
from io import StringIO
from pyinfra import host, logger
from pyinfra.operations import files, server
token = host.data.TOKEN
assert os.environ["TOKEN"] == token
print("printed", token, repr(token))
logger.warning(f"logged {token}")
files.put(src=StringIO(token), dest="/t/token")
pieces = "printf hunter; sleep 0.1; cut -c 7- /t/token"
server.shell(name=f"with {token}", commands=f"echo {shlex.quote(token)}; sleep 0.5; {pieces}")
server.shell(commands='echo "$TOKEN" > /t/env; sleep 0.5', _env={"TOKEN": token})
""",
            secrets={"TOKEN": secret},
        )
        message = project.fail(
            "from pyinfra import host\nraise ValueError(host.data.TOKEN)", secrets={"TOKEN": secret}
        )
    finally:
        done.set()
        watcher.join()
    assert project.read("/t/token") == secret
    assert project.read("/t/env") == f"{secret}\n"
    assert message == "recipes/web/deploy.py:2: ValueError: ***"
    everything = "\n".join([*project.log, *map(str, project.events)])
    assert "hunter2" not in everything
    assert "logged ***" in project.log
    assert "with ***" in [event.name for event in project.of_kind(OperationEnded)]
    assert len(seen) > 100
    assert not [line for line in seen if b"hunter2" in line]


# --- traces --------------------------------------------------------------------------------------------


def test_everything_that_the_recipe_looks_at_in_the_project_is_traced(project: Project) -> None:
    for path in (
        "templates/a.j2",
        "templates/b.j2",
        "files/one.conf",
        "files/two.conf",
        "unread.txt",
        "data.txt",
    ):
        project.write(path, "x")
    project.write(
        "templates/a.j2", "{% include 'templates/b.j2' %}{% include 'templates/no.j2' ignore missing %}"
    )
    project.write("tasks/__init__.py", "")
    project.write("tasks/nginx.py", "from . import deep")
    project.write("tasks/deep.py", "")
    project.write("tasks/idle.py", "")
    project.write("group_data/all.py", "x = 1")
    (project.folder / "linked").parent.mkdir(parents=True)
    (project.folder / "linked").symlink_to("../../data.txt")
    configured = project.apply(
        """
import glob, os
from pathlib import Path
from pyinfra.operations import files
import tasks.nginx
try:
    import local_settings
except ImportError:
    pass
for path in sorted(glob.glob("files/*.conf")):
    files.put(src=path, dest=f"/t/{os.path.basename(path)}")
files.template(src="templates/a.j2", dest="/t/a")
Path("maybe.txt").exists()
open("recipes/web/linked").read()
"""
    )
    traced = {(item.kind, item.path) for item in configured.traced}
    assert traced >= {
        ("file", "templates/a.j2"),
        ("file", "templates/b.j2"),
        ("file", "files/one.conf"),
        ("file", "files/two.conf"),
        ("file", "tasks/__init__.py"),
        ("file", "tasks/nginx.py"),
        ("file", "tasks/deep.py"),
        ("file", "group_data/all.py"),
        ("file", "recipes/web/linked"),
        ("entries", "files"),
        ("listing", "group_data"),
        ("absent", "templates/no.j2"),
        ("absent", "local_settings.py"),
        ("absent", "local_settings/__init__.py"),
        ("absent", "maybe.txt"),
        ("absent", "config.py"),
    }
    others = {path for _, path in traced} & {"unread.txt", "tasks/idle.py", ".", "tasks"}
    assert others == set()
    assert not [path for _, path in traced if path.startswith(("/", "..", "<", "@"))]
    assert configured.opaque is None


def test_module_is_traced_although_its_byte_code_is_read(project: Project) -> None:
    module = project.write("tasks.py", "x = 1")
    py_compile.compile(str(module))
    assert list((project.root / "__pycache__").iterdir())
    configured = project.apply("import tasks")
    assert ("file", "tasks.py") in {(item.kind, item.path) for item in configured.traced}


def test_installed_package_that_the_recipe_imports_is_traced_by_its_name(project: Project) -> None:
    configured = project.apply("import json\nimport univers.versions\nfrom pyinfra.operations import files")
    assert [item.path for item in configured.traced if item.kind == "package"] == ["univers"]


OPAQUE = {
    "import subprocess\nsubprocess.run(['true', 'a b'])": "recipes/web/deploy.py:2 starts a local process",
    "import os\nos.system('true')": "recipes/web/deploy.py:2 starts a local process: true",
    "import os\nif os.fork() == 0: os._exit(0)": "recipes/web/deploy.py:2 starts a local process",
    "import socket\nsocket.socket().connect_ex(('127.0.0.1', 1))": (
        "recipes/web/deploy.py:2 uses the network: ('127.0.0.1', 1)"
    ),
    "from pyinfra import local\nlocal.shell('true')": "recipes/web/deploy.py:2 starts a local process",
}


@pytest.mark.parametrize("deploy", OPAQUE)
def test_recipe_that_asks_somebody_else_is_opaque(project: Project, deploy: str) -> None:
    assert project.apply(deploy).opaque == OPAQUE[deploy]


# --- the sandbox -----------------------------------------------------------------------------------------


def test_recipe_is_nobody_without_capabilities(project: Project) -> None:
    project.apply(
        "import os\nprint('id', os.getuid(), os.getgid(), os.getgroups())\n"
        "print(open('/proc/self/status').read())"
    )
    assert "id 65534 65534 []" in project.log
    status = dict(line.split(":\t", 1) for line in project.log if ":\t" in line)
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Uid"].split() == ["65534"] * 4


def test_recipe_cannot_read_the_hosts_files(project: Project, tmp_path: Path, shared_home: Path) -> None:
    beside = tmp_path / "beside.txt"
    beside.write_text("x")
    kept = project.write(".baker/catalog.db", "x").parent
    paths = [
        "/root",
        "/etc/shadow",
        "/home",
        "/var",
        str(shared_home),
        str(beside),
        str(kept),
        str(kept / "catalog.db"),
    ]
    project.apply(
        f"""
import os
for path in {paths!r}:
    try:
        print("found", path, os.listdir(path) if os.path.isdir(path) else open(path).read())
    except OSError as error:
        print("refused", path)
""",
        hidden=(str(kept),),
    )
    found = [line for line in project.log if line.startswith("found") and not line.startswith("found /root")]
    assert found == []
    [root] = [line for line in project.log if " /root" in line]
    assert root in ("refused /root", "found /root ['.pyenv']")


def test_recipe_cannot_write_outside_its_temporary_folder(project: Project) -> None:
    (project.root / "open").mkdir()
    (project.root / "open").chmod(0o777)
    project.apply(
        """
import os, tempfile
for folder in (".", "open", "/", "/run", "/etc", "/usr", "/dev/shm", "/root"):
    try:
        open(os.path.join(folder, "written"), "w")
        print("wrote", folder)
    except OSError:
        print("refused", folder)
tempfile.NamedTemporaryFile().write(b"x")
"""
    )
    assert [line for line in project.log if line.startswith("wrote")] == []
    assert sorted(path.name for path in project.root.iterdir()) == ["open", "recipes"]


def test_recipe_sees_no_process_and_no_network_of_the_host(project: Project) -> None:
    with socket.socket() as server, socket.socket(socket.AF_UNIX) as abstract:
        server.bind(("127.0.0.1", 0))
        server.listen()
        abstract.bind(f"\0baker-test-{os.getpid()}")
        abstract.listen()
        project.apply(
            f"""
import os, socket
print("processes", len([name for name in os.listdir("/proc") if name.isdigit()]), os.getppid())
print("interfaces", [name for _, name in socket.if_nameindex()])
print("host", socket.gethostname())
inet, unix = {server.getsockname()!r}, "\\0baker-test-{os.getpid()}"
for family, address in ((socket.AF_INET, inet), (socket.AF_UNIX, unix)):
    try:
        socket.socket(family).connect(address)
        print("connected", address)
    except OSError as error:
        print("refused", address)
"""
        )
    assert "processes 2 1" in project.log
    assert "interfaces ['lo']" in project.log
    assert "host sandbox" in project.log
    assert len([line for line in project.log if line.startswith("refused")]) == 2


def test_what_the_recipe_leaves_running_is_gone(project: Project) -> None:
    project.apply("import subprocess\nsubprocess.Popen(['sleep', '4244'], start_new_session=True)")
    alive = [path for path in Path("/proc").glob("[0-9]*/cmdline") if path.read_bytes() == b"sleep\x004244\0"]
    assert alive == []


def test_sandbox_ends_with_the_process_that_made_it(project: Project) -> None:
    project.write("recipes/web/deploy.py", "import time\nprint('ready')\ntime.sleep(4245)\n")
    script = f"""
import threading
from baker.configurer import ConfigureRequest, configure
from baker.model import Recipe
folder, root = {str(project.folder)!r}, {str(project.root)!r}
recipe = Recipe(name="web", folder=folder, project=root, description="", targets={{}})
request = ConfigureRequest(recipe=recipe, target="local", data={{}}, secrets={{}}, environment={{}})
configure(request, None, on_event=print, log=lambda line: print(line, flush=True), cancel=threading.Event())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert next(line for line in process.stdout if line == "ready\n")
        [bwrap] = machines.find_children(process.pid)
        [init] = machines.find_children(bwrap)
        [sandboxed] = machines.find_children(init)
        process.kill()
    deadline = time.monotonic() + 10
    while is_running(bwrap) or is_running(sandboxed):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with contextlib.suppress(ChildProcessError):  # starting machines made this process adopt orphans
        os.waitpid(bwrap, 0)


def is_running(pid: int) -> bool:
    """Not gone, and not only waiting to be reaped by whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_nothing_of_a_child_stays_in_this_process(project: Project) -> None:
    project.apply("")
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    project.apply("from pyinfra.operations import server\nserver.shell(commands='true')")
    project.fail("raise ValueError")
    assert set(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
    deadline = time.monotonic() + 10
    while threading.active_count() > 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_child_that_lies_is_refused(project: Project) -> None:
    message = project.fail(
        "from baker.configurer.wire import MachineClient\n"
        "MachineClient().send({'kind': 'OperationStarted', 'name': 7})"
    )
    assert message == "the configurer's child sent what is no message: OperationStarted.name is 7"


def test_what_a_child_hands_over_that_is_no_connection_is_dropped(project: Project) -> None:
    project.apply(
        "import os, socket\nparent = socket.socket(fileno=int(os.environ['BAKER_SOCKET']))\n"
        "parent.sendall(b'junk')\n"
        "socket.send_fds(parent, [b'+'], [os.open('/', os.O_RDONLY)])\n"
        "ours, theirs = socket.socketpair()\nsocket.send_fds(parent, [b'+'], [theirs.fileno()])\n"
        "ours.sendall(b'GET / HTTP/1.1')\nours.close()\nparent.detach()\n"
        "from pyinfra.operations import server\nserver.shell(commands='touch /t/fine')\n"
    )
    assert project.read("/t/fine") == ""


def test_two_recipes_are_applied_at_once(project: Project, launch: Launch, tmp_path: Path) -> None:
    other = Project(root=tmp_path / "other", machine=launch())
    other.machine.run(["mkdir", "/t"])
    deploy = "from pyinfra.operations import server\nserver.shell(commands='sleep 1; touch /t/here')"
    results: list[Configured] = []
    threads = [
        threading.Thread(target=lambda one=one: results.append(one.apply(deploy))) for one in (project, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.changed for result in results] == [1, 1]
    assert project.read("/t/here") == other.read("/t/here") == ""
