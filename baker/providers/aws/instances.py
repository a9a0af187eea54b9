"""EC2 instances of a bake: launched where there is capacity, watched, stopped, terminated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from baker.errors import CloudError, MachineError, MachineReclaimed
from baker.model import Resource
from baker.providers.aws.images import AmiImage
from baker.providers.aws.naming import Marks, tag_filter
from baker.providers.aws.network import SEEN_SECONDS, Network
from baker.providers.aws.options import Options
from baker.providers.aws.refusals import NO_CAPACITY, Refused
from baker.providers.aws.session import AwsSession
from baker.providers.aws.waiting import SOON, look_for, wait_for
from baker.teardown import Teardown

ADDRESS_SECONDS = 300.0
STOP_SECONDS = 900.0
CONSOLE_LINES = 15
GONE = ("shutting-down", "terminated")
PASSING = ("Server.InternalError", "Server.InsufficientInstanceCapacity")
"""Why an instance ends that was just launched, and another may not."""

RECLAIMED = ("Server.SpotInstanceTermination", "Server.SpotInstanceShutdown")


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is to be launched. ``name`` is unique: a bake's id, perhaps with something after it; ``attempt``
    counts from 0 where the same is launched again."""

    name: str
    attempt: int
    image: AmiImage
    options: Options
    network: Network
    groups: tuple[str, ...]
    user_data: bytes
    marks: Marks
    spot: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """A launched instance that has an address."""

    id: str
    region: str
    address: str
    type: str
    spot: bool


def launch_instance(
    aws: AwsSession, region: str, order: Order, teardown: Teardown, *, forget: Callable[[], None]
) -> Instance:
    """Launch, with fall-back on lacking capacity, and wait until it has an address.

    ``forget`` is called when ``teardown`` ends the instance.

    Raises CloudError where no type and market has capacity, MachineError for one that ends by itself.
    """
    resource = order.marks.resource("instance", order.name, region)
    known: list[str] = []
    refused = False

    def undo() -> None:
        forget()
        if not refused:
            remove_instance(aws, resource, known)

    with teardown.making(resource, undo):
        try:
            started = _run(aws, region, order)
        except CloudError as error:
            refused = not (isinstance(error, Refused) and error.outcome_unknown)
            raise
        known.append(started["InstanceId"])
    described = wait_for_address(aws, region, started["InstanceId"], order.options, teardown.cancel)
    return Instance(
        id=started["InstanceId"],
        region=region,
        address=_address_of(described, order.options) or "",
        type=started["InstanceType"],
        spot=started.get("InstanceLifecycle") == "spot",
    )


def _run(aws: AwsSession, region: str, order: Order) -> Mapping[str, Any]:
    refusals: list[str] = []
    last: Refused | None = None
    passing = False
    for number, (market, instance_type) in enumerate(_list_offers(order)):
        try:
            parameters = describe_launch(order, market, instance_type)
            token = f"{order.name}-{order.attempt}-{number}"
            return wait_for(
                partial(_try, aws, region, order, {**parameters, "ClientToken": token}),
                seconds=SEEN_SECONDS,
                pace=SOON,
                what=lambda: f"the security group that was made in {region} is not there",
                at_once=True,
            )
        except Refused as error:
            if error.code not in NO_CAPACITY:
                raise
            refusals.append(f"{instance_type} ({market}): {error.code}")
            last = error
            passing = passing or error.passing
    assert last is not None
    if len(refusals) == 1:
        raise last
    raise CloudError(
        f"no instance type can be launched in {region} now: {'; '.join(refusals)}",
        hint=last.hint or "Name further types in instance_type of [aws], or another zone.",
        passing=passing,
    ) from last


