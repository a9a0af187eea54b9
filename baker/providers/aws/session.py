"""The way to AWS: one client per service and region; calls are counted, and their failures explained."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialResolver,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError
from botocore.parsers import ResponseParserError
from botocore.session import Session as CoreSession

from baker.errors import SettingsError
from baker.providers.aws.experience import Experience
from baker.providers.aws.options import parse_seconds
from baker.providers.aws.refusals import NO_CAPACITY, Refused, explain

ATTEMPTS = 12
"""Of one call, the first among them: with the waits between them about two minutes."""

CONNECTIONS = 50
"""Per client: so many calls to one region are under way at once."""


class AwsSession:
    """What is configured about access, as clients. Thread-safe; makes no call by itself.

    ``table`` is [aws] of baker.toml: ``profile``, ``role``, ``external_id``, ``request_timeout``, ``region``.
    ``experience`` is what is known of how long AWS takes.
    """

    def __init__(self, table: Mapping[str, Any], experience: Experience | None = None) -> None:
        self.experience = experience or Experience()
        self._table = table
        self._clients: dict[tuple[str, str], Any] = {}
        self._lock = threading.RLock()
        self._session: boto3.Session | None = None
        self._counted = threading.local()

    @property
    def region(self) -> str:
        """The configured region, else AWS_REGION, else boto3's own. Raises SettingsError."""
        configured = self._table.get("region") or os.environ.get("AWS_REGION") or self._boto.region_name
        if not configured:
            raise SettingsError(
                "no AWS region is set", hint='Set it: [aws] region = "eu-west-1" in baker.toml, or AWS_REGION'
            )
        return str(configured)

    @functools.cached_property
    def account(self) -> str:
        """The number of the account that is used; asking takes no right. Raises Refused."""
        return str(self.call("sts", self.region, "get_caller_identity")["Account"])

    @property
    def has_credentials(self) -> bool:
        """Whether any were found; they may still be refused. Raises Refused."""
        with explaining("sts", "GetCallerIdentity", "the account"):
            return self._boto.get_credentials() is not None

    @property
    def _boto(self) -> boto3.Session:
        with self._lock:
            if self._session is None:
                with explaining("sts", "GetCallerIdentity", "the account"):
                    core = botocore.session.Session(profile=self._table.get("profile"))
                    core.get_scoped_config()  # raises ProfileNotFound now, not in a thread later
                    if region := self._table.get("region") or os.environ.get("AWS_REGION"):
                        core.set_config_variable("region", region)  # STS is asked there for the role
                    if role := self._table.get("role"):
                        _assume(core, role, self._table.get("external_id"))
                    self._session = boto3.Session(botocore_session=core)
            return self._session

    @functools.cached_property
    def _known_regions(self) -> set[str]:
        session = self._boto
        return {
            region
            for partition in session.get_available_partitions()
            for region in session.get_available_regions("ec2", partition)
        }

    def ec2(self, region: str, operation: str, **parameters: Any) -> Any:
        """Call EC2. Raises Refused."""
        return self.call("ec2", region, operation, **parameters)

    def ssm(self, region: str, operation: str, **parameters: Any) -> Any:
        """Call Systems Manager. Raises Refused."""
        return self.call("ssm", region, operation, **parameters)

    def call(self, service: str, region: str, operation: str, **parameters: Any) -> Any:
        """Call ``operation`` (``run_instances``); tries again what passes. Raises Refused."""
        name = "".join(word.capitalize() for word in operation.split("_"))
        with self._explaining(service, name, region):
            return getattr(self._client(service, region), operation)(**parameters)

    def pages(
        self, service: str, region: str, operation: str, key: str, **parameters: Any
    ) -> Iterator[Mapping[str, Any]]:
        """Every element of ``key`` over all pages of the answer. Raises Refused."""
        name = "".join(word.capitalize() for word in operation.split("_"))
        with self._explaining(service, name, region):
            for page in self._client(service, region).get_paginator(operation).paginate(**parameters):
                yield from page.get(key, ())

    @contextmanager
    def _explaining(self, service: str, operation: str, region: str) -> Iterator[None]:
        try:
            with explaining(service, operation, region):
                yield
        except Refused as error:
            if error.passing and region not in self._known_regions:
                error.passing = False  # it is misspelt, and will be
            raise

    def _client(self, service: str, region: str) -> Any:
        with self._lock:
            client = self._clients.get((service, region))
            if client is None:
                timeout = parse_seconds(self._table.get("request_timeout", "60s"))
                config = Config(
                    # "adaptive" would also slow down by itself, for all bakes of this process together.
                    retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                    connect_timeout=min(10.0, timeout),
                    read_timeout=timeout,
                    max_pool_connections=CONNECTIONS,
                    user_agent_extra="baker",
                )
                client = self._boto.client(service, region_name=region, config=config)
                client.meta.events.register("before-send.*", self._count)
                client.meta.events.register("needs-retry.ec2.RunInstances", _fall_back_at_once)
                if region not in self._known_regions:
                    client.meta.events.register_first(f"needs-retry.{service}", _give_up_at_once)
                self._clients[service, region] = client
            return client

    def _count(self, **_: Any) -> None:
        self._counted.calls = self.calls_of_thread + 1

    @property
    def calls_of_thread(self) -> int:
        """How many calls (attempts) the calling thread has made so far."""
        return int(getattr(self._counted, "calls", 0))


@contextmanager
def explaining(service: str, operation: str, region: str) -> Iterator[None]:
    """What botocore raises within becomes Refused."""
    try:
        yield
    except (BotoCoreError, ClientError, ResponseParserError) as error:
        raise explain(error, service=service, operation=operation, region=region) from error


def _give_up_at_once(caught_exception: Exception | None = None, **_: Any) -> bool | None:
    """There is no way to a region of which nobody has heard: it is misspelt."""
    return False if isinstance(caught_exception, EndpointConnectionError) else None


def _fall_back_at_once(response: tuple[Any, Mapping[str, Any]] | None = None, **_: Any) -> bool | None:
    """EC2 has "no capacity" look like a failure of the server: botocore would ask for minutes."""
    lacking = response is not None and response[1].get("Error", {}).get("Code") in NO_CAPACITY
    return False if lacking else None


def _assume(core: CoreSession, role: str, external_id: str | None) -> None:
    """Let a session work as a role, with credentials that are renewed when they run out.

    Without credentials to assume it with the session has none, and none later either: never those of
    somebody who is not the role.
    """
    source = core.get_credentials()
    if source is None:
        core.register_component("credential_provider", CredentialResolver([]))
        return
    fetcher = AssumeRoleCredentialFetcher(
        client_creator=core.create_client,
        source_credentials=source,
        role_arn=role,
        extra_args={"RoleSessionName": "baker", **({"ExternalId": external_id} if external_id else {})},
    )
    assumed = DeferredRefreshableCredentials(method="assume-role", refresh_using=fetcher.fetch_credentials)

    class Provider:
        METHOD = CANONICAL_NAME = "assume-role"

        def load(self) -> DeferredRefreshableCredentials:
            return assumed

    core.register_component("credential_provider", CredentialResolver([Provider()]))
    core._credentials = assumed  # resolved above: the resolver is not asked again
