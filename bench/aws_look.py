"""Looks into AMIs of the lab: into the file system before any boot, and by SSH into machines of it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.lab import Lab

READY_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Remains:
    """What an AMI holds that its source does not. ``host_keys`` are public ones, in base64."""

    authorized_keys: int
    private_host_keys: int
    host_keys: tuple[str, ...]
    machine_id: str
    cloud_instances: int
    histories: int
    logs: int
    log_bytes: int
    random_seed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """``foreign_keys`` may log in and are not those that the machine was launched with."""

    machine_id: str
    foreign_keys: tuple[str, ...]


MOUNT = """set -eu
root=$1; shift
lower=
for layer; do
    mkdir -p "$root/$(basename "$layer")"
    mount -t erofs -o ro,loop "$layer" "$root/$(basename "$layer")"
    lower=$root/$(basename "$layer")${lower:+:$lower}
done
mkdir "$root/all"
mount -t overlay -o "ro,lowerdir=$lower" none "$root/all"
exec "$PYTHON" -c "$LOOK" "$root/all"
"""
LOOK = """
import glob, json, os, sys
root = sys.argv[1]
def find(*patterns):
    found = [
        path
        for pattern in patterns
        for path in glob.glob(f"{root}/{pattern}", recursive=True, include_hidden=True)
    ]
    plain = [path for path in found if os.path.isfile(path) and not os.path.islink(path)]
    return [path for path in plain if os.path.getsize(path)]
def read(*patterns):
    return [line.split() for path in find(*patterns) for line in open(path).read().splitlines()]
authorized = read("root/.ssh/authorized_keys*", "home/*/.ssh/authorized_keys*")
keys = [words for words in authorized if words and words[0][0] != "#"]
logs = find("var/log/**/*")
print(json.dumps({
    "authorized_keys": len(keys),
    "private_host_keys": len(find("etc/ssh/ssh_host_*_key")),
    "host_keys": [words[1] for words in read("etc/ssh/ssh_host_*_key.pub")],
    "machine_id": "".join(words[0] for words in read("etc/machine-id")).replace("uninitialized", ""),
    "cloud_instances": len(glob.glob(f"{root}/var/lib/cloud/instances/*")),
    "histories": len(find("root/.*history", "home/*/.*history")),
    "logs": sorted([path.removeprefix(root), os.path.getsize(path)] for path in logs),
    "random_seed": bool(find("var/lib/systemd/random-seed")),
}))
"""


def look_into_image(lab: Lab, ami: str) -> Remains:
    """The lab's file system of an AMI, mounted for a moment: as whoever copies its snapshot has it."""
    own, source = (read_tree(lab.fleet._layers_of(image)) for image in (ami, lab.source_ami))  # type: ignore[attr-defined]
    logs = [log for log in own["logs"] if log not in source["logs"]]
    changed = {"logs": len(logs), "log_bytes": sum(size for _, size in logs)}
    return Remains(**{**own, **changed, "host_keys": tuple(own["host_keys"])})


def read_tree(layers: tuple[Path, ...]) -> Mapping[str, Any]:
    root = "/run/baker-bench-image"
    Path(root).mkdir(exist_ok=True)
    mounted = f'mount -t tmpfs none {root} && exec sh -c "$MOUNT" mount {root} "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mounted, "look", *map(str, layers)],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MOUNT": MOUNT, "LOOK": LOOK, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"the image cannot be looked into: {done.stderr}")
    return dict(json.loads(done.stdout))


INSIDE = """cat /etc/machine-id
sudo sh -c 'cat /root/.ssh/authorized_keys* /home/*/.ssh/authorized_keys*' 2>/dev/null
"""


def boot_twice(lab: Lab, ami: str) -> tuple[Machine, Machine]:
    """Two machines of an AMI, with a new key, looked at by SSH. They are gone afterwards."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    client = lab.client("ec2")
    launched = client.run_instances(
        ImageId=ami,
        InstanceType="t3.small",
        MinCount=2,
        MaxCount=2,
        UserData=f"#cloud-config\nssh_authorized_keys: ['{public}']\n",
    )["Instances"]
    ids = [one["InstanceId"] for one in launched]
    try:
        one, two = (look_by_ssh(lab, each, private, public) for each in ids)
        return one, two
    finally:
        client.terminate_instances(InstanceIds=ids)


def look_by_ssh(lab: Lab, instance: str, private: str, public: str) -> Machine:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            lines = run_by_ssh(lab, instance, private)
            break
        except (OSError, EOFError, KeyError, paramiko.SSHException):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    keys = [line for line in lines[1:] if line.strip() and not line.startswith("#")]
    foreign = {line for line in keys if public.split()[1] not in line}
    return Machine(machine_id=lines[0], foreign_keys=tuple(sorted(foreign)))


def run_by_ssh(lab: Lab, instance: str, private: str) -> list[str]:
    [reservation] = lab.client("ec2").describe_instances(InstanceIds=[instance])["Reservations"]
    address = reservation["Instances"][0]["PublicIpAddress"]
    with paramiko.SSHClient() as ssh:
        ssh.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # who it is does not matter here
        ssh.connect(
            address,
            username=lab.ssh_user,
            pkey=paramiko.Ed25519Key.from_private_key(io.StringIO(private)),
            timeout=5,
            allow_agent=False,
            look_for_keys=False,
        )
        _, stdout, _ = ssh.exec_command(f"cloud-init status --wait >/dev/null\n{INSIDE}")
        return stdout.read().decode().splitlines()
