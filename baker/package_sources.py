"""Where an image's packages come from, as the host's apt may look at it: apt's sources files. Pure.

What an image says is not trusted. Only what is fetched by http or https, and folder repositories that the
project shows to its machines, are looked at: apt would run a program of the host for other methods.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote

from baker.package_state import drop_long_lines

KEPT = ("architectures", "trusted", "allow-insecure", "allow-weak", "check-valid-until", "check-date")
"""What of a source's options is taken over, besides its keys."""
TRUSTED = "etc/apt/trusted.gpg"
SHORT = {"arch": "architectures"}
ARMOUR = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"
FINGERPRINT = re.compile(r"[0-9A-Fa-f]{16,40}!?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One source. ``keys`` are contents of keyrings, ``fingerprints`` choose among all trusted ones."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    keys: tuple[bytes, ...] = ()
    fingerprints: tuple[str, ...] = ()

    @property
    def folders(self) -> list[Path]:
        return [Path(unquote(uri.removeprefix("file:"))) for uri in self.uris if uri.startswith("file:")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """All sources of an image. ``trusted`` are the keyrings for those that name no keys."""

    entries: tuple[Entry, ...]
    trusted: tuple[bytes, ...]
    architectures: tuple[str, ...]

    @property
    def places(self) -> set[tuple[str, str, str]]:
        """Address, suite and component of each; no component where the suite is a path."""
        return {
            (uri.rstrip("/"), suite, component)
            for entry in self.entries
            for uri in entry.uris
            for suite in entry.suites
            for component in entry.components or ("",)
        }

    @property
    def digest(self) -> str:
        """Images with the same one share what is fetched."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:24]


def read_sources(
    files: Mapping[str, bytes], architectures: tuple[str, ...], shown: Mapping[str, Path]
) -> tuple[Sources, list[str]]:
    """The sources that may be looked at, and the addresses of those that may not.

    ``files`` are by path, without the leading slash; ``shown`` are the folders that machines see at a path.
    """
    entries: list[Entry] = []
    refused: list[str] = []
    for fields in _list_fields(files):
        uris: list[str] = []
        for uri in fields.get("uris", "").split():
            known = _translate(uri, files, shown)
            (uris if known else refused).append(known or _mask(uri))
        entry = _make_entry(fields, tuple(uris), files)
        if entry is None:
            refused += map(_mask, uris)
        elif uris:
            entries.append(entry)
    trusted = []
    if not all(entry.keys for entry in entries):
        trusted = [files[path] for path in sorted(files) if path.startswith(TRUSTED)]
    return Sources(entries=tuple(entries), trusted=tuple(trusted), architectures=architectures), refused


def name_keyrings(files: Mapping[str, bytes]) -> set[str]:
    """The paths of the keyrings that sources take their keys from."""
    trusted = {path for path in files if path.startswith(TRUSTED)}
    found: set[str] = set()
    for fields in _list_fields(files):
        words = re.split(r"[\s,]+", fields.get("signed-by", ""))
        found |= {word[1:] for word in words if word.startswith("/")} or trusted
    return found


def _make_entry(fields: Mapping[str, str], uris: tuple[str, ...], files: Mapping[str, bytes]) -> Entry | None:
    """None where none of its keyrings is there: without them all that are trusted would do."""
    entry = Entry(
        uris=uris,
        suites=tuple(fields.get("suites", "").split()),
        components=tuple(fields.get("components", "").split()),
        options=tuple((name, " ".join(fields[name].split())) for name in KEPT if name in fields),
    )
    signed_by = fields.get("signed-by", "")
    if ARMOUR.decode() in signed_by:
        lines = [line.strip() for line in signed_by.strip().splitlines()]
        key = "\n".join("" if line == "." else line for line in lines) + "\n"
        return replace(entry, keys=(key.encode("latin-1"),))
    words = re.split(r"[\s,]+", signed_by.strip())
    keys = [files[word.lstrip("/")] for word in words if word.startswith("/") and word.lstrip("/") in files]
    fingerprints = [word for word in words if FINGERPRINT.fullmatch(word)]
    if not keys and len(fingerprints) < len([word for word in words if word]):
        return None
    return replace(entry, keys=tuple(keys), fingerprints=tuple(fingerprints))


def _list_fields(files: Mapping[str, bytes]) -> Iterator[dict[str, str]]:
    """The fields of each source of binary packages that is switched on, as in the deb822 format."""
    for path in sorted(files):
        if path != "etc/apt/sources.list" and not path.startswith("etc/apt/sources.list.d/"):
            continue
        text = drop_long_lines(files[path].decode("latin-1"))
        if path.endswith(".sources"):
            for stanza in re.split(r"\n\s*\n", re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)):
                found = re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
                fields = {name.lower(): value.strip() for name, value in found}
                switched_off = fields.get("enabled", "yes").lower() in ("no", "false", "off", "0", "without")
                if "deb" in fields.get("types", "").split() and not switched_off:
                    yield fields
        else:
            for line in text.splitlines():
                if fields := _read_line(line):
                    yield fields


def _read_line(line: str) -> dict[str, str]:
    """One line of the older format; empty for what is none."""
    found = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)([^#]*)", line)
    if not found:
        return {}
    options = (option.partition("=") for option in (found[1] or "").split())
    fields = {SHORT.get(name.lower(), name.lower()): value.replace(",", " ") for name, _, value in options}
    return {**fields, "uris": found[2], "suites": found[3], "components": found[4]}


def _translate(uri: str, files: Mapping[str, bytes], shown: Mapping[str, Path]) -> str | None:
    """An address as it is for the host; None for one that is not looked at."""
    if re.fullmatch(r"https?://[^@\s\"]+", uri):
        return uri
    method, _, rest = uri.partition(":")
    path = re.sub(r"^/*", "/", rest)
    if method == "mirror+file":
        mirrors = drop_long_lines(files.get(path.lstrip("/"), b"").decode("latin-1"))
        found = re.search(r"^[ \t]*(https?://[^@\s\"]+)", mirrors, re.MULTILINE)
        return found[1] if found else None
    if method == "file" and path.rstrip("/") in shown:
        return f"file:{quote(str(shown[path.rstrip('/')]))}"
    return None


def _mask(uri: str) -> str:
    return re.sub(r"//.*@", "//***@", uri)
