"""Telling people, and a dead man's switch, how a night went. What is not delivered is a warning, no failure.

Addresses can hold passwords and tokens: no message shows more of one than its scheme.
"""

from __future__ import annotations

import importlib.util
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from baker.errors import HostError, SettingsError

ENVIRONMENT = "env:"
"""How an address begins that is in an environment variable, so that it need not be in baker.toml."""

NOTIFY, PING = "BAKER_NIGHTLY_NOTIFY", "BAKER_NIGHTLY_PING"
"""Variables that go over baker.toml; the first one holds addresses with blanks between them."""

PING_SECONDS = 10.0
START, SUCCESS, FAIL = "/start", "", "/fail"
"""What is fetched below a dead man's switch, by the convention of healthchecks.io."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Herald:
    """Who hears of a night: addresses as apprise takes them, and the address of a dead man's switch."""

    addresses: Sequence[str] = ()
    ping_url: str | None = None

    def notify(self, title: str, body: str, *, bad: bool) -> list[str]:
        """Send it to every address; returns which ones did not take it."""
        if not self.addresses:
            return []
        import apprise

        kind = apprise.NotifyType.FAILURE if bad else apprise.NotifyType.INFO
        return [
            f"the notification to address {number} ({show_scheme(address)}) was not delivered"
            for number, address in enumerate(self.addresses, 1)
            if not send(apprise.Apprise(), address, title=title, body=body, notify_type=kind)
        ]

    def ping(self, state: str) -> list[str]:
        """Fetch the dead man's switch; returns why it could not be."""
        if self.ping_url is None:
            return []
        try:
            parts = urlsplit(self.ping_url)
            url = parts._replace(path=parts.path.rstrip("/") + state).geturl()
            with urllib.request.urlopen(url, timeout=PING_SECONDS):
                return []
        except urllib.error.HTTPError as error:
            why = f"it answered {error.code}"
            error.close()
        except OSError as error:
            why = str(getattr(error, "reason", error))
        except (ValueError, HTTPException):
            why = "the address or the answer makes no sense"  # more would show a part of it
        return [f"the dead man's switch was not reached ({state or 'end'}): {why}"]


def send(sender: Any, address: str, **message: Any) -> bool:
    """False as well for an address that apprise does not know."""
    return bool(sender.add(address) and sender.notify(body_format="text", **message))


def find_herald(nightly: Mapping[str, Any], environ: Mapping[str, str]) -> Herald:
    """By ``[nightly]`` and the variables over it.

    Raises SettingsError for a variable that is named and not set, HostError where apprise is not installed.
    """
    told = environ.get(NOTIFY, "").split() or nightly.get("notify", [])
    addresses = [read_address(address, environ) for address in told]
    ping = environ.get(PING) or nightly.get("ping")
    if addresses and importlib.util.find_spec("apprise") is None:
        raise HostError(
            "notifications need apprise, which is not installed",
            hint="Install it beside baker: pip install 'baker[notify]'",
        )
    return Herald(addresses=addresses, ping_url=read_address(ping, environ) if ping else None)


def read_address(address: str, environ: Mapping[str, str]) -> str:
    if not address.startswith(ENVIRONMENT):
        return address
    name = address.removeprefix(ENVIRONMENT)
    if not environ.get(name):
        raise SettingsError(
            f"[nightly] takes an address from the variable {name}, which is not set",
            hint=f"Set {name}, or take {address} out of baker.toml.",
        )
    return environ[name]


def show_scheme(address: str) -> str:
    scheme, there, _ = address.partition("://")
    return scheme if there else "no scheme"
