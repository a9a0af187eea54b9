"""From an AMI to an instance that is ready for work: in its network, verified, set up by cloud-init."""

from __future__ import annotations

import threading
from collections import Counter
from functools import partial
from pathlib import Path

from baker import identity
from baker.model import Artifact
from baker.providers.aws.distribution import require_there
from baker.providers.aws.images import AmiImage
from baker.providers.aws.inside.readiness import build_readiness_script, parse_readiness
from baker.providers.aws.inside.script import INTERPRETER
from baker.providers.aws.inside.user_data import make_user_data
from baker.providers.aws.instances import Order, launch_instance
from baker.providers.aws.machine import AwsMachine
from baker.providers.aws.naming import Marks, bake_of
from baker.providers.aws.network import Network, find_network, make_security_group
from baker.providers.aws.options import Options
from baker.providers.aws.session import AwsSession
from baker.providers.aws.ssh import Access, KeyPair
from baker.providers.protocol import CommandResult
from baker.teardown import Teardown

READY_SECONDS = 900.0
"""How long cloud-init may take."""

SCRIPT_SECONDS = 900.0
"""How long sealing, and reading all files, may take."""


class Launcher:
    """Starts machines for one BAKER_HOME. ``machines`` are those it started, ``images`` AMIs as they were
    seen, by region and id."""

    def __init__(self, aws: AwsSession, home: Path, actor: str) -> None:
        self.machines: dict[str, AwsMachine] = {}
        self.images: dict[tuple[str, str], AmiImage] = {}
        self._aws = aws
        self._home = home
        self._actor = actor
        self._lock = threading.Lock()
        self._launches: Counter[str] = Counter()
        self._reclaimed: set[str] = set()
        self._groups: dict[str, str] = {}

    def start(
        self,
        name: str,
        recipe: str,
        artifact: Artifact,
        options: Options,
        teardown: Teardown,
        extra: bytes | None,
    ) -> AwsMachine:
        region = artifact.store
        self.remember_region(region)
        attempt = self._launches[name]
        self._launches[name] += 1
        if attempt:
            self._reclaimed.add(bake_of(name))
        marks = self.marks(name, recipe, options)
        network = find_network(self._aws, region, options)
        groups = options.security_groups or (self._group(region, network, options, marks, teardown),)
        image = self.images.get((region, artifact.id)) or require_there(self._aws, artifact)
        host_key, key = KeyPair.make(), KeyPair.make()
        order = Order(
            name=name,
            attempt=attempt,
            image=image,
            options=options,
            network=network,
            groups=tuple(groups),
            user_data=make_user_data(
                host_key.private, host_key.public, key.public, options.deadline_seconds, extra
            ),
            marks=marks,
            spot=options.spot and marks.bake not in self._reclaimed,
        )
        instance = launch_instance(self._aws, region, order, teardown, forget=partial(self._forget, name))
        access = Access(
            address=instance.address,
            port=options.ssh_port,
            user=options.ssh_user or artifact.details.get("ssh_user") or "root",
            key=key,
            host_key=host_key.public,
            bastion=options.bastion,
        )
        machine = AwsMachine(
            name,
            recipe,
            instance,
            access,
            self._aws,
            ssh_seconds=options.ssh_seconds,
            cancel=teardown.cancel,
        )
        self.machines[name] = machine
        machine.wait_until_reachable()
        parse_readiness(ask(machine, build_readiness_script(READY_SECONDS), READY_SECONDS + SCRIPT_SECONDS))
        return machine

    def _forget(self, name: str) -> None:
        """Let go of a machine that ends."""
        if machine := self.machines.pop(name, None):
            machine.disconnect()

    def marks(self, name: str, recipe: str, options: Options) -> Marks:
        return Marks.of(
            name,
            recipe,
            store=identity.store_name(self._home),
            actor=self._actor,
            # Some time for what comes after the instances: AMIs, copies.
            seconds=options.deadline_seconds + options.image_seconds,
            extra=options.tags,
        )

    def _group(
        self, region: str, network: Network, options: Options, marks: Marks, teardown: Teardown
    ) -> str:
        """The bake's one group; made anew where it was torn down meanwhile."""
        there = any(resource.kind == "security-group" for resource in teardown.resources)
        if not there or marks.bake not in self._groups:
            self._groups[marks.bake] = make_security_group(
                self._aws, region, network, options, marks, teardown
            )
        return self._groups[marks.bake]

    def used_regions(self) -> list[str]:
        """The regions in which this BAKER_HOME ever made something."""
        return self._used_file.read_text().split() if self._used_file.exists() else []

    @property
    def _used_file(self) -> Path:
        return self._home / "aws" / "regions"

    def remember_region(self, region: str) -> None:
        with self._lock:
            if region not in self.used_regions():
                self._used_file.parent.mkdir(parents=True, exist_ok=True)
                with self._used_file.open("a") as file:
                    file.write(f"{region}\n")


def ask(machine: AwsMachine, script: bytes, seconds: float = SCRIPT_SECONDS) -> CommandResult:
    """Run a script of ``inside`` in an instance."""
    return machine.run(INTERPRETER, stdin=script, timeout=seconds)
