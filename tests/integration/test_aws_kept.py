"""A failed bake's instance is kept for a look where there is one, and what leads to it goes with it."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from baker.catalog import Catalog
from baker.errors import HostError
from baker.execution import execute_plan, plan_bakes
from baker.interrupt import Interruption
from baker.kitchen import Kitchen
from baker.model import Outcome, Resource
from baker.progress import BakeEnded, Progress
from baker.recipes import load_recipes
from baker.settings import load_settings
from tests.aws import DEBIAN, Baking, assert_nothing_left, make_provider, quick_lab
from tests.lab import Fault, Lab

RECIPE = f"""
[targets.aws]
from = {{ owner = "{DEBIAN}", name = "debian-13-{{deb_arch}}-*" }}
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with quick_lab() as lab:
        yield lab


def resource_of(baking: Baking) -> Resource:
    [found] = [one for one in baking.teardown.resources if one.kind == "instance"]
    return found


def list_access(home: Path) -> list[Path]:
    return list((home / "aws").glob("access-*"))


def test_key_to_a_kept_instance_is_its_owners_alone_and_goes_with_the_instance(
    lab: Lab, tmp_path: Path
) -> None:
    provider = make_provider(lab, tmp_path)
    baking = Baking(provider)
    baking.launch()

    words = shlex.split(provider.describe_access(resource_of(baking)))

    assert words[-2] == "--"  # a name never becomes an option
    key = Path(words[words.index("-i") + 1])
    assert "PRIVATE KEY" in key.read_text()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (key, key.parent)] == [0o600, 0o700]
    make_provider(lab, tmp_path).remove(resource_of(baking))  # in a sweep, later
    assert list_access(tmp_path) == []
    assert_nothing_left(lab, baking)


@pytest.mark.parametrize("name", ["../../letters", "..", "."])
def test_a_tag_never_leads_to_files_that_are_not_baker_s(lab: Lab, tmp_path: Path, name: str) -> None:
    home, letter = tmp_path / "home", tmp_path / "letters" / "one"
    for path in (letter, home / "logs" / "one", home / "aws" / "regions"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("dear\n")

    make_provider(lab, home).remove(Resource(provider="aws", kind="instance", id=name, place=lab.region))

    assert letter.exists()
    assert (home / "logs" / "one").exists()
    assert (home / "aws" / "regions").exists()


def test_nobody_is_sent_to_an_instance_that_never_came_to_be(lab: Lab, tmp_path: Path) -> None:
    lab.faults.add(Fault(action="RunInstances", kind="refuse", code="UnauthorizedOperation"))
    baking = Baking(make_provider(lab, tmp_path))
    with pytest.raises(Exception, match="may not call ec2:RunInstances"):
        baking.launch()

    with pytest.raises(HostError, match="was never launched"):
        baking.provider.describe_access(resource_of(baking))
    assert_nothing_left(lab, baking)


def test_a_bake_whose_launch_failed_keeps_nothing_and_tells_why_it_failed(lab: Lab, tmp_path: Path) -> None:
    recipe = tmp_path / "recipes" / "base"
    recipe.mkdir(parents=True)
    (recipe / "recipe.toml").write_text(RECIPE)
    (recipe / "deploy.py").write_text("")
    (tmp_path / "baker.toml").write_text('[aws]\nregion = "eu-west-1"\nopen_to = "127.0.0.1/32"\n')
    home = tmp_path / "home"
    settings = load_settings(tmp_path, {"BAKER_HOME": str(home), "BAKER_ACTOR": "ann"})
    provider = make_provider(lab, home)
    lab.faults.add(Fault(action="RunInstances", kind="refuse", code="UnauthorizedOperation"))
    said: list[Progress] = []
    with Catalog.open(settings.catalog_url, actor="ann") as catalog:
        kitchen = Kitchen(
            catalog=catalog,
            providers={"aws": provider},
            settings=settings,
            environ={},
            show=said.append,
            interruption=Interruption(),
            keep_failed=True,
        )
        recipes = load_recipes(tmp_path)
        [result] = execute_plan(recipes, plan_bakes(recipes, kitchen, selected=None), kitchen)
        entries = catalog.open_entries()

    assert result.outcome is Outcome.FAILED
    assert "may not call ec2:RunInstances" in str(result.error)
    [ended] = [one for one in said if isinstance(one, BakeEnded)]
    assert ended.kept is None
    assert list(entries) == []
    assert (
        lab.client("ec2").describe_security_groups(Filters=[{"Name": "tag-key", "Values": ["baker:bake"]}])[
            "SecurityGroups"
        ]
        == []
    )


def test_what_a_stage_that_failed_had_read_of_an_instance_is_let_go(lab: Lab, tmp_path: Path) -> None:
    provider = make_provider(lab, tmp_path)
    baking = Baking(provider)
    machine = baking.launch()
    lab.faults.add(Fault(action="StopInstances", kind="refuse", code="IncorrectInstanceState"))

    with pytest.raises(Exception, match="IncorrectInstanceState"):
        provider.seal(machine)

    assert provider._sealed == {}
    assert_nothing_left(lab, baking)
