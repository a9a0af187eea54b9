"""No false "unchanged": whatever a recipe sees of its project, a change of it moves the fingerprint.

Recipes read generated trees in all ways of ``tests.ways_of_reading``. Then the trees are changed, read anew
by the same functions, and what they return is compared.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from baker.fingerprint import refresh_traced, traced_inputs
from baker.model import Recipe
from tests import ways_of_reading
from tests.machines import Project, launch, machine, no_sandbox_left_behind, project
from tests.ways_of_reading import WAYS

__all__ = ["launch", "machine", "no_sandbox_left_behind", "project"]  # fixtures

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("no_sandbox_left_behind")]

# --- trees ----------------------------------------------------------------------------------------------

PATHS = (
    *("x.txt", "y.txt", "z", "m.py", "m/__init__.py"),
    *("d", "d/x.txt", "d/m.py", "d/__init__.py", "d/m/__init__.py", "d/deep", "d/deep/y.txt"),
    *("e", "e/x.txt", "e/m.py"),
)
CONTENTS = ("", "X = 1\n", "X = 2\n", "X = 10\n")
TIMES = (1_000_000_000, 1_500_000_000)


@dataclass(frozen=True, kw_only=True)
class Node:
    """What lies at a path: a file with ``content``, a link that says ``target``, else a folder."""

    content: str | None = None
    target: str | None = None
    executable: bool = False
    shared: bool = False
    time: int = TIMES[0]

    @property
    def mode(self) -> int:
        execute = 0o111 if self.executable or self.content is None else 0
        return 0o644 | execute | (0o020 if self.shared else 0)


Tree = Mapping[str, Node]


def make_node(chance: random.Random, path: str) -> Node:
    node = Node(executable=chance.random() < 0.2, shared=chance.random() < 0.2, time=chance.choice(TIMES))
    kind = chance.choices(("file", "folder", "link"), (8, 1 if path.endswith((".py", ".txt")) else 6, 2))
    if kind == ["file"]:
        return replace(node, content=chance.choice(CONTENTS))
    if kind == ["link"]:
        return replace(node, target="../" * path.count("/") + chance.choice(PATHS))
    return node


def make_tree(chance: random.Random) -> Tree:
    return {path: make_node(chance, path) for path in PATHS if chance.random() < 0.6}


def edit_tree(chance: random.Random, tree: Tree, near: Sequence[str] = PATHS) -> Tree:
    """One path of another kind, content, mode or time; added, removed, or renamed."""
    edited = dict(tree)
    path = chance.choice(chance.choice((PATHS, near)))
    old = edited.pop(path, None)
    change = chance.random()
    if old is None or change < 0.3:
        edited[path] = make_node(chance, path)
    elif change < 0.4:
        edited[path] = replace(old, time=TIMES[1] if old.time == TIMES[0] else TIMES[0])
    elif change < 0.5:
        edited[path] = replace(old, executable=not old.executable)
    elif change < 0.6:
        edited[path] = replace(old, shared=not old.shared)
    elif change < 0.75 and old.content is not None:
        edited[path] = replace(old, content=chance.choice(CONTENTS))
    elif change < 0.85:
        edited[chance.choice(PATHS)] = old
    return edited


def write_tree(folder: Path, tree: Tree) -> None:
    """What would lie in a file or behind a link is left out."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, node in sorted(tree.items()):
        place = folder / path
        if any(above.is_symlink() or above.is_file() for above in list(place.parents)[: path.count("/")]):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if node.target is not None:
            place.symlink_to(node.target)
        elif node.content is not None:
            place.write_text(node.content)
        else:
            place.mkdir(exist_ok=True)
    # Times last, and innermost first: what is made in a folder gives it another one.
    for place in sorted([folder, *folder.rglob("*")], reverse=True):
        node = tree.get(str(place.relative_to(folder)), Node())
        if not place.is_symlink():
            place.chmod(node.mode | (stat.S_IXUSR | 0o011 if place.is_dir() else 0))
        os.utime(place, (node.time, node.time), follow_symlinks=False)


# --- readings -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way of reading, applied to two paths of a folder of its own."""

    way: str
    a: str
    b: str
    tree: Tree

    @property
    def folder(self) -> str:
        return f"trees/{self.way}"

    def see(self) -> str:
        """What the way returns now, or how it fails. Runs in the project's folder."""
        try:
            return repr(getattr(ways_of_reading, self.way)(self.folder, self.a, self.b))
        except Exception as error:
            return type(error).__name__


def make_reading(chance: random.Random, way: str) -> Reading:
    tree = make_tree(chance)
    a, b = (chance.choice(sorted(tree) if tree and chance.random() < 0.8 else PATHS) for _ in "ab")
    return Reading(way=way, a=a, b=b, tree=tree)


def write_deploy(readings: Sequence[Reading]) -> str:
    calls = [(reading.way, reading.folder, reading.a, reading.b) for reading in readings]
    return f"""{Path(ways_of_reading.__file__).read_text()}

for way, folder, a, b in {calls!r}:
    try:
        globals()[way](folder, a, b)
    except Exception:
        pass
"""


def make_recipe(project: Project) -> Recipe:
    return Recipe(
        name="web", folder=str(project.folder), project=str(project.root), description="", targets={}
    )


def read_all(project: Project, readings: Sequence[Reading]) -> dict[str, str]:
    """What a recipe is found to depend on that reads in these ways."""
    for reading in readings:
        write_tree(project.root / reading.folder, reading.tree)
    project.write("unread/x.txt", "unread")
    configured = project.apply(write_deploy(readings))
    assert configured.opaque is None
    inputs = traced_inputs(make_recipe(project), [(item.kind, item.path) for item in configured.traced])
    assert refresh_traced(project.root, inputs) == inputs
    return inputs


