"""A load balancer's data path: a proxy on this host that obeys moto's rules, weights and health."""

from __future__ import annotations

import contextlib
import fnmatch
import http.client
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from moto.ec2.models import ec2_backends
from moto.elbv2.models import FakeTargetGroup, elbv2_backends

from tests.lab.balancing import Balancing
from tests.lab.lookup import find_instance

TIMEOUT = 30.0


class Balancer:
    """One listener. Targets are taken in turn; where none is well all are, as ELB does."""

    def __init__(self, listener: str, balancing: Balancing, lock: threading.RLock) -> None:
        account, region = listener.split(":")[4], listener.split(":")[3]
        self._backend: Any = elbv2_backends[account][region]
        self._ec2 = ec2_backends[account][region]
        self._listener = listener
        self._balancing = balancing
        self._lock = lock
        self._turn = 0

    def choose(self, host: str, path: str) -> tuple[str, str, int] | int:
        """Instance, address and port of who answers; a status where nobody does."""
        with self._lock:
            listener = self._backend.describe_listeners(None, [self._listener])[0]
            rules = sorted(
                listener.rules.values(),
                key=lambda rule: int(rule.priority) if str(rule.priority).isdecimal() else 1 << 20,
            )
            rule = next(rule for rule in rules if matches(rule.conditions, host, path))
            action = rule.actions[0].data
            if action["Type"] == "fixed-response":
                return int(action["FixedResponseConfig"]["StatusCode"])
            shares = {
                one["TargetGroupArn"]: int(one.get("Weight", 1))
                for one in action["ForwardConfig"]["TargetGroups"]
            }
            if not any(shares.values()):
                return 503
            [arn] = random.choices(list(shares), weights=list(shares.values()))
            return self._choose_target(self._backend.target_groups[arn])

    def _choose_target(self, group: FakeTargetGroup) -> tuple[str, str, int] | int:
        well = [
            name for name in group.targets if self._balancing.state_of(group, name)[0] == "healthy"
        ] or list(group.targets)
        if not well:
            return 503
        self._turn += 1
        name = well[self._turn % len(well)]
        instance = find_instance(self._ec2, name)
        assert instance is not None
        self._balancing.busy[name] += 1
        return name, instance.lab_address, int(group.targets[name]["Port"])

    def done(self, instance: str) -> None:
        with self._lock:
            self._balancing.busy[instance] -= 1


def matches(conditions: Any, host: str, path: str) -> bool:
    for condition in conditions:
        config = condition.get("PathPatternConfig") or condition.get("HostHeaderConfig") or condition
        seen = path if condition["Field"] == "path-pattern" else host
        if not any(fnmatch.fnmatchcase(seen, value) for value in config["Values"]):
            return False
    return True


@contextmanager
def serving(balancer: Balancer) -> Iterator[str]:
    """Within, the URL at which the listener is reached."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            host = self.headers.get("Host", "").partition(":")[0]
            chosen = balancer.choose(host, self.path.partition("?")[0])
            if isinstance(chosen, int):
                self.answer(chosen, {}, b"")
                return
            instance, address, port = chosen
            try:
                connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT)
                with contextlib.closing(connection):
                    connection.request("GET", self.path, headers={"Host": self.headers.get("Host", "")})
                    response = connection.getresponse()
                    self.answer(response.status, dict(response.getheaders()), response.read())
            except TimeoutError:
                self.answer(504, {}, b"")
            except (OSError, http.client.HTTPException):
                self.answer(502, {}, b"")
            finally:
                balancer.done(instance)

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() == "content-type":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="lab-balancer", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
