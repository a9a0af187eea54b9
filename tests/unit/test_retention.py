"""Which images are kept, and why: the rules, and that nothing needed ever goes, whatever they say."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baker.leases import Lease
from baker.model import ImageStatus
from baker.retention import (
    USABLE,
    Evidence,
    Retention,
    RunningBake,
    StoredImage,
    decide,
    find_obstacles,
    recheck,
)
from tests.factories import NOON

DAY = timedelta(days=1)


def make_stored(version, recipe="web", *, age=100, status=ImageStatus.AVAILABLE, builds=None, **changes):
    return StoredImage(
        recipe=recipe,
        version=version,
        status=status,
        created=NOON - age * DAY,
        builds=(f"{recipe}-{version}",) if builds is None else tuple(builds),
        **changes,
    )


def make_lease(version, recipe="web", *, owner="ci", expires=None, released=None):
    return Lease(
        id=f"lease of {recipe}:{version}",
        recipe=recipe,
        version=version,
        owner=owner,
        actor="ann",
        reason=None,
        created=NOON,
        expires=expires,
        released=released,
    )


def list_going(evidence, table, **options):
    return [v.image.reference for v in decide(evidence, Retention(table=table), **options) if v.goes]


def explain(evidence, table, reference):
    verdicts = decide(evidence, Retention(table=table))
    return next(verdict for verdict in verdicts if verdict.image.reference == reference).detail


def make_evidence(*images, **known):
    return Evidence(now=NOON, images=images, **known)


FIVE = tuple(make_stored(version, age=60 - version) for version in range(1, 6))


# --- rules --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"keep_labels": ["keep"]},
        {"channels": {"prod": 1}},
        {"recipes": {"db": {"keep_last": 1}}},
    ],
)
def test_without_a_rule_of_number_or_age_nothing_goes(table):
    assert list_going(make_evidence(*FIVE), table) == []
    assert explain(make_evidence(*FIVE), table, "web:1") == "no retention rule for web"


def test_newest_versions_are_kept():
    assert list_going(make_evidence(*FIVE), {"keep_last": 2}) == ["web:3", "web:2", "web:1"]
    assert explain(make_evidence(*FIVE), {"keep_last": 2}, "web:5") == "among the newest 2"
    assert explain(make_evidence(*FIVE), {"keep_last": 2}, "web:1") == "not among the newest 2"


def test_fewer_versions_than_are_kept_all_stay():
    assert list_going(make_evidence(*FIVE), {"keep_last": 6}) == []


def test_revoked_versions_cost_no_good_one_its_place():
    bad = [replace(image, status=ImageStatus.REVOKED) for image in FIVE[3:]]
    evidence = make_evidence(*FIVE[:3], *bad)
    assert list_going(evidence, {"keep_last": 2}) == ["web:1"]


def test_younger_images_are_kept():
    evidence = make_evidence(make_stored(1, age=31), make_stored(2, age=30), make_stored(3, age=29.9))
    assert list_going(evidence, {"keep_younger": "30d"}) == ["web:2", "web:1"]
    assert explain(evidence, {"keep_younger": "30d"}, "web:1") == "older than 30d"
    assert list_going(evidence, {"keep_younger": "30d", "keep_last": 2}) == ["web:1"]


def test_image_of_the_future_is_young():
    assert list_going(make_evidence(make_stored(1, age=-5)), {"keep_younger": "1h"}) == []


@pytest.mark.parametrize(
    ("wanted", "kept"), [("keep", True), ("tier=gold", True), ("tier=iron", False), ("tie", False)]
)
def test_labelled_images_are_kept(wanted, kept):
    image = make_stored(1, labels={"keep": "", "tier": "gold"})
    evidence = make_evidence(image, make_stored(2))
    assert (list_going(evidence, {"keep_last": 1, "keep_labels": [wanted]}) == []) is kept


def test_rules_of_a_recipe_go_before_those_for_all():
    evidence = make_evidence(*FIVE, *(replace(image, recipe="db", builds=()) for image in FIVE))
    table = {"keep_last": 1, "recipes": {"db": {"keep_last": 4}}}
    assert list_going(evidence, table) == ["db:1", "web:4", "web:3", "web:2", "web:1"]


def test_only_named_recipes_go():
    evidence = make_evidence(*FIVE, *(replace(image, recipe="db", builds=()) for image in FIVE))
    verdicts = decide(evidence, Retention(table={"keep_last": 4}), recipes=["db"])
    assert [(v.image.reference, v.goes) for v in verdicts][-1] == ("db:1", True)
    assert {verdict.image.recipe for verdict in verdicts} == {"db"}


# --- needs --------------------------------------------------------------------------------------


def test_what_a_channel_holds_is_kept():
    evidence = make_evidence(*FIVE, channels={("web", 1): ("prod",), ("web", 5): ("latest",)})
    assert list_going(evidence, {"keep_last": 1}) == ["web:4", "web:3", "web:2"]
    assert explain(evidence, {"keep_last": 1}, "web:1") == "channel prod"
    assert explain(evidence, {"keep_last": 1}, "web:5") == "latest; among the newest 1"


@pytest.mark.parametrize(
    ("kept", "going"), [(None, ["web:2", "web:1"]), (1, ["web:3", "web:2", "web:1"]), (3, ["web:2"])]
)
def test_versions_that_a_channel_held_last_are_kept_for_roll_back(kept, going):
    evidence = make_evidence(
        *FIVE, channels={("web", 4): ("prod",)}, moves={("web", "prod"): (4, 3, 4, 9, 1, 2)}
    )
    table = {"keep_last": 1, "channels": {"prod": kept} if kept else {}}
    assert list_going(evidence, table) == going


def test_revoked_version_is_not_kept_for_roll_back():
    revoked = replace(FIVE[2], status=ImageStatus.REVOKED)
    evidence = make_evidence(
        *FIVE[:2], revoked, *FIVE[3:], channels={("web", 4): ("prod",)}, moves={("web", "prod"): (4, 3, 2)}
    )
    assert list_going(evidence, {"keep_last": 1}) == ["web:3", "web:1"]


def test_preview_that_no_channel_holds_goes_whatever_the_rules_say():
    images = (
        *FIVE,
        make_stored(6, preview="pr-1", age=1, labels={"keep": "yes"}),
        make_stored(7, preview="pr-2"),
    )
    evidence = make_evidence(*images, channels={("web", 7): ("pr-2",)})
    table = {"keep_last": 5, "keep_younger": "30d", "keep_labels": ["keep"]}
    assert list_going(evidence, table) == list_going(evidence, {}) == ["web:6"]
    assert explain(evidence, table, "web:6") == "baked for the preview pr-1, which holds it no more"
    assert explain(evidence, table, "web:7") == "channel pr-2"


def test_previews_take_no_ordinary_images_place_among_the_newest():
    evidence = make_evidence(*FIVE, make_stored(6, preview="pr-1"), make_stored(7, preview="pr-1"))
    assert list_going(evidence, {"keep_last": 3}) == ["web:7", "web:6", "web:2", "web:1"]


def test_fresh_preview_waits_a_day_for_its_channel_unless_that_has_moved_past_it():
    fresh = [make_stored(version, preview="pr-1", age=0) for version in (6, 7, 8)]
    evidence = make_evidence(*fresh, previews={("web", "pr-1"): 7})
    assert list_going(evidence, {}) == ["web:7", "web:6"]
    assert explain(evidence, {}, "web:8") == "just baked for the preview pr-1"
    assert list_going(replace(evidence, now=NOON + DAY), {}) == ["web:8", "web:7", "web:6"]


def test_preview_goes_where_an_ordinary_image_has_the_build_that_others_are_built_upon():
    base = [make_stored(1, "base", builds=["b"], preview="pr-1"), make_stored(2, "base", builds=["b"])]
    again = [make_stored(3, "base", builds=["b"], preview="pr-2")]
    evidence = make_evidence(*base, *again, make_stored(1), parents={"web-1": "b"})
    assert list_going(evidence, {}) == ["base:3", "base:1"]
    assert list_going(replace(evidence, images=(*base[:1], make_stored(1))), {}) == []


def test_leases_hold_until_they_end():
    leases = (
        make_lease(1),
        make_lease(2, expires=NOON + DAY, owner="env:web-prod"),
        make_lease(3, expires=NOON),
        make_lease(4, released=NOON - DAY),
    )
    evidence = make_evidence(*FIVE, leases=leases)
    assert list_going(evidence, {"keep_last": 1}) == ["web:4", "web:3"]
    assert explain(evidence, {"keep_last": 1}, "web:1") == "leased by ci without end"
    assert explain(evidence, {"keep_last": 1}, "web:2") == "environment web-prod"


def test_running_bake_holds_what_it_works_from_and_what_it_makes():
    making = make_stored(3, status=ImageStatus.REGISTERED, builds=["carried"])
    joined = make_stored(1, "db", builds=["bake-2"])
    bakes = (
        RunningBake(id="bake-1", recipe="web", uses=("web-2", "gone")),
        RunningBake(id="bake-2", recipe="db"),
    )
    others = [make_stored(version, recipe) for recipe in ("web", "db") for version in (8, 9)]
    evidence = make_evidence(make_stored(1), make_stored(2), making, joined, *others, bakes=bakes)
    assert list_going(evidence, {"keep_last": 1}) == ["db:8", "web:8", "web:1"]
    assert explain(evidence, {"keep_last": 1}, "web:2") == "bake bake-1 of web uses it"
    assert explain(evidence, {"keep_last": 1}, "web:3") == "bake bake-1 is making it"


def test_what_a_kept_image_is_built_upon_is_kept_all_the_way_down():
    images = [make_stored(version, recipe) for recipe in ("base", "mid", "top") for version in (1, 2, 3)]
    parents = {"top-1": "mid-1", "mid-1": "base-1", "top-2": "mid-2", "mid-2": "base-2"}
    evidence = make_evidence(*images, parents=parents, channels={("top", 1): ("prod",)})
    going = list_going(evidence, {"keep_last": 1})
    assert going == ["base:2", "mid:2", "top:2"]
    assert explain(evidence, {"keep_last": 1}, "base:1") == "mid:1 is built upon it"


def test_of_several_images_with_the_same_build_the_newest_usable_one_is_kept_for_its_descendants():
    base = [make_stored(version, "base", builds=["same"]) for version in (1, 2)]
    revoked = make_stored(3, "base", builds=["same"], status=ImageStatus.REVOKED)
    evidence = make_evidence(
        *base, revoked, make_stored(9, "base"), make_stored(1), parents={"web-1": "same"}
    )
    assert list_going(evidence, {"keep_last": 1}) == ["base:3", "base:1"]


def test_one_image_is_needed_by_what_would_stay():
    evidence = make_evidence(
        *FIVE, make_stored(1, "top"), parents={"top-1": "web-2"}, channels={("web", 5): ("latest",)}
    )
    retention = Retention(table={"keep_last": 3})

    def list_reasons(doomed):
        found = find_obstacles(evidence, retention, doomed)
        return {key: [reason.detail for reason in reasons] for key, reasons in found.items()}

    assert list_reasons({("web", 4)}) == {}
    assert list_reasons({("web", 5)}) == {("web", 5): ["latest"]}
    assert list_reasons({("web", 2)}) == {("web", 2): ["top:1 is built upon it"]}
    assert list_reasons({("web", 2), ("top", 1)}) == {}


def test_image_may_be_deleted_while_another_one_holds_its_build():
    images = [make_stored(version, "base", builds=["same"]) for version in (1, 2)]
    evidence = make_evidence(*images, make_stored(1), parents={"web-1": "same"})
    assert find_obstacles(evidence, Retention(), {("base", 2)}) == {}
    assert list(find_obstacles(evidence, Retention(), {("base", 1), ("base", 2)})) == [("base", 2)]


# --- whatever the rules and the graph -----------------------------------------------------------

RECIPES = ("base", "mid", "web")
RULES = st.fixed_dictionaries(
    {},
    optional={
        "keep_last": st.integers(1, 4),
        "keep_younger": st.sampled_from(["1d", "5d", "12d"]),
        "keep_labels": st.just(["keep"]),
        "channels": st.dictionaries(st.sampled_from(["prod", "dev"]), st.integers(1, 4)),
    },
)
TABLES = st.builds(
    lambda rules, own: {**rules, "recipes": own},
    RULES,
    st.dictionaries(st.sampled_from(RECIPES), RULES),
)


@st.composite
def worlds(draw):
    """Images of three recipes upon one another, some with the same builds, and whoever uses them."""
    images, parents, builds = [], {}, []
    for level, recipe in enumerate(RECIPES):
        for version in range(1, draw(st.integers(1, 5)) + 1):
            own = f"{recipe}-{version}"
            earlier = [build for build in builds if build.startswith(recipe)]
            lower = [build for build in builds if level and build.startswith(RECIPES[level - 1])]
            held = [draw(st.sampled_from(earlier))] if earlier and draw(st.booleans()) else [own]
            if held == [own]:
                builds.append(own)
                if lower:
                    parents[own] = draw(st.sampled_from(lower))
            images.append(
                make_stored(
                    version,
                    recipe,
                    age=draw(st.integers(0, 15)),
                    status=draw(st.sampled_from([s for s in ImageStatus if s != ImageStatus.DELETED])),
                    builds=held,
                    labels=draw(st.sampled_from([{}, {"keep": "yes"}])),
                    preview=draw(st.sampled_from([None, None, "pr-1"])),
                )
            )
    keys = [image.key for image in images]
    usable = [image.key for image in images if image.status in USABLE and image.preview is None]
    channels = dict.fromkeys(draw(st.lists(st.sampled_from(keys), max_size=2)), ("prod",))
    for recipe in RECIPES:
        if newest := max((key for key in usable if key[0] == recipe), default=None):
            channels[newest] = (*channels.get(newest, ()), "latest")
    leased = draw(st.lists(st.sampled_from(keys), max_size=2))
    ends = st.sampled_from([None, NOON - DAY, NOON + DAY])
    return Evidence(
        now=NOON,
        images=images,
        parents=parents,
        channels=channels,
        moves={(recipe, "prod"): draw(st.lists(st.integers(1, 5), max_size=5)) for recipe in RECIPES},
        previews={
            (recipe, "pr-1"): draw(st.integers(1, 5)) for recipe in draw(st.sets(st.sampled_from(RECIPES)))
        },
        leases=[make_lease(version, recipe, expires=draw(ends)) for recipe, version in leased],
        bakes=[
            RunningBake(id="new", recipe=draw(st.sampled_from(RECIPES)), uses=(build,))
            for build in draw(st.lists(st.sampled_from(builds), max_size=2))
        ],
    )


def forget(evidence, gone):
    """What is known after the images are deleted."""
    return replace(evidence, images=[image for image in evidence.images if image.key not in gone])


def going_of(evidence, table, **options):
    return {v.image.key for v in decide(evidence, Retention(table=table), **options) if v.goes}


@settings(max_examples=60, deadline=None)
@given(worlds(), TABLES)
def test_nothing_that_is_needed_ever_goes(world, table):
    gone = going_of(world, table)
    assert not gone & world.channels.keys()
    assert not gone & {(lease.recipe, lease.version) for lease in world.leases if lease.holds_at(NOON)}
    left = forget(world, gone).images
    there = {build for image in left for build in image.builds}
    before = {build for image in world.images for build in image.builds}
    for bake in world.bakes:
        assert there.issuperset(before.intersection(bake.uses))
        busy = {i.key for i in world.images if i.recipe == bake.recipe and i.status == "registered"}
        assert not gone & busy
    for build in there:
        assert world.parents.get(build, build) in there
    for (recipe, channel), versions in world.moves.items():
        usable = {
            image.version for image in world.images if image.recipe == recipe and image.status in USABLE
        }
        last = [version for version in dict.fromkeys(versions) if version in usable]
        kept = Retention(table=table).rules_for(recipe).kept_moves(channel)
        assert not gone & {(recipe, version) for version in last[:kept]}


@settings(max_examples=60, deadline=None)
@given(worlds(), TABLES)
def test_plan_after_the_plan_is_empty(world, table):
    assert going_of(forget(world, going_of(world, table)), table) == set()


@settings(max_examples=60, deadline=None)
@given(worlds(), TABLES, st.data())
def test_more_use_and_wider_rules_never_let_more_go(world, table, data):
    before = going_of(world, table)
    recipe, version = data.draw(st.sampled_from([image.key for image in world.images]))
    assert going_of(replace(world, leases=[*world.leases, make_lease(version, recipe)]), table) <= before
    wider = {key: value + 1 if key == "keep_last" else value for key, value in table.items()}
    assert going_of(world, wider) <= before
    assert going_of(world, {**table, "channels": {**table.get("channels", {}), "prod": 9}}) <= before
    older = {key: "13d" if key == "keep_younger" else value for key, value in table.items()}
    assert going_of(world, older) <= before
    assert going_of(world, table, recipes=[recipe]) <= before


@settings(max_examples=60, deadline=None)
@given(worlds(), TABLES)
def test_second_look_finds_nothing_against_the_plan(world, table):
    gone = going_of(world, table)
    assert recheck(world, Retention(table=table), gone, by_rules=True) == {}


@settings(max_examples=60, deadline=None)
@given(worlds(), st.data())
def test_one_image_without_obstacles_leaves_every_build_that_is_needed(world, data):
    key = data.draw(st.sampled_from([image.key for image in world.images]))
    if find_obstacles(world, Retention(), {key}):
        return
    left = forget(world, {key}).images
    there = {build for image in left for build in image.builds}
    assert key not in world.channels
    assert all(world.parents.get(build, build) in there for build in there)
