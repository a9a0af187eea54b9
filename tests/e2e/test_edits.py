"""What an edit does to each recipe: a table. One project is baked once; each row edits a copy and plans."""

# Edits are a table, one row each.
# ruff: noqa: E501

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import baker.knowledge
from baker.cli.kitchens import open_kitchen, select_recipes
from baker.execution import archs_here
from baker.interrupt import Interruption
from baker.plan import make_plan
from baker.progress_console import ProgressConsole
from baker.settings import load_settings
from tests.apt_repository import Deb, make_key, publish, stop_agents
from tests.e2e.project import BAKER, Project, make_project

pytestmark = pytest.mark.machine

# --- the project ----------------------------------------------------------------------------------------

MAKE = """
from pyinfra.operations import files

files.directory(name="Make a folder", path="/srv/{name}")
"""

FILES = {
    "README.md": "A project.\n",
    "group_data/all.py": 'motd = "hello"\n',
    "templates/site.j2": "{{ motd }} {{ workers }} {{ port }}\n{% include 'templates/part.j2' %}\n{% include 'templates/local.j2' ignore missing %}\n",
    "templates/part.j2": "part\n",
    "templates/unread.j2": "unread\n",
    "lib/ports.py": "HTTP = 80\n",
    "lib/idle.py": "",
    "files/a.conf": "a\n",
    "files/b.conf": "b\n",
    "sync/one": "1\n",
    "sync/deep/two": "2\n",
    "vendor/blob": "blob\n",
    # base: a root
    "recipes/base/recipe.toml": 'description = "what all have"\nfrom = "debian:trixie"\n',
    "recipes/base/deploy.py": MAKE.format(name="base"),
    # web: a shared template that includes another, group data, a module of the project, an image test
    "recipes/web/recipe.toml": """\
description = "front end"
from = "base"
secrets = ["TOKEN"]

[data]
workers = 4
tls = { port = 443, name = "a" }
""",
    "recipes/web/deploy.py": """
from lib import ports
from pyinfra import host
from pyinfra.operations import files

files.template(
    src="templates/site.j2", dest="/srv/site", workers=host.data.workers, motd=host.data.motd, port=ports.HTTP
)
""",
    "recipes/web/test_image.py": 'def test_site_is_there(host): assert host.file("/srv/site").exists\n',
    # child: built upon web
    "recipes/child/recipe.toml": 'from = "web"\n',
    "recipes/child/deploy.py": MAKE.format(name="child"),
    # pinned: built upon one version of base; steady: upon what base's channel holds
    "recipes/pinned/recipe.toml": 'from = "base:1"\n',
    "recipes/pinned/deploy.py": MAKE.format(name="pinned"),
    "recipes/steady/recipe.toml": 'from = "base:prod"\n',
    "recipes/steady/deploy.py": MAKE.format(name="steady"),
    # api: reads by glob
    "recipes/api/recipe.toml": 'from = "debian:trixie"\n',
    "recipes/api/deploy.py": """
import glob, os
from pyinfra.operations import files

for path in sorted(glob.glob("files/*.conf")):
    files.put(src=path, dest=f"/srv/{os.path.basename(path)}")
""",
    # db: a variable, a synchronised folder, a flag
    "recipes/db/recipe.toml": 'from = "debian:trixie"\nenvironment = ["EDITION"]\n',
    "recipes/db/deploy.py": """
import io, os
from pathlib import Path
from pyinfra.operations import files

files.put(src=io.StringIO(os.environ.get("EDITION", "none")), dest="/srv/edition")
files.sync(src="sync", dest="/srv/sync")
if Path("flags/tuned").exists():
    files.directory(path="/srv/tuned")
""",
    # other: what it needs lies in its own folder
    "recipes/other/recipe.toml": 'from = "debian:trixie"\nworkdir = "."\n',
    "recipes/other/deploy.py": 'from pyinfra.operations import files\n\nfiles.put(src="files/motd", dest="/srv/motd")\n',
    "recipes/other/files/motd": "hello\n",
    # shell: nobody knows what its local process reads; declared: its author says what
    "recipes/shell/recipe.toml": 'from = "debian:trixie"\n',
    "recipes/shell/deploy.py": 'import subprocess\n\nsubprocess.run(["true"])\n' + MAKE.format(name="shell"),
    "recipes/declared/recipe.toml": 'from = "debian:trixie"\ninputs = ["vendor/**"]\n',
    "recipes/declared/deploy.py": 'import subprocess\n\nsubprocess.run(["true"])\n' + MAKE.format(name="declared"),
    # tool: a package of an archive that is a folder of the project
    "recipes/tool/recipe.toml": 'from = "debian:trixie"\n[[targets.local.repositories]]\nuri = "archive"\nsuite = "stable"\nkeyring = "archive.gpg"\n',
    "recipes/tool/deploy.py": 'from pyinfra.operations import apt\n\napt.packages(packages=["tiny-tool"])\n',
}  # fmt: skip

