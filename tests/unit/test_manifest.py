"""What is inside a build: its identity and its parts."""

import shutil
import subprocess
from dataclasses import replace

import pytest

from baker.layer import Layer
from baker.manifest import (
    fold_layers,
    manifest_digest,
    parse_dpkg_status,
    parse_rpm_list,
)
from baker.model import FileEntry, Manifest, Package


def make_file(path, text="", **changes):
    entry = FileEntry(path=path, kind="f", mode=0o644, uid=0, gid=0, size=len(text), digest=text)
    return replace(entry, **changes)


def make_folder(path):
    return FileEntry(path=path, kind="d", mode=0o755, uid=0, gid=0)


def make_package(name, version="1.0", **changes):
    package = Package(
        type="deb", name=name, version=version, arch="amd64", source=name, source_version=version
    )
    return replace(package, **changes)


def make_manifest(*parts):
    packages = tuple(part for part in parts if isinstance(part, Package))
    return Manifest(packages=packages, files=tuple(part for part in parts if isinstance(part, FileEntry)))


# --- digest -----------------------------------------------------------------------------------------


def test_digest_is_that_of_the_documented_text():
    files = [
        make_file("/etc/motd", mode=0o4755, uid=1, gid=2, size=5, digest="ab", xattrs=(("user.x", "00ff"),))
    ]
    packages = [make_package("libc6", "2.41-12", source="glibc")]
    text = (
        b"baker manifest 1\n"
        b"package\0deb\0libc6\x002.41-12\0amd64\0glibc\x002.41-12\0\n"
        b"file\0/etc/motd\0f\x004755\x001\x002\x005\0ab\0\0user.x\x0000ff\0\n"
    )
    expected = (
        subprocess.run(["sha256sum"], input=text, capture_output=True, check=True).stdout.decode().split()[0]
    )
    assert manifest_digest(make_manifest(*files, *packages)) == f"sha256:{expected}"


def test_digest_does_not_depend_on_the_order_of_what_is_inside():
    xattrs = (("user.a", "01"), ("user.b", "02"))
    parts = [make_file("/b", xattrs=xattrs), make_file("/a"), make_package("x"), make_package("a")]
    reordered = [make_package("a"), make_file("/a"), make_file("/b", xattrs=xattrs[::-1]), make_package("x")]
    assert manifest_digest(make_manifest(*parts)) == manifest_digest(make_manifest(*reordered))


FILE = make_file("/a", "text", link="x")


@pytest.mark.parametrize(
    "changed",
    [
        replace(FILE, path="/b"),
        replace(FILE, kind="d"),
        replace(FILE, mode=0o4644),
        replace(FILE, uid=1),
        replace(FILE, gid=1),
        replace(FILE, size=5),
        replace(FILE, digest="texd"),
        replace(FILE, link="y"),
        replace(FILE, xattrs=(("security.capability", "01"),)),
    ],
)
def test_every_field_of_a_file_is_part_of_the_identity(changed):
    assert manifest_digest(make_manifest(FILE)) != manifest_digest(make_manifest(changed))


@pytest.mark.parametrize("field", ["type", "name", "version", "arch", "source", "source_version"])
def test_every_field_of_a_package_is_part_of_the_identity(field):
    package = make_package("a")
    changed = replace(package, **{field: getattr(package, field) + "x"})
    assert manifest_digest(make_manifest(package)) != manifest_digest(make_manifest(changed))


def test_fields_never_run_into_one_another():
    sneaky = make_file("/a\n", digest="x")
    assert manifest_digest(make_manifest(make_file("/a", link="b", digest=""))) != manifest_digest(
        make_manifest(make_file("/a", link="", digest="b"))
    )
    assert manifest_digest(make_manifest(sneaky)) != manifest_digest(
        make_manifest(make_file("/a", digest="x"))
    )


def test_path_that_is_not_utf8_has_a_digest():
    path = b"/caf\xe9".decode("utf-8", "surrogateescape")
    assert manifest_digest(make_manifest(make_file(path))) != manifest_digest(
        make_manifest(make_file("/café"))
    )


# --- dpkg's status file ---------------------------------------------------------------------------------

STATUS = """\
Package: libc6
Status: install ok installed
Priority: optional
Architecture: amd64
Multi-Arch: same
Source: glibc
Version: 2.41-12
Description: GNU C Library
 Contains the standard libraries.
 Version: this is text

Package: bash
Status: install ok installed
Architecture: amd64
Source: bash (5.2.37-2)
Version: 5.2.37-2+b5

Package: held
Status: hold ok installed
Architecture: all
Version: 1:3

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: half
Status: install ok half-installed
Architecture: amd64
Version: 1
"""


