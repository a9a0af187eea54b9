"""What goes wrong, what is said, which exit code; and nothing is left behind, registered or broken."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from tests.e2e.project import BAKER, Project, make_project

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("nothing_left_behind")]

CHILD = 'from = "plain"\n'
PASSING = "def test_folder(host):\n    assert host.file('/srv/made').is_directory\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Project:
    """A project with one small image that others are built upon."""
    project = make_project(tmp_path_factory.mktemp("bad") / "project", shared_home)
    project.environ["BAKER_CATALOG"] = f"sqlite:///{project.folder}/catalog.db"
    project.recipe("plain", test=PASSING)
    assert [bake["outcome"] for bake in project.bake("plain")] == ["baked"]
    return project


@pytest.fixture
def recipe(project: Project) -> Iterator[Path]:
    """The folder of a recipe ``broken`` that goes away with the test."""
    project.recipe("broken", toml=CHILD)
    folder = project.folder / "recipes/broken"
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def choose_quick(cases: Mapping[str, tuple[str, list[str]]], *quick: str) -> list[ParameterSet]:
    """Each bakes; what the configurer's own tests show as well is slow."""
    return [
        pytest.param(*case, id=name, marks=[] if name in quick else pytest.mark.slow)
        for name, case in cases.items()
    ]


def assert_only_plain_is_registered(project: Project) -> None:
    assert {image["recipe"] for image in project.json("image", "ls")["images"]} == {"plain"}
    assert list((project.home / "local/machines").iterdir()) == []


def test_unknown_recipe_offers_the_nearest(project: Project) -> None:
    done = project.run("bake", "plian", status=2)
    assert 'no recipe "plian"' in done.stderr
    assert 'did you mean "plain"?' in done.stderr


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        pytest.param(
            'from = "plain"\ndescription = \n', "recipes/broken/recipe.toml:2", marks=pytest.mark.slow
        ),
        ('from = "plain"\nsecret = ["X"]\n', 'recipes/broken/recipe.toml:2: unknown key "secret"'),
        pytest.param(
            'from = "plain"\ntimeout = []\n', "recipes/broken/recipe.toml:2: ", marks=pytest.mark.slow
        ),
        pytest.param('from = "broken"\n', "recipes/broken/recipe.toml:1: ", marks=pytest.mark.slow),
        ('from = "plaim"\n', 'did you mean "plain"?'),
    ],
    ids=["syntax", "unknown-key", "wrong-type", "cycle", "unknown-parent"],
)
def test_wrong_recipe_toml_names_file_and_line(project: Project, recipe: Path, toml: str, said: str) -> None:
    (recipe / "recipe.toml").write_text(toml)
    for command in (["bake", "broken"], ["validate"], ["plan", "broken"]):
        assert said in project.run(*command, status=1).stderr
    assert project.json("plan", "plain")["recipes"][0]["action"] == "skip"


def test_recipe_without_deploy_says_so(project: Project, recipe: Path) -> None:
    (recipe / "deploy.py").unlink()
    done = project.run("bake", "broken", status=1)
    assert "recipes/broken" in done.stderr
    assert "deploy.py" in done.stderr


DEPLOYS = {
    "exception": ("answer = 1\nraise ValueError('no good')\n", ["recipes/broken/deploy.py:2", "no good"]),
    "syntax": ("answer = 1\nif:\n", ["recipes/broken/deploy.py:2"]),
    "failing-operation": (
        "from pyinfra.operations import server\n"
        "server.shell(name='Fall over', commands=['echo first; echo reason >&2; exit 3'])\n",
        ['"Fall over" failed', "exit 3", "reason"],
    ),
    "undefined-variable": (
        "from pyinfra.operations import files\n"
        "files.template(name='Render', src='templates/broken.j2', dest='/etc/rendered')\n",
        ["templates/broken.j2", "missing_one"],
    ),
    "missing-template": (
        "from pyinfra.operations import files\nfiles.template(src='templates/none.j2', dest='/etc/x')\n",
        ["templates/none.j2"],
    ),
    "hanging-operation": (
        "from pyinfra.operations import server\nserver.shell(name='Hang', commands=['sleep 4567'])\n",
        ['"Hang" ran longer than', "2 s", "timeout"],
    ),
}


@pytest.mark.parametrize(("deploy", "said"), choose_quick(DEPLOYS, "exception", "failing-operation"))
def test_failing_recipe_says_what_and_where(
    project: Project, recipe: Path, deploy: str, said: list[str]
) -> None:
    project.write("templates/broken.j2", "line one\n{{ missing_one }}\n")
    (recipe / "recipe.toml").write_text('from = "plain"\ntimeout = 2\n')
    (recipe / "deploy.py").write_text(deploy)
    done = project.run("bake", "broken", status=1)
    for text in said:
        assert text in done.stderr
    assert "baker/configurer" not in done.stderr
    assert_only_plain_is_registered(project)


IMAGE_TESTS = {
    "failing": ("def test_it(host):\n    assert host.file('/none').exists\n", ["test_it", "test_image.py"]),
    "does-not-import": ("import nonesuch\n", ["nonesuch", "test_image.py"]),
    "no-tests": ("x = 1\n", ["no"]),
}


