"""EC2's instances, where moto's differ: tokens, states, addresses that answer, machines behind."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

from moto.ec2.models.amis import Ami
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import Instance, StateReason

from tests.lab.faults import Faults, InstanceFault
from tests.lab.fleet import Fleet, Launch
from tests.lab.images import describe_mappings, require_usable
from tests.lab.lookup import find_instance, require_instance
from tests.lab.transitions import Latency, Transitions
from tests.lab.wire import AwsError, Request, Response, write_result

Forward = Callable[..., Response]
CODES = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
GONE = ("shutting-down", "terminated")
UNSIGNED = frozenset({"ClientToken", "Action", "Version"})


class Instances:
    def __init__(self, fleet: Fleet, transitions: Transitions, latency: Latency, faults: Faults) -> None:
        self._fleet = fleet
        self._transitions = transitions
        self._latency = latency
        self._faults = faults
        self._tokens: dict[tuple[str, str, str], tuple[dict[str, str], Any]] = {}
        self._doomed: dict[str, str] = {}  # instance -> the state it has to reach

    # --- RunInstances -----------------------------------------------------------------------------

    def run(self, request: Request, forward: Forward) -> Response:
        asked = {key: value for key, value in request.form.items() if key not in UNSIGNED}
        key = (request.account, request.region, request.params.get("ClientToken", ""))
        if key[2] and key in self._tokens:
            before, reservation = self._tokens[key]
            if before != asked:
                raise AwsError(
                    "IdempotentParameterMismatch",
                    "Arguments on this idempotent request are inconsistent with arguments used in previous "
                    "request(s).",
                )
            return write_result(request, reservation, as_it_is=True)
        changed = self._complete(request)
        response = forward(changed)
        if response.error:
            return response
        found = re.search(rb"<reservationId>(r-[0-9a-f]+)</reservationId>", response.body)
        assert found is not None
        reservation = request.backend.reservations[found[1].decode()]
        for instance in reservation.instances:
            self._launch(request, instance)
        if key[2]:
            self._tokens[key] = (asked, reservation)
        return write_result(request, reservation)

    def _complete(self, request: Request) -> dict[str, str]:
        """Refuse what AWS would refuse; fill in the image's volumes, which moto does not."""
        params, image_id = request.params, request.params.get("ImageId")
        if not image_id:
            return {}
        image = require_launchable(request.backend, image_id, params.get("InstanceType", "m1.small"))
        changed = complete_mappings(request.form, params, describe_mappings(image))
        if image.lab.imds_support == "v2.0" and "HttpTokens" not in params.get("MetadataOptions", {}):
            changed["MetadataOptions.HttpTokens"] = "required"
        return changed

    def _launch(self, request: Request, instance: Instance) -> None:
        faults = tuple(
            fault
            for fault in self._faults.strike_instance()
            if fault.kind != "spot-interruption" or instance.lifecycle == "spot"
        )
        self._set_volumes(request, instance)
        self._start(request.backend, instance, faults)

    def adopt(self, backend: Any, instance: Instance) -> None:
        """Have one that was made by another service boot."""
        faults = tuple(fault for fault in self._faults.strike_instance() if fault.kind != "spot-interruption")
        self._start(backend, instance, faults)

    def _start(self, backend: Any, instance: Instance, faults: tuple[InstanceFault, ...]) -> None:
        instance.lab_public = bool(instance.nics[0].public_ip_auto_assign)
        instance.lab_address = self._fleet.claim_address()
        instance.lab_faults = faults
        self._boot(backend, instance)

    def _boot(self, backend: Any, instance: Instance) -> None:
        set_state(instance, "pending")
        set_addresses(instance, public=False)
        late = sum(fault.seconds for fault in instance.lab_faults if fault.kind == "ssh-late")
        key_pair = backend.key_pairs.get(instance.key_name) if instance.key_name else None
        self._fleet.start(
            Launch(
                instance=instance.id,
                image=instance.image_id,
                address=instance.lab_address,
                user_data=base64.b64decode(str(instance.user_data)) if instance.user_data else b"",
                public_key=key_pair.public_key.strip() if key_pair else None,
                delay=self._latency.launch + self._latency.ssh + late,
                faults=instance.lab_faults,
                on_ended=lambda: self._doomed.update({instance.id: "ended"}),
            )
        )
        if any(fault.kind == "never-runs" for fault in instance.lab_faults):
            return
        self._transitions.later(self._latency.launch, lambda: self._show_running(backend, instance))

    def _show_running(self, backend: Any, instance: Instance) -> None:
        if instance.state != "pending":
            return
        set_state(instance, "running")
        set_addresses(instance, public=instance.lab_public)
        for fault in instance.lab_faults:
            if fault.kind == "spot-interruption":
                self._transitions.later(fault.seconds, lambda: self.interrupt(backend, instance.id))

    def _set_volumes(self, request: Request, instance: Instance) -> None:
        """What moto leaves out of the volumes that a launch makes."""
        for mapping in request.params.get("BlockDeviceMappings", []):
            device = instance.block_device_mapping.get(mapping.get("DeviceName"))
            if device is None:
                continue
            volume = request.backend.volumes[device.volume_id]
            for name, attribute in (("Iops", "iops"), ("Throughput", "throughput")):
                if name in mapping.get("Ebs", {}):
                    setattr(volume, attribute, mapping["Ebs"][name])

    # --- later ------------------------------------------------------------------------------------

    def settle(self, backends: list[Any]) -> None:
        """Show what machines did by themselves."""
        while self._doomed:
            instance_id, _ = self._doomed.popitem()
            for backend in backends:
                if (instance := find_instance(backend, instance_id)) is not None:
                    self.switch_off(backend, instance)

    def switch_off(self, backend: Any, instance: Instance) -> None:
        """As when the machine powers itself off."""
        if instance.state not in ("pending", "running"):
            return
        reason = "Client.InstanceInitiatedShutdown"
        if instance.instance_initiated_shutdown_behavior == "terminate":
            self._end(backend, instance, reason, "Instance initiated shutdown")
            return
        self._fleet.stop(instance.id)
        instance.stop()
        instance.state_reason = StateReason(f"{reason}: Instance initiated shutdown", reason)
        self._later_stopped(instance)

    def interrupt(self, backend: Any, instance_id: str) -> None:
        """AWS takes a spot instance back."""
        instance = find_instance(backend, instance_id)
        if instance is not None and instance.state not in GONE:
            reason = "Server.SpotInstanceTermination"
            self._end(backend, instance, reason, "Spot instance termination")

    def _end(self, backend: Any, instance: Instance, reason: str, text: str) -> None:
        backend.terminate_instances([instance.id])
        self._fleet.terminate(instance.id)
        instance.state_reason = StateReason(f"{reason}: {text}", reason)
        self._later_gone(instance)

    def _later_stopped(self, instance: Instance) -> None:
        set_state(instance, "stopping")
        self._transitions.later(
            self._latency.stop,
            lambda: set_state(instance, "stopped", only_from="stopping"),
            lambda: self._fleet.is_done(instance.id),
        )

    def _later_gone(self, instance: Instance) -> None:
        set_state(instance, "shutting-down")
        self._transitions.later(
            self._latency.terminate,
            lambda: set_state(instance, "terminated"),
            lambda: self._fleet.is_done(instance.id),
        )

    # --- the other calls --------------------------------------------------------------------------

    def stop(self, request: Request, _forward: Forward) -> Response:
        def change(instance: Instance) -> None:
            if instance.state == "stopped":
                return
            require_state(instance, "stop", ("running", "stopping"))
            if instance.state == "running":
                request.backend.stop_instances([instance.id])
                self._fleet.stop(instance.id)
                self._later_stopped(instance)

        return self._change(request, change, "StoppingInstances")

    def start(self, request: Request, _forward: Forward) -> Response:
        def change(instance: Instance) -> None:
            require_state(instance, "start", ("stopped", "running", "pending"))
            if instance.state == "stopped":
                request.backend.start_instances([instance.id])
                self._boot(request.backend, instance)

        return self._change(request, change, "StartingInstances")

    def terminate(self, request: Request, _forward: Forward) -> Response:
        return self._change(
            request, lambda instance: self.end(request.backend, instance), "TerminatingInstances"
        )

    def end(self, backend: Any, instance: Instance) -> None:
        """Terminate it. Idempotent."""
        if instance.state not in GONE:
            backend.terminate_instances([instance.id])
            self._fleet.terminate(instance.id)
            self._later_gone(instance)

    def _change(self, request: Request, change: Callable[[Instance], None], answer: str) -> Response:
        """All of the instances or, if one is not there, none."""
        instances = [require_instance(request.backend, each) for each in request.params["InstanceIds"]]
        told = []
        for instance in instances:
            before = describe_state(instance)
            change(instance)
            told.append(
                {"InstanceId": instance.id, "PreviousState": before, "CurrentState": describe_state(instance)}
            )
        return write_result(request, {answer: told})

    def describe(self, request: Request, forward: Forward) -> Response:
        """Instances that are named; moto looks at all of them for that, which is slow with hundreds."""
        named = request.params.get("InstanceIds")
        if not named or request.params.get("Filters"):
            return forward()
        found: dict[str, list[Instance]] = {}
        for instance_id in dict.fromkeys(named):
            require_instance(request.backend, instance_id)
        for reservation in request.backend.reservations.values():
            for instance in reservation.instances:
                if instance.id in named:
                    found.setdefault(reservation.id, []).append(instance)
        told = [
            {"ReservationId": each, "OwnerId": request.account, "Instances": instances}
            for each, instances in found.items()
        ]
        return write_result(request, {"Reservations": told})

    def console(self, request: Request, _forward: Forward) -> Response:
        instance = require_instance(request.backend, request.params["InstanceId"])
        text = self._fleet.console(instance.id)[-64 * 1024 :]
        output = {
            "InstanceId": instance.id,
            "Output": base64.b64encode(text.encode()).decode(),
            "Timestamp": instance.launch_time,
        }
        return write_result(request, output)

    def boot_again(self, backend: Any, instance: Instance) -> None:
        """As CreateImage does with an instance that ran: it goes on running."""
        self._boot(backend, instance)
        set_state(instance, "running")
        set_addresses(instance, public=instance.lab_public)


