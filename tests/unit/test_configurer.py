"""The parts of the configurer that need no machine."""

from __future__ import annotations

import json
import resource
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from baker.configurer.clock import Clock, OutOfTime
from baker.configurer.events import (
    Event,
    ImageTestEnded,
    OperationEnded,
    OperationFailed,
    OperationStarted,
    Prepared,
    read_event,
    write_event,
)
from baker.configurer.project import Project
from baker.configurer.redaction import MAX_LINE, LineFeed, Redactor
from baker.configurer.sandbox import (
    LIMITS,
    Sandbox,
    explain_refusal,
    find_linked_packages,
    limits,
    sandbox_argv,
)
from baker.configurer.wire import MachineClient, WireError, receive_frame, send_frame

# --- events -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        Prepared(operations=3, seconds=0.5),
        OperationStarted(name="put", number=1, total=3, nested=False),
        OperationEnded(name="x", number=1, changed=True, seconds=1, nested=True, ignored_error=False),
        OperationFailed(
            name="x", message="m", file=None, line=None, command="false", exit_status=1, stderr_tail=""
        ),
        ImageTestEnded(name="t", outcome="passed", seconds=0.1, message="", file="a.py", line=3),
    ],
)
def test_event_survives_the_wire(event: Event) -> None:
    assert read_event(write_event(event)) == event


def test_message_of_another_kind_is_no_event() -> None:
    assert read_event({"kind": "finished"}) is None
    assert read_event({}) is None


def test_event_with_a_field_of_the_wrong_type_is_refused() -> None:
    message = write_event(OperationStarted(name="put", number=1, total=3, nested=False))
    with pytest.raises(TypeError, match=r"OperationStarted\.number is 'one'"):
        read_event({**message, "number": "one"})
    del message["name"]
    with pytest.raises(TypeError, match=r"OperationStarted\.name is None"):
        read_event(message)


# --- redaction ----------------------------------------------------------------------------------------


def redact_chunks(secrets: list[str], *chunks: bytes) -> list[str]:
    lines: list[str] = []
    feed = LineFeed(Redactor(secrets), lines.append)
    for chunk in chunks:
        feed.feed(chunk)
    feed.close()
    return lines


def test_secret_split_over_chunks_is_redacted() -> None:
    assert redact_chunks(["hunter2"], b"pass hun", b"ter", b"2 ok\nnext\n") == ["pass *** ok", "next"]


def test_secret_in_a_line_without_end_is_redacted_wherever_the_line_is_cut() -> None:
    secret = "s3cr3t" * 4
    for padding in range(MAX_LINE - 30, MAX_LINE + 30, 7):
        chunks = [b"x" * padding, secret[:9].encode(), secret[9:].encode() + b"y" * 100]
        text = "".join(redact_chunks([secret], *chunks))
        assert text == "x" * padding + "***" + "y" * 100


def test_what_commands_a_terminal_is_taken_out_before_secrets_are_looked_for() -> None:
    chunks = [
        b"\x1b[1;31mred\x1b[0m\ta\x1b]0;title\x07\x1b[2Jb\n",
        b"hun\x1b[0mt\x00er2 \x1bcc\x08 sec\x01ret",
    ]
    assert redact_chunks(["hunter2", "sec\x01ret"], *chunks) == ["red\tab", "*** c ***"]


def test_every_line_of_a_secret_is_redacted_but_not_its_braces() -> None:
    lines = redact_chunks(['{\n"key": "abcdef"\n}'], b'{ a }\n  "key": "abcdef"\n')
    assert lines == ["{ a }", "  ***"]


@pytest.mark.parametrize("quote", [shlex.quote, repr, json.dumps])
def test_secret_is_redacted_however_it_is_quoted(quote: Callable[[str], str]) -> None:
    secret = 'it\'s\t"me"'
    assert "me" not in Redactor([secret]).text(f"echo {quote(secret)}")


def test_longer_secret_is_redacted_before_one_that_it_contains() -> None:
    assert Redactor(["abc", "abcdef"]).text("abcdef abc") == "*** ***"


def test_values_inside_a_message_are_redacted_and_empty_secrets_are_not() -> None:
    message = {"a": ["xTOKENx", {"TOKEN": 1}], "b": None}
    assert Redactor(["TOKEN", ""]).value(message) == {"a": ["x***x", {"***": 1}], "b": None}


# --- clock --------------------------------------------------------------------------------------------


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_thing_has_its_own_limit() -> None:
    time = FakeTime()
    clock = Clock("first", each=10, total=25, now=time)
    time.now += 9
    clock.check()
    clock.begin("second")
    assert clock.remaining() == 10
    time.now += 10
    with pytest.raises(OutOfTime, match="second ran longer than 10 s") as raised:
        clock.check()
    assert not raised.value.total


