"""Deleting images whose artifacts others can use: nothing that runs, and nothing that cannot be asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from baker.catalog import Catalog
from baker.errors import CloudError, ConflictError
from baker.model import Artifact, Image, ImageStatus
from baker.prune import Pruned, PrunePlan, delete_images, plan_prune, require_unneeded
from baker.retention import Retention
from tests.factories import make_artifact, make_build, make_image, make_provenance

ONE = Retention(table={"keep_last": 1})
AWS = ("aws", "x86_64")
RUNS = "instance i-0123 in eu-west-1 runs it"


@dataclass
class Cloud:
    """A provider with AMIs, which instances may run."""

    users: dict[str, str] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    refused: bool = False
    asked: list[str] = field(default_factory=list)

    def check(self) -> None:
        pass

    def reaches(self, artifact: Artifact) -> bool:
        return artifact.target == "aws"

    def in_use(self, *artifacts: Artifact) -> Mapping[str, str]:
        if self.refused:
            raise CloudError("not allowed to call ec2:DescribeInstances")
        ids = [artifact.id for artifact in artifacts]
        self.asked += ids
        return {id_: user for id_, user in self.users.items() if id_ in ids}

    def measure(self, *artifacts: Artifact) -> list[int]:
        return [artifact.size_bytes for artifact in artifacts]

    def delete(self, *artifacts: Artifact, is_needed: Any) -> None:
        self.deleted += [artifact.id for artifact in artifacts if not is_needed(artifact, ())]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog.open(f"sqlite:///{tmp_path}/catalog.db", actor="ann") as catalog:
        yield catalog


def make_ami(catalog: Catalog, recipe: str = "web", *, upon: Image | None = None, regions: int = 1) -> Image:
    number = len(catalog.images(recipe)) + 1
    artifacts = tuple(
        make_artifact(
            id=f"ami-{recipe}-{number}-{region}", target="aws", kind="ami", store=f"region-{region}"
        )
        for region in range(regions)
    )
    provenance = make_provenance(parent_build=upon.builds[0].id if upon else None)
    build = make_build(recipe, *AWS, artifacts=artifacts, provenance=provenance)
    return make_image(catalog, recipe, build=build, wanted=[AWS])


def plan(catalog: Catalog, cloud: Cloud | None, home: Path) -> PrunePlan:
    return plan_prune(catalog, {"aws": cloud} if cloud else {}, home, ONE)  # type: ignore[dict-item]


def delete(
    catalog: Catalog, cloud: Cloud, home: Path, *keys: tuple[str, int], by_rules: bool = True
) -> Pruned:
    providers: Any = {"aws": cloud}
    return delete_images(catalog, providers, home, dict.fromkeys(keys), ONE, by_rules=by_rules)


def tell(found: PrunePlan) -> dict[str, str]:
    return {
        verdict.image.reference: f"{'goes' if verdict.goes else 'stays'}: {verdict.detail}"
        for verdict in found.verdicts
    }


def test_image_that_an_instance_runs_stays_and_so_does_what_it_is_built_upon(
    catalog: Catalog, tmp_path: Path
) -> None:
    base = make_ami(catalog, "base")
    make_ami(catalog, "web", upon=base, regions=2)
    for recipe in ("base", "web"):
        make_ami(catalog, recipe)
    cloud = Cloud(users={"ami-web-1-1": RUNS})
    found = tell(plan(catalog, cloud, tmp_path))
    assert found["web:1"] == f"stays: {RUNS}"
    assert found["base:1"] == "stays: web:1 is built upon it"
    assert sorted(cloud.asked) == ["ami-base-1-0", "ami-web-1-0", "ami-web-1-1"], "only what would go"
    cloud.users.clear()
    assert list(plan(catalog, cloud, tmp_path).doomed) == [("base", 1), ("web", 1)]


def test_image_that_an_instance_came_to_run_after_the_plan_stays(catalog: Catalog, tmp_path: Path) -> None:
    for _ in range(3):
        make_ami(catalog)
    cloud = Cloud(users={"ami-web-1-0": RUNS})
    pruned = delete(catalog, cloud, tmp_path, ("web", 1), ("web", 2))
    assert pruned.skipped == (("web:1", RUNS),)
    assert pruned.deleted == ("web:2",)
    assert cloud.deleted == ["ami-web-2-0"]
    assert catalog.image("web", 1).status is ImageStatus.AVAILABLE


def test_image_that_is_used_is_not_removed_by_name_either(catalog: Catalog, tmp_path: Path) -> None:
    make_ami(catalog)
    image = make_ami(catalog)
    cloud = Cloud(users={"ami-web-1-0": RUNS})
    providers: Any = {"aws": cloud}
    with pytest.raises(ConflictError, match=f"web:1 is needed: {RUNS}"):
        require_unneeded(catalog, providers, tmp_path, ONE, catalog.image("web", 1))
    assert delete(catalog, cloud, tmp_path, ("web", 1), by_rules=False).skipped == (("web:1", RUNS),)
    assert cloud.deleted == []
    assert image.reference == "web:2"


def test_artifact_of_a_deleted_image_that_is_used_goes_once_it_is_not(
    catalog: Catalog, tmp_path: Path
) -> None:
    make_ami(catalog, regions=2)
    make_ami(catalog)
    catalog.mark_deleted({("web", 1): None}, lambda *_: {})
    cloud = Cloud(users={"ami-web-1-1": RUNS})
    pruned = delete(catalog, cloud, tmp_path)
    assert [(name, artifact.id, user) for name, artifact, user in pruned.used] == [
        ("web:1", "ami-web-1-1", RUNS)
    ]
    assert cloud.deleted == ["ami-web-1-0"]
    cloud.users.clear()
    assert delete(catalog, cloud, tmp_path).finished == ("web:1",)
    assert cloud.deleted == ["ami-web-1-0", "ami-web-1-1"]


def test_what_cannot_be_asked_for_its_use_is_not_deleted(catalog: Catalog, tmp_path: Path) -> None:
    for _ in range(2):
        make_ami(catalog)
    why = "its use cannot be asked: not allowed to call ec2:DescribeInstances"
    cloud = Cloud(refused=True)
    assert tell(plan(catalog, cloud, tmp_path))["web:1"] == f"stays: {why}"
    assert delete(catalog, cloud, tmp_path, ("web", 1)).skipped == (("web:1", why),)
    found = tell(plan(catalog, None, tmp_path))
    assert found["web:1"] == "stays: aws is not configured here, so its use cannot be asked"
    assert cloud.deleted == []
