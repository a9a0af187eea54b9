"""Launch templates: one for each environment, and in it a version for each release, with a concrete AMI.

User data is a part of the version. Whoever may describe launch template versions reads it, with the secrets
of a first boot (so may every process of a machine, from the metadata service): give a machine no secret that
is worth more than the machine, or let it fetch what it needs with the rights of its instance profile.
"""

from __future__ import annotations

import base64
import email
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any

from baker.deploy.side import Side
from baker.errors import CloudError, ConflictError
from baker.providers.aws.fleet_names import LISTENER, STORE, Labels, template_name
from baker.providers.aws.fleet_settings import FleetSettings
from baker.providers.aws.fleet_waiting import make_or_find
from baker.providers.aws.inside.user_data import make_side_user_data
from baker.providers.aws.naming import read_tags, write_tags
from baker.providers.aws.refusals import Refused
from baker.providers.aws.session import AwsSession
from baker.providers.aws.ssh import KeyPair

EMPTY = {"MetadataOptions": {"HttpTokens": "required"}}
"""What the first version has: it is the default one, which cannot be deleted, and belongs to no release."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """``listener`` is where the environment is served, ``store`` who made it."""

    id: str
    listener: str
    store: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """A side's version of its environment's template."""

    template: str
    version: int
    number: int
    release: str
    data: Mapping[str, Any]

    @property
    def tags(self) -> dict[str, str]:
        """Of the instances that are made from it."""
        for specification in self.data.get("TagSpecifications", ()):
            if specification["ResourceType"] == "instance":
                return read_tags(specification)
        return {}


# --- templates --------------------------------------------------------------------------------------------


def find_template(aws: AwsSession, region: str, environment: str) -> Template | None:
    try:
        answer = aws.ec2(
            region, "describe_launch_templates", LaunchTemplateNames=[template_name(environment)]
        )
    except Refused as error:
        if not _says_absent(error):
            raise
        return None
    found = [_read_template(one) for one in answer["LaunchTemplates"]]
    return found[0] if found else None


def list_templates(aws: AwsSession, region: str, store: str) -> dict[str, Template]:
    """Those that this store made, by environment."""
    tagged = [{"Name": f"tag:{STORE}", "Values": [store]}]
    found = aws.pages("ec2", region, "describe_launch_templates", "LaunchTemplates", Filters=tagged)
    return {
        environment: _read_template(one)
        for one in found
        if (environment := read_tags(one).get("baker:environment"))
    }


def _read_template(described: Mapping[str, Any]) -> Template:
    tags = read_tags(described)
    return Template(
        id=described["LaunchTemplateId"], listener=tags.get(LISTENER, ""), store=tags.get(STORE, "")
    )


def ensure_template(
    aws: AwsSession, region: str, environment: str, listener: str, labels: Labels
) -> Template:
    """The environment's template, which says where it is served. Raises ConflictError for a template of
    that name which is not ours."""
    found = find_template(aws, region, environment)
    if found is None:
        tags = labels.tags(Name=template_name(environment), listener=listener)

        def make() -> Template:
            made = aws.ec2(
                region,
                "create_launch_template",
                LaunchTemplateName=template_name(environment),
                VersionDescription="baker: belongs to no release",
                LaunchTemplateData=EMPTY,
                TagSpecifications=[{"ResourceType": "launch-template", "Tags": tags}],
            )
            return Template(
                id=made["LaunchTemplate"]["LaunchTemplateId"], listener=listener, store=labels.store
            )

        found = make_or_find(
            make,
            lambda: find_template(aws, region, environment),
            ("InvalidLaunchTemplateName.AlreadyExistsException",),
        )
    if not found.store:
        raise ConflictError(
            f"the launch template {template_name(environment)} in {region} was not made by baker",
            hint="Rename the environment, or delete the template if nobody uses it.",
        )
    if found.listener != listener:
        moved = write_tags({LISTENER: listener})
        aws.ec2(region, "create_tags", Resources=[found.id], Tags=moved)
        found = Template(id=found.id, listener=listener, store=found.store)
    return found


def delete_template(aws: AwsSession, region: str, template: Template) -> None:
    """Idempotent."""
    try:
        aws.ec2(region, "delete_launch_template", LaunchTemplateId=template.id)
    except Refused as error:
        if not _says_absent(error):
            raise


# --- versions ---------------------------------------------------------------------------------------------


def list_versions(aws: AwsSession, region: str, environment: str) -> list[Version]:
    """Those of releases, by release."""
    try:
        found = list(
            aws.pages(
                "ec2",
                region,
                "describe_launch_template_versions",
                "LaunchTemplateVersions",
                LaunchTemplateName=template_name(environment),
            )
        )
    except Refused as error:
        if not _says_absent(error):
            raise
        return []
    versions = [version for one in found if (version := _read_version(one)) is not None]
    return sorted(versions, key=lambda version: version.number)


def find_version(aws: AwsSession, region: str, environment: str, number: int) -> Version | None:
    return next((one for one in list_versions(aws, region, environment) if one.number == number), None)


def _read_version(described: Mapping[str, Any]) -> Version | None:
    words = described.get("VersionDescription", "").split()
    if len(words) != 3 or words[0] != "release" or not words[1].isdecimal():
        return None
    return Version(
        template=described["LaunchTemplateId"],
        version=int(described["VersionNumber"]),
        number=int(words[1]),
        release=words[2],
        data=described["LaunchTemplateData"],
    )


def ensure_version(
    aws: AwsSession,
    template: Template,
    found: Version | None,
    side: Side,
    settings: FleetSettings,
    labels: Labels,
    text: str | None,
) -> Version:
    """The side's version, if it was not ``found``. Raises ConflictError where the number is another
    catalog's."""
    region = settings.region
    if found is None:
        host_key = KeyPair.make()
        data = describe_version(side, settings, labels, host_key, text)

        def make() -> Version:
            made = aws.ec2(
                region,
                "create_launch_template_version",
                LaunchTemplateId=template.id,
                VersionDescription=f"release {side.number} {side.release}",
                LaunchTemplateData=data,
                # One that was killed and goes on asks with another host key: it is refused, and finds it.
                ClientToken=f"{side.release}-{side.number}",
            )["LaunchTemplateVersion"]
            version = _read_version({**made, "LaunchTemplateData": made.get("LaunchTemplateData") or data})
            assert version is not None
            return version

        found = make_or_find(
            make,
            lambda: find_version(aws, region, side.environment, side.number),
            ("IdempotentParameterMismatch",),
        )
    if found.release != side.release:
        raise ConflictError(
            f"release {side.number} of {side.environment} is at AWS ({region}) already, from another catalog "
            f"({found.tags.get(STORE, 'unknown')})",
            hint="Two catalogs in one account and region need other names for their environments.",
        )
    return found


