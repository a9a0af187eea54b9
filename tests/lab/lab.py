"""The lab itself: one AWS account at an address of this host, for as long as a ``with`` block lasts."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from moto import backends
from moto.autoscaling.models import FakeAutoScalingGroup
from moto.core.base_backend import BackendDict
from moto.ec2.models import ec2_backends
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix

from tests.lab import stock
from tests.lab.balancer import Balancer, serving
from tests.lab.balancing import Balancing
from tests.lab.bodiless import Bodiless
from tests.lab.calls import Call, permissions
from tests.lab.describing import describe_images, describe_snapshots
from tests.lab.faults import Faults
from tests.lab.fleet import Fleet
from tests.lab.groups import delete_group
from tests.lab.holdings import list_holdings
from tests.lab.images import Images
from tests.lab.instances import Instances
from tests.lab.lookup import require_instance
from tests.lab.scaling import Scaling, note_capacity
from tests.lab.server import OBSERVER, Endpoint
from tests.lab.templates import Templates
from tests.lab.transitions import Latency, Transitions
from tests.lab.wire import Request

REGION = "eu-west-1"
ACCESS_KEY = "AKIALAB00000000000001"


class Lab:
    """See ``running_lab``. ``fleet`` is what stands behind the instances."""

    def __init__(self, fleet: Fleet, latency: Latency, clock: Callable[[], float] = time.monotonic) -> None:
        self.fleet = fleet
        self.faults = Faults()
        self.region = REGION
        self._clients: dict[tuple[str, str], Any] = {}
        self._lock = threading.RLock()
        self._transitions = Transitions(clock)
        self._instances = Instances(fleet, self._transitions, latency, self.faults)
        instances = self._instances
        self._balancing = Balancing(fleet, self._lock)
        self.scaling = Scaling(instances, self._balancing, clock)
        templates = Templates()
        images = Images(fleet, self._transitions, latency, self.faults, instances.boot_again)
        answers = {
            "RunInstances": instances.run,
            "StopInstances": instances.stop,
            "StartInstances": instances.start,
            "TerminateInstances": instances.terminate,
            "DescribeInstances": instances.describe,
            "GetConsoleOutput": instances.console,
            "CreateImage": images.create,
            "CopyImage": images.copy,
            "ModifyImageAttribute": images.modify,
            "EnableImageDeprecation": images.deprecate,
            "DisableImageDeprecation": images.undeprecate,
            "DeregisterImage": images.deregister,
            "DescribeImages": describe_images,
            "DescribeSnapshots": describe_snapshots,
            "DeleteSecurityGroup": delete_group,
            "CreateLaunchTemplate": templates.create,
            "CreateLaunchTemplateVersion": templates.create,
            "DeleteLaunchTemplateVersions": templates.delete_versions,
            "DescribeLaunchTemplateVersions": templates.describe_versions,
        }
        services = {
            "ec2": answers,
            "autoscaling": self.scaling.answers,
            "elasticloadbalancing": self._balancing.answers,
        }
        self._endpoint = Endpoint(
            answers={
                f"{service}:{action}": answer
                for service, known in services.items()
                for action, answer in known.items()
            },
            before=self._prepare,
            faults=self.faults,
            latency=latency.call,
            lock=self._lock,
        )

    def _prepare(self, request: Request) -> None:
        if request.service in ("ec2", "ssm", "autoscaling"):
            stock.fill(request.backend)
        self._settle()

    def _settle(self) -> None:
        self._transitions.settle()
        self._instances.settle([backend for account in ec2_backends.values() for backend in account.values()])
        self.scaling.settle()
        self._balancing.settle()

    @contextmanager
    def endpoint_open(self) -> Iterator[Lab]:
        try:
            yield self
        finally:
            self._endpoint.close()
            self._balancing.close()

    # --- reaching it ------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        return self._endpoint.url

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead boto3, the aws command and baker here and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": "lab",
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    @property
    def ssh_port(self) -> int:
        return self.fleet.ssh_port

    @property
    def ssh_user(self) -> str:
        return self.fleet.ssh_user

    @property
    def settings(self) -> str:
        """An [aws] table for baker.toml."""
        return (
            f'[aws]\nregion = "{self.region}"\nssh_user = "{self.ssh_user}"\nssh_port = {self.ssh_port}\n'
            'open_to = "127.0.0.1/32"\n'
        )

    def client(self, service: str, region: str | None = None) -> Any:
        """A client for the test itself: its calls are neither recorded nor struck by faults."""
        key = (service, region or self.region)
        if key not in self._clients:
            self._clients[key] = make_client(
                self.endpoint, *key, user_agent_extra=OBSERVER, retries={"total_max_attempts": 1}
            )
        return self._clients[key]

    # --- looking at it ----------------------------------------------------------------------------

    @property
    def calls(self) -> list[Call]:
        """What was asked, oldest first (a copy)."""
        with self._lock:
            return list(self._endpoint.calls)

    def forget_calls(self) -> None:
        with self._lock:
            self._endpoint.calls.clear()

    def permissions(self, calls: Sequence[Call] | None = None) -> set[str]:
        """The IAM actions that the calls take."""
        return permissions(self.calls if calls is None else calls)

    def holdings(self, region: str | None = None) -> list[str]:
        """Every resource, in any region or one, that a new account would not have."""
        with self._lock:
            self._settle()
            return list_holdings(region)

    def source(self, purpose: str = "source", region: str | None = None) -> str:
        """The id of an image of the stock: source, arm64, older, deprecated, disabled, foreign."""
        return stock.find_stock(purpose).id_in(region or self.region)

    @property
    def source_ami(self) -> str:
        return self.source()

    # --- acting on it -----------------------------------------------------------------------------

    def interrupt_spot(self, instance: str, region: str | None = None) -> None:
        """AWS takes an instance back."""
        with self._lock:
            self._instances.interrupt(self._backend(region), instance)

    def power_off(self, instance: str, region: str | None = None) -> None:
        """As if the instance switched itself off."""
        with self._lock:
            backend = self._backend(region)
            self._instances.switch_off(backend, require_instance(backend, instance))

    @contextmanager
    def balancer(self, listener: str) -> Iterator[str]:
        """The URL at which a load balancer's listener (its ARN) is reached, within."""
        with serving(Balancer(listener, self._balancing, self._lock)) as url:
            yield url

    def _backend(self, region: str | None) -> Any:
        return ec2_backends["123456789012"][region or self.region]


