"""One recipe for two targets, baked on real machines: versions hold a build for each, and nothing waits.

The second target is a second local store: what this tests is what lies above the providers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from baker.catalog import Catalog
from baker.errors import CloudError, MachineReclaimed
from baker.execution import execute_plan, plan_bakes
from baker.interrupt import Interruption
from baker.kitchen import Kitchen
from baker.model import AmiSource, Artifact, BakeResult, Bootstrap, Build, Outcome, Recipe, Source
from baker.progress import Note, Progress
from baker.providers.local.provider import LocalProvider
from baker.providers.protocol import Captured, Machine, ResolvedSource
from baker.recipes import load_recipes
from baker.settings import load_settings
from baker.sweep import sweep_dead_bakes
from baker.teardown import Teardown
from tests.e2e.project import share_downloads

pytestmark = [pytest.mark.machine, pytest.mark.slow, pytest.mark.usefixtures("nothing_left_behind")]

BASE = """
from = "debian:trixie"
[targets.local]
[targets.aws]
from = { id = "ami-01234567" }
"""
DEPLOY = """
from pyinfra import host
from pyinfra.operations import files

files.directory(name="Make a folder", path={path})
"""
TRIXIE = Bootstrap(distribution="debian", suite="trixie")


class SecondStore(LocalProvider):
    """The target aws, as a store on this host. What it is told to fails or is reclaimed, once."""

    target = "aws"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.fails_to_distribute = False
        self.reclaims_at: list[str] = []
        self.launched: list[str] = []

    def resolve(
        self, source: Source, parent: Build | None, settings: Mapping[str, Any], arch: str
    ) -> ResolvedSource:
        return super().resolve(TRIXIE if isinstance(source, AmiSource) else source, parent, settings, arch)

    def launch(self, bake_id: str, recipe: Recipe, source: ResolvedSource, teardown: Teardown) -> Machine:
        self.launched.append(recipe.name)
        return super().launch(bake_id, recipe, source, teardown)

    def capture(self, bake_id: str, machine: Machine, source: ResolvedSource, teardown: Teardown) -> Captured:
        captured = super().capture(bake_id, machine, source, teardown)
        if "capture" in self.reclaims_at:
            self.reclaims_at.remove("capture")
            raise MachineReclaimed("the spot instance i-1 was reclaimed")
        return captured

    def distribute(
        self,
        build: Build,
        labels: Mapping[str, str],
        teardown: Teardown,
        settings: Mapping[str, Any] | None = None,
    ) -> tuple[Artifact, ...]:
        if self.fails_to_distribute:
            raise CloudError("ec2:CopyImage to eu-north-1 was refused")
        return super().distribute(build, labels, teardown, settings)


class Site:
    """A project with base and web, each for both targets."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home = home
        self.write(
            "base/recipe.toml",
            'from = "debian:trixie"\n[targets.local]\n[targets.aws.from]\nid = "ami-01234567"\n',
        )
        self.write("web/recipe.toml", 'from = "base"\n[targets.local]\n[targets.aws]\n')
        for name in ("base", "web"):
            self.change(name, f"'/srv/{name}'")
        self.write(
            "web/test_image.py", "def test_made(host):\n    assert host.file('/srv/web').is_directory\n"
        )
        (folder / "baker.toml").write_text("[aws]\n")
        self.second = SecondStore(home.with_name("second"))
        self.providers = {"local": LocalProvider(home), "aws": self.second}
        for provider in self.providers.values():
            provider.check()
        self.settings = load_settings(folder, {"BAKER_HOME": str(home), "BAKER_ACTOR": "ann"})
        self.said: list[Progress] = []

    def write(self, path: str, text: str) -> None:
        file = self.folder / "recipes" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def change(self, name: str, path: str) -> None:
        """Let the recipe make another folder; ``path`` is Python."""
        self.write(f"{name}/deploy.py", DEPLOY.format(path=path))

    def kitchen(self, catalog: Catalog, targets: Sequence[str] | None = None) -> Kitchen:
        return Kitchen(
            catalog=catalog,
            providers=self.providers,
            settings=self.settings,
            environ={},
            show=self.said.append,
            interruption=Interruption(),
            targets=targets,
            choose_pause=lambda _tries: 0.0,
        )

    def bake(self, catalog: Catalog, *names: str, targets: Sequence[str] | None = None) -> list[BakeResult]:
        recipes = load_recipes(self.folder, names or None)
        kitchen = self.kitchen(catalog, targets)
        return execute_plan(recipes, plan_bakes(recipes, kitchen, selected=names or None), kitchen, jobs=2)

    def plan(self, catalog: Catalog, targets: Sequence[str] | None = None) -> list[str]:
        recipes = load_recipes(self.folder)
        entries = plan_bakes(recipes, self.kitchen(catalog, targets), selected=None)
        return [f"{entry.recipe} {entry.target} {entry.action}" for entry in entries]


