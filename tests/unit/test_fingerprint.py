"""What moves a fingerprint and what does not, and how a difference is told."""

# Edits are a table, one row each.
# ruff: noqa: E501

import hashlib
import importlib.metadata
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from baker.errors import RecipeError
from baker.fingerprint import (
    explain,
    fingerprint,
    image_test_inputs,
    refresh_traced,
    static_inputs,
    traced_inputs,
)
from baker.model import Reason
from baker.recipes import apply_overrides, load_recipe

SOURCE = "sha256:" + "1" * 64
TOOLS = {"pyinfra": "3.10.0", "seal": "1"}
ENVIRON = {"CHANNEL": "stable", "HOME": "/root"}

RECIPE = """\
description = "front end"
from = "debian:trixie"
environment = ["CHANNEL", "EDITION"]
inputs = ["vendor/**/*.deb", "keys"]
[data]
workers = 4
tls = { port = 443 }
"""

FILES = {
    "recipes/web/recipe.toml": RECIPE,
    "recipes/web/deploy.py": "pass\n",
    "recipes/web/files/motd": "hello\n",
    "recipes/web/test_image.py": "def test(): pass\n",
    "recipes/web/conftest.py": "",
    "templates/site.j2": "server {}\n",
    "templates/unread.j2": "no\n",
    "lib/ports.py": "HTTP = 80\n",
    "vendor/a/one.deb": "1",
    "keys/signing.asc": "key\n",
    "README.md": "",
}

TRACED = [
    ("file", "templates/site.j2"),
    ("absent", "templates/site-local.j2"),
    ("listing", "templates"),
    ("file", "lib/ports.py"),
]


@pytest.fixture
def project(tmp_path):
    for path, text in FILES.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "templates/current.j2").symlink_to("site.j2")
    return tmp_path


def look(project, *, recipe=None, traced=TRACED, environ=ENVIRON, source=SOURCE, tools=TOOLS, settings=None):
    """The inputs as they are now, as a bake records them."""
    recipe = recipe or load_recipe(project, "web")
    inputs = static_inputs(recipe, "local", "amd64", source, environ, tools, settings or {})
    return inputs | traced_inputs(recipe, traced)


def words(old, new):
    return [reason.detail for reason in explain(old, new)]


def write(path, text):
    def edit(project):
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text)

    return edit


def in_recipe(old, new):
    assert old in RECIPE
    return write("recipes/web/recipe.toml", RECIPE.replace(old, new))


def in_each(*edits):
    def edit(project):
        for one in edits:
            one(project)

    return edit


def nothing(_project):
    pass


# --- edits and what they do ----------------------------------------------------------------------------

UNMOVED = {
    "nothing": nothing,
    "touch": lambda project: os.utime(project / "recipes/web/deploy.py", (1, 1)),
    "description": in_recipe("front end", "other"),
    "comment in recipe.toml": in_recipe("[data]", "# note\n[data]"),
    "whitespace in recipe.toml": in_recipe("workers = 4", "workers   =   4\n\n"),
    "order of keys": in_recipe("workers = 4\ntls = { port = 443 }", "tls = { port = 443 }\nworkers = 4"),
    "timeouts": in_recipe("[data]", 'timeout = "5m"\ntotal_timeout = "10m"\n[data]'),
    "default target written out": in_recipe("[data]", "targets.local = {}\n[data]"),
    "edited image test": write("recipes/web/test_image.py", "def test(): assert 1\n"),
    "new image test": write("recipes/web/ports_test.py", ""),
    "conftest of the image tests": write("recipes/web/conftest.py", "x = 1\n"),
    "byte code": write("recipes/web/__pycache__/deploy.cpython-311.pyc", "x"),
    "editor's swap file": write("recipes/web/files/.motd.swp", "x"),
    "editor's backup": write("recipes/web/deploy.py~", "x"),
    "cache of a checker": write("recipes/web/.ruff_cache/x", "x"),
    "template that is not read": write("templates/unread.j2", "changed\n"),
    "backup of a read template": write("templates/site.j2~", "x"),
    "file beside the recipes": write("README.md", "changed"),
    "another recipe": write("recipes/db/deploy.py", "pass"),
    "file no glob matches": write("vendor/a/one.txt", "x"),
    "group bits of a file": lambda project: (project / "recipes/web/deploy.py").chmod(0o660),
    "rewritten as it was": in_each(
        write("lib/ports.py", "HTTP = 81\n"), write("lib/ports.py", "HTTP = 80\n")
    ),
}

