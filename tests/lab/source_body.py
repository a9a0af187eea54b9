"""The file system of the stock's AMI: Debian with what its cloud images have, made once and kept."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path

from baker.model import Bootstrap
from baker.providers.local.archive import Archive
from baker.providers.local.bootstrap import ensure_bootstrap
from baker.providers.local.holder import MachineSpec
from baker.providers.local.host import host_arch, run_tool
from baker.providers.local.machine import LocalMachine
from baker.providers.local.store import Store
from baker.providers.local.tree import remove_mount_points, seal_tree
from baker.teardown import Teardown

SUITE = Bootstrap(distribution="debian", suite="trixie")
USER = "admin"
"""The first user of Debian's official AMIs."""
CLOUD_CONFIG = f"""\
# As in Debian's AMIs, but that the lab has no metadata service, and its machines have no disk to grow and no
# network to set up.
datasource_list: [NoCloud, None]
system_info:
  default_user:
    name: {USER}
    lock_passwd: true
    gecos: Debian
    groups: [adm, audio, cdrom, dialout, dip, floppy, plugdev, sudo, video]
    sudo: ["ALL=(ALL) NOPASSWD:ALL"]
    shell: /bin/bash
apt:
  preserve_sources_list: true
manage_etc_hosts: true
locale: false
growpart:
  mode: "off"
resize_rootfs: false
network:
  config: disabled
"""
SCRIPT = """\
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --no-install-recommends \\
  ca-certificates cloud-init curl iproute2 openssh-server python3 sudo >/dev/null
rm -f /etc/ssh/ssh_host_*
cat >/etc/cloud/cloud.cfg.d/90_lab.cfg
cloud-init clean --logs --seed
"""


def ensure_source(home: Path) -> tuple[Path, ...]:
    """The layers of the source AMI, lowest first; made in a minute where they are missing. Needs root."""
    folder = home / "lab" / "source"
    store = Store(home / "local")
    store.create()
    identity = hashlib.sha256(f"{SUITE} {CLOUD_CONFIG} {SCRIPT}".encode()).hexdigest()[:16]
    made = folder / identity
    with store.lock("lab-source"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make_source(store, folder, made)
    return made / "bottom.erofs", made / "source.erofs"


def make_source(store: Store, folder: Path, made: Path) -> None:
    archive = Archive(store, SUITE, host_arch())
    teardown = Teardown("lab-source", None)
    try:
        chain = ensure_bootstrap(store, archive, archive.resolve_bootstrap(), teardown, offline=False)
    finally:
        teardown.close()
    new = folder / "new"
    new.mkdir()
    # A copy: baker's store may drop the bootstrap when it is out of date.
    shutil.copyfile(store.verified_layer(chain["layers"][0]), new / "bottom.erofs")
    started = time.time() - 1.0
    spec = MachineSpec(
        name="lab-source",
        cgroup=f"baker-lab-source-{hashlib.sha256(str(store.folder).encode()).hexdigest()[:8]}",
        folder=folder / "machine",
        layers=(new / "bottom.erofs",),
        hostname="lab-source",
        environment={},
        binds=(
            ("lists", archive.lists, "/var/lib/apt/lists"),
            ("debs", archive.debs, "/var/cache/apt/archives"),
        ),
        quiet=True,
    )
    machine = LocalMachine.start(spec)
    try:
        done = machine.run(["sh", "-c", SCRIPT], stdin=CLOUD_CONFIG.encode(), timeout=600.0)
        if done.exit_status != 0:
            raise RuntimeError(f"the lab's source could not be made: {done.stderr.decode()[-2000:]}")
        machine.stop()
        archive.accept(spec.folder / "binds" / "debs" / "upper")
        remove_mount_points(machine.upper)
        seal_tree(machine.upper, started=started, epoch=chain["epoch"])
        write_layer(machine.upper, new / "source.erofs")
    finally:
        machine.discard()
    new.rename(made)


def write_layer(tree: Path, path: Path) -> None:
    """Uncompressed: it is read more often than it is kept long."""
    run_tool(["mkfs.erofs", "--quiet", str(path), str(tree)])
