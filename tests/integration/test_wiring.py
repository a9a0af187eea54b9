"""What commands are made of: the catalog that a command opens, the targets that are configured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from baker.catalog import Catalog
from baker.cli import wiring
from baker.cli.wiring import (
    check_providers,
    choose_targets,
    configured_targets,
    make_providers,
    open_catalog,
    require_configured,
)
from baker.errors import CatalogError, CatalogMissing, HostError, UsageError
from baker.model import Recipe, Reference, TargetSpec
from baker.settings import Settings, load_settings
from tests.factories import make_image


@pytest.mark.parametrize("begun", [False, True], ids=["not there", "being made"])
def test_catalog_that_the_first_bake_is_about_to_make_is_an_empty_one(tmp_path: Path, begun: bool) -> None:
    path = tmp_path / "catalog.db"
    settings = load_settings(None, {}, catalog_url=f"sqlite:///{path}")
    if begun:
        path.touch()
    with open_catalog(settings, read_only=True, or_empty=True) as catalog:
        assert catalog.images() == []
    with pytest.raises(CatalogMissing) as caught, open_catalog(settings, read_only=True):
        pass
    assert caught.value.hint == "The first bake makes it: baker bake."
    assert path.exists() is begun, "nothing is made by reading"


def test_catalog_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_text("a letter")
    settings = load_settings(None, {}, catalog_url=f"sqlite:///{path}")
    refused = pytest.raises(CatalogError, match="is not a database")
    with refused, open_catalog(settings, read_only=True, or_empty=True):
        pass


def test_catalog_with_images_is_the_one_that_is_read(tmp_path: Path) -> None:
    settings = load_settings(None, {}, catalog_url=f"sqlite:///{tmp_path}/catalog.db")
    with Catalog.open(settings.catalog_url, actor="ann") as catalog:
        make_image(catalog)
    with open_catalog(settings, read_only=True, or_empty=True) as catalog:
        assert [image.reference for image in catalog.images()] == ["web:1"]


# --- targets --------------------------------------------------------------------------------------------


def load(project: Path, toml: str = "", **variables: str) -> Settings:
    (project / "baker.toml").write_text(toml)
    return load_settings(project, {"BAKER_HOME": str(project / "home"), **variables})


def make_recipes(**targets: tuple[str, ...]) -> Mapping[str, Recipe]:
    return {
        name: Recipe(
            name=name,
            folder="/nowhere",
            project="/nowhere",
            description="",
            targets={
                target: TargetSpec(target=target, source=Reference(recipe="base"), data={}, settings={})
                for target in has
            },
        )
        for name, has in targets.items()
    }


@pytest.mark.parametrize(
    ("toml", "variables", "targets"),
    [
        ("", {}, ("local",)),
        ("[aws]\n", {}, ("aws", "local")),
        ('[aws]\nregion = "eu-west-1"\n', {}, ("aws", "local")),
        ("", {"BAKER_AWS_REGION": "eu-west-1"}, ("aws", "local")),
        ("", {"BAKER_AWS_REGION": "", "AWS_REGION": "eu-west-1"}, ("local",)),
    ],
)
def test_aws_is_configured_by_a_table_of_baker_toml_or_a_variable_of_baker(
    tmp_path: Path, toml: str, variables: dict[str, str], targets: tuple[str, ...]
) -> None:
    assert configured_targets(load(tmp_path, toml, **variables)) == targets


def test_local_is_only_on_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring.sys, "platform", "darwin")
    settings = load(tmp_path, "[aws]\n")
    assert configured_targets(settings) == ("aws",)
    with pytest.raises(HostError, match="the local target needs Linux; this is darwin"):
        require_configured(settings, "local")
    with pytest.raises(HostError, match="the local target needs Linux") as caught:
        make_providers(load(tmp_path))
    assert "Add a table [aws]" in str(caught.value.hint)


def test_targets_are_those_that_the_recipes_have_and_that_are_configured(tmp_path: Path) -> None:
    recipes = make_recipes(base=("local", "aws"), tool=("local",))
    assert choose_targets(load(tmp_path), recipes, None) == {"local"}
    settings = load(tmp_path, "[aws]\n")
    assert choose_targets(settings, recipes, None) == {"local", "aws"}
    assert choose_targets(settings, recipes, ["aws"]) == {"aws"}
    assert choose_targets(settings, make_recipes(tool=("local",)), None) == {"local"}


@pytest.mark.parametrize(
    ("toml", "target", "message", "hint"),
    [
        ("[aws]\n", "gcp", "there is no target gcp", "Targets: aws, local"),
        (
            "",
            "aws",
            "the target aws is not configured",
            'Add a table [aws] with region = "eu-west-1" (yours) to baker.toml, or set BAKER_AWS_REGION.',
        ),
        (
            "[aws]\n",
            "aws",
            "other, tool: none has the target aws (they have: local)",
            "Add [targets.aws] to recipe.toml.",
        ),
    ],
)
def test_target_that_cannot_be_is_explained(
    tmp_path: Path, toml: str, target: str, message: str, hint: str
) -> None:
    recipes = make_recipes(tool=("local",), other=("local",))
    with pytest.raises(UsageError) as caught:
        choose_targets(load(tmp_path, toml), recipes, [target])
    assert (str(caught.value), caught.value.hint) == (message, hint)


def test_recipe_that_is_only_for_aws_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cloud: only for aws, which is not configured"):
        choose_targets(load(tmp_path), make_recipes(cloud=("aws",)), None)


class Checked:
    def __init__(self, error: HostError | None = None) -> None:
        self.error = error

    def check(self) -> None:
        if self.error:
            raise self.error


def test_only_the_targets_that_are_concerned_are_checked_and_the_other_one_is_offered() -> None:
    refusal = HostError("machines of the local target need root", hint="Run it with sudo.")
    providers = {"local": Checked(refusal), "aws": Checked()}
    check_providers(providers, ["aws"])  # type: ignore[arg-type]
    with pytest.raises(HostError) as caught:
        check_providers(providers, ["aws", "local"])  # type: ignore[arg-type]
    assert str(caught.value) == str(refusal)
    assert caught.value.hint == "Run it with sudo. Or leave local out: --target aws"
    with pytest.raises(HostError) as caught:
        check_providers(providers, ["local"])  # type: ignore[arg-type]
    assert caught.value is refusal


@pytest.mark.parametrize(
    "command",
    [
        ["image", "ls"],
        ["image", "show", "web"],
        ["promote", "web", "dev", "--yes"],
        ["plan", "--target", "local"],
        ["system", "sweep", "--target", "local", "--dry-run"],
    ],
)
def test_commands_that_ask_nothing_of_aws_do_not_import_boto3(tmp_path: Path, command: list[str]) -> None:
    load(tmp_path, f'catalog = "sqlite:///{tmp_path}/catalog.db"\n[aws]\n')
    (tmp_path / "recipes/web").mkdir(parents=True)
    (tmp_path / "recipes/web/recipe.toml").write_text('from = "debian:trixie"\n')
    (tmp_path / "recipes/web/deploy.py").touch()
    with Catalog.open(f"sqlite:///{tmp_path}/catalog.db", actor="ann") as catalog:
        make_image(catalog)
    script = (
        "import sys; from baker.cli import choose_modules, make_app;"
        "make_app(choose_modules(sys.argv[1:]))(sys.argv[1:], standalone_mode=False);"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command],
        cwd=tmp_path,
        env={
            "BAKER_HOME": str(tmp_path / "home"),
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONPATH": ".",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "baker.settings" in done.stderr.split()
    assert not {"boto3", "botocore", "paramiko"} & set(done.stderr.split())
