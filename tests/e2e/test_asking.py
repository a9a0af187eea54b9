"""image diff, find, tree and resolve, as users and other tools run them; nothing is baked here."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from baker.catalog import Catalog
from tests.e2e.project import BAKER, REPOSITORY, Project, make_project
from tests.factories import (
    make_artifact,
    make_build,
    make_digest,
    make_file,
    make_image,
    make_layer,
    make_package,
    make_provenance,
)

SHELL = make_file("/usr/bin/su", "su", mode=0o4755)
ARTIFACT = make_digest("web 2")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose catalog has base:1, then web:1 and web:2 upon it, then base:2."""
    folder, home = (tmp_path_factory.mktemp(name) for name in ("asking", "home"))
    project = make_project(folder, home, in_process=True)
    below = make_layer(make_file("/etc/passwd", "root"), make_file("/etc/motd", "hello"))
    with Catalog.open(f"sqlite:///{project.home}/catalog.db", actor="ann") as catalog:
        base = make_image(catalog, "base", layers=[below], packages=[make_package("openssl", "3.0.14-1")])
        origin = make_provenance(
            source="base:latest", parent_build=base.builds[0].id, inputs={"data:port": "1", "env:LANG": "C"}
        )
        first = make_build(provenance=origin)
        make_image(catalog, build=first, layers=[below], packages=[make_package("openssl", "3.0.14-1")])
        moved = make_provenance(
            source="base:latest", parent_build=base.builds[0].id, inputs={"data:port": "2", "env:LANG": "C"}
        )
        second = make_build(
            provenance=moved, artifacts=(make_artifact(id=ARTIFACT),), digest=make_digest("2")
        )
        upper = make_layer(make_file("/etc/passwd", "root web"), SHELL, removed=["/etc/motd"])
        packages = [make_package("openssl", "3.0.15-1"), make_package("nginx", "1.26")]
        make_image(catalog, build=second, layers=[below, upper], packages=packages)
        catalog.promote("web", 2, "prod", expected_revision=None)
        catalog.add_lease("web", 1, owner="env:web-prod")
        make_image(catalog, "base")
    return project


# --- diff -------------------------------------------------------------------------------------------------


def test_difference_of_two_images_is_short_for_people(project: Project) -> None:
    assert project.run("image", "diff", "web:1", "web:2").stdout.splitlines() == [
        "web:1 -> web:2  local/amd64",
        "  packages  1 added, 1 upgraded",
        "  files     1 added, 1 removed, 1 changed",
        "  content   +1 B",
        "  recipe    data.port changed",
        "    + nginx 1.26 amd64",
        "    ^ openssl 3.0.14-1 -> 3.0.15-1 amd64",
        "  to look at",
        "    /etc/passwd  changed: users and groups",
        "    /usr/bin/su  added setuid of 0",
    ]


def test_difference_lists_files_when_they_are_asked_for(project: Project) -> None:
    lines = project.run("image", "diff", "web:1", "web:2", "--files").stdout.splitlines()
    assert lines[lines.index("  files") + 1 :] == [
        "    - /etc/motd",
        "    * /etc/passwd  content, +4 bytes",
        "    + /usr/bin/su",
    ]


def test_difference_in_json_has_everything(project: Project) -> None:
    told = project.json("image", "diff", "web:2", "web:1", "--check", status=3)
    assert (told["old"]["reference"], told["new"]["reference"]) == ("web:2", "web:1")
    assert [one["new"]["version"] for one in told["packages"]["downgraded"]] == ["3.0.14-1"]
    assert [file["mode"] for file in told["files"]["removed"]] == ["4755"]
    assert [one["detail"] for one in told["notable"]] == ["changed: users and groups", "removed"]
    assert (told["same"], told["content_bytes_delta"]) == (False, -1)


def test_difference_in_markdown_folds_what_is_long(project: Project) -> None:
    told = project.run("image", "diff", "web:1", "web:2", "--markdown", "--files").stdout
    assert told.startswith("### `web:1` → `web:2` (local/amd64)\n\n- **packages**: 1 added, 1 upgraded\n")
    assert "<details><summary>Packages (2)</summary>" in told
    assert "| openssl | 3.0.14-1 | 3.0.15-1 |" in told
    assert "- `/usr/bin/su`: added setuid of 0" in told
    assert "```diff\n- /etc/motd\n" in told


def test_same_image_has_no_difference(project: Project) -> None:
    told = project.run("image", "diff", "web:2", "web:prod", "--check").stdout
    assert told == "web:2 -> web:2  local/amd64\n  the same content\n"


def test_builds_that_cannot_be_compared_are_explained(project: Project) -> None:
    told = project.run("image", "diff", "web:1", "web:2", "--target", "aws", status=2).stderr
    assert "no builds to compare for aws/any architecture (web:1 has local/amd64; web:2 has" in told


# --- find -------------------------------------------------------------------------------------------------


def test_find_says_which_images_and_who_uses_them(project: Project) -> None:
    told = project.json("image", "find", "openssl<3.0.15", "--check", status=3)
    assert [(one["reference"], one["environments"]) for one in told["images"]] == [
        ("web:1", ["web-prod"]),
        ("base:1", []),
    ]
    assert [one["packages"][0]["version"] for one in told["images"]] == ["3.0.14-1"] * 2
    held = project.run("image", "find", "openssl", "--held", "--limit", "1")
    assert [line.split()[0] for line in held.stdout.splitlines()] == ["IMAGE", "web:2"]
    assert held.stdout.splitlines()[1].endswith("  latest, prod  openssl 3.0.15-1")
    assert "The newest 1 of 2" in held.stderr


