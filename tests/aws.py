"""The AWS provider on a lab without machines: quick, scripts answered for, and looked at afterwards."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from botocore import session as core
from botocore.loaders import create_loader

from baker import identity, time_limits
from baker.model import AmiSource, Artifact, Build, LedgerEntry, Recipe, Resource
from baker.providers.aws import machine, network, parameters, session, waiting
from baker.providers.aws.machine import AwsMachine
from baker.providers.aws.provider import AwsProvider
from baker.providers.protocol import Captured, ResolvedSource
from baker.teardown import Teardown
from tests.factories import NOON, make_build
from tests.lab import Lab, Latency, running_lab
from tests.lab.fleet import Fleet

DEBIAN = "136693071363"
ACCOUNT = "123456789012"
"""The lab's own account."""
NEWEST = {"owner": DEBIAN, "name": "debian-13-{deb_arch}-*"}
NO_LATENCY = Latency(launch=0, ssh=0, stop=0, terminate=0, image=0, copy=0)
RECORDS = (
    {"format": 1},
    {"dpkg": "Package: nginx\nStatus: install ok installed\nVersion: 1.26.3-3\nArchitecture: amd64\n"},
    ["/etc", "d", 0o755, 0, 0, 0, "", "", []],
    {"end": 1, "unreadable": []},
)
"""What the listing script finds in every instance."""


def answer_scripts(command: str, stdin: bytes) -> tuple[int, bytes, bytes] | None:
    """The answers of what baker sends into an instance: all is well. For ``lab.fleet.answers``."""
    if b"inside.sent.waiting" in stdin:
        return 0, json.dumps({"state": "ready", "errors": [], "warnings": [], "log": ""}).encode(), b""
    if b"inside.sent.sealing" in stdin:
        return 0, json.dumps({"failures": [], "keys": 1}).encode(), b""
    if b"inside.sent.listing" in stdin:
        return 0, zlib.compress("".join(json.dumps(record) + "\n" for record in RECORDS).encode()), b""
    if "boot_id" in command:
        return 0, b"6a1c5a34-boot-1\n", b""
    return None


@contextmanager
def quick_lab(
    bodies: Fleet | None = None, *, latency: Latency = NO_LATENCY, answered: bool = True
) -> Iterator[Lab]:
    """A lab that this process's boto3 talks to, in which nothing takes time and nobody waits long.

    ``answered`` has the scripts in instances answered (of a lab without machines).
    """
    with (
        running_lab(bodies, latency=latency) as lab,
        aws_variables(lab.environment),
        quick_waits(),
        shared_models(),
    ):
        if answered:
            lab.fleet.answers.append(answer_scripts)  # type: ignore[attr-defined]
        yield lab


@contextmanager
def shared_models() -> Iterator[None]:
    """botocore reads its large models once, not for each provider."""
    loader = create_loader()
    core.create_loader = lambda _path=None: loader
    try:
        yield
    finally:
        core.create_loader = create_loader


@contextmanager
def aws_variables(environment: Mapping[str, str]) -> Iterator[None]:
    """Exactly these AWS_* variables, within."""
    before = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
    for key in before:
        del os.environ[key]
    os.environ.update(environment)
    try:
        yield
    finally:
        for key in [key for key in os.environ if key.startswith("AWS_")]:
            del os.environ[key]
        os.environ.update(before)


@contextmanager
def quick_waits() -> Iterator[None]:
    """AWS is asked every few milliseconds, and what may be late for a few seconds for a moment."""
    paces = [(pace, pace.first, pace.longest) for pace in (waiting.SOON, waiting.LATER)]
    numbers = [
        (waiting, "LOOK_UP_SECONDS", 0.1),
        (network, "DETACH_SECONDS", 3.0),
        (machine, "RETRY_SECONDS", 0.02),
        (machine, "LOOK_SECONDS", 0.2),
        (machine, "LOGIN_SECONDS", 0.3),
        (parameters, "VALID_SECONDS", 0.2),
        (time_limits, "FIRST_PAUSE_SECONDS", 0.05),
    ]
    known = [(module, name, getattr(module, name)) for module, name, _ in numbers]
    for pace, _, _ in paces:
        set_pace(pace, 0.01, 0.05)
    for module, name, quick in numbers:
        setattr(module, name, quick)
    try:
        yield
    finally:
        for pace, first, longest in paces:
            set_pace(pace, first, longest)
        for module, name, value in known:
            setattr(module, name, value)