MOVED = {
    "deploy.py": (write("recipes/web/deploy.py", "pass  # now\n"), ["deploy.py changed"]),
    "file of the recipe": (write("recipes/web/files/motd", "bye\n"), ["files/motd changed"]),
    "new file of the recipe": (write("recipes/web/files/new", ""), ["files/new was added"]),
    "hidden file of the recipe": (write("recipes/web/.env", ""), [".env was added"]),
    "test in a sub-folder is a file": (write("recipes/web/files/test_x.py", ""), ["files/test_x.py was added"]),
    "removed file": (lambda project: (project / "recipes/web/files/motd").unlink(), ["files/motd was removed"]),
    "renamed file": (
        lambda project: (project / "recipes/web/files/motd").rename(project / "recipes/web/files/issue"),
        ["files/issue was added", "files/motd was removed"],
    ),
    "executable bit": (
        lambda project: (project / "recipes/web/files/motd").chmod(0o755),
        ["files/motd became executable"],
    ),
    "data": (in_recipe("workers = 4", "workers = 8"), ["data.workers changed"]),
    "type of data": (in_recipe("workers = 4", 'workers = "4"'), ["data.workers changed"]),
    "nested data": (in_recipe("port = 443", "port = 8443"), ["data.tls changed"]),
    "new data": (in_recipe("workers = 4", "workers = 4\nx = 1"), ["data.x was added"]),
    "removed data": (in_recipe("workers = 4\n", ""), ["data.workers was removed"]),
    "data of the target": (in_recipe("443 }", "443 }\n[targets.local.data]\nworkers = 9"), ["data.workers changed"]),
    "groups": (in_recipe("[data]", 'groups = ["web"]\n[data]'), ['groups changed from none to ["web"]']),
    "workdir": (in_recipe("[data]", 'workdir = "files"\n[data]'), ['workdir changed from none to "files"']),
    "secret's name": (in_recipe("[data]", 'secrets = ["T"]\n[data]'), ['secrets changed from none to ["T"]']),
    "less environment": (
        in_recipe('["CHANNEL", "EDITION"]', '["EDITION"]'),
        ["the variable CHANNEL was unset", 'environment changed from ["CHANNEL","EDITION"] to ["EDITION"]'],
    ),
    "matched input": (write("vendor/a/one.deb", "2"), ["vendor/a/one.deb changed"]),
    "newly matched input": (write("vendor/two.deb", ""), ["vendor/two.deb was added"]),
    "file in a folder that is an input": (write("keys/deep/new.asc", ""), ["keys/deep/new.asc was added"]),
    "read template": (write("templates/site.j2", "server { x }\n"), ["templates/site.j2 changed"]),
    "read template removed": (
        lambda project: (project / "templates/site.j2").unlink(),
        ["templates/site.j2 was removed", "the list of files in templates changed"],
    ),
    "template that was looked for": (
        write("templates/site-local.j2", ""),
        ["templates/site-local.j2 was added", "the list of files in templates changed"],
    ),
    "listed folder": (write("templates/more.j2", ""), ["the list of files in templates changed"]),
    "imported module": (write("lib/ports.py", "HTTP = 8080\n"), ["lib/ports.py changed"]),
}  # fmt: skip


@pytest.mark.parametrize("edit", UNMOVED.values(), ids=UNMOVED.keys())
def test_edit_that_cannot_change_the_result_keeps_the_fingerprint(project, edit):
    before = look(project)
    edit(project)
    after = look(project)
    assert words(before, after) == []
    assert fingerprint(after) == fingerprint(before)


@pytest.mark.parametrize(("edit", "expected"), MOVED.values(), ids=MOVED.keys())
def test_edit_that_may_change_the_result_moves_the_fingerprint_and_is_named(project, edit, expected):
    before = look(project)
    edit(project)
    after = look(project)
    assert fingerprint(after) != fingerprint(before)
    assert sorted(words(before, after)) == sorted(expected)
    recipe = load_recipe(project, "web")
    static = static_inputs(recipe, "local", "amd64", SOURCE, ENVIRON, TOOLS, {})
    assert static | refresh_traced(project, before) == after, "seen without running the recipe"


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ({"environ": {**ENVIRON, "CHANNEL": "edge"}}, "the variable CHANNEL changed"),
        ({"environ": {}}, "the variable CHANNEL was unset"),
        ({"environ": {**ENVIRON, "EDITION": ""}}, "the variable EDITION was set"),
        ({"tools": {"pyinfra": "3.10.1", "seal": "1"}}, "pyinfra upgraded from 3.10.0 to 3.10.1"),
        ({"tools": {"pyinfra": "3.9.2", "seal": "1"}}, "pyinfra downgraded from 3.10.0 to 3.9.2"),
        ({"tools": {"pyinfra": "3.10.0", "seal": "2"}}, "seal upgraded from 1 to 2"),
        ({"source": "sha256:" + "2" * 64}, "source moved from sha256:111111111111 to sha256:222222222222"),
        ({"settings": {"mirror": "http://m"}}, "the target's mirror was added"),
    ],
)
def test_what_lies_outside_the_project_is_told_in_words(project, now, expected):
    assert words(look(project), look(project, **now)) == [expected]


