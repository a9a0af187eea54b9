"""What a gate lets through, and what it says about the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baker.errors import UsageError
from baker.gates import (
    LABEL,
    NO_REVOKED_ANCESTOR,
    OPEN,
    TESTS,
    Gate,
    check_requirement,
    describe_gate,
    find_missing,
    gate_rules,
    join_gates,
    parse_rules,
    read_gate,
    require_actor,
)
from baker.model import Image, ImageStatus
from tests.factories import NOON, make_build

HOUR = 3600


def make_image(*, tests=None, labels=None, revoked=(), channels=(), builds=None):
    return Image(
        recipe="web",
        version=12,
        status=ImageStatus.AVAILABLE,
        complete=True,
        created=NOON,
        channels=channels,
        builds=(make_build(image_tests=tests),) if builds is None else builds,
        labels=labels or {},
        revoked_ancestors=revoked,
    )


GOOD = make_image(tests={"test_image.py": "sha256:1"}, labels={"approved-by": "ann"})


def said(gate, image, held=None):
    return [missing.what for missing in find_missing(gate, image, held or {})]


def test_open_gate_lets_everything_through():
    assert find_missing(OPEN, make_image(builds=(), revoked=("base:3",)), {}) == ()
    require_actor(OPEN, "web:prod", "anybody")


@pytest.mark.parametrize(
    ("rule", "image", "missing"),
    [
        (TESTS, GOOD, []),
        (TESTS, make_image(tests={}), ["no image tests passed on local/amd64"]),
        (TESTS, make_image(tests=None), ["no image tests passed on local/amd64"]),
        (TESTS, make_image(builds=()), ["no image tests passed on any build of it"]),
        (NO_REVOKED_ANCESTOR, GOOD, []),
        (
            NO_REVOKED_ANCESTOR,
            make_image(revoked=("base:3",)),
            ["it is built upon base:3, which is revoked"],
        ),
        ("label:approved-by", GOOD, []),
        ("label:approved-by=ann", GOOD, []),
        ("label:approved-by=bob", GOOD, ["its label approved-by is ann, not bob"]),
        ("label:approved-by", make_image(), ["it has no label approved-by=…"]),
    ],
)
def test_requirement_is_met_or_named(rule, image, missing):
    assert said(Gate(require=frozenset({rule})), image) == missing


def test_one_build_without_tests_is_enough_to_be_refused():
    tested, untested = make_build(image_tests={"t": "1"}), make_build(target="aws", image_tests={})
    image = make_image(builds=(tested, untested))
    assert said(Gate(require=frozenset({TESTS})), image) == ["no image tests passed on aws/amd64"]


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        ({}, ["staging never held it"]),
        ({"dev": 99 * HOUR}, ["staging never held it"]),
        ({"staging": HOUR}, ["staging held it for 1h, and 24h are asked"]),
        ({"staging": 24 * HOUR - 0.001}, ["staging held it for 23h, and 24h are asked"]),
        ({"staging": 24 * HOUR}, []),
    ],
)
def test_image_must_have_stayed_long_enough_in_the_channel_before(held, missing):
    assert said(Gate(after={"staging": 24 * HOUR}), GOOD, held) == missing


def test_without_soak_any_stay_is_enough():
    assert said(Gate(after={"staging": 0}), GOOD, {"staging": 0.0}) == []
    assert said(Gate(after={"staging": 0}), GOOD) == ["staging never held it"]


def test_remedy_of_a_short_stay_is_to_wait_or_to_promote_there_again():
    gate = Gate(after={"staging": 2 * HOUR})
    there = replace(GOOD, channels=("staging",))
    assert find_missing(gate, there, {"staging": HOUR})[0].remedy == "Try it again in 60m"
    assert "baker promote web:12 staging" in find_missing(gate, GOOD, {"staging": HOUR})[0].remedy


def test_everything_that_is_missing_is_said_at_once():
    gate = Gate(after={"staging": HOUR}, require=frozenset({TESTS, NO_REVOKED_ANCESTOR, "label:approved-by"}))
    assert len(said(gate, make_image(revoked=("base:3",)))) == 4


def test_nobody_else_moves_a_channel_that_is_for_some_only():
    gate = Gate(only=frozenset({"ann", "ci"}))
    require_actor(gate, "web:prod", "ci")
    with pytest.raises(UsageError, match=r"bob may not move web:prod: .* only by ann, ci"):
        require_actor(gate, "web:prod", "bob")
    with pytest.raises(UsageError, match="nobody"):
        require_actor(join_gates([gate, Gate(only=frozenset({"bob"}))]), "web:prod", "ann")


@pytest.mark.parametrize(
    "rule", ["", "test", "tests ", "label:", "label:a b", "label:-", "label:k=", "label:k=a\nb"]
)
def test_requirement_that_no_gate_knows_is_refused(rule):
    with pytest.raises(UsageError, match="nothing that a gate can require"):
        check_requirement(rule)


def test_gate_of_the_project_file():
    table = {"after": "staging", "soak": "24h", "require": ["tests", "label:approved-by"]}
    gate = read_gate(table)
    assert gate == Gate(after={"staging": 24 * HOUR}, require=frozenset({"tests", "label:approved-by"}))
    assert describe_gate(gate) == "after staging for 24h, label:approved-by, tests"
    assert read_gate({}) == OPEN
    assert read_gate({}).empty


# --- whatever the rules ---------------------------------------------------------------------------------

channels = st.sampled_from(["dev", "qa", "staging"])
requirements = st.sampled_from([TESTS, NO_REVOKED_ANCESTOR, "label:a", "label:a=1", "label:b"])
actors = st.sampled_from(["ann", "bob", "ci"])
gates = st.builds(
    Gate,
    after=st.dictionaries(channels, st.integers(0, 5), max_size=2),
    require=st.frozensets(requirements),
    only=st.none() | st.frozensets(actors),
)
images = st.builds(
    make_image,
    tests=st.none() | st.dictionaries(st.sampled_from("xy"), st.just("1"), max_size=1),
    labels=st.dictionaries(st.sampled_from("ab"), st.sampled_from("12"), max_size=2),
    revoked=st.sampled_from([(), ("base:3",)]),
)
stays = st.dictionaries(channels, st.floats(0, 6), max_size=3)


def meets(requirement, image):
    if requirement == TESTS:
        return all(build.image_tests for build in image.builds)
    if requirement == NO_REVOKED_ANCESTOR:
        return image.revoked_ancestors == ()
    key, _, value = requirement.removeprefix(LABEL).partition("=")
    return image.labels.get(key) == value if value else key in image.labels


@given(gates, images, stays)
def test_gate_lets_through_exactly_what_lacks_nothing(gate, image, held):
    stayed = all(held.get(channel, -1) >= soak for channel, soak in gate.after.items())
    met = all(meets(requirement, image) for requirement in gate.require)
    assert (find_missing(gate, image, held) == ()) == (stayed and met)


@given(st.lists(gates, max_size=3), images, stays)
def test_joined_gate_lets_through_only_what_each_does(several, image, held):
    joined = join_gates(several)
    passes = [find_missing(gate, image, held) == () for gate in several]
    assert (find_missing(joined, image, held) == ()) == all(passes)


@given(st.lists(gates, max_size=3), actors)
def test_joined_gate_is_moved_only_by_whom_each_lets(several, actor):
    def may(gate):
        try:
            require_actor(gate, "web:prod", actor)
        except UsageError:
            return False
        return True

    assert may(join_gates(several)) == all(may(gate) for gate in several)


@given(gates)
def test_gate_survives_the_catalog(gate):
    assert parse_rules(gate_rules(gate)) == gate
