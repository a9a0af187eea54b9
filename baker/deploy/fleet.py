"""What deployments ask of a provider: machines that outlive the command, behind a load balancer.

Everything a fleet makes is named after its environment and release, and can be found by that name: there is
no ledger beside the catalog's releases, which are written down before anything is made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from baker.deploy.environment import Environment
from baker.deploy.observation import Observation
from baker.deploy.side import MachineFacts, Side

Pause = Callable[[float], None]
"""Waits so many seconds; raises to give up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetMachine:
    """A machine as it is now. ``name`` is what ``baker logs ENV/NAME`` takes: ``3-1`` (release, number) of a
    local one, an instance id of AWS.

    ``alive``: its process or instance runs. ``healthy``: the last health check passed; ``detail`` says why
    not, for people. ``since`` is when it became healthy or unhealthy, None where that is not known.
    ``started`` is when it was asked for. ``sessions`` are requests that it is at work on, ``errors`` what it
    answered with 5xx or broke off, since it joined the load balancer (None: not known).
    """

    environment: str
    number: int
    name: str
    hostname: str
    address: str
    alive: bool
    healthy: bool
    detail: str
    since: datetime | None
    started: datetime | None
    sessions: int | None = None
    errors: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """Who gets which share (percent, by release number; releases that are not named get none). ``standby``
    serves when everybody else is out of order; ``watched`` is put out of order by its first wrong answers,
    as far as the provider can do either."""

    weights: Mapping[int, int]
    standby: int | None = None
    watched: int | None = None


class Fleet(Protocol):
    """The machines and the load balancer of all environments at one provider. Every call is idempotent, and
    goes on where a killed process stopped."""

    target: str

    def check(self, environment: Environment) -> None:
        """Raise HostError or UsageError for what keeps the environment from being served from here: a
        missing tool, a port that something else listens on, a VPC or load balancer that is not there."""

    def place(self, environment: Environment) -> str:
        """Where it is served, for people: ``http://127.0.0.1:8080``."""

    def list_facts(self, side: Side, size: int) -> Sequence[MachineFacts]:
        """What the first boot of each machine of a new side will be told. Makes nothing."""

    def start(self, side: Side, size: int, pause: Pause) -> None:
        """Make the machines of a side, or those that are missing of it, ``side.batch`` at once. They get no
        traffic before ``shift`` says so. Returns when all run, healthy or not yet.

        Raises MachineError naming the machine and the end of its log, StoreError, HostError, or what
        ``pause`` raises; what was made stays until ``remove``.
        """

    def size(self, environment: str, number: int) -> int:
        """How many machines a side is to have now, dead ones included; 0 for one that is not there."""

    def machines(self, environment: str) -> Sequence[FleetMachine]:
        """Every machine of every side, sorted by side and number. One that died is listed until it is
        replaced or removed."""

    def shift(self, environment: Environment, traffic: Traffic) -> None:
        """Move the traffic. At once for new requests; those under way are finished where they are. Starts
        the load balancer where it does not run."""

    def traffic(self, environment: str) -> Traffic:
        """As the load balancer has it now; without weights where it does not run."""

    def replace(self, environment: str, names: Collection[str], pause: Pause) -> Sequence[str]:
        """Start one new machine for each of these (dead, sick or drifted), wait until it is healthy, then
        drain and remove the old. Returns the names of the new ones. Raises like ``start``, and MachineError
        for one that does not become healthy (it is removed; the old one stays)."""

    def remove(self, environment: str, number: int, pause: Pause) -> None:
        """Drain a side and remove all of it. Raises ConflictError if it still has traffic."""

    def sides(self) -> Mapping[str, Collection[int]]:
        """Every environment of this store that something is left of here, with its sides: also those whose
        releases ended."""

    def dismantle(self, environment: str) -> None:
        """Remove the load balancer's part of an environment that has no side left."""

    def log(self, environment: str, name: str, lines: int | None = None) -> str:
        """A machine's log (its journal, else its console), the last ``lines`` of it; also of one that died.

        Raises BadReference for a machine that is not there.
        """

    def user_data(self, environment: str, name: str) -> str | None:
        """What the first boot of a machine was told, secrets included; None if nothing."""

    def observe(self, environment: str, name: str, *, full: bool = False) -> Observation:
        """What a running machine is made of now; changes nothing in it. See ``Observation``.

        Raises MachineError if it does not run or cannot be read.
        """