def describe_version(
    side: Side, settings: FleetSettings, labels: Labels, host_key: KeyPair, text: str | None
) -> dict[str, Any]:
    """``LaunchTemplateData``: everything but the subnet, which the group chooses."""
    options = settings.options
    user = options.ssh_user or side.artifact.details.get("ssh_user") or ""
    user_data = make_side_user_data(
        host_key.private,
        host_key.public,
        None if text is None else text.encode(),
        extra_name=side.first_boot.template if side.first_boot else "the first boot",
    )
    data: dict[str, Any] = {
        "ImageId": side.artifact.id,
        "InstanceType": options.instance_types[0],
        "UserData": base64.b64encode(user_data).decode(),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "HttpEndpoint": "enabled",
        },
        "TagSpecifications": [
            {
                "ResourceType": "instance",
                "Tags": labels.tags(Name=side.name, host_key=host_key.public, ssh_user=user),
            },
            {"ResourceType": "volume", "Tags": labels.tags(Name=side.name)},
        ],
    }
    if options.security_groups:
        data["SecurityGroupIds"] = list(options.security_groups)
    if settings.key_name:
        data["KeyName"] = settings.key_name
    if options.instance_profile:
        key = "Arn" if options.instance_profile.startswith("arn:") else "Name"
        data["IamInstanceProfile"] = {key: options.instance_profile}
    return data


def delete_version(aws: AwsSession, region: str, version: Version) -> None:
    """Idempotent. Raises CloudError."""
    try:
        answer = aws.ec2(
            region,
            "delete_launch_template_versions",
            LaunchTemplateId=version.template,
            Versions=[str(version.version)],
        )
    except Refused as error:
        if not _says_absent(error):
            raise
        return
    for refused in answer.get("UnsuccessfullyDeletedLaunchTemplateVersions", ()):
        told = refused.get("ResponseError", {})
        if "DoesNotExist" not in told.get("Code", ""):
            raise CloudError(
                f"version {version.version} of the launch template {version.template} in {region} cannot be "
                f"deleted: {told.get('Message', told)}"
            )


def _says_absent(error: Refused) -> bool:
    return error.code.startswith("InvalidLaunchTemplate") and "NotFound" in error.code


# --- user data --------------------------------------------------------------------------------------------


def read_first_boot(version: Version) -> str | None:
    """What the side's first boot was told, without what baker adds; None if nothing."""
    encoded = version.data.get("UserData")
    if not encoded:
        return None
    packed = base64.b64decode(encoded)
    if packed.startswith(b"\x1f\x8b"):
        packed = gzip.decompress(packed)
    for part in email.message_from_bytes(packed).get_payload():
        if isinstance(part, Message) and "Merge-Type" not in part:  # baker's own say how they are merged
            payload = part.as_string() if part.is_multipart() else part.get_payload(decode=True)
            return payload.decode(errors="replace") if isinstance(payload, bytes) else str(payload)
    return None