RECIPES = sorted({path.split("/")[1] for path in FILES if path.startswith("recipes/")})
SHARING = sorted(set(RECIPES) - {"other"})
"""Those whose paths start at the project: pyinfra reads group_data and config.py for each of them."""

ENVIRON = {"EDITION": "one", "TOKEN": "hush", "HOME": "/root", "LANG": "C.UTF-8"}


@dataclass(kw_only=True)
class Site:
    """A copy of the baked project, with a catalog of its own."""

    project: Project
    key: Path | None = None
    packages: bool = False
    environ: dict[str, str] = field(default_factory=lambda: dict(ENVIRON))
    names: list[str] | None = None
    overrides: list[str] = field(default_factory=list)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    tools: Mapping[str, str] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.project.folder

    def path(self, path: str) -> Path:
        return self.folder / path

    def run(self, *arguments: str) -> None:
        self.project.environ |= self.environ
        self.project.run(*arguments)

    def git(self, *arguments: str) -> None:
        identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.test"]
        subprocess.run(["git", "-C", self.folder, *identity, *arguments], check=True, capture_output=True)

    def plan(self) -> dict[str, str]:
        """What is to happen to each recipe, and the kinds of the reasons; ``reasons`` has them in words."""
        environ = {
            **self.environ,
            "BAKER_HOME": str(self.project.home),
            "BAKER_CATALOG": self.project.environ["BAKER_CATALOG"],
        }
        settings = load_settings(self.folder, environ)
        console = ProgressConsole(as_json=True)
        found = select_recipes(settings, self.names, self.overrides)
        with (
            open_kitchen(settings, console, found, Interruption(), asked=None, targets=None, bakes=False, offline=True) as kitchen,
            pytest.MonkeyPatch.context() as patch,
        ):  # fmt: skip
            versions = {**baker.knowledge.tool_versions(), **self.tools}
            patch.setattr(baker.knowledge, "tool_versions", lambda: versions)
            updates = kitchen.updates if self.packages else None
            kitchen = replace(kitchen, environ=environ, updates=updates)
            knowledge = replace(kitchen.knowledge, clock=lambda: self.now)
            plan = make_plan(found, knowledge, archs=archs_here(kitchen), selected=self.names)
        self.reasons = [f"{entry.recipe}: {reason.detail}" for entry in plan for reason in entry.reasons]
        return {
            entry.recipe: " ".join([entry.action, *sorted({reason.kind for reason in entry.reasons})])
            for entry in plan
        }


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Iterator[Project]:
    """Every recipe of the project, baked once."""
    folder = tmp_path_factory.mktemp("edits")
    project = make_project(folder / "project", shared_home)
    for path, text in FILES.items():
        project.write(path, text)
    key = make_key(folder / "key")
    shutil.copy(key, project.folder / "archive.gpg")
    publish(project.folder / "archive", key, Deb(name="tiny-tool"), Deb(name="another"))
    project.environ |= {**ENVIRON, "BAKER_CATALOG": f"sqlite:///{folder}/catalog.db"}
    project.bake("base")
    project.run("promote", "base:1", "prod", "--yes")
    assert {bake["outcome"] for bake in project.bake("--jobs", "2")} == {"baked", "unchanged"}
    yield project
    stop_agents(folder / "key")


