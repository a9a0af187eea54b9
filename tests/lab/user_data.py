"""What user data tells cloud-init, as far as an SSH server needs it."""

from __future__ import annotations

import email
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from typing import Any

import yaml


@dataclass(frozen=True, kw_only=True, slots=True)
class SshSettings:
    """``host_key`` is a private ed25519 key, None where cloud-init makes one of its own."""

    host_key: str | None
    authorized_keys: tuple[str, ...]


def read_ssh_settings(user_data: bytes) -> SshSettings:
    """From all the cloud-configs in it, a MIME multipart or one alone."""
    host_key = None
    authorized: list[str] = []
    for config in list_cloud_configs(user_data):
        host_key = config.get("ssh_keys", {}).get("ed25519_private") or host_key
        authorized += config.get("ssh_authorized_keys", [])
        for user in config.get("users", []):
            if isinstance(user, dict):
                authorized += user.get("ssh_authorized_keys", [])
    return SshSettings(host_key=host_key, authorized_keys=tuple(authorized))


def list_cloud_configs(user_data: bytes) -> Iterator[dict[str, Any]]:
    if user_data.startswith(b"\x1f\x8b"):
        user_data = gzip.decompress(user_data)
    if user_data.lstrip().startswith(b"#cloud-config"):
        yield yaml.safe_load(user_data) or {}
        return
    message: Message = email.message_from_bytes(user_data)
    for part in message.walk():
        payload = part.get_payload(decode=True)
        if not isinstance(payload, bytes):
            continue
        if payload.startswith(b"\x1f\x8b"):
            payload = gzip.decompress(payload)
        if part.get_content_type() == "text/cloud-config" or payload.startswith(b"#cloud-config"):
            yield yaml.safe_load(payload) or {}
