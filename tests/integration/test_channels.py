"""Channels on both databases: gates, what protects them, roll-backs."""

from __future__ import annotations

import shutil
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from baker.catalog import Catalog, schema
from baker.errors import BadReference, CatalogError, ConflictError, GateError, UsageError
from baker.gates import Gate
from baker.lifecycle import describe_promotion, describe_roll_back
from baker.model import ImageStatus, Reference
from tests.factories import make_build, make_file, make_image, make_layer

OPEN = Gate()
SOAKED = Gate(after={"staging": 3600})


@pytest.fixture
def catalog(catalog_url):
    with Catalog.open(catalog_url, actor="ann") as opened:
        yield opened


def make_images(catalog, count):
    for _ in range(count):
        make_image(catalog)


def promote(catalog, version, channel, **options):
    held = catalog.channel("web", channel)
    revision = held[1] if held else None
    return catalog.promote("web", version, channel, expected_revision=revision, **options)


def roll_back(catalog, channel="prod", **options):
    move = describe_roll_back(catalog, "web", channel, options.pop("gate", OPEN), **options)
    return catalog.roll_back("web", move.image.version, channel, expected_revision=move.revision)


def let_time_pass(catalog, seconds):
    """As if everything had happened so much earlier."""

    def shift(connection):
        for table in (schema.channel_moves, schema.image_events):
            for row in connection.execute(table.select()).all():
                mine = [column == getattr(row, column.name) for column in table.primary_key]
                earlier = row.at - timedelta(seconds=seconds)
                connection.execute(update(table).where(*mine).values(at=earlier))

    catalog._database.write(shift)


# --- soaking --------------------------------------------------------------------------------------------


def test_image_that_soaked_long_enough_is_let_through(catalog):
    make_images(catalog, 1)
    with pytest.raises(GateError, match="staging never held it"):
        promote(catalog, 1, "prod", gate=SOAKED)
    promote(catalog, 1, "staging")
    let_time_pass(catalog, 3590)
    with pytest.raises(GateError, match=r"staging held it for 59m, and 1h are asked. Try it again in"):
        promote(catalog, 1, "prod", gate=SOAKED)
    assert catalog.channel("web", "prod") is None
    let_time_pass(catalog, 20)
    assert promote(catalog, 1, "prod", gate=SOAKED).overridden is None


def test_image_that_soaked_before_need_not_be_there_now(catalog):
    make_images(catalog, 2)
    promote(catalog, 1, "staging")
    let_time_pass(catalog, 4000)
    promote(catalog, 2, "staging")
    assert catalog.stays("web", 1)["staging"] == pytest.approx(4000, abs=60)
    assert promote(catalog, 1, "prod", gate=SOAKED).to_version == 1
    with pytest.raises(GateError, match="staging held it for"):
        promote(catalog, 2, "prod", gate=SOAKED)


def test_stays_are_not_added_up(catalog):
    make_images(catalog, 2)
    for _ in range(2):
        promote(catalog, 1, "staging")
        let_time_pass(catalog, 2000)
        promote(catalog, 2, "staging")
        let_time_pass(catalog, 2000)
    with pytest.raises(GateError, match="staging held it for 33m, and 1h are asked"):
        promote(catalog, 1, "prod", gate=SOAKED)


def test_time_before_an_image_was_revoked_does_not_count(catalog):
    make_images(catalog, 2)
    promote(catalog, 1, "staging")
    let_time_pass(catalog, 4000)
    catalog.revoke("web", 1, reason="CVE-2026-1")
    promote(catalog, 2, "staging")
    let_time_pass(catalog, 4000)
    catalog.restore("web", 1)
    with pytest.raises(GateError, match="staging never held it"):
        promote(catalog, 1, "prod", gate=SOAKED)
    promote(catalog, 1, "staging")
    let_time_pass(catalog, 4000)
    assert promote(catalog, 1, "prod", gate=SOAKED).to_version == 1


