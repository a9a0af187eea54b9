"""Security groups that are in use stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.lab.lookup import list_instances
from tests.lab.wire import AwsError, Request, Response

Forward = Callable[..., Response]


def delete_group(request: Request, forward: Forward) -> Response:
    backend = request.backend
    group_id = request.params.get("GroupId")
    if group_id is None:
        name = request.params.get("GroupName")
        group = backend.get_security_group_from_name(name)
        group_id = group.id if group else None
    if user := find_user(backend, group_id):
        raise AwsError("DependencyViolation", f"resource {group_id} has a dependent object: {user}")
    return forward()


def find_user(backend: Any, group_id: str | None) -> str | None:
    """The instance, not terminated yet, that is in the group."""
    for instance in list_instances(backend):
        if instance.state == "terminated":
            continue
        groups = [
            *instance.security_groups,
            *(group for nic in instance.nics.values() for group in nic.group_set),
        ]
        if any(group.id == group_id for group in groups):
            return str(instance.id)
    return None
