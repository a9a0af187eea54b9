"""A lost catalog is restored from what artifacts tell: new ones everything, older ones what they carry."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from baker.catalog import Catalog
from baker.layer import Layer, encode_layer
from baker.manifest import fold_layers, manifest_digest
from baker.model import Artifact, Build, Image, ImageStatus, Manifest, Package, Reference
from baker.providers.local.provider import LocalProvider
from baker.rebuild import Fate, Restoration, rebuild_catalog
from baker.sidecar import Issue, Sidecar, Unreadable
from baker.sweep import image_labels
from baker.teardown import Teardown
from tests.e2e.project import Project, make_project
from tests.factories import (
    NOON,
    make_artifact,
    make_build,
    make_file,
    make_layer,
    make_package,
    make_provenance,
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def provider(home: Path) -> LocalProvider:
    provider = LocalProvider(home)
    provider.store.create()
    return provider


@pytest.fixture
def new_catalog_url(new_url: Any) -> str:
    return str(new_url("sqlite"))


def put_layer(provider: LocalProvider, name: str, *below: str) -> Layer:
    """A layer in the store that holds one file; what it consists of is not looked at here."""
    content = f"{name} {below}".encode()
    digest = hashlib.sha256(content).hexdigest()
    (provider.store.layers / f"{digest}.erofs").write_bytes(content)
    layer = make_layer(make_file(f"/{name}"), digest=f"sha256:{digest}")
    (provider.store.layers / f"{digest}.files").write_bytes(encode_layer(layer))
    return layer


def bake(
    catalog: Catalog,
    provider: LocalProvider,
    recipe: str,
    stack: list[Layer],
    *,
    old: bool = False,
    packages: tuple[Package, ...] = (),
    preview: str | None = None,
    **changes: Any,
) -> Image:
    """What a bake of this stack writes down; ``old``: as the first release did."""
    packages = packages or (make_package("libc6"), make_package(recipe))
    values = {"image_tests": {"test:test_image.py": "v1"}, **changes}
    digest = manifest_digest(Manifest(packages=packages, files=fold_layers(stack)))
    build = make_build(recipe, arch=provider.arch, digest=digest, **values)
    details = {"bake": build.id, "bootstrap": "debian:trixie", "epoch": 1}
    rows = [{field: getattr(package, field) for field in package.__slots__} for package in packages]
    chain = [layer.digest for layer in stack]
    artifact = provider.store.write_artifact(chain, {**details, "packages": rows})
    size = sum(provider.store.layer_size(digest) for digest in chain)
    made = make_artifact(id=artifact, arch=provider.arch, store=provider.store_name, size_bytes=size)
    build = make_build(
        recipe, arch=provider.arch, id=build.id, digest=digest, size_bytes=size, artifacts=(made,), **values
    )
    return distribute(catalog, provider, build, stack, packages, old=old, preview=preview)


def distribute(
    catalog: Catalog,
    provider: LocalProvider,
    build: Build,
    stack: list[Layer],
    packages: tuple[Package, ...],
    *,
    old: bool = False,
    again: bool = False,
    preview: str | None = None,
) -> Image:
    place = (build.target, build.arch)
    image = catalog.register(
        recipe=build.recipe,
        build=None if again else build,
        layers=() if again else stack,
        packages=() if again else packages,
        carry=[build.id] if again else [],
        wanted=[place],
        preview=preview,
    )
    labels = image_labels(image, build.id)
    if old:
        del labels["wanted"]
    artifacts = provider.distribute(build, labels, Teardown(build.id, None))
    if old:
        path = provider.store.artifacts / f"{build.artifacts[0].id.removeprefix('sha256:')}.json"
        found = json.loads(path.read_text())
        del found["builds"]
        path.write_text(json.dumps(found))
    return catalog.make_available(image.recipe, image.version, {build.id: artifacts})


def rebuild(catalog: Catalog, provider: LocalProvider, *, dry_run: bool = False) -> list[Restoration]:
    return rebuild_catalog(catalog, provider, dry_run=dry_run, report=lambda _: None)


def fates(done: list[Restoration]) -> list[tuple[str, str]]:
    return [(one.image, str(one.fate)) for one in done]


def bake_three(url: str, provider: LocalProvider) -> list[Image]:
    """base:1, web:1 upon it, and web:2, which is another build that came to the same layers."""
    with Catalog.open(url, actor="ann") as catalog:
        base, web = put_layer(provider, "base"), put_layer(provider, "web")
        first = bake(catalog, provider, "base", [base])
        odd = make_provenance(
            parent_build=first.builds[0].id, inputs={"file:caf\udce9": "absent"}, commit="c0ffee", dirty=True
        )
        bake(catalog, provider, "web", [base, web], provenance=odd)
        bake(catalog, provider, "web", [base, web])
        return catalog.images()


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_everything_about_images_comes_back(
    new_url: Any, new_catalog_url: str, provider: LocalProvider, engine: str
) -> None:
    before = bake_three(new_catalog_url, provider)
    with (
        Catalog.open(new_catalog_url, actor="ann") as lost,
        Catalog.open(new_url(engine), actor="bob") as catalog,
    ):
        assert fates(rebuild(catalog, provider, dry_run=True)) == [
            ("base:1", "restored"),
            ("web:1", "restored"),
            ("web:2", "restored"),
        ]
        assert catalog.images() == []
        assert fates(rebuild(catalog, provider)) == [
            ("base:1", "restored"),
            ("web:1", "restored"),
            ("web:2", "restored"),
        ]
        after = catalog.images()
        assert [(image.reference, image.status, image.complete) for image in after] == [
            ("web:2", ImageStatus.AVAILABLE, True),
            ("web:1", ImageStatus.AVAILABLE, True),
            ("base:1", ImageStatus.AVAILABLE, True),
        ]
        assert [image.builds for image in after] == [image.builds for image in before]
        for image in after:
            build = image.builds[0]
            assert catalog.manifest(build.id) == lost.manifest(build.id)
            assert manifest_digest(catalog.manifest(build.id)) == build.digest
        assert catalog.resolve(Reference(recipe="web")).version == 2
        assert fates(rebuild(catalog, provider)) == [
            ("base:1", "known"),
            ("web:1", "known"),
            ("web:2", "known"),
        ]
        assert catalog.images() == after
        assert catalog.recipes() == ["base", "web"]


def test_versions_go_on_after_what_was_restored(
    new_url: Any, new_catalog_url: str, provider: LocalProvider
) -> None:
    bake_three(new_catalog_url, provider)
    with Catalog.open(new_url("sqlite"), actor="bob") as catalog:
        rebuild(catalog, provider)
        image = bake(catalog, provider, "web", [put_layer(provider, "other")])
        assert image.reference == "web:3"


def test_build_that_was_issued_again_comes_back_in_both_versions(
    new_url: Any, new_catalog_url: str, provider: LocalProvider
) -> None:
    with Catalog.open(new_catalog_url, actor="ann") as lost:
        stack = [put_layer(provider, "web")]
        build = bake(lost, provider, "web", stack).builds[0]
        bake(lost, provider, "web", [put_layer(provider, "other")])
        distribute(lost, provider, build, stack, (), again=True)
    with Catalog.open(new_url("sqlite"), actor="bob") as catalog:
        rebuild(catalog, provider)
        images = catalog.images("web")
        assert [image.version for image in images] == [3, 2, 1]
        assert images[0].builds == images[2].builds == (build,)
        assert catalog.usable_builds("web", "local", provider.arch)[0] == build


def test_preview_comes_back_as_nobodys_latest(
    new_url: Any, new_catalog_url: str, provider: LocalProvider
) -> None:
    with Catalog.open(new_catalog_url, actor="ann") as lost:
        bake(lost, provider, "web", [put_layer(provider, "main")])
        stack = [put_layer(provider, "branch")]
        build = bake(lost, provider, "web", stack, preview="pr-1").builds[0]
        bake(lost, provider, "web", [put_layer(provider, "other")], preview="pr-2")
        distribute(lost, provider, build, stack, (), again=True)
    with Catalog.open(new_url("sqlite"), actor="bob") as catalog:
        rebuild(catalog, provider)
        restored = [(image.version, image.preview) for image in catalog.images("web")]
        assert restored == [(4, None), (3, "pr-2"), (2, "pr-1"), (1, None)]
        assert catalog.resolve(Reference.parse("web")).version == 4
        assert catalog.resolve(Reference.parse("web"), preview="pr-2").version == 3


def test_older_artifacts_restore_what_they_carry(
    new_url: Any, new_catalog_url: str, provider: LocalProvider
) -> None:
    with Catalog.open(new_catalog_url, actor="ann") as lost:
        base, web = put_layer(provider, "base"), put_layer(provider, "web")
        first = bake(lost, provider, "base", [base], old=True).builds[0]
        second = bake(lost, provider, "web", [base, web], old=True).builds[0]
    with Catalog.open(new_url("sqlite"), actor="bob") as catalog:
        done = rebuild(catalog, provider)
        assert {one.missing for one in done} == {("provenance", "inputs", "image tests")}
        assert all("inputs" in one.detail for one in done)
        image = catalog.resolve(Reference(recipe="web", version=1))
        build = image.builds[0]
        assert (build.id, build.digest, build.fingerprint) == (second.id, second.digest, second.fingerprint)
        assert build.artifacts == second.artifacts
        assert (build.provenance.parent_build, build.provenance.source_digest) == (first.id, first.digest)
        assert build.provenance.source == "base"
        assert build.image_tests is None
        assert [package.name for package in catalog.packages(build.id)] == ["libc6", "web"]


def test_older_artifact_that_is_issued_again_keeps_its_first_version(
    new_url: Any, new_catalog_url: str, provider: LocalProvider
) -> None:
    with Catalog.open(new_catalog_url, actor="ann") as lost:
        stack = [put_layer(provider, "web")]
        build = bake(lost, provider, "web", stack, old=True).builds[0]
        distribute(lost, provider, build, stack, (), again=True)
    with Catalog.open(new_url("sqlite"), actor="bob") as catalog:
        rebuild(catalog, provider)
        assert [(image.version, image.builds) for image in catalog.images()] == [(2, (build,)), (1, (build,))]


def test_version_that_holds_another_build_is_never_overwritten(
    new_url: Any, new_catalog_url: str, provider: LocalProvider, home: Path
) -> None:
    bake_three(new_catalog_url, provider)
    other = LocalProvider(home.with_name("other"))
    other.store.create()
    with Catalog.open(new_url("sqlite"), actor="bob") as catalog:
        kept = bake(catalog, other, "web", [put_layer(other, "mine")])
        done = rebuild(catalog, provider)
        assert fates(done) == [("base:1", "restored"), ("web:1", "taken"), ("web:2", "restored")]
        assert kept.builds[0].id in done[1].detail
        assert catalog.image("web", 1).builds == kept.builds


def test_state_that_the_catalog_gave_an_image_stays(new_catalog_url: str, provider: LocalProvider) -> None:
    bake_three(new_catalog_url, provider)
    with Catalog.open(new_catalog_url, actor="ann") as catalog:
        catalog.set_status("web", 1, ImageStatus.REVOKED, "bad")
        rebuild(catalog, provider)
        assert catalog.image("web", 1).status is ImageStatus.REVOKED


def test_what_is_damaged_is_named_and_the_rest_restored(
    new_url: Any, new_catalog_url: str, provider: LocalProvider
) -> None:
    with Catalog.open(new_catalog_url, actor="ann") as lost:
        stacks = {
            name: [put_layer(provider, name)] for name in ("gone", "unlisted", "changed", "good", "torn")
        }
        for name, stack in stacks.items():
            bake(lost, provider, name, stack)

    def of_layer(name: str, suffix: str) -> Path:
        return provider.store.layers / f"{stacks[name][0].digest.removeprefix('sha256:')}{suffix}"

    of_layer("gone", ".erofs").unlink()
    of_layer("unlisted", ".files").unlink()
    of_layer("changed", ".files").write_bytes(encode_layer(make_layer(make_file("/forged"))))
    with Catalog.open(new_catalog_url, actor="ann") as lost:
        torn = lost.image("torn", 1).builds[0].artifacts[0].id.removeprefix("sha256:")
    (provider.store.artifacts / f"{torn}.json").write_text("{")
    provider.store.write_artifact(
        [stacks["good"][0].digest, "sha256:ab"], {"bake": "captured, not registered"}
    )
    with Catalog.open(new_url("sqlite"), actor="bob") as catalog:
        done = rebuild(catalog, provider)
        assert [image.reference for image in catalog.images()] == ["good:1"]
    damaged = {one.image: one.detail for one in done if one.fate is Fate.DAMAGED}
    assert len(damaged) == len(done) - 1 == 4
    assert "is not in the store" in damaged["unlisted:1"]
    assert "do not come to its digest" in damaged["changed:1"]
    assert "is damaged" in damaged[f"sha256:{torn}"]


def test_rebuild_by_commands(home: Path, tmp_path: Path, provider: LocalProvider) -> None:
    project: Project = make_project(tmp_path / "project", home)
    url = f"sqlite:///{home}/catalog.db"
    bake_three(url, provider)
    listed = project.json("image", "ls")
    for path in home.glob("catalog.db*"):
        path.unlink()
    forecast = project.run("catalog", "rebuild", "--from", "local", "--dry-run")
    assert forecast.stdout.splitlines()[0].split() == ["base:1", "would", "be", "restored"]
    assert "channels and their history" in forecast.stderr
    assert not (home / "catalog.db").exists()
    done = project.run("catalog", "rebuild", "--from", "local")
    assert done.stdout.splitlines() == [
        "base:1           restored",
        "web:1            restored",
        "web:2            restored",
    ]
    assert project.json("image", "ls")["images"][0]["builds"] == listed["images"][0]["builds"]
    again = project.json("catalog", "rebuild", "--from", "local")
    assert [row["fate"] for row in again["builds"]] == ["known"] * 3
    assert again["catalog"] == f"sqlite {home}/catalog.db"
    assert (
        "the target aws is not configured"
        in project.run("catalog", "rebuild", "--from", "aws", status=2).stderr
    )
    (provider.store.artifacts / "ff.json").write_text("{")
    assert "damaged" in project.run("catalog", "rebuild", "--from", "local", status=1).stdout


@pytest.mark.machine
@pytest.mark.slow
def test_after_a_rebuild_nothing_has_to_be_baked_again(tmp_path: Path, shared_home: Path) -> None:
    project = make_project(tmp_path / "project", shared_home)
    project.environ["BAKER_CATALOG"] = f"sqlite:///{tmp_path}/catalog.db"
    project.recipe("rebuilt", test='def test_it(host): assert host.file("/srv/made").exists')
    assert project.bake("rebuilt")[0]["outcome"] == "baked"
    shown = project.json("image", "show", "rebuilt")
    project.environ["BAKER_CATALOG"] = f"sqlite:///{tmp_path}/new.db"
    project.run("catalog", "rebuild", "--from", "local")
    after = project.json("image", "show", "rebuilt")
    assert after["builds"] == shown["builds"]
    assert [result["outcome"] for result in project.bake("rebuilt")] == ["unchanged"]
    assert project.run("run", "rebuilt", "--", "ls", "/srv").stdout == "made\n"


# --- artifacts that do not tell what is inside ----------------------------------------------------------


class Tags:
    """A provider whose artifacts carry tags, which are too small for packages and files."""

    def __init__(self, build: Build) -> None:
        self.build = build

    def sidecars(self) -> list[Sidecar | Unreadable]:
        wanted = (("local", "x86_64"), ("aws", "x86_64"))
        issue = Issue(version=4, at=NOON, wanted=wanted)
        return [Sidecar(build=self.build, issues=(issue,), missing=("inputs",))]

    def read_contents(self, artifact: Artifact) -> None:
        assert artifact.kind == "ami"


def test_build_whose_artifact_does_not_tell_its_contents_is_restored_without_them(
    new_catalog_url: str,
) -> None:
    artifacts = [
        make_artifact(target="aws", kind="ami", store=region) for region in ("eu-west-1", "eu-north-1")
    ]
    build = make_build("web", "aws", "x86_64", artifacts=tuple(artifacts))
    with Catalog.open(new_catalog_url, actor="ann") as catalog:
        (done,) = rebuild_catalog(catalog, Tags(build), dry_run=False, report=lambda _: None)
        assert (done.image, str(done.fate)) == ("web:4", "restored")
        assert done.missing == ("inputs", "packages", "files")
        assert done.detail == "not in its artifact: inputs, packages, files"
        image = catalog.image("web", 4)
        assert (image.builds, image.complete) == ((build,), False)
        assert catalog.packages(build.id) == ()
        (again,) = rebuild_catalog(catalog, Tags(build), dry_run=False, report=lambda _: None)
        assert str(again.fate) == "known"
