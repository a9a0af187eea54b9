"""The endpoint: every call is recorded, perhaps struck by a fault, and answered by the lab or by moto."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import BaseWSGIServer, make_server

from tests.lab.calls import Call
from tests.lab.faults import BEFORE, CUT, Fault, Faults, error_of
from tests.lab.wire import AwsError, Environment, Request, Response, forward, read_request, write_error

Answer = Callable[[Request, Callable[..., Response]], Response]
OBSERVER = "lab-observer"
"""Marks calls of a test itself, by user agent: neither recorded nor struck."""


class Handler(MotoRequestHandler):
    """Silent, and without Nagle's delay."""

    disable_nagle_algorithm = True

    def log(self, type: str, message: str, *args: Any) -> None:
        pass

    def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
        pass


class Endpoint:
    """``answers`` are the calls that the lab answers itself, by "service:action". ``before`` is called, in
    the lock, before every answer. One call is answered at a time, as moto needs it; faults wait outside.
    """

    def __init__(
        self,
        *,
        answers: Mapping[str, Answer],
        before: Callable[[Request], None],
        faults: Faults,
        latency: float,
        lock: threading.RLock,
    ) -> None:
        self._answers = answers
        self._before = before
        self._faults = faults
        self._latency = latency
        self._lock = lock
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._closing = threading.Event()
        self.calls: list[Call] = []
        self._server: BaseWSGIServer = make_server(
            "127.0.0.1", 0, self, threaded=True, request_handler=Handler
        )
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        self._server.block_on_close = False  # type: ignore[attr-defined]
        self._server.socket.listen(512)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True, name="lab"
        )
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __call__(self, environ: Environment, start_response: Callable[..., Any]) -> Iterable[bytes]:
        started = time.monotonic()
        request = read_request(environ)
        if request is None:
            return self._moto(environ, start_response)
        observed = OBSERVER not in request.user_agent
        fault = self._faults.strike_call(request) if observed else None
        if observed and self._latency:
            time.sleep(self._latency)
        response = self._respond(request, fault)
        if observed:
            self._record(request, fault, response, time.monotonic() - started)
        if fault is not None and fault.kind == "kill" and fault.callback is not None:
            fault.callback()
        if response is None or (fault is not None and fault.kind in CUT):
            return cut(environ, start_response)
        headers = [(name, value) for name, value in response.headers if name.lower() != "content-length"]
        start_response(f"{response.status} lab", [*headers, ("Content-Length", str(len(response.body)))])
        return [response.body]

    def _respond(self, request: Request, fault: Fault | None) -> Response | None:
        """None where the client gave up."""
        if fault is not None and fault.kind == "delay":
            self._closing.wait(fault.seconds)
        if fault is not None and fault.kind == "timeout":
            wait_until_gone(request.environ["werkzeug.socket"], self._closing)
            return None
        if fault is not None and fault.kind in BEFORE:
            return write_error(request, error_of(fault, request))
        with self._lock:
            try:
                self._before(request)
                answer = self._answers.get(f"{request.service}:{request.action}")
                if answer is None:
                    return forward(self._moto, request)
                return answer(request, lambda changed=None: forward(self._moto, request, changed))
            except AwsError as error:
                return write_error(request, error)

    def _record(
        self, request: Request, fault: Fault | None, response: Response | None, seconds: float
    ) -> None:
        with self._lock:
            self.calls.append(
                Call(
                    number=len(self.calls) + 1,
                    service=request.service,
                    action=request.action,
                    region=request.region,
                    account=request.account,
                    seconds=seconds,
                    fault=fault.kind if fault else "",
                    error=response.error if response else "",
                    user_agent=request.user_agent,
                    params=request.params,
                )
            )


def wait_until_gone(connection: socket.socket, closing: threading.Event) -> None:
    """Until the client closes its connection."""
    while not closing.is_set():
        readable, _, _ = select.select([connection], [], [], 0.05)
        if readable:
            try:
                if connection.recv(1, socket.MSG_PEEK) == b"":
                    return
            except OSError:
                return


def cut(environ: Environment, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """End the connection: what the server would still write goes nowhere."""
    connection: socket.socket = environ["werkzeug.socket"]
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    start_response("500 cut", [("Content-Length", "0")])
    return [b""]
