"""What planning asks of the catalog, the providers and the project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from baker.catalog import Catalog
from baker.knowledge import ProjectKnowledge, explain_absence
from baker.model import Artifact, Build, Reference, Source
from baker.plan import make_plan
from baker.providers.protocol import ResolvedSource
from baker.recipes import load_recipes
from baker.settings import load_settings
from tests.factories import make_artifact, make_build, make_digest, make_image


class CountingProvider:
    """Knows one source, and how often it was asked."""

    target = "local"

    def __init__(self) -> None:
        self.resolved = 0

    def resolve(
        self, source: Source, parent: Build | None, settings: Mapping[str, Any], arch: str
    ) -> ResolvedSource:
        assert parent is None
        self.resolved += 1
        return ResolvedSource(source=source, digest=make_digest("trixie"), arch=arch, settings=settings)

    def holds(self, artifact: Artifact) -> bool:
        return artifact.target == self.target


def test_source_is_resolved_once_however_many_builds_it_is_compared_with(tmp_path: Path) -> None:
    (tmp_path / "recipes/web").mkdir(parents=True)
    (tmp_path / "baker.toml").touch()
    (tmp_path / "recipes/web/recipe.toml").write_text('from = "debian:trixie"\n')
    (tmp_path / "recipes/web/deploy.py").touch()
    recipes, provider = load_recipes(tmp_path), CountingProvider()
    with Catalog.open(f"sqlite:///{tmp_path}/catalog.db", actor="ann") as catalog:
        for _ in range(3):
            make_image(catalog, build=make_build("web"))
        knowledge = ProjectKnowledge(
            catalog=catalog,
            providers={"local": provider},  # type: ignore[dict-item]
            settings=load_settings(tmp_path, {}),
            environ={},
        )
        (entry,) = make_plan(recipes, knowledge, archs=lambda *_: ["amd64"])
    assert entry.action == "bake"
    assert provider.resolved == 1


def test_absence_names_the_regions_of_an_ami_and_the_host_of_a_local_artifact() -> None:
    amis = [
        make_artifact(id=f"ami-{region}", target="aws", store=region) for region in ("eu-west-1", "us-east-1")
    ]
    one, two = (make_build(target="aws", arch="arm64", artifacts=tuple(amis[:number])) for number in (1, 2))
    assert explain_absence("web:3", one) == (
        "web:3 is in region eu-west-1, which has no AMI ami-eu-west-1 any more"
    )
    assert explain_absence("web:3", two) == (
        "web:3 is in regions eu-west-1, us-east-1, which do not all have its AMI any more "
        "(ami-eu-west-1, ami-us-east-1)"
    )
    local = make_build(artifacts=(make_artifact(store="builder-9:/srv/baker/local"),))
    assert explain_absence("web:3", local) == (
        "web:3 is on builder-9 (in the store /srv/baker/local), not on this host"
    )


def test_catalog_is_asked_once_for_all_recipes_that_are_foreseen(tmp_path: Path) -> None:
    (tmp_path / "baker.toml").touch()
    for name, source in (("base", "debian:trixie"), ("web", "base"), ("shop", "base:latest")):
        (tmp_path / "recipes" / name).mkdir(parents=True)
        (tmp_path / "recipes" / name / "recipe.toml").write_text(f'from = "{source}"\n')
        (tmp_path / "recipes" / name / "deploy.py").touch()
    recipes = load_recipes(tmp_path)
    with Catalog.open(f"sqlite:///{tmp_path}/catalog.db", actor="ann") as catalog:
        for name in recipes:
            make_image(catalog, name)
        reads: list[object] = []
        read = catalog._database.read
        catalog._database.read = lambda query: (reads.append(query), read(query))[1]  # type: ignore[method-assign]
        knowledge = ProjectKnowledge(
            catalog=catalog,
            providers={"local": CountingProvider()},  # type: ignore[dict-item]
            settings=load_settings(tmp_path, {}),
            environ={},
        )
        known = knowledge.foreseeing(recipes)
        for name in recipes:
            assert known.usable_builds(name, "local", "amd64")
            assert known.find_build(Reference(recipe=name), "local", "amd64")
            assert known.waiting_version(name, "local", "amd64") is None
            assert known.explain_revoked(name, "local", "amd64") is None
            assert known.preview_builds(name, "local", "amd64") == ()
    assert len(reads) == 1
