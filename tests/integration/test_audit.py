"""Audits of real machines: all tampering is found, and a machine that only worked is unmodified."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from baker.providers.local.observing import observe_machine
from baker.providers.local.provider import LocalProvider
from tests.audited import DAY, PLAIN, RECIPE, Audited, Image, bake_image, find_image, running
from tests.e2e.project import copy_shipped_project, share_downloads

pytestmark = pytest.mark.machine

TOOLS = """
keep() { mkdir -p /var/tmp/kept; cp -a --parents "$@" /var/tmp/kept/; }
restore() { cp -a --remove-destination /var/tmp/kept/. /; rm -rf /var/tmp/kept; }
"""


@dataclass(frozen=True, kw_only=True)
class Tampering:
    """``kind`` and ``name`` are of one drift that has to be found. ``undo`` makes the machine as it was."""

    id: str
    do: str
    kind: str
    name: str
    undo: str = "restore"


def changed(id: str, path: str, do: str, kind: str = "file", name: str = "") -> Tampering:
    """Something is done to a file of the image."""
    return Tampering(id=id, do=f"keep {path}; {do}", kind=kind, name=name or path)


def added(id: str, path: str, text: str = "x", kind: str = "file", name: str = "") -> Tampering:
    """A file appears that the image does not have. Folders that were made for it go with it."""
    made = f"""
        rm -f /run/made; folder=$(dirname {path})
        while [ ! -d $folder ]; do echo $folder >>/run/made; folder=$(dirname $folder); done
        mkdir -p $(dirname {path}); printf '%s\\n' '{text}' >{path}
    """
    undo = f"rm {path}; [ ! -e /run/made ] || xargs rmdir </run/made"
    return Tampering(id=id, do=made, kind=kind, name=name or path, undo=undo)


BACKGROUND = "</dev/null >/dev/null 2>&1 &"
SERVICE = "[Service]\nExecStart=/bin/sleep 1000"
USERS = "keep /etc/passwd /etc/shadow /etc/group /etc/gshadow /etc/subuid /etc/subgid"
NO_BACKUPS = "restore; rm -f /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- /etc/subuid- /etc/subgid-"
PACKAGE = """
mkdir -p /var/tmp/deb/DEBIAN /var/tmp/deb/opt/evil; echo x >/var/tmp/deb/opt/evil/file
printf 'Package: evil\\nVersion: 1\\nArchitecture: all\\nMaintainer: m <m@m>\\nDescription: x\\n' \
    >/var/tmp/deb/DEBIAN/control
