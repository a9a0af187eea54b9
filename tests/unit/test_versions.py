"""The order of package versions, against dpkg itself, and questions about packages."""

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baker.errors import UsageError
from baker.versions import PackageQuestion, compare_versions
from tests.factories import make_package


@pytest.mark.parametrize(
    ("kind", "left", "right"),
    [
        ("deb", "1.0~rc1", "1.0"),
        ("deb", "1.9", "1.10"),
        ("deb", "2.0", "1:1.0"),
        ("deb", "1.0-1", "1.0-1+deb13u1"),
        ("rpm", "1.0~rc1-1", "1.0-1"),
        ("rpm", "9:1.0-1", "10:0.1-1"),
        ("deb", "1:2:3", "1:2:4"),
    ],
)
def test_versions_are_ordered_as_their_package_manager_does(kind, left, right):
    assert compare_versions(kind, left, right) < 0 < compare_versions(kind, right, left)
    assert compare_versions(kind, left, left) == 0


upstream = st.from_regex(r"[0-9][0-9a-cA-Z.+~]{0,6}", fullmatch=True)
revision = st.one_of(st.just(""), st.from_regex(r"-[0-9a-c+.~]{1,4}", fullmatch=True))
epoch = st.sampled_from(["", "0:", "1:"])
versions = st.builds("{}{}{}".format, epoch, upstream, revision)
suffixes = st.sampled_from(["", "~", "+b1", "+deb13u1", "+deb13u10", "~bpo12+1", "-1", "-1.1", "0", "."])
relatives = st.builds(lambda version, *ends: [version + end for end in ends], versions, suffixes, suffixes)
pairs = st.one_of(st.tuples(versions, versions), relatives.map(tuple))

ASK_DPKG = """
while read -r left right; do
  if dpkg --compare-versions "$left" lt "$right"; then echo -1
  elif dpkg --compare-versions "$left" eq "$right"; then echo 0
  else echo 1; fi
done
"""


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="needs dpkg")
@settings(deadline=None, max_examples=12)
@given(st.lists(pairs, min_size=20, max_size=30))
def test_debian_version_order_is_that_of_dpkg(asked):
    lines = "".join(f"{left} {right}\n" for left, right in asked)
    done = subprocess.run(["sh", "-c", ASK_DPKG], input=lines, capture_output=True, text=True, check=True)
    found = [compare_versions("deb", left, right) for left, right in asked]
    assert [(found > 0) - (found < 0) for found in found] == [int(line) for line in done.stdout.split()]


@given(st.sampled_from(["deb", "rpm"]), st.lists(versions, min_size=3, max_size=3))
def test_order_is_one_order(kind, three):
    one, two, three = three
    assert compare_versions(kind, one, two) == -compare_versions(kind, two, one)
    if compare_versions(kind, one, two) <= 0 and compare_versions(kind, two, three) <= 0:
        assert compare_versions(kind, one, three) <= 0


def test_forbidden_version_is_compared_as_text():
    assert compare_versions("deb", "unknown", "unknowo") < 0 < compare_versions("deb", "z", "1.0")


# --- questions ------------------------------------------------------------------------------------------

OPENSSL = make_package("libssl3t64", "3.0.14-1+b2", source="openssl", source_version="3.0.14-1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("openssl", True),
        ("libssl3t64", True),
        ("lib*ssl*", True),
        ("libssl3", False),
        ("openssl<3.0.15", True),
        ("openssl < 3.0.15", True),
        ("openssl<3.0.14", False),
        ("openssl=3.0.14-1", True),
        ("libssl3t64=3.0.14-1", False),
        ("libssl3t64=3.0.14-1+b2", True),
        ("libssl3t64>3.0.14-1", True),
        ("openssl>3.0.14-1", False),
        ("openssl>=3.0,<3.0.15", True),
        ("openssl>=3.0.15,<3.1", False),
        ("openssl=3.0.*", True),
        ("openssl!=3.0.*", False),
        ("openssl!=3.1.*", True),
        ("open[st]sl<=3.0.14-1", True),
        ("openssl!=3.0.14-1", False),
    ],
)
def test_question_means_packages_by_name_source_and_version(text, expected):
    assert PackageQuestion.parse(text).is_met(OPENSSL) is expected


@pytest.mark.parametrize("text", ["", "<3", "a<", "a<b<c", "a<1,", "a,b", "a b", "a=<1", "a<1.*", "a>=1;2 3"])
def test_what_is_no_question_is_refused_with_an_example(text):
    with pytest.raises(UsageError) as caught:
        PackageQuestion.parse(text)
    assert repr(text) in str(caught.value)
