"""What images hold, what they are built upon and how they differ: on both databases, against a naive look."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from baker.catalog import Catalog, finding
from baker.catalog.finding import Scope
from baker.comparing import compare_manifests
from baker.errors import BadReference, CatalogError
from baker.model import ImageStatus
from baker.versions import PackageQuestion
from tests.factories import (
    make_artifact,
    make_build,
    make_file,
    make_image,
    make_layer,
    make_package,
    make_provenance,
)

LOCAL, AWS = ("local", "amd64"), ("aws", "amd64")
VERSIONS = ("3.0.2", "3.0.9-1", "3.0.9-1+deb12u1", "3.0.15~rc1", "3.0.15", "3.1.0", "1:2.0")


@pytest.fixture
def catalog(catalog_url):
    with Catalog.open(catalog_url, actor="ann") as opened:
        yield opened


def bake(catalog, recipe, *, parent=None, source=None, packages=(), layers=(), available=True, **build):
    """An image, built upon another one's build where ``parent`` is given."""
    origin = make_provenance()
    if parent is not None:
        origin = replace(origin, source=source or f"{parent.recipe}:latest", parent_build=parent.builds[0].id)
    made = make_build(recipe, provenance=origin, **build)
    return make_image(catalog, recipe, build=made, packages=packages, layers=layers, available=available)


def grow(catalog, images=40):
    """Images of three recipes with packages by chance, some in channels, leased, revoked, deleted."""
    chance = random.Random(4)
    names = ("libssl3", "openssl", "zlib1g", "bash")
    for number in range(images):
        chosen = [
            make_package(name, version, source="openssl" if "ssl" in name else name, source_version=version)
            for name in chance.sample(names, chance.randrange(4))
            for version in [chance.choice(VERSIONS)]
        ]
        image = bake(catalog, chance.choice(("web", "base", "db")), packages=chosen)
        if number % 7 == 3:
            catalog.set_status(image.recipe, image.version, ImageStatus.DELETED, "old")
        elif number % 7 == 4:
            catalog.add_lease(image.recipe, image.version, owner="env:prod" if number % 2 else "ann")
        elif number % 7 == 5:
            catalog.promote(image.recipe, image.version, f"c{number}", expected_revision=None)


QUESTIONS = [
    "openssl",
    "openssl<3.0.15",
    "openssl>=3.0.9,<=3.0.15",
    "openssl!=3.0.15",
    "openssl=3.0.9*",
    "lib*<3.0.9-1+deb12u1",
    "*ss*>1:1.0",
    "zlib1g=1:2.0",
    "nothing",
    "bash>=1:2.0,<1:2.0",
]
SCOPES = [
    Scope(),
    Scope(limit=3),
    Scope(limit=100),
    Scope(held=True),
    Scope(held=True, limit=2),
    Scope(include_deleted=True),
    Scope(include_deleted=True, limit=4),
    Scope(recipe="web"),
    Scope(recipe="none", limit=2),
]


def take_stock(catalog):
    """Every image with its packages and whether somebody holds it, one by one; newest first."""
    leased = {(lease.recipe, lease.version) for lease in catalog.leases()}
    for image in catalog.images():
        inside = {package for build in image.builds for package in catalog.packages(build.id)}
        yield image, inside, bool(image.channels) or (image.recipe, image.version) in leased


def find_naively(stock, question, scope):
    found = []
    for image, inside, held in stock:
        matched = tuple(sorted(package for package in inside if question.is_met(package)))
        if (
            matched
            and (scope.include_deleted or image.status != ImageStatus.DELETED)
            and (held or not scope.held)
            and scope.recipe in (None, image.recipe)
        ):
            found.append((image.reference, image.status, image.channels, matched))
    return found


def tell(findings):
    return [(one.reference, one.status, one.channels, one.packages) for one in findings.images]


def test_packages_are_found_as_a_look_at_every_image_finds_them(catalog, monkeypatch):
    grow(catalog)
    stock = list(take_stock(catalog))
    monkeypatch.setattr(finding, "CHUNK", 7)
    for text in QUESTIONS:
        question = PackageQuestion.parse(text)
        for scope in SCOPES:
            expected = find_naively(stock, question, scope)
            findings = catalog.find_package(question, scope)
            assert tell(findings) == expected[: scope.limit], (text, scope)
            assert (findings.total, findings.exact) == (len(expected), True)


