"""What Packer and baker leave open, and behind: each fact is looked at on the lab, none is taken on trust."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import paramiko

from bench.aws_contestants import Baker, Build, Contestant, Packer, build
from bench.aws_look import Machine, Remains, boot_twice, look_into_image
from bench.measuring import say
from tests.lab import Fault, InstanceFault, Lab

LOOK_SECONDS = 0.3
LOGIN_SECONDS = 180.0
LOGGED_IN = "Accepted publickey"
"""How sshd tells, in the journal, that somebody proved to have a key."""
LINGER_SECONDS = 3.0
"""An instance that is about to end is kept for so long, that its journal can be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    what: str
    packer: str
    baker: str


@dataclass(kw_only=True)
class Seen:
    """What was seen of an instance while it ran."""

    logged_in: bool = False
    host_key: str = ""


@dataclass(kw_only=True)
class Watch:
    """Looks at the instances of a lab that are not there yet."""

    lab: Lab
    known: frozenset[str]
    seen: dict[str, Seen] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def first(self) -> Seen:
        return next(iter(self.seen.values()), Seen())

    def look(self) -> None:
        while not self.ended.wait(LOOK_SECONDS):
            for one in list_instances(self.lab):
                if one["InstanceId"] not in self.known:
                    seen = self.seen.setdefault(one["InstanceId"], Seen())
                    seen.logged_in |= LOGGED_IN in self.lab.fleet.console(one["InstanceId"])
                    seen.host_key = seen.host_key or read_host_key(one.get("PublicIpAddress"))


def list_instances(lab: Lab) -> list[dict[str, Any]]:
    """Those that have not ended."""
    found = lab.client("ec2").describe_instances()["Reservations"]
    alive = [one for reservation in found for one in reservation["Instances"]]
    return [one for one in alive if one["State"]["Name"] not in ("shutting-down", "terminated")]


def read_host_key(address: str | None) -> str:
    """The ed25519 one in base64; nothing where no sshd answers yet."""
    if address is None:
        return ""
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        transport = paramiko.Transport((address, 22))
        try:
            transport.get_security_options().key_types = ("ssh-ed25519",)
            transport.start_client(timeout=1.0)
            return transport.get_remote_server_key().get_base64()
        finally:
            transport.close()
    return ""


@contextmanager
def watching(lab: Lab) -> Iterator[Watch]:
    watch = Watch(lab=lab, known=frozenset(one["InstanceId"] for one in list_instances(lab)))
    thread = threading.Thread(target=watch.look)
    thread.start()
    try:
        yield watch
    finally:
        watch.ended.set()
        thread.join()


@dataclass(kw_only=True)
class Looked:
    """One contestant's build, what is in its AMI, and two machines of it."""

    build: Build
    build_host_key: str
    remains: Remains
    machines: tuple[Machine, Machine]
    image: Mapping[str, Any]


def look(contestant: Contestant) -> Looked:
    lab = contestant.lab
    with watching(lab) as watch:
        one = build(contestant)
    return Looked(
        build=one,
        build_host_key=watch.first.host_key,
        remains=look_into_image(lab, one.ami),
        machines=boot_twice(lab, one.ami),
        image=lab.client("ec2").describe_images(ImageIds=[one.ami])["Images"][0],
    )


def compare_security(packer: Packer, baker: Baker) -> list[Fact]:
    say("  what stays in the image")
    looked = look(packer), look(baker)
    facts = [Fact(what=what, packer=tell(looked[0]), baker=tell(looked[1])) for what, tell in TELLING.items()]
    say("  a wrong host key")
    facts.insert(
        0, Fact(what="a stranger's host key", packer=show_stranger(packer), baker=show_stranger(baker))
    )
    say("  kill -9")
    killed = kill(packer)
    swept = kill_and_sweep(baker)
    facts.append(Fact(what="kill -9 amid the provisioning leaves", packer=killed, baker=swept[0]))
    facts.append(Fact(what="  after its sweep", packer="it has none", baker=swept[1]))
    return facts


# --- from one build -------------------------------------------------------------------------------------


