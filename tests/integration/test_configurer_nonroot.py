"""The sandbox of a user who is not root, and what there is where he can have none."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from baker.configurer.events import Unconfined
from baker.configurer.sandbox import why_no_sandbox
from baker.errors import HostError, SettingsError
from baker.progress import RecipeEvent
from baker.progress_console import ProgressConsole
from tests.machines import reap_adopted
from tests.nobody import NOBODY, User

PEEK = """
import os
for path in {paths!r}:
    try:
        print("found", path, os.listdir(path) if os.path.isdir(path) else open(path).read())
    except OSError:
        print("refused", path)
"""


@pytest.fixture
def user() -> Iterator[User]:
    # Not below pytest's own folder: each session closes that one again.
    with tempfile.TemporaryDirectory(prefix="baker-test-") as folder:
        user = User(root=Path(folder, "of-user"))
        user.settle()
        yield user
    reap_adopted()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


def find_processes(*argv: str) -> list[int]:
    """Those that run this command now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[:-1] == [word.encode() for word in argv]:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def await_processes(count: int, *argv: str) -> None:
    deadline = time.monotonic() + 20
    while len(find_processes(*argv)) != count:
        assert time.monotonic() < deadline, f"{argv} still runs {len(find_processes(*argv))} times"
        time.sleep(0.02)


# --- in the sandbox ------------------------------------------------------------------------------------


def test_recipe_of_a_closed_project_is_applied_by_a_user_who_is_not_root(user: User) -> None:
    user.write("site/motd", "hello")
    done = user.apply(
        "import os\nfrom pyinfra.operations import files\n"
        f"files.put(src='motd', dest='{user.machine}/motd')\n"
        "print('id', os.getuid(), os.getgid(), os.getppid())\n"
        "print(open('/proc/self/status').read())\nprint(open('/proc/self/uid_map').read())\n"
    )
    assert done.error is None
    assert (user.machine / "motd").read_text() == "hello"
    assert "id 65534 65534 1" in done.log
    status = dict(line.split(":\t", 1) for line in done.log if ":\t" in line)
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert [line.split() for line in done.log if line.split()[:1] == ["65534"]] == [["65534", "0", "1"]]
    assert done.unconfined == []
    assert not [line for line in done.log if "sandbox" in line]


def test_image_tests_are_run_by_a_user_who_is_not_root(user: User) -> None:
    done = user.apply(
        f"import os\n\ndef test_it(host):\n    assert not os.path.exists('{user.home}/.aws')\n"
        f"    assert host.run('pwd').stdout.strip() == '{user.machine}'\n",
        tests=True,
    )
    assert done.error is None
    assert [line for line in done.log if "passed" in line]


def test_recipe_sees_neither_home_nor_credentials_nor_the_hosts_files(user: User) -> None:
    own = user.write("site/.baker/catalog.db", "x").parent
    beside = user.write("baker/local/x", "x").parents[1]
    paths = [
        *map(str, (user.home / ".aws" / "credentials", user.home / "letter.txt", beside, user.machine)),
        *map(str, (own, own / "catalog.db", user.root)),
        *("/etc/shadow", "/etc/hostname", "/home", "/var", "/run", "/sys"),
    ]
    reopen = (
        f"import os\ntry:\n    os.chmod({str(own)!r}, 0o700)\nexcept OSError as error:\n    print(error)\n"
    )
    done = user.apply(reopen + PEEK.format(paths=paths), hidden=[own, beside])
    assert done.error is None
    assert [line for line in done.log if line.startswith("found")] == [f"found {user.root} ['home']"]
    assert len([line for line in done.log if line.startswith("refused")]) == len(paths) - 1
    listing = user.apply(PEEK.format(paths=[str(user.home)]), hidden=[own, beside])
    assert f"found {user.home} ['site']" in listing.log


