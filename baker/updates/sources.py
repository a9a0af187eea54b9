"""Writes package sources for the host's apt."""

from __future__ import annotations

import hashlib
from pathlib import Path

from baker.package_sources import ARMOUR, Entry, Sources


def write_sources(sources: Sources, folder: Path) -> None:
    """Write what apt reads: ``sources.list.d``, ``folders.sources`` (those of this host alone), the keys."""
    for name in ("sources.list.d", "trusted.gpg.d", "keys", "preferences.d", "apt.conf.d"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, key in enumerate(sources.trusted):
        _write_key(folder / "trusted.gpg.d" / f"{number:03}", key)
    stanzas = [_describe(entry, folder) for entry in sources.entries]
    local = [text for text, entry in zip(stanzas, sources.entries, strict=True) if entry.folders]
    (folder / "folders.sources").write_text("\n".join(local))
    (folder / "sources.list.d" / "all.sources").write_text("\n".join(stanzas))


def _describe(entry: Entry, folder: Path) -> str:
    signed_by = list(entry.fingerprints)
    for key in entry.keys:
        signed_by.append(str(_write_key(folder / "keys" / hashlib.sha256(key).hexdigest()[:16], key)))
    fields = {
        "Types": "deb",
        "URIs": " ".join(entry.uris),
        "Suites": " ".join(entry.suites),
        "Components": " ".join(entry.components),
        **{name.title(): value for name, value in entry.options},
        "Signed-By": " ".join(signed_by),
    }
    return "".join(f"{name}: {value}\n" for name, value in fields.items() if value)


def _write_key(stem: Path, key: bytes) -> Path:
    """apt tells armoured from binary keys by the ending."""
    path = stem.with_name(f"{stem.name}.{'asc' if key.lstrip().startswith(ARMOUR) else 'gpg'}")
    path.write_bytes(key)
    return path