def tell_range(looked: Looked) -> str:
    ranges = {
        ranges["CidrIp"]
        for call in looked.build.calls
        if call.action == "AuthorizeSecurityGroupIngress"
        for permission in call.params["IpPermissions"]
        for ranges in permission["IpRanges"]
    }
    return ", ".join(sorted(ranges))


def tell_imds(looked: Looked) -> str:
    launches = [call.params for call in looked.build.calls if call.action == "RunInstances"]
    strict = sum(one.get("MetadataOptions", {}).get("HttpTokens") == "required" for one in launches)
    return f"{strict} of {len(launches)} launches; AMI: {looked.image.get('ImdsSupport', 'no')}"


def tell_tested(looked: Looked) -> str:
    booted = [
        call
        for call in looked.build.calls
        if call.action == "RunInstances" and call.params["ImageId"] == looked.build.ami
    ]
    return "yes" if booted else "no"


def tell_tags(looked: Looked) -> str:
    makes = ("CreateSecurityGroup", "CreateKeyPair", "RunInstances", "CreateImage")
    calls = [call for call in looked.build.calls if call.action in makes]
    return f"{sum(call.has_tags for call in calls)} of {len(calls)}"


def tell_host_keys(looked: Looked) -> str:
    same = looked.build_host_key and looked.build_host_key in looked.remains.host_keys
    return f"{looked.remains.private_host_keys}{', the build instance’s' if same else ''}"


def tell_foreign_keys(looked: Looked) -> str:
    return str(max(len(machine.foreign_keys) for machine in looked.machines))


def tell_machine_id(looked: Looked) -> str:
    one, two = looked.machines
    return "the same" if one.machine_id == two.machine_id else "different"


TELLING: Mapping[str, Callable[[Looked], str]] = {
    "SSH is open to": tell_range,
    "IMDSv2 required": tell_imds,
    "booted before it is published": tell_tested,
    "tagged in the call that makes it": tell_tags,
    "in the AMI: private host keys": tell_host_keys,
    "  keys that may log in": lambda looked: str(looked.remains.authorized_keys),
    "  machine-id": lambda looked: "set" if looked.remains.machine_id else "none",
    "  cloud-init's state of instances": lambda looked: str(looked.remains.cloud_instances),
    "  shell histories": lambda looked: str(looked.remains.histories),
    "  log files, of the build": lambda looked: (
        f"{looked.remains.logs} ({looked.remains.log_bytes / 1e6:.1f} MB)"
    ),
    "  random seed": lambda looked: "yes" if looked.remains.random_seed else "no",
    "two machines of it: keys of others that may log in": tell_foreign_keys,
    "  their machine-ids": tell_machine_id,
}


# --- with something wrong -------------------------------------------------------------------------------


def show_stranger(contestant: Contestant) -> str:
    """The build instance shows another host key than it was given: who answers is not who was launched."""
    lab = contestant.lab
    lab.faults.add(
        InstanceFault(kind="wrong-host-key"),
        Fault(action="TerminateInstances", kind="delay", seconds=LINGER_SECONDS),
    )
    try:
        with watching(lab) as watch:
            status, _ = contestant.start().wait()
    finally:
        lab.faults.clear()
    login = "logs in" if watch.first.logged_in else "ends before it logs in"
    return f"{login}, {'makes the AMI' if status == 0 else f'exit status {status}'}"


def kill(contestant: Contestant) -> str:
    """What the account holds after all of a contestant was killed, as soon as it was in the instance."""
    lab = contestant.lab
    before = set(lab.holdings())
    with watching(lab) as watch:
        running = contestant.start()
        deadline = time.monotonic() + LOGIN_SECONDS
        while not watch.first.logged_in:
            if time.monotonic() > deadline:
                raise SystemExit(f"{contestant.name} never logged in:\n{running.said[-3000:]}")
            time.sleep(LOOK_SECONDS)
        for pid in running.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.wait()
    return describe_holdings(set(lab.holdings()) - before)


def kill_and_sweep(baker: Baker) -> tuple[str, str]:
    before = set(baker.lab.holdings())
    left = kill(baker)
    baker.command("system", "sweep").require_success()
    return left, describe_holdings(set(baker.lab.holdings()) - before)


def describe_holdings(lines: set[str]) -> str:
    kinds = sorted(line.split()[1] for line in lines)
    return ", ".join(kinds) or "nothing"
