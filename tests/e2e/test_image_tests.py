"""Image tests that change: the build that is there is verified again, nothing is baked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.project import Project, make_project

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("nothing_left_behind")]

PASSES = "def test_it_is_there(host):\n    assert host.file('/srv/made').is_directory\n"
FAILS = "def test_it_is_gone(host):\n    assert not host.file('/srv/made').exists\n"


@pytest.fixture
def project(tmp_path: Path, shared_home: Path) -> Project:
    project = make_project(tmp_path / "project", shared_home)
    project.environ["BAKER_CATALOG"] = f"sqlite:///{tmp_path}/catalog.db"
    project.recipe("hello", test=PASSES)
    return project


def tell_plan(project: Project) -> list[str]:
    return [
        f"{entry['action']} {reason['kind']}: {reason['detail']}"
        for entry in project.json("plan")["recipes"]
        for reason in entry["reasons"]
    ]


def test_changed_image_test_verifies_the_build_again_instead_of_baking(project: Project) -> None:
    assert [bake["image"] for bake in project.bake()] == ["hello:1"]
    assert tell_plan(project)[0].startswith("skip unchanged")

    project.write("recipes/hello/test_more.py", PASSES)
    assert tell_plan(project) == ["verify image-tests-changed: image tests changed (test_more.py was added)"]
    (again,) = project.bake()
    assert (again["outcome"], again["image"], again["error"]) == ("unchanged", "hello:1", None)
    assert set(again["stages"]) == {"verify", "teardown"}
    assert "2 image tests passed" in project.run("logs", again["bake"]).stdout
    assert tell_plan(project)[0].startswith("skip unchanged")

    project.write("recipes/hello/test_more.py", FAILS)
    failed = project.run("bake", status=1)
    assert "test_more.py:2: test_it_is_gone" in failed.stderr
    assert "hello:1 was not baked again, and stays available as it is" in failed.stderr
    assert [image["status"] for image in project.json("image", "ls")["images"]] == ["available"]
    assert tell_plan(project)[0].startswith("verify")

    project.write("recipes/hello/test_more.py", PASSES)
    assert tell_plan(project)[0].startswith("skip unchanged"), "it passed these before"


@pytest.mark.slow
def test_earlier_build_is_not_issued_anew_if_it_fails_the_image_tests_of_now(project: Project) -> None:
    deploy = (project.folder / "recipes/hello/deploy.py").read_text()
    project.bake()
    project.write("recipes/hello/deploy.py", deploy.replace("/srv/made", "/srv/other"))
    project.write("recipes/hello/test_image.py", FAILS)
    assert [bake["image"] for bake in project.bake()] == ["hello:2"]

    project.write("recipes/hello/deploy.py", deploy)
    assert [line.split()[1] for line in tell_plan(project)][:2] == ["reissue:", "image-tests-changed:"]
    (failed,) = project.bake(status=1)
    assert "test_it_is_gone" in failed["error"]
    assert [image["reference"] for image in project.json("image", "ls")["images"]] == ["hello:2", "hello:1"]

    project.write("recipes/hello/test_image.py", PASSES)
    (issued,) = project.bake()
    assert (issued["outcome"], issued["image"]) == ("baked", "hello:3")
    assert "verify" not in issued["stages"], "these are the tests that it passed"
