"""Auto Scaling as AWS has it: groups launch, replace and end their instances by and by, and load balancers
tell them which are sick."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from moto.autoscaling.models import FakeAutoScalingGroup, InstanceState, autoscaling_backends
from moto.core.types import Base64EncodedString
from moto.elbv2.models import FakeTargetGroup, elbv2_backends

from tests.lab.balancing import Balancing
from tests.lab.images import describe_mappings
from tests.lab.instances import Instances, require_launchable
from tests.lab.wire import AwsError, Request, Response, write_result

Forward = Callable[..., Response]
ENDED = ("shutting-down", "terminated", "stopping", "stopped")
RETRY_SECONDS = 0.2
"""After a launch that failed."""


def note_capacity(group: FakeAutoScalingGroup, capacity: int | None) -> None:
    """In the place of moto's method, which launches and ends at once."""
    group.desired_capacity = group.min_size if capacity is None else capacity


class Scaling:
    """``refusal`` is why no instance can be launched, as if there were no capacity."""

    def __init__(self, instances: Instances, balancing: Balancing, clock: Callable[[], float]) -> None:
        self._instances = instances
        self._balancing = balancing
        self._clock = clock
        self.refusal: str | None = None
        self.answers = {
            "CreateAutoScalingGroup": self.create,
            "UpdateAutoScalingGroup": self.update,
            "DeleteAutoScalingGroup": self.delete,
            "DescribeScalingActivities": self.describe_activities,
            "TerminateInstanceInAutoScalingGroup": self.terminate,
        }

    # --- what goes on by itself -------------------------------------------------------------------

    def settle(self) -> None:
        for account in list(autoscaling_backends.values()):
            for backend in list(account.values()):
                for group in list(backend.autoscaling_groups.values()):
                    self._settle_group(backend, group)

    def _settle_group(self, backend: Any, group: FakeAutoScalingGroup) -> None:
        for state in list(group.instance_states):
            self._settle_instance(backend, group, state)
        active = [state for state in group.instance_states if state.lifecycle_state != "Terminating"]
        missing = (group.desired_capacity or 0) - len(active)
        if missing > 0 and self._clock() >= getattr(group, "lab_retry_at", 0.0):
            self._launch(backend, group, missing)
        for state in active[: max(0, -missing)]:
            self._begin_ending(group, state, "to shrink the group")
        if hasattr(group, "status") and not group.instance_states:
            del backend.autoscaling_groups[group.name]

    def _settle_instance(self, backend: Any, group: FakeAutoScalingGroup, state: InstanceState) -> None:
        instance, now = state.instance, self._clock()
        if state.lifecycle_state == "Terminating":
            if instance.state not in ENDED and (
                now >= state.lab_until or self._balancing.is_idle(instance.id)
            ):
                self._instances.end(backend.ec2_backend, instance)
            if instance.state == "stopped":
                self._instances.end(backend.ec2_backend, instance)
            if instance.state == "terminated":
                group.instance_states.remove(state)
                for target_group in target_groups_of(group):
                    target_group.lab_draining.discard(instance.id)
        elif instance.state in ENDED:
            self._begin_ending(group, state, f"it was {instance.state}")
        elif state.lifecycle_state == "Pending" and instance.state == "running":
            state.lifecycle_state, state.lab_since = "InService", now
            note(group, "Successful", f"Launching a new EC2 instance: {instance.id}")
            for target_group in target_groups_of(group):
                target_group.register([{"Id": instance.id}])
        elif state.lifecycle_state == "InService" and group.health_check_type == "ELB":
            late = now > state.lab_since + (group.health_check_grace_period or 0)
            sick = any(
                self._balancing.state_of(target_group, instance.id)[0] == "unhealthy"
                for target_group in target_groups_of(group)
            )
            if late and sick:
                state.health_status = "Unhealthy"
                self._begin_ending(group, state, "an ELB system health check failure")

    def _launch(self, backend: Any, group: FakeAutoScalingGroup, count: int) -> None:
        ec2 = backend.ec2_backend
        assert group.ec2_launch_template is not None
        version = group.ec2_launch_template.get_version(group.launch_template_version)
        data = version.data
        try:
            if self.refusal is not None:
                raise AwsError("InsufficientInstanceCapacity", self.refusal)
            if hasattr(version, "lab_deleted"):
                raise AwsError("InvalidLaunchTemplateId.VersionNotFound", "There is no such version")
            image = require_launchable(ec2, data["ImageId"], data["InstanceType"])
        except AwsError as error:
            group.lab_retry_at = self._clock() + RETRY_SECONDS
            note(group, "Failed", "Launching a new EC2 instance", f"{error.message}. Launching failed.")
            return
        subnets = (group.vpc_zone_identifier or "").split(",")
        for number in range(count):
            reservation = ec2.run_instances(
                image.id,
                1,
                Base64EncodedString(str(data["UserData"])) if data.get("UserData") else None,
                [],
                instance_type=data["InstanceType"],
                is_instance_type_default=False,
                key_name=data.get("KeyName"),
                security_group_ids=data.get("SecurityGroupIds", []),
                subnet_id=subnets[(len(group.instance_states) + number) % len(subnets)],
                block_device_mappings=[
                    {"DeviceName": each["DeviceName"], "Ebs": {**each["Ebs"], "DeleteOnTermination": True}}
                    for each in describe_mappings(image)
                ],
                tags={"instance": {**version.instance_tags, **group.get_propagated_tags()}},
            )
            [instance] = reservation.instances
            ec2.create_tags([instance.id], {"aws:autoscaling:groupName": group.name})
            instance.autoscaling_group = group
            instance.instance_initiated_shutdown_behavior = data.get(
                "InstanceInitiatedShutdownBehavior", "stop"
            )
            self._instances.adopt(ec2, instance)
            group.instance_states.append(InstanceState(instance, lifecycle_state="Pending"))

    def _begin_ending(self, group: FakeAutoScalingGroup, state: InstanceState, cause: str) -> None:
        state.lifecycle_state = "Terminating"
        delay = 0.0
        for target_group in target_groups_of(group):
            target_group.targets.pop(state.instance.id, None)
            target_group.lab_draining = getattr(target_group, "lab_draining", set()) | {state.instance.id}
            delay = max(delay, float(target_group.attributes["deregistration_delay.timeout_seconds"]))
        state.lab_until = self._clock() + delay
        note(group, "Successful", f"Terminating EC2 instance: {state.instance.id}", cause=cause)

    # --- calls ------------------------------------------------------------------------------------

    def create(self, request: Request, forward: Forward) -> Response:
        name = request.params["AutoScalingGroupName"]
        if name in groups_of(request):
            raise AwsError(
                "AlreadyExists",
                f"AutoScalingGroup by this name already exists - A group by the name {name} already exists",
            )
        require_between(request)
        return forward()

    def update(self, request: Request, forward: Forward) -> Response:
        group = require_group(request)
        if hasattr(group, "status"):
            raise AwsError("ValidationError", "AutoScalingGroup name not found - it is being deleted")
        require_between(request, group)
        return forward()

    def delete(self, request: Request, _forward: Forward) -> Response:
        group = require_group(request)
        if group.instance_states and not request.params.get("ForceDelete"):
            raise AwsError(
                "ResourceInUse",
                "You cannot delete an AutoScalingGroup while there are instances or pending Spot instance "
                "request(s) still in the group.",
            )
        group.status = "Delete in progress"
        group.min_size = group.max_size = group.desired_capacity = 0
        return write_result(request, {})

    def terminate(self, request: Request, _forward: Forward) -> Response:
        wanted = request.params["InstanceId"]
        for group in groups_of(request).values():
            for state in group.instance_states:
                if state.instance.id == wanted and state.lifecycle_state != "Terminating":
                    self._shrink(group, decrement=bool(request.params["ShouldDecrementDesiredCapacity"]))
                    self._begin_ending(group, state, "a user request")
                    return write_result(request, {"Activity": group.lab_activities[0]})
        raise AwsError(
            "ValidationError",
            f"Instance Id not found - No managed instance found for instance ID: {wanted}",
        )

    def _shrink(self, group: FakeAutoScalingGroup, *, decrement: bool) -> None:
        if not decrement:
            return
        assert group.desired_capacity is not None
        assert group.min_size is not None
        if group.desired_capacity <= group.min_size:
            raise AwsError(
                "ValidationError",
                f"Currently, desiredSize equals minSize ({group.min_size}). Terminating instance without "
                "replacement will violate group's min size constraint.",
            )
        group.desired_capacity -= 1

    def describe_activities(self, request: Request, _forward: Forward) -> Response:
        group = require_group(request)
        told = getattr(group, "lab_activities", [])[: request.params.get("MaxRecords", 100)]
        return write_result(request, {"Activities": told})