def make_client(endpoint: str, service: str, region: str, **settings: Any) -> Any:
    """A client of the lab; one session for all, since each new one reads AWS's large models again."""
    return _session().client(
        service,
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key="lab",
        config=Config(**settings),
    )


@functools.cache
def _session() -> boto3.Session:
    return boto3.Session()


@contextmanager
def running_lab(
    bodies: Fleet | None = None,
    *,
    latency: Latency | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Lab]:
    """An empty AWS account. moto is one per process, so is the lab. ``bodies`` gives instances real machines;
    without, they are SSH servers that a test answers for (``lab.fleet.answers``). States move by ``clock``.
    """
    if not _running.acquire(blocking=False):
        raise RuntimeError("a lab is running in this process already")
    fleet = bodies or Bodiless()
    try:
        with moto_as_needed(), Lab(fleet, latency or Latency(), clock).endpoint_open() as lab:
            yield lab
    finally:
        fleet.close()
        _running.release()


_running = threading.Lock()


@contextmanager
def moto_as_needed() -> Iterator[None]:
    """moto empty, without its own stock of images, and quicker: for one resource's tags it searches all tags,
    for one call it lists its own folders. Its Auto Scaling groups launch nothing by themselves: the lab does.
    """
    tags, modules = TaggedEC2Resource.get_tags, backends.list_of_moto_modules
    variable = "MOTO_EC2_LOAD_DEFAULT_AMIS"
    before = os.environ.get(variable)
    os.environ[variable] = "false"
    TaggedEC2Resource.get_tags = get_tags  # type: ignore[method-assign]
    set_capacity = FakeAutoScalingGroup.set_desired_capacity
    FakeAutoScalingGroup.set_desired_capacity = note_capacity  # type: ignore[method-assign]
    known = frozenset(modules())
    backends.list_of_moto_modules = lambda: known
    BackendDict.reset()
    try:
        yield
    finally:
        BackendDict.reset()
        backends.list_of_moto_modules = modules
        FakeAutoScalingGroup.set_desired_capacity = set_capacity  # type: ignore[method-assign]
        TaggedEC2Resource.get_tags = tags  # type: ignore[method-assign]
        os.environ.pop(variable)
        if before is not None:
            os.environ[variable] = before


def get_tags(resource: Any) -> list[dict[str, str]]:
    tags: Mapping[str, str] = resource.ec2_backend.tags.get(resource.id, {}) if resource.id else {}
    kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(resource.id), "") if tags else ""
    return [
        {"resource_id": resource.id, "key": key, "value": value, "resource_type": kind}
        for key, value in tags.items()
    ]