def test_total_that_takes_too_long_to_count_is_said_to_be_a_part(catalog, monkeypatch):
    grow(catalog, images=20)
    monkeypatch.setattr(finding, "COUNTED", 5)
    findings = catalog.find_package(PackageQuestion.parse("openssl"), Scope(limit=2))
    assert (len(findings.images), findings.total, findings.exact) == (2, 5, False)


def test_who_uses_an_image_is_said_with_it(catalog):
    image = bake(catalog, "web", packages=[make_package("openssl")])
    catalog.promote("web", 1, "prod", expected_revision=None)
    ended = catalog.add_lease("web", 1, owner="bob")
    catalog.add_lease("web", 1, owner="env:web-prod")
    catalog.release_lease(ended.id)
    (found,) = catalog.find_package(PackageQuestion.parse("openssl"), Scope()).images
    assert found.channels == ("latest", "prod")
    assert (found.leases, found.environments) == (("env:web-prod",), ("web-prod",))
    assert found.reference == image.reference


def test_versions_that_there_are_are_known(catalog):
    bake(catalog, "web", packages=[make_package("libssl3", "3", source="openssl"), make_package("bash")])
    assert [package.name for package in catalog.known_versions("openssl")] == ["libssl3"]
    assert catalog.known_versions("none") == []


# --- files and digests ------------------------------------------------------------------------------------


def make_folder(path):
    return make_file(path, kind="d", mode=0o755, digest="")


BELOW = make_layer(
    make_folder("/etc"), make_file("/etc/motd", "one"), make_file("/etc/issue", "old"), make_file("/x", "x")
)


def test_file_is_found_where_it_is_still_seen_and_as_it_is_there(catalog):
    bake(catalog, "base", layers=[BELOW])
    bake(catalog, "web", layers=[BELOW, make_layer(make_folder("/etc"), make_file("/etc/motd", "two"))])
    bake(catalog, "db", layers=[BELOW, make_layer(removed=["/etc"])])
    found = catalog.find_file("/etc/motd", Scope())
    assert [(one.reference, one.files[0].digest) for one in found.images] == [
        ("web:1", make_file("/", "two").digest),
        ("base:1", make_file("/", "one").digest),
    ]
    assert (found.total, found.exact) == (2, True)
    assert [one.reference for one in catalog.find_file("/x", Scope()).images] == ["db:1", "web:1", "base:1"]
    globbed = catalog.find_file("/etc/[im]*", Scope(recipe="base")).images
    assert [[file.path for file in one.files] for one in globbed] == [["/etc/issue", "/etc/motd"]]
    assert catalog.find_file("/none", Scope()).images == ()


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_files_are_looked_for_until_there_are_enough(catalog, monkeypatch, batch):
    monkeypatch.setattr(finding, "BATCH", batch)
    for number in range(5):
        bake(catalog, "web", layers=[BELOW, make_layer(make_file(f"/n{number % 2}", str(number)))])
    assert [one.version for one in catalog.find_file("/n0", Scope(limit=2)).images] == [5, 3]
    assert [one.version for one in catalog.find_file("/n?", Scope(limit=3)).images] == [5, 4, 3]
    assert catalog.find_file("/n0", Scope(limit=9)).total == 3


def test_damaged_layer_is_named(catalog):
    bake(catalog, "web", layers=[BELOW])
    catalog._write(lambda connection: connection.execute(finding.layers.update().values(content=b"damaged")))
    with pytest.raises(CatalogError, match=f"layer {BELOW.digest} is damaged"):
        catalog.find_file("/x", Scope())