dpkg-deb -b /var/tmp/deb /var/tmp/evil.deb >/dev/null
keep /var/lib/dpkg/status; cp -a /var/lib/dpkg/info /var/tmp/info
"""
SEEN_PACKAGE = "rm -rf /opt/evil /var/lib/dpkg/info/evil.* /var/lib/dpkg/*-old; restore"

TAMPERINGS = (
    # programs and files
    changed("binary changed", "/usr/bin/tac", "printf x >>/usr/bin/tac"),
    changed(
        "same size, same time",
        "/usr/bin/tac",
        "touch -r /usr/bin/tac /var/tmp/time; printf XX | dd of=/usr/bin/tac bs=1 seek=5000 "
        "conv=notrunc status=none; touch -r /var/tmp/time /usr/bin/tac",
    ),
    changed("file deleted", "/usr/bin/tac", "rm /usr/bin/tac"),
    changed("folder deleted", "/usr/share/nginx", "rm -r /usr/share/nginx", kind="folder"),
    changed("folder replaced", "/srv/site", "rm -r /srv/site; mkdir /srv/site", name="/srv/site/index.html"),
    changed("symlink swapped", "/usr/bin/awk", "ln -sf /bin/true /usr/bin/awk", kind="link"),
    changed("alternative", "/etc/alternatives/awk", "ln -sf /bin/true /etc/alternatives/awk", kind="link"),
    changed("file became a link", "/usr/bin/tac", "ln -sf /bin/true /usr/bin/tac", kind="link"),
    changed("permission", "/etc/shadow", "chmod 644 /etc/shadow", kind="permission"),
    changed("folder open to all", "/usr/local/bin", "chmod 777 /usr/local/bin", kind="permission"),
    changed("owner", "/usr/bin/tac", "chown alice /usr/bin/tac", kind="owner"),
    changed("setuid", "/usr/bin/tac", "chmod u+s /usr/bin/tac", kind="setuid"),
    changed("setgid", "/usr/bin/tac", "chmod g+s /usr/bin/tac", kind="setuid"),
    changed(
        "capability", "/usr/bin/tac", "setcap cap_net_raw+ep /usr/bin/tac", kind="capability"
    ),
    Tampering(
        id="extended attribute", do="setfattr -n user.x -v y /srv/site", kind="attribute", name="/srv/site",
        undo="setfattr -x user.x /srv/site",
    ),
    Tampering(
        id="access list", do="setfacl -m u:alice:rwx /srv/site", kind="permission", name="/srv/site",
        undo="setfacl -b /srv/site",
    ),
    added("program added", "/usr/local/bin/tool"),
    added("hidden folder", "/usr/lib/.x/y"),
    added("file among devices", "/dev/.x"),
    added("module of python", "/usr/lib/python3/dist-packages/sitecustomize.py"),
    Tampering(
        id="setuid where logs are", do="cp /bin/sh /var/log/sh; chmod 4755 /var/log/sh", kind="setuid",
        name="/var/log/sh", undo="rm /var/log/sh",
    ),
    Tampering(
        id="setuid in memory", do="cp /bin/sh /run/sh; chmod 4755 /run/sh", kind="setuid", name="/run/sh",
        undo="rm /run/sh",
    ),
    Tampering(
        id="device node", do="mknod /srv/disk b 8 0", kind="device", name="/srv/disk", undo="rm /srv/disk"
    ),
    Tampering(
        id="device node among devices", do="mknod /dev/disk b 8 0", kind="device", name="/dev/disk",
        undo="rm /dev/disk",
    ),
    # users
    Tampering(
        id="user added", do=f"{USERS}; useradd mallory", kind="user", name="mallory", undo=NO_BACKUPS
    ),
    Tampering(
        id="user with uid 0", do=f"{USERS}; useradd -o -u 0 mallory", kind="user", name="mallory",
        undo=NO_BACKUPS,
    ),
    Tampering(id="user removed", do=f"{USERS}; userdel alice", kind="user", name="alice", undo=NO_BACKUPS),
    Tampering(
        id="password", do=f"{USERS}; echo root:secret | chpasswd", kind="user", name="root", undo=NO_BACKUPS
    ),
    Tampering(
        id="no password", do=f"{USERS}; passwd -d alice >/dev/null", kind="user", name="alice",
        undo=NO_BACKUPS,
    ),
    Tampering(
        id="shell", do=f"{USERS}; usermod -s /bin/bash alice", kind="user", name="alice", undo=NO_BACKUPS
    ),
    Tampering(
        id="member of a group", do=f"{USERS}; usermod -aG sudo alice", kind="group", name="sudo",
        undo=NO_BACKUPS,
    ),
    added("authorized key", "/root/.ssh/authorized_keys", "ssh-ed25519 AAAA x", kind="login"),
    added("authorized key of a user", "/home/alice/.ssh/authorized_keys", "ssh-ed25519 A", kind="login"),
    added("sudo rule", "/etc/sudoers.d/alice", "alice ALL=(ALL) NOPASSWD: ALL", kind="privileges"),
    changed("sudoers", "/etc/sudoers", "echo '# x' >>/etc/sudoers", kind="privileges"),
    changed("PAM", "/etc/pam.d/su", "echo 'auth include x' >>/etc/pam.d/su", kind="privileges"),
    # what is started
    added("unit", "/etc/systemd/system/evil.service", SERVICE, kind="unit"),
    added("drop-in", "/etc/systemd/system/nginx.service.d/x.conf", "[Service]\nNice=1", kind="unit"),
    added("runtime unit", "/run/systemd/system/evil.service", SERVICE, kind="unit"),
    added("generated unit", "/run/systemd/generator/evil.service", SERVICE, kind="unit"),
    added("timer", "/etc/systemd/system/evil.timer", "[Timer]\nOnCalendar=daily", kind="unit"),
    changed("unit of a package", "/usr/lib/systemd/system/nginx.service",
            "echo '#' >>/usr/lib/systemd/system/nginx.service", kind="unit"),
    Tampering(
        id="unit masked", do="ln -s /dev/null /etc/systemd/system/logrotate.service", kind="unit",
        name="/etc/systemd/system/logrotate.service", undo="rm /etc/systemd/system/logrotate.service",
    ),
    Tampering(
        id="unit disabled", kind="unit",
        do="cd /etc/systemd/system/multi-user.target.wants; keep $PWD/nginx.service; rm nginx.service",
        name="/etc/systemd/system/multi-user.target.wants/nginx.service",
    ),
    Tampering(
        id="transient unit", do="systemd-run -q --unit evil sleep 1000", kind="unit", name="evil.service",
        undo="systemctl stop evil",
    ),
    added("cron file", "/etc/cron.d/evil", "* * * * * root true", kind="schedule"),
    added("daily script", "/etc/cron.daily/evil", kind="schedule"),
    Tampering(
        id="crontab", do="echo '0 0 1 1 * true' | crontab -u alice -", kind="schedule",
        name="/var/spool/cron/crontabs/alice", undo="crontab -u alice -r",
    ),
    added("profile script", "/etc/profile.d/evil.sh"),
    changed("profile of a user", "/home/alice/.profile", "echo true >>/home/alice/.profile"),
    added("rc.local", "/etc/rc.local"),
    added("udev rule in memory", "/run/udev/rules.d/99-x.rules"),
    # what is loaded and trusted
    added("preloaded library", "/etc/ld.so.preload", "/lib/none.so", kind="loader"),
    added("path of libraries", "/etc/ld.so.conf.d/a.conf", "/srv/lib", kind="loader"),
    added("kernel setting", "/etc/sysctl.d/99-x.conf", "kernel.panic = 1"),
    added("kernel module", "/etc/modules-load.d/x.conf", "dummy"),
    added("option of a module", "/etc/modprobe.d/x.conf", "install dummy /bin/true"),
    added("source of apt", "/etc/apt/sources.list.d/x.list", "# none", kind="trust"),
    added("hook of apt", "/etc/apt/apt.conf.d/99x", "// none"),
    added("authority", "/usr/local/share/ca-certificates/x.crt", kind="trust"),
    changed("hosts", "/etc/hosts", "echo '127.0.0.1 archive' >>/etc/hosts"),
    changed("name services", "/etc/nsswitch.conf", "echo '#' >>/etc/nsswitch.conf"),
    added("hostname", "/etc/hostname", "other"),
    Tampering(
        id="resolver", kind="mount", name="/etc/resolv.conf",
        do="echo 'nameserver 1.2.3.4' >/var/tmp/r; mount --bind /var/tmp/r /etc/resolv.conf",
        undo="umount /etc/resolv.conf; rm /var/tmp/r",
    ),
    # packages
    Tampering(id="package installed", do=f"{PACKAGE} dpkg -i /var/tmp/evil.deb >/dev/null", kind="package",
              name="evil", undo=SEEN_PACKAGE),
    Tampering(
        id="package removed", kind="package", name="acl",
        do="keep /var/lib/dpkg/status /var/lib/dpkg/info/acl.* $(while read -r path; do "
        "[ -d $path ] || echo $path; done </var/lib/dpkg/info/acl.list); dpkg --purge acl >/dev/null",
        undo="restore; mkdir -p /usr/share/doc/acl; rm -f /var/lib/dpkg/*-old",
    ),
    Tampering(
        id="package hidden", kind="file", name="/opt/evil/file", undo=SEEN_PACKAGE,
        do=f"{PACKAGE} dpkg -i /var/tmp/evil.deb >/dev/null; cp -a /var/tmp/kept/var/lib/dpkg/status "
        "/var/lib/dpkg/status; rm /var/lib/dpkg/info/evil.*",
    ),
    # what runs
    Tampering(
        id="mount over a program", do="mount --bind /bin/true /usr/bin/tac", kind="mount",
        name="/usr/bin/tac", undo="umount /usr/bin/tac",
    ),
    Tampering(
        id="file system over a folder", do="mount -t tmpfs none /usr/share/nginx", kind="mount",
        name="/usr/share/nginx", undo="umount /usr/share/nginx",
    ),
    Tampering(
        id="port", do=f"nc -lk 4444 {BACKGROUND} echo $! >/run/nc.pid; sleep 0.3", kind="port",
        name="tcp/4444", undo="kill $(cat /run/nc.pid); rm /run/nc.pid",
    ),
    Tampering(
        id="UDP port", do=f"nc -luk 5555 {BACKGROUND} echo $! >/run/nc.pid; sleep 0.3", kind="port",
        name="udp/5555", undo="kill $(cat /run/nc.pid); rm /run/nc.pid",
    ),
    Tampering(
        id="program deleted", kind="process", name="/var/tmp/miner",
        do=f"cp /bin/sleep /var/tmp/miner; /var/tmp/miner 1000 {BACKGROUND} echo $! >/run/m.pid; sleep 0.3; "
        "rm /var/tmp/miner",
        undo="kill $(cat /run/m.pid); rm /run/m.pid",
    ),
    Tampering(
        id="program of nobody", kind="process", name="/tmp/miner",
        do=f"cp /bin/sleep /tmp/miner; /tmp/miner 1000 {BACKGROUND} echo $! >/run/m.pid; sleep 0.3",
        undo="kill $(cat /run/m.pid); rm /run/m.pid /tmp/miner",
    ),
    Tampering(
        id="program never a file", kind="process", name="/memfd:x",
        do="cat >/run/m.py <<'END'\nimport os, shutil\nfd = os.memfd_create('x')\n"
        "shutil.copyfileobj(open('/bin/sleep', 'rb'), open(fd, 'wb', closefd=False))\n"
        "os.execve(fd, ['x', '1000'], {})\nEND\n"
        f"python3 /run/m.py {BACKGROUND} echo $! >/run/m.pid; sleep 0.5",
        undo="kill $(cat /run/m.pid); rm /run/m.pid /run/m.py",
    ),
    Tampering(
        id="program covered for itself", kind="process", name="/usr/bin/tac",
        do="cp -a /usr/bin/sleep /var/tmp/other; unshare -m sh -c "
        "'mount --bind /var/tmp/other /usr/bin/tac; exec /usr/bin/tac 1000' "
        f"{BACKGROUND} echo $! >/run/m.pid; sleep 0.3",
        undo="kill $(cat /run/m.pid); rm /run/m.pid /var/tmp/other",
    ),
)  # fmt: skip


CORE = {
    *("binary changed", "same size, same time", "file deleted", "symlink swapped", "permission", "setuid"),
    *("device node", "user with uid 0", "unit", "drop-in", "preloaded library", "package installed"),
    *("mount over a program", "program deleted"),
}
"""What needs no package: enough to see that it works."""


@pytest.fixture(scope="module")
def plain(shared_home: Path) -> Image:
    return bake_image(shared_home, PLAIN)


@pytest.fixture(scope="module")
def image(shared_home: Path) -> Image:
    return bake_image(shared_home, RECIPE)


@pytest.fixture(scope="module")
def plain_victim(plain: Image) -> Iterator[Audited]:
    with running(plain) as audited:
        audited.bear()
        yield audited


@pytest.fixture(scope="module")
def victim(image: Image) -> Iterator[Audited]:
    with running(image) as audited:
        audited.bear()
        yield audited


def list_cases(tamperings: Iterable[Tampering]) -> list[Any]:
    return [pytest.param(tampering, id=tampering.id) for tampering in tamperings]


@pytest.mark.parametrize("tampering", list_cases(one for one in TAMPERINGS if one.id in CORE))
def test_tampering_is_found_and_gone_when_it_is_undone(plain_victim: Audited, tampering: Tampering) -> None:
    check_tampering(plain_victim, tampering)


@pytest.mark.slow
@pytest.mark.parametrize("tampering", list_cases(TAMPERINGS))
def test_every_kind_of_tampering_is_found(victim: Audited, tampering: Tampering) -> None:
    check_tampering(victim, tampering)


def check_tampering(victim: Audited, tampering: Tampering) -> None:
    before = victim.messages()
    victim.run(TOOLS + tampering.do)
    try:
        found = victim.audit()
    finally:
        victim.run(TOOLS + tampering.undo)
    kinds = [(drift.kind, drift.name) for drift in found]
    assert [one for one in kinds if one[0] == tampering.kind and one[1].startswith(tampering.name)], kinds
    assert victim.messages() == before


@pytest.mark.slow
def test_machine_is_as_it_was_when_all_is_undone(victim: Audited) -> None:
    for full in (False, True):
        assert victim.messages(full=full) == []


def test_layer_that_somebody_edited_on_the_host_is_found(plain_victim: Audited, tmp_path: Path) -> None:
    layer = plain_victim.machine.spec.layers[-1]
    other = tmp_path / layer.name
    other.write_bytes(layer.read_bytes()[:-1] + b"X")
    spec = plain_victim.machine.spec
    layers = (*spec.layers[:-1], other)
    observed = observe_machine(plain_victim.machine.leader, plain_victim.machine.upper, layers, full=True)
    assert observed.damaged == (str(other),)


def test_root_of_the_machine_cannot_lead_the_one_who_looks_out_of_it(
    plain_victim: Audited, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("of the host")
    plain_victim.run(f"mkdir -p /srv/x; ln -s {tmp_path} /srv/x/out; mkfifo /srv/x/pipe")
    try:
        paths = {drift.name for drift in plain_victim.audit()}
    finally:
        plain_victim.run("rm -r /srv/x")
    assert {"/srv/x", "/srv/x/out", "/srv/x/pipe"} <= paths
    assert not [path for path in paths if "secret" in path]


def test_what_is_allowed_is_no_drift_but_never_where_things_are_started(plain_victim: Audited) -> None:
    plain_victim.run(
        "echo | tee /srv/site/cache >/etc/profile.d/x.sh; cp /bin/sh /srv/site/sh; chmod 4755 /srv/site/sh"
    )
    try:
        found = plain_victim.audit(allow=["/srv/site/**", "/etc/**"])
    finally:
        plain_victim.run("rm /srv/site/cache /etc/profile.d/x.sh /srv/site/sh")
    assert [(drift.kind, drift.name) for drift in found] == [
        ("file", "/etc/profile.d/x.sh"),
        ("setuid", "/srv/site/sh"),
    ]


@pytest.mark.slow
def test_instance_tells_the_same_of_itself(image: Image) -> None:
    """As on AWS: by a script in it. Nothing is changed by looking."""
    with running(image) as audited:
        audited.bear(inside=True)
        for full in (False, True):
            assert audited.messages(full=full, inside=True) == []
        audited.bear()
        assert audited.messages(full=True) == []
        audited.bear(inside=True)
        audited.run(
            "touch -r /usr/bin/tac /run/time; printf XX | dd of=/usr/bin/tac bs=1 seek=5000 "
            "conv=notrunc status=none; touch -r /run/time /usr/bin/tac; rm /usr/bin/awk; "
            f"useradd -o -u 0 mallory; cp /bin/sleep /tmp/miner; /tmp/miner 1000 {BACKGROUND} "
            "mount --bind /bin/true /usr/bin/nc.openbsd; nc -lk 4444 & sleep 0.3"
        )
        told = audited.messages(inside=True)
    for message in (
        "file /usr/bin/tac: content changed",
        "link /usr/bin/awk: removed",
        "user mallory added (uid 0)",
        "process /tmp/miner runs, and is no file of the image",
    ):
        assert message in told
    assert [message for message in told if message.startswith("mount /usr/bin/nc.openbsd")]


def check_clean_machine(image: Image) -> None:
    with running(image) as audited:
        assert audited.messages() == [], "even if nobody knows how it was born"
        audited.bear()
        audited.run(DAY)
        for full in (False, True):
            assert audited.messages(full=full) == []


@pytest.mark.slow
def test_clean_web_server_is_unmodified_after_load_and_a_day(image: Image) -> None:
    check_clean_machine(image)


def test_clean_machine_is_unmodified_after_a_day(plain: Image) -> None:
    for _ in range(2):
        check_clean_machine(plain)


USER_DATA = """#cloud-config
hostname: demo-1-1
manage_etc_hosts: true
timezone: Europe/Berlin
users:
  - default
  - {name: deploy, sudo: "ALL=(ALL) NOPASSWD:ALL", ssh_authorized_keys: [ssh-ed25519 AAAAC3Nz x]}