def test_variable_that_is_not_allow_listed_changes_nothing(project):
    assert look(project, environ={**ENVIRON, "HOME": "/home/me", "LANG": "C"}) == look(project)


def test_kinds_of_reasons_are_stable(project):
    before = look(project)
    now = look(project, source="sha256:2", tools={**TOOLS, "pyinfra": "4"}, environ={})
    assert explain(before, now)[0] == Reason(
        kind="source-moved", detail="source moved from sha256:111111111111 to sha256:2"
    )
    assert {reason.kind for reason in explain(before, now)} == {
        "source-moved",
        "configurer-upgraded",
        "changed",
    }


def test_arch_and_target_are_inputs(project):
    recipe = load_recipe(project, "web")
    amd, arm = (static_inputs(recipe, "local", arch, SOURCE, {}, TOOLS, {}) for arch in ("amd64", "arm64"))
    assert words(amd, arm) == ["arch changed from amd64 to arm64"]
    aws = replace(recipe, targets={"aws": recipe.targets["local"]})
    assert words(amd, static_inputs(aws, "aws", "amd64", SOURCE, {}, TOOLS, {})) == [
        "target changed from local to aws"
    ]


def test_override_of_data_moves_the_fingerprint(project):
    recipe = apply_overrides(load_recipe(project, "web"), ["workers=5"])
    assert words(look(project), look(project, recipe=recipe)) == ["data.workers changed"]


