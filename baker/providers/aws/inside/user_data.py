"""User data of a build instance: what baker needs of cloud-init, beside what the user gives it."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from base64 import encodebytes
from email import message_from_bytes
from email.policy import compat32
from io import BytesIO

from baker.errors import SettingsError

MAX_BYTES = 16384
"""EC2's limit, before it is encoded for the call."""

DEADLINE_TIMER = "baker-deadline.timer"
"""The unit that ends the instance. Nothing else may stop it."""

MAX_DECOMPRESSED = 1 << 20

_TYPES = (
    ("#!", "text/x-shellscript"),
    ("#cloud-config-archive", "text/cloud-config-archive"),
    ("#cloud-config-jsonp", "text/cloud-config-jsonp"),
    ("#cloud-config", "text/cloud-config"),
    ("#cloud-boothook", "text/cloud-boothook"),
    ("#include-once", "text/x-include-once-url"),
    ("#include", "text/x-include-url"),
    ("#part-handler", "text/part-handler"),
    ("## template: jinja", "text/jinja2"),
)
"""cloud-init's own table (``cloudinit/handlers/__init__.py``), longer beginnings first."""

_MULTIPART = re.compile(rb"(mime-version|content-type|content-transfer-encoding):", re.IGNORECASE)
# Ours come last and say themselves how they are merged, so that the user's file cannot push them out:
# lists are put before the user's, host keys replace them all.
_ADDED = "list(prepend)+dict(no_replace,recurse_list)+str()"
_FORCED = "dict(replace)+list()+str()"


def make_user_data(
    host_private_key: str,
    host_public_key: str,
    authorized_key: str,
    deadline_seconds: int,
    extra: bytes | None = None,
    *,
    extra_name: str = "the user data",
) -> bytes:
    """What an instance gets: an ed25519 host key (OpenSSH's formats), a key that may log in, the deadline.

    The host key is the only one the instance has. After ``deadline_seconds`` of a boot the instance shuts
    itself down. ``extra`` is anything that cloud-init takes; its lists (``bootcmd``, ``ssh_authorized_keys``)
    are added to ours, its scripts run too. Compressed where it is too long otherwise.

    Raises SettingsError, naming ``extra_name``: nothing that cloud-init knows, or too long.
    """
    added = {
        "bootcmd": [arm_deadline(deadline_seconds)],
        "ssh_authorized_keys": [authorized_key.strip()],
    }
    ours = [
        _make_config_part(added, _ADDED),
        _make_config_part(_give_host_key(host_private_key, host_public_key), _FORCED),
    ]
    return _pack(ours, extra, extra_name)


def make_side_user_data(
    host_private_key: str, host_public_key: str, extra: bytes | None, *, extra_name: str
) -> bytes:
    """What a machine of a deployment gets: a host key, and ``extra`` (its first boot). It serves until it is
    replaced, and who may log in is said by its key pair. Raises as ``make_user_data`` does."""
    ours = [_make_config_part(_give_host_key(host_private_key, host_public_key), _FORCED)]
    return _pack(ours, extra, extra_name)


def _give_host_key(private: str, public: str) -> dict[str, object]:
    keys = {"ed25519_private": private.strip() + "\n", "ed25519_public": public.strip() + "\n"}
    return {"ssh_deletekeys": True, "ssh_keys": keys}


def _pack(ours: list[bytes], extra: bytes | None, extra_name: str) -> bytes:
    parts = [_make_extra_part(extra, extra_name)] if extra is not None and extra.strip() else []
    plain = _join_parts([*parts, *ours])
    packed = plain if len(plain) <= MAX_BYTES else gzip.compress(plain, 9, mtime=0)
    if len(packed) > MAX_BYTES:
        raise SettingsError(
            f"{extra_name} is too long for EC2: with what baker adds it comes to {len(packed)} bytes even "
            f"compressed (it has {len(extra or b'')}), and at most {MAX_BYTES} are allowed",
            hint="Let it fetch its larger part (#include URL), or do that in the recipe.",
        )
    return packed


def arm_deadline(seconds: int) -> list[str]:
    """A command that makes the instance end after so many seconds, at every boot anew.

    Nothing of it is on disk: the unit lives below /run. It must not wait for the boot that it is part of.
    """
    unit = DEADLINE_TIMER.removesuffix(".timer")
    minutes = max(1, -(-seconds // 60))
    plain = f"systemd-run --no-block --unit={unit} --on-active={seconds}s"
    early = "--timer-property=DefaultDependencies=no --property=DefaultDependencies=no"
    end = "systemctl --no-block poweroff"
    return ["sh", "-c", f"{plain} {early} {end} || {plain} {end} || shutdown -P +{minutes}"]


def _make_config_part(config: dict[str, object], merging: str) -> bytes:
    # JSON is YAML too.
    text = f"#cloud-config\n{json.dumps(config)}\n".encode()
    return _make_part("text/cloud-config", text, merging)


def _make_extra_part(extra: bytes, name: str) -> bytes:
    """The user's file as one part, whatever it is."""
    if extra.startswith(b"\x1f\x8b"):
        extra = _decompress(extra, name)
    if _MULTIPART.match(extra):
        message = message_from_bytes(extra, policy=compat32)
        if message.is_multipart() and not message.defects:
            return extra.replace(b"\r\n", b"\n")
        raise SettingsError(f"{name} begins like a MIME message and is no whole multipart one")
    first = extra.lstrip().split(b"\n", 1)[0].decode(errors="replace").strip()
    for beginning, kind in _TYPES:
        if first.lower().startswith(beginning):
            return _make_part(kind, extra)
    known = ", ".join(beginning for beginning, _ in _TYPES)
    raise SettingsError(
        f"{name} begins with {first[:60]!r}, which cloud-init does not know",
        hint=f"It begins with one of: {known}; or it is a multipart message.",
    )


def _decompress(extra: bytes, name: str) -> bytes:
    try:
        with gzip.open(BytesIO(extra)) as file:
            found = file.read(MAX_DECOMPRESSED + 1)
    except (OSError, EOFError) as error:
        raise SettingsError(f"{name} is compressed and damaged: {error}") from None
    if len(found) > MAX_DECOMPRESSED:
        raise SettingsError(f"{name} is longer than {MAX_DECOMPRESSED} bytes once decompressed")
    return found


def _make_part(kind: str, content: bytes, merging: str | None = None) -> bytes:
    # A script in latin-1 or with long lines arrives byte by byte.
    plain = content.isascii() and b"\0" not in content and b"\r" not in content
    headers = [
        f'Content-Type: {kind}; charset="utf-8"',
        "MIME-Version: 1.0",
        f"Content-Transfer-Encoding: {'7bit' if plain else 'base64'}",
    ]
    if merging is not None:
        headers.append(f"Merge-Type: {merging}")
    return "\n".join([*headers, "", ""]).encode() + (content if plain else encodebytes(content))


def _join_parts(parts: list[bytes]) -> bytes:
    boundary = b"baker-" + hashlib.sha256(b"\0".join(parts)).hexdigest()[:24].encode()
    start = b'Content-Type: multipart/mixed; boundary="' + boundary + b'"\nMIME-Version: 1.0\n\n'
    body = b"".join(b"--" + boundary + b"\n" + part + b"\n" for part in parts)
    return start + body + b"--" + boundary + b"--\n"
