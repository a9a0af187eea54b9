"""EC2's images and snapshots, where moto's differ: states, names, tags, deprecation."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from moto.ec2.models import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.elastic_block_store import Snapshot
from moto.ec2.utils import random_ami_id

from tests.lab.faults import Faults
from tests.lab.fleet import Fleet
from tests.lab.lookup import require_instance
from tests.lab.transitions import Latency, Transitions
from tests.lab.wire import AwsError, Request, Response, write_result

Forward = Callable[..., Response]
ROOT_DEVICE = "/dev/xvda"
NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}")


@dataclass(kw_only=True)
class Details:
    """What moto does not know of an image. ``devices`` are its volumes: name, snapshot, size, type."""

    devices: list[dict[str, Any]]
    imds_support: str | None = None
    deprecation_time: datetime | None = None
    state_reason: dict[str, str] | None = None
    source_image: str | None = None
    source_region: str | None = None


def make_image(
    backend: Any,
    *,
    name: str,
    architecture: str,
    devices: list[dict[str, Any]],
    description: str = "",
    owner: str | None = None,
    public: bool = False,
    image_id: str | None = None,
    created: datetime | None = None,
    snapshot_description: str | None = None,
) -> Ami:
    """Register an image with a snapshot for each of ``devices`` ({"DeviceName", "Ebs": {…}})."""
    image = Ami(
        backend,
        image_id or random_ami_id(),
        name=name,
        description=description,
        owner_id=owner,
        public=public,
        virtualization_type="hvm",
        architecture=architecture,
        hypervisor="xen",
        root_device_type="ebs",
        root_device_name=devices[0]["DeviceName"],
        boot_mode="uefi-preferred",
        creation_date=created,
        region_name=f"{backend.region_name}a",
        snapshot_description=snapshot_description,
    )
    described = []
    for number, device in enumerate(devices):
        ebs = device["Ebs"]
        snapshot = image.ebs_snapshot if number == 0 else add_snapshot(backend, image)
        snapshot.volume = SnapshotVolume(id=snapshot.volume.id, size=int(ebs["VolumeSize"]))
        snapshot.encrypted = bool(ebs.get("Encrypted"))
        snapshot.kms_key_id = ebs.get("KmsKeyId")
        known = {"DeleteOnTermination": True, "VolumeType": "gp3", "Encrypted": False, **ebs}
        told = {key: value for key, value in known.items() if value is not None and key != "KmsKeyId"}
        described.append({"DeviceName": device["DeviceName"], "Ebs": {**told, "SnapshotId": snapshot.id}})
    image.lab = Details(devices=described)
    backend.amis[image.id] = image
    return image


@dataclass(kw_only=True)
class SnapshotVolume:
    """The volume that a snapshot was made of: moto's may be gone, or of another size."""

    id: str
    size: int
    encrypted: bool = False


def add_snapshot(backend: Any, image: Ami) -> Snapshot:
    volume = backend.create_volume(size=1, zone_name=f"{backend.region_name}a")
    snapshot = backend.create_snapshot(
        volume.id, image.ebs_snapshot.description, image.owner_id, from_ami=image.id
    )
    backend.delete_volume(volume.id)
    return snapshot


def describe_mappings(image: Ami) -> list[dict[str, Any]]:
    return image.lab.devices if hasattr(image, "lab") else image.block_device_mappings


def snapshots_of(backend: Any, image: Ami) -> list[Snapshot]:
    ids = [device["Ebs"].get("SnapshotId") for device in describe_mappings(image)]
    return [backend.snapshots[each] for each in ids if each in backend.snapshots]


