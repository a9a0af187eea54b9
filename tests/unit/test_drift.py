"""What counts as drift, said in words; and what the kernel's texts mean."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from baker.deploy.allowed import MADE_AT_BOOT, NEVER, STATE, Patterns, translate
from baker.deploy.drift import Expected, born, find_drift
from baker.deploy.observation import (
    Observation,
    Port,
    mask_hashes,
    name_unit,
    parse_mounts,
    parse_ports,
    socket_inode,
)
from baker.deploy.users import compare_users
from baker.model import FileEntry, Manifest, Package

HASHES = {letter: letter * 64 for letter in "abc"}
PASSWD = "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000::/home/alice:/bin/sh\n"


def file(path: str, content: str = "a", **values: Any) -> FileEntry:
    digest = HASHES.get(content, "") if values.get("kind", "f") == "f" else ""
    made = {"kind": "f", "mode": 0o644, "uid": 0, "gid": 0, "size": 1, "digest": digest, **values}
    return FileEntry(path=path, **made)


def folder(path: str) -> FileEntry:
    return file(path, kind="d", mode=0o755, size=0)


def package(name: str, version: str = "1") -> Package:
    return Package(type="deb", name=name, version=version, arch="amd64", source=name, source_version=version)


IMAGE = Manifest(
    packages=(package("curl"), package("nginx")),
    files=(
        folder("/etc"),
        file("/etc/cron.d/daily"),
        file("/etc/passwd"),
        folder("/srv"),
        file("/srv/a"),
        file("/srv/b"),
        file("/usr/bin/curl", mode=0o755, size=10),
        file("/usr/lib/systemd/system/getty@.service"),
        file("/usr/lib/systemd/system/nginx.service"),
        file("/usr/sbin/nginx", mode=0o755),
        file("/usr/bin/awk", kind="l", link="/etc/alternatives/awk", size=0, mode=0o777),
        file("/var/log/some.log"),
    ),
)


def observe(*files: FileEntry, **values: Any) -> Observation:
    made = {"full": False, "packages": IMAGE.packages, "files": files, "gone": (), **values}
    return Observation(**made)


def messages(*files: FileEntry, expected: Expected | None = None, **values: Any) -> list[str]:
    found = find_drift(IMAGE, observe(*files, **values), expected or Expected())
    return [drift.message for drift in found]


def remember(*files: FileEntry, **values: Any) -> Expected:
    """What is expected of a machine that was born like this, through the catalog's JSON."""
    return Expected(born=json.loads(json.dumps(born(observe(*files, **values)))))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (file("/usr/bin/curl", "b", mode=0o755, size=10), ["file /usr/bin/curl: content changed"]),
        (file("/usr/bin/curl", "", mode=0o755, size=11), ["file /usr/bin/curl: content changed"]),
        (file("/usr/bin/curl", "", mode=0o755, size=10), []),
        (file("/usr/bin/curl", mode=0o777, size=10), ["file /usr/bin/curl: mode 0777, was 0755"]),
        (
            file("/usr/bin/curl", mode=0o4755, size=10),
            ["file /usr/bin/curl: runs as its owner (setuid of 0)"],
        ),
        (
            file("/usr/bin/curl", mode=0o755, size=10, gid=7),
            ["file /usr/bin/curl: belongs to 0:7, did to 0:0"],
        ),
        (
            file("/usr/bin/curl", mode=0o755, size=10, xattrs=(("security.capability", "01"),)),
            ["file /usr/bin/curl: runs with capabilities of the kernel"],
        ),
        (
            file("/usr/bin/curl", mode=0o755, size=10, xattrs=(("system.posix_acl_access", "01"),)),
            ["file /usr/bin/curl: access list added"],
        ),
        (
            file("/usr/bin/curl", kind="l", link="/tmp/x", size=0, mode=0o777),
            ["link /usr/bin/curl: is a link to /tmp/x, was a file"],
        ),
        (
            file("/usr/bin/awk", kind="l", link="/tmp/x", size=0, mode=0o777),
            ["link /usr/bin/awk: leads to /tmp/x, led to /etc/alternatives/awk"],
        ),
        (file("/usr/bin/new"), ["file /usr/bin/new: added"]),
        (folder("/usr/new"), ["folder /usr/new: added"]),
        (
            file("/srv/disk", kind="b", link="8:0", size=0),
            ["device /srv/disk: added (b 8:0)"],
        ),
        (file("/dev/null", kind="c", link="1:3", size=0), []),
        (file("/dev/.hidden"), ["file /dev/.hidden: added"]),
        (file("/var/log/some.log", "b"), []),
        (file("/var/log/sh", mode=0o4755), ["file /var/log/sh: runs as its owner (setuid of 0)"]),
        (
            file("/etc/systemd/system/x.service", kind="l", link="/dev/null", size=0),
            ["file /etc/systemd/system/x.service: masked"],
        ),
        (
            file("/etc/sudoers.d/x"),
            ["file /etc/sudoers.d/x: added (who may become root)"],
        ),
    ],
)
def test_what_became_of_a_path_is_said_in_words(entry: FileEntry, said: list[str]) -> None:
    assert messages(entry) == said


