"""Load balancers' health checks: targets are asked, by HTTP, whether they are well."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from moto.ec2.models import ec2_backends
from moto.elbv2.models import FakeTargetGroup, elbv2_backends

from tests.lab.fleet import Fleet
from tests.lab.lookup import find_instance
from tests.lab.wire import AwsError, Request, Response, write_result

Forward = Callable[..., Response]
Health = tuple[str, str, str]
"""State, reason and description as ELB tells them."""

CHECK_SECONDS = 0.05
"""The pause between two looks, whatever a target group says: tests have no time."""

THRESHOLD = 2
INITIAL: Health = ("initial", "Elb.InitialHealthChecking", "Initial health checks in progress")
HEALTHY: Health = ("healthy", "", "")
UNUSED: Health = (
    "unused",
    "Target.NotInUse",
    "Target group is not configured to receive traffic from the load balancer",
)
DRAINING: Health = (
    "draining",
    "Target.DeregistrationInProgress",
    "Target deregistration is in progress",
)


@dataclass(kw_only=True)
class Target:
    """What is known of one target: the last answers in a row that were alike."""

    well: int = 0
    sick: int = 0
    health: Health = INITIAL


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    key: tuple[str, str]
    address: str
    port: int
    path: str
    matcher: str


class Balancing:
    """``busy`` counts the requests that a balancer has under way, by instance."""

    def __init__(self, fleet: Fleet, lock: threading.RLock) -> None:
        self._fleet = fleet
        self._lock = lock
        self._targets: dict[tuple[str, str], Target] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.busy: Counter[str] = Counter()
        self.answers = {"DescribeTargetHealth": self.describe}

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def is_idle(self, instance: str) -> bool:
        return self.busy[instance] == 0

    # --- looking ----------------------------------------------------------------------------------

    def settle(self) -> None:
        """Begin to look once there is something to look at."""
        if self._thread is None and any(True for _ in list_target_groups()):
            self._thread = threading.Thread(target=self._work, name="lab-health", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while not self._closing.wait(CHECK_SECONDS):
            with self._lock:
                checks = list(self._list_checks())
            for check in checks:
                instance = check.key[1]
                answer = self._fleet.probe(instance, check.address, check.port, check.path)
                with self._lock:
                    note(self._targets.setdefault(check.key, Target()), answer, check.matcher)

    def _list_checks(self) -> Iterator[Check]:
        for group in list_target_groups():
            if not is_used(group):
                continue
            for target in group.targets.values():
                instance = find_instance(ec2_backends[group.account_id][group.region_name], target["Id"])
                if instance is not None and instance.state == "running":
                    yield Check(
                        key=(group.arn, instance.id),
                        address=instance.lab_address,
                        port=int(target["Port"]),
                        path=group.health_check_path or "/",
                        matcher=group.matcher["HttpCode"],
                    )

    def state_of(self, group: FakeTargetGroup, instance: str) -> Health:
        if instance in getattr(group, "lab_draining", ()):
            return DRAINING
        if not is_used(group):
            return UNUSED
        found = find_instance(ec2_backends[group.account_id][group.region_name], instance)
        if found is None or found.state != "running":
            return "unused", "Target.InvalidState", "Target is in the stopped state"
        return self._targets.get((group.arn, instance), Target()).health

    def describe(self, request: Request, _forward: Forward) -> Response:
        groups = elbv2_backends[request.account][request.region].target_groups
        group = groups.get(request.params["TargetGroupArn"])
        if group is None:
            raise AwsError("TargetGroupNotFound", "One or more target groups not found")
        told = []
        for instance in [*group.targets, *sorted(getattr(group, "lab_draining", ()))]:
            state, reason, description = self.state_of(group, instance)
            health = {"State": state, "Reason": reason, "Description": description}
            told.append(
                {
                    "Target": {"Id": instance, "Port": int(group.port)},
                    "HealthCheckPort": str(group.port),
                    "TargetHealth": {key: value for key, value in health.items() if value},
                }
            )
        return write_result(request, {"TargetHealthDescriptions": told})


def note(target: Target, answer: int | str, matcher: str) -> None:
    """Change a mind only after several answers of one kind."""
    if str(answer) == matcher:
        target.well, target.sick = target.well + 1, 0
        if target.well >= THRESHOLD:
            target.health = HEALTHY
        return
    target.well, target.sick = 0, target.sick + 1
    if target.sick >= THRESHOLD:
        if isinstance(answer, int):
            said = "Target.ResponseCodeMismatch", f"Health checks failed with these codes: [{answer}]"
        elif "timed out" in answer:
            said = "Target.Timeout", answer
        else:
            said = "Target.FailedHealthChecks", answer
        target.health = ("unhealthy", *said)


def list_target_groups() -> Iterator[FakeTargetGroup]:
    for account in list(elbv2_backends.values()):
        for backend in list(account.values()):
            yield from list(backend.target_groups.values())


def is_used(group: FakeTargetGroup) -> bool:
    """Whether a listener or a rule names it: ELB looks at no other."""
    backend: Any = elbv2_backends[group.account_id][group.region_name]
    return bool(backend._any_listener_using(group.arn))