def note(
    group: FakeAutoScalingGroup, status: str, description: str, message: str | None = None, cause: str = ""
) -> None:
    """One line of a group's activities, newest first."""
    activity = {
        "ActivityId": str(uuid.uuid4()),
        "AutoScalingGroupName": group.name,
        "Description": description,
        "Cause": cause or "the difference between desired and actual capacity",
        "StartTime": datetime.now(UTC),
        "StatusCode": status,
        **({"StatusMessage": message} if message else {}),
    }
    group.lab_activities = [activity, *getattr(group, "lab_activities", [])]


def target_groups_of(group: FakeAutoScalingGroup) -> Iterator[FakeTargetGroup]:
    """Those that are there."""
    known = elbv2_backends[group.account_id][group.region].target_groups
    for arn in group.target_group_arns:
        if arn in known:
            yield known[arn]


def groups_of(request: Request) -> dict[str, FakeAutoScalingGroup]:
    backend = autoscaling_backends[request.account][request.region]
    return backend.autoscaling_groups  # type: ignore[no-any-return]


def require_group(request: Request) -> FakeAutoScalingGroup:
    name = request.params["AutoScalingGroupName"]
    if name not in groups_of(request):
        raise AwsError("ValidationError", f"AutoScalingGroup name not found - null: {name}")
    return groups_of(request)[name]


def require_between(request: Request, group: FakeAutoScalingGroup | None = None) -> None:
    params = request.params
    least = params.get("MinSize", group.min_size if group else 0)
    most = params.get("MaxSize", group.max_size if group else 0)
    wanted = params.get("DesiredCapacity", group.desired_capacity if group else least)
    if not least <= wanted <= most:
        raise AwsError(
            "ValidationError",
            f"Desired capacity:{wanted} must be between the specified min size:{least} and max size:{most}",
        )