@pytest.fixture
def site(tmp_path: Path, shared_home: Path) -> Site:
    for name in ("home", "second"):
        share_downloads(shared_home, tmp_path / name)
    (tmp_path / "project").mkdir()
    return Site(tmp_path / "project", tmp_path / "home")


@pytest.fixture
def catalog(site: Site) -> Iterator[Catalog]:
    with Catalog.open(f"sqlite:///{site.home}/catalog.db", actor="ann") as catalog:
        yield catalog


def tell(results: Sequence[BakeResult]) -> list[str]:
    return [
        f"{result.recipe} {result.target} {result.outcome} {result.image or result.error or result.reason}"
        for result in results
    ]


def places(catalog: Catalog, reference: tuple[str, int]) -> list[str]:
    image = catalog.image(*reference)
    return [*(build.target for build in image.builds), "complete" if image.complete else "incomplete"]


NOTHING = ["base local skip", "base aws skip", "web local skip", "web aws skip"]


def test_version_holds_a_build_for_each_target_and_the_plan_is_empty_then(
    site: Site, catalog: Catalog
) -> None:
    assert tell(site.bake(catalog)) == [
        "base local baked base:1",
        "base aws baked base:1",
        "web local baked web:1",
        "web aws baked web:1",
    ]
    for recipe in ("base", "web"):
        assert places(catalog, (recipe, 1)) == ["aws", "local", "complete"]
        assert catalog.image(recipe, 1).channels == ("latest",)
    assert site.plan(catalog) == NOTHING

    # What one target alone depends on makes a new version, which the other one's build goes on into.
    site.write("web/recipe.toml", 'from = "base"\n[targets.local]\n[targets.aws.data]\nsize = 2\n')
    assert tell(site.bake(catalog, "web")) == ["web local unchanged web:1", "web aws baked web:2"]
    assert places(catalog, ("web", 2)) == ["aws", "local", "complete"]
    assert site.plan(catalog) == NOTHING


def test_one_target_is_baked_alone_and_the_other_one_joins_the_version_later(
    site: Site, catalog: Catalog
) -> None:
    assert tell(site.bake(catalog, targets=["local"])) == ["base local baked base:1", "web local baked web:1"]
    assert site.second.launched == []
    assert places(catalog, ("web", 1)) == ["local", "incomplete"], "nothing waits for the other target"
    assert catalog.image("web", 1).channels == ()
    assert site.plan(catalog, ["local"]) == ["base local skip", "web local skip"]
    assert tell(site.bake(catalog, targets=["aws"])) == ["base aws baked base:1", "web aws baked web:1"]
    assert places(catalog, ("web", 1)) == ["aws", "local", "complete"]
    assert site.plan(catalog) == NOTHING

    # A build of the target that is not asked for goes on where it is up to date, and else follows.
    site.write("web/recipe.toml", 'from = "base"\n[targets.local]\n[targets.aws.data]\nsize = 2\n')
    assert tell(site.bake(catalog, "web", targets=["aws"])) == ["web aws baked web:2"]
    assert places(catalog, ("web", 2)) == ["aws", "local", "complete"]
    site.change("web", "'/srv/other'")
    site.write("web/test_image.py", "def test_made(host):\n    assert host.file('/srv/other').is_directory\n")
    assert tell(site.bake(catalog, "web", targets=["aws"])) == ["web aws baked web:3"]
    assert places(catalog, ("web", 3)) == ["aws", "incomplete"]
    assert tell(site.bake(catalog, "web")) == ["web local baked web:3", "web aws unchanged web:3"]
    assert places(catalog, ("web", 3)) == ["aws", "local", "complete"]