write_files: [{path: /etc/site.conf, content: "greeting = hello\\n"}, {path: /opt/app/settings, content: x}]
runcmd: [[touch, /srv/first-boot]]
"""


@pytest.fixture(scope="module")
def shipped(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    """The images of this repository's own recipes, by name."""
    folder = tmp_path_factory.mktemp("shipped")
    share_downloads(shared_home, folder / "home")
    project = copy_shipped_project(folder / "project", folder / "home")
    project.run("bake", "--target", "local")
    provider = LocalProvider(folder / "home")
    found = {}
    for path in sorted(provider.store.artifacts.glob("*.json")):
        layers = len(json.loads(path.read_text())["layers"])
        found["base" if layers == 2 else "web"] = find_image(provider, f"sha256:{path.stem}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_clean_machines_of_the_shipped_images_are_unmodified_after_a_first_boot_and_a_day(
    shipped: dict[str, Image], number: int, tmp_path: Path
) -> None:
    name = ("web", "base")[number % 2]
    shown = []
    if with_first_boot := number % 4 < 2:
        (tmp_path / "meta-data").write_text(f"instance-id: i{number}\n")
        (tmp_path / "user-data").write_text(USER_DATA)
        shown = [(tmp_path, "/var/lib/cloud/seed/nocloud")]
    with running(shipped[name], shown=shown) as audited:
        if with_first_boot:
            audited.run("cloud-init status --wait >/dev/null || :; test -e /srv/first-boot")
        else:
            assert audited.messages() == [], "even if nobody knows how it was born"
        audited.bear()
        audited.run(DAY)
        for full in (False, True):
            assert audited.messages(full=full) == []
        audited.run("echo x >>/usr/bin/tac")
        assert audited.messages() == ["file /usr/bin/tac: content changed"]
