"""How machines reach an HTTP proxy that is configured for the host."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from urllib.parse import urlsplit

from baker.errors import SettingsError

ANYWHERE = ("203.0.113.1", 9)
"""An address for documentation (RFC 5737): looked up in the routing table, never sent to."""


def loopback_port(proxy: str) -> int | None:
    """The port of a proxy on this host's loopback, which machines reach at their own; else None.

    Raises SettingsError for a proxy at the one address that a machine cannot reach: that by which this host
    itself goes out, since the machine has the same.
    """
    host, port = split_address(proxy)
    if host == "localhost" or _is_loopback(host):
        return port
    if host == _own_address():
        raise SettingsError(
            f"http_proxy {host}:{port} is this host's own address, which machines cannot reach",
            hint=f"Let the proxy listen on loopback too, and set http_proxy to http://127.0.0.1:{port}.",
        )
    return None


def split_address(proxy: str) -> tuple[str, int]:
    """Host and port. Raises SettingsError."""
    try:
        parts = urlsplit(proxy)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise SettingsError(f"http_proxy {mask_credentials(proxy)} is no address: {error}") from error
    return host, port or (443 if parts.scheme == "https" else 80)


def mask_credentials(proxy: str) -> str:
    """The address as it may be shown."""
    return re.sub(r"//.*@", "//***@", proxy)


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _own_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ANYWHERE)
        except OSError:  # no network
            return None
        return str(probe.getsockname()[0])
