"""Looking into a machine of a deployment: by SSH, where a key is configured, with a pinned host key."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paramiko

from baker.errors import MachineError, SettingsError
from baker.providers.aws.fleet_names import HOST_KEY, SSH_USER
from baker.providers.aws.fleet_settings import FleetSettings
from baker.providers.aws.instances import Instance, read_console
from baker.providers.aws.machine import AwsMachine
from baker.providers.aws.naming import read_tags
from baker.providers.aws.session import AwsSession
from baker.providers.aws.ssh import Access, KeyPair, read_private_key

JOURNAL = ("journalctl", "--no-pager", "--output=short-iso", "--quiet")
JOURNAL_SECONDS = 60.0
SSH_SECONDS = 30.0
"""How long one that runs already may take to answer."""


@contextmanager
def reached(
    aws: AwsSession, described: Mapping[str, Any], settings: FleetSettings, project: Path
) -> Iterator[AwsMachine]:
    """A machine, connected to. Raises MachineError, SettingsError: what is missing, or why not."""
    machine = AwsMachine(
        described["InstanceId"],
        "",
        Instance(
            id=described["InstanceId"],
            region=settings.region,
            address=find_address(described, settings),
            type=described["InstanceType"],
            spot=False,
        ),
        describe_access(described, settings, project),
        aws,
        ssh_seconds=min(SSH_SECONDS, settings.options.ssh_seconds),
        cancel=threading.Event(),
    )
    try:
        machine.wait_until_reachable()
        yield machine
    finally:
        with contextlib.suppress(MachineError):
            machine.disconnect()


def describe_access(described: Mapping[str, Any], settings: FleetSettings, project: Path) -> Access:
    name, options = described["InstanceId"], settings.options
    if not settings.key_file:
        raise MachineError(
            f"{name} cannot be looked into: {settings.file} does not say which key logs in",
            hint='Set in [aws] key_name (a key pair of EC2) and key_file (its private key: "~/.ssh/fleet"); '
            "machines that run have the key from the next deployment on.",
        )
    if described["State"]["Name"] != "running":
        raise MachineError(f"{name} is {described['State']['Name']}")
    tags = read_tags(described)
    host_key = tags.get(HOST_KEY)
    if not host_key:
        raise MachineError(
            f"{name} has no tag {HOST_KEY}: nobody can tell whether it is the one that answers",
            hint="Somebody removed the tag. Replace the machine, or deploy again.",
        )
    return Access(
        address=find_address(described, settings),
        port=options.ssh_port,
        user=options.ssh_user or tags.get(SSH_USER) or "root",
        key=KeyPair(private=_read_key(settings, project), public=""),
        host_key=host_key,
        bastion=options.bastion,
    )


def find_address(described: Mapping[str, Any], settings: FleetSettings) -> str:
    """Raises MachineError."""
    public = None if settings.options.private else described.get("PublicIpAddress")
    address = public or described.get("PrivateIpAddress")
    if not address:
        raise MachineError(f"{described['InstanceId']} has no address (yet)")
    return str(address)


def _read_key(settings: FleetSettings, project: Path) -> str:
    assert settings.key_file is not None
    path = project / Path(settings.key_file).expanduser()
    try:
        text = path.read_text()
        read_private_key(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{settings.file}: key_file in [aws]: {path} cannot be read: {error}") from error
    except (paramiko.SSHException, ValueError) as error:
        raise SettingsError(
            f"{settings.file}: key_file in [aws]: {path} is no private key that can be used: {error}",
            hint="It must have no passphrase.",
        ) from error
    return text


def read_log(
    aws: AwsSession,
    described: Mapping[str, Any],
    settings: FleetSettings,
    project: Path,
    lines: int | None,
) -> str:
    """The journal where a key is configured and it answers, else the console, as far as AWS has it.

    Raises CloudError."""
    said = ""
    if settings.key_file and described["State"]["Name"] == "running":
        try:
            with reached(aws, described, settings, project) as machine:
                argv = [*JOURNAL, *([f"--lines={lines}"] if lines is not None else [])]
                done = machine.run(argv, timeout=JOURNAL_SECONDS)
            if done.exit_status == 0:
                return done.stdout.decode(errors="replace")
            said = done.stderr.decode(errors="replace").strip()
        except (MachineError, SettingsError) as error:
            said = str(error).partition("\n")[0]
    console = read_console(aws, settings.region, described["InstanceId"])
    shown = console if lines is None else console[-lines:] if lines else []
    begin = [f"its journal cannot be read ({said}); its console:"] if said else []
    return "".join(f"{line}\n" for line in [*begin, *shown])