def _try(
    aws: AwsSession, region: str, order: Order, parameters: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """None while the bake's new security group is not seen everywhere."""
    try:
        return dict(aws.ec2(region, "run_instances", **parameters)["Instances"][0])
    except Refused as error:
        if error.code == "InvalidGroup.NotFound" and not order.options.security_groups:
            return None
        raise


def _list_offers(order: Order) -> Iterator[tuple[str, str]]:
    for market in ("spot", "on-demand") if order.spot else ("on-demand",):
        for instance_type in order.options.instance_types:
            yield market, instance_type


def describe_launch(order: Order, market: str, instance_type: str) -> dict[str, Any]:
    """The parameters of RunInstances, but for the token."""
    options, network = order.options, order.network
    kinds = ["instance", "volume", "network-interface"]
    parameters: dict[str, Any] = {
        "ImageId": order.image.id,
        "InstanceType": instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        "UserData": order.user_data,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "HttpEndpoint": "enabled",
        },
    }
    if market == "spot":
        parameters["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
        kinds.append("spot-instances-request")
    parameters["TagSpecifications"] = order.marks.specifications(
        *kinds, Name=f"baker {order.marks.recipe} {order.name}", machine=order.name
    )
    if network.subnet is None:
        parameters["SecurityGroupIds"] = list(order.groups)
    else:
        parameters["NetworkInterfaces"] = [
            {
                "DeviceIndex": 0,
                "SubnetId": network.subnet,
                "Groups": list(order.groups),
                "AssociatePublicIpAddress": not options.private,
                "DeleteOnTermination": True,
            }
        ]
    if options.zone and network.subnet is None:
        parameters["Placement"] = {"AvailabilityZone": options.zone}
    if options.instance_profile:
        key = "Arn" if options.instance_profile.startswith("arn:") else "Name"
        parameters["IamInstanceProfile"] = {key: options.instance_profile}
    if mappings := describe_disks(order.image, options):
        parameters["BlockDeviceMappings"] = mappings
    return parameters


def describe_disks(image: AmiImage, options: Options) -> list[dict[str, Any]]:
    """What the launch changes of the source's volumes. None of them outlives the instance."""
    mappings = {
        device: {"DeleteOnTermination": True} for device, deleted in image.devices.items() if not deleted
    }
    if options.root_volume is not None:
        mappings[image.root_device] = options.root_volume.describe()
    mappings |= {volume.device: volume.describe() for volume in options.volumes if volume.device}
    return [{"DeviceName": device, "Ebs": ebs} for device, ebs in mappings.items()]


# --- watching -------------------------------------------------------------------------------------------


def describe_instance(aws: AwsSession, region: str, instance_id: str) -> Mapping[str, Any] | None:
    """None while a new one is not seen everywhere yet, and for one that has been gone for an hour."""
    try:
        answer = aws.ec2(region, "describe_instances", InstanceIds=[instance_id])
    except Refused as error:
        if error.says_absent:
            return None
        raise
    found = [one for reservation in answer["Reservations"] for one in reservation["Instances"]]
    return found[0] if found else None


def require_running(described: Mapping[str, Any] | None, region: str) -> None:
    """Raises MachineReclaimed or MachineError, with AWS's reason, for an instance that ends or has ended."""
    if described is None or described["State"]["Name"] in ("pending", "running"):
        return
    reason = described.get("StateReason", {})
    said = reason.get("Message") or described.get("StateTransitionReason") or "no reason was given"
    what = f"instance {described['InstanceId']} in {region} is {described['State']['Name']}: {said}"
    if reason.get("Code") in RECLAIMED:
        raise MachineReclaimed(what, hint="Without spot = true in [aws] nothing is taken back.")
    raise MachineError(
        what,
        hint="A volume's key, a quota, or the deadline of [aws] may be why.",
        passing=reason.get("Code") in PASSING,
    )


def wait_for_address(
    aws: AwsSession, region: str, instance_id: str, options: Options, cancel: threading.Event | None
) -> Mapping[str, Any]:
    """The description of an instance that has its address: it need not be running yet."""
    state = "not seen"

    def ask() -> Mapping[str, Any] | None:
        nonlocal state
        described = describe_instance(aws, region, instance_id)
        require_running(described, region)
        state = described["State"]["Name"] if described else state
        return described if described and _address_of(described, options) else None

    def what() -> str:
        kind = "private" if options.private else "public"
        if state != "running":
            return f"instance {instance_id} in {region} is still {state}"
        return f"instance {instance_id} in {region} has no {kind} address"

    try:
        return wait_for(
            ask,
            seconds=ADDRESS_SECONDS,
            pace=SOON,
            what=what,
            cancel=cancel,
            usual=aws.experience.of("address", region),
        )
    except CloudError as error:
        if state != "running":
            error.passing = True
            error.hint = error.hint or "Try it again, in another zone or with another instance_type of [aws]."
        elif not options.private:
            public = 'Use a public subnet, or address = "private" in [aws] with a way into the VPC.'
            error.hint = error.hint or public
        raise


def _address_of(described: Mapping[str, Any], options: Options) -> str | None:
    return described.get("PrivateIpAddress" if options.private else "PublicIpAddress") or None


def read_console_tail(aws: AwsSession, region: str, instance_id: str) -> str:
    """The last lines of an instance's console, as far as AWS has them; never raises."""
    try:
        lines = read_console(aws, region, instance_id)
    except CloudError as error:
        return f"its console cannot be read: {error}"
    return "\n".join(lines[-CONSOLE_LINES:]) or "its console is empty so far"


def read_console(aws: AwsSession, region: str, instance_id: str) -> list[str]:
    """The lines of an instance's console that are not blank, as far as AWS has them. Raises CloudError."""
    try:
        answer = aws.ec2(region, "get_console_output", InstanceId=instance_id, Latest=True)
    except CloudError:  # not a Nitro instance: what was posted last
        answer = aws.ec2(region, "get_console_output", InstanceId=instance_id)
    text = answer.get("Output") or ""  # botocore has decoded it
    return [line for line in text.splitlines() if line.strip()]


# --- ending ---------------------------------------------------------------------------------------------


def stop_instance(aws: AwsSession, instance: Instance, cancel: threading.Event | None) -> None:
    """Stop it in an orderly way and wait until it is. Raises MachineReclaimed, MachineError."""
    aws.ec2(instance.region, "stop_instances", InstanceIds=[instance.id])

    def ask() -> bool | None:
        described = describe_instance(aws, instance.region, instance.id)
        if described is None or described["State"]["Name"] in ("pending", "running", "stopping"):
            return None
        if described["State"]["Name"] != "stopped":
            require_running(described, instance.region)
        return True

    wait_for(
        ask,
        seconds=STOP_SECONDS,
        pace=SOON,
        what=lambda: f"instance {instance.id} in {instance.region} did not stop",
        cancel=cancel,
        usual=aws.experience.of(f"stop {instance.type}", instance.region),
    )


def remove_instance(aws: AwsSession, resource: Resource, known: Sequence[str] = ()) -> None:
    """Terminate what carries the resource's name; final once AWS took it. Idempotent. Raises CloudError.

    ``known`` are ids that were told when it was launched: one that is not seen is asked for a little longer,
    since it may not be known everywhere yet. So is, without one, a launch whose answer was lost.
    """
    region = resource.place
    ids = list(known) or look_for(lambda: find_instances(aws, region, resource.id) or None)
    if not ids:
        return  # never launched

    def terminate() -> bool | None:
        try:
            aws.ec2(region, "terminate_instances", InstanceIds=ids)
        except Refused as error:
            if not error.says_absent:
                raise
            return None if known else True
        return True

    look_for(terminate)  # where it is not seen it is gone, long ago


def find_instances(aws: AwsSession, region: str, machine: str) -> list[str]:
    """Ids of the instances of one name that have not ended."""
    states = {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}
    reservations = aws.pages(
        "ec2",
        region,
        "describe_instances",
        "Reservations",
        Filters=[tag_filter("baker:machine", machine), states],
    )
    return [one["InstanceId"] for reservation in reservations for one in reservation["Instances"]]
