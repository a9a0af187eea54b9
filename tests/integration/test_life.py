"""What becomes of an image, on both databases: deprecated, revoked, restored, labelled, leased."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baker.catalog import Catalog
from baker.errors import BadReference, CatalogError, ConflictError, UsageError
from baker.execution import list_source_warnings
from baker.gates import Gate
from baker.knowledge import resolve_parent
from baker.life import list_warnings
from baker.lifecycle import describe_revocation, fall_back, find_holding
from baker.model import ImageStatus, Recipe, Reference, TargetSpec
from baker.plan import Action, PlanEntry
from tests.factories import make_build, make_image, make_provenance

LOCAL, AWS = ("local", "amd64"), ("aws", "amd64")
LATER = datetime.now(UTC) + timedelta(days=400)


@pytest.fixture
def catalog(catalog_url):
    with Catalog.open(catalog_url, actor="ann") as opened:
        yield opened


def make_child(catalog, recipe, parent, **options):
    """An image of a recipe upon another image (each of its builds upon that one's for the same place)."""
    provenance = make_provenance(parent_build=parent.builds[0].id)
    return make_image(catalog, recipe, build=make_build(recipe, provenance=provenance), **options)


def make_family(catalog):
    base = make_image(catalog, "base")
    web = make_child(catalog, "web", base)
    return base, web, make_child(catalog, "app", web)


def resolve(catalog, text, **options):
    return catalog.resolve(Reference.parse(text), **options)


def list_events(catalog, recipe, version):
    return [(event.event, event.reason) for event in catalog.events(recipe, version)][::-1]


# --- deprecated -----------------------------------------------------------------------------------------


def test_deprecated_image_warns_and_is_latest_no_longer(catalog):
    make_image(catalog)
    make_image(catalog)
    image = catalog.deprecate("web", 2, message="its nginx is old")
    assert (image.status, image.channels) == (ImageStatus.DEPRECATED, ())
    assert list_warnings(image) == ["web:2 is deprecated: its nginx is old"]
    assert resolve(catalog, "web").version == 1
    assert resolve(catalog, "web:2").version == 2
    assert [event.event for event in catalog.events("web", 2)] == ["deprecated", "available"]


def test_image_that_is_deprecated_some_day_is_available_until_then(catalog):
    make_image(catalog)
    image = catalog.deprecate("web", 1, message="use web:2", from_=LATER)
    assert (image.status, image.deprecated_from, image.channels) == (
        ImageStatus.AVAILABLE,
        LATER,
        ("latest",),
    )
    assert list_warnings(image) == []
    assert resolve(catalog, "web") == image == catalog.images("web")[0]
    assert catalog.promote("web", 1, "prod", expected_revision=None)
    assert catalog.channel_states()[0].status is ImageStatus.AVAILABLE
    assert len(catalog.usable_builds("web", *LOCAL)) == 1
    past = catalog.deprecate("web", 1, from_=datetime.now(UTC) - timedelta(days=1))
    assert (past.status, past.channels) == (ImageStatus.DEPRECATED, ("prod",))
    with pytest.raises(BadReference, match="newest is web:1, deprecated"):
        resolve(catalog, "web")


def test_only_an_image_in_use_is_deprecated(catalog):
    make_image(catalog, available=False)
    with pytest.raises(CatalogError, match="web:1 cannot be deprecated: it is registered"):
        catalog.deprecate("web", 1)
    catalog.revoke("web", 1, reason="bad")
    with pytest.raises(CatalogError, match="it is revoked"):
        catalog.deprecate("web", 1)
    with pytest.raises(BadReference, match="web has no version 2"):
        catalog.deprecate("web", 2)


def test_newer_image_is_still_completed_while_it_is_deprecated_some_day(catalog):
    local, aws = make_build(), make_build(target="aws")
    make_image(catalog, build=local, wanted=[LOCAL, AWS])
    catalog.deprecate("web", 1, from_=LATER)
    image = make_image(catalog, build=aws, wanted=[LOCAL, AWS])
    assert (image.reference, image.complete, image.channels) == ("web:1", True, ("latest",))


# --- revoked, restored ----------------------------------------------------------------------------------


def test_revoked_image_is_refused_at_once(catalog):
    make_image(catalog)
    make_image(catalog)
    catalog.promote("web", 2, "prod", expected_revision=None)
    (revoked,) = catalog.revoke("web", 2, reason="CVE-2026-1")
    assert (revoked.status, revoked.status_reason) == (ImageStatus.REVOKED, "CVE-2026-1")
    for text in ("web:2", "web:prod"):
        with pytest.raises(BadReference, match="cannot be used: it is revoked: CVE-2026-1"):
            resolve(catalog, text)
    assert resolve(catalog, "web").version == 1
    with pytest.raises(CatalogError, match="cannot be promoted: it is revoked"):
        catalog.promote("web", 2, "dev", expected_revision=None)
    assert catalog.revoke("web", 2, reason="again") == []
    assert list_events(catalog, "web", 2) == [("available", None), ("revoked", "CVE-2026-1")]


def test_restored_image_is_what_it_was(catalog):
    make_image(catalog)
    make_image(catalog, available=False)
    for version, status in ((1, ImageStatus.AVAILABLE), (2, ImageStatus.REGISTERED)):
        catalog.revoke("web", version, reason="CVE-2026-1")
        restored = catalog.restore("web", version)
        assert (restored.status, restored.status_reason) == (status, None)
    with pytest.raises(CatalogError, match="web:1 cannot be restored: it is available"):
        catalog.restore("web", 1)
    catalog.deprecate("web", 1, message="old", from_=LATER)
    assert catalog.restore("web", 1).deprecated_from is None
    catalog.set_status("web", 1, ImageStatus.DELETED)
    with pytest.raises(CatalogError, match="it is deleted"):
        catalog.restore("web", 1)
    with pytest.raises(ConflictError, match="web:1 was deleted by ann"):
        catalog.revoke("web", 1, reason="bad")
    assert [event for event, _ in list_events(catalog, "web", 1)] == [
        *("available", "revoked", "restored", "deprecated", "restored", "deleted")
    ]


def test_what_is_built_upon_a_revoked_image_is_flagged_and_usable(catalog):
    base, _, app = make_family(catalog)
    assert app.revoked_ancestors == ()
    catalog.revoke("base", base.version, reason="CVE-2026-1")
    for name in ("web", "app"):
        image = resolve(catalog, name)
        assert image.revoked_ancestors == ("base:1",)
        assert list_warnings(image) == [f"{name}:1 is built upon base:1, now revoked"]
        assert catalog.promote(name, 1, "dev", expected_revision=None)
    assert {image.reference: image.revoked_ancestors for image in catalog.images()} == {
        "base:1": (),
        "web:1": ("base:1",),
        "app:1": ("base:1",),
    }
    with pytest.raises(CatalogError, match="it is built upon base:1, which is revoked"):
        catalog.promote(
            "web", 1, "prod", expected_revision=None, gate=Gate(require=frozenset({"no-revoked-ancestor"}))
        )
    catalog.restore("base", 1)
    assert resolve(catalog, "app").revoked_ancestors == ()


def test_deleting_a_revoked_image_does_not_make_good_what_was_built_upon_it(catalog):
    make_family(catalog)
    catalog.revoke("base", 1, reason="CVE-2026-1")
    catalog.set_status("base", 1, ImageStatus.DELETED)
    assert resolve(catalog, "app").revoked_ancestors == ("base:1",)
    catalog.set_status("web", 1, ImageStatus.DELETED)
    assert resolve(catalog, "app").revoked_ancestors == ("base:1",)


def test_what_is_built_upon_a_deleted_image_is_not_flagged(catalog):
    make_family(catalog)
    catalog.set_status("base", 1, ImageStatus.DELETED)
    assert resolve(catalog, "web").revoked_ancestors == ()


def test_build_that_another_image_holds_too_is_as_good_as_that(catalog):
    base, _, _ = make_family(catalog)
    build = base.builds[0]
    catalog.register(recipe="base", build=None, layers=(), packages=(), carry=[build.id], wanted=[LOCAL])
    catalog.make_available("base", 2, {build.id: build.artifacts})
    catalog.revoke("base", 1, reason="only this version", descendants=True)
    assert resolve(catalog, "web").revoked_ancestors == ()
    catalog.revoke("base", 2, reason="that one as well")
    assert resolve(catalog, "web").revoked_ancestors == ("base:1", "base:2")


def test_descendants_are_revoked_with_it_when_asked_for(catalog):
    make_family(catalog)
    make_image(catalog, "other")
    assert [image.reference for image in catalog.descendants("base", 1)] == ["app:1", "web:1"]
    revoked = catalog.revoke("base", 1, reason="CVE-2026-1", descendants=True)
    assert {image.reference: image.status_reason for image in revoked} == {
        "base:1": "CVE-2026-1",
        "web:1": "built upon base:1: CVE-2026-1",
        "app:1": "built upon base:1: CVE-2026-1",
    }
    assert resolve(catalog, "other").status is ImageStatus.AVAILABLE


def test_descendants_of_a_revoked_image_can_be_revoked_later(catalog):
    make_family(catalog)
    catalog.revoke("base", 1, reason="CVE-2026-1")
    revoked = catalog.revoke("base", 1, reason="CVE-2026-1", descendants=True)
    assert [image.reference for image in revoked] == ["app:1", "web:1"]


# --- baking from it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", [1, 2])
def test_bake_whose_ancestor_was_revoked_meanwhile_is_not_registered(catalog, generation):
    parent = make_family(catalog)[generation - 1]
    catalog.revoke("base", 1, reason="CVE-2026-1")
    with pytest.raises(ConflictError) as caught:
        make_child(catalog, "late", parent)
    assert str(caught.value) == (
        "late cannot be registered: base:1, which it is built upon, was revoked by ann: CVE-2026-1"
    )
    assert catalog.images("late") == []
    catalog.restore("base", 1)
    assert make_child(catalog, "late", parent).version == 1


def test_bake_whose_parent_was_deleted_meanwhile_is_not_registered(catalog):
    base = make_image(catalog, "base")
    catalog.set_status("base", 1, ImageStatus.DELETED, "pruned")
    with pytest.raises(ConflictError, match="base:1, which it is built upon, was deleted by ann: pruned"):
        make_child(catalog, "web", base)


def test_build_upon_a_revoked_image_is_neither_hit_nor_issued_again(catalog):
    _, web, _ = make_family(catalog)
    assert len(catalog.usable_builds("web", *LOCAL)) == 1
    catalog.revoke("base", 1, reason="CVE-2026-1")
    assert catalog.usable_builds("web", *LOCAL) == []
    with pytest.raises(ConflictError, match="base:1, which it is built upon, was revoked"):
        catalog.register(
            recipe="web", build=None, layers=(), packages=(), carry=[web.builds[0].id], wanted=[LOCAL]
        )


def test_bake_from_an_image_upon_a_revoked_one_is_refused(catalog):
    make_family(catalog)
    catalog.revoke("base", 1, reason="CVE-2026-1")
    with pytest.raises(BadReference, match="nothing is baked from web:1: it is built upon base:1") as caught:
        resolve_parent(catalog, Reference(recipe="web"))
    assert caught.value.hint.endswith("baker bake web")
    with pytest.raises(BadReference, match="it is revoked"):
        resolve_parent(catalog, Reference(recipe="base", version=1))


def test_recipe_that_is_pinned_to_a_deprecated_image_is_warned_of(catalog):
    make_image(catalog, "base")
    catalog.deprecate("base", 1, message="use base:2")
    recipes, plan = {}, []
    for name, source in (("web", "base:1"), ("app", "base"), ("job", "base:9")):
        spec = TargetSpec(target="local", source=Reference.parse(source), data={}, settings={})
        recipes[name] = Recipe(
            name=name, folder=f"/p/{name}", project="/p", description="", targets={"local": spec}
        )
        plan.append(PlanEntry(recipe=name, target="local", arch="amd64", action=Action.SKIP, reasons=()))
    assert list_source_warnings(recipes, plan, catalog) == [
        "web starts from base:1: base:1 is deprecated: use base:2"
    ]


def test_revocations_and_registrations_at_once_leave_nothing_unrefused(catalog_url, catalog):
    """The revocation came first, and the child is refused; or it sees the child, and revokes it too."""
    bases = [make_image(catalog, "base") for _ in range(8)]
    refused = []

    def register():
        with Catalog.open(catalog_url, actor="bob") as mine:
            for base in bases:
                try:
                    make_child(mine, "web", base)
                except ConflictError:
                    refused.append(base.version)

    thread = threading.Thread(target=register)
    thread.start()
    for base in bases:
        catalog.revoke("base", base.version, reason="bad", descendants=True)
    thread.join()
    assert {image.status for image in catalog.images("web")} <= {"revoked"} | {"registered", "available"}
    used = [image for image in catalog.images("web") if image.status != "revoked"]
    assert used == []
    assert len(catalog.images("web")) + len(refused) == 8


# --- channels that hold it --------------------------------------------------------------------------------


def test_channels_fall_back_to_what_they_held_before(catalog):
    for _ in range(3):
        make_image(catalog)
    for channel, versions in (("prod", (1, 2, 3)), ("dev", (3,)), ("old", (1,))):
        for revision, version in enumerate(versions):
            catalog.promote("web", version, channel, expected_revision=revision or None)
    planned = describe_revocation(catalog, Reference(recipe="web", version=3), descendants=False)
    assert [channel.move.channel for channel in planned.holding] == ["dev", "prod"]
    catalog.revoke("web", 2, reason="bad")
    catalog.revoke("web", 3, reason="bad too")
    dev, prod = (
        fall_back(catalog, channel, lambda _: Gate(), "web:3 was revoked: bad too")
        for channel in find_holding(catalog, {"web:3"})
    )
    assert (dev.move, dev.why_not) == (
        None,
        "web:dev held nothing before web:3: there is nothing to go back to",
    )
    assert (prod.move.held, prod.move.rolled_back, prod.move.reason) == (
        *("web:1", True, "web:3 was revoked: bad too"),
    )


def test_revocation_is_described_with_what_it_touches(catalog):
    base, _, _ = make_family(catalog)
    build = base.builds[0]
    catalog.register(recipe="base", build=None, layers=(), packages=(), carry=[build.id], wanted=[LOCAL])
    catalog.make_available("base", 2, {build.id: build.artifacts})
    catalog.promote("web", 1, "prod", expected_revision=None)
    alone = describe_revocation(catalog, Reference(recipe="base", version=2), descendants=True)
    assert (alone.twins, alone.descendants, alone.holding) == (("base:1",), (), ())
    catalog.revoke("base", 1, reason="bad")
    planned = describe_revocation(catalog, Reference(recipe="base", version=2), descendants=True)
    assert [image.reference for image in planned.descendants] == ["app:1", "web:1"]
    assert [channel.move.name for channel in planned.holding] == ["web:prod"]


# --- labels ---------------------------------------------------------------------------------------------


def test_labels_are_set_replaced_and_taken_away(catalog):
    make_image(catalog)
    make_image(catalog)
    catalog.label("web", 1, added={"tier": "gold", "approved-by": "ann"})
    image = catalog.label("web", 1, added={"tier": "silver", "approved-by": "ann"})
    assert dict(image.labels) == {"approved-by": "ann", "tier": "silver"}
    image = catalog.label("web", 1, added={"size": "small"}, removed=["tier"])
    assert list(image.labels.items()) == [("approved-by", "ann"), ("size", "small")]
    assert [image.labels.get("size") for image in catalog.images()] == [None, "small"]
    assert list_events(catalog, "web", 1)[1:] == [
        ("labelled", "tier=gold"),
        ("labelled", "approved-by=ann"),
        ("labelled", "tier=silver"),
        ("unlabelled", "tier"),
        ("labelled", "size=small"),
    ]


def test_label_that_is_not_there_cannot_be_taken_away(catalog):
    make_image(catalog)
    catalog.label("web", 1, added={"a": "1"})
    with pytest.raises(UsageError, match=r"web:1 has no label b \(it has: a\)"):
        catalog.label("web", 1, added={"c": "1"}, removed=["b"])
    assert dict(catalog.image("web", 1).labels) == {"a": "1"}


# --- incomplete -----------------------------------------------------------------------------------------


def test_incomplete_version_is_shown_not_promoted_and_completed_by_the_missing_build(catalog):
    wanted = [LOCAL, AWS]
    make_image(catalog, wanted=wanted)
    assert [(image.reference, image.complete) for image in catalog.images()] == [("web:1", False)]
    with pytest.raises(CatalogError, match="web:1 cannot be promoted: it lacks a build") as caught:
        catalog.promote("web", 1, "prod", expected_revision=None)
    assert caught.value.hint == "Bake what is missing: baker bake web"
    assert make_image(catalog, build=make_build(target="aws"), wanted=wanted).reference == "web:1"
    assert catalog.promote("web", 1, "prod", expected_revision=None).to_version == 1


def test_build_is_found_in_the_newest_image_in_use_that_holds_it(catalog):
    image = make_image(catalog)
    build = image.builds[0]
    catalog.register(recipe="web", build=None, layers=(), packages=(), carry=[build.id], wanted=[LOCAL])
    assert catalog.holder(build.id).reference == "web:1"
    catalog.make_available("web", 2, {build.id: build.artifacts})
    assert catalog.holder(build.id).reference == "web:2"
    catalog.deprecate("web", 2)
    assert catalog.holder(build.id).reference == "web:2"
    catalog.revoke("web", 2, reason="bad")
    assert catalog.holder(build.id).reference == "web:1"
    catalog.revoke("web", 1, reason="bad")
    with pytest.raises(CatalogError, match=f"no image that may be used holds the build {build.id}"):
        catalog.holder(build.id)


# --- leases ---------------------------------------------------------------------------------------------


def test_lease_holds_until_it_expires_or_is_released(catalog_url, catalog):
    make_image(catalog)
    now = datetime.now(UTC)
    short = catalog.add_lease("web", 1, owner="env:qa", expires=now + timedelta(hours=1), reason="a trial")
    long = catalog.add_lease("web", 1, owner="env:prod")
    assert [lease.owner for lease in catalog.leases()] == ["env:prod", "env:qa"]
    assert (short.reference, short.actor, short.reason) == ("web:1", "ann", "a trial")
    with Catalog.open(catalog_url, actor="bob", clock=lambda: now + timedelta(hours=1, seconds=1)) as later:
        assert later.leases() == [long]
        assert later.leases("base") == []
        released = later.release_lease(long.id.lower())
        assert released == replace(long, released=now + timedelta(hours=1, seconds=1))
        assert later.leases() == []
        assert later.leases("web", include_ended=True) == [released, short]
        assert later.release_lease(long.id) == released
        assert later.release_lease(short.id).released is None


def test_lease_that_holds_nothing_is_refused(catalog):
    make_image(catalog)
    with pytest.raises(UsageError, match="needs an owner"):
        catalog.add_lease("web", 1, owner=" ")
    with pytest.raises(UsageError, match="holds nothing any more"):
        catalog.add_lease("web", 1, owner="qa", expires=datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(BadReference, match="web has no version 7"):
        catalog.add_lease("web", 7, owner="qa")
    catalog.revoke("web", 1, reason="bad")
    with pytest.raises(CatalogError, match="web:1 cannot be leased: it is revoked"):
        catalog.add_lease("web", 1, owner="qa")
    with pytest.raises(BadReference, match="there is no lease 01J"):
        catalog.release_lease("01J")


def test_beginning_of_two_leases_is_ambiguous(catalog):
    make_image(catalog)
    ids = [catalog.add_lease("web", 1, owner="qa").id for _ in range(2)]
    with pytest.raises(BadReference, match=f"01 is more than one lease: .*{ids[0]}"):
        catalog.release_lease("01")


# --- references -----------------------------------------------------------------------------------------


def test_digest_of_another_recipe_is_explained_with_where_it_is(catalog):
    make_image(catalog, "base", build=make_build("base", digest="sha256:abcd" + "0" * 60))
    make_image(catalog)
    with pytest.raises(BadReference, match="web has no build sha256:abcd; it is one of base:1"):
        resolve(catalog, "web@sha256:abcd")
    with pytest.raises(BadReference, match="web has no channel lastest; did you mean latest"):
        resolve(catalog, "web:lastest")


@pytest.fixture
def empty(tmp_path):
    path = tmp_path / "catalog.db"
    Catalog.open(f"sqlite:///{path}", actor="ann").close()
    return path


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text("ab", min_size=4, max_size=6), min_size=1, max_size=5, unique=True),
    st.sets(st.sampled_from(["dev", "prod", "prod-eu"])),
    st.data(),
)
def test_every_name_of_an_image_leads_back_to_it(empty, starts, channels, data):
    path = shutil.copy(empty, empty.with_name("copy.db"))
    with Catalog.open(f"sqlite:///{path}", actor="ann") as catalog:
        for start in starts:
            make_image(catalog, build=make_build(digest=f"sha256:{start:0<64}"))
        for channel in channels:
            version = data.draw(st.integers(1, len(starts)))
            catalog.promote("web", version, channel, expected_revision=None)
        for image in catalog.images():
            digest = image.builds[0].digest
            names = [image.reference, *(f"web:{channel}" for channel in image.channels), f"web@{digest}"]
            assert [resolve(catalog, name) for name in names] == [image] * len(names)
            prefix = data.draw(st.integers(len("sha256:abab"), len(digest)))
            start = digest[:prefix]
            if sum(f"sha256:{other:0<64}".startswith(start) for other in starts) == 1:
                assert resolve(catalog, f"web@{start}") == image
            else:
                with pytest.raises(BadReference, match=f"web@{start} is more than one"):
                    resolve(catalog, f"web@{start}")