def test_clock_of_this_host_has_no_say(catalog_url, catalog):
    make_images(catalog, 1)
    far = catalog._clock() + timedelta(days=400)
    with Catalog.open(catalog_url, actor="ann", clock=lambda: far) as ahead:
        promote(ahead, 1, "staging")
        with pytest.raises(GateError, match="staging held it for"):
            promote(ahead, 1, "prod", gate=SOAKED)


# --- requirements, overrides, protections -----------------------------------------------------------------


def test_gate_says_all_that_is_missing_and_moves_nothing(catalog):
    make_images(catalog, 1)
    gate = Gate(after={"staging": 60}, require=frozenset({"tests", "label:approved-by"}))
    with pytest.raises(GateError) as caught:
        promote(catalog, 1, "prod", gate=gate)
    assert [line.split(".")[0] for line in str(caught.value).splitlines()] == [
        "the gate of web:prod does not let web:1 through:",
        "  - staging never held it",
        "  - it has no label approved-by=…",
        "  - no image tests passed on local/amd64",
    ]
    assert "--override" in caught.value.hint
    assert catalog.channels() == []


def test_override_is_recorded_with_what_was_missing(catalog):
    make_images(catalog, 2)
    gate = Gate(require=frozenset({"tests"}))
    move = promote(catalog, 1, "prod", gate=gate, override="the site is down")
    assert move.overridden.reason == "the site is down"
    assert move.overridden.missing == ("no image tests passed on local/amd64",)
    assert catalog.channel_history("web", "prod") == [move]
    assert promote(catalog, 2, "prod", override="not needed").overridden is None


def test_image_with_tests_and_label_passes(catalog):
    make_image(catalog, build=make_build(image_tests={"test_image.py": "sha256:1"}))
    catalog.label("web", 1, added={"approved-by": "bob"})
    gate = Gate(require=frozenset({"tests", "no-revoked-ancestor", "label:approved-by=bob"}))
    assert promote(catalog, 1, "prod", gate=gate).to_version == 1
    catalog.label("web", 1, added={}, removed=["approved-by"])
    with pytest.raises(GateError, match="no label approved-by"):
        promote(catalog, 1, "other", gate=gate)


def test_protection_of_the_catalog_holds_whatever_the_file_says(catalog):
    make_images(catalog, 1)
    catalog.protect("web", "prod", Gate(require=frozenset({"label:a"})))
    catalog.protect("", "prod", Gate(require=frozenset({"label:b"}), after={"staging": 60}))
    with pytest.raises(GateError) as caught:
        promote(catalog, 1, "prod", gate=Gate(require=frozenset({"label:c"}), after={"staging": 7200}))
    assert [key for key in "abc" if f"label {key}=" in str(caught.value)] == ["a", "b", "c"]
    assert catalog.gate("web", "prod", SOAKED).after == {"staging": 3600}
    assert catalog.gate("base", "prod").require == {"label:b"}
    assert catalog.gate("web", "dev") == OPEN


def test_protection_that_is_taken_back_stays_on_the_record(catalog_url, catalog):
    make_images(catalog, 1)
    kept = catalog.protect("web", "prod", Gate(require=frozenset({"tests"})))
    assert (kept.actor, kept.gate.require) == ("ann", {"tests"})
    with Catalog.open(catalog_url, actor="bob") as bobs:
        bobs.protect("web", "prod", OPEN)
    (taken_back,) = catalog.protections()
    assert (taken_back.actor, taken_back.gate.empty) == ("bob", True)
    assert promote(catalog, 1, "prod").to_version == 1


def test_nothing_overrides_who_may_move_a_channel(catalog_url, catalog):
    make_images(catalog, 2)
    catalog.protect("web", "prod", Gate(only=frozenset({"ci"})))
    with pytest.raises(UsageError, match="ann may not move web:prod"):
        promote(catalog, 1, "prod", override="I want to")
    with pytest.raises(UsageError, match="ann may not move"):
        catalog.protect("web", "prod", OPEN)
    with Catalog.open(catalog_url, actor="ci") as cis:
        promote(cis, 1, "prod")
        promote(cis, 2, "prod")
    with pytest.raises(UsageError, match="ann may not move web:prod"):
        roll_back(catalog)
    assert catalog.channel("web", "prod") == (2, 2)