def test_installed_packages_are_read_with_their_sources():
    assert parse_dpkg_status(STATUS) == (
        make_package("bash", "5.2.37-2+b5", source_version="5.2.37-2"),
        make_package("held", "1:3", arch="all"),
        make_package("libc6", "2.41-12", source="glibc"),
    )


def test_empty_status_file_has_no_packages():
    assert parse_dpkg_status("") == ()
    assert parse_dpkg_status("\n\n\n") == ()


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="needs dpkg")
def test_this_machine_is_read_as_dpkg_itself_reads_it():
    with open("/var/lib/dpkg/status", encoding="utf-8") as file:  # noqa: PTH123
        packages = parse_dpkg_status(file.read())
    form = "${db:Status-Status} ${Package} ${Version} ${Architecture} ${source:Package} ${source:Version}\n"
    answer = subprocess.run(
        ["dpkg-query", "-W", "-f", form], capture_output=True, text=True, check=True
    ).stdout
    installed = [line.split()[1:] for line in answer.splitlines() if line.startswith("installed ")]
    read = [[one.name, one.version, one.arch, one.source, one.source_version] for one in packages]
    assert sorted(read) == sorted(installed)


# --- rpm -------------------------------------------------------------------------------------------------

RPMS = """\
openssl-libs\t1:3.0.7-27.el9\tx86_64\topenssl-3.0.7-27.el9.src.rpm
bash\t0:5.1.8-9.el9\tx86_64\tbash-5.1.8-9.el9.src.rpm
gpg-pubkey\t0:8483c65d-5ccc5b19\t(none)\t(none)
vendor-agent\t0:7.1-1\tnoarch\t(none)
vendor-driver\t0:2-1.fusion\tx86_64\tvendor-x-2-1.fusion.nosrc.rpm
"""


def make_rpm(name, version, source=None, source_version=None, arch="x86_64"):
    return make_package(
        name,
        version,
        type="rpm",
        arch=arch,
        source=source or name,
        source_version=source_version or version,
    )


def test_rpm_packages_are_read_with_their_sources_and_without_keys():
    assert parse_rpm_list(RPMS) == (
        make_rpm("bash", "5.1.8-9.el9"),
        make_rpm("openssl-libs", "1:3.0.7-27.el9", "openssl", "3.0.7-27.el9"),
        make_rpm("vendor-agent", "7.1-1", arch="noarch"),
        make_rpm("vendor-driver", "2-1.fusion", "vendor-x", "2-1.fusion"),
    )


def test_rpm_line_that_is_cut_is_refused():
    with pytest.raises(ValueError, match="unpack"):
        parse_rpm_list(RPMS[:-40])


# --- layers ------------------------------------------------------------------------------------------------


def fold(*layers):
    """Each layer is (removed, files); returns path -> digest."""
    stack = [
        Layer(digest=str(number), removed=tuple(removed), files=tuple(files))
        for number, (removed, files) in enumerate(layers)
    ]
    return {file.path: file.digest for file in fold_layers(stack)}


BELOW = [make_folder("/etc"), make_folder("/etc/x"), make_file("/etc/x/a", "1"), make_file("/etc/xyz", "2")]


def test_upper_file_covers_the_lower_one():
    assert fold(([], BELOW), ([], [make_file("/etc/x/a", "new")]))["/etc/x/a"] == "new"


def test_removed_folder_takes_what_is_below_and_nothing_that_only_starts_alike():
    assert set(fold(([], BELOW), (["/etc/x"], []))) == {"/etc", "/etc/xyz"}


def test_removal_comes_before_the_files_of_its_own_layer():
    folded = fold(([], BELOW), (["/etc/x"], [make_folder("/etc/x"), make_file("/etc/x/b", "3")]))
    assert set(folded) == {"/etc", "/etc/x", "/etc/x/b", "/etc/xyz"}


def test_file_in_place_of_a_folder_hides_what_was_below():
    folded = fold(([], BELOW), ([], [make_file("/etc/x", "now a file")]))
    assert folded == {"/etc": "", "/etc/x": "now a file", "/etc/xyz": "2"}


def test_folder_that_changed_its_mode_keeps_what_is_below():
    assert "/etc/x/a" in fold(([], BELOW), ([], [replace(make_folder("/etc/x"), mode=0o700)]))


def test_everything_can_be_removed():
    assert fold(([], [make_folder("/"), *BELOW]), (["/"], [])) == {}


def test_files_come_sorted_by_path():
    assert list(fold(([], [make_file("/b"), make_file("/a")]), ([], [make_file("/a-a")]))) == [
        "/a",
        "/a-a",
        "/b",
    ]