def test_older_inputs_of_both_targets_are_issued_again_in_one_version(site: Site, catalog: Catalog) -> None:
    site.bake(catalog)
    before = (site.folder / "recipes/base/deploy.py").read_text()
    site.change("base", "'/srv/other'")
    site.bake(catalog, "base")
    site.write("base/deploy.py", before)
    launched = list(site.second.launched)
    assert tell(site.bake(catalog, "base")) == ["base local baked base:3", "base aws baked base:3"]
    assert places(catalog, ("base", 3)) == ["aws", "local", "complete"]
    assert site.second.launched == launched
    builds = [{build.id for build in catalog.image("base", version).builds} for version in (1, 3)]
    assert builds[0] == builds[1]


def test_build_that_came_out_unchanged_after_all_joins_what_the_other_target_began(
    site: Site, catalog: Catalog
) -> None:
    site.bake(catalog)
    # Base is baked anew for local and comes out the same; for aws it does not.
    site.write("base/recipe.toml", f'{BASE}[targets.aws.data]\nplace = "/srv/aws"\n')
    site.change("base", "host.data.get('place', '/srv/base')")
    assert tell(site.bake(catalog)) == [
        "base local baked base:2",
        "base aws baked base:2",
        "web local baked web:2",
        "web aws baked web:2",
    ]
    held = {build.target: build.id for build in catalog.image("web", 2).builds}
    assert held["local"] == {build.target: build.id for build in catalog.image("web", 1).builds}["local"]
    assert site.plan(catalog) == NOTHING


def test_machine_that_is_reclaimed_is_made_again_and_nothing_of_the_first_stays(
    site: Site, catalog: Catalog
) -> None:
    site.second.reclaims_at = ["capture"]
    assert tell(site.bake(catalog, "base", targets=["aws"])) == ["base aws baked base:1"]
    assert site.second.launched == ["base", "base"]
    notes = [event.text for event in site.said if isinstance(event, Note)]
    assert notes == ["base: the spot instance i-1 was reclaimed; trying again in 0 s, 1 of 2"]
    assert len(list(site.second.store.artifacts.glob("*.json"))) == 1
    assert catalog.open_entries() == []

    site.second.reclaims_at = ["capture"] * 3
    site.change("base", "'/srv/other'")
    (failed,) = site.bake(catalog, "base", targets=["aws"])
    assert (failed.outcome, failed.error) == (Outcome.FAILED, "the spot instance i-1 was reclaimed")
    assert failed.attempts == 3
    assert site.second.launched == ["base"] * 5
    assert catalog.open_entries() == []


def test_image_that_cannot_be_distributed_stays_registered_and_the_next_run_brings_it_there(
    site: Site, catalog: Catalog
) -> None:
    site.second.fails_to_distribute = True
    (failed,) = site.bake(catalog, "base", targets=["aws"])
    assert failed.outcome is Outcome.FAILED
    assert failed.error is not None
    assert failed.error.startswith("ec2:CopyImage to eu-north-1 was refused\nbase:1 is registered")
    assert "baker system sweep" in failed.error
    assert str(catalog.image("base", 1).status) == "registered"
    assert sweep_dead_bakes(catalog, site.providers, site.home).failed != ()
    site.second.fails_to_distribute = False
    assert tell(site.bake(catalog, "base", targets=["aws"])) == ["base aws unchanged base:1"]
    assert str(catalog.image("base", 1).status) == "available"
    assert site.second.launched == ["base"], "it was only distributed"
