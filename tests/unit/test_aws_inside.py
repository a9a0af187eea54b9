"""What is sent to a build instance, and what its answers mean."""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import zlib
from email import message_from_bytes
from pathlib import Path

import pytest

from baker.errors import MachineError, SettingsError
from baker.manifest import manifest_digest
from baker.model import Manifest
from baker.providers.aws.inside import contents, readiness, sealing, sent
from baker.providers.aws.inside import script as scripts
from baker.providers.aws.inside.sent import listing, persistent, waiting
from baker.providers.aws.inside.sent import sealing as sent_sealing
from baker.providers.aws.inside.user_data import MAX_BYTES, make_user_data
from baker.providers.local.tree import read_tree
from baker.providers.protocol import CommandResult
from baker.seal import is_emptied, is_removed

SENT = sorted(Path(sent.__path__[0]).glob("*.py"))
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nbase64\n-----END OPENSSH PRIVATE KEY-----\n"
KEY = "ssh-ed25519 AAAAC3ours baker"


def answer(value: object, *, exit_status: int = 0, stderr: bytes = b"") -> CommandResult:
    stdout = value if isinstance(value, bytes) else json.dumps(value).encode()
    return CommandResult(exit_status=exit_status, stdout=stdout, stderr=stderr)


# --- scripts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SENT, ids=lambda path: path.stem)
def test_what_is_sent_is_understood_by_python_3_6(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 6))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            told = [argument.annotation for argument in node.args.args] + [node.returns]
            late = [each for each in told if isinstance(each, ast.Subscript | ast.BinOp)]
            assert late == [], f"{node.name}: an annotation that 3.6 would evaluate and cannot"
        if isinstance(node, ast.keyword):
            assert node.arg not in ("capture_output", "text", "missing_ok", "dirs_exist_ok")
        if isinstance(node, ast.ImportFrom | ast.Import):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            for module in modules:
                root = str(module).split(".")[0]
                assert module != "__future__"
                assert root in sys.stdlib_module_names or str(module).startswith(sent.__name__)


def test_script_runs_its_last_module_with_its_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first.py").write_text("WORD = 'é'\n")
    (tmp_path / "last.py").write_text(
        f"import sys\nfrom {sent.__name__}.first import WORD\n"
        "def main(text): sys.stdout.write(ascii([WORD, text]))\n"
    )
    monkeypatch.setattr(scripts, "files", lambda _: tmp_path)
    text = 'it\'s "\\n"\n\udce9 {}'
    script = scripts.build_script(["first", "last"], {"text": text})
    done = subprocess.run([*scripts.INTERPRETER], input=script, capture_output=True, check=True)
    assert done.stdout.decode() == ascii(["é", text])


def test_rules_mean_the_same_where_they_are_sent_to() -> None:
    parameters = json.loads(json.dumps({"removed": sealing.REMOVED, "emptied": sealing.EMPTIED}))
    rules = persistent.Rules(parameters["removed"], parameters["emptied"])
    paths = ["/etc/ssh/ssh_host_rsa_key", "/etc/ssh/sshd_config", "/var/log/a/b", "/tmp", "/tmp/a/b", "/home"]
    assert [rules.is_removed(path) for path in paths] == [is_removed(path) for path in paths]
    assert [rules.is_emptied(path) for path in paths] == [is_emptied(path) for path in paths]


def test_rules_for_instances_leave_local_images_as_they_were() -> None:
    assert not is_removed("/var/cache/dnf/x")
    assert b"/var/cache/dnf/*" in sealing.build_seal_script(KEY)
    assert b"/var/cache/dnf/*" in contents.build_listing_script()


# --- user data ------------------------------------------------------------------------------------------


def make(extra: bytes | None = None, **changes: object) -> bytes:
    return make_user_data(PRIVATE, "ssh-ed25519 AAAAhost", KEY, 3600, extra, **changes)  # type: ignore[arg-type]


def list_parts(user_data: bytes) -> list[tuple[str, bytes]]:
    message = message_from_bytes(user_data)
    assert not message.defects
    return [
        (part.get_content_type(), part.get_payload(decode=True))
        for part in message.walk()
        if not part.is_multipart()
    ]


def read_ours(user_data: bytes) -> tuple[dict[str, object], dict[str, object]]:
    added, forced = (
        json.loads(text.removeprefix(b"#cloud-config\n")) for _, text in list_parts(user_data)[-2:]
    )
    return added, forced