@pytest.mark.parametrize("name", ["latest", "Prod", ""])
def test_channel_that_cannot_be_is_not_protected(catalog, name):
    with pytest.raises(UsageError):
        catalog.protect("web", name, SOAKED)


# --- rolling back ---------------------------------------------------------------------------------------


def test_roll_back_leads_to_what_the_channel_held_before_and_says_so(catalog):
    make_images(catalog, 3)
    for version in (1, 2, 3):
        promote(catalog, version, "prod")
    move = roll_back(catalog)
    assert (move.from_version, move.to_version, move.rolled_back) == (3, 2, True)
    assert [move.rolled_back for move in catalog.channel_history("web", "prod")] == [
        True,
        False,
        False,
        False,
    ]


def test_second_roll_back_goes_further_back_and_not_to_what_was_left(catalog):
    make_images(catalog, 3)
    for version in (1, 2, 3):
        promote(catalog, version, "prod")
    assert [roll_back(catalog).to_version for _ in range(2)] == [2, 1]
    with pytest.raises(CatalogError, match="web:prod held nothing before web:1"):
        roll_back(catalog)


def test_roll_back_passes_over_what_cannot_be_used(catalog):
    make_images(catalog, 4)
    for version in (1, 2, 3, 4):
        promote(catalog, version, "prod")
    catalog.revoke("web", 3, reason="CVE-2026-1")
    catalog.set_status("web", 2, ImageStatus.DELETED)
    move = describe_roll_back(catalog, "web", "prod", OPEN)
    assert move.image.reference == "web:1"
    assert move.skipped == (("web:3", "it is revoked (CVE-2026-1)"), ("web:2", "it is deleted"))
    catalog.revoke("web", 1, reason="CVE-2026-2")
    with pytest.raises(CatalogError, match=r"nothing that web:prod held before web:4 can be used:(\n.*){3}"):
        roll_back(catalog)


def test_roll_back_passes_over_what_its_gate_does_not_let_through(catalog):
    make_images(catalog, 3)
    for version in (1, 2, 3):
        promote(catalog, version, "prod")
    catalog.label("web", 1, added={"approved-by": "bob"})
    gate = Gate(require=frozenset({"label:approved-by"}), after={"staging": 3600})
    assert describe_roll_back(catalog, "web", "prod", gate).image.version == 1
    overriding = describe_roll_back(catalog, "web", "prod", gate, overriding=True)
    assert (overriding.image.version, len(overriding.missing)) == (2, 1)
    with pytest.raises(GateError):
        catalog.roll_back("web", 2, "prod", expected_revision=3, gate=gate)
    assert catalog.roll_back("web", 2, "prod", expected_revision=3, gate=gate, override="now").overridden


def test_roll_back_to_an_image_leads_only_to_what_the_channel_held(catalog):
    make_images(catalog, 4)
    for version in (1, 2, 3):
        promote(catalog, version, "prod")
    to = Reference(recipe="web", version=1)
    assert describe_roll_back(catalog, "web", "prod", OPEN, to=to).image.version == 1
    with pytest.raises(BadReference, match=r"web:prod never held web:4 \(it held web:3, web:2, web:1\)"):
        describe_roll_back(catalog, "web", "prod", OPEN, to=Reference(recipe="web", version=4))
    with pytest.raises(UsageError, match="is no image of web"):
        describe_roll_back(catalog, "web", "prod", OPEN, to=Reference(recipe="base"))
    with pytest.raises(BadReference, match="web has no channel prd; did you mean prod"):
        describe_roll_back(catalog, "web", "prd", OPEN)


def test_roll_back_that_saw_another_state_is_refused(catalog):
    make_images(catalog, 3)
    promote(catalog, 1, "prod")
    promote(catalog, 2, "prod")
    move = describe_roll_back(catalog, "web", "prod", OPEN)
    promote(catalog, 3, "prod")
    with pytest.raises(ConflictError, match="web:prod was moved to web:3 by ann"):
        catalog.roll_back("web", 1, "prod", expected_revision=move.revision)