def test_what_is_gone_is_named_once_with_all_that_was_in_it() -> None:
    assert messages(gone=("/srv",)) == ["folder /srv: removed"]
    assert messages(gone=("/srv/a", "/var/log/some.log")) == ["file /srv/a: removed"]
    assert messages(folder("/srv"), file("/srv/b"), gone=("/srv",)) == ["file /srv/a: removed"]


def test_where_every_path_is_listed_what_is_not_there_is_gone() -> None:
    listed = [entry for entry in IMAGE.files if entry.path != "/srv/a"]
    assert messages(*listed, whole=True) == ["file /srv/a: removed"]


def test_what_a_machine_was_born_with_is_no_drift_but_for_programs() -> None:
    made = (file("/etc/site.conf"), file("/usr/bin/curl", "b", mode=0o755, size=10))
    assert messages(*made, expected=remember(*made)) == ["file /usr/bin/curl: content changed"]
    assert messages(file("/etc/site.conf", "b"), expected=remember(*made)) == ["file /etc/site.conf: added"]


def test_files_of_the_first_boot_have_to_hold_what_it_writes() -> None:
    expected = Expected(first_boot={"/etc/site.conf": HASHES["a"]})
    assert messages(file("/etc/site.conf"), expected=expected) == []
    assert messages(file("/etc/site.conf", "b"), expected=expected) == ["file /etc/site.conf: added"]


def test_pattern_does_not_reach_where_things_are_started_but_a_whole_name_does() -> None:
    entry = file("/etc/cron.d/evil")
    said = ["file /etc/cron.d/evil: added (what runs by the clock)"]
    assert messages(entry, expected=Expected(allow=["/etc/**"])) == said
    assert messages(entry, expected=Expected(allow=["/etc/cron.d/evil"])) == []
    assert messages(file("/srv/x/y"), expected=Expected(allow=["/srv/**"])) == []
    assert messages(file("/srv/x/y"), expected=Expected(allow=["/srv/*"])) == ["file /srv/x/y: added"]


def test_packages_are_compared_by_version() -> None:
    now = (package("curl", "2"), package("evil"))
    assert messages(packages=now) == [
        "package curl is 2, was 1",
        "package evil 1 installed",
        "package nginx 1 removed",
    ]


NGINX = Port(protocol="tcp", port=80, program="/usr/sbin/nginx")


@pytest.mark.parametrize(
    ("port", "said"),
    [
        (NGINX, []),
        (replace(NGINX, port=4444, program="/usr/bin/nc"), ["port tcp/4444 opened by /usr/bin/nc"]),
        (replace(NGINX, port=4444, program=""), ["port tcp/4444 opened by nobody known"]),
        (replace(NGINX, program="/x"), ["port tcp/80 opened by /x, was by /usr/sbin/nginx"]),
        (replace(NGINX, port=8081), ["port tcp/8081 open to others, was to the machine alone"]),
        (replace(NGINX, port=9100, program="/x"), []),
        (replace(NGINX, protocol="udp", port=40000), []),
        (
            replace(NGINX, protocol="udp", port=40000, program="/x"),
            ["port udp/40000 opened by /x"],
        ),
    ],
)
def test_ports_are_those_that_were_there_or_are_allowed(port: Port, said: list[str]) -> None:
    ports = (NGINX, replace(NGINX, port=8081, local=True))
    before = remember(ports=ports, processes=("/usr/sbin/nginx",))
    assert messages(ports=(port,), expected=replace(before, ports=[9100])) == said