@pytest.mark.parametrize(("test", "said"), choose_quick(IMAGE_TESTS, "failing"))
def test_image_that_fails_its_tests_is_not_registered(
    project: Project, recipe: Path, test: str, said: list[str]
) -> None:
    (recipe / "test_image.py").write_text(test)
    done = project.run("bake", "broken", status=1)
    for text in said:
        assert text in done.stderr
    assert_only_plain_is_registered(project)


def test_failure_blocks_only_what_is_built_upon_it(project: Project, recipe: Path) -> None:
    (recipe / "deploy.py").write_text("raise ValueError('no good')\n")
    project.recipe("child", toml='from = "broken"\n')
    project.recipe("other", toml=CHILD)
    try:
        outcomes = {bake["recipe"]: bake["outcome"] for bake in project.bake(status=1)}
    finally:
        for name in ("child", "other"):
            subprocess.run(["rm", "-r", project.folder / "recipes" / name], check=True)
    assert outcomes == {"plain": "unchanged", "broken": "failed", "child": "blocked", "other": "baked"}


def test_missing_secret_is_asked_for_before_anything_starts(project: Project, recipe: Path) -> None:
    (recipe / "recipe.toml").write_text('from = "plain"\nsecrets = ["BROKEN_TOKEN"]\n')
    done = project.run("bake", "broken", status=1)
    assert "broken needs the secret BROKEN_TOKEN" in done.stderr
    assert "launch" not in done.stderr


def test_secret_is_nowhere_but_where_the_recipe_puts_it(project: Project, recipe: Path) -> None:
    secret = "s3cr3t-value-of-the-test"
    (recipe / "recipe.toml").write_text('from = "plain"\nsecrets = ["BROKEN_TOKEN"]\n')
    (recipe / "deploy.py").write_text(
        "from pyinfra import host\nfrom pyinfra.operations import server\n"
        "print('token', host.data.BROKEN_TOKEN)\n"
        "token = host.data.BROKEN_TOKEN\n"
        "server.shell(name=f'Use {token}', commands=[f'echo {token}; exit 4'])\n"
    )
    project.environ["BROKEN_TOKEN"] = secret
    try:
        done = project.run("bake", "broken", status=1)
    finally:
        del project.environ["BROKEN_TOKEN"]
    assert "***" in done.stderr
    assert secret not in done.stderr
    assert secret.encode() not in (project.folder / "catalog.db").read_bytes()
    newest = max((project.home / "logs").iterdir(), key=lambda path: path.stat().st_mtime)
    assert "***" in newest.read_text()
    assert secret not in newest.read_text()


def test_kept_build_instance_can_be_entered_and_swept(project: Project, recipe: Path) -> None:
    (recipe / "deploy.py").write_text(
        "from pyinfra.operations import server\n"
        "server.shell(name='Leave a mark', commands=['touch /root/mark'])\n"
        "server.shell(name='Fall over', commands=['exit 3'])\n"
    )
    done = project.run("bake", "broken", "--on-error", "keep", status=1)
    enter = next(line for line in done.stderr.splitlines() if "nsenter" in line).split(": ", 1)[1]
    remove = next(line for line in done.stderr.splitlines() if "system sweep --bake" in line).split(": ", 1)[
        1
    ]
    argv = [*enter.removeprefix("sudo ").split()[:-1], "test", "-e", "/root/mark"]
    assert subprocess.run(argv).returncode == 0
    assert project.run("system", "sweep").stdout == "nothing is left behind\n"
    assert "removed machine" in project.run(*remove.split()[1:]).stdout
    assert subprocess.run(argv, capture_output=True).returncode != 0


def test_wrong_usage_has_exit_code_two(project: Project) -> None:
    project.run("frobnicate", status=2)
    project.run("bake", "--on-error", "explode", status=2)
    project.run("image", "show", "no/reference", status=2)
    project.run("image", "show", "plain:99", status=2)
    project.run("promote", "plain", "latest", "--yes", status=2)
    assert "--yes" in project.run("promote", "plain", "dev", status=2).stderr
    outside = subprocess.run([BAKER, "bake"], cwd="/", env=project.variables, capture_output=True, text=True)
    assert (outside.returncode, "no baker.toml" in outside.stderr) == (2, True)


def test_baking_without_root_says_so_and_reading_works(project: Project) -> None:
    def run_as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", BAKER, *arguments]
        return subprocess.run(argv, cwd=project.folder, env=project.variables, capture_output=True, text=True)

    folder = project.folder
    while folder != Path("/"):
        folder.chmod(folder.stat().st_mode | 0o055)
        folder = folder.parent
    if not os.access(BAKER, os.X_OK) or run_as_nobody("--version").returncode != 0:
        pytest.skip("this checkout cannot be entered by other users")
    refused = run_as_nobody("bake", "plain")
    assert (refused.returncode, "need root" in refused.stderr) == (1, True)
    assert "plain:1" in run_as_nobody("image", "ls").stdout


def test_missing_tool_is_named_with_its_package(project: Project) -> None:
    script = 'mount --bind /dev/null "$(command -v mkfs.erofs)"; exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", BAKER, "bake", "plain", "--force"]
    done = subprocess.run(argv, cwd=project.folder, env=project.variables, capture_output=True, text=True)
    assert done.returncode == 1
    assert "missing tools: mkfs.erofs" in done.stderr
    assert "apt-get install erofs-utils" in done.stderr
