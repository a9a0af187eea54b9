"""A branch's preview as CI and people use it: baked, merged, expired, collected."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from baker.catalog import Catalog, schema
from tests.conftest import require_root
from tests.e2e.project import TRIVIAL, Project, make_project, share_downloads
from tests.stores import make_store, store_image


def end_channel(project: Project, channel: str) -> None:
    """As if its time were over."""
    over = update(schema.channels).where(schema.channels.c.name == channel)
    over = over.values(expires=datetime.now(UTC) - timedelta(minutes=1))
    with Catalog.open(f"sqlite:///{project.home}/catalog.db", actor="ann") as catalog:
        assert catalog._database.write(lambda connection: connection.execute(over).rowcount)


def show_images(project: Project) -> dict[str, tuple[list[str], str | None]]:
    """Every image that is not deleted, with its channels and the preview that it was baked for."""
    return {
        image["reference"]: (image["channels"], image["preview"])
        for image in project.json("image", "ls")["images"]
        if image["status"] != "deleted"
    }


@pytest.fixture
def project(tmp_path: Path) -> Project:
    require_root()
    project = make_project(tmp_path / "project", tmp_path / "home")
    project.write("baker.toml", "[channels.prod]\n")
    project.recipe("base")
    project.recipe("web", toml='from = "base"')
    return project


def test_preview_is_shown_promoted_by_hand_and_removed_when_it_is_over(project: Project) -> None:
    project.in_process = True
    provider = make_store(project.home)
    with Catalog.open(f"sqlite:///{project.home}/catalog.db", actor="ann") as catalog:
        store_image(catalog, provider)
        store_image(catalog, provider, preview="pr-1")
    refused = project.run("promote", "web:2", "dev", "--yes", status=1)
    assert "web:2 cannot be promoted to dev: it is a preview, baked for pr-1" in refused.stderr
    assert "prod is a channel of baker.toml" in (
        project.run("promote", "web:2", "prod", "--yes", "--expires", "7d", status=2).stderr
    )
    assert project.run("promote", "web:2", "pr-1", "--yes", "--expires", "7d").stdout.startswith(
        "web:pr-1 is web:2 until "
    )
    again = project.json("promote", "web:2", "pr-1", "--yes", "--expires", "1d")
    assert datetime.fromisoformat(again["expires"]) < datetime.now(UTC) + timedelta(days=2)
    assert show_images(project) == {"web:2": (["pr-1"], "pr-1"), "web:1": (["latest"], None)}
    assert "available, preview for pr-1 until 20" in project.run("image", "show", "web:2").stdout
    (channel,) = project.json("channel", "ls")["channels"]
    assert (channel["expires"], channel["expired"]) == (again["expires"], False)
    assert "It expires 20" in project.run("channel", "history", "web", "pr-1").stderr

    end_channel(project, "pr-1")
    assert "web:pr-1 expired on" in project.run("image", "resolve", "web:pr-1", status=2).stderr
    told = project.run("image", "prune", "--dry-run")
    assert "would remove the channel web:pr-1, which held web:2" in told.stdout
    assert "baked for the preview pr-1, which holds it no more" in told.stdout
    swept = project.json("system", "sweep")
    assert [(one["channel"], one["why_not"]) for one in swept["expired"]] == [("pr-1", None)]
    pruned = project.json("image", "prune", "--yes")
    assert (pruned["deleted"], pruned["expired"]) == (["web:2"], [])
    (last, _) = project.json("channel", "history", "web", "pr-1")["moves"]
    assert (last["expired"], last["from"], last["to"]) == (True, "web:2", None)


def outcomes(results: list[Any]) -> list[tuple[str, str, str, bool]]:
    """Recipe, outcome, image, and whether a machine was configured."""
    return [(one["recipe"], one["outcome"], one["image"], "configure" in one["stages"]) for one in results]


@pytest.mark.machine
@pytest.mark.slow
def test_merged_preview_is_issued_again_and_an_expired_one_goes(project: Project, shared_home: Path) -> None:
    share_downloads(shared_home, project.home)
    project.bake()
    project.write("recipes/web/deploy.py", TRIVIAL.replace("/srv/made", "/srv/branch"))
    preview = ("--channel", "pr-1", "--expires", "7d")

    assert outcomes(project.bake(*preview)) == [
        ("base", "unchanged", "base:1", False),
        ("web", "baked", "web:2", True),
    ]
    assert show_images(project) == {
        "base:1": (["latest", "pr-1"], None),
        "web:1": (["latest"], None),
        "web:2": (["pr-1"], "pr-1"),
    }
    assert [one["outcome"] for one in project.bake(*preview)] == ["unchanged"] * 2
    assert "prod is a channel of baker.toml" in project.run("bake", "--channel", "prod", status=2).stderr

    assert outcomes(project.bake()) == [
        ("base", "unchanged", "base:1", False),
        ("web", "baked", "web:3", False),
    ]
    assert show_images(project)["web:3"] == (["latest"], None)
    assert [one["outcome"] for one in project.bake()] == ["unchanged"] * 2
    assert [one["image"] for one in project.bake(*preview)] == ["base:1", "web:2"]

    end_channel(project, "pr-1")
    assert project.json("image", "prune", "--yes")["deleted"] == ["web:2"]
    assert show_images(project) == {
        "base:1": (["latest"], None),
        "web:1": ([], None),
        "web:3": (["latest"], None),
    }
    assert project.run("run", "web", "--", "ls", "/srv").stdout == "branch\nmade\n"