def test_digest_is_said_to_be_of_a_build_an_artifact_a_layer_or_a_file(catalog):
    artifact = make_artifact(id="ami-0123", target="local")
    image = bake(catalog, "web", layers=[BELOW], artifacts=(artifact, make_artifact()))
    bake(catalog, "db", layers=[make_layer(make_file("/y"))])
    build = image.builds[0]

    def roles(digest):
        return [(one.reference, one.roles) for one in catalog.find_digest(digest, Scope()).images]

    assert roles(build.digest) == [("web:1", ("build for local/amd64",))]
    assert roles(build.digest[:19]) == roles(build.digest[7:19]) == roles(build.digest)
    assert roles("ami-0123") == [("web:1", ("artifact (layers) for local/amd64 in builder-1",))]
    assert roles(build.artifacts[1].id) == roles("ami-0123")
    assert roles(BELOW.digest) == [("web:1", ("layer for local/amd64",))]
    (found,) = catalog.find_digest(f"sha256:{make_file('/', 'old').digest}", Scope()).images
    assert [file.path for file in found.files] == ["/etc/issue"]
    assert roles("ami-none") == roles("sha256:" + "0" * 64) == []
    assert roles("sha256:%") == []


# --- comparing ------------------------------------------------------------------------------------------


def test_two_builds_compare_as_their_manifests_do(catalog):
    old = bake(
        catalog, "web", layers=[BELOW, make_layer(make_file("/x", "2"))], packages=[make_package("a", "1")]
    )
    new = bake(catalog, "web", layers=[BELOW, make_layer(removed=["/x"])], packages=[make_package("a", "2")])
    ids = [image.builds[0].id for image in (old, new)]
    assert catalog.compare(*ids) == compare_manifests(*map(catalog.manifest, ids))
    assert not catalog.compare(*ids).empty
    assert catalog.compare(ids[0], ids[0]).empty
    with pytest.raises(CatalogError, match="no build 01NONE"):
        catalog.compare(ids[0], "01NONE")


# --- families -----------------------------------------------------------------------------------------------


def draw(family):
    return {name: one.parents for name, one in family.items()}


def test_family_goes_up_to_the_root_and_down_to_every_version_built_upon_an_image(catalog):
    base = bake(catalog, "base")
    web = bake(catalog, "web", parent=base)
    app, again = bake(catalog, "app", parent=web), bake(catalog, "app", parent=web)
    bake(catalog, "db", parent=base)
    assert draw(catalog.family("web", 1)) == {
        "base:1": (),
        "web:1": ("base:1",),
        "app:1": ("web:1",),
        "app:2": ("web:1",),
    }
    assert set(catalog.family("web", 1, downwards=False)) == {"base:1", "web:1"}
    assert set(catalog.family("web", 1, upwards=False)) == {"web:1", app.reference, again.reference}
    assert set(catalog.family("base", 1)) == {"base:1", "web:1", "app:1", "app:2", "db:1"}
    with pytest.raises(BadReference, match="web has no version 7"):
        catalog.family("web", 7)


def test_outdated_is_what_its_source_would_no_longer_give(catalog):
    base = bake(catalog, "base")
    catalog.promote("base", 1, "prod", expected_revision=None)
    floating = bake(catalog, "web", parent=base)
    of_channel = bake(catalog, "db", parent=base, source="base:prod")
    pinned = bake(catalog, "app", parent=base, source="base:1")
    assert [one.newer for one in catalog.family("base", 1).values()] == [()] * 4
    bake(catalog, "base")
    family = catalog.family("base", 1)
    assert family[floating.reference].newer == ("base:2",)
    assert family[of_channel.reference].newer == family[pinned.reference].newer == ()
    catalog.promote("base", 2, "prod", expected_revision=1)
    assert catalog.family("base", 1)[of_channel.reference].newer == ("base:2",)


def test_issuing_the_parent_again_makes_nothing_outdated(catalog):
    base = bake(catalog, "base")
    bake(catalog, "web", parent=base)
    again = catalog.register(
        recipe="base", build=None, layers=(), packages=(), carry=[base.builds[0].id], wanted=[LOCAL]
    )
    catalog.make_available("base", again.version, {})
    family = catalog.family("web", 1)
    assert (family["web:1"].parents, family["web:1"].newer) == (("base:2",), ())
    assert draw(catalog.family("base", 1)) == {"base:1": (), "web:1": ("base:1",)}


def test_revoked_ancestor_is_named_all_the_way_down(catalog):
    base = bake(catalog, "base")
    bake(catalog, "app", parent=bake(catalog, "web", parent=base))
    catalog.revoke("base", 1, reason="bad")
    family = catalog.family("app", 1)
    assert family["base:1"].status == ImageStatus.REVOKED
    assert family["web:1"].revoked_ancestors == family["app:1"].revoked_ancestors == ("base:1",)
