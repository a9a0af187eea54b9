"""Image tests of a recipe, run against a real machine, in the real sandbox."""

from __future__ import annotations

import threading

import pytest

from baker.configurer import TestReport, run_image_tests
from baker.configurer.events import ImageTestEnded, ImageTestStarted
from baker.errors import ImageTestError, Interrupted
from baker.model import Recipe
from tests import machines
from tests.machines import Project

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("no_sandbox_left_behind")]

no_sandbox_left_behind = machines.no_sandbox_left_behind
launch = machines.launch
machine = machines.machine
project = machines.project


def run_tests(project: Project, *files: str, timeout: float = 60) -> TestReport:
    recipe = Recipe(
        name="web", folder=str(project.folder), project=str(project.root), description="", targets={}
    )
    return run_image_tests(
        recipe,
        project.machine,
        files=[str(project.folder / file) for file in files],
        on_event=project.events.append,
        log=project.log.append,
        cancel=project.cancel,
        timeout=timeout,
    )


def fail_tests(project: Project, *files: str, timeout: float = 60) -> str:
    with pytest.raises(ImageTestError) as raised:
        run_tests(project, *files, timeout=timeout)
    return str(raised.value)


def test_tests_written_for_testinfra_pass_as_they_are(project: Project) -> None:
    project.write("pytest.ini", "[pytest]\naddopts = --no-such-option\n")
    project.write("conftest.py", "raise RuntimeError('not of the recipe')\n")
    project.write(
        "recipes/web/conftest.py",
        "import pytest\n@pytest.fixture\ndef answer(host):\n    return host.check_output('echo 42')\n",
    )
    project.write("recipes/web/words.py", "WORD = 'ümlaut'\n")
    project.write(
        "recipes/web/test_image.py",
        """
import pytest
from words import WORD
testinfra_hosts = ["ssh://elsewhere"]
def test_answer(host, answer):
    assert answer == "42"
    assert host.backend.get_hostname() == "web"
class TestMachine:
    def test_systemd_and_files(self, host):
        assert host.file("/etc/os-release").contains("trixie")
        assert host.package("systemd").is_installed
        assert host.service("systemd-journald").is_running
        assert host.user("root").uid == 0
        assert host.run("echo %s; exit 3", WORD).rc == 3
@pytest.mark.parametrize("word", ["a", "b"])
def test_words(host, word):
    assert host.check_output("echo " + word) == word
def test_later():
    pytest.skip("not yet")
""",
    )
    project.write("recipes/web/test_more.py", "def test_more(host):\n    assert host.exists('sh')\n")
    report = run_tests(project, "test_image.py", "test_more.py")
    assert [(test.name, test.outcome) for test in report.tests] == [
        ("test_image.py::test_answer", "passed"),
        ("test_image.py::TestMachine::test_systemd_and_files", "passed"),
        ("test_image.py::test_words[a]", "passed"),
        ("test_image.py::test_words[b]", "passed"),
        ("test_image.py::test_later", "skipped"),
        ("test_more.py::test_more", "passed"),
    ]
    started = [event.name for event in project.of_kind(ImageTestStarted)]
    assert started == [test.name for test in report.tests]
    assert [event.outcome for event in project.of_kind(ImageTestEnded)].count("passed") == 5
    assert "ümlaut" in project.log
    assert sorted(path.name for path in project.folder.iterdir()) == [
        *("conftest.py", "test_image.py", "test_more.py", "words.py"),
    ]


def test_failing_test_is_named_with_its_line_and_what_it_said(project: Project) -> None:
    project.write(
        "recipes/web/test_image.py",
        "def check(host):\n    assert host.user('root').uid == 7, 'root is somebody else'\n\n"
        "def test_fine(host):\n    assert host.exists('sh')\n\ndef test_root(host):\n    check(host)\n",
    )
    message = fail_tests(project, "test_image.py").splitlines()
    assert message[:2] == [
        "the image tests of web failed",
        "  recipes/web/test_image.py:2: test_root: root is somebody else",
    ]
    assert message[2] == "  assert 0 == 7"
    assert [event.outcome for event in project.of_kind(ImageTestEnded)] == ["passed", "failed"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\nimport nonsense\n", "test_image.py:2: ModuleNotFoundError: No module named 'nonsense'"),
        ("def test_x(:\n", "test_image.py:1: SyntaxError: invalid syntax"),
        ("x = {}['y']\n", "test_image.py:1: KeyError: 'y'"),
        ("\ndef test_x(nothing):\n    pass\n", "test_image.py:2: test_x: fixture 'nothing' not found"),
    ],
)
def test_test_file_that_cannot_be_run_is_named_with_its_line(
    project: Project, text: str, expected: str
) -> None:
    project.write("recipes/web/test_image.py", text)
    message = fail_tests(project, "test_image.py")
    assert message == f"the image tests of web failed\n  recipes/web/{expected}"


def test_conftest_that_does_not_import_is_named(project: Project) -> None:
    project.write("recipes/web/conftest.py", "import nonsense\n")
    project.write("recipes/web/test_image.py", "def test_x():\n    pass\n")
    message = fail_tests(project, "test_image.py")
    assert message.startswith("the image tests of web could not be run")
    assert "recipes/web/conftest.py:1" in message
    assert "No module named 'nonsense'" in message


def test_file_without_a_test_is_a_failure(project: Project) -> None:
    project.write("recipes/web/test_image.py", "def check():\n    pass\n")
    assert fail_tests(project, "test_image.py") == "the image tests of web hold no test"


def test_test_that_hangs_is_ended_and_named(project: Project) -> None:
    project.write("recipes/web/test_image.py", "def test_slow(host):\n    host.run('sleep 4251')\n")
    message = fail_tests(project, "test_image.py", timeout=3)
    assert message == "the image tests of web took longer than 3 s, at test_image.py::test_slow"
    assert project.processes("sleep 4251") == []


def test_cancel_ends_image_tests(project: Project) -> None:
    project.write("recipes/web/test_image.py", "import time\ndef test_slow():\n    time.sleep(100)\n")
    threading.Timer(1.5, project.cancel.set).start()
    with pytest.raises(Interrupted):
        run_tests(project, "test_image.py")


def test_image_tests_run_in_the_sandbox_too(project: Project) -> None:
    project.write(
        "recipes/web/test_image.py",
        "import os\nimport pytest\n"
        "def test_limits():\n"
        "    assert (os.getuid(), os.getppid()) == (65534, 1)\n"
        "    assert 'SSH_AUTH_SOCK' not in os.environ\n"
        "    with pytest.raises(OSError):\n"
        "        open('written', 'w')\n",
    )
    assert [test.outcome for test in run_tests(project, "test_image.py").tests] == ["passed"]