def test_user_data_holds_keys_and_the_deadline_in_front_of_nothing_else() -> None:
    added, forced = read_ours(make())
    assert forced["ssh_keys"] == {"ed25519_private": PRIVATE, "ed25519_public": "ssh-ed25519 AAAAhost\n"}
    assert forced["ssh_deletekeys"] is True
    assert added["ssh_authorized_keys"] == [KEY]
    [command] = added["bootcmd"]
    assert "--on-active=3600s" in command[-1]
    assert "shutdown -P +60" in command[-1]
    assert len(list_parts(make())) == 2


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"#!/bin/sh\ntrue\n", "text/x-shellscript"),
        (b"#cloud-config\npackages: [jq]\n", "text/cloud-config"),
        (b"#cloud-config-archive\n- x\n", "text/cloud-config-archive"),
        (b"#cloud-boothook\ntrue\n", "text/cloud-boothook"),
        (b"#include\nhttps://example.org/x\n", "text/x-include-url"),
        (b"#include-once\nhttps://example.org/x\n", "text/x-include-once-url"),
        (b"#part-handler\n", "text/part-handler"),
        (b"## template: jinja\n#cloud-config\n", "text/jinja2"),
        (b"#!/bin/sh\necho \xe9\r\n", "text/x-shellscript"),
        (gzip.compress(b"#!/bin/sh\ntrue\n", mtime=0), "text/x-shellscript"),
    ],
)
def test_users_part_arrives_byte_by_byte_as_what_it_is(text: bytes, kind: str) -> None:
    plain = gzip.decompress(text) if text.startswith(b"\x1f") else text
    assert list_parts(make(text))[0] == (kind, plain)
    assert read_ours(make(text)) == read_ours(make())


def test_users_multipart_message_keeps_its_parts_before_ours() -> None:
    own = (
        b'Content-Type: multipart/mixed; boundary="x"\r\nMIME-Version: 1.0\r\n\r\n'
        b"--x\r\nContent-Type: text/x-shellscript\r\n\r\n#!/bin/sh\r\n--x--\r\n"
    )
    parts = list_parts(make(own))
    assert [kind for kind, _ in parts] == ["text/x-shellscript", "text/cloud-config", "text/cloud-config"]
    with pytest.raises(SettingsError, match="no whole multipart"):
        make(own[:60])


def test_nothing_that_cloud_init_does_not_know_is_taken() -> None:
    with pytest.raises(SettingsError, match=r"files/setup.txt begins with 'echo hello', which cloud-init"):
        make(b"echo hello\n", extra_name="files/setup.txt")
    with pytest.raises(SettingsError, match="compressed and damaged"):
        make(gzip.compress(b"#!/bin/sh\n" * 99)[:-12])


def test_long_user_data_is_compressed() -> None:
    text = b"#!/bin/sh\n" + b"echo hello\n" * 3000
    packed = make(text)
    assert len(packed) <= MAX_BYTES < len(text)
    assert list_parts(gzip.decompress(packed))[0][1] == text