def test_of_a_home_that_holds_the_virtual_environment_only_that_is_seen(user: User) -> None:
    installed = sysconfig.get_path("purelib")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    links = f"{installed}\nimport site; site.addsitedir({installed!r})\n"
    user.write(f"venv/lib/{version}/site-packages/linked.pth", links)
    real = Path(sys.executable).resolve()
    config = user.write("venv/pyvenv.cfg", f"home = {real.parent}\n")
    (config.parent / "bin").mkdir()
    (config.parent / "bin" / "python").symlink_to(real)
    user.give(config.parent / "bin")
    user.interpreter = str(config.parent / "bin" / "python")
    done = user.apply("import os, sys\nprint(sys.prefix)\n" + PEEK.format(paths=[str(user.home)]))
    assert done.error is None
    assert str(config.parent) in done.log
    [found] = [line for line in done.log if line.startswith("found")]
    assert found in (f"found {user.home} ['site', 'venv']", f"found {user.home} ['venv', 'site']")


def test_home_that_is_the_project_does_not_show_its_credentials(user: User) -> None:
    paths = [str(user.home / ".aws"), str(user.home / ".aws" / "credentials")]
    done = user.apply(PEEK.format(paths=paths), project=user.home)
    assert done.error is None
    assert [line for line in done.log if line.startswith("refused")] == [f"refused {path}" for path in paths]


def test_recipe_sees_no_process_and_no_network_of_the_host(user: User, server: socket.socket) -> None:
    done = user.apply(
        "import os, socket\n"
        "print('processes', len([name for name in os.listdir('/proc') if name.isdigit()]))\n"
        "print('interfaces', [name for _, name in socket.if_nameindex()])\n"
        "try:\n"
        f"    socket.socket().connect({server.getsockname()!r})\n"
        "    print('connected')\n"
        "except OSError as error:\n    print('refused', error)\n"
    )
    assert done.error is None
    assert "processes 2" in done.log
    assert "interfaces ['lo']" in done.log
    assert "connected" not in done.log


def test_recipe_writes_only_to_its_temporary_folder(user: User) -> None:
    user.write("site/open/x", "x")
    (user.project / "open").chmod(0o777)
    folders = [".", "open", "recipes/web", "/", "/run", "/etc", "/usr", "/dev", "/dev/shm"]
    done = user.apply(
        "import os, tempfile\n"
        f"for folder in {folders!r}:\n"
        "    try:\n        open(os.path.join(folder, 'written'), 'w')\n        print('wrote', folder)\n"
        "    except OSError:\n        print('refused', folder)\n"
        "tempfile.NamedTemporaryFile().write(b'x')\nprint('temporary', os.listdir('/tmp'))\n"
    )
    assert done.error is None
    assert [line for line in done.log if line.startswith("wrote")] == []
    assert len([line for line in done.log if line.startswith("refused")]) == len(folders)
    assert not list(user.root.rglob("written"))


@pytest.mark.parametrize("sandbox", ["on", "off"])
def test_child_ends_with_the_parent_that_is_killed(user: User, sandbox: str) -> None:
    user.environ.update(BAKER_SANDBOX=sandbox, TMPDIR=str(user.machine))
    mark = str(10**8 + os.getpid())
    process = user.start_recipe(f"import subprocess\nsubprocess.run(['sleep', '{mark}'])\n")
    with process:
        await_processes(1, "sleep", mark)
        process.kill()
    await_processes(0, "sleep", mark)
    deadline = time.monotonic() + 20
    while list(user.machine.iterdir()):
        assert time.monotonic() < deadline, list(user.machine.iterdir())
        time.sleep(0.02)


@pytest.mark.parametrize("sandbox", ["on", "off"])
def test_what_the_recipe_leaves_running_is_gone_when_it_is_done(user: User, sandbox: str) -> None:
    user.environ["BAKER_SANDBOX"] = sandbox
    mark = str(2 * 10**8 + os.getpid())
    done = user.apply(f"import subprocess\nsubprocess.Popen(['sleep', '{mark}'])\nprint('last words')")
    assert done.error is None
    assert "last words" in done.log
    await_processes(0, "sleep", mark)


@pytest.mark.parametrize("sandbox", ["on", "off"])
def test_recipe_that_takes_too_long_is_ended(user: User, sandbox: str) -> None:
    user.environ["BAKER_SANDBOX"] = sandbox
    mark = str(3 * 10**8 + os.getpid())
    done = user.apply(f"import subprocess\nsubprocess.run(['sleep', '{mark}'])\n", timeout=3.0)
    assert done.error is not None
    assert "longer than the recipe's timeout of 3 s" in done.error
    await_processes(0, "sleep", mark)


