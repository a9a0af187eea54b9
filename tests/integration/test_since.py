"""What a git diff touches: real repositories, real recipes, and what their builds read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from baker.errors import HostError, UsageError
from baker.model import Build
from baker.recipes import load_recipes
from baker.settings import load_settings
from baker.since import (
    ADDED,
    CHANGED,
    REMOVED,
    Selection,
    Touched,
    describe_touched,
    find_touched,
    list_changes,
    newest_builds,
)
from tests.factories import make_build, make_provenance
from tests.nobody import open_the_way

TEMPLATE, CONF = "templates/site/index.html.j2", "recipes/web/files/web.conf"


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=ann", "-c", "user.email=ann@example.org", "-C", folder, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def write(folder: Path, path: str, text: str = "new\n") -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(text)


def write_recipe(folder: Path, name: str, toml: str = 'from = "debian:trixie"\n') -> None:
    write(folder, f"recipes/{name}/recipe.toml", toml)
    write(folder, f"recipes/{name}/deploy.py", "\n")


def commit(folder: Path, message: str = "a change") -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", message)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """base; web and api upon it, api pinned; lone by itself. A branch of its first commit is checked out."""
    folder = tmp_path / "images"
    write(folder, "baker.toml", "")
    write_recipe(folder, "base")
    write_recipe(folder, "web", 'from = "base"\n')
    write_recipe(folder, "api", 'from = "base:prod"\ninputs = ["schemas/**/*.sql", "vendor"]\n')
    write_recipe(folder, "lone")
    for path in (TEMPLATE, CONF, "schemas/one.sql", "vendor/deep/lib.tar", "README.md", "pages/a.txt"):
        write(folder, path, "old\n")
    write(folder, "recipes/web/test_image.py", "def test_it(host): pass\n")
    write(folder, ".gitignore", "ignored\n")
    git(tmp_path, "init", "-q", "-b", "main", "images")
    commit(folder)
    git(folder, "checkout", "-q", "-b", "change")
    return folder


def build_of(recipe: str, *keys: str, opaque: str | None = None) -> Build:
    inputs = {"source": "sha256:00", "recipe:deploy.py": "sha256:11", **dict.fromkeys(keys, "sha256:22")}
    return make_build(recipe, provenance=make_provenance(inputs=inputs, opaque=opaque))


BUILDS: Mapping[str, list[Build]] = {
    "base": [build_of("base", "absent:group_data/all.py")],
    "web": [build_of("web", "recipe:files/web.conf", f"file:{TEMPLATE}", "listing:pages")],
    "api": [build_of("api", "input:schemas/one.sql", "input:vendor/deep/lib.tar")],
    "lone": [build_of("lone")],
}


def find(project: Path, builds: Mapping[str, list[Build]] = BUILDS, ref: str = "main") -> Selection:
    settings = load_settings(project, {})
    return find_touched(list_changes(project, ref), load_recipes(project), builds, settings)


def reasons(project: Path, builds: Mapping[str, list[Build]] = BUILDS) -> dict[str, tuple[str, ...]]:
    return {one.recipe: one.reasons for one in find(project, builds).touched}


UPON = "it is built upon base, which is touched"
EDITS: dict[str, tuple[dict[str, str | None], dict[str, tuple[str, ...]]]] = {
    "a template that was read": ({TEMPLATE: "new"}, {"web": (f"{TEMPLATE} changed",)}),
    "a file of the recipe's folder": ({CONF: "new"}, {"web": (f"{CONF} changed",)}),
    "a new one there": ({"recipes/web/x": "new"}, {"web": ("recipes/web/x was added",)}),
    "an image test": (
        {"recipes/web/test_image.py": "pass\n"},
        {"web": ("recipes/web/test_image.py changed",)},
    ),
    "a new image test": (
        {"recipes/lone/conftest.py": ""},
        {"lone": ("recipes/lone/conftest.py was added",)},
    ),
    "a recipe.toml": (
        {"recipes/lone/recipe.toml": 'from = "debian:bookworm"\n'},
        {"lone": ("recipes/lone/recipe.toml changed",)},
    ),
    "what others are built upon": (
        {"recipes/base/deploy.py": "import os\n"},
        {"base": ("recipes/base/deploy.py changed",), "api": (UPON,), "web": (UPON,)},
    ),
    "what was looked for in vain": (
        {"group_data/all.py": "x = 1\n"},
        {"base": ("group_data/all.py was added",), "api": (UPON,), "web": (UPON,)},
    ),
    "a new file of a folder that was listed": (
        {"pages/b.txt": "new"},
        {"web": ("pages/b.txt was added, and it lists pages",)},
    ),
    "a new folder there": (
        {"pages/deep/b.txt": "new"},
        {"web": ("pages/deep was added, and it lists pages",)},
    ),
    "another content of a file there": ({"pages/a.txt": "new"}, {}),
    "a file gone from there": (
        {"pages/a.txt": None},
        {"web": ("pages/a.txt was removed, and it lists pages",)},
    ),
    "a new file that inputs match": (
        {"schemas/v2/two.sql": "new"},
        {"api": ("schemas/v2/two.sql was added",)},
    ),
    "one that they match no more": ({"schemas/one.sql": None}, {"api": ("schemas/one.sql was removed",)}),
    "one that they do not match": ({"schemas/v2/two.txt": "new"}, {}),
    "one below a folder that they match": (
        {"vendor/deep/new": "new"},
        {"api": ("vendor/deep/new was added",)},
    ),
    "what nobody reads": ({"README.md": "new", "templates/other.j2": "new"}, {}),
    "what editors leave": ({"recipes/web/deploy.py~": "new", "pages/.a.txt.swp": "new"}, {}),
    "what git ignores": ({"recipes/web/ignored": "new"}, {}),
}


@pytest.mark.parametrize("committed", [False, True], ids=["in the work tree", "committed"])
@pytest.mark.parametrize("edit", EDITS)
def test_edit_touches_its_readers_and_what_is_built_upon_them(
    project: Path, edit: str, committed: bool
) -> None:
    edits, touched = EDITS[edit]
    for path, text in edits.items():
        write(project, path, text) if text is not None else (project / path).unlink()
    if committed:
        commit(project)
    assert reasons(project) == touched


def test_without_a_change_nothing_is_touched(project: Path) -> None:
    assert find(project) == Selection(touched=())
    write(project, TEMPLATE)
    commit(project)
    assert find(project, ref="HEAD") == Selection(touched=())


def test_what_happened_on_the_other_branch_meanwhile_does_not_count(project: Path) -> None:
    git(project, "checkout", "-q", "main")
    write(project, TEMPLATE)
    commit(project)
    git(project, "checkout", "-q", "change")
    write(project, CONF)
    commit(project)
    assert reasons(project) == {"web": (f"{CONF} changed",)}


def test_readers_are_found_behind_symbolic_links(project: Path) -> None:
    """git names the file, the recipe what it went through."""
    (project / "recipes/lone/shared").symlink_to("../../templates/site")
    (project / "all-pages").symlink_to("pages")
    commit(project)
    git(project, "branch", "-f", "main")
    builds = {
        **BUILDS,
        "web": [build_of("web")],
        "lone": [build_of("lone", "file:recipes/lone/shared/index.html.j2", "listing:all-pages")],
    }
    write(project, TEMPLATE)
    write(project, "pages/new.txt")
    assert reasons(project, builds) == {
        "lone": (f"{TEMPLATE} changed", "pages/new.txt was added, and it lists pages")
    }


def test_link_that_leads_elsewhere_touches_who_read_through_it(project: Path) -> None:
    (project / "current").symlink_to("templates/site")
    commit(project)
    git(project, "branch", "-f", "main")
    (project / "current").unlink()
    (project / "current").symlink_to("templates")
    builds = {**BUILDS, "lone": [build_of("lone", "file:current/index.html.j2")]}
    assert reasons(project, builds) == {"lone": ("current changed",)}


def test_however_a_recipe_looked_at_a_path_it_counts(project: Path) -> None:
    kinds = ("absent", "file", "input", "link", "mode", "size", "time", "type")
    builds = {**BUILDS, "lone": [build_of("lone", "package:jinja2", "env:README.md", "data:README.md")]}
    write(project, "README.md")
    assert reasons(project, builds) == {}
    for kind in kinds:
        builds["lone"] = [build_of("lone", f"{kind}:README.md")]
        assert reasons(project, builds) == {"lone": ("README.md changed",)}, kind


@pytest.mark.parametrize("kind", ["listing", "entries"])
def test_link_where_a_file_was_is_another_entry(project: Path, kind: str) -> None:
    (project / "pages/a.txt").unlink()
    (project / "pages/a.txt").symlink_to("../README.md")
    builds = {**BUILDS, "web": [], "lone": [build_of("lone", f"{kind}:pages")]}
    assert reasons(project, builds)["lone"] == ("pages/a.txt changed, and it lists pages",)


def test_settings_of_the_project_touch_every_recipe(project: Path) -> None:
    write(project, "baker.toml", '[local]\nmemory = "1G"\n')
    touched = find(project)
    assert touched.names == ["base", "lone", "api", "web"]
    assert touched.touched[1].reasons == ("baker.toml changed, whose settings may concern every recipe",)


def test_recipe_of_which_nothing_is_known_is_touched_and_it_is_said(project: Path) -> None:
    unknown = make_build("web", provenance=make_provenance(inputs={}))
    opaque = build_of("lone", opaque="it starts a process: git")
    assert reasons(project, {**BUILDS, "api": [], "web": [unknown], "lone": [opaque]}) == {
        "api": ("what it reads is not known: it has no usable build",),
        "web": ("what it reads is not known: its build does not tell what it was made of",),
        "lone": ("what it reads cannot be told: it starts a process: git",),
    }


def test_opaque_recipe_that_declares_its_inputs_is_not_touched_for_that(project: Path) -> None:
    assert reasons(project, {**BUILDS, "api": [build_of("api", opaque="it starts a process")]}) == {}


def test_every_target_of_a_recipe_says_what_it_reads(project: Path) -> None:
    builds = {**BUILDS, "lone": [build_of("lone"), build_of("lone", "file:README.md")]}
    write(project, "README.md")
    assert reasons(project, builds) == {"lone": ("README.md changed",)}


def test_source_in_the_project_is_read_by_its_recipe(project: Path) -> None:
    write_recipe(project, "lone", 'from = "tar:trees/lone.tar"\n')
    write(project, "trees/lone.tar")
    write(
        project,
        "recipes/base/recipe.toml",
        'from = "debian:trixie"\n[targets.local]\n'
        'repositories = [{ uri = "./archive", suite = "./", keyring = "keys/archive.gpg" }]\n',
    )
    write(project, "archive/Packages")
    write(project, "keys/archive.gpg")
    commit(project)
    git(project, "branch", "-f", "main")
    write(project, "trees/lone.tar", "newer")
    assert reasons(project) == {"lone": ("trees/lone.tar changed",)}
    write(project, "archive/nginx.deb", "newer")
    assert reasons(project)["base"] == ("archive/nginx.deb was added",)


def test_recipe_that_is_gone_is_ignored_and_it_is_said(project: Path) -> None:
    git(project, "rm", "-q", "-r", "recipes/lone")
    found = find(project)
    assert found.touched == ()
    assert found.notes == (
        "recipes/lone/recipe.toml was removed: the recipe lone is gone, and nothing is baked for it",
    )


def test_project_may_be_a_folder_of_the_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    write(tmp_path, "images/baker.toml", "")
    write_recipe(tmp_path / "images", "lone")
    write(tmp_path, "app/main.go")
    commit(tmp_path)
    write(tmp_path, "app/main.go", "newer")
    write(tmp_path, "app/recipes/lone/deploy.py", "newer")
    write(tmp_path, "images/recipes/lone/deploy.py", "newer")
    changes = list_changes(tmp_path / "images", "main")
    assert changes.paths == {"recipes/lone/deploy.py": CHANGED}
    assert find(tmp_path / "images", {"lone": [build_of("lone")]}).names == ["lone"]


def test_names_are_taken_as_they_are(project: Path) -> None:
    odd = b'tab\t quote" \xff\nline'
    with Path(os.fsdecode(os.fsencode(project / "recipes/lone/") + b"/" + odd)).open("w"):
        pass
    write(project, "templates/für alle.j2")
    found = find(project, {**BUILDS, "web": [build_of("web", "absent:templates/für alle.j2")]})
    assert [one.recipe for one in found.touched] == ["lone", "web"]
    assert found.touched[1].reasons == ("templates/für alle.j2 was added",)
    assert "\n" not in found.touched[0].reasons[0]
    found.touched[0].reasons[0].encode()  # can be printed


def test_file_that_only_the_index_forgot_is_there(project: Path) -> None:
    git(project, "rm", "-q", "--cached", "pages/a.txt")
    git(project, "mv", TEMPLATE, "templates/site/renamed.j2")
    changes = list_changes(project, "main")
    assert changes.paths == {
        "pages/a.txt": CHANGED,
        TEMPLATE: REMOVED,
        "templates/site/renamed.j2": ADDED,
    }
    assert changes.moved == {TEMPLATE, "templates/site/renamed.j2"}


def test_newest_build_of_every_target_and_architecture_is_asked_for(project: Path) -> None:
    def usable_builds(recipe: str, target: str, arch: str) -> list[Build]:
        return [make_build(recipe, target, arch, id=f"{recipe}-{age}") for age in ("new", "old")]

    found = newest_builds(load_recipes(project), usable_builds, lambda _recipe, _target: ("amd64", "arm64"))
    assert [(build.id, build.arch) for build in found["web"]] == [("web-new", "amd64"), ("web-new", "arm64")]


def test_many_reasons_are_told_in_one_line() -> None:
    assert describe_touched(Touched(recipe="web", reasons=tuple("abc"))) == "a; b; c"
    assert describe_touched(Touched(recipe="web", reasons=tuple("abcde"))) == "a; b; c; and 2 more"


# --- what is in the way ------------------------------------------------------------------------------


def refuse(project: Path, ref: str = "main") -> tuple[str, str]:
    with pytest.raises((UsageError, HostError)) as caught:
        list_changes(project, ref)
    return str(caught.value), str(caught.value.hint)


def test_folder_outside_git_is_refused(tmp_path: Path) -> None:
    assert refuse(tmp_path) == (
        f"{tmp_path} is not in a git work tree: nobody knows what changed since main",
        "--since needs the project checked out by git.",
    )


@pytest.mark.parametrize("ref", ["nosuch", "--output=/tmp/x", "HEAD:README.md", ""])
def test_commit_that_git_does_not_know_is_refused_with_what_helps_in_a_ci(project: Path, ref: str) -> None:
    said, hint = refuse(project, ref)
    assert said == f"git knows no commit {ref!r} here"
    assert "fetch-depth: 0" in hint


def test_branch_that_is_only_at_the_remote_is_offered(project: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(project), "clone")
    assert refuse(tmp_path / "clone")[1] == "Did you mean --since origin/main?"
    assert list_changes(tmp_path / "clone", "origin/main").paths == {}


def test_shallow_clone_says_that_its_history_is_cut_off(project: Path, tmp_path: Path) -> None:
    write(project, TEMPLATE)
    commit(project)
    git(tmp_path, "clone", "-q", "--depth=1", "--no-single-branch", f"file://{project}", "clone")
    git(project, "checkout", "-q", "main")
    write(project, CONF)
    commit(project)
    git(tmp_path / "clone", "fetch", "-q", "--depth=1")
    said, hint = refuse(tmp_path / "clone", "origin/main")
    assert said == (
        "HEAD and origin/main have no commit in common: this is a shallow clone, whose history is cut off"
    )
    assert "fetch-depth: 0" in hint


def test_branches_with_no_commit_in_common_are_refused(project: Path) -> None:
    git(project, "checkout", "-q", "--orphan", "other")
    commit(project, "another beginning")
    assert refuse(project)[0] == "HEAD and main have no commit in common"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a work tree away: needs root")
def test_work_tree_of_another_user_is_looked_at(project: Path) -> None:
    write(project, TEMPLATE)
    subprocess.run(["chown", "-R", "65534", project], check=True)
    open_the_way(project)
    assert list_changes(project, "main").paths == {TEMPLATE: CHANGED}


def test_host_without_git_is_told_how_to_get_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(project))
    assert refuse(project) == ("--since needs git, which is not installed", "Debian: apt-get install git")
