"""What [aws] and [targets.aws] say, read once into frozen values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from baker.errors import SettingsError

ARM_FAMILY = re.compile(r"^(a1|[a-z]+[0-9]+g[a-z]*)\.")
"""Graviton: a g after the generation (t4g, m7gd, c7gn); no g5 or g6 (GPUs), whose g comes before."""

DEB_ARCH = {"x86_64": "amd64", "arm64": "arm64"}

DEFAULT_TYPES = {"x86_64": ("t3.small", "t3a.small"), "arm64": ("t4g.small",)}

KNOWN_USERS = {
    "136693071363": "admin",  # Debian
    "099720109477": "ubuntu",  # Canonical
    "137112412989": "ec2-user",  # Amazon Linux
    "309956199498": "ec2-user",  # Red Hat
    "764336703387": "ec2-user",  # AlmaLinux
    "792107900819": "rocky",  # Rocky Linux
    "125523088429": "fedora",  # Fedora, CentOS
}
"""The login of the distributions' own AMIs, by the account that publishes them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Disk:
    """A volume at launch, in EC2's terms; None leaves what the source says. ``size`` is GiB."""

    device: str | None = None
    size: int | None = None
    type: str | None = None
    iops: int | None = None
    throughput: int | None = None
    encrypted: bool | None = None
    kms_key: str | None = None

    def describe(self) -> dict[str, Any]:
        """EC2's ``Ebs`` structure. The volume goes with its instance."""
        encrypted = True if self.kms_key else self.encrypted
        values = {
            "VolumeSize": self.size,
            "VolumeType": self.type,
            "Iops": self.iops,
            "Throughput": self.throughput,
            "Encrypted": encrypted,
            "KmsKeyId": self.kms_key,
        }
        return {
            "DeleteOnTermination": True,
            **{key: value for key, value in values.items() if value is not None},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Bastion:
    """A host on the way; its key is configured, never taken on trust."""

    host: str
    user: str
    host_key: str
    port: int = 22
    key_file: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """Where an AMI goes and who may use it."""

    regions: tuple[str, ...] = ()
    kms_keys: Mapping[str, str] = field(default_factory=dict)
    accounts: tuple[str, ...] = ()
    organizations: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    public: bool = False
    deprecate_after: str | None = None
    parameters: str = "/baker"
    tags: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it is kept with the artifact, so that whoever finishes a dead bake knows it."""
        return {
            "regions": list(self.regions),
            "kms_keys": dict(self.kms_keys),
            "accounts": list(self.accounts),
            "organizations": list(self.organizations),
            "units": list(self.units),
            "public": self.public,
            "deprecate_after": self.deprecate_after,
            "parameters": self.parameters,
            "tags": dict(self.tags),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Distribution:
        lists = ("regions", "accounts", "organizations", "units")
        frozen: dict[str, Any] = {
            key: tuple(value) if key in lists else value for key, value in values.items()
        }
        return cls(**frozen)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The settings of one recipe on the target, with their defaults."""

    instance_types: tuple[str, ...]
    spot: bool
    vpc: str | Mapping[str, str] | None
    subnet: str | Mapping[str, str] | None
    zone: str | None
    security_groups: tuple[str, ...]
    open_to: str | None
    private: bool
    ssh_user: str | None
    ssh_port: int
    ssh_seconds: float
    bastion: Bastion | None
    root_volume: Disk | None
    volumes: tuple[Disk, ...]
    instance_profile: str | None
    user_data: str | None
    deadline_seconds: int
    image_seconds: float
    tags: Mapping[str, str]
    distribution: Distribution


def read_options(settings: Mapping[str, Any], arch: str) -> Options:
    """Raises SettingsError for a combination that cannot be."""
    chosen = settings.get("instance_type", ())
    asked = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    types = tuple(name for name in asked if bool(ARM_FAMILY.match(name)) == (arch == "arm64"))
    bastion = settings.get("bastion")
    root = settings.get("root_volume")
    tags = settings.get("tags", {})
    if reserved := [key for key in tags if key.startswith(("baker:", "aws:")) or key == "Name"]:
        raise SettingsError(
            f'the tag "{reserved[0]}" is baker\'s own', hint="Name yours otherwise in tags of [aws]."
        )
    if bastion and not settings.get("open_to") and not settings.get("security_groups"):
        # Instances see the bastion's address, which cannot be found out from here.
        raise SettingsError(
            "with a bastion, it has to be said which address reaches build instances",
            hint='Set in [aws] of baker.toml: open_to = "10.0.1.5/32" (the bastion\'s own in the VPC), or '
            "security_groups.",
        )
    return Options(
        instance_types=types or DEFAULT_TYPES[arch],
        spot=bool(settings.get("spot", False)),
        vpc=settings.get("vpc"),
        subnet=settings.get("subnet"),
        zone=settings.get("zone"),
        security_groups=tuple(settings.get("security_groups", ())),
        open_to=settings.get("open_to"),
        private=settings.get("address", "public") == "private",
        ssh_user=settings.get("ssh_user"),
        ssh_port=int(settings.get("ssh_port", 22)),
        ssh_seconds=parse_seconds(settings.get("ssh_timeout", "5m")),
        bastion=Bastion(**bastion) if bastion else None,
        root_volume=Disk(**root) if root else None,
        volumes=tuple(Disk(**volume) for volume in settings.get("volumes", ())),
        instance_profile=settings.get("instance_profile"),
        user_data=settings.get("user_data"),
        deadline_seconds=int(parse_seconds(settings.get("deadline", "4h"))),
        image_seconds=parse_seconds(settings.get("image_timeout", "2h")),
        tags=tags,
        distribution=read_distribution(settings),
    )


def read_distribution(settings: Mapping[str, Any]) -> Distribution:
    return Distribution(
        regions=tuple(dict.fromkeys(settings.get("regions", ()))),
        kms_keys=settings.get("kms_keys", {}),
        accounts=tuple(settings.get("share_accounts", ())),
        organizations=tuple(settings.get("share_organizations", ())),
        units=tuple(settings.get("share_ous", ())),
        public=bool(settings.get("public", False)),
        deprecate_after=settings.get("deprecate_after"),
        parameters=settings.get("parameters", "/baker"),
        tags=settings.get("tags", {}),
    )


def require_sensible_keys(distribution: Distribution, region: str) -> None:
    """Raises SettingsError for a key that would encrypt nothing, without anybody noticing."""
    for place in distribution.kms_keys:
        if place == region:
            raise SettingsError(
                f"kms_keys names a key for {region}, where the AMI is made and not copied",
                hint='There the volume is encrypted from the launch on: root_volume = { kms_key = "…" }',
            )
        if place not in distribution.regions:
            raise SettingsError(
                f"kms_keys names a key for {place}, which gets no copy", hint="Add it to regions of [aws]."
            )


def read_archs(settings: Mapping[str, Any]) -> Sequence[str]:
    return tuple(dict.fromkeys(settings.get("archs", ()))) or ("x86_64",)


def read_user_data(options: Options, project: Path | None) -> bytes | None:
    """The project's own part of the user data. Raises SettingsError."""
    if options.user_data is None:
        return None
    path = Path(project or "", options.user_data)
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f'user_data = "{options.user_data}" cannot be read: {error.strerror}') from error


def parse_seconds(text: str) -> float:
    """Seconds of ``90s``, ``30m``, ``2h``."""
    return float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]


def parse_age(text: str) -> timedelta:
    """``12h``, ``90d``, ``2w``."""
    return timedelta(hours=int(text[:-1]) * {"h": 1, "d": 24, "w": 168}[text[-1]])