def test_file_that_the_user_may_not_read_is_named(user: User) -> None:
    closed = user.write("site/closed.txt", "x")
    closed.chmod(0)
    done = user.apply("open('closed.txt')")
    assert done.error is not None
    assert "closed.txt: the recipe's process cannot read it: it has the rights of this user" in done.error
    assert done.hint == f"ls -ld {closed} shows whose it is"


# --- where there can be none ------------------------------------------------------------------------------


def test_sandbox_that_is_switched_off_is_said_each_time(user: User) -> None:
    user.environ["BAKER_SANDBOX"] = "off"
    done = user.apply(
        "import os, tempfile\nfrom pyinfra.operations import files\n"
        f"files.file('{user.machine}/made')\n"
        "print('environment', sorted(os.environ))\nprint('home', os.listdir(os.path.expanduser('~')))\n"
        "print('temporary', tempfile.gettempdir())"
    )
    assert done.error is None
    assert (user.machine / "made").exists()
    assert done.unconfined == ["BAKER_SANDBOX=off"]
    assert [line for line in done.log if line.startswith("no sandbox (BAKER_SANDBOX=off): ")]
    [environment] = [line for line in done.log if line.startswith("environment")]
    assert "AWS" not in environment
    assert "home []" in done.log
    [temporary] = [line.split()[1] for line in done.log if line.startswith("temporary")]
    assert not Path(temporary).exists()
    tested = user.apply("def test_it(host):\n    pass\n", tests=True)
    assert (tested.error, tested.unconfined) == (None, ["BAKER_SANDBOX=off"])


def test_missing_sandbox_is_shown_while_baking() -> None:
    screen = io.StringIO()
    console = ProgressConsole(err=screen, out=io.StringIO(), environ={})
    console.show(RecipeEvent(bake="B1", recipe="web", event=Unconfined(why="BAKER_SANDBOX=off")))
    assert screen.getvalue().strip().startswith("no sandbox (BAKER_SANDBOX=off): ")


KEEP = """
import os, threading
from pathlib import Path
from baker.configurer import Standby
from baker.configurer.process import ChildSpec
from baker.configurer.sandbox import Sandbox
spec = ChildSpec(module="baker.configurer.child", sandbox=Sandbox(project={project!r}, readable=()))
for turn in range(2):
    standby = Standby()
    standby.prepare(spec)
    with standby.take(spec) as child:
        pass
    standby.prepare(spec)
    standby.close()
    print(len(os.listdir("/proc/self/fd")), threading.active_count())
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("all reaped")
print([path.name for path in Path(os.environ["TMPDIR"]).iterdir()])
"""


def test_child_without_a_sandbox_leaves_nothing_in_its_parent(user: User) -> None:
    user.environ.update(BAKER_SANDBOX="off", TMPDIR=str(user.machine))
    first, second, reaped, left = user.python(KEEP.format(project=str(user.project))).splitlines()
    assert first == second
    assert (reaped, left) == ("all reaped", "[]")


def test_daemon_of_a_recipe_without_a_sandbox_holds_nothing_up(user: User) -> None:
    user.environ["BAKER_SANDBOX"] = "off"
    mark = str(4 * 10**8 + os.getpid())
    try:
        done = user.apply(
            f"import subprocess\nsubprocess.Popen(['sleep', '{mark}'], start_new_session=True)\nprint('last')"
        )
        assert done.error is None
        assert "last" in done.log
    finally:
        for pid in find_processes("sleep", mark):
            os.kill(pid, signal.SIGKILL)


