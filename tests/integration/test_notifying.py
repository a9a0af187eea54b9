"""Notifications and the dead man's switch, against a real server; no address is ever shown."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from baker.errors import HostError, SettingsError
from baker.notifying import FAIL, START, SUCCESS, Herald, find_herald

# Apprise looks at all of its plugins, with what some of them import.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@dataclass(kw_only=True)
class Listener:
    """Takes notifications (POST) and pings (GET), and answers with ``status``."""

    port: int = 0
    status: int = 200
    pinged: list[str] = field(default_factory=list)
    notified: list[dict[str, Any]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"json://ann:s3cret@127.0.0.1:{self.port}/hook"

    @property
    def ping(self) -> str:
        return f"http://127.0.0.1:{self.port}/ping/s3cret"


@contextmanager
def listening() -> Iterator[Listener]:
    listener = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listener.pinged.append(self.path)
            self.answer()

        def do_POST(self) -> None:
            listener.notified.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer()

        def answer(self) -> None:
            self.send_response(listener.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        listener.port = server.server_address[1]
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield listener
        finally:
            server.shutdown()
            serving.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as listener:
        yield listener


def find_closed_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def test_notification_reaches_every_address(listener: Listener) -> None:
    herald = Herald(addresses=[listener.address, listener.address])
    assert herald.notify("images: nightly failed: web", "web <b>\n  broke & 50%", bad=True) == []
    assert [(told["title"], told["message"], told["type"]) for told in listener.notified] == [
        ("images: nightly failed: web", "web <b>\n  broke & 50%", "failure")
    ] * 2
    herald.notify("fine", "all of it", bad=False)
    assert listener.notified[-1]["type"] == "info"


def test_notification_that_is_not_delivered_is_named_without_its_address(
    listener: Listener, capfd: pytest.CaptureFixture[str]
) -> None:
    listener.status = 500
    nowhere = f"json://ann:s3cret@127.0.0.1:{find_closed_port()}"
    warnings = Herald(addresses=[listener.address, nowhere, "strange://s3cret", "s3cret"]).notify(
        "title", "body", bad=False
    )
    assert warnings == [
        "the notification to address 1 (json) was not delivered",
        "the notification to address 2 (json) was not delivered",
        "the notification to address 3 (strange) was not delivered",
        "the notification to address 4 (no scheme) was not delivered",
    ]
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def test_dead_man_s_switch_is_told_the_beginning_the_end_and_a_failure(listener: Listener) -> None:
    herald = Herald(ping_url=listener.ping)
    assert [herald.ping(state) for state in (START, SUCCESS, FAIL)] == [[], [], []]
    assert listener.pinged == ["/ping/s3cret/start", "/ping/s3cret", "/ping/s3cret/fail"]
    with_query = Herald(ping_url=f"{listener.ping}/?rid=1")
    with_query.ping(FAIL)
    assert listener.pinged[-1] == "/ping/s3cret/fail?rid=1"
    assert Herald().ping(START) == []


def test_dead_man_s_switch_that_does_not_answer_is_a_warning_without_its_address(listener: Listener) -> None:
    listener.status = 503
    said = Herald(ping_url=listener.ping).ping(FAIL)
    assert said == ["the dead man's switch was not reached (/fail): it answered 503"]
    for url in (f"http://127.0.0.1:{find_closed_port()}/s3cret", "http://[s3cret", "http://host:s3cret/"):
        (said_of,) = Herald(ping_url=url).ping(SUCCESS)
        assert said_of.startswith("the dead man's switch was not reached (end): ")
        assert "s3cret" not in said_of


def test_addresses_may_be_in_variables() -> None:
    table = {"notify": ["env:HOOK", "json://other"], "ping": "env:PING"}
    environ = {"HOOK": "json://hook", "PING": "https://ping"}
    herald = find_herald(table, environ)
    assert (herald.addresses, herald.ping_url) == (["json://hook", "json://other"], "https://ping")
    over = {**environ, "BAKER_NIGHTLY_NOTIFY": " json://a  env:HOOK ", "BAKER_NIGHTLY_PING": "https://b"}
    herald = find_herald(table, over)
    assert (herald.addresses, herald.ping_url) == (["json://a", "json://hook"], "https://b")
    assert find_herald({}, {}) == Herald(addresses=[], ping_url=None)
    with pytest.raises(SettingsError, match="from the variable HOOK, which is not set"):
        find_herald(table, {})


def test_lack_of_apprise_is_explained_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(HostError, match="need apprise, which is not installed") as caught:
        find_herald({"notify": ["json://hook"]}, {})
    assert "baker[notify]" in str(caught.value.hint)
    assert find_herald({"ping": "https://ping"}, {}).ping_url == "https://ping"
