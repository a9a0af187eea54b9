"""haproxy.cfg, rendered: what a fresh start needs, and what of it cannot change while HAProxy runs."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from baker.deploy.environment import Health
from baker.errors import HostError
from baker.providers.local.balancer.balancing import (
    DICE,
    Balancing,
    Server,
    from_json,
    pick_ranges,
    to_json,
    weigh_servers,
)

BACKEND = "machines"
MARK = "# baker: "
RUN = Path("/run/baker")
MAX_SOCKET_PATH = 90
"""The kernel takes 107 bytes, and HAProxy binds under a longer name first."""

RISE, FALL = 2, 3
RETRIES = 3
COOLING_SECONDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Where a balancer keeps what it is made of. The maps are made from the configuration at each start."""

    folder: Path

    @property
    def configuration(self) -> Path:
        return self.folder / "haproxy.cfg"

    @property
    def running(self) -> Path:
        """The part of the configuration that the running process was started with."""
        return self.folder / "running.cfg"

    @property
    def socket(self) -> Path:
        """In the folder, unless its path is longer than a socket's may be."""
        path = self.folder / "socket"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
        return RUN / f"{hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]}.sock"

    @property
    def pid(self) -> Path:
        return self.folder / "pid"

    @property
    def traffic_map(self) -> Path:
        return self.folder / "traffic.map"

    @property
    def health_map(self) -> Path:
        return self.folder / "health.map"


def render(balancing: Balancing, files: Files, user: str) -> str:
    """The whole file. Its first lines hold the value that it was rendered from (``read_back``)."""
    weights = weigh_servers(balancing)
    entries = [
        f"    server {server.name} {' '.join(server_words(server, weights[server.name], balancing))}"
        for server in balancing.servers
    ]
    head = [
        "# Made by baker; changed by it with each deployment, and nothing else is kept.",
        MARK + to_json(balancing),
    ]
    return "\n".join([*head, render_frame(balancing, files, user), *entries, ""])


def read_back(text: str) -> Balancing:
    """What a file was rendered from. Raises HostError."""
    for line in text.splitlines():
        if line.startswith(MARK):
            return from_json(line.removeprefix(MARK))
    raise HostError("haproxy.cfg is not baker's")


def render_frame(balancing: Balancing, files: Files, user: str) -> str:
    """All but the machines: what HAProxy has to be started anew for, if it changes."""
    return f"""\
global
    user {user}
    stats socket {files.socket} mode 600 level admin expose-fd listeners
    stats timeout 1h
    # With it another HAProxy could listen on the same port and take a part of the requests.
    noreuseport
    hard-stop-after 15m

defaults
    mode http
    timeout connect 2s
    timeout queue 5s
    timeout http-request 15s
    timeout http-keep-alive 60s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h

frontend {balancing.environment}
    bind {balancing.listen}
    # A client may send its next request just when we would close: it is told with an answer instead.
    option idle-close-on-response
    option forwardfor
    default_backend {BACKEND}

backend {BACKEND}
    balance roundrobin
    http-reuse safe
    option redispatch 1
    retries {RETRIES}
    retry-on conn-failure empty-response junk-response 500 502 503 504
{render_checks(balancing, files)}

    http-request set-var(txn.safe) bool(true) if {{ method GET HEAD OPTIONS }}
    # The watched side's share goes there past the balancing, so that what is asked again goes elsewhere.
    # What it did not answer well keeps it out for a moment.
    http-request set-var(txn.watched) rand({DICE}),map_int({files.traffic_map}) \
if !{{ date,sub(proc.failed) lt {COOLING_SECONDS} }}
    http-request set-var(txn.last) rand({DICE}),add({DICE}),map_int({files.traffic_map}) \
if {{ nbsrv({BACKEND}) lt 1 }}
    use-server %[var(txn.watched)] if {{ var(txn.watched) -m found }}
    use-server %[var(txn.last)] if {{ var(txn.last) -m found }}
    # Only what may be done twice is asked again; not if all answer it wrongly, since load would multiply.
    http-request disable-l7-retry if !{{ var(txn.safe) -m found }}
    http-request disable-l7-retry if {{ date,sub(proc.broken) lt {COOLING_SECONDS} }} \
!{{ var(txn.watched) -m found }}
    http-after-response set-var(proc.failed) date if {{ var(txn.watched) -m found }} \
!{{ srv_name,strcmp(txn.watched) eq 0 }}
    http-after-response set-var(proc.failed) date if {{ var(txn.watched) -m found }} {{ status ge 500 }}
    http-after-response set-var(proc.broken) date if {{ var(txn.safe) -m found }} \
!{{ var(txn.watched) -m found }} {{ status ge 500 }}
"""


def render_checks(balancing: Balancing, files: Files) -> str:
    """How health is looked at. The path is each machine's own; a status of any side is good for all."""
    healths = [server.health for server in balancing.servers]
    timeout = milliseconds(max((health.timeout for health in healths), default=2.0))
    lines = [f"    timeout check {timeout}"]
    if statuses := sorted({health.status for health in healths if health.path is not None}):
        lines += [
            "    option httpchk",
            f'    http-check send meth GET uri-lf "%[srv_name,map_str({files.health_map},/)]" ver HTTP/1.1 '
            "hdr Host localhost hdr User-Agent baker hdr Connection close",
            f"    http-check expect status {','.join(map(str, statuses))}",
        ]
    return "\n".join(lines)


def server_words(server: Server, weight: int, balancing: Balancing) -> list[str]:
    """What says how to reach and check a machine, in the file as well as at runtime."""
    words = [f"127.0.0.1:{server.port}", f"weight {weight}", "pool-purge-delay 1s"]
    paths = any(other.health.path is not None for other in balancing.servers)
    if server.health.path is not None or not paths:
        words.append(check_words(server.health))
    return words


def check_words(health: Health) -> str:
    fast = max(0.1, min(health.interval / 4, 1.0))
    intervals = f"inter {milliseconds(health.interval)} fastinter {milliseconds(fast)}"
    return f"check {intervals} rise {RISE} fall {FALL}"


def milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def render_traffic_map(balancing: Balancing) -> str:
    return "".join(f"{numbers} {name}\n" for numbers, name in pick_ranges(balancing))


def render_health_map(balancing: Balancing) -> str:
    paths = [(server.name, server.health.path) for server in balancing.servers]
    return "".join(f"{name} {path}\n" for name, path in paths if path is not None)


def haproxy_argv(files: Files, *, check: bool = False, replaces: int | None = None) -> list[str]:
    """Check the configuration, or start in the background; one that ``replaces`` a running process takes
    its listening sockets over and lets it finish what it is at."""
    argv = ["haproxy", "-f", str(files.configuration)]
    if check:
        return [*argv, "-c", "-q"]
    argv += ["-D", "-p", str(files.pid)]
    return argv if replaces is None else [*argv, "-x", str(files.socket), "-sf", str(replaces)]