REFUSALS = {
    "Ubuntu's AppArmor": "setting up uid map: Permission denied",
    "AppArmor in a profile of bwrap": "loopback: Failed RTM_NEWADDR: Operation not permitted",
    "Debian's switch": (
        "No permissions to creating new namespace, likely because the kernel does not allow non-privileged "
        "user namespaces. On e.g. debian this can be enabled with "
        "'sysctl kernel.unprivileged_userns_clone=1'."
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_user_namespaces_are_explained_before_anything_runs(user: User, case: str) -> None:
    bwrap = user.root / "bin" / "bwrap"
    bwrap.parent.mkdir(mode=0o755)
    bwrap.write_text(f'#!/bin/sh\necho "bwrap: {REFUSALS[case]}" >&2\nexit 1\n')
    bwrap.chmod(0o755)
    user.environ["PATH"] = f"{bwrap.parent}:{os.environ['PATH']}"
    done = user.apply("")
    assert done.error is not None
    first, said = done.error.splitlines()
    assert first == (
        "HostError: the sandbox for a recipe's code was refused: "
        "users of this host may not make user namespaces"
    )
    assert said == f"  bwrap: {REFUSALS[case]}"
    assert done.hint is not None
    assert "BAKER_SANDBOX=off" in done.hint
    assert "as root" in done.hint
    assert done.commands == 0
    user.environ["BAKER_SANDBOX"] = "off"
    assert user.apply("").error is None


def test_user_namespaces_that_the_kernel_refuses_are_explained(user: User) -> None:
    """For real: in a user namespace that may have none in it."""
    code = (
        "from baker.configurer.sandbox import require_tools\nfrom baker.errors import HostError\n"
        "try:\n    require_tools()\nexcept HostError as error:\n    print(error)\n"
    )
    who = os.geteuid() if os.geteuid() != 0 else NOBODY
    group = os.getegid() if os.geteuid() != 0 else NOBODY
    prepare = (
        'echo 0 >/proc/sys/user/max_user_namespaces; exec setpriv --ambient-caps=-all --inh-caps=-all "$@"'
    )
    argv = ["unshare", "--user", f"--map-user={who}", f"--map-group={group}", "--keep-caps"]
    process = user.start([*argv, "sh", "-euc", prepare, "sh", sys.executable, "-c", code])
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "users of this host may not make user namespaces" in said
    assert "ENOSPC" in said


def test_root_never_runs_a_recipe_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("BAKER_SANDBOX", "off")
    with pytest.raises(HostError, match="as root on this host, without a sandbox"):
        why_no_sandbox()
    monkeypatch.delenv("BAKER_SANDBOX")
    assert why_no_sandbox() is None
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(HostError, match="darwin has no bubblewrap"):
        why_no_sandbox()
    monkeypatch.setattr("os.geteuid", lambda: 501)
    assert why_no_sandbox() == "darwin has no bubblewrap"


def test_wrong_wish_for_a_sandbox_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKER_SANDBOX", "of")
    with pytest.raises(SettingsError, match='must be "on" or "off", not "of"'):
        why_no_sandbox()


# --- what else a bake writes ----------------------------------------------------------------------------

WRITE = """
from contextlib import ExitStack
from pathlib import Path
from baker.catalog import Catalog
from baker.errors import BakerError
from baker.identity import alive, in_turn, mark_kept
from baker.log import BakeLog
home = Path({home!r})
def catalog():
    return Catalog.open(f"sqlite:///{{home}}/catalog.db", actor="nobody")
def log():
    return BakeLog.open(home / "logs" / "x.log")
def kept():
    mark_kept(home, "x")
    return ExitStack()
for way in (catalog, lambda: alive(home, "x"), lambda: in_turn(home, "x", print), log, kept):
    try:
        with way():
            print("fine")
    except BakerError as error:
        print(error, error.hint)
"""


def test_user_who_is_not_root_bakes_into_a_home_of_his_own(user: User) -> None:
    assert user.python(WRITE.format(home=str(user.home / "data" / "baker"))).split() == ["fine"] * 5


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a folder that is somebody else's")
@pytest.mark.parametrize("exists", [True, False])
def test_home_that_is_somebody_elses_is_said_with_what_to_do(user: User, exists: bool) -> None:
    home = user.root.parent / "of-root"
    (home / "bakes").mkdir(parents=True)
    home = home if exists else home / "deeper"
    said = user.python(WRITE.format(home=str(home))).splitlines()
    assert len(said) == 5
    for line in said:
        assert str(home) in line
        assert "ermission denied" in line or "unable to open" in line or "cannot be" in line
        assert "BAKER_HOME" in line or "sudo" in line or "folder" in line