def test_where_nobody_knows_what_listened_a_port_has_to_be_of_the_image() -> None:
    assert messages(ports=(NGINX,)) == []
    assert messages(ports=(replace(NGINX, program="/tmp/x"),)) == ["port tcp/80 opened by /tmp/x"]


def test_processes_run_what_the_image_holds() -> None:
    running = ("/usr/sbin/nginx", "/tmp/x", "/srv/y (deleted)", "/memfd:z (deleted)")
    covered = "/usr/bin/curl (not the file of the root file system)"
    assert messages(processes=(*running, covered)) == [
        "process /memfd:z runs, and was deleted",
        "process /srv/y runs, and was deleted",
        "process /tmp/x runs, and is no file of the image",
        "process /usr/bin/curl runs, and is another file there",
    ]
    assert messages(processes=running, expected=remember(processes=running)) == []


def test_units_are_of_the_image_or_were_there() -> None:
    units = dict.fromkeys(
        ("nginx.service", "getty@tty1.service", "session-1.scope", "evil.service"), "active"
    )
    assert messages(units=units) == ["unit evil.service runs, and is none of the image"]
    assert messages(units=units, expected=remember(units=units)) == []


def test_mounts_are_those_of_every_machine_or_were_there() -> None:
    usual = {"/proc": "proc proc", "/run/user/0": "tmpfs tmpfs", "/etc/resolv.conf": "ext4 /dev/vda[/x]"}
    over = {"/usr/bin/curl": "overlay overlay[/bin/true]", "/proc/version": "overlay overlay[/x]"}
    assert messages(mounts=usual) == []
    assert [line.split(" covers")[0] for line in messages(mounts={**usual, **over})] == [
        "mount /proc/version",
        "mount /usr/bin/curl",
    ]
    before = remember(mounts=usual)
    assert messages(mounts={}, expected=before) == ["mount /etc/resolv.conf is gone"]
    assert messages(mounts={**usual, "/etc/resolv.conf": "tmpfs x"}, expected=before) == [
        "mount /etc/resolv.conf covers what the image holds there (tmpfs x, was ext4 /dev/vda[/x])"
    ]


def test_users_are_compared_by_what_their_lines_mean() -> None:
    before = remember(file("/etc/passwd", "b"), texts={"/etc/passwd": PASSWD})
    now = PASSWD.replace("/bin/sh", "/bin/bash") + "mallory:x:0:0::/:/bin/sh\n"
    told = messages(file("/etc/passwd", "c"), texts={"/etc/passwd": now}, expected=before)
    assert told == ["user alice has shell /bin/bash, had /bin/sh", "user mallory added (uid 0)"]
    other_comment = PASSWD.replace("root:/root", "Root:/root")
    assert messages(file("/etc/passwd", "c"), texts={"/etc/passwd": other_comment}, expected=before) == []
    allowed = replace(before, users=["mallory", "alice"])
    assert messages(file("/etc/passwd", "c"), texts={"/etc/passwd": now}, expected=allowed) == []


def test_where_nobody_knows_who_there_was_a_second_root_is_named() -> None:
    now = PASSWD + "mallory:x:00:0::/:/bin/sh\n"
    assert messages(file("/etc/passwd", "c"), texts={"/etc/passwd": now}) == [
        "file /etc/passwd: content changed (users and groups)",
        "user mallory has all rights (uid 0)",
    ]


def test_passwords_and_members_that_changed_are_told() -> None:
    shadow = compare_users("/etc/shadow", "a:!:1\nb:x:1\nc:y:1", "a:z:2\nb::1\nc:y:9", ())
    assert shadow == [("user", "a", "has another password"), ("user", "b", "needs no password")]
    group = compare_users("/etc/group", "sudo:x:27:b\nw:x:1:", "sudo:x:27:a\nn:x:0:", ())
    assert group == [
        ("group", "n", "added (gid 0)"),
        ("group", "sudo", "has a new member a"),
        ("group", "sudo", "lost its member b"),
        ("group", "w", "removed"),
    ]
    assert compare_users("/etc/hosts", "", "", ()) is None