def inputs_in(inputs: Mapping[str, str], folder: str) -> dict[str, str]:
    return {
        key: value for key, value in inputs.items() if f"{key.partition(':')[2]}/".startswith(f"{folder}/")
    }


def find_unnoticed(
    project: Project, chance: random.Random, readings: Sequence[Reading], edits: int
) -> tuple[list[str], set[str]]:
    """Changes that a way of reading sees and its inputs do not, and the ways that saw any change."""
    unnoticed, have_seen = [], set()
    everything = read_all(project, readings)
    for reading in readings:
        inputs = inputs_in(everything, reading.folder)
        before = reading.see()
        for _ in range(edits):
            edited = edit_tree(chance, reading.tree, (reading.a, reading.b))
            write_tree(project.root / reading.folder, edited)
            now = reading.see()
            if now != before:
                have_seen.add(reading.way)
                if refresh_traced(project.root, inputs) == inputs:
                    changed = [
                        (path, reading.tree.get(path), edited.get(path))
                        for path in PATHS
                        if edited.get(path) != reading.tree.get(path)
                    ]
                    unnoticed.append(f"{reading!r} saw {before}, sees {now} after {changed}: {inputs}")
    (project.root / "unread/x.txt").write_text("edited")
    (project.root / "unread/new").write_text("")
    for reading in readings:
        write_tree(project.root / reading.folder, reading.tree)
    assert refresh_traced(project.root, everything) == everything, "what nobody reads counts"
    return unnoticed, have_seen


@pytest.fixture
def in_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The test itself runs where the recipe does."""
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return project


BOUNDED: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "phases": [Phase.generate],  # a number is all that is generated: nothing to make smaller
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@settings(max_examples=2, derandomize=True, **BOUNDED)
@given(seed=st.integers(min_value=0))
def test_no_change_that_a_recipe_would_see_goes_unnoticed(in_project: Project, seed: int) -> None:
    chance = random.Random(seed)
    unnoticed, have_seen = find_unnoticed(in_project, chance, [make_reading(chance, way) for way in WAYS], 8)
    assert not unnoticed, "\n".join(unnoticed)
    assert len(have_seen) > len(WAYS) / 2


@pytest.mark.slow
@settings(max_examples=40, **BOUNDED)
@given(seed=st.integers(min_value=0))
def test_no_change_that_a_recipe_would_see_goes_unnoticed_in_many_trees(
    in_project: Project, seed: int
) -> None:
    chance = random.Random(seed)
    unnoticed, _ = find_unnoticed(in_project, chance, [make_reading(chance, way) for way in WAYS], 30)
    assert not unnoticed, "\n".join(unnoticed)


# --- what cannot be told ----------------------------------------------------------------------------------

OPAQUE = {
    "import sqlite3\nsqlite3.connect('data.db')": "opens a database",
    "import ctypes\nctypes.CDLL(None).getpid()": "calls C code",
    "import _xxsubinterpreters": "imports _xxsubinterpreters",
    "import os\nos.posix_spawn('/bin/true', ['true'], {})": "starts a local process: /bin/true",
    "import os\nos.getxattr('data.txt', 'user.x')": "reads extended attributes",
    "from multiprocessing.util import spawnv_passfds\nspawnv_passfds(b'/bin/true', [b'true'], [])": (
        "starts a local process"
    ),
    "open('/usr/share/common-licenses/GPL-3')": (
        "reads /usr/share/common-licenses/GPL-3, which is the host's"
    ),
    "from pathlib import Path\nPath('recipes/web/out').read_text()": (
        "reads /SITE/recipes/web/out, which is the host's"
    ),
    "import os\nos.listdir('/usr/share')": "lists /usr/share, which is the host's",
    "import os, threading\nthreading.Thread(target=lambda: os.system('true')).run()": (
        "starts a local process: true"
    ),
}  # fmt: skip


@pytest.mark.parametrize("deploy", OPAQUE)
def test_recipe_that_reads_what_cannot_be_traced_is_opaque(project: Project, deploy: str) -> None:
    project.write("data.txt", "x")
    project.folder.mkdir(parents=True)
    (project.folder / "out").symlink_to("/usr/share/common-licenses/GPL-3")
    configured = project.apply(
        f"try:\n    {deploy.replace(chr(10), chr(10) + '    ')}\nexcept Exception:\n    pass\n"
    )
    assert configured.opaque is not None
    place, _, why = configured.opaque.partition(" ")
    assert place in ("recipes/web/deploy.py:2", "recipes/web/deploy.py:3")
    assert why.replace(str(project.root), "/SITE").startswith(OPAQUE[deploy])


PLAIN = """
import ctypes, io, json, os, pwd, socket, sys, time, uuid
from pyinfra import host
from pyinfra.operations import files

time.time(), os.getuid(), socket.gethostname(), os.environ.get("SHELL"), os.path.exists("/etc/hostname")
open("/dev/null").read(), open("/proc/self/status").read()
with open("/tmp/scratch", "w") as file:
    file.write("x")
open("/tmp/scratch").read()
files.put(src=io.StringIO("x"), dest="/t/x")
files.put(src=(lambda: io.BytesIO(b"y"))(), dest="/t/y")
"""


def test_what_a_recipe_asks_that_is_not_of_the_project_is_no_input(project: Project) -> None:
    configured = project.apply(PLAIN)
    assert configured.opaque is None
    paths = {item.path for item in configured.traced if item.path != "recipes/web/deploy.py"}
    assert paths == {"config.py", "group_data"}
