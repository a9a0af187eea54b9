"""The shipped recipes and small ones, baked for aws on the lab: real machines, real SSH, the command line."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from tests.aws import calls_of, describe_instances
from tests.e2e.aws_faults import find_leaks
from tests.e2e.aws_site import COPY_REGION, Site
from tests.e2e.project import Project, copy_shipped_project, make_project, share_downloads
from tests.lab import Fault, Lab, running_lab

pytestmark = pytest.mark.machine
REGION = "eu-west-1"
SETTINGS = f"""
regions = ["{COPY_REGION}"]
share_accounts = ["111122223333"]
deprecate_after = "90d"
[aws.tags]
team = "web"
"""
FROM_DEBIAN = 'from = { owner = "136693071363", name = "debian-13-{deb_arch}-*" }\n'
SMALL = f"[targets.aws]\n{FROM_DEBIAN}"
BOTH = f'from = "debian:trixie"\n[targets.local]\n{SMALL}'
DEPLOY = """
from pyinfra.operations import files, server

files.directory(name="Make a folder", path="/srv/made")
"""
WAITING = DEPLOY + 'server.shell(name="Wait", commands=["sleep 600"])\n'
FAILING = DEPLOY + 'server.shell(name="Fail", commands=["exit 3"])\n'
LOOK = """
import glob, json, os, subprocess, urllib.request
def run(command):
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout.strip()
def read(*patterns):
    return "".join(open(path).read() for pattern in patterns for path in sorted(glob.glob(pattern)))
print(json.dumps({
    "keys": read("/home/*/.ssh/authorized_keys", "/root/.ssh/authorized_keys"),
    "host_keys": read("/etc/ssh/ssh_host_*_key.pub"),
    "machine_id": read("/etc/machine-id").strip(),
    "instances": sorted(os.listdir("/var/lib/cloud/instances")),
    "journals": sorted(os.listdir("/var/log/journal")) if os.path.isdir("/var/log/journal") else [],
    "histories": glob.glob("/home/*/.*history") + glob.glob("/root/.*history"),
    "timers": run("systemctl list-units --type=timer --plain --no-legend 'baker*'"),
    "page": urllib.request.urlopen("http://127.0.0.1/").read().decode(),
    "marked": run("grep -rlsF -e MARKS /etc /home /opt /root /srv /tmp /usr /var"),
}))
"""


@dataclass(kw_only=True)
class Cloud:
    """A lab with machines, what was baked on it, and a key of the test's own."""

    lab: Lab
    shipped: Project
    home: Path
    key: Path

    def project(self, folder: Path, **recipes: str) -> Project:
        """Another project with the same catalog; ``recipes`` are deploys."""
        project = make_project(folder, self.shipped.home)
        project.write("baker.toml", self.lab.settings + SETTINGS)
        project.environ.update(self.lab.environment)
        for name, deploy in recipes.items():
            project.recipe(name, toml=SMALL, deploy=deploy)
        return project

    def site(self, project: Project) -> Site:
        return Site(lab=self.lab, folder=project.folder, home=project.home)

    def temporary(self) -> list[str]:
        """What the account holds that no image has."""
        kept = ("image", "snapshot", "parameter", "key-pair")
        return [line for line in self.lab.holdings() if line.split()[1] not in kept]

    def ssh(self, address: str, script: str) -> str:
        """What a Python script prints as root; tried until the machine answers."""
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        login = ["ssh", "-i", str(self.key), *options, "-o", "BatchMode=yes", f"admin@{address}"]
        deadline = time.monotonic() + 60.0
        while True:
            done = subprocess.run(
                [*login, "cloud-init status --wait >/dev/null; sudo python3 -"],
                input=script,
                capture_output=True,
                text=True,
            )
            if done.returncode == 0:
                return done.stdout
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.2)


