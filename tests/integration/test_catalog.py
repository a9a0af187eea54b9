"""The catalog on real SQLite files: what is registered, found, promoted and refused."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, update

from baker.catalog import Catalog, schema
from baker.errors import BadReference, CatalogError, ConflictError, UsageError
from baker.manifest import manifest_digest
from baker.model import ImageStatus, Manifest, Outcome, Reference, Stage
from baker.teardown import Teardown
from tests.factories import (
    NOON,
    make_artifact,
    make_bake_id,
    make_build,
    make_digest,
    make_file,
    make_image,
    make_layer,
    make_package,
    make_provenance,
    make_resource,
)

LOCAL, AWS = ("local", "amd64"), ("aws", "amd64")


class Clock:
    """Ticks a second at every look."""

    def __init__(self):
        self.now = NOON

    def __call__(self):
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/home/catalog.db"


@pytest.fixture
def catalog(url):
    with Catalog.open(url, actor="ann", clock=Clock()) as opened:
        yield opened


def resolve(catalog, text, **options):
    return catalog.resolve(Reference.parse(text), **options).reference


# --- registering --------------------------------------------------------------------------------


def test_registered_build_comes_back_as_it_was_given(catalog):
    provenance = make_provenance(
        inputs={"file:templates/site.j2": make_digest("a"), "env:LANG": "absent"},
        commit="c0ffee",
        dirty=True,
        opaque="it ran git",
        parent_build="01JPARENT",
        tools={"pyinfra": "3.10", "seal": "1"},
    )
    artifact = make_artifact(details={"chain": ["a", "b"], "nested": {"größe": 1}}, size_bytes=5 << 32)
    build = make_build(provenance=provenance, artifacts=(artifact,), size_bytes=5 << 32)
    image = make_image(catalog, build=build, available=False)
    assert (image.reference, image.status, image.complete) == ("web:1", ImageStatus.REGISTERED, True)
    assert image.builds == (build,)
    assert catalog.image("web", 1) == image == catalog.images()[0] == catalog.images("web")[0]
    assert catalog.has_build(build.id)
    assert not catalog.has_build("01JOTHER")


def test_versions_count_per_recipe(catalog):
    references = [make_image(catalog, recipe).reference for recipe in ("web", "base", "web", "web")]
    assert references == ["web:1", "base:1", "web:2", "web:3"]
    assert [image.reference for image in catalog.images()] == ["web:3", "web:2", "base:1", "web:1"]
    assert [image.reference for image in catalog.images("web")] == ["web:3", "web:2", "web:1"]
    assert catalog.recipes() == ["base", "web"]


def test_version_of_a_deleted_image_is_not_used_again(catalog):
    make_image(catalog)
    catalog.set_status("web", 1, ImageStatus.DELETED)
    assert make_image(catalog).version == 2


def test_build_of_a_missing_target_joins_the_incomplete_version(catalog):
    wanted = [LOCAL, AWS]
    first = make_image(catalog, wanted=wanted)
    assert not first.complete
    joined = make_image(catalog, build=make_build(target="aws"), wanted=wanted)
    assert (joined.reference, joined.complete) == ("web:1", True)
    assert {(build.target, build.arch) for build in joined.builds} == {LOCAL, AWS}


def test_build_of_the_same_target_starts_a_version_though_the_newest_is_incomplete(catalog):
    make_image(catalog, wanted=[LOCAL, AWS])
    again = make_image(catalog, wanted=[LOCAL, AWS])
    assert (again.reference, again.complete) == ("web:2", False)


def test_complete_version_is_not_joined_when_the_recipe_gets_another_target(catalog):
    local = make_build()
    make_image(catalog, build=local, wanted=[LOCAL])
    image = make_image(catalog, build=make_build(target="aws"), carry=[local.id], wanted=[LOCAL, AWS])
    assert (image.reference, image.complete) == ("web:2", True)
    assert image.build_for(*LOCAL) == local


def test_build_that_is_issued_again_joins_the_version_that_lacks_one_for_its_place(catalog):
    local = make_build()
    make_image(catalog, build=local, wanted=[LOCAL])
    assert catalog.waiting_version("web", *LOCAL) is None
    make_image(catalog, build=make_build(target="aws"), wanted=[LOCAL, AWS])
    assert catalog.waiting_version("web", *LOCAL) == "web:2"
    assert catalog.waiting_version("web", *AWS) is None
    again = catalog.register(
        recipe="web", build=None, layers=(), packages=(), carry=[local.id], wanted=[LOCAL, AWS]
    )
    assert (again.reference, again.complete) == ("web:2", True)
    assert again.build_for(*LOCAL) == local
    assert catalog.waiting_version("web", *LOCAL) is None


def test_latest_for_one_target_does_not_wait_for_another(catalog):
    complete = make_image(catalog, wanted=[LOCAL])
    newer = make_image(catalog, wanted=[LOCAL, AWS])
    latest = Reference(recipe="web")
    assert catalog.resolve(latest) == complete
    assert catalog.resolve(latest, place=LOCAL) == newer
    with pytest.raises(BadReference) as caught:
        catalog.resolve(latest, place=AWS)
    assert str(caught.value) == (
        "web has no available version with a build for aws/amd64 (newest is web:2, available, incomplete)"
    )
    aws = make_build(target="aws")
    make_image(catalog, build=aws, wanted=[LOCAL, AWS], available=False)
    with pytest.raises(BadReference):
        catalog.resolve(latest, place=AWS)  # it is not distributed yet
    catalog.deprecate("web", 2)
    assert catalog.resolve(latest, place=LOCAL).version == 1, "as latest is the newest that is not deprecated"


@pytest.mark.parametrize("status", [ImageStatus.REVOKED, ImageStatus.DELETED])
def test_withdrawn_version_is_not_joined(catalog, status):
    make_image(catalog, wanted=[LOCAL, AWS])
    catalog.set_status("web", 1, status, "bad")
    assert make_image(catalog, build=make_build(target="aws"), wanted=[LOCAL, AWS]).version == 2


def test_carried_build_is_in_both_versions_and_stays_usable_at_once(catalog):
    local, aws = make_build(), make_build(target="aws")
    make_image(catalog, build=local, wanted=[LOCAL, AWS])
    make_image(catalog, build=aws, wanted=[LOCAL, AWS])
    newer = make_build(created=NOON + timedelta(hours=1))
    second = make_image(catalog, build=newer, carry=[aws.id, local.id], wanted=[LOCAL, AWS])
    assert (second.reference, second.complete) == ("web:2", True)
    assert second.builds == (aws, newer)
    assert catalog.image("web", 1).builds == (aws, local)
    assert catalog.usable_builds("web", *LOCAL) == [newer, local]
    assert catalog.usable_builds("web", *AWS) == [aws]
    assert resolve(catalog, "web") == "web:2"


def test_earlier_build_is_issued_again_as_a_new_version(catalog):
    build = make_build()
    make_image(catalog, build=build)
    make_image(catalog)
    image = catalog.register(
        recipe="web", build=None, layers=(), packages=(), carry=[build.id], wanted=[LOCAL]
    )
    assert (image.reference, image.status, image.builds) == ("web:3", ImageStatus.REGISTERED, (build,))
    assert catalog.make_available("web", 3, {build.id: build.artifacts}).builds == (build,)
    assert resolve(catalog, "web") == "web:3"


def test_build_that_is_issued_again_is_the_newest(catalog):
    first, second = make_build(), make_build(created=NOON + timedelta(hours=1))
    make_image(catalog, build=first)
    make_image(catalog, build=second)
    catalog.register(recipe="web", build=None, layers=(), packages=(), carry=[first.id], wanted=[LOCAL])
    catalog.make_available("web", 3, {first.id: first.artifacts})
    assert catalog.usable_builds("web", *LOCAL) == [first, second]


def test_build_of_a_clock_that_was_ahead_is_not_the_newest_for_ever(catalog):
    ahead, right = make_build(created=NOON + timedelta(days=400)), make_build()
    make_image(catalog, build=ahead)
    make_image(catalog, build=right)
    assert catalog.usable_builds("web", *LOCAL) == [right, ahead]


def test_build_that_is_registered_twice_keeps_its_version(catalog):
    build = make_build()
    first = make_image(catalog, build=build)
    make_image(catalog)
    assert make_image(catalog, build=build, available=False).reference == first.reference
    assert len(catalog.images()) == 2


@pytest.mark.parametrize("carry", ["01JNOBODY", "base"])
def test_carried_build_must_be_there_and_of_this_recipe(catalog, carry):
    base = make_build("base")
    make_image(catalog, "base", build=base)
    with pytest.raises(CatalogError, match=r"no build 01JNOBODY|is one of base"):
        make_image(catalog, carry=[base.id if carry == "base" else carry])
    assert catalog.images("web") == []
    assert make_image(catalog).version == 1


def test_version_without_a_build_is_a_mistake_of_the_caller(catalog):
    with pytest.raises(ValueError, match="needs a build"):
        catalog.register(recipe="web", build=None, layers=(), packages=(), carry=[], wanted=[])
    with pytest.raises(ValueError, match="of base"):
        catalog.register(recipe="web", build=make_build("base"), layers=(), packages=(), carry=[], wanted=[])


# --- becoming available, and what becomes of it --------------------------------------------------------


def test_distribution_adds_artifacts_and_replaces_what_it_names_again(catalog):
    first, second = make_artifact(store="eu-west-1"), make_artifact(store="eu-north-1")
    build = make_build(artifacts=(first,))
    make_image(catalog, build=build, available=False)
    assert catalog.usable_builds("web", *LOCAL) == []
    image = catalog.make_available("web", 1, {build.id: [replace(first, size_bytes=7), second]})
    assert image.status is ImageStatus.AVAILABLE
    assert image.builds[0].artifacts == (replace(first, size_bytes=7), second)
    assert catalog.make_available("web", 1, {build.id: [second]}) == image
    assert [found.id for found in catalog.usable_builds("web", *LOCAL)] == [build.id]


def test_joined_version_is_latest_only_when_the_new_build_is_distributed(catalog):
    wanted = [LOCAL, AWS]
    local, aws = make_build(), make_build(target="aws")
    make_image(catalog, build=local, wanted=wanted)
    joined = make_image(catalog, build=aws, wanted=wanted, available=False)
    assert (joined.status, joined.complete, joined.channels) == (ImageStatus.AVAILABLE, True, ())
    assert catalog.unfinished() == [(joined, (aws,))]
    assert catalog.usable_builds("web", *LOCAL) == [local]
    assert catalog.usable_builds("web", *AWS) == []
    with pytest.raises(CatalogError, match="web:1 cannot be promoted: it is not yet distributed"):
        catalog.promote("web", 1, "prod", expected_revision=None)
    assert catalog.make_available("web", 1, {aws.id: aws.artifacts}).channels == ("latest",)
    assert catalog.unfinished() == []


def test_artifacts_of_a_build_that_the_version_does_not_hold_are_refused(catalog):
    make_image(catalog)
    other = make_build()
    make_image(catalog, build=other)
    with pytest.raises(CatalogError, match=f"web:1 does not hold the build {other.id}"):
        catalog.make_available("web", 1, {other.id: []})


@pytest.mark.parametrize("status", [ImageStatus.REVOKED, ImageStatus.DELETED])
def test_image_that_was_withdrawn_meanwhile_does_not_become_available(catalog, status):
    build = make_build()
    make_image(catalog, build=build, available=False)
    catalog.set_status("web", 1, status, "CVE-2025-1")
    with pytest.raises(ConflictError, match=rf"web:1 was {status} meanwhile by ann: CVE-2025-1"):
        catalog.make_available("web", 1, {build.id: [make_artifact(store="elsewhere")]})
    assert catalog.image("web", 1).builds == (build,)


def test_deprecated_image_stays_deprecated_and_its_build_usable(catalog):
    build = make_build()
    make_image(catalog, build=build)
    catalog.set_status("web", 1, ImageStatus.DEPRECATED, "web:2 is coming")
    image = catalog.make_available("web", 1, {build.id: []})
    assert (image.status, image.status_reason) == (ImageStatus.DEPRECATED, "web:2 is coming")
    assert catalog.usable_builds("web", *LOCAL) == [build]
    assert resolve(catalog, "web:1") == "web:1"


def test_deleted_image_does_not_come_back(catalog):
    make_image(catalog)
    catalog.set_status("web", 1, ImageStatus.DELETED)
    with pytest.raises(ConflictError, match="web:1 was deleted by ann: it cannot become available"):
        catalog.set_status("web", 1, ImageStatus.AVAILABLE)


def test_revoked_image_is_restored(catalog):
    make_image(catalog)
    catalog.set_status("web", 1, ImageStatus.REVOKED, "CVE-2025-1")
    assert catalog.usable_builds("web", *LOCAL) == []
    assert catalog.set_status("web", 1, ImageStatus.AVAILABLE).status_reason is None
    assert resolve(catalog, "web") == "web:1"


# --- manifests ------------------------------------------------------------------------------------


def test_manifest_is_what_the_layers_and_packages_come_to(catalog):
    folders = [make_file(path, kind="d", mode=0o755) for path in ("/etc", "/srv")]
    below = make_layer(*folders, make_file("/etc/a", "1"), make_file("/srv/x", "old"))
    odd = make_file("/etc/\udcff\n", "2", xattrs=(("security.capability", "00ff"),), mode=0o4755)
    above = make_layer(odd, make_file("/srv", kind="l", link="/mnt"), removed=["/etc/a"])
    packages = [make_package("nginx"), make_package("bash", "5.2"), make_package("bash", "5.2", arch="i386")]
    build = make_build()
    make_image(catalog, build=build, layers=[below, above], packages=packages)
    manifest = catalog.manifest(build.id)
    assert [file.path for file in manifest.files] == ["/etc", "/etc/\udcff\n", "/srv"]
    assert manifest.files[1] == odd
    assert manifest.packages == catalog.packages(build.id) == tuple(sorted(packages))
    assert manifest_digest(manifest) == manifest_digest(
        Manifest(packages=tuple(packages), files=manifest.files[::-1])
    )


def test_layers_and_packages_that_are_known_are_not_stored_twice(catalog):
    base = make_layer(make_file("/a", "1"))
    builds = [make_build() for _ in range(3)]
    for build in builds:
        top = make_layer(make_file("/b", build.id))
        make_image(catalog, build=build, layers=[base, top], packages=[make_package("p"), make_package("q")])
    assert [len(catalog.manifest(build.id).files) for build in builds] == [2, 2, 2]
    assert count_rows(catalog, schema.layers) == 4
    assert count_rows(catalog, schema.packages) == 2
    assert count_rows(catalog, schema.build_packages) == 6


def test_same_layer_lies_upon_different_ones(catalog):
    same = make_layer(make_file("/same"), digest=make_digest("same"))
    builds = []
    for name in ("/a", "/b"):
        builds.append(make_build())
        make_image(catalog, build=builds[-1], layers=[make_layer(make_file(name)), same])
    paths = [[file.path for file in catalog.manifest(build.id).files] for build in builds]
    assert paths == [["/a", "/same"], ["/b", "/same"]]


def test_thousands_of_packages_are_registered(catalog):
    packages = [make_package(f"package-{number}") for number in range(2500)]
    builds = [make_build(), make_build()]
    make_image(catalog, build=builds[0], packages=packages[:1200])
    make_image(catalog, build=builds[1], packages=[*packages, packages[0]])
    assert catalog.packages(builds[0].id) == tuple(sorted(packages[:1200]))
    assert catalog.packages(builds[1].id) == tuple(sorted(packages))


def test_unknown_build_has_no_manifest(catalog):
    with pytest.raises(CatalogError, match="the catalog has no build 01JNOBODY"):
        catalog.manifest("01JNOBODY")


def test_damaged_file_list_is_reported_with_its_layer(catalog):
    build, layer = make_build(), make_layer(make_file("/a"))
    make_image(catalog, build=build, layers=[layer])
    damage = update(schema.layers).values(content=b"\x00\xff")
    catalog._database.write(lambda connection: connection.execute(damage))
    with pytest.raises(CatalogError, match=f"file list of layer {layer.digest} is damaged"):
        catalog.manifest(build.id)


def test_row_that_others_refer_to_cannot_go(catalog):
    make_image(catalog)
    with pytest.raises(CatalogError, match=r"(?i)foreign key"):
        catalog._database.write(lambda connection: connection.execute(delete(schema.recipes)))
    assert catalog.recipes() == ["web"]


def count_rows(catalog, table):
    return catalog._database.read(
        lambda connection: connection.execute(select(func.count()).select_from(table)).scalar()
    )


segments = st.sampled_from(["a", "b", "ab", "a b", "ü"])
paths = st.lists(segments, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
deltas = st.lists(
    st.tuples(st.sets(paths, max_size=3), st.dictionaries(paths, st.sampled_from("fdl"), max_size=6)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deltas=deltas)
def test_manifest_of_any_stack_is_what_a_dict_says(catalog, deltas):
    expected, stack = {}, []
    for removed, kinds in deltas:
        files = [make_file(path, kind, kind=kind) for path, kind in kinds.items()]
        stack.append(
            make_layer(
                *files, removed=sorted(removed), digest=make_digest(repr((removed, kinds, len(stack))))
            )
        )
        replaced = {path for path, kind in kinds.items() if kind != "d"}
        hidden = {path for path in replaced if path in expected and expected[path].kind == "d"}
        for gone in removed | hidden:
            for path in list(expected):
                if path == gone or path.startswith(f"{gone}/"):
                    del expected[path]
        expected |= {file.path: file for file in files}
    build = make_build()
    make_image(catalog, build=build, layers=stack)
    assert catalog.manifest(build.id).files == tuple(expected[path] for path in sorted(expected))


# --- references -----------------------------------------------------------------------------------


def test_reference_is_a_version_a_channel_or_a_digest(catalog):
    digests = ["sha256:aaaa" + "0" * 60, "sha256:aabb" + "0" * 60]
    for digest in digests:
        make_image(catalog, build=make_build(digest=digest))
    catalog.promote("web", 1, "prod", expected_revision=None)
    assert resolve(catalog, "web:1") == resolve(catalog, "web:prod") == "web:1"
    assert resolve(catalog, "web@sha256:aaaa") == resolve(catalog, f"web@{digests[0]}") == "web:1"
    assert resolve(catalog, "web@sha256:aabb") == "web:2"
    assert resolve(catalog, "web") == resolve(catalog, "web:latest") == "web:2"


def test_latest_is_the_newest_complete_version_that_is_available(catalog):
    for _ in range(5):
        make_image(catalog)
    catalog.set_status("web", 5, ImageStatus.DELETED)
    catalog.set_status("web", 4, ImageStatus.DEPRECATED)
    catalog.set_status("web", 3, ImageStatus.REVOKED)
    make_image(catalog, wanted=[LOCAL, AWS])
    make_image(catalog, available=False)
    assert resolve(catalog, "web") == "web:2"
    assert [image.channels for image in catalog.images("web")][-2:] == [("latest",), ()]
    assert [image.reference for image in catalog.images() if "latest" in image.channels] == ["web:2"]


def test_digest_that_two_versions_hold_means_the_newest_usable_one(catalog):
    digest = make_digest("same")
    for _ in range(3):
        make_image(catalog, build=make_build(digest=digest))
    catalog.set_status("web", 3, ImageStatus.REVOKED)
    assert resolve(catalog, f"web@{digest}") == "web:2"


def test_ambiguous_digest_lists_what_it_may_be(catalog):
    for last in "12":
        make_image(catalog, build=make_build(digest=f"sha256:abcd{'0' * 59}{last}"))
    with pytest.raises(BadReference) as caught:
        resolve(catalog, "web@sha256:abcd")
    first, second = (f"sha256:abcd{'0' * 59}{last}" for last in "12")
    assert str(caught.value) == f"web@sha256:abcd is more than one: {first}, {second}"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("wbe", "the catalog has no image of wbe; did you mean web?", "baker image ls"),
        ("zzz:7", "the catalog has no image of zzz", "baker image ls"),
        ("web:31", "web has no version 31 (newest is 2)", "baker image ls web"),
        ("web:prd", "web has no channel prd; did you mean prod?", "baker image ls web"),
        ("web:qa", "web has no channel qa (it has prod, staging)", "baker image ls web"),
        ("web@sha256:fffffff", "web has no build sha256:fffffff", "baker image ls web"),
        ("web@sha256:1234abce", "web has no build sha256:1234abce; did you mean sha256:1234abcd", "web"),
    ],
)
def test_reference_to_nothing_is_explained(catalog, text, message, hint):
    make_image(catalog)
    make_image(catalog, build=make_build(digest="sha256:1234abcd" + "0" * 56))
    catalog.promote("web", 1, "prod", expected_revision=None)
    catalog.promote("web", 1, "staging", expected_revision=None)
    with pytest.raises(BadReference) as caught:
        resolve(catalog, text)
    assert str(caught.value).startswith(message)
    assert caught.value.hint.endswith(hint)
    assert caught.value.exit_code == 2


def test_latest_of_a_recipe_without_one_says_what_there_is(catalog):
    make_image(catalog, available=False, wanted=[LOCAL, AWS])
    with pytest.raises(BadReference, match=r"newest is web:1, registered, incomplete"):
        resolve(catalog, "web")


@pytest.mark.parametrize(
    ("status", "usable"),
    [
        (ImageStatus.REGISTERED, False),
        (ImageStatus.AVAILABLE, True),
        (ImageStatus.DEPRECATED, True),
        (ImageStatus.REVOKED, False),
        (ImageStatus.DELETED, False),
    ],
)
def test_only_usable_images_are_resolved_unless_the_caller_wants_to_look(catalog, status, usable):
    make_image(catalog)
    catalog.promote("web", 1, "prod", expected_revision=None)
    catalog.set_status("web", 1, status, "because")
    assert resolve(catalog, "web:prod", allow_unusable=True) == "web:1"
    if usable:
        assert resolve(catalog, "web:prod") == "web:1"
    else:
        said = "was deleted by ann" if status == "deleted" else f"cannot be used: it is {status}: because"
        with pytest.raises(BadReference, match=rf"web:prod \(web:1\) {said}"):
            resolve(catalog, "web:prod")


# --- channels -------------------------------------------------------------------------------------


def test_channel_remembers_every_move(catalog):
    for _ in range(3):
        make_image(catalog)
    assert catalog.channel("web", "prod") is None
    catalog.promote("web", 1, "prod", reason="first", expected_revision=None)
    catalog.promote("web", 3, "prod", expected_revision=1)
    moved = catalog.promote("web", 2, "prod", reason="3 is bad", expected_revision=2)
    assert catalog.channel("web", "prod") == (2, 3)
    history = catalog.channel_history("web", "prod")
    assert [(move.revision, move.from_version, move.to_version, move.reason) for move in history] == [
        (3, 3, 2, "3 is bad"),
        (2, 1, 3, None),
        (1, None, 1, "first"),
    ]
    assert history[0] == moved
    assert {move.actor for move in history} == {"ann"}
    assert history[0].at >= history[1].at >= history[2].at > NOON
    assert catalog.image("web", 2).channels == ("prod",)
    assert catalog.image("web", 3).channels == ("latest",)


def test_channels_are_listed_with_what_they_hold(catalog):
    make_image(catalog)
    make_image(catalog, "base")
    catalog.promote("web", 1, "prod", expected_revision=None)
    catalog.promote("web", 1, "dev", expected_revision=None)
    catalog.promote("base", 1, "prod", expected_revision=None)
    held = [(move.recipe, move.channel, move.to_version) for move in catalog.channels()]
    assert held == [("base", "prod", 1), ("web", "dev", 1), ("web", "prod", 1)]
    assert [move.channel for move in catalog.channels("web")] == ["dev", "prod"]


@pytest.mark.parametrize("expected", [None, 1, 7])
def test_promotion_that_saw_another_state_says_who_moved_it_and_to_what(catalog, url, expected):
    for _ in range(3):
        make_image(catalog)
    catalog.promote("web", 1, "prod", expected_revision=None)
    with Catalog.open(url, actor="bob", clock=Clock()) as bobs:
        moved = bobs.promote("web", 2, "prod", expected_revision=1)
    with pytest.raises(ConflictError) as caught:
        catalog.promote("web", 3, "prod", expected_revision=expected)
    assert str(caught.value) == (
        f"web:prod was moved to web:2 by bob at {moved.at:%Y-%m-%d %H:%M:%S} UTC: it was not moved to web:3"
    )
    assert catalog.channel("web", "prod") == (2, 2)


def test_channel_that_should_exist_and_does_not_is_a_conflict(catalog):
    make_image(catalog)
    with pytest.raises(ConflictError, match="web has no channel prod any more"):
        catalog.promote("web", 1, "prod", expected_revision=3)
    assert catalog.channels() == []


def test_promoting_what_the_channel_holds_is_not_a_move(catalog):
    make_image(catalog)
    first = catalog.promote("web", 1, "prod", reason="go", expected_revision=None)
    assert catalog.promote("web", 1, "prod", reason="again", expected_revision=1) == first
    assert catalog.channel_history("web", "prod") == [first]


@pytest.mark.parametrize("name", ["latest", "Prod", "12", "a b", ""])
def test_name_that_no_channel_may_have_is_refused(catalog, name):
    make_image(catalog)
    with pytest.raises(UsageError):
        catalog.promote("web", 1, name, expected_revision=None)


def test_only_complete_usable_versions_are_promoted(catalog):
    make_image(catalog, available=False)
    make_image(catalog)
    make_image(catalog)
    make_image(catalog, wanted=[LOCAL, AWS])
    catalog.set_status("web", 2, ImageStatus.REVOKED, "CVE-2025-1")
    catalog.set_status("web", 3, ImageStatus.DEPRECATED)
    for version, why in [(1, "registered"), (2, r"revoked \(CVE-2025-1\)"), (4, "lacks a build")]:
        with pytest.raises(CatalogError, match=f"web:{version} cannot be promoted: it .*{why}"):
            catalog.promote("web", version, "prod", expected_revision=None)
    with pytest.raises(BadReference, match="web has no version 9"):
        catalog.promote("web", 9, "prod", expected_revision=None)
    assert catalog.promote("web", 3, "prod", expected_revision=None).to_version == 3


# --- bakes ----------------------------------------------------------------------------------------


def start_bake(catalog, bake_id, recipe="web"):
    return catalog.start_bake(
        id=bake_id, recipe=recipe, target="local", arch="amd64", log_path=f"/logs/{bake_id}.log"
    )


def test_bake_is_recorded_with_its_stages(catalog):
    bake_id = make_bake_id()
    record = start_bake(catalog, bake_id)
    assert catalog.bake(bake_id) == record
    assert record.outcome is None
    catalog.begin_stage(bake_id, Stage.RESOLVE)
    catalog.end_stage(bake_id, Stage.RESOLVE, "done", 0.25)
    catalog.begin_stage(bake_id, Stage.LAUNCH)
    running = catalog.bake(bake_id)
    assert [(stage.stage, stage.seconds, stage.outcome) for stage in running.stages] == [
        (Stage.RESOLVE, 0.25, "done"),
        (Stage.LAUNCH, None, "running"),
    ]
    assert catalog.bakes(running_only=True) == [running]
    catalog.finish_bake(bake_id, Outcome.FAILED, None, "nginx did not start\nSee the log.")
    ended = catalog.bake(bake_id)
    assert (ended.outcome, ended.error) == (Outcome.FAILED, "nginx did not start\nSee the log.")
    assert ended.finished > ended.started
    assert catalog.bakes(running_only=True) == []


def test_stage_that_is_begun_again_is_timed_anew(catalog):
    bake_id = make_bake_id()
    start_bake(catalog, bake_id)
    catalog.begin_stage(bake_id, Stage.TEARDOWN)
    catalog.end_stage(bake_id, Stage.TEARDOWN, "failed", 3.0)
    catalog.begin_stage(bake_id, Stage.TEARDOWN)
    assert [(stage.seconds, stage.outcome) for stage in catalog.bake(bake_id).stages] == [(None, "running")]


def test_bakes_are_listed_newest_first(catalog):
    ids = [make_bake_id() for _ in range(4)]
    for bake_id in ids:
        start_bake(catalog, bake_id)
        catalog.begin_stage(bake_id, Stage.RESOLVE)
    assert [record.id for record in catalog.bakes()] == ids[::-1]
    newest = catalog.bakes(2)
    assert [record.id for record in newest] == ids[:1:-1]
    assert [len(record.stages) for record in newest] == [1, 1]


def test_bake_is_found_by_the_start_of_its_id(catalog):
    ids = ["01JAAAAAAAAAAAAAAAAAAAAAAA", "01JAAAAAAAAAAAAAAAAAAAAAAB", "01JBBBBBBBBBBBBBBBBBBBBBBB"]
    for bake_id in ids:
        start_bake(catalog, bake_id)
    assert catalog.bake("01JB").id == catalog.bake("01jb").id == ids[2]
    with pytest.raises(BadReference) as caught:
        catalog.bake("01JA")
    assert str(caught.value) == f"01JA is more than one bake: {ids[1]}, {ids[0]}"
    for prefix in ("01K", "", "%"):
        with pytest.raises(BadReference) as caught:
            catalog.bake(prefix)
        assert ids[2] in caught.value.hint


def test_bake_of_an_empty_catalog_is_explained(catalog):
    with pytest.raises(BadReference, match="there is no bake 01J") as caught:
        catalog.bake("01J")
    assert "baker bake" in caught.value.hint


def test_bake_that_is_not_there_cannot_go_on(catalog):
    start_bake(catalog, "01J")
    with pytest.raises(ConflictError, match="bake 01J was started already"):
        start_bake(catalog, "01J")
    with pytest.raises(CatalogError, match="no bake 01K"):
        catalog.begin_stage("01K", Stage.SEAL)
    with pytest.raises(CatalogError, match="has not begun its stage seal"):
        catalog.end_stage("01J", Stage.SEAL, "done", 1.0)
    with pytest.raises(CatalogError, match="no bake 01K"):
        catalog.finish_bake("01K", Outcome.BAKED, "web:1", None)


# --- the ledger -------------------------------------------------------------------------------------


def test_ledger_holds_what_is_not_removed(catalog):
    machine = make_resource("m1")
    group = make_resource("g1", kind="group", place="eu-west-1", details={"vpc": "vpc-1"})
    catalog.intend("A", machine)
    catalog.intend("A", group)
    catalog.intend("B", machine)
    catalog.exists("A", group)
    assert [(entry.bake_id, entry.resource, entry.state) for entry in catalog.open_entries()] == [
        ("A", machine, "intended"),
        ("A", group, "exists"),
        ("B", machine, "intended"),
    ]
    catalog.removed("A", machine)
    catalog.removed("A", make_resource("never-intended"))
    assert [entry.resource for entry in catalog.open_entries("A")] == [group]
    catalog.intend("A", machine)
    assert [entry.resource.id for entry in catalog.open_entries("A")] == ["m1", "g1"]


def test_same_name_in_another_place_is_another_resource(catalog):
    for place in ("eu-west-1", "eu-north-1"):
        catalog.intend("A", make_resource("key", place=place))
    catalog.removed("A", make_resource("key", place="eu-west-1"))
    assert [entry.resource.place for entry in catalog.open_entries()] == ["eu-north-1"]


def test_teardown_writes_its_ledger_into_the_catalog(catalog, url):
    teardown = Teardown("A", catalog)
    with teardown.making(make_resource("m1"), undo=lambda: None), Catalog.open(url, actor="bob") as other:
        assert [entry.state for entry in other.open_entries()] == ["intended"]
    assert [entry.state for entry in catalog.open_entries()] == ["exists"]
    assert teardown.close() == []
    assert catalog.open_entries() == []


# --- threads ----------------------------------------------------------------------------------------


def test_threads_share_a_catalog(catalog):
    failures = []

    def register():
        try:
            for _ in range(10):
                image = make_image(catalog, packages=[make_package("a"), make_package("b")])
                assert catalog.image("web", image.version).builds == image.builds
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(image.version for image in catalog.images("web")) == list(range(1, 41))
