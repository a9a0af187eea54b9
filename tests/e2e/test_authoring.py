"""init, try, a shell in what failed, the schema, completion, and the guide followed word for word."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from baker.project_schema import LOCAL_SETTINGS
from tests.e2e.guides import GUIDES, read_blocks
from tests.e2e.project import BAKER, Project, make_project

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("nothing_left_behind")]

GUIDE = GUIDES / "writing-recipes.md"
DEPLOY = """
from pyinfra.operations import files

files.template(name="Write the greeting", src="templates/greeting.j2", dest="/srv/greeting", word="hello")
files.directory(name="Make a folder", path="/srv/made")
"""
TEST = "def test_greeting(host):\n    assert 'hello' in host.file('/srv/greeting').content_string\n"


class Terminal:
    """A person at a terminal: types, and waits for what is shown."""

    def __init__(self, project: Project, *arguments: str) -> None:
        ours, theirs = pty.openpty()
        # As a shell does it: the command is a session of its own, and the terminal is its terminal.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", BAKER, *arguments],
            cwd=project.folder,
            env={**project.variables, "TERM": "xterm", "NO_COLOR": "1"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._ours = ours
        self._shown = ""

    def wait_for(self, text: str, seconds: float = 60.0) -> str:
        """What was shown since the last wait, up to the text."""
        deadline = time.monotonic() + seconds
        while text not in self._shown:
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self._shown}"
            if select.select([self._ours], [], [], 0.2)[0]:
                try:
                    self._shown += os.read(self._ours, 65536).decode(errors="replace")
                except OSError:  # the other end is closed
                    pytest.fail(f"ended without {text!r}:\n{self._shown}")
        before, _, self._shown = self._shown.partition(text)
        return before + text

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        """Wait for the command's end; returns its exit status."""
        with contextlib.suppress(OSError):
            while chunk := os.read(self._ours, 65536):
                self._shown += chunk.decode(errors="replace")
        return self.process.wait(60)

    def close(self) -> None:
        """Whatever the test came to, nothing of it goes on."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:  # it waits for a shell
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


@pytest.fixture
def project(tmp_path: Path, shared_home: Path) -> Project:
    project = make_project(tmp_path / "project", shared_home)
    project.environ["BAKER_CATALOG"] = f"sqlite:///{project.folder}/catalog.db"
    project.write("templates/greeting.j2", "{{ word }}\n")
    project.recipe("greet", deploy=DEPLOY, test=TEST)
    return project


@pytest.fixture
def at_terminal(project: Project) -> Iterator[type[Terminal]]:
    opened: list[Terminal] = []

    class Closing(Terminal):
        def __init__(self, *arguments: str) -> None:
            super().__init__(project, *arguments)
            opened.append(self)

    yield Closing  # type: ignore[misc]
    for terminal in opened:
        terminal.close()


def assert_nothing_is_kept(project: Project) -> None:
    assert project.json("image", "ls")["images"] == []
    assert list((project.home / "local/machines").iterdir()) == []


WATCHING = "watching (enter: shell"


@pytest.mark.slow
def test_each_saved_change_is_applied_and_tested_on_the_same_machine(project: Project, at_terminal) -> None:
    person = at_terminal("try", "greet")
    assert "2 operations changed, 1 image test passed" in person.wait_for(WATCHING)

    # A template that the recipe read elsewhere in the project; only what changed is told.
    project.write("templates/greeting.j2", "oh, {{ word }}\n")
    shown = person.wait_for(WATCHING)
    assert "templates/greeting.j2 changed" in shown
    assert "Write the greeting" in shown
    assert "unchanged" not in shown
    assert "applied, 1 operation changed, 1 image test passed" in shown

    # A test alone: nothing is applied.
    test = project.write("recipes/greet/test_image.py", TEST.replace("'hello'", "'good bye'"))
    shown = person.wait_for(WATCHING)
    assert "recipes/greet/test_image.py:2: test_greeting" in shown
    assert "configure" not in shown
    test.write_text(TEST)
    assert "1 image test passed" in person.wait_for(WATCHING)

    # A mistake, and what mends it lies where the recipe never came to look.
    deploy = project.folder / "recipes/greet/deploy.py"
    deploy.write_text(DEPLOY.replace("greeting.j2", "other.j2"))
    assert "templates/other.j2" in person.wait_for(WATCHING)
    project.write("templates/other.j2", "{{ word }}\n")
    assert "applied, 1 operation changed" in person.wait_for(WATCHING)

    person.type("\n")
    person.wait_for("root@greet")
    person.type("cat /srv/greeting; exit\n")
    assert "hello" in person.wait_for(WATCHING)
    person.type("q")
    assert person.end() == 0
    assert_nothing_is_kept(project)


@pytest.mark.slow
def test_r_goes_on_with_a_fresh_machine_and_ctrl_c_ends(project: Project, at_terminal) -> None:
    person = at_terminal("try", "greet")
    person.wait_for(WATCHING)
    person.type("r")
    assert "2 operations changed, 1 image test passed" in person.wait_for(WATCHING)
    # Another data value is another input; another source is another machine.
    (project.folder / "recipes/greet/recipe.toml").write_text('from = "debian:trixie"\ntimeout = 0\n')
    assert "recipes/greet/recipe.toml:2" in person.wait_for(WATCHING)
    (project.folder / "recipes/greet/recipe.toml").write_text('from = "debian:trixie"\n')
    assert "applied, 0 operations changed" in person.wait_for(WATCHING)
    person.type("\x03")
    assert person.end() == 0
    assert_nothing_is_kept(project)


def test_without_a_terminal_it_is_tried_once_and_the_exit_code_tells(project: Project) -> None:
    done = project.run("try", "greet")
    assert done.stdout.startswith("greet: applied, 2 operations changed, 1 image test passed in ")
    (project.folder / "recipes/greet/test_image.py").write_text(TEST.replace("'hello'", "'good bye'"))
    done = project.run("try", "greet", "--json", status=1)
    told = json.loads(done.stdout)
    assert (told["applied"], told["changed"]) == (True, ["Write the greeting", "Make a folder"])
    assert "test_greeting" in told["error"]
    assert "test_greeting" in done.stderr
    assert_nothing_is_kept(project)


def test_trying_what_cannot_be_tried_says_why(project: Project) -> None:
    assert 'did you mean "greet"?' in project.run("try", "gret", status=2).stderr
    assert "no target aws" in project.run("try", "greet", "--target", "aws", status=2).stderr
    project.recipe("child", toml='from = "greet"\n')
    assert "Bake it first: baker bake greet" in project.run("try", "child", status=2).stderr
    project.recipe("secretive", toml='from = "debian:trixie"\nsecrets = ["TRY_TOKEN"]\n')
    assert "needs the secret TRY_TOKEN" in project.run("try", "secretive", status=2).stderr


def test_converge_lists_what_changes_again(project: Project) -> None:
    assert "greet converges" in project.run("try", "greet", "--converge").stdout
    project.recipe(
        "restless",
        deploy="from pyinfra.operations import files, server\n"
        "import time\n"
        "files.directory(name='Settles', path='/srv/made')\n"
        "files.line(name='Grows', path='/srv/log', line=str(time.time()))\n"
        "server.shell(name='Always', commands=['true'])\n",
    )
    done = project.run("try", "restless", "--converge", status=3)
    assert re.findall(r"^  (\w+)$", done.stdout, re.MULTILINE) == ["Grows", "Always"]
    assert "Always\n    counts as changed whenever it runs" in done.stdout
    assert_nothing_is_kept(project)


def test_failed_bake_opens_a_shell_in_its_machine_and_then_tears_it_down(
    project: Project, at_terminal
) -> None:
    (project.folder / "recipes/greet/deploy.py").write_text(
        "from pyinfra.operations import server\n"
        "server.shell(name='Leave a mark', commands=['echo of-the-bake >/root/mark'])\n"
        "server.shell(name='Fall over', commands=['exit 3'])\n"
    )
    person = at_terminal("bake", "greet", "--on-error", "shell")
    assert '"Fall over" failed' in person.wait_for("root@greet")
    person.type("cat /root/mark\n")
    person.wait_for("of-the-bake\r\n")
    person.wait_for("root@greet")
    person.type("\x03")  # is for the shell, not for the bake; it takes typed-ahead input with it
    person.wait_for("root@greet")
    person.type("exit\n")
    assert "teardown" in person.wait_for("baker logs")
    assert person.end() == 1
    assert_nothing_is_kept(project)


def test_shell_on_error_is_refused_without_a_terminal_before_anything_starts(project: Project) -> None:
    done = project.run("bake", "greet", "--on-error", "shell", status=2)
    assert "--on-error shell needs a terminal" in done.stderr
    assert not (project.folder / "catalog.db").exists()


# --- init ------------------------------------------------------------------------------------------------


def test_init_names_what_is_in_the_way_and_overwrites_nothing(project: Project) -> None:
    folder = project.folder / "new"
    workflow = folder / ".github"
    folder.mkdir()
    workflow.write_text("mine")
    (folder / "baker.toml").write_text("mine")
    said = project.run("init", "new", status=2).stderr
    assert "new/.github" in said
    assert "new/baker.toml" in said
    assert "recipe" not in said
    assert sorted(path.name for path in folder.iterdir()) == [".github", "baker.toml"]
    assert workflow.read_text() == "mine"


def test_init_writes_a_valid_project_whose_ci_runs_commands_that_there_are(project: Project) -> None:
    yaml = pytest.importorskip("yaml")
    project.run("init", "new")
    new = Project(folder=project.folder / "new", home=project.folder / "home")
    assert new.run("validate").stdout == "1 recipes are valid\n"
    [job] = yaml.safe_load((new.folder / ".github/workflows/images.yml").read_text())["jobs"].values()
    scripts = [step["run"] for step in job["steps"] if "run" in step][1:]
    found = [re.search(r"\bbaker(?:\)\")? (\w.*)$", script.strip()) for script in scripts]
    commands = [command[1].split() for command in found if command]
    assert commands == [["validate"], ["plan", "--ephemeral"], ["bake", "--ephemeral"]]
    new.environ["CI"] = "true"
    new.run(*commands[0])
    new.run(*commands[1])
    new.run(*commands[2], "--help")


# --- the guide ---------------------------------------------------------------------------------------------


def test_the_guide_names_every_key_and_its_examples_are_valid(project: Project) -> None:
    schema = json.loads(project.run("recipe", "schema").stdout)
    assert schema["$schema"].startswith("https://json-schema.org/")
    guide = GUIDE.read_text()
    assert [key for key in schema["properties"] if f"| `{key}` |" not in guide] == []
    assert [key for key in LOCAL_SETTINGS if not re.search(rf"^\|[^|]*`{key}`", guide, re.MULTILINE)] == []
    project.recipe("base")
    for number, block in enumerate(read_blocks(GUIDE, "toml")):
        project.recipe(f"example-{number}", toml=block)
    project.run("validate")
    for block in read_blocks(GUIDE, "python"):
        compile(block, str(GUIDE), "exec")


# --- completion --------------------------------------------------------------------------------------------


def complete(project: Project, *words: str, folder: Path | None = None) -> list[str]:
    """What bash is offered for the last of the words; it splits words at colons."""
    parts = [part for word in words[:-1] for part in re.split("(:)", word) if part]
    parts += [part for part in re.split("(:)", words[-1]) if part] or [""]
    asking = {
        "_BAKER_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(["baker", *parts]),
        "COMP_CWORD": str(len(parts)),
    }
    done = subprocess.run(
        [BAKER],
        cwd=folder or project.folder,
        env={**project.variables, **asking},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_shell_completes_recipes_references_channels_and_bakes(project: Project) -> None:
    project.recipe("other")
    [bake] = project.bake("greet")
    project.run("promote", "greet", "staging", "--yes")
    assert complete(project, "try", "") == ["greet", "other"]
    assert complete(project, "bake", "greet", "") == ["other"]
    assert complete(project, "image", "show", "gr") == ["greet"]
    assert set(complete(project, "run", "greet:")) == {"latest", "staging", "1"}
    assert complete(project, "run", "greet:st") == ["staging"]
    assert complete(project, "promote", "greet:1", "") == ["staging"]
    assert complete(project, "logs", "") == [bake["bake"]]


def test_completion_is_silent_where_there_is_nothing_to_offer(project: Project, tmp_path: Path) -> None:
    assert complete(project, "run", "greet:", folder=tmp_path) == []
    (project.folder / "baker.toml").write_text("not toml")
    assert complete(project, "try", "") == []