def set_pace(pace: waiting.Pace, first: float, longest: float) -> None:
    # Many modules hold the same frozen value.
    object.__setattr__(pace, "first", first)
    object.__setattr__(pace, "longest", longest)


@contextmanager
def few_attempts(attempts: int = 2) -> Iterator[None]:
    """Calls are given up soon: for providers that are made within."""
    before = session.ATTEMPTS
    session.ATTEMPTS = attempts
    try:
        yield
    finally:
        session.ATTEMPTS = before


def make_table(lab: Lab, **settings: Any) -> dict[str, Any]:
    """An [aws] table that reaches the lab's instances."""
    return {
        "region": lab.region,
        "ssh_user": lab.ssh_user,
        "ssh_port": lab.ssh_port,
        "open_to": "127.0.0.1/32",
        **settings,
    }


def make_provider(lab: Lab, home: Path, *, project: Path | None = None, **settings: Any) -> AwsProvider:
    """For BAKER_HOME ``home``, with ``settings`` in [aws]."""
    return AwsProvider(home, make_table(lab, **settings), project=project or home, actor="ann")


def make_recipe(name: str = "base", **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": name,
        "folder": f"/project/recipes/{name}",
        "project": "/project",
        "description": "",
        "targets": {},
    }
    return Recipe(**{**values, **changes})


class MemoryLedger:
    """A teardown.Ledger; ``open`` are the resources that may be there, oldest first."""

    def __init__(self) -> None:
        self.open: list[Resource] = []

    def intend(self, _bake: str, resource: Resource) -> None:
        self.open.append(resource)

    def exists(self, _bake: str, resource: Resource) -> None:
        assert resource in self.open, f"{resource} is there and was never intended"

    def removed(self, _bake: str, resource: Resource) -> None:
        self.open = [one for one in self.open if one != resource]

    def open_entries(self, bake_id: str | None = None) -> Sequence[LedgerEntry]:
        raise NotImplementedError(bake_id)


