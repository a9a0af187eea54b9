"""How a layer's file list is written down: in the catalog, and beside the layer it describes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from baker.model import FileEntry


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """The paths that one capture changed against the layers below: how manifests are stored.

    ``removed`` are paths that are gone with all that was below them, before ``files`` are applied.
    Both are sorted by path. ``digest`` names the layer; it says nothing of what lies below.
    """

    digest: str
    removed: tuple[str, ...]
    files: tuple[FileEntry, ...]


def encode_layer(layer: Layer) -> bytes:
    """Compressed JSON: ``{"digest", "removed": […], "files": [[path, kind, mode, uid, gid, size, digest,
    link, [[name, value]…]]…]}``."""
    files = [
        [file.path, file.kind, file.mode, file.uid, file.gid, file.size, file.digest, file.link, file.xattrs]
        for file in layer.files
    ]
    text = {"digest": layer.digest, "removed": layer.removed, "files": files}
    return zlib.compress(json.dumps(text, separators=(",", ":")).encode(), 6)


def decode_layer(blob: bytes) -> Layer:
    """The inverse; older ones named a ``parent`` too. Raises ValueError, KeyError or zlib.error."""
    text = json.loads(zlib.decompress(blob))
    files = tuple(map(make_file, text["files"]))
    return Layer(digest=text["digest"], removed=tuple(text["removed"]), files=files)


def make_file(row: Sequence[Any]) -> FileEntry:
    """One element of a layer's ``files``, as they are kept."""
    path, kind, mode, uid, gid, size, digest, link, xattrs = row
    return FileEntry(
        path=path,
        kind=kind,
        mode=mode,
        uid=uid,
        gid=gid,
        size=size,
        digest=digest,
        link=link,
        xattrs=tuple((name, value) for name, value in xattrs),
    )
