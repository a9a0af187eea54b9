"""Who gets which traffic, as a value, and what follows from it for each machine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from baker.deploy.environment import Health
from baker.errors import HostError, UsageError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LISTEN = re.compile(r"(?P<address>[A-Za-z0-9.\-]*|\*|\[[0-9A-Fa-f:.]*\]):(?P<port>[0-9]{1,5})")
PATH = re.compile(r"/[!-~]*")
UNSAFE = re.compile(r"""[\s#"'\\%]""")
MAX_WEIGHT = 256
DICE = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """One machine: ``name`` (``3-1``), the number of its ``side``, the ``port`` of this host's loopback that
    leads to its service, and what it must answer. Of one whose health is a command only the connection is
    checked here, and nothing at all while another side's is a path: who runs the command says ``sick``."""

    name: str
    side: int
    port: int
    health: Health


@dataclass(frozen=True, kw_only=True, slots=True)
class Balancing:
    """All that a balancer is to do. ``listen`` is ``127.0.0.1:8080``.

    ``weights`` are shares by side number; sides that are not named get none. While a side is ``watched``,
    whatever it answers wrongly to a GET, HEAD or OPTIONS is asked of the other sides (those with a weight,
    else the ``standby``) before the client sees it, and for a moment nothing more is asked of it.
    ``standby`` serves when nobody else can. Machines in ``sick`` get nothing.
    """

    environment: str
    listen: str
    servers: tuple[Server, ...] = ()
    weights: Mapping[int, int] = field(default_factory=dict)
    standby: int | None = None
    watched: int | None = None
    sick: frozenset[str] = frozenset()


def validate(balancing: Balancing) -> None:
    """Raises UsageError for what cannot, or must not, be written into a configuration file."""
    if not NAME.fullmatch(balancing.environment):
        raise UsageError(f"{balancing.environment!r} cannot be the name of an environment")
    parse_listen(balancing.listen)
    names = [server.name for server in balancing.servers]
    for server in balancing.servers:
        if not NAME.fullmatch(server.name) or names.count(server.name) > 1:
            raise UsageError(
                f"{server.name!r} cannot be the name of a machine behind HAProxy, or is one twice"
            )
        if not 0 < server.port < 65536:
            raise UsageError(f"port {server.port} of machine {server.name} is not a port")
        path = server.health.path
        if path is not None and (not PATH.fullmatch(path) or UNSAFE.search(path)):
            raise UsageError(
                f"the health path {path!r} cannot be asked for",
                hint="It begins with / and has neither spaces, quotes, backslashes, # nor %.",
            )
    if any(weight < 0 for weight in balancing.weights.values()):
        raise UsageError("a weight is less than nothing")


def parse_listen(listen: str) -> tuple[str, int]:
    """Address and port. Raises UsageError."""
    match = LISTEN.fullmatch(listen)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise UsageError(f"{listen!r} is not an address and port", hint='Write it as "127.0.0.1:8080".')
    return match["address"].strip("[]"), int(match["port"])


def shared_sides(balancing: Balancing) -> frozenset[int]:
    """The sides among which requests are balanced and asked again: not the watched one, if others can."""
    serving = {side for side, weight in balancing.weights.items() if weight > 0}
    if balancing.watched not in serving:
        return frozenset(serving)
    standing = set() if balancing.standby is None else {balancing.standby}
    fit = {server.side for server in fit_servers(balancing)}
    others = (serving - {balancing.watched}) or standing
    return frozenset(others & fit) or frozenset(serving)


def fit_servers(balancing: Balancing) -> list[Server]:
    return [server for server in balancing.servers if server.name not in balancing.sick]


def weigh_servers(balancing: Balancing) -> dict[str, int]:
    """Each machine's weight, 0 to 256, so that its side gets its share however many machines it has."""
    sides = shared_sides(balancing)
    fit = fit_servers(balancing)
    size = {side: sum(server.side == side for server in fit) for side in sides}
    shares = {
        server.name: (balancing.weights.get(server.side, 0) or 100) / size[server.side]
        for server in fit
        if server.side in sides
    }
    most = max(shares.values(), default=1.0)
    weights = {name: max(1, round(share / most * MAX_WEIGHT)) for name, share in shares.items()}
    return {server.name: weights.get(server.name, 0) for server in balancing.servers}


def pick_ranges(balancing: Balancing) -> list[tuple[str, str]]:
    """What is not left to balancing: ranges of a throw of dice, and the machine that gets those requests.

    0 to 9999 are the watched side's share; 10000 to 19999 who is asked when no balanced machine is in order.
    """
    sides = shared_sides(balancing)
    fit = fit_servers(balancing)
    ranges: list[tuple[str, str]] = []
    watched = [server.name for server in fit if server.side == balancing.watched]
    if balancing.watched is not None and balancing.watched not in sides:
        total = sum(balancing.weights.values())
        share = round(DICE * balancing.weights.get(balancing.watched, 0) / total) if total else 0
        ranges += _divide(0, share, watched)
        last = watched if share else []
    else:
        last = []
    if balancing.standby is not None and balancing.standby not in sides:
        last = [server.name for server in fit if server.side == balancing.standby] or last
    return ranges + _divide(DICE, DICE, last)


def _divide(start: int, length: int, names: Sequence[str]) -> list[tuple[str, str]]:
    bounds = [start + length * index // len(names) for index in range(len(names) + 1)] if names else []
    return [
        (f"{low}:{high - 1}", name)
        for low, high, name in zip(bounds[:-1], bounds[1:], names, strict=True)
        if high > low
    ]


def to_json(balancing: Balancing) -> str:
    """In one line."""
    return json.dumps({**asdict(balancing), "sick": sorted(balancing.sick)}, sort_keys=True)


def from_json(text: str) -> Balancing:
    """The reverse. Raises HostError if it is something else."""
    try:
        found = json.loads(text)
        return Balancing(
            environment=found["environment"],
            listen=found["listen"],
            servers=tuple(
                Server(**{**server, "health": Health.from_json(server["health"])})
                for server in found["servers"]
            ),
            weights={int(side): weight for side, weight in found["weights"].items()},
            standby=found["standby"],
            watched=found["watched"],
            sick=frozenset(found["sick"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise HostError(f"what HAProxy is to do cannot be read: {error}") from None