class Baking:
    """One bake on a provider, stage by stage. ``settings`` are the recipe's, above the provider's table."""

    def __init__(
        self,
        provider: AwsProvider,
        *,
        recipe: str = "base",
        arch: str = "x86_64",
        query: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.id = identity.make_bake_id()
        self.provider = provider
        self.recipe = make_recipe(recipe)
        self.settings: dict[str, Any] = {**provider._table, **settings}
        self.ledger = MemoryLedger()
        self.teardown = Teardown(self.id, self.ledger)
        self.arch = arch
        self._query = query or NEWEST

    def resolve(self) -> ResolvedSource:
        return self.provider.resolve(AmiSource(query=self._query), None, self.settings, self.arch)

    def launch(self) -> AwsMachine:
        machine = self.provider.launch(self.id, self.recipe, self.resolve(), self.teardown)
        assert isinstance(machine, AwsMachine)
        return machine

    def capture(self) -> Captured:
        """Launch, seal, capture."""
        machine = self.launch()
        self.provider.seal(machine)
        return self.provider.capture(self.id, machine, self.resolve(), self.teardown)

    def register(self) -> Build:
        """As far as that the catalog has it: the AMI is no longer teardown's."""
        captured = self.capture()
        self.teardown.keep(captured.resource)
        return make_build(
            self.recipe.name,
            "aws",
            self.arch,
            id=self.id,
            artifacts=(captured.artifact,),
            created=NOON,
        )

    def distribute(self, build: Build, settings: Mapping[str, Any] | None = None) -> Build:
        labels = {"recipe": build.recipe, "version": "1", "bake": build.id, "wanted": f"aws/{self.arch}"}
        made = self.provider.distribute(build, labels, self.teardown, settings)
        return replace(build, artifacts=made)

    def bake(self) -> Build:
        """All of it; nothing temporary is left."""
        build = self.distribute(self.register())
        assert self.teardown.close() == []
        return build


def artifact_in(build: Build, region: str) -> Artifact:
    return next(artifact for artifact in build.artifacts if artifact.store == region)


class Launched:
    """What one launch with these settings came to."""

    def __init__(self, lab: Lab, home: Path, *, arch: str = "x86_64", **settings: Any) -> None:
        self.lab = lab
        self.baking = Baking(make_provider(lab, home, **settings), arch=arch)
        self.machine = self.baking.launch()
        self.instance = describe_instances(lab, instance_id=self.machine.instance.id)[0]
        self.asked = calls_of(lab, "RunInstances")[-1]

    def volume(self, device: str = "/dev/xvda") -> Mapping[str, Any]:
        mappings = self.instance["BlockDeviceMappings"]
        ids = [one["Ebs"]["VolumeId"] for one in mappings if one["DeviceName"] == device]
        return dict(self.lab.client("ec2").describe_volumes(VolumeIds=ids)["Volumes"][0])

    def group(self) -> Mapping[str, Any]:
        tagged = [{"Name": "tag:baker:bake", "Values": [self.baking.id]}]
        [found] = self.lab.client("ec2").describe_security_groups(Filters=tagged)["SecurityGroups"]
        interfaces = self.asked.get("NetworkInterfaces", [self.asked])
        assert interfaces[0].get("Groups", self.asked.get("SecurityGroupIds")) == [found["GroupId"]]
        return dict(found)

    def attribute(self, name: str) -> Any:
        client = self.lab.client("ec2")
        found = client.describe_instance_attribute(InstanceId=self.machine.instance.id, Attribute=name)
        return found[name[0].upper() + name[1:]]["Value"]


def start_baking(lab: Lab, home: Path, **settings: Any) -> Baking:
    return Baking(make_provider(lab, home, **settings))


# --- looking at the account -----------------------------------------------------------------------


def list_images(lab: Lab, baking: Baking) -> list[str]:
    """The regions that hold an AMI of the bake."""
    held = [line for line in lab.holdings() if f"baker:bake={baking.id}" in line]
    return [line.split()[0] for line in held if " image " in line]


def describe_image(lab: Lab, artifact: Artifact) -> dict[str, Any]:
    found = lab.client("ec2", artifact.store).describe_images(ImageIds=[artifact.id])
    return dict(found["Images"][0])


def describe_instances(lab: Lab, region: str | None = None, **filters: str) -> list[dict[str, Any]]:
    """Those that have not ended; filters with _ for -."""
    asked = [{"Name": key.replace("_", "-"), "Values": [value]} for key, value in filters.items()]
    found = lab.client("ec2", region).describe_instances(Filters=asked)["Reservations"]
    alive = [one for reservation in found for one in reservation["Instances"]]
    return [one for one in alive if one["State"]["Name"] not in ("shutting-down", "terminated")]


def read_tags(described: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in described.get("Tags", ())}


def calls_of(lab: Lab, action: str) -> list[Mapping[str, Any]]:
    """The parameters of every call of an action."""
    return [call.params for call in lab.calls if call.action == action]


def assert_nothing_left(lab: Lab, baking: Baking) -> None:
    """Teardown removes all that a bake made, and the account and the ledger hold nothing of it."""
    assert baking.teardown.close() == []
    assert [line for line in lab.holdings() if f"baker:bake={baking.id}" in line] == []
    assert baking.ledger.open == []
