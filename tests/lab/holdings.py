"""What the account holds beyond what a new one does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moto.autoscaling.models import autoscaling_backends
from moto.ec2.models import ec2_backends
from moto.elbv2.models import elbv2_backends
from moto.ssm.models import ssm_backends

from tests.lab.instances import GONE
from tests.lab.lookup import list_instances


def list_holdings(region: str | None = None) -> list[str]:
    """One line for each resource in any region (or one): "eu-west-1 instance i-1 running baker:bake=…"."""
    found = []
    for account in list(ec2_backends.values()):
        for name, backend in list(account.items()):
            if region in (None, name):
                found += [f"{name} {line}" for line in list_ec2(backend)]
    for account in list(ssm_backends.values()):
        for name, backend in list(account.items()):
            if region in (None, name):
                found += [f"{name} {line}" for line in list_parameters(backend)]
    for account in list(autoscaling_backends.values()):
        for name, backend in list(account.items()):
            if region in (None, name):
                found += [f"{name} scaling-group {group}" for group in list(backend.autoscaling_groups)]
    for account in list(elbv2_backends.values()):
        for name, backend in list(account.items()):
            if region in (None, name):
                found += [f"{name} {line}" for line in list_balancing(backend)]
    return sorted(found)


def list_balancing(backend: Any) -> Iterator[str]:
    for group in list(backend.target_groups.values()):
        yield f"target-group {group.name}"
    for balancer in list(backend.load_balancers.values()):
        yield f"load-balancer {balancer.name}"
        for listener in balancer.listeners.values():
            yield from (f"rule {rule.priority}" for rule in listener.rules.values() if not rule.is_default)


def list_ec2(backend: Any) -> Iterator[str]:
    for instance in list_instances(backend):
        if instance.state not in GONE:
            yield describe(backend, "instance", instance.id, instance.state)
    for groups in backend.groups.values():
        for group in groups.values():
            if group.name != "default":
                yield describe(backend, "security-group", group.id, group.name)
    for pair in backend.key_pairs.values():
        yield describe(backend, "key-pair", pair.id, pair.key_name)
    for image in backend.amis.values():
        if image.owner_id == backend.account_id:
            yield describe(backend, "image", image.id, f"{image.name} {image.state}")
    for snapshot in backend.snapshots.values():
        if snapshot.owner_id == backend.account_id:
            yield describe(backend, "snapshot", snapshot.id, f"of {snapshot.from_ami or snapshot.volume_id}")
    for volume in backend.volumes.values():
        yield describe(backend, "volume", volume.id, volume.status)
    for template in backend.launch_templates.values():
        yield describe(backend, "launch-template", template.id, template.name)


def describe(backend: Any, kind: str, name: str, told: str) -> str:
    tags = backend.tags.get(name, {})
    bake = f" baker:bake={tags['baker:bake']}" if "baker:bake" in tags else ""
    return f"{kind} {name} {told}{bake}"


def list_parameters(backend: Any) -> Iterator[str]:
    for name, versions in list(backend._parameters.items()):
        if versions and not name.startswith("/aws/"):
            yield f"parameter {name} {versions[-1].value}"