@pytest.fixture(scope="module")
def cloud(bodies_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A small recipe for both targets is baked."""
    from tests.lab.bodies import Bodies

    scratch = tmp_path_factory.mktemp("cloud")
    key = scratch / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    with running_lab(Bodies(bodies_home)) as lab:
        shipped = copy_shipped_project(scratch / "shipped", scratch / "home")
        share_downloads(bodies_home, shipped.home)
        shipped.write("baker.toml", lab.settings + SETTINGS)
        shipped.environ.update(lab.environment)
        shipped.recipe("both", toml=BOTH, deploy=DEPLOY)
        for region in (REGION, COPY_REGION):
            lab.client("ec2", region).import_key_pair(
                KeyName="own", PublicKeyMaterial=key.with_suffix(".pub").read_bytes()
            )
        shipped.run("bake", "both", "--target", "local")
        shipped.run("bake", "both", "--target", "aws")
        yield Cloud(lab=lab, shipped=shipped, home=shipped.home, key=key)


@pytest.fixture(scope="module")
def with_web(cloud: Cloud) -> Cloud:
    """The shipped recipes base and web are baked as well."""
    cloud.shipped.run("bake", "web", "--target", "aws")
    return cloud


def wait_for_call(lab: Lab, action: str, count: int, alive: Callable[[], bool]) -> None:
    while len(calls_of(lab, action)) <= count:
        assert alive(), "it ended before"
        time.sleep(0.02)


# --- what was baked -------------------------------------------------------------------------------------


def test_image_is_shared_tagged_deprecated_later_and_in_both_regions(cloud: Cloud) -> None:
    assert cloud.temporary() == []
    assert_is_distributed(cloud, "both")


def assert_is_distributed(cloud: Cloud, recipe: str) -> None:
    shown = cloud.shipped.json("image", "show", f"{recipe}:1")
    [build] = [build for build in shown["builds"] if build["target"] == "aws"]
    amis = {artifact["region"]: artifact["id"] for artifact in build["artifacts"]}
    assert set(amis) == {REGION, COPY_REGION}
    for region, ami in amis.items():
        ec2 = cloud.lab.client("ec2", region)
        [image] = ec2.describe_images(ImageIds=[ami])["Images"]
        tags = {tag["Key"]: tag["Value"] for tag in image["Tags"]}
        assert (tags["baker:recipe"], tags["baker:version"], tags["team"]) == (recipe, "1", "web")
        assert image["ImdsSupport"] == "v2.0"
        assert image["DeprecationTime"]
        shared = ec2.describe_image_attribute(ImageId=ami, Attribute="launchPermission")
        assert shared["LaunchPermissions"] == [{"UserId": "111122223333"}]


@pytest.mark.slow
def test_child_starts_from_the_ami_of_its_parent(with_web: Cloud) -> None:
    cloud = with_web
    for recipe in ("base", "web"):
        assert_is_distributed(cloud, recipe)
    [parent] = cloud.shipped.json("image", "show", "base:1")["builds"]
    ami = next(one["id"] for one in parent["artifacts"] if one["region"] == REGION)
    started = [call["ImageId"] for call in calls_of(cloud.lab, "RunInstances")]
    assert started.count(ami) == 2, "base's image tests, and web"


@pytest.mark.slow
def test_machines_of_the_final_image_have_what_the_recipe_made_and_nothing_of_ours(with_web: Cloud) -> None:
    """In both regions: two machines, so that what is alike in them was baked in."""
    cloud = with_web
    [build] = cloud.shipped.json("image", "show", "web:1")["builds"]
    [record] = [
        one for one in cloud.shipped.json("status", "--last", "9")["finished"] if one["recipe"] == "web"
    ]
    baked = [call for call in calls_of(cloud.lab, "RunInstances") if record["bake"] in str(call)]
    assert len(baked) == 2, "the build instance, and that of the image tests"
    marks = [record["bake"], *(key for call in baked for key in read_keys(call))]
    launched = {}
    for artifact in build["artifacts"]:
        client = cloud.lab.client("ec2", artifact["region"])
        answer = client.run_instances(ImageId=artifact["id"], MinCount=1, MaxCount=1, KeyName="own")
        launched[artifact["region"]] = answer["Instances"][0]["InstanceId"]
    found = []
    try:
        for region, instance in launched.items():
            cloud.lab.client("ec2", region).get_waiter("instance_running").wait(
                InstanceIds=[instance], WaiterConfig={"Delay": 1}
            )
            [described] = describe_instances(cloud.lab, region, instance_id=instance)
            script = LOOK.replace("MARKS", " -e ".join(map(shlex.quote, marks)))
            seen = json.loads(cloud.ssh(described["PublicIpAddress"], script))
            assert seen["instances"] == [instance], "cloud-init knows no other"
            found.append(seen)
    finally:
        for region, instance in launched.items():
            cloud.lab.client("ec2", region).terminate_instances(InstanceIds=[instance])
    own = cloud.key.with_suffix(".pub").read_text().split()[1]
    for seen in found:
        assert "This page was baked into the image." in seen["page"]
        assert set(re.findall(r"ssh-[a-z0-9]+ (\S+)", seen["keys"])) == {own}
        assert seen["journals"] in ([], [seen["machine_id"]])
        assert (seen["histories"], seen["timers"], seen["marked"]) == ([], "", "")
    assert found[0]["machine_id"] != found[1]["machine_id"]
    first, second = (set(re.findall(r"^\S+ (\S+)", seen["host_keys"], re.MULTILINE)) for seen in found)
    assert first
    assert not first & second


def read_keys(launch: Mapping[str, Any]) -> set[str]:
    """The public keys that baker handed to an instance: its own, and the host's."""
    message = message_from_bytes(base64.b64decode(launch["UserData"]))
    parts: list[Any] = [part for part in message.walk() if not part.is_multipart()]
    text = "".join(part.get_payload(decode=True).decode() for part in parts)
    keys = set(re.findall(r"ssh-ed25519 ([A-Za-z0-9+/=]{60,})", text))
    assert len(keys) == 2
    return keys


def test_one_version_holds_the_builds_of_both_targets_and_nothing_is_left_to_do(cloud: Cloud) -> None:
    shown = cloud.shipped.json("image", "show", "both:1")
    assert shown["complete"]
    stores = {build["target"]: [one["region"] for one in build["artifacts"]] for build in shown["builds"]}
    assert stores == {"local": [None], "aws": [REGION, COPY_REGION]}
    plan = cloud.shipped.json("plan", "both")["recipes"]
    assert {(entry["target"], entry["action"]) for entry in plan} == {("local", "skip"), ("aws", "skip")}


@pytest.mark.slow
def test_bake_of_what_is_unchanged_asks_for_little(with_web: Cloud) -> None:
    cloud = with_web
    cloud.lab.forget_calls()
    done = cloud.shipped.bake("web", "--target", "aws")
    assert {one["outcome"] for one in done} == {"unchanged"}
    assert len(cloud.lab.calls) == 2, "the source, and which AMIs are there"
    plan = cloud.shipped.json("plan", "--target", "aws")["recipes"]
    assert {entry["action"] for entry in plan} == {"skip"}


def test_command_is_run_in_a_throwaway_instance(cloud: Cloud) -> None:
    script = "echo $(cat /etc/hostname); test -d /srv/made; exit 7"
    done = cloud.shipped.run("run", "both:1", "--target", "aws", "--", "sh", "-c", script, status=7)
    assert done.stdout.strip()
    assert cloud.temporary() == []


# --- what goes wrong ------------------------------------------------------------------------------------


def test_machine_that_is_kept_is_reached_by_what_is_printed_and_ends_itself_in_the_end(
    cloud: Cloud, tmp_path: Path
) -> None:
    project = cloud.project(tmp_path / "site", kept=FAILING)
    done = project.run("bake", "--on-error", "keep", status=1)
    [command] = [line.strip() for line in done.stderr.splitlines() if " ssh -i " in f" {line.strip()}"]
    command = command[command.index("ssh -i ") :]
    ask = "test -d /srv/made && systemctl list-units --type=timer --plain --no-legend"
    inside = subprocess.run([*shlex.split(command), ask], capture_output=True, text=True)
    assert inside.returncode == 0, inside.stderr
    assert re.search(r"^baker\S*\.timer .*active", inside.stdout, re.MULTILINE)
    assert project.run("system", "sweep").stdout == "nothing is left behind\n", "it is kept"
    bake = project.json("status")["finished"][0]["bake"]
    project.run("system", "sweep", "--bake", bake)
    assert cloud.temporary() == []


def test_interruption_while_it_waits_for_the_instance_cleans_up(cloud: Cloud, tmp_path: Path) -> None:
    project = cloud.project(tmp_path / "site", interrupted=WAITING)
    launched = len(calls_of(cloud.lab, "RunInstances"))
    baker = project.start("bake")
    wait_for_call(cloud.lab, "RunInstances", launched, lambda: baker.poll() is None)
    baker.send_signal(signal.SIGINT)
    _, said = baker.communicate(timeout=60)
    assert baker.returncode == 130, said
    assert "Traceback" not in said
    assert cloud.temporary() == []


def test_sweep_removes_what_a_bake_left_that_was_killed_while_it_configured(
    cloud: Cloud, tmp_path: Path
) -> None:
    project = cloud.project(tmp_path / "site", killed=WAITING)
    baker = project.start("bake")
    assert baker.stderr is not None
    for line in baker.stderr:
        if "Make a folder" in line:
            break
    os.kill(baker.pid, signal.SIGKILL)
    baker.communicate()
    assert {line.split()[1] for line in cloud.temporary()} == {"instance", "security-group", "volume"}
    project.run("system", "sweep")
    assert cloud.temporary() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "fault"),
    [
        ("RunInstances", {"kind": "kill"}),
        ("CreateImage", {"kind": "lose"}),
        ("CopyImage", {"kind": "refuse", "code": "UnauthorizedOperation"}),
    ],
    ids=["killed after RunInstances", "answer of CreateImage lost", "CopyImage refused"],
)
def test_one_sweep_leaves_nothing_of_a_bake_whose_calls_went_wrong(
    cloud: Cloud, tmp_path: Path, action: str, fault: Mapping[str, Any]
) -> None:
    project = cloud.project(tmp_path / "site", struck=DEPLOY + f"# {action}\n")
    pids: list[int] = []
    cloud.lab.faults.add(Fault(action=action, **fault, callback=lambda: os.kill(pids[0], signal.SIGKILL)))
    baker = project.start("bake")
    pids.append(baker.pid)
    _, said = baker.communicate(timeout=120)
    cloud.lab.faults.clear()
    assert baker.returncode == {"kill": -9, "lose": 0, "refuse": 1}[fault["kind"]], said
    project.run("system", "sweep")
    assert cloud.temporary() == []
    leaks, missing = find_leaks(cloud.site(project))
    assert ([line for line in leaks if " key-pair " not in line], missing) == ([], ())
