"""Instances in moto's memory; its own look-ups copy every reservation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moto.ec2.models.instances import Instance

from tests.lab.wire import AwsError


def list_instances(backend: Any) -> Iterator[Instance]:
    for reservation in backend.reservations.values():
        yield from reservation.instances


def find_instance(backend: Any, instance_id: str) -> Instance | None:
    return next((each for each in list_instances(backend) if each.id == instance_id), None)


def require_instance(backend: Any, instance_id: str) -> Instance:
    instance = find_instance(backend, instance_id)
    if instance is None:
        raise AwsError("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")
    return instance