def test_find_that_finds_nothing_says_what_is_known(project: Project) -> None:
    told = project.run("image", "find", "openssl<1", "--check")
    assert told.stdout == ""
    assert "no image has openssl<1; the catalog knows openssl 3.0.14-1, openssl 3.0.15-1" in told.stderr


def test_find_looks_for_files_and_digests(project: Project) -> None:
    told = project.json("image", "find", "--file", "/etc/m*d")
    assert [(one["reference"], one["files"][0]["path"]) for one in told["images"]] == [
        ("web:1", "/etc/motd"),
        ("base:1", "/etc/motd"),
    ]
    by_digest = project.json("image", "find", "--digest", ARTIFACT)["images"]
    assert [one["roles"] for one in by_digest] == [["artifact (layers) for local/amd64 in builder-1"]]
    assert "one thing" in project.run("image", "find", "a", "--file", "b", status=2).stderr


# --- tree -------------------------------------------------------------------------------------------------


def test_tree_marks_what_is_outdated_and_is_plain_in_a_pipe(project: Project) -> None:
    assert project.run("image", "tree", "web:prod").stdout.splitlines() == [
        "debian:trixie",
        "`-- base:1  available",
        "    `-- web:2  available  latest, prod  outdated: base:2 is newer  <-",
    ]
    assert project.run("image", "tree", "base:1", "--down").stdout.splitlines() == [
        "debian:trixie",
        "`-- base:1  available  <-",
        "    |-- web:2  available  latest, prod  outdated: base:2 is newer",
        "    `-- web:1  available  outdated: base:2 is newer",
    ]


# --- resolve ----------------------------------------------------------------------------------------------


def test_resolve_prints_the_artifact_alone(project: Project) -> None:
    assert project.run("image", "resolve", "web:prod").stdout == f"{ARTIFACT}\n"
    assert project.json("image", "resolve", "web:prod")["id"] == ARTIFACT


def test_shell_takes_what_resolve_says_for_it(project: Project) -> None:
    told = project.run("image", "resolve", "web:prod", "--format", "env").stdout
    script = f'{told}\nprintf "%s %s" "$BAKER_IMAGE_ID" "$BAKER_IMAGE_REFERENCE"'
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{ARTIFACT} web:2"


def test_deprecated_image_is_resolved_with_a_warning(project: Project) -> None:
    with Catalog.open(f"sqlite:///{project.home}/catalog.db", actor="ann") as catalog:
        catalog.deprecate("base", 2, message="use base:3")
    told = project.run("image", "resolve", "base:2")
    assert "base:2 is deprecated: use base:3" in told.stderr
    assert told.stdout.startswith("sha256:")


def test_external_data_source_is_answered_as_terraform_asks(project: Project) -> None:
    arguments = ("image", "resolve", "--format", "external")
    query = json.dumps({"reference": "web:prod", "target": "local"})
    told = json.loads(project.run(*arguments, stdin=query).stdout)
    assert (told["id"], told["version"]) == (ARTIFACT, "2")
    assert all(isinstance(value, str) for value in told.values())
    refused = project.run(*arguments, stdin='{"reference": 2}', status=2)
    assert refused.stdout == ""
    assert "no object of strings" in refused.stderr
    assert "names no image" in project.run(*arguments, stdin="{}", status=2).stderr


TERRAFORM = shutil.which("terraform") or shutil.which("tofu")


def run_terraform(
    folder: Path, project: Project, *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    assert TERRAFORM
    kept = {key: value for key, value in project.variables.items() if not key.startswith("TF_")}
    path = f"{BAKER.parent}:{kept['PATH']}"
    variables = {**kept, "PATH": path, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    return subprocess.run(
        [TERRAFORM, *arguments, "-no-color"],
        cwd=folder,
        env=variables,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.skipif(TERRAFORM is None, reason="needs a terraform binary")
def test_terraform_reads_its_variables(project: Project, tmp_path: Path) -> None:
    told = project.run("image", "resolve", "web:prod", "--format", "tfvars").stdout
    (tmp_path / "terraform.tfvars").write_text(told)
    names = [line.split()[0] for line in told.splitlines()]
    (tmp_path / "main.tf").write_text("".join(f'variable "{name}" {{}}\n' for name in names))
    asked = '"${var.image_id} ${var.image_version + 1}"\n'
    done = run_terraform(tmp_path, project, "console", stdin=asked)
    assert done.stdout == f'"{ARTIFACT} 3"\n', done.stderr


EXAMPLE = REPOSITORY / "docs/terraform/main.tf"


@pytest.mark.skipif(TERRAFORM is None, reason="needs a terraform binary")
def test_documented_example_is_terraform_as_it_is_written(project: Project) -> None:
    done = run_terraform(EXAMPLE.parent, project, "fmt", "-check", "-diff")
    assert done.returncode == 0, done.stdout + done.stderr


def find_plugins() -> Path | None:
    """A folder of Terraform's plugins that has the external data source; nothing is fetched for a test."""
    folders = (Path("/opt/tf-plugins"), Path.home() / ".terraform.d/plugins")
    return next((one for one in folders if list(one.glob("*/hashicorp/external"))), None)


@pytest.mark.skipif(
    TERRAFORM is None or find_plugins() is None, reason="needs terraform and its plugin external"
)
def test_terraform_asks_through_its_external_data_source(project: Project, tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    done = run_terraform(tmp_path, project, "init", f"-plugin-dir={find_plugins()}")
    assert done.returncode == 0, done.stderr
    done = run_terraform(tmp_path, project, "apply", "-auto-approve")
    assert done.returncode == 0, done.stderr
    assert f'image_id = "{ARTIFACT}"' in done.stdout