def test_the_whole_has_a_limit_that_no_new_thing_moves() -> None:
    time = FakeTime()
    clock = Clock("first", each=10, total=25, now=time)
    for name in ("second", "third", "fourth"):
        time.now += 8
        clock.check()
        clock.begin(name)
    assert clock.remaining() == 1
    time.now += 1
    with pytest.raises(OutOfTime) as raised:
        clock.check()
    assert (raised.value.what, raised.value.limit, raised.value.total) == ("fourth", 25, True)


# --- wire ---------------------------------------------------------------------------------------------


def test_frames_carry_a_header_and_any_bytes() -> None:
    left, right = socket.socketpair()
    with left, right:
        body = bytes(range(256)) * 5000
        writer = threading.Thread(target=send_frame, args=(left, {"verb": "ü"}, body))
        writer.start()
        assert receive_frame(right) == ({"verb": "ü"}, body)
        writer.join()
        left.close()
        assert receive_frame(right) is None


@pytest.mark.parametrize(
    "junk", [b"\0\0\0\5\0\0\0\0\0\0\0\0{]{]{", b"\xff" * 12, b"\0\0\0\2\0\0", b"GET / HTTP/1.1"]
)
def test_what_is_no_frame_is_refused(junk: bytes) -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(junk)
        left.close()
        with pytest.raises(WireError):
            receive_frame(right)


def serve_one(parent: socket.socket, answer: Callable[[socket.socket], None]) -> threading.Thread:
    """Take the connection that a client hands over and answer on it."""

    def serve() -> None:
        _, [descriptor], _, _ = socket.recv_fds(parent, 1, 1)
        with socket.socket(fileno=descriptor) as connection:
            answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_client_hands_over_a_connection_for_each_request() -> None:
    asked = []

    def answer(connection: socket.socket) -> None:
        asked.append(receive_frame(connection))
        send_frame(connection, {"exit_status": 3, "stdout": 2}, b"oute")

    parent, child = socket.socketpair()
    with parent, child:
        for _ in range(2):
            thread = serve_one(parent, answer)
            reply = MachineClient(child.fileno()).run(["cat"], stdin=b"in", timeout=5)
            thread.join()
            assert (reply.exit_status, reply.stdout, reply.stderr) == (3, b"ou", b"te")
    header = {"verb": "run", "argv": ["cat"], "stdin": True, "timeout": 5, "show": None}
    assert asked == [(header, b"in")] * 2


def test_client_says_when_the_parent_hangs_up() -> None:
    parent, child = socket.socketpair()
    with parent, child:
        thread = serve_one(parent, receive_frame)
        with pytest.raises((WireError, ConnectionError)):
            MachineClient(child.fileno()).run(["true"])
        thread.join()


# --- sandbox ------------------------------------------------------------------------------------------


def option_values(argv: list[str], option: str) -> list[tuple[str, str]]:
    return [(argv[i + 1], argv[i + 2]) for i, word in enumerate(argv) if word == option]


def build_argv(
    project: str, readable: Sequence[str] = (), hidden: Sequence[str] = (), as_root: bool = True
) -> list[str]:
    sandbox = Sandbox(project=project, readable=readable, hidden=hidden)
    fds = {"passwd": 7, "group": 8}
    return sandbox_argv(sandbox, "baker.configurer.child", info_fd=9, account_fds=fds, as_root=as_root)


def test_sandbox_shows_the_project_and_the_interpreter_read_only_and_nothing_else_of_the_host() -> None:
    argv = build_argv("/root/site", ["/root/.pyenv/3.11"], ["/root/site/.baker"])
    binds = {(source, path) for source, path in option_values(argv, "--ro-bind")}
    assert binds == {(path, path) for path in ("/usr", "/root/site", "/root/.pyenv/3.11")}
    assert option_values(argv, "--ro-bind-data") == [("7", "/etc/passwd"), ("8", "/etc/group")]
    assert "--bind" not in argv
    assert "--dev-bind" not in argv


def test_hidden_folder_is_covered_after_the_project_is_there() -> None:
    argv = build_argv("/p", hidden=["/p/.baker"])
    cover = argv.index("/p/.baker")
    assert argv[cover - 3 : cover + 1] == ["--perms", "0000", "--tmpfs", "/p/.baker"]
    assert cover > argv.index("/p")


def test_sandbox_ends_in_an_unprivileged_isolated_interpreter() -> None:
    argv = build_argv("/p")
    for kind in ("pid", "net", "ipc", "uts"):
        assert f"--unshare-{kind}" in argv
    command = argv[argv.index("setpriv") :]
    assert command[1:7] == [
        *("--reuid=65534", "--regid=65534", "--clear-groups"),
        *("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"),
    ]
    assert command[-6:] == [sys.executable, "-I", "-B", "-u", "-m", "baker.configurer.child"]


