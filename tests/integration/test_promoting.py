"""Channels that move without a person: forwards, by their gates, and never against one; on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from baker.catalog import Catalog
from baker.channels import ChannelMove
from baker.gates import OPEN, Gate
from baker.lifecycle import describe_roll_back, fall_back
from baker.model import ImageStatus
from baker.previews import collect_expired
from baker.promoting import Promotion, Standing, promote_newest
from tests.factories import make_build, make_digest, make_image
from tests.integration.test_channels import let_time_pass
from tests.integration.test_previews import end

SOAKED = Gate(after={"dev": 3600})
BOTH = (("local", "amd64"), ("aws", "amd64"))


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    with Catalog.open(catalog_url, actor="nightly") as catalog:
        yield catalog


def promote(catalog: Catalog, channel: str = "dev", gate: Gate = OPEN) -> list[tuple[str, str, str | None]]:
    found = promote_newest(catalog, "web", channel, gate, reason="nightly 01J")
    return [(str(one.standing), one.image, one.held) for one in found]


def roll_back(catalog: Catalog, channel: str = "dev") -> ChannelMove:
    move = describe_roll_back(catalog, "web", channel, OPEN)
    assert move.revision is not None
    return catalog.roll_back(
        "web", move.image.version, channel, expected_revision=move.revision, reason="it hangs"
    )


def tell_only(catalog: Catalog, channel: str = "dev", gate: Gate = OPEN) -> Promotion:
    (found,) = promote_newest(catalog, "web", channel, gate, reason="nightly 01J")
    return found


def test_channel_goes_to_the_newest_image_and_then_there_is_nothing_to_say(catalog: Catalog) -> None:
    assert promote(catalog) == []
    for _ in range(2):
        make_image(catalog)
    assert promote(catalog) == [("moved", "web:2", None)]
    assert promote(catalog) == []
    make_image(catalog)
    assert promote(catalog) == [("moved", "web:3", "web:2")]
    (move, _) = catalog.channel_history("web", "dev")
    assert (move.actor, move.reason) == ("nightly", "nightly 01J")


def test_what_is_not_fit_for_everybody_is_not_thought_of(catalog: Catalog) -> None:
    make_image(catalog)
    make_image(catalog)
    catalog.set_status("web", 2, ImageStatus.DEPRECATED, "old")
    make_image(catalog)
    catalog.set_status("web", 3, ImageStatus.REVOKED, "bad")
    make_image(catalog, available=False)
    catalog.set_status("web", 4, ImageStatus.DELETED, "gone")
    make_image(catalog, wanted=BOTH)
    assert promote(catalog) == [("moved", "web:1", None)]


def test_image_waits_for_its_gate_and_goes_once_it_soaked(catalog: Catalog) -> None:
    make_image(catalog)
    waiting = tell_only(catalog, "staging", SOAKED)
    assert (waiting.standing, waiting.why) == (Standing.WAITING, ("dev never held it",))
    promote(catalog)
    assert tell_only(catalog, "staging", SOAKED).why == ("dev held it for 0s, and 1h are asked",)
    let_time_pass(catalog, 4000)
    assert promote(catalog, "staging", SOAKED) == [("moved", "web:1", None)]


def test_older_image_that_soaked_goes_while_the_newest_waits(catalog: Catalog) -> None:
    make_image(catalog)
    promote(catalog)
    let_time_pass(catalog, 4000)
    make_image(catalog)
    promote(catalog)
    assert promote(catalog, "staging", SOAKED) == [
        ("moved", "web:1", None),
        ("waiting", "web:2", None),
    ]
    assert promote(catalog, "staging", SOAKED) == [("waiting", "web:2", "web:1")]


def test_what_the_catalog_protects_is_asked_too(catalog: Catalog) -> None:
    make_image(catalog)
    catalog.protect("", "dev", Gate(require=frozenset({"label:approved-by"})))
    assert tell_only(catalog).why == ("it has no label approved-by=…",)
    catalog.protect("web", "prod", Gate(only=frozenset({"ann"})))
    left = tell_only(catalog, "prod")
    assert left.standing is Standing.LEFT
    assert "nightly may not move web:prod" in left.why[0]
    assert catalog.channel("web", "prod") is None


def test_what_a_person_rolled_back_does_not_come_again_by_itself(catalog: Catalog) -> None:
    for _ in range(2):
        make_image(catalog)
        promote(catalog)
    roll_back(catalog)
    left = tell_only(catalog)
    assert (left.standing, left.image, left.held) == (Standing.LEFT, "web:2", "web:1")
    assert "rolled back from web:2 to web:1 by nightly at 20" in left.why[0]
    assert "it hangs. To have it there: baker promote web:2 dev" in left.why[0]
    assert promote(catalog) == [("left", "web:2", "web:1")]
    make_image(catalog)
    assert promote(catalog) == [("moved", "web:3", "web:1")], "a new one is another matter"


def test_new_version_with_the_content_that_was_rolled_back_is_left_as_well(catalog: Catalog) -> None:
    bad = make_digest("bad")
    for digest in ("good", "bad"):
        make_image(catalog, build=make_build(digest=make_digest(digest)))
        promote(catalog)
    roll_back(catalog)
    make_image(catalog, build=make_build(digest=bad))
    left = tell_only(catalog)
    assert (left.standing, left.image) == (Standing.LEFT, "web:3")
    assert "it has the content of web:2, rolled back from web:2 to web:1" in left.why[0]
    make_image(catalog, build=make_build(digest=make_digest("better")))
    assert promote(catalog) == [("moved", "web:4", "web:1")]


def test_content_that_was_rolled_back_stays_back_while_a_newer_image_waits(catalog: Catalog) -> None:
    """Of all roll-backs that nothing came after: here two."""
    for digest in ("good", "bad", "worse"):
        make_image(catalog, build=make_build(digest=make_digest(digest)))
        promote(catalog, "staging")
    for _ in range(2):
        roll_back(catalog, "staging")
    for digest in ("bad", "worse", "good"):
        image = make_image(catalog, build=make_build(digest=make_digest(digest)))
        if digest != "good":
            catalog.promote("web", image.version, "dev", expected_revision=find_revision(catalog))
    let_time_pass(catalog, 4000)
    catalog.promote("web", 6, "dev", expected_revision=find_revision(catalog))
    assert promote(catalog, "staging", SOAKED) == [("waiting", "web:6", "web:1")]


def find_revision(catalog: Catalog, channel: str = "dev") -> int | None:
    held = catalog.channel("web", channel)
    return held[1] if held else None


def test_what_a_person_rolled_back_from_a_channel_before_does_not_go_on(catalog: Catalog) -> None:
    for _ in range(3):
        make_image(catalog)
        promote(catalog)
        if len(catalog.images("web")) == 1:
            promote(catalog, "staging")
        let_time_pass(catalog, 4000)
    roll_back(catalog)
    assert promote(catalog, "staging", SOAKED) == [("moved", "web:2", "web:1"), ("waiting", "web:3", "web:1")]
    waiting = tell_only(catalog, "staging", SOAKED)
    assert waiting.why == ("dev was taken back from it and holds web:2",)
    make_image(catalog)
    promote(catalog)
    assert [what for what, image, _ in promote(catalog, "staging", SOAKED) if image == "web:3"] == []
    let_time_pass(catalog, 4000)
    assert promote(catalog, "staging", SOAKED) == [("moved", "web:4", "web:2")]


def test_person_may_promote_what_was_rolled_back_from_the_channel_before(catalog: Catalog) -> None:
    for _ in range(2):
        make_image(catalog)
        promote(catalog)
    let_time_pass(catalog, 4000)
    roll_back(catalog)
    catalog.promote("web", 2, "staging", expected_revision=None, gate=SOAKED)
    assert catalog.channel("web", "staging") == (2, 1)


def test_channel_that_is_rolled_back_while_its_history_is_read_is_left(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        make_image(catalog)
        promote(catalog)
    make_image(catalog)
    list_images = catalog.images

    def roll_back_first(*arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        roll_back(catalog)
        return list_images(*arguments, **options)

    monkeypatch.setattr(catalog, "images", roll_back_first)
    assert promote(catalog) == [("left", "web:3", "web:2")]
    assert catalog.channel("web", "dev") == (1, 3)


def test_channel_that_expires_is_left_and_begun_again_once_it_is_gone(catalog: Catalog) -> None:
    make_image(catalog)
    catalog.promote("web", 1, "dev", expected_revision=None, expires=3600)
    left = tell_only(catalog)
    assert left.standing is Standing.LEFT, "also where it holds the newest"
    assert "it is a preview's, and ends at 20" in left.why[0]
    make_image(catalog)
    assert promote(catalog) == [("left", "web:2", "web:1")]
    catalog.set_status("web", 2, ImageStatus.DEPRECATED, "old")
    end(catalog, "dev")
    collect_expired(catalog, {})
    assert promote(catalog) == [("moved", "web:1", None)]
    assert catalog.channel_end("web", "dev") is None


def test_channel_never_goes_back(catalog: Catalog) -> None:
    for _ in range(3):
        make_image(catalog)
    catalog.promote("web", 3, "dev", expected_revision=None)
    catalog.set_status("web", 3, ImageStatus.DEPRECATED, "old")
    assert tell_only(catalog).why == ("it holds web:3, which is newer",)
    catalog.promote("web", 1, "dev", expected_revision=1)
    left = tell_only(catalog)
    assert (left.image, left.standing) == ("web:2", Standing.LEFT)
    assert "it held web:2 or a newer one before" in left.why[0]


def test_channel_that_fell_back_from_a_revoked_image_goes_on_to_a_new_one(catalog: Catalog) -> None:
    for _ in range(2):
        make_image(catalog)
        promote(catalog)
    catalog.set_status("web", 2, ImageStatus.REVOKED, "bad")
    (channel,) = (state for state in catalog.channel_states("web") if state.move.channel == "dev")
    assert fall_back(catalog, channel, lambda _: OPEN, "revoked").move is not None
    assert promote(catalog) == []
    make_image(catalog)
    assert promote(catalog) == [("moved", "web:3", "web:1")]


def test_channel_that_a_person_moves_meanwhile_is_theirs(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        make_image(catalog)
    catalog.promote("web", 1, "dev", expected_revision=None)
    read_gate = catalog.gate

    def move_first(recipe: str, channel: str, gate: Gate = OPEN) -> Gate:
        catalog.promote("web", 2, "dev", expected_revision=1)
        return read_gate(recipe, channel, gate)

    monkeypatch.setattr(catalog, "gate", move_first)
    left = tell_only(catalog)
    assert left.standing is Standing.LEFT
    assert "web:dev was moved to web:2 by nightly" in left.why[0]
