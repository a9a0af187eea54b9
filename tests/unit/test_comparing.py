"""The difference of two builds' contents, and what of it deserves a look."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baker.comparing import compare_contents, compare_manifests, find_notable, fold_differing
from baker.manifest import fold_layers
from baker.model import Manifest
from tests.factories import make_layer
from tests.unit.test_manifest import make_file, make_folder, make_manifest, make_package

# --- differences -------------------------------------------------------------------------------------------


def test_difference_names_every_kind_of_change():
    old = make_manifest(
        *(make_package("gone"), make_package("kept")),
        *(make_package("ssl", "3.0.9"), make_package("tz", "2025b")),
        *(make_file("/gone", "12345"), make_file("/kept"), make_file("/moved", "1"), make_file("/bits")),
    )
    new = make_manifest(
        *(make_package("added"), make_package("kept")),
        *(make_package("ssl", "3.0.11"), make_package("tz", "2025a")),
        *(make_file("/added", "12"), make_file("/kept"), make_file("/moved", "22")),
        make_file("/bits", mode=0o4755),
    )
    difference = compare_manifests(old, new)
    assert [package.name for package in difference.packages_added] == ["added"]
    assert [package.name for package in difference.packages_removed] == ["gone"]
    upgraded, downgraded = difference.packages_upgraded, difference.packages_downgraded
    assert [(one.old.version, one.new.version) for one in upgraded] == [("3.0.9", "3.0.11")]
    assert [(one.old.version, one.new.version) for one in downgraded] == [("2025b", "2025a")]
    assert [file.path for file in difference.files_added] == ["/added"]
    assert [file.path for file in difference.files_removed] == ["/gone"]
    assert [(one.old.path, one.new.mode) for one in difference.files_changed] == [
        ("/bits", 0o4755),
        ("/moved", 0o644),
    ]
    assert difference.size_delta == 2 - 5 + 1
    assert not difference.empty


def test_same_manifest_has_no_difference():
    manifest = make_manifest(make_package("a"), make_file("/a", "1"))
    difference = compare_manifests(manifest, manifest)
    assert difference.empty
    assert difference.size_delta == 0


def test_one_package_of_two_architectures_is_two_packages():
    both = [make_package("libc6"), make_package("libc6", arch="i386")]
    difference = compare_manifests(
        make_manifest(*both), make_manifest(both[0], replace(both[1], version="2"))
    )
    assert [one.new.arch for one in difference.packages_upgraded] == ["i386"]


def test_versions_installed_side_by_side_are_added_and_removed():
    one, two, three = (make_package("kernel", version, type="rpm") for version in ("6.1-1", "6.2-1", "6.3-1"))
    difference = compare_manifests(make_manifest(one, two), make_manifest(two, three))
    assert (difference.packages_added, difference.packages_removed) == ((three,), (one,))
    assert not difference.packages_upgraded


names = st.sampled_from(["libc6", "openssl", "bash", "nginx"])
versions = st.sampled_from(["1.0", "1.0~rc1", "1:0.1", "1.0-1+deb13u1"])
packages = st.dictionaries(names, versions).map(
    lambda found: [make_package(name, version) for name, version in found.items()]
)
files = st.dictionaries(st.sampled_from(["/a", "/b", "/c", "/d"]), st.text("xy", max_size=3)).map(
    lambda found: [make_file(path, text) for path, text in found.items()]
)
manifests = st.builds(lambda some, others: make_manifest(*some, *others), packages, files)


@given(manifests)
def test_nothing_differs_from_itself(manifest):
    difference = compare_manifests(manifest, manifest)
    assert difference.empty
    assert difference.size_delta == 0
    assert find_notable(difference) == []


@given(manifests, manifests)
def test_difference_the_other_way_round_is_the_reverse(old, new):
    there, back = compare_manifests(old, new), compare_manifests(new, old)
    assert there.packages_added == back.packages_removed
    assert there.files_added == back.files_removed
    assert [(one.old, one.new) for one in there.packages_upgraded] == [
        (one.new, one.old) for one in back.packages_downgraded
    ]
    assert [(one.old, one.new) for one in there.files_changed] == [
        (one.new, one.old) for one in back.files_changed
    ]
    assert there.size_delta == -back.size_delta


@given(manifests, manifests)
def test_difference_applied_to_the_old_one_gives_the_new_one(old, new):
    difference = compare_manifests(old, new)
    found = {file.path: file for file in old.files}
    for file in difference.files_removed:
        del found[file.path]
    found |= {file.path: file for file in difference.files_added}
    found |= {change.new.path: change.new for change in difference.files_changed}
    assert found == {file.path: file for file in new.files}
    left = set(old.packages) - set(difference.packages_removed) | set(difference.packages_added)
    for change in (*difference.packages_upgraded, *difference.packages_downgraded):
        left = left - {change.old} | {change.new}
    assert left == set(new.packages)


layers = st.builds(
    lambda removed, held: make_layer(*held, removed=sorted(removed)),
    st.sets(st.sampled_from(["/a", "/b"])),
    files,
)


@given(st.lists(layers, max_size=3), st.lists(layers, max_size=2), st.lists(layers, max_size=2))
def test_stacks_compare_as_the_manifests_they_fold_to(below, old, new):
    by_stacks = compare_contents((), (), *fold_differing([*below, *old], [*below, *new]))
    folded = (Manifest(packages=(), files=fold_layers([*below, *upper])) for upper in (old, new))
    assert by_stacks == compare_manifests(*folded)


# --- what deserves a look ---------------------------------------------------------------------------------


def judge(old, new):
    """Kind and detail of what is notable when one entry (or None) becomes another."""
    parts = [make_manifest(*([] if entry is None else [entry])) for entry in (old, new)]
    return [(one.kind, one.detail) for one in find_notable(compare_manifests(*parts))]


UNIT = make_file("/etc/systemd/system/web.service", "1")
WANTED = "/etc/systemd/system/multi-user.target.wants/web.service"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, make_file("/bin/su", mode=0o4755), [("setuid", "added setuid of 0")]),
        (make_file("/bin/x"), make_file("/bin/x", mode=0o4755), [("setuid", "became setuid of 0")]),
        (make_file("/bin/x", mode=0o4755), make_file("/bin/x"), [("setuid", "no longer setuid")]),
        (make_file("/bin/x", mode=0o4755), None, [("setuid", "removed")]),
        (
            make_file("/bin/x", "1", mode=0o2755, gid=42),
            make_file("/bin/x", "2", mode=0o2755, gid=42),
            [("setgid", "changed, setgid of 42")],
        ),
        (None, replace(make_folder("/srv/mail"), mode=0o2775), []),
        (
            None,
            make_file("/bin/ping", xattrs=(("security.capability", "01"),)),
            [("capability", "runs with capabilities of the kernel")],
        ),
        (None, make_file("/x", mode=0o666), [("world-writable", "everybody may write it")]),
        (None, replace(make_folder("/x"), mode=0o777), [("world-writable", "everybody may write it")]),
        (None, replace(make_folder("/tmp"), mode=0o1777), []),
        (make_file("/x", "1", mode=0o666), make_file("/x", "2", mode=0o666), []),
        (None, replace(make_file("/x"), kind="l", mode=0o777, link="y"), []),
        (None, UNIT, [("unit", "unit added")]),
        (UNIT, replace(UNIT, digest="2"), [("unit", "unit changed")]),
        (UNIT, None, [("unit", "unit removed")]),
        (None, make_file("/usr/lib/systemd/system/web.socket"), [("unit", "unit added, listens")]),
        (None, replace(UNIT, kind="l", link="/dev/null"), [("unit", "masked")]),
        (
            None,
            replace(UNIT, path=WANTED, kind="l"),
            [("unit", "web.service enabled (wants of multi-user.target)")],
        ),
        (
            replace(UNIT, path=WANTED, kind="l"),
            None,
            [("unit", "web.service disabled (wants of multi-user.target)")],
        ),
        (
            None,
            make_file("/etc/systemd/system/ssh.service.d/limits.conf"),
            [("unit", "settings of ssh.service added")],
        ),
        (
            make_file("/etc/passwd", "1"),
            make_file("/etc/passwd", "2"),
            [("accounts", "changed: users and groups")],
        ),
        (None, make_file("/etc/sudoers.d/web"), [("privileges", "added: who may become root")]),
        (None, make_file("/root/.ssh/authorized_keys"), [("login", "added: who may log in")]),
        (None, make_file("/etc/cron.d/job"), [("schedule", "added: what runs by the clock")]),
        (None, make_file("/usr/share/doc/etc/passwd"), []),
        (None, make_file("/etc/hostname"), []),
    ],
)
def test_what_matters_more_than_other_files_is_called_out(old, new, expected):
    assert judge(old, new) == expected