@pytest.fixture(scope="module")
def rebaked(baked: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Thereafter base was changed, and baked anew: nothing else yet."""
    project = copy_project(baked, tmp_path_factory.mktemp("rebaked"))
    project.write("recipes/base/deploy.py", MAKE.format(name="another"))
    assert [bake["image"] for bake in project.bake("base")] == ["base:2"]
    return project


def copy_project(project: Project, folder: Path) -> Project:
    """With a catalog of its own; what the builds are lies in the same store."""
    shutil.copytree(project.folder, folder / "project", symlinks=True)
    shutil.copy(project.environ["BAKER_CATALOG"].removeprefix("sqlite:///"), folder / "catalog.db")
    environ = {**project.environ, "BAKER_CATALOG": f"sqlite:///{folder}/catalog.db"}
    return Project(folder=folder / "project", home=project.home, environ=environ)


@pytest.fixture
def site(baked: Project, tmp_path: Path) -> Site:
    return Site(project=copy_project(baked, tmp_path), key=Path(baked.folder.parent, "key/public.gpg"))


@pytest.fixture
def later_site(rebaked: Project, tmp_path: Path) -> Site:
    return Site(project=copy_project(rebaked, tmp_path))


# --- edits ------------------------------------------------------------------------------------------------

Edit = Callable[[Site], object]


def write(path: str, text: str) -> Edit:
    def edit(site: Site) -> None:
        site.path(path).parent.mkdir(parents=True, exist_ok=True)
        site.path(path).write_text(text)

    return edit


def change(path: str, old: str, new: str) -> Edit:
    def edit(site: Site) -> None:
        text = site.path(path).read_text()
        assert old in text
        site.path(path).write_text(text.replace(old, new))

    return edit


def append(path: str, text: str) -> Edit:
    return lambda site: site.path(path).write_text(site.path(path).read_text() + text)


def rename(old: str, new: str) -> Edit:
    return lambda site: site.path(old).rename(site.path(new))


def chmod(path: str, mode: int) -> Edit:
    return lambda site: site.path(path).chmod(mode)


def in_turn(*edits: Edit) -> Edit:
    def edit(site: Site) -> None:
        for one in edits:
            one(site)

    return edit


def set_variable(name: str, value: str | None) -> Edit:
    def edit(site: Site) -> None:
        site.environ.pop(name, None)
        if value is not None:
            site.environ[name] = value

    return edit


def override(recipe: str, text: str) -> Edit:
    """``baker plan RECIPE --set TEXT``."""

    def edit(site: Site) -> None:
        site.names = [recipe]
        site.overrides.append(text)

    return edit


def touch_everything(site: Site) -> None:
    for path in site.folder.rglob("*"):
        os.utime(path, (1, 1))


def replace_by_copy(path: str) -> Edit:
    def edit(site: Site) -> None:
        shutil.copy(site.path(path), site.path("copy"))
        site.path("copy").replace(site.path(path))

    return edit


def replace_by_link(path: str) -> Edit:
    def edit(site: Site) -> None:
        kept = site.path("kept")
        kept.mkdir()
        moved = site.path(path).rename(kept / "moved")
        site.path(path).symlink_to(moved)

    return edit


def leave_litter(site: Site) -> None:
    for path in (
        "templates/site.j2~",
        "files/.a.conf.swp",
        "recipes/web/#deploy.py#",
        "recipes/web/deploy.py~",
    ):
        site.path(path).write_text("litter")
    for folder in ("lib", "recipes/web", "files", "sync/deep", "group_data"):
        site.path(f"{folder}/__pycache__").mkdir()
        site.path(f"{folder}/__pycache__/x.cpython-311.pyc").write_text("litter")


def commit(site: Site) -> None:
    site.git("init", "--initial-branch", "main")
    site.git("add", "--all")
    site.git("commit", "--message", "everything")


def switch_branch(site: Site) -> None:
    commit(site)
    site.git("switch", "--create", "feature")


def switch_there_and_back(site: Site) -> None:
    switch_branch(site)
    append("templates/site.j2", "feature")(site)
    site.git("commit", "--all", "--message", "feature")
    site.git("switch", "main")


def clone(site: Site) -> None:
    """As CI has it: every file is new, and has its time."""
    commit(site)
    subprocess.run(["git", "clone", "--quiet", site.folder, site.folder.with_name("clone")], check=True)
    site.project.folder = site.folder.with_name("clone")


def let_pass(**age: float) -> Edit:
    def edit(site: Site) -> None:
        site.now += timedelta(**age)

    return edit


def upgrade(tool: str) -> Edit:
    def edit(site: Site) -> None:
        site.tools = {tool: "999.0"}

    return edit


def own_by(uid: int) -> Edit:
    def edit(site: Site) -> None:
        for path in [site.folder, *site.folder.rglob("*")]:
            os.chown(path, uid, uid)
        site.environ |= {
            "USER": "somebody",
            "LOGNAME": "somebody",
            "HOME": "/home/somebody",
            "BAKER_ACTOR": "somebody",
        }

    return edit


def run(*arguments: str) -> Edit:
    """A command of baker."""
    return lambda site: site.run(*arguments)


def revoke(reference: str) -> Edit:
    return run("image", "revoke", reference, "--reason", "it is bad", "--yes", "--no-fall-back")


def release(*debs: Deb) -> Edit:
    """Put packages into the archive, in the place of those that it has."""

    def edit(site: Site) -> None:
        assert site.key is not None
        site.packages, site.names = True, ["other", "tool"]  # to look for newer ones takes a second each
        shutil.rmtree(site.path("archive"))
        publish(site.path("archive"), site.key, *debs)

    return edit


def each(names: list[str], what: str) -> dict[str, str]:
    return dict.fromkeys(names, what)


UNMOVED: dict[str, str] = {}
CHANGED = "bake changed"
FOLLOWS = "bake parent-will-be-baked"
WEB_CHANGED = {"web": CHANGED, "child": FOLLOWS}
BASE_CHANGED = {"base": CHANGED, "web": FOLLOWS, "child": FOLLOWS}  # pinned and steady do not follow it
EVERY_ROOT_CHANGED = {
    **each(RECIPES, CHANGED),
    "web": "bake changed parent-will-be-baked",
    "child": "bake changed parent-will-be-baked",
}
SHARING_CHANGED = {name: what for name, what in EVERY_ROOT_CHANGED.items() if name in SHARING}
"""The children are changed themselves, too."""

# Each row: what is done, what is to happen to each recipe (those not named: nothing), and what one of the reasons says.
EDITS: dict[str, tuple[Edit, Mapping[str, str], str]] = {
    "nothing": (lambda _site: None, UNMOVED, ""),
    # -- recipe.toml: what it means counts, not how it is written
    "comment in recipe.toml": (append("recipes/web/recipe.toml", "# note\n"), UNMOVED, ""),
    "whitespace in recipe.toml": (change("recipes/web/recipe.toml", "workers = 4", "\nworkers   =   4\n"), UNMOVED, ""),
    "order of keys in recipe.toml": (change("recipes/web/recipe.toml", 'port = 443, name = "a"', 'name = "a", port = 443'), UNMOVED, ""),
    "another description": (change("recipes/web/recipe.toml", "front end", "the front end"), UNMOVED, ""),
    "line endings of recipe.toml": (change("recipes/web/recipe.toml", "\n", "\r\n"), UNMOVED, ""),
    "data": (change("recipes/web/recipe.toml", "workers = 4", "workers = 8"), WEB_CHANGED, "web: data.workers changed"),
    "nested data": (change("recipes/web/recipe.toml", "443", "8443"), WEB_CHANGED, "web: data.tls changed"),
    "time limits, retries": (
        change("recipes/web/recipe.toml", 'from = "base"', 'from = "base"\ntimeout = "9m"\nretries = 3\nlimits = { configure = "9m" }'),
        UNMOVED,
        "",
    ),
    "name of a secret": (change("recipes/web/recipe.toml", '"TOKEN"', '"TOKEN", "KEY"'), WEB_CHANGED, "web: secrets changed"),
    "less environment": (change("recipes/db/recipe.toml", '"EDITION"', ""), {"db": CHANGED}, "db: environment changed"),
    "source": (change("recipes/child/recipe.toml", '"web"', '"base"'), {"child": "bake source-moved"}, "child: "),
    # -- the recipe's folder: all of it is what the recipe is
    "comment in deploy.py": (append("recipes/base/deploy.py", "# note\n"), BASE_CHANGED, "base: deploy.py changed"),
    "line endings of deploy.py": (change("recipes/other/deploy.py", "\n", "\r\n"), {"other": CHANGED}, "other: deploy.py changed"),
    "README in a recipe's folder": (write("recipes/web/README.md", "About.\n"), WEB_CHANGED, "web: README.md was added"),
    "file of a recipe": (write("recipes/other/files/motd", "bye\n"), {"other": CHANGED}, "other: files/motd changed"),
    "file of a recipe becomes executable": (chmod("recipes/other/files/motd", 0o755), {"other": CHANGED}, "other: files/motd became executable"),
    "image test": (append("recipes/web/test_image.py", "# more\n"), {"web": "verify image-tests-changed"}, "web: image tests changed"),
    "new image test": (write("recipes/child/test_it.py", "def test(): pass\n"), {"child": "verify image-tests-changed"}, "child: image tests changed"),
    "recipe renamed": (rename("recipes/other", "recipes/another"), {"other": "", "another": "bake never-baked"}, ""),
    "recipe deleted": (lambda site: shutil.rmtree(site.path("recipes/child")), {"child": ""}, ""),
    "new recipe": (lambda site: shutil.copytree(site.path("recipes/other"), site.path("recipes/new")), {"new": "bake never-baked"}, ""),
    # -- what is read elsewhere in the project
    "template that is read": (append("templates/site.j2", "more\n"), WEB_CHANGED, "web: templates/site.j2 changed"),
    "template that is included": (append("templates/part.j2", "more\n"), WEB_CHANGED, "web: templates/part.j2 changed"),
    "template that was looked for": (write("templates/local.j2", "local\n"), WEB_CHANGED, "web: templates/local.j2 was added"),
    "template that nobody reads": (append("templates/unread.j2", "more\n"), UNMOVED, ""),
    "template renamed": (rename("templates/part.j2", "templates/piece.j2"), WEB_CHANGED, "web: templates/part.j2 was removed"),
    "line endings of a template": (change("templates/part.j2", "\n", "\r\n"), WEB_CHANGED, "web: templates/part.j2 changed"),
    "group_data": (write("group_data/all.py", 'motd = "bye"\n'), SHARING_CHANGED, "web: group_data/all.py changed"),
    "new group_data": (write("group_data/web.py", "x = 1\n"), SHARING_CHANGED, "web: the list of files in group_data changed"),
    "config.py comes into being": (write("config.py", "SUDO = False\n"), SHARING_CHANGED, "web: config.py was added"),
    "module that is imported": (write("lib/ports.py", "HTTP = 81\n"), WEB_CHANGED, "web: lib/ports.py changed"),
    "module that is not imported": (write("lib/idle.py", "x = 1\n"), UNMOVED, ""),
    "module that shadows another": (write("lib/ports/__init__.py", "HTTP = 81\n"), WEB_CHANGED, "web: lib/ports/__init__.py was added"),
    "package that shadows a folder": (write("lib/__init__.py", ""), WEB_CHANGED, "web: lib/__init__.py was added"),
    "file in a folder that is globbed": (write("files/c.conf", "c\n"), {"api": CHANGED}, "api: the list of files in files changed"),
    # All that lies in the folder was listed: what the recipe made of the names is not known.
    "file that the glob leaves out": (write("files/c.txt", "c\n"), {"api": CHANGED}, "api: the list of files in files changed"),
    "file beside the globbed folder": (write("c.conf", "c\n"), UNMOVED, ""),
    "file that the glob finds": (write("files/a.conf", "z\n"), {"api": CHANGED}, "api: files/a.conf changed"),
    "file in a synchronised folder": (write("sync/deep/three", "3\n"), {"db": CHANGED}, "db: the list of files in sync/deep changed"),
    "folder in a synchronised folder": (lambda site: site.path("sync/new").mkdir(), {"db": CHANGED}, "db: the list of files in sync changed"),
    "flag that was looked for": (write("flags/tuned", ""), {"db": CHANGED}, "db: flags/tuned was added"),
    "file that inputs match": (write("vendor/blob", "another\n"), {"declared": CHANGED}, "declared: vendor/blob changed"),
    "new file that inputs match": (write("vendor/deep/new", ""), {"declared": CHANGED}, "declared: vendor/deep/new was added"),
    "README of the project": (append("README.md", "More.\n"), UNMOVED, ""),
    # -- bits, times and links
    "touch": (touch_everything, UNMOVED, ""),
    "read file becomes executable": (chmod("files/a.conf", 0o755), {"api": CHANGED}, "api: files/a.conf became executable"),
    "other bits of a read file": (chmod("files/a.conf", 0o600), UNMOVED, ""),
    # files.sync gives what it makes the bits that it finds.
    "bits of a synchronised file": (chmod("sync/one", 0o600), {"db": CHANGED}, "db: the permissions of sync/one changed"),
    "bits of a synchronised folder": (chmod("sync/deep", 0o700), {"db": CHANGED}, "db: the permissions of sync/deep changed"),
    "identical copy": (replace_by_copy("templates/part.j2"), UNMOVED, ""),
    "link to the same content": (replace_by_link("templates/part.j2"), UNMOVED, ""),
    # files.sync makes links of links.
    "link to the same content, synchronised": (replace_by_link("sync/one"), {"db": CHANGED}, "db: sync/one changed"),
    "litter of editors and interpreters": (leave_litter, UNMOVED, ""),
    # -- variables
    "variable of the list": (set_variable("EDITION", "two"), {"db": CHANGED}, "db: the variable EDITION changed"),
    "variable of the list unset": (set_variable("EDITION", None), {"db": CHANGED}, "db: the variable EDITION was unset"),
    "variable of no list": (set_variable("LANG", "de_DE.UTF-8"), UNMOVED, ""),
    "value of a secret": (set_variable("TOKEN", "another"), UNMOVED, ""),
    "--set what it is": (override("web", "workers=4"), UNMOVED, ""),
    "--set another value": (override("web", "workers=5"), {"web": CHANGED}, "web: data.workers changed"),
    # -- when, who and where
    "a year later": (let_pass(days=365), UNMOVED, ""),
    "another owner and user": (own_by(4321), UNMOVED, ""),
    "fresh clone": (clone, UNMOVED, ""),
    "commit": (commit, UNMOVED, ""),
    "uncommitted file": (in_turn(commit, write("notes.txt", "x")), UNMOVED, ""),
    "branch": (switch_branch, UNMOVED, ""),
    "to a branch and back": (switch_there_and_back, UNMOVED, ""),
    "less than max_age later": (in_turn(append("recipes/other/recipe.toml", 'max_age = "30d"\n'), let_pass(days=29)), UNMOVED, ""),
    "max_age later": (in_turn(append("recipes/other/recipe.toml", 'max_age = "30d"\n'), let_pass(days=31)), {"other": "bake too-old"}, ""),
    # -- the archive
    "newer package": (release(Deb(name="tiny-tool", version="2.0"), Deb(name="another")), {"tool": "bake packages-outdated"}, "tool: "),
    "newer package that no image has": (release(Deb(name="tiny-tool"), Deb(name="another", version="2.0")), UNMOVED, ""),
    "archive signed anew": (release(Deb(name="tiny-tool"), Deb(name="another")), UNMOVED, ""),
    # -- what becomes of images
    # The newest image that is not deprecated is what web follows: there is none.
    "image deprecated": (run("image", "deprecate", "base:1"), {"web": "blocked blocked", "child": "blocked blocked"}, "web: it starts from base"),
    "image revoked": (revoke("web:1"), {"web": "bake revoked", "child": "bake parent-will-be-baked revoked"}, "web: web:1 was revoked"),
    "channel moved to what it holds": (run("promote", "base:1", "prod", "--yes"), UNMOVED, ""),
    # -- tools
    "pyinfra upgraded": (upgrade("pyinfra"), {name: what.replace("changed", "configurer-upgraded") for name, what in EVERY_ROOT_CHANGED.items()}, "other: pyinfra upgraded from"),
    "seal upgraded": (upgrade("seal"), {name: what.replace("changed", "configurer-upgraded") for name, what in EVERY_ROOT_CHANGED.items()}, "other: seal upgraded from"),
}  # fmt: skip

MOVED = {"web": "bake source-moved", "child": FOLLOWS}

# base:2 is there, and web:1, pinned:1 and steady:1 are built upon base:1.
LATER_EDITS: dict[str, tuple[Edit, Mapping[str, str], str]] = {
    "parent baked anew with another result": (lambda _site: None, MOVED, "web: "),
    "parent promoted": (run("promote", "base:2", "prod", "--yes"), {**MOVED, "steady": "bake source-moved"}, "steady: "),
    "parent promoted and rolled back": (
        in_turn(run("promote", "base:2", "prod", "--yes"), run("rollback", "base", "prod", "--yes")), MOVED, ""
    ),
    # base:1's build is issued anew, as base:3: what is built upon it is up to date again.
    "edit of the parent reverted": (write("recipes/base/deploy.py", FILES["recipes/base/deploy.py"]), {"base": "bake changed reissue"}, "base: "),
    "new parent revoked": (revoke("base:2"), {"base": "bake changed revoked", "web": FOLLOWS, "child": FOLLOWS}, "base: "),
    # What is built upon it is not used any more, either.
    "pinned parent revoked": (revoke("base:1"), {"web": "bake revoked", "child": "bake parent-will-be-baked revoked", "pinned": "blocked blocked", "steady": "blocked blocked"}, "pinned: "),
    "parent baked anew with the same result": (run("bake", "base", "--force"), MOVED, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_edit_concerns_exactly_these_recipes(site: Site, name: str) -> None:
    check(site, *EDITS[name])


@pytest.mark.parametrize("name", LATER_EDITS)
def test_what_happens_to_a_parent_concerns_exactly_these_recipes(later_site: Site, name: str) -> None:
    check(later_site, *LATER_EDITS[name])


def test_plan_is_the_same_for_another_user_on_another_mount(site: Site) -> None:
    elsewhere = site.folder.with_name("elsewhere")
    elsewhere.mkdir()
    script = 'mount --bind "$1" "$2"; cd "$2"; shift 2; exec "$@"'
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    become += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]  # who may enter the test's folders
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-euc", script, "sh", site.folder, elsewhere, *become),
            *(BAKER, "plan", "--json", "--offline", "api", "db", "other"),
        ],
        env={**site.project.variables, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    entries = json.loads(done.stdout)["recipes"]
    assert {entry["recipe"]: entry["action"] for entry in entries} == each(["api", "db", "other"], "skip")


def check(site: Site, edit: Edit, expected: Mapping[str, str], says: str) -> None:
    edit(site)
    planned = site.plan()
    usual = each(site.names or RECIPES, "skip unchanged") | ({} if site.names else {"shell": "bake opaque"})
    assert planned == {recipe: what for recipe, what in {**usual, **expected}.items() if what}, site.reasons
    assert not says or any(reason.startswith(says) for reason in site.reasons), site.reasons