def require_launchable(backend: Any, image_id: str, instance_type: str) -> Ami:
    image = require_usable(backend, image_id)
    known = INSTANCE_TYPES.get(instance_type)
    if known is None:
        raise AwsError("InvalidParameterValue", f"Invalid value '{instance_type}' for InstanceType.")
    archs = known.get("ProcessorInfo", {}).get("SupportedArchitectures", ["x86_64"])
    if image.architecture not in archs:
        raise AwsError(
            "InvalidParameterValue",
            f"The architecture '{','.join(archs)}' of the specified instance type does not match the "
            f"architecture '{image.architecture}' of the specified AMI.",
        )
    return image


def complete_mappings(
    form: Mapping[str, str], params: Mapping[str, Any], devices: list[dict[str, Any]]
) -> dict[str, str]:
    """Form parameters that give each device of the image its size, snapshot and type, unless it is told."""
    changed: dict[str, str] = {}
    told = {each.get("DeviceName"): number for number, each in enumerate(mappings_of(params), start=1)}
    number = len(told)
    for device in devices:
        ebs = dict(device["Ebs"])
        if device["DeviceName"] not in told:
            number += 1
            changed[f"BlockDeviceMapping.{number}.DeviceName"] = device["DeviceName"]
        place = told.get(device["DeviceName"], number)
        for name in ("VolumeSize", "VolumeType", "SnapshotId", "DeleteOnTermination"):
            field = f"BlockDeviceMapping.{place}.Ebs.{name}"
            if field not in form:
                value = ebs[name]
                changed[field] = str(value).lower() if isinstance(value, bool) else str(value)
    for each, place in told.items():
        field = f"BlockDeviceMapping.{place}.Ebs.DeleteOnTermination"
        if field not in form and field not in changed and each is not None:
            changed[field] = "true"
    return changed


def mappings_of(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(params.get("BlockDeviceMappings", []))


def require_state(instance: Instance, what: str, states: tuple[str, ...]) -> None:
    if instance.state not in states:
        raise AwsError(
            "IncorrectInstanceState",
            f"The instance '{instance.id}' is not in a state from which it can be "
            f"{'stopped' if what == 'stop' else 'started'}.",
        )


def describe_state(instance: Instance) -> dict[str, Any]:
    return {"Code": CODES[instance.state], "Name": instance.state}


def set_state(instance: Instance, state: str, *, only_from: str | None = None) -> None:
    if only_from in (None, instance.state):
        instance._state.name, instance._state.code = state, CODES[state]


def set_addresses(instance: Instance, *, public: bool) -> None:
    """The private address is the fleet's; the public one is the same, and there while the instance runs."""
    nic = instance.nics[0]
    nic.private_ip_address = instance.lab_address
    nic.private_ip_addresses = [{"Primary": True, "PrivateIpAddress": instance.lab_address}]
    nic.public_ip = instance.lab_address if public else None