# --- what a promotion would change ------------------------------------------------------------------------


def test_promotion_is_described_before_it_is_made(catalog):
    layers = [make_layer(make_file("/etc/a", text)) for text in ("1", "2")]
    for layer in layers:
        make_image(catalog, layers=[layer])
    first = describe_promotion(catalog, Reference(recipe="web", version=1), "prod", OPEN)
    assert (first.held, first.revision, first.difference) == (None, None, None)
    promote(catalog, 1, "prod", reason="go")
    move = describe_promotion(catalog, Reference(recipe="web"), "prod", SOAKED)
    assert (move.held.reference, move.image.reference, move.last.reason) == ("web:1", "web:2", "go")
    assert [change.new.path for change in move.difference.files_changed] == ["/etc/a"]
    assert [missing.what for missing in move.missing] == ["staging never held it"]
    assert describe_promotion(catalog, Reference(recipe="web", version=1), "prod", OPEN).changes_nothing


def test_channels_are_listed_with_the_state_of_what_they_hold(catalog):
    make_images(catalog, 2)
    promote(catalog, 1, "prod")
    promote(catalog, 2, "dev")
    catalog.revoke("web", 1, reason="CVE")
    states = [(channel.move.name, channel.move.held, channel.status) for channel in catalog.channel_states()]
    assert states == [("web:dev", "web:2", "available"), ("web:prod", "web:1", "revoked")]
    assert [move.channel for move in catalog.image_moves("web", 1)] == ["prod"]


# --- against a simple model -------------------------------------------------------------------------------

VERSIONS = 4


@pytest.fixture
def four_images(tmp_path):
    path = tmp_path / "catalog.db"
    with Catalog.open(f"sqlite:///{path}", actor="ann") as catalog:
        make_images(catalog, VERSIONS)
    return path


steps = st.one_of(
    st.tuples(st.just("promote"), st.integers(1, VERSIONS)),
    st.tuples(st.just("stale"), st.integers(1, VERSIONS)),
    st.tuples(st.just("roll back"), st.just(0)),
    st.tuples(st.just("revoke"), st.integers(1, VERSIONS)),
    st.tuples(st.just("restore"), st.integers(1, VERSIONS)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=12))
def test_channel_moves_as_a_stack_of_versions_does(four_images, taken):
    """``before`` is what can be gone back to: promoting puts what was held upon it, going back takes off."""
    path = shutil.copy(four_images, four_images.with_name("copy.db"))
    held, before, moves, revoked = None, [], [], set()
    with Catalog.open(f"sqlite:///{path}", actor="ann") as catalog:
        for step, version in taken:
            if step == "revoke" and version not in revoked:
                catalog.revoke("web", version, reason="bad")
                revoked.add(version)
            elif step == "restore" and version in revoked:
                catalog.restore("web", version)
                revoked.remove(version)
            elif step == "stale" and version not in revoked and version != held:
                with pytest.raises(ConflictError):
                    catalog.promote("web", version, "prod", expected_revision=len(moves) + 1)
            elif step == "promote" and version in revoked:
                with pytest.raises(CatalogError, match="cannot be promoted: it is revoked"):
                    promote(catalog, version, "prod")
            elif step == "promote":
                promote(catalog, version, "prod")
                if version != held:
                    moves.append((held, version))
                    before = [other for other in [*before, held] if other not in (None, version)]
                    held = version
            elif step == "roll back" and held is not None:
                fit = [other for other in before if other not in revoked]
                if not fit:
                    with pytest.raises(CatalogError, match="nothing"):
                        roll_back(catalog)
                else:
                    roll_back(catalog)
                    moves.append((held, fit[-1]))
                    held, before = fit[-1], before[: before.index(fit[-1])]
        history = catalog.channel_history("web", "prod")[::-1]
        assert [(move.from_version, move.to_version) for move in history] == moves
        assert [move.revision for move in history] == list(range(1, len(moves) + 1))
        assert catalog.channel("web", "prod") == ((held, len(moves)) if moves else None)