def test_user_data_that_stays_too_long_is_refused_with_its_sizes() -> None:
    noise = b"".join(hashlib.sha256(bytes([n % 256, n // 256])).hexdigest().encode() for n in range(900))
    with pytest.raises(SettingsError, match=rf"big.sh is too long.*it has {len(noise) + 10}.*{MAX_BYTES}"):
        make(b"#!/bin/sh\n" + noise, extra_name="big.sh")


# --- readiness --------------------------------------------------------------------------------------------


def tell(state: str, **changes: object) -> CommandResult:
    return answer({"state": state, "errors": [], "warnings": [], "log": "", **changes})


def test_degraded_instance_is_ready_with_warnings() -> None:
    assert readiness.parse_readiness(tell("done", warnings=["WARNING: x"])) == ("WARNING: x",)
    assert readiness.parse_readiness(tell("absent")) == ()


def test_failed_cloud_init_is_told_with_its_log() -> None:
    with pytest.raises(MachineError, match=r"cloud-init failed: \(scripts_user\)") as e:
        readiness.parse_readiness(tell("failed", errors=["(scripts_user) …"], log="boom\n"))
    assert e.value.hint is not None
    assert e.value.hint.endswith("boom")
    with pytest.raises(MachineError, match="did not finish in time: it is in its stage init"):
        readiness.parse_readiness(tell("waiting", errors=["it is in its stage init"]))


def test_instance_without_python_is_told() -> None:
    stderr = b"sh: 1: exec: /usr/libexec/platform-python: not found\n"
    with pytest.raises(MachineError, match="exit status 127, sh: 1: exec"):
        readiness.parse_readiness(answer(b"", exit_status=127, stderr=stderr))


@pytest.fixture
def cloud_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which cloud-init tells what it came to."""
    monkeypatch.setattr(waiting, "STATUS_FOLDER", str(tmp_path))
    monkeypatch.setattr(waiting, "LOG", str(tmp_path / "log"))
    (tmp_path / "log").write_text("".join(f"line {number}\n" for number in range(99)))
    return tmp_path


def test_recoverable_errors_are_warnings_told_once(cloud_init: Path) -> None:
    stage = {"errors": [], "recoverable_errors": {"WARNING": ["no locale"]}}
    (cloud_init / "result.json").write_text('{"v1": {"datasource": "Ec2", "errors": []}}')
    (cloud_init / "status.json").write_text(
        json.dumps({"v1": {"init": stage, "modules": stage, "stage": None}})
    )
    found = waiting.wait_for_cloud_init(0)
    assert found == {"state": "done", "errors": [], "warnings": ["WARNING: no locale"], "log": ""}


def test_errors_of_cloud_init_come_with_the_end_of_its_log(cloud_init: Path) -> None:
    (cloud_init / "result.json").write_text('{"v1": {"errors": ["(scripts_user) failed"]}}')
    found = waiting.wait_for_cloud_init(0)
    assert (found["state"], found["errors"]) == ("failed", ["(scripts_user) failed"])
    assert found["log"].splitlines()[0] == "line 74"
    assert found["log"].endswith("line 98\n")


def test_time_that_is_over_is_told_with_the_stage(cloud_init: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/etc/cloud")
    (cloud_init / "status.json").write_text('{"v1": {"stage": "modules-config"}}')
    found = waiting.wait_for_cloud_init(0)
    assert (found["state"], found["errors"]) == ("waiting", ["it is in its stage modules-config"])


# --- seal -------------------------------------------------------------------------------------------------


def test_lines_with_our_key_go_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    others = 'ssh-ed25519 AAAAC3oursnot x\n# AAAAC3ours-like\nssh-rsa AAAAother y "z"'
    command = 'no-pty,command="echo \'use "debian"\';exit" ssh-ed25519 AAAAC3ours baker\n'
    path.write_text(f"{KEY}\n{command}{others}")
    path.chmod(0o640)
    seal = sent_sealing.Seal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sent_sealing, "find_authorized_keys", lambda: [str(path), str(tmp_path / "none")])
        seal.remove_key("AAAAC3ours")
        assert path.read_text() == others
        assert path.stat().st_mode & 0o777 == 0o640
        path.write_text(f"{KEY}\n\n")
        seal.remove_key("AAAAC3ours")
    assert not path.exists()
    assert (seal.keys, seal.failures) == (3, [])


def test_keys_are_looked_for_where_sshd_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_sealing, "run", lambda *_: "port 22\nauthorizedkeysfile /etc/keys/%u .ssh/k%%\n")
    monkeypatch.setattr(sent_sealing, "read_text", lambda _: "deploy:x:7:7::/home/deploy:/bin/sh\n")
    assert sent_sealing.find_authorized_keys() == ["/etc/keys/deploy", "/home/deploy/.ssh/k%"]


def test_what_could_not_be_removed_fails_the_seal_by_name() -> None:
    with pytest.raises(MachineError, match="/etc/ssh/ssh_host_x: Operation not permitted"):
        sealing.parse_seal(
            answer({"keys": 2, "failures": [["/etc/ssh/ssh_host_x", "Operation not permitted"]]})
        )
    assert sealing.parse_seal(answer({"keys": 2, "failures": []})) == 2
    with pytest.raises(MachineError, match=r"could not be sealed: exit status 1, OSError: x"):
        sealing.parse_seal(answer(b"", exit_status=1, stderr=b"Traceback\nOSError: x\n"))


# --- file systems -------------------------------------------------------------------------------------------

MOUNTS = rb"""
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw,discard
23 22 0:22 / /proc rw - proc proc rw
24 22 0:23 / /dev rw - devtmpfs devtmpfs rw
25 22 0:24 / /run rw - tmpfs tmpfs rw
26 22 259:2 / /boot rw - ext4 /dev/nvme0n1p16 rw
27 26 259:3 / /boot/efi rw - vfat /dev/nvme0n1p15 rw
28 22 7:0 / /snap/core/1 ro - squashfs /dev/loop0 ro
29 22 7:1 / /mnt/image rw - ext4 /dev/loop1 rw
30 22 259:1 /var/data /srv/data rw - ext4 /dev/nvme0n1p1 rw
31 22 0:40 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw,lowerdir=/a
32 22 0:41 / /mnt/share rw - nfs4 server:/export rw
33 22 259:9 / /data\040disk rw - xfs /dev/nvme1n1 rw
34 22 259:8 / /mnt/fast rw - ext4 /dev/nvme2n1 rw
35 22 259:9 / /again rw - xfs /dev/nvme1n1 rw
36 22 0:50 /@home /home rw - btrfs /dev/nvme3n1 rw,subvol=/@home
37 22 0:50 /@home/x /part rw - btrfs /dev/nvme3n1 rw,subvol=/@home
""".strip()


def test_file_systems_that_a_snapshot_holds_are_chosen_once() -> None:
    points = persistent.choose_mount_points(MOUNTS, lambda device: device == "259:8")
    assert points == [b"/", b"/again", b"/boot", b"/home", b"/boot/efi"]
    swapped = MOUNTS.replace(b"/again", b"/z")
    assert b"/data disk" in persistent.choose_mount_points(swapped, lambda _: False)


def test_root_counts_whatever_it_is() -> None:
    mounts = b"1 0 0:30 /sysroot / rw - overlay overlay rw\n2 1 0:31 / /tmp rw - tmpfs tmpfs rw"
    assert persistent.choose_mount_points(mounts, lambda _: False) == [b"/"]


# --- listing --------------------------------------------------------------------------------------------

NO_RULES = persistent.Rules(["/removed*"], ["/emptied/*"])


def list_tree(root: Path, reader: listing.Reader | None = None) -> list[list[object]]:
    reader = reader or listing.Reader(NO_RULES, set())
    view = persistent.View({b"": os.fsencode(root)})
    paths = ((path, outside) for path, outside, gone in view.walk(NO_RULES.is_removed) if not gone)
    return [row for rows in listing.describe_in_parallel(reader, paths) for row in rows]


def pack(records: list[object]) -> bytes:
    return zlib.compress("".join(json.dumps(record) + "\n" for record in records).encode())


def whole(rows: list[list[object]]) -> bytes:
    return pack([{"format": 1}, *rows, {"end": len(rows), "unreadable": []}])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One of everything that a file system may hold, and more entries than a batch."""
    root = tmp_path / "root"
    (root / "many").mkdir(parents=True)
    for number in range(listing.BATCH * 3):
        (root / "many" / f"{number}").write_text(f"{number}")
    (root / "empty").mkdir(mode=0o1777)
    (root / "tool").write_text("#!/bin/sh\n")
    (root / "tool").chmod(0o4755)
    os.setxattr(root / "tool", "user.note", b"\0x")
    (root / "hard").hardlink_to(root / "tool")
    (root / "link").symlink_to("/nowhere\udce9/x")
    os.mkfifo(root / "fifo")
    (root / "caf\udce9").write_text("latin")
    (root / "café\n").write_text("utf-8")
    with (root / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"x")
        file.truncate(5 << 20)
    here = Path.cwd()
    os.chdir(root)  # a socket's address is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
    finally:
        os.chdir(here)
    return root


def test_listing_says_of_a_tree_what_the_local_provider_says(tree: Path) -> None:
    found = contents.parse_listing(answer(whole(list_tree(tree))))
    assert found.layer.files == read_tree(tree)[1]
    assert found.layer.removed == ()
    assert found.layer.digest == manifest_digest(Manifest(packages=(), files=found.layer.files))


def test_removed_paths_are_left_out_and_emptied_files_are_empty(tree: Path) -> None:
    (tree / "removed").mkdir()
    (tree / "removed" / "secret").write_text("x")
    (tree / "emptied").mkdir()
    (tree / "emptied" / "log").write_text("x")
    rows = {row[0]: row for row in list_tree(tree)}
    assert not [path for path in rows if str(path).startswith("/removed")]
    assert rows["/emptied/log"][5:7] == [0, hashlib.sha256().hexdigest()]


def test_file_with_several_names_is_read_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    real = listing.hash_file
    monkeypatch.setattr(listing, "hash_file", lambda path: read.append(path) or real(path))
    monkeypatch.setattr(listing, "THREADS", 1)
    rows = {row[0]: row for row in list_tree(tree)}
    assert rows["/hard"][6] == rows["/tool"][6]
    assert len([path for path in read if path.endswith((b"/hard", b"/tool"))]) == 1


def test_mounted_disk_hides_what_lies_below_it(tree: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "seen").touch()
    view = persistent.View({b"": os.fsencode(tree), b"/many": os.fsencode(disk)})
    paths = [path for path, _, _ in view.walk(lambda _: False)]
    assert [path for path in paths if path.startswith(b"/many")] == [b"/many", b"/many/seen"]


def test_files_that_vanish_are_left_out_and_unreadable_ones_are_told(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = listing.hash_file

    def hash_file(path: bytes) -> tuple[int, str]:
        if path.endswith(b"/sparse"):
            raise OSError(5, "Input/output error")
        if path.endswith(b"/many/7"):
            raise FileNotFoundError(2, "No such file")
        return real(path)

    monkeypatch.setattr(listing, "hash_file", hash_file)
    reader = listing.Reader(NO_RULES, set())
    rows = {row[0]: row for row in list_tree(tree, reader)}
    assert "/many/7" not in rows
    assert "/many/8" in rows
    assert reader.unreadable == [("/sparse", "Input/output error")]
    assert rows["/sparse"][5:7] == [5 << 20, ""]


def test_swap_file_is_listed_without_its_content(tree: Path) -> None:
    reader = listing.Reader(NO_RULES, {"/sparse"})
    assert {row[0]: row[5:7] for row in list_tree(tree, reader)}["/sparse"] == [5 << 20, ""]


def test_list_that_is_cut_anywhere_is_refused(tree: Path) -> None:
    stream = whole(list_tree(tree))
    for length in [*range(0, len(stream), 97), len(stream) - 1]:
        with pytest.raises(MachineError, match="cannot be read"):
            contents.parse_listing(answer(stream[:length]))


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([{"format": 2}], "begin"),
        ([{"format": 1}], "its end is missing"),
        ([{"format": 1}, {"end": 1, "unreadable": []}], "holds 0 files and says 1"),
        ([{"format": 1}, {"end": 0, "unreadable": []}, {}], "holds 0 files"),
        ([{"format": 1}, {"strange": 1}], "none of its records"),
        ([{"format": 1}, ["etc", "f", 1, 0, 0, 0, "", "", []]], "'etc' is described wrongly"),
        ([{"format": 1}, ["/etc", "x", 1, 0, 0, 0, "", "", []]], "'/etc' is described wrongly"),
        ([{"format": 1}, ["/etc", "f", -1, 0, 0, 0, "", "", []]], "'/etc' is described wrongly"),
        ([{"format": 1}, ["/etc", "f", 1, 0, 0, 0, "ab", "", []]], "'/etc' is described wrongly"),
        ([{"format": 1}, ["/etc", "f", 1, 0]], "cannot be read"),
    ],
)
def test_list_that_is_wrong_is_refused_with_why(records: list[object], why: str) -> None:
    with pytest.raises(MachineError, match=re.escape(why)):
        contents.parse_listing(answer(pack(records)))


def test_list_is_followed_by_nothing_and_failures_are_told() -> None:
    with pytest.raises(MachineError, match="something follows its end"):
        contents.parse_listing(answer(whole([]) + b"motd"))
    with pytest.raises(MachineError, match="could not be read: exit status 1, rpm -qa failed: locked"):
        contents.parse_listing(answer(b"", exit_status=1, stderr=b"rpm -qa failed: locked\n"))


def test_packages_of_both_kinds_are_read() -> None:
    dpkg = "Package: bash\nStatus: install ok installed\nVersion: 5\nArchitecture: amd64\n"
    rpm = "openssl\t1:3.0.7-27.el9\tx86_64\topenssl-3.0.7-27.el9.src.rpm\n"
    stream = pack([{"format": 1}, {"dpkg": dpkg}, {"rpm": rpm}, {"end": 0, "unreadable": []}])
    packages = contents.parse_listing(answer(stream)).packages
    assert [(package.type, package.name) for package in packages] == [("deb", "bash"), ("rpm", "openssl")]
