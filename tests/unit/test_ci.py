"""A catalog that is thrown away with a CI's job, and who is said to have started one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from baker.ci import refuse_throwaway
from baker.errors import UsageError
from baker.settings import CI_ACTORS, Settings, load_settings

IN_CI = {"CI": "true"}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that no CI clears. Temporary folders are elsewhere for these tests: this one lies in one."""
    monkeypatch.setattr("baker.ci.TEMPORARY", (Path("/tmp-of-this-host"),))
    return tmp_path


def make_settings(folder: Path, environ: Mapping[str, str] = {}, catalog_url: str | None = None) -> Settings:
    project = folder / "project"
    project.mkdir(exist_ok=True)
    (project / "baker.toml").touch()
    variables = {"BAKER_HOME": str(folder / "home"), **environ}
    return load_settings(project, variables, catalog_url=catalog_url)


def make_catalog(folder: Path) -> None:
    (folder / "home").mkdir()
    (folder / "home/catalog.db").touch()


def test_catalog_that_a_ci_keeps_is_fine(kept: Path) -> None:
    make_catalog(kept)
    refuse_throwaway(make_settings(kept), IN_CI, ephemeral=False)
    url = "postgresql://db.example/baker"
    refuse_throwaway(make_settings(kept, catalog_url=url), IN_CI, ephemeral=False)


def test_catalog_that_is_not_there_yet_is_refused_in_a_ci_with_what_to_do(kept: Path) -> None:
    with pytest.raises(UsageError) as caught:
        refuse_throwaway(make_settings(kept), IN_CI, ephemeral=False)
    assert str(caught.value) == (
        f"this is a CI job (CI=true), and its catalog {kept}/home/catalog.db is not there yet: each run would"
        " bake everything from nothing, and number the versions from 1 again"
    )
    assert "BAKER_CATALOG=postgresql://" in str(caught.value.hint)
    assert "--ephemeral" in str(caught.value.hint)


@pytest.mark.parametrize("environ", [{}, {"CI": ""}, {"CI": "false"}, {"CI": "0"}])
def test_nobody_is_asked_outside_a_ci_or_where_it_is_wanted(kept: Path, environ: Mapping[str, str]) -> None:
    refuse_throwaway(make_settings(kept), environ, ephemeral=False)
    refuse_throwaway(make_settings(kept), IN_CI, ephemeral=True)


@pytest.mark.parametrize("name", ["RUNNER_TEMP", "GITHUB_WORKSPACE", "CI_PROJECT_DIR"])
def test_catalog_in_a_folder_of_the_job_is_refused_although_it_is_there(kept: Path, name: str) -> None:
    make_catalog(kept)
    with pytest.raises(UsageError) as caught:
        refuse_throwaway(make_settings(kept), {**IN_CI, name: str(kept)}, ephemeral=False)
    assert f"lies in {kept}, which is cleared with the job" in str(caught.value)


def test_catalog_in_the_project_or_in_a_temporary_folder_is_refused(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = make_settings(kept, catalog_url=f"sqlite:///{kept}/project/catalog.db")
    (kept / "project/catalog.db").touch()
    with pytest.raises(UsageError, match=f"lies in {kept}/project"):
        refuse_throwaway(inside, IN_CI, ephemeral=False)
    make_catalog(kept)
    monkeypatch.setattr("baker.ci.TEMPORARY", (kept,))
    with pytest.raises(UsageError, match="is cleared with the job"):
        refuse_throwaway(make_settings(kept), IN_CI, ephemeral=False)


@pytest.mark.parametrize("mark", CI_ACTORS)
def test_actor_is_whoever_started_the_job(mark: str) -> None:
    said = "https://ci.example/" if mark == "JENKINS_URL" else "true"
    variables = {mark: said, CI_ACTORS[mark]: "ann", "SUDO_USER": "runner", "USER": "root"}
    assert load_settings(None, variables).actor == "ann"
    assert load_settings(None, {**variables, "BAKER_ACTOR": "release"}).actor == "release"
    assert load_settings(None, {**variables, CI_ACTORS[mark]: ""}).actor == "runner"


@pytest.mark.parametrize("said", [None, "", "false"])
def test_name_that_a_ci_would_give_counts_only_in_that_ci(said: str | None) -> None:
    environ = {"GITHUB_ACTOR": "ann", "USER": "bob"}
    if said is not None:
        environ["GITHUB_ACTIONS"] = said
    assert load_settings(None, environ).actor == "bob"
