"""What an instance finds at its first boot: a NoCloud seed, as a layer above its image's."""

from __future__ import annotations

import json
from pathlib import Path

from tests.lab.fleet import Launch
from tests.lab.source_body import USER, write_layer

SEED = "var/lib/cloud/seed"
FAILING = "#!/bin/sh\necho 'the lab has cloud-init fail' >&2\nexit 1\n"


def write_seed(launch: Launch, folder: Path) -> Path:
    """The layer's file. Faults that the machine shows by itself are in it too."""
    tree = folder / "seed"
    nocloud = tree / SEED / "nocloud"
    nocloud.mkdir(parents=True)
    (nocloud / "user-data").write_bytes(launch.user_data)
    (nocloud / "meta-data").write_text(json.dumps(describe(launch)))
    if launch.fault("cloud-init-fails"):
        (nocloud / "vendor-data").write_text(FAILING)
    if launch.fault("no-sudo"):
        sudoers = tree / "etc" / "sudoers.d" / "zz-lab"
        sudoers.parent.mkdir(parents=True)
        sudoers.write_text(f"{USER} ALL=(ALL) PASSWD: ALL\n")
        sudoers.chmod(0o440)
        sudoers.parent.chmod(0o750)
    layer = folder / "seed.erofs"
    write_layer(tree, layer)
    return layer


def describe(launch: Launch) -> dict[str, object]:
    """cloud-init's meta-data; JSON is YAML too."""
    keys = {"public-keys": [launch.public_key]} if launch.public_key else {}
    hostname = f"ip-{launch.address.replace('.', '-')}"
    named = {"instance-id": launch.instance, "local-hostname": hostname, "local-ipv4": launch.address}
    return {**named, **keys}
