"""Finding the project, and what wins over what."""

import dataclasses
from pathlib import Path

import pytest

from baker.errors import SettingsError, UsageError
from baker.model import Bootstrap, TargetSpec
from baker.settings import find_project, load_settings, result_settings, target_settings


def make_project(folder, text=""):
    (folder / "baker.toml").write_text(text)
    return folder


def make_spec(**settings):
    source = Bootstrap(distribution="debian", suite="trixie")
    return TargetSpec(target="local", source=source, data={}, settings=settings)


def assert_settings_error(folder, text, *lines):
    with pytest.raises(SettingsError) as caught:
        load_settings(make_project(folder, text), {})
    assert str(caught.value).splitlines() == list(lines)
    assert caught.value.exit_code == 2


def test_project_is_found_from_any_folder_inside_it(tmp_path):
    make_project(tmp_path)
    inside = tmp_path / "recipes" / "web"
    inside.mkdir(parents=True)
    assert find_project(inside) == tmp_path
    assert find_project(tmp_path) == tmp_path


def test_innermost_project_wins_and_a_named_one_over_it(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    make_project(tmp_path)
    make_project(inner)
    assert find_project(inner) == inner
    assert find_project(inner, tmp_path) == tmp_path


def test_no_project_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(UsageError) as caught:
        find_project(tmp_path)
    assert str(caught.value) == f"no baker.toml in {tmp_path} or in any folder above it"
    assert caught.value.hint == "Change into a project, or name one with --project FOLDER"


def test_named_folder_that_is_no_project_is_refused(tmp_path):
    make_project(tmp_path)
    (tmp_path / "recipes").mkdir()
    with pytest.raises(UsageError) as caught:
        find_project(tmp_path, tmp_path / "recipes")
    assert str(caught.value) == f"{tmp_path}/recipes is not a project: it has no baker.toml"


def test_defaults_without_a_project(monkeypatch):
    monkeypatch.setattr("os.getuid", lambda: 1234)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    settings = load_settings(None, {})
    assert settings.home == Path("/var/lib/baker")
    assert settings.catalog_url == "sqlite:////var/lib/baker/catalog.db"
    assert settings.actor == "uid 1234"
    assert (settings.project, settings.recipes) == (None, None)


HOMES = {
    "his data folder": ({"HOME": "/h", "XDG_DATA_HOME": "/data"}, "/data/baker"),
    "its default": ({"HOME": "/h"}, "/h/.local/share/baker"),
    "not a relative one": ({"HOME": "/h", "XDG_DATA_HOME": "data"}, "/h/.local/share/baker"),
    "what he says": ({"HOME": "/h", "BAKER_HOME": "/said"}, "/said"),
}


@pytest.mark.parametrize("case", HOMES)
def test_user_who_is_not_root_has_a_home_of_his_own(monkeypatch, tmp_path, case):
    variables, expected = HOMES[case]
    monkeypatch.setattr("os.geteuid", lambda: 1234)
    monkeypatch.setattr("baker.settings.DEFAULT_HOME", str(tmp_path / "missing"))
    settings = load_settings(None, variables)
    assert settings.home == Path(expected)
    assert settings.catalog_url == f"sqlite:///{expected}/catalog.db"


def test_store_of_this_host_is_everybodys_where_it_is_there(monkeypatch, tmp_path):
    monkeypatch.setattr("os.geteuid", lambda: 1234)
    monkeypatch.setattr("baker.settings.DEFAULT_HOME", str(tmp_path))
    assert load_settings(None, {"HOME": "/h"}).home == tmp_path


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_settings(None, {}).actor = "me"


def test_home_moves_the_catalog_along(tmp_path):
    settings = load_settings(None, {"BAKER_HOME": str(tmp_path)})
    assert settings.home == tmp_path
    assert settings.catalog_url == f"sqlite:///{tmp_path}/catalog.db"


def test_relative_home_starts_where_the_command_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_settings(None, {"BAKER_HOME": "here"}).home == tmp_path / "here"


def test_catalog_comes_from_flag_then_variable_then_file_then_home(tmp_path):
    project = make_project(tmp_path, 'catalog = "postgresql://file/baker"')
    variable = {"BAKER_CATALOG": "postgresql://variable/baker"}
    assert load_settings(project, variable, catalog_url="sqlite:////f").catalog_url == "sqlite:////f"
    assert load_settings(project, variable).catalog_url == "postgresql://variable/baker"
    assert load_settings(project, {"BAKER_CATALOG": ""}).catalog_url == "postgresql://file/baker"
    make_project(tmp_path)
    assert load_settings(project, {"BAKER_HOME": "/h"}).catalog_url == "sqlite:////h/catalog.db"


def test_relative_catalog_of_the_file_lies_in_the_project(tmp_path):
    project = make_project(tmp_path, 'catalog = "sqlite:///team.db"')
    assert load_settings(project, {}).catalog_url == f"sqlite:///{tmp_path}/team.db"


@pytest.mark.parametrize(
    ("environ", "actor"),
    [
        ({"BAKER_ACTOR": "ci", "SUDO_USER": "ann", "USER": "root"}, "ci"),
        ({"SUDO_USER": "ann", "USER": "root"}, "ann"),
        ({"BAKER_ACTOR": "", "USER": "bob"}, "bob"),
    ],
)
def test_actor_is_who_asked_even_under_sudo(environ, actor):
    assert load_settings(None, environ).actor == actor


def test_target_setting_precedence_variable_recipe_file_default(tmp_path):
    project = make_project(tmp_path, '[local]\nmirror = "http://file/debian"\nhttp_proxy = "http://file:1"')
    settings = load_settings(project, {"http_proxy": "http://default:1"})
    assert target_settings(settings, make_spec()) == {
        "mirror": "http://file/debian",
        "http_proxy": "http://file:1",
    }
    spec = make_spec(mirror="http://recipe/debian")
    assert target_settings(settings, spec)["mirror"] == "http://recipe/debian"
    settings = load_settings(project, {"BAKER_LOCAL_MIRROR": "http://variable/debian"})
    assert target_settings(settings, spec)["mirror"] == "http://variable/debian"


def test_configured_proxy_of_the_environment_is_the_default():
    assert load_settings(None, {"http_proxy": "http://p:3128"}).local == {"http_proxy": "http://p:3128"}


def test_proxy_is_not_part_of_what_a_build_depends_on():
    values = {"mirror": "http://m/debian", "http_proxy": "http://p:1"}
    assert result_settings("local", values) == {"mirror": "http://m/debian"}
    aws = {"region": "eu-west-1", "root_volume": {"size": 16}}
    assert result_settings("aws", aws) == {"root_volume": {"size": 16}}


def test_aws_table_is_kept_as_it_is(tmp_path):
    project = make_project(tmp_path, '[aws]\nregions = ["eu-west-1"]\n[aws.tags]\nteam = "web"')
    assert load_settings(project, {}).aws == {"regions": ["eu-west-1"], "tags": {"team": "web"}}


def test_recipes_folder_can_be_elsewhere_in_the_project(tmp_path):
    assert load_settings(make_project(tmp_path), {}).recipes == tmp_path / "recipes"
    project = make_project(tmp_path, 'recipes = "images"')
    assert load_settings(project, {}).recipes == tmp_path / "images"


def test_every_mistake_in_the_file_is_named_by_line_and_key(tmp_path):
    assert_settings_error(
        tmp_path,
        'catalgo = "x"\ncatalog = "mysql://db/x"\n\n[local]\nmiror = "http://m/debian"\nhttp_proxy = 3\n',
        'baker.toml:1: unknown key "catalgo" (did you mean "catalog"?)',
        'baker.toml:2: "catalog" must be sqlite:///PATH or postgresql://HOST/NAME, not "mysql://db/x"',
        'baker.toml:5: unknown key "miror" in [local] (did you mean "mirror"?)',
        'baker.toml:6: "local.http_proxy" must be an http:// or https:// address, not 3',
    )


def test_recipes_folder_outside_the_project_is_refused(tmp_path):
    message = 'baker.toml:1: "recipes" must be a folder of the project, not "../images"'
    assert_settings_error(tmp_path, 'recipes = "../images"', message)


def test_broken_file_is_named_by_line_and_column(tmp_path):
    message = "baker.toml:2:9: is not TOML: Expected '=' after a key in a key/value pair"
    assert_settings_error(tmp_path, '[local]\nmirror  "http://m"\n', message)


def test_wrong_catalog_variable_is_refused_without_showing_a_password():
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {"BAKER_CATALOG": "mysql://me:hunter2@db/x"})
    assert str(caught.value) == (
        'BAKER_CATALOG must be sqlite:///PATH or postgresql://HOST/NAME, not "mysql:…"'
    )


def test_list_cannot_be_set_by_a_variable():
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {"BAKER_LOCAL_REPOSITORIES": "http://m"})
    assert str(caught.value) == (
        "BAKER_LOCAL_REPOSITORIES: repositories is a list of tables: set it in baker.toml"
    )


def test_unknown_and_wrong_target_variables_are_refused():
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {"BAKER_LOCAL_MIROR": "http://m"})
    assert str(caught.value) == 'unknown variable BAKER_LOCAL_MIROR (did you mean "BAKER_LOCAL_MIRROR"?)'
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {"BAKER_LOCAL_HTTP_PROXY": "proxy:3128"})
    expected = 'BAKER_LOCAL_HTTP_PROXY must be an http:// or https:// address, not "proxy:3128"'
    assert str(caught.value) == expected
