"""What is done inside a build instance, on a real machine that the real cloud-init set up.

One machine for all of it: it boots with user data, is waited for, changed, sealed, listed and stopped.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from baker.errors import MachineError
from baker.model import FileEntry
from baker.providers.aws.inside.contents import Contents, build_listing_script, parse_listing
from baker.providers.aws.inside.readiness import build_readiness_script, parse_readiness
from baker.providers.aws.inside.script import INTERPRETER
from baker.providers.aws.inside.sealing import build_seal_script, parse_seal
from baker.providers.aws.inside.user_data import make_user_data
from baker.providers.local.machine import LocalMachine
from baker.providers.local.tree import read_tree, strip_overlay_attributes, walk_tree
from baker.seal import is_emptied, is_removed
from tests.machines import Launch, launch

__all__ = ["launch"]

pytestmark = pytest.mark.machine

PACKAGES = "cloud-init openssh-server sudo rpm attr libcap2-bin netcat-openbsd"
USERS_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGjwdPXRtbNNQnyPOXwyR7FxbS2xmGkk0wHHo8WKTMtH user@own"
USERS_CONFIG = f"""\
#cloud-config
merge_how: "dict(replace)+list(replace)+str()"
bootcmd: [touch /run/users-bootcmd]
runcmd: [touch /run/users-runcmd]
ssh_authorized_keys: ["{USERS_KEY}"]
ssh_deletekeys: false
ssh_keys: {{ed25519_private: nonsense}}
locale: false
""".encode()
MADE_BY_THE_RECIPE = r"""
set -e
mkdir -p /tmp/rpm /opt/app /mnt/memory /mnt/other
cd /tmp/rpm
printf 'Name: tiny\nVersion: 1.2\nRelease: 3\nEpoch: 4\nBuildArch: noarch\n' >tiny.spec
printf 'Summary: x\nLicense: MIT\n%%description\nx\n%%files\n' >>tiny.spec
rpmbuild --quiet --define '_topdir /tmp/rpm' --define '_buildhost somewhere' -bb tiny.spec
rpm -i --nodeps RPMS/noarch/tiny-*.rpm
printf content >/opt/app/file
ln /opt/app/file /opt/app/again
setcap cap_net_raw+ep /opt/app/file
setfattr -n user.note -v x /opt/app/file
touch "$(printf '/opt/app/caf\351')"
truncate -s 256M /opt/app/sparse
mount -t tmpfs none /mnt/memory && touch /mnt/memory/not-on-disk
mount --bind /opt/app /mnt/other
printf 'echo secret\n' >/root/.bash_history
mkdir -p /var/lib/amazon/ssm /var/cache/dnf/x /etc/netplan /var/log/journal
touch /var/lib/amazon/ssm/registration /var/cache/dnf/x/y /var/lib/systemd/random-seed
printf '# generated\nnetwork: {}\n' >/etc/netplan/50-cloud-init.yaml
printf '127.0.1.1 ip-10-0-0-5.internal ip-10-0-0-5\n' >>/etc/hosts
systemctl restart systemd-journald && logger something && journalctl --flush
"""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """What was seen of it, in this order."""

    host_key: str
    our_key: str
    booted: Mapping[str, str]
    removed_keys: int
    sealed: Mapping[str, str]
    contents: Contents
    disk: Path
    left: tuple[FileEntry, ...]


BOOTED = {
    "timer": "journalctl -u baker-deadline.timer -o cat",
    "marks": "ls /run/users-*",
    "host keys": "ls /etc/ssh/ssh_host_*",
    "host key": "cat /etc/ssh/ssh_host_ed25519_key.pub",
    "names": "cat /etc/hostname",
    "admin": "cat /home/debian/.ssh/authorized_keys",
    "root": "cat /root/.ssh/authorized_keys",
}
SEALED = {
    "admin": "cat /home/debian/.ssh/authorized_keys",
    "root": "cat /root/.ssh/authorized_keys",
    "state": "systemctl is-system-running; systemctl is-active ssh systemd-journald",
    "hosts": "cat /etc/hosts",
    "sudo": "cat /etc/sudoers.d/90-cloud-init-users",
    "traces": "ls -d /run/baker-* /etc/netplan/*",
}


def look(machine: LocalMachine, commands: Mapping[str, str]) -> dict[str, str]:
    return {name: machine.run(["sh", "-c", command]).stdout.decode() for name, command in commands.items()}


def make_key(folder: Path, name: str) -> tuple[str, str]:
    path = folder / name
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
    subprocess.run(argv, check=True)
    return path.read_text(), path.with_suffix(".pub").read_text().strip()


def reboot(machine: LocalMachine) -> None:
    """The provider's machine stops every timer of the system once it has booted, also the deadline's."""
    leader = machine.leader
    machine.run(["systemctl", "--no-block", "reboot"])
    deadline = time.monotonic() + 60.0
    while machine.leader == leader and time.monotonic() < deadline:
        with contextlib.suppress(MachineError):
            machine.run(["true"])
        time.sleep(0.05)


@pytest.fixture(scope="module")
def instance(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Instance:
    folder = tmp_path_factory.mktemp("keys")
    host_private, host_public = make_key(folder, "host")
    _, our_key = make_key(folder, "baker")
    machine = launch()
    assert isinstance(machine, LocalMachine)

    def succeed(script: str, stdin: bytes | None = None) -> None:
        done = machine.run(["sh", "-c", script], stdin=stdin, env={"DEBIAN_FRONTEND": "noninteractive"})
        assert done.exit_status == 0, done.stderr

    install = "apt-get install -qy --no-install-recommends -o DPkg::Options::=--force-unsafe-io"
    succeed(f"apt-get update -q && {install} python3-minimal")
    succeed("ln -sf /bin/true /usr/bin/py3compile")  # half of what installing cloud-init takes
    succeed(f"{install} {PACKAGES}")
    user_data = make_user_data(host_private, host_public, our_key, 7200, USERS_CONFIG)
    seed = "/var/lib/cloud/seed/nocloud"
    succeed(f"mkdir -p {seed}; cat >{seed}/user-data", user_data)
    succeed(f"cat >{seed}/meta-data", b"instance-id: i-0123\nlocal-hostname: ip-10-0-0-5\n")
    reboot(machine)
    parse_readiness(machine.run(INTERPRETER, stdin=build_readiness_script(60.0)))
    booted = look(machine, BOOTED)
    succeed(MADE_BY_THE_RECIPE)
    removed_keys = parse_seal(machine.run(INTERPRETER, stdin=build_seal_script(our_key)))
    contents = parse_listing(machine.run(INTERPRETER, stdin=build_listing_script()))
    sealed = look(machine, SEALED)
    machine.stop()
    for _, entry in walk_tree(machine.upper):
        strip_overlay_attributes(entry.path)
    return Instance(
        host_key=host_public,
        our_key=our_key,
        booted=booted,
        removed_keys=removed_keys,
        sealed=sealed,
        contents=contents,
        disk=machine.upper,
        left=read_tree(machine.upper)[1],
    )


@pytest.fixture
def files(instance: Instance) -> dict[str, FileEntry]:
    return {file.path: file for file in instance.contents.layer.files}


# --- readiness -----------------------------------------------------------------------------------------


def test_cloud_init_gives_the_instance_our_host_key_and_no_other(instance: Instance) -> None:
    assert instance.booted["host keys"].split() == [
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssh/ssh_host_ed25519_key.pub",
    ]
    assert instance.booted["host key"].split()[:2] == instance.host_key.split()[:2]


def test_both_keys_may_log_in_although_the_users_file_replaces_lists(instance: Instance) -> None:
    for key in (instance.our_key, USERS_KEY):
        assert key in instance.booted["admin"].splitlines()
        assert key in instance.booted["root"]


def test_deadline_is_armed_and_the_users_commands_ran_when_the_instance_is_ready(instance: Instance) -> None:
    assert "Started baker-deadline.timer" in instance.booted["timer"]
    assert instance.booted["marks"].split() == ["/run/users-bootcmd", "/run/users-runcmd"]


# --- seal ----------------------------------------------------------------------------------------------


def test_our_key_goes_from_every_user_and_the_users_own_stays(instance: Instance) -> None:
    assert instance.removed_keys == 2
    assert instance.sealed["admin"].splitlines() == [USERS_KEY]
    assert USERS_KEY in instance.sealed["root"]
    assert instance.our_key.split()[1] not in instance.sealed["root"]


def test_sealed_machine_still_runs_and_its_user_may_still_become_root(instance: Instance) -> None:
    assert instance.sealed["state"].split() == ["running", "active", "active"]
    assert "debian ALL=(ALL) NOPASSWD:ALL" in instance.sealed["sudo"]


def test_nothing_of_the_instance_stays_on_its_disk_once_it_stopped(instance: Instance) -> None:
    secrets = [instance.our_key.split()[1], instance.host_key.split()[1], "ip-10-0-0-5", "i-0123"]
    for word in [*secrets, "echo secret", "OPENSSH PRIVATE KEY-----\n"]:
        argv = ["grep", "--recursive", "--files-with-matches", "--fixed-strings", "--", word.strip(), "."]
        found = subprocess.run(argv, cwd=instance.disk, capture_output=True, text=True)
        text = [path for path in found.stdout.splitlines() if not path.startswith("./usr/")]
        assert text == [], word
    assert (instance.disk / "etc/machine-id").read_bytes() == b""
    assert instance.sealed["hosts"].startswith("127.0.0.1")


def test_what_the_seal_took_does_not_come_back_while_the_machine_stops(instance: Instance) -> None:
    assert [file.path for file in instance.left if is_removed(file.path)] == []
    assert instance.sealed["traces"] == ""


# --- listing -------------------------------------------------------------------------------------------


def test_listing_is_what_lies_on_the_disk_once_the_machine_stopped(
    instance: Instance, files: dict[str, FileEntry]
) -> None:
    different = [
        file.path
        for file in instance.left
        if not is_removed(file.path) and not is_emptied(file.path) and files.get(file.path) != file
    ]
    assert different == []


def test_listing_has_packages_of_dpkg_and_of_rpm(instance: Instance) -> None:
    found = {(each.type, each.name): each for each in instance.contents.packages}
    assert found["rpm", "tiny"].version == "4:1.2-3"
    assert found["rpm", "tiny"].source_version == "1.2-3"
    assert found["deb", "cloud-init"].arch == "all"
    assert len([key for key in found if key[0] == "rpm"]) == 1


def test_listing_tells_attributes_and_names_and_sparse_files_as_they_are(files: dict[str, FileEntry]) -> None:
    names = [name for name, _ in files["/opt/app/file"].xattrs]
    assert names == ["security.capability", "user.note"]
    assert files["/opt/app/again"].digest == files["/opt/app/file"].digest != ""
    assert "/opt/app/caf\udce9" in files
    assert files["/opt/app/sparse"].size == 256 << 20


def test_listing_sees_nothing_that_is_only_mounted(files: dict[str, FileEntry]) -> None:
    for folder in ("/proc", "/sys", "/run", "/tmp", "/mnt/memory", "/mnt/other"):
        assert files[folder].kind == "d"
        assert [path for path in files if path.startswith(f"{folder}/")] == []
