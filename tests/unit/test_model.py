"""References, and what hangs on the nouns."""

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baker.errors import BadReference
from baker.model import Reference

words = st.text(string.ascii_lowercase, min_size=1, max_size=6)
digits = st.text(string.digits, max_size=3)
names = st.builds("-".join, st.lists(st.builds(str.__add__, words, digits), min_size=1, max_size=3))
tags = st.one_of(
    st.none(),
    st.integers(1, 999_999_999),
    st.builds(
        lambda parts, mark: mark.join(parts), st.lists(words, min_size=1, max_size=3), st.sampled_from("._-")
    ),
)


@given(names, tags)
def test_reference_survives_being_written_and_read(name, tag):
    text = name if tag is None else f"{name}:{tag}"
    reference = Reference.parse(text)
    assert str(reference) == text
    assert reference.recipe == name
    assert (reference.version or reference.channel) == tag


@given(names, st.text("0123456789abcdef", min_size=4, max_size=64))
def test_digest_reference_survives_being_written_and_read(name, digits):
    reference = Reference.parse(f"{name}@sha256:{digits}")
    assert reference == Reference(recipe=name, digest=f"sha256:{digits}")
    assert str(reference) == f"{name}@sha256:{digits}"


@given(st.text(max_size=12))
def test_any_text_is_a_reference_that_writes_itself_or_is_refused(text):
    with contextlib.suppress(BadReference):
        assert str(Reference.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "Web", "we b", "-web", "web-", "web\n"),
        *("web:", "web:0", "web:01", "web:1111111111", "web:1:2", "web:Prod", "web:12\n", "web:prod\n"),
        *("web@", "web@sha256:ab1", "web@sha256:xyzw", "web@sha256:abcd\n", "web@md5:abcd"),
    ],
)
def test_malformed_reference_is_refused_with_the_accepted_forms(text):
    with pytest.raises(BadReference) as caught:
        Reference.parse(text)
    assert caught.value.hint == "A reference is web, web:12, web:prod or web@sha256:ab12…"
    assert caught.value.exit_code == 2