def require_image(backend: Any, image_id: str) -> Ami:
    if not re.fullmatch(r"ami-[0-9a-f]+", image_id):
        raise AwsError("InvalidAMIID.Malformed", f'Invalid id: "{image_id}" (expecting "ami-...")')
    image = backend.amis.get(image_id)
    if image is None or not is_visible(backend, image):
        raise AwsError("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
    return image


def require_usable(backend: Any, image_id: str) -> Ami:
    image = require_image(backend, image_id)
    if image.state != "available":
        raise AwsError("InvalidAMIID.Unavailable", f"The image ID '{image_id}' is not available")
    return image


def require_own(backend: Any, image_id: str) -> Ami:
    image = require_image(backend, image_id)
    if image.owner_id != backend.account_id:
        raise AwsError("AuthFailure", f"Not authorized for image:{image_id}", 403)
    return image


def is_visible(backend: Any, image: Ami) -> bool:
    shared = [permission.get("UserId") for permission in image.launch_permissions]
    return image.is_public or image.owner_id == backend.account_id or backend.account_id in shared


class Images:
    def __init__(
        self,
        fleet: Fleet,
        transitions: Transitions,
        latency: Latency,
        faults: Faults,
        boot_again: Callable[[Any, Any], None],
    ) -> None:
        self._fleet = fleet
        self._transitions = transitions
        self._latency = latency
        self._faults = faults
        self._boot_again = boot_again
        self._tokens: dict[tuple[str, str, str], tuple[dict[str, Any], str]] = {}

    # --- making -----------------------------------------------------------------------------------

    def create(self, request: Request, _forward: Forward) -> Response:
        backend, params = request.backend, request.params
        instance = require_instance(backend, params["InstanceId"])
        if instance.state not in ("running", "stopped"):
            raise AwsError(
                "IncorrectState",
                f"The instance '{instance.id}' is {instance.state}, no valid state for this operation.",
            )
        require_name(backend, params.get("Name", ""))
        devices = []
        for name, mapping in instance.get_block_device_mapping:
            volume = backend.volumes[mapping.volume_id]
            ebs = {
                "VolumeSize": volume.size,
                "VolumeType": volume.volume_type or "gp3",
                "Encrypted": bool(volume.encrypted),
                "KmsKeyId": volume.kms_key_id,
                "DeleteOnTermination": mapping.delete_on_termination,
                "Iops": getattr(volume, "iops", None),
                "Throughput": getattr(volume, "throughput", None),
            }
            devices.append({"DeviceName": name, "Ebs": ebs})
        devices.sort(key=lambda device: device["DeviceName"] != instance.root_device_name)
        image = make_image(
            backend,
            name=params["Name"],
            description=params.get("Description", ""),
            architecture=instance.architecture,
            devices=devices,
            snapshot_description=f"Created by CreateImage({instance.id})",
        )
        image.instance_id = instance.id
        image.lab.source_image = instance.image_id
        image.lab.source_region = request.region
        self._tag(request, image)
        runs = instance.state == "running"
        if runs:  # as AWS does it by default; NoReboot has no body of its own
            self._fleet.stop(instance.id)
        self._fleet.capture(instance.id, image.id)
        if runs:
            self._boot_again(backend, instance)
        self._make_ready_later(request, image, self._latency.image)
        return write_result(request, {"ImageId": image.id})

    def copy(self, request: Request, _forward: Forward) -> Response:
        backend, params = request.backend, request.params
        asked = {key: value for key, value in params.items() if key != "ClientToken"}
        token = (request.account, request.region, params.get("ClientToken", ""))
        if token[2] and token in self._tokens:
            before, image_id = self._tokens[token]
            if before != asked:
                raise AwsError(
                    "IdempotentParameterMismatch",
                    "The client token has already been used with other parameters.",
                )
            return write_result(request, {"ImageId": image_id})
        home = ec2_backends[request.account][params["SourceRegion"]]
        source = require_usable(home, params["SourceImageId"])
        if not NAME.fullmatch(params.get("Name", "")):
            raise malformed_name(params.get("Name", ""))
        encrypted = {"Encrypted": True} if params.get("Encrypted") or params.get("KmsKeyId") else {}
        devices = [
            {
                "DeviceName": device["DeviceName"],
                "Ebs": {**device["Ebs"], **encrypted, "KmsKeyId": params.get("KmsKeyId")},
            }
            for device in describe_mappings(source)
        ]
        image = make_image(
            backend,
            name=params["Name"],
            description=params.get("Description", source.description),
            architecture=source.architecture,
            devices=devices,
            snapshot_description=f"Copied for DestinationAmi from SourceAmi {source.id}",
        )
        image.lab.imds_support = source.lab.imds_support
        image.lab.source_image = source.id
        image.lab.source_region = params["SourceRegion"]
        if params.get("CopyImageTags"):
            image.add_tags({tag["key"]: tag["value"] for tag in source.get_tags()})
        self._tag(request, image)
        self._fleet.copy(source.id, image.id)
        self._make_ready_later(request, image, self._latency.copy)
        if token[2]:
            self._tokens[token] = (asked, image.id)
        return write_result(request, {"ImageId": image.id})

    def _tag(self, request: Request, image: Ami) -> None:
        snapshots = snapshots_of(request.backend, image)
        kinds = {"image": [image], "snapshot": snapshots}
        for specification in request.params.get("TagSpecifications", []):
            kind = specification.get("ResourceType")
            if kind not in kinds:
                raise AwsError(
                    "InvalidParameterValue",
                    f"'{kind}' is not a valid taggable resource type for this operation.",
                )
            for resource in kinds[kind]:
                resource.add_tags({tag["Key"]: tag["Value"] for tag in specification.get("Tags", [])})

    def _make_ready_later(self, request: Request, image: Ami, seconds: float) -> None:
        backend = request.backend
        image.state = "pending"
        for snapshot in snapshots_of(backend, image):
            snapshot.status = "pending"
        fault = self._faults.strike_image(request.action, request.region)
        if fault is not None and fault.kind == "stuck":
            return

        def finish() -> None:
            failed = fault is not None
            if image.state == "pending":
                image.state = "failed" if failed else "available"
            if failed:
                image.lab.state_reason = {
                    "Code": "Client.InternalError",
                    "Message": "Client.InternalError: Client error on launch",
                }
            for snapshot in snapshots_of(backend, image):
                snapshot.status = "error" if failed else "completed"

        self._transitions.later(seconds, finish, lambda: self._fleet.has_captured(image.id))

    # --- changing ---------------------------------------------------------------------------------

    def modify(self, request: Request, forward: Forward) -> Response:
        backend, params = request.backend, request.params
        image = require_own(backend, params["ImageId"])
        if image.state == "pending":
            raise AwsError("InvalidAMIID.Unavailable", f"The image ID '{image.id}' is not available")
        imds = params.get("ImdsSupport") or {}
        value = imds.get("Value") or (
            params.get("Value") if params.get("Attribute") == "imdsSupport" else None
        )
        if value is not None:
            if value != "v2.0":
                raise AwsError(
                    "InvalidParameterValue", f"Value ({value}) for parameter imdsSupport is invalid."
                )
            image.lab.imds_support = value
            return write_result(request, None)
        if (description := params.get("Description")) is not None:
            image.description = description.get("Value", "")
            return write_result(request, None)
        return forward()

    def deprecate(self, request: Request, _forward: Forward) -> Response:
        image = require_own(request.backend, request.params["ImageId"])
        at = request.params["DeprecateAt"]
        at = at if isinstance(at, datetime) else datetime.fromisoformat(str(at))
        at = at.replace(tzinfo=at.tzinfo or UTC, second=0, microsecond=0)
        if at <= datetime.now(UTC):
            raise AwsError("InvalidParameterValue", "The deprecation date must be in the future.")
        image.lab.deprecation_time = at
        return write_result(request, {"Return": True})

    def undeprecate(self, request: Request, _forward: Forward) -> Response:
        require_own(request.backend, request.params["ImageId"]).lab.deprecation_time = None
        return write_result(request, {"Return": True})

    def deregister(self, request: Request, _forward: Forward) -> Response:
        backend, image_id = request.backend, request.params["ImageId"]
        if image_id in backend.deleted_amis:
            raise AwsError("InvalidAMIID.Unavailable", f"The image ID '{image_id}' is no longer available")
        image = require_own(backend, image_id)
        snapshots = snapshots_of(backend, image)
        backend.deregister_image(image.id)
        self._fleet.forget(image.id)
        if request.params.get("DeleteAssociatedSnapshots"):
            for snapshot in snapshots:
                backend.snapshots.pop(snapshot.id, None)
        return write_result(request, {"Return": True})


def require_name(backend: Any, name: str) -> None:
    if not NAME.fullmatch(name):
        raise malformed_name(name)
    for image in list(backend.amis.values()):
        if image.name == name and image.owner_id == backend.account_id:
            raise AwsError(
                "InvalidAMIName.Duplicate",
                f"AMI name {name} is already in use by AMI {image.id}",
            )


def malformed_name(_name: str) -> AwsError:
    return AwsError(
        "InvalidAMIName.Malformed",
        "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', "
        "'.', '-', '/' and '_'",
    )