def test_same_project_elsewhere_has_the_same_inputs(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "moved"
    before = look(project)
    project.rename(elsewhere)
    assert look(elsewhere) == before
    assert str(project) not in str(before)


def test_fingerprint_is_a_digest_of_the_inputs_in_any_order():
    assert fingerprint({"b": "2", "a": "1"}) == fingerprint({"a": "1", "b": "2"})
    canonical = b'{"a":"1","b":"2"}'
    assert fingerprint({"b": "2", "a": "1"}) == f"sha256:{hashlib.sha256(canonical).hexdigest()}"


def test_secret_values_are_never_in_the_inputs(project):
    in_recipe("[data]", 'secrets = ["TOKEN"]\n[data]')(project)
    assert look(project, environ={"TOKEN": "hunter2"}) == look(project, environ={"TOKEN": "other"})


# --- tracing ---------------------------------------------------------------------------------------------


def trace(project, *traced):
    return traced_inputs(load_recipe(project, "web"), traced)


def test_traced_paths_may_be_absolute(project):
    assert trace(project, ("file", f"{project}/lib/ports.py")) == trace(
        project, ("file", "./lib/../lib/ports.py")
    )


def test_what_lies_outside_the_project_is_no_input(project):
    outside = [
        ("file", "/etc/passwd"),
        ("listing", "/usr"),
        ("file", "../x"),
        ("absent", f"{project}-other/x"),
    ]
    assert trace(project, *outside) == {}


def test_virtual_environment_in_the_project_is_no_input(project, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(project / ".venv"))
    write(".venv/lib/module.py", "")(project)
    assert trace(project, ("file", ".venv/lib/module.py"), ("listing", ".venv/lib")) == {}


def test_what_the_folder_covers_is_not_traced_again(project):
    (project / "recipes/web/link").symlink_to("files/motd")
    covered = [
        ("file", "recipes/web/deploy.py"),
        ("type", "recipes/web/deploy.py"),
        ("link", "recipes/web/link"),
    ]
    assert trace(project, *covered) == {}


def test_what_the_folder_does_not_cover_is_traced(project):
    """Empty folders, and names of image tests, are nothing to who does not look."""
    uncovered = [("listing", "recipes/web"), ("absent", "recipes/web/x"), ("type", "recipes/web/files"),
                 ("mode", "recipes/web/deploy.py"), ("time", "recipes/web/deploy.py")]  # fmt: skip
    assert len(trace(project, *uncovered)) == len(uncovered)


def test_image_test_that_the_deploy_itself_reads_is_an_input(project):
    assert list(trace(project, ("file", "recipes/web/test_image.py"))) == ["file:recipes/web/test_image.py"]


def test_module_read_as_byte_code_is_traced_by_its_source(project):
    inputs = trace(project, ("file", "lib/__pycache__/ports.cpython-311.pyc"))
    assert inputs == trace(project, ("file", "lib/ports.py"))
    assert list(inputs) == ["file:lib/ports.py"]


def test_link_that_is_pointed_elsewhere_is_seen(project):
    before = look(project, traced=[("file", "templates/current.j2")])
    (project / "templates/current.j2").unlink()
    (project / "templates/current.j2").symlink_to("unread.j2")
    assert words(before, look(project, traced=[("file", "templates/current.j2")])) == [
        "templates/current.j2 changed"
    ]


def test_link_in_the_recipe_counts_by_its_text_and_what_it_leads_to(project):
    link = project / "recipes/web/files/site"
    link.symlink_to("../../../templates/unread.j2")
    first = look(project, traced=[])
    write("templates/unread.j2", "changed")(project)
    second = look(project, traced=[])
    assert words(first, second) == ["files/site changed"]
    link.unlink()
    write("recipes/web/files/site", "changed")(project)
    assert words(second, look(project, traced=[])) == ["files/site changed"]


def test_what_is_read_through_a_linked_folder_of_the_recipe_is_traced(project):
    (project / "recipes/web/shared").symlink_to("../../templates")
    traced = [("file", "recipes/web/shared/site.j2")]
    before = look(project, traced=traced)
    write("templates/site.j2", "changed")(project)
    assert words(before, look(project, traced=traced)) == ["recipes/web/shared/site.j2 changed"]


def test_link_out_of_the_project_says_nothing_of_this_machine(project, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret"
    outside.write_text("1")
    (project / "lib/out").symlink_to(outside)
    traced = [("file", "lib/out")]
    before = look(project, traced=traced)
    outside.write_text("2")
    assert look(project, traced=traced) == before
    (project / "lib/out").unlink()
    write("lib/out", "inside now")(project)
    assert words(before, look(project, traced=traced)) == ["lib/out changed"]


def test_version_of_an_imported_package_is_an_input(project):
    before = trace(project, ("package", "univers"), ("package", "no-such"))
    assert before["package:univers"] == importlib.metadata.version("univers")
    assert before["package:no-such"] == "absent"
    assert refresh_traced(project, before) == before
    assert words({"package:univers": "29.1"}, {"package:univers": "30.12"}) == [
        "univers upgraded from 29.1 to 30.12"
    ]


def test_refreshing_keeps_to_the_traced_keys(project):
    before = look(project)
    traced = {key for key in before if key.split(":")[0] in ("file", "absent", "listing")}
    assert refresh_traced(project, before) == {key: before[key] for key in traced}
    assert len(traced) == len(TRACED)


def test_folder_that_vanished_is_told(project):
    before = look(project)
    for file in (project / "templates").iterdir():
        file.unlink()
    (project / "templates").rmdir()
    assert sorted(words(before, before | refresh_traced(project, before))) == [
        "templates/site.j2 was removed",
        "the list of files in templates was removed",
    ]


def test_change_within_the_same_instant_is_seen(project):
    """Same size, same modification time, written at once: what a cache of digests must not miss."""
    file = project / "lib/ports.py"
    os.utime(file, ns=(1, 1))
    before = look(project)
    file.write_text("HTTP = 81\n")
    os.utime(file, ns=(1, 1))
    assert words(before, look(project)) == ["lib/ports.py changed"]


def test_file_is_read_once_per_process_but_only_when_it_has_settled(project, monkeypatch):
    read = []

    def file_digest(file, algorithm, real=hashlib.file_digest):
        read.append(os.path.relpath(file.name, project))
        return real(file, algorithm)

    monkeypatch.setattr("hashlib.file_digest", file_digest)
    look(project)
    look(project)
    assert read.count("lib/ports.py") == 2
    later = time.time_ns() + 3_000_000_000
    monkeypatch.setattr("time.time_ns", lambda: later)
    look(project)
    look(project)
    assert read.count("lib/ports.py") == 3


def test_named_pipe_in_a_recipe_does_not_hang(project):
    os.mkfifo(project / "recipes/web/pipe")
    assert look(project)["recipe:pipe"] == "special"


def test_unreadable_file_is_named(project, monkeypatch):
    def refuse(self, *_args, **_kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("hashlib.file_digest", refuse)
    write("recipes/web/fresh", "never read before")(project)
    with pytest.raises(RecipeError) as caught:
        look(project)
    assert str(caught.value).endswith(": cannot be read: Permission denied")
    assert str(Path(str(caught.value).split(":")[0]).parent).startswith(str(project))


# --- image tests -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        write("recipes/web/test_image.py", "def test(): assert 0\n"),
        write("recipes/web/more_test.py", ""),
        write("recipes/web/conftest.py", "x = 1\n"),
    ],
    ids=["edited", "added", "conftest"],
)
def test_changed_image_test_moves_the_digest_of_the_tests_alone(project, edit):
    before, inputs = image_test_inputs(load_recipe(project, "web")), look(project)
    edit(project)
    assert image_test_inputs(load_recipe(project, "web")) != before
    assert look(project) == inputs


def test_other_files_leave_the_digest_of_the_tests(project):
    before = image_test_inputs(load_recipe(project, "web"))
    write("recipes/web/deploy.py", "changed")(project)
    assert image_test_inputs(load_recipe(project, "web")) == before