def test_sandbox_of_another_user_than_root_is_a_user_namespace_without_any_right() -> None:
    argv = build_argv("/p", hidden=["/p/.baker"], as_root=False)
    start = argv.index("--unshare-user")
    assert argv[start + 1 : start + 5] == ["--uid", "65534", "--gid", "65534"]
    assert "--cap-add" not in argv
    assert "setpriv" not in argv
    for kind in ("pid", "net", "ipc", "uts"):
        assert f"--unshare-{kind}" in argv
    read_only = [argv[i + 1] for i, word in enumerate(argv) if word == "--remount-ro"]
    assert read_only == ["/dev", "/p/.baker", "/"]
    assert argv[argv.index("prlimit") + 5 :] == [
        *(sys.executable, "-I", "-B", "-u", "-m", "baker.configurer.child")
    ]


def test_no_limit_of_the_sandbox_is_above_what_its_user_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (100, 500))
    assert limits(as_root=False) == {"as": 500, "nproc": 500, "nofile": 500, "core": 0}
    assert limits(as_root=True) == dict(LIMITS)
    monkeypatch.setattr("resource.getrlimit", lambda _: (100, resource.RLIM_INFINITY))
    assert limits(as_root=False) == dict(LIMITS)


def test_switch_that_refuses_user_namespaces_is_named(tmp_path: Path) -> None:
    text = "bwrap: setting up uid map: Permission denied\n"
    for switch, wrong, right in (
        ("unprivileged_userns_clone", "0", "1"),
        ("apparmor_restrict_unprivileged_userns", "1", "0"),
    ):
        (tmp_path / switch).write_text(f"{right}\n")
        error = explain_refusal(text, kernel=tmp_path)
        assert error is not None
        assert switch not in str(error.hint)
        (tmp_path / switch).write_text(f"{wrong}\n")
        error = explain_refusal(text, kernel=tmp_path)
        assert error is not None
        assert str(error.hint).startswith(f"sudo sysctl kernel.{switch}={right}")
        assert "BAKER_SANDBOX=off" in str(error.hint)
    masked = explain_refusal("bwrap: Can't mount proc on /newroot/proc: Operation not permitted")
    assert masked is not None
    assert "/proc of its own" in str(masked)
    assert explain_refusal("bwrap: Can't find source path /p: Permission denied") is None


def test_packages_that_are_installed_as_links_are_found_but_none_that_would_show_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("site", "tools/kit", "lib/src", "work/project/inside", "work/home"):
        (tmp_path / folder).mkdir(parents=True)
    links = ("lib/src", "work/project/inside", "work", "gone")
    lines = ["import something", *(f"{tmp_path}/{link}" for link in links)]
    (tmp_path / "site/linked.pth").write_text("\n".join(lines))
    finder = ModuleType("__editable___kit_finder")
    finder.__dict__["MAPPING"] = {"kit": f"{tmp_path}/tools/kit"}
    monkeypatch.setitem(sys.modules, finder.__name__, finder)
    monkeypatch.setattr("site.getsitepackages", lambda: [f"{tmp_path}/site"])
    found = find_linked_packages([f"{tmp_path}/work/project", f"{tmp_path}/work/home"])
    assert [folder for folder in found if folder.startswith(str(tmp_path))] == [
        f"{tmp_path}/tools/kit",
        f"{tmp_path}/lib/src",
    ]


# --- whose files ----------------------------------------------------------------------------------------


def test_project_tells_the_authors_files_from_ours() -> None:
    project = Project("/p", ["/p/.venv", "/usr", "/p/baker"])
    assert project.relative("/p/recipes/web/../../templates/a") == "templates/a"
    assert project.relative("/p") == "."
    assert project.relative("/p/.venv/lib/x.py") is None
    assert project.relative("/p/baker/model.py") is None
    assert project.relative("/p/bakery.py") == "bakery.py"
    assert project.relative("/pp/x") is None


def test_project_inside_a_virtual_environment_is_still_the_authors() -> None:
    assert Project("/venv/src/site", ["/venv"]).relative("/venv/src/site/a.py") == "a.py"


# --- imports --------------------------------------------------------------------------------------------


def test_parent_side_imports_no_pyinfra_testinfra_or_jinja() -> None:
    script = (
        "import sys; from baker.configurer import configure, run_image_tests; "
        "print({'pyinfra', 'pyinfra_cli', 'gevent', 'testinfra', 'pytest', 'jinja2'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_events_import_nothing_of_the_parent_side() -> None:
    script = "import sys, baker.configurer.events; print('baker.configurer.parent' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