def test_no_hash_leaves_the_machine_and_a_changed_one_shows() -> None:
    masked = mask_hashes("root:$y$secret:1::\nsync:*:1::\nodd")
    assert "secret" not in masked
    assert masked.splitlines()[1:] == ["sync:*:1::", "odd"]
    assert masked != mask_hashes("root:$y$other:1::\nsync:*:1::\nodd")


def test_tables_of_sockets_are_read() -> None:
    head = "  sl  local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode\n"
    line = " 0: {} {} {} 00000000:00000000 00:00000000 00000000 0 0 {} 1 0 100 0 0 10 0\n"
    nobody, far = "00000000:0000", "0100000A:1F90"
    tables = {
        "tcp": head + line.format("0100007F:1F91", nobody, "0A", 7) + line.format(nobody, far, "01", 9),
        "tcp6": head + line.format("0" * 32 + ":0016", "0" * 32 + ":0000", "0A", 8),
        "udp": head + line.format("00000000:0044", nobody, "07", 9) + line.format(nobody, far, "01", 9),
        "udp6": head + line.format("0000000000000000FFFF00000100007F:0035", nobody, "07", 9),
    }
    assert parse_ports(tables, {7: "/a", 8: "/b"}) == (
        Port(protocol="tcp", port=22, program="/b"),
        Port(protocol="tcp", port=8081, program="/a", local=True),
        Port(protocol="udp", port=53, program="", local=True),
        Port(protocol="udp", port=68, program=""),
    )
    assert (socket_inode("socket:[12]"), socket_inode("/x")) == (12, None)


def test_mounts_are_read_with_what_they_show() -> None:
    text = (
        "1 0 0:1 / / rw - overlay overlay rw\n"
        "2 1 8:1 /x\\040y /mnt/a\\040b rw shared:1 - ext4 /dev/vda rw\n"
        "3 1 0:5 / /mnt/a\\040b rw - tmpfs none rw\n"
        "4 1 8:1 /x\\040y /srv rw - ext4 /dev/vda rw\n"
    )
    assert parse_mounts(text) == {"/mnt/a b": "tmpfs none", "/srv": "ext4 /dev/vda[/x y]"}


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("0::/baker.scope/payload/system.slice/nginx.service", "nginx.service"),
        ("1:name=systemd:/x/payload/system.slice/system-getty.slice/getty@a.service", "getty@a.service"),
        ("4:memory:/x.service\n0::/user.slice/user-0.slice/session-1.scope", "session-1.scope"),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/x.service", "user@0.service"),
        ("0::/host.service/payload/init", None),
        ("0::/", None),
    ],
)
def test_unit_of_a_process_is_told_by_its_control_group(path: str, unit: str | None) -> None:
    assert name_unit(path) == unit


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("/a/*", "/a/b", "/a/b/c"),
        ("/a/**", "/a/b/c", "/ab"),
        ("/a/**/c", "/a/c", "/a/bc"),
        ("/a/[!x]?", "/a/bc", "/a/xc"),
        ("/a.b", "/a.b", "/axb"),
    ],
)
def test_patterns_of_paths(pattern: str, matching: str, other: str) -> None:
    patterns = Patterns([pattern])
    assert patterns.match(matching)
    assert not patterns.match(other)
    assert translate(pattern)


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/cron.d/x", "/root/.ssh/authorized_keys", "/etc/ld.so.preload", "/etc/profile.d/x.sh"),
        *("/etc/systemd/system/x.service", "/run/systemd/system/x.service", "/etc/pam.d/su", "/etc/sudoers"),
        *("/run/udev/rules.d/x", "/var/spool/cron/crontabs/x", "/home/alice/.ssh/authorized_keys"),
        *("/var/lib/cloud/scripts/per-boot/x", "/run/systemd/transient/x.service"),
    ],
)
def test_nothing_is_allowed_where_things_are_started(path: str) -> None:
    assert Patterns(NEVER).match(path)
    assert not Patterns(MADE_AT_BOOT).match(path)


def test_no_default_covers_a_whole_tree_of_settings_or_programs() -> None:
    for path in ("/etc/x", "/usr/x", "/var/lib/x", "/root/x", "/srv/x", "/opt/x", "/var/x", "/boot/x"):
        assert not Patterns(STATE).match(path)
