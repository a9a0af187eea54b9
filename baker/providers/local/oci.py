"""An OCI image layout: a folder with index.json and content-addressed blobs, as buildah, skopeo, crane and
``docker buildx --output type=oci`` write it. https://github.com/opencontainers/image-spec (image-layout.md)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baker.errors import SourceError
from baker.providers.local.host import DPKG_ARCH

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
DIGEST = re.compile(r"^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")
TAG = "org.opencontainers.image.ref.name"
MOST_INDEXES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class OciLayer:
    """A layer's blob, its digest, and the digest of what it decompresses to."""

    path: Path
    digest: str
    diff_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class OciImage:
    """One image for one architecture; ``digest`` is its manifest's. Layers lowest first."""

    digest: str
    layers: tuple[OciLayer, ...]


def read_image(folder: Path, tag: str | None, arch: str) -> OciImage:
    """Find the image for our architecture. Raises SourceError.

    Index, manifest and configuration are verified; of layers only that they are there and their size (see
    ``verify_blob``).
    """
    index = _read_index(folder)
    tagged = [entry for entry in index if tag is None or _has_tag(entry, tag)]
    if not tagged:
        known = sorted({str(entry.get("annotations", {}).get(TAG)) for entry in index} - {"None"})
        raise SourceError(f"{folder} holds no image tagged {tag} ({', '.join(known) or 'none is tagged'})")
    images = {str(entry["digest"]): entry for top in tagged for entry in _find_manifests(folder, top)}
    wanted = DPKG_ARCH[arch]
    platforms = {digest: _platform_of(folder, entry) for digest, entry in images.items()}
    fitting = [digest for digest, platform in platforms.items() if platform == ("linux", wanted)]
    if not fitting:
        there = ", ".join(sorted({"/".join(platform) for platform in platforms.values()}))
        raise SourceError(f"{folder} holds no image for linux/{wanted} ({there or 'it is empty'})")
    if len(fitting) > 1:
        tags = sorted({str(entry.get("annotations", {}).get(TAG, "untagged")) for entry in tagged})
        raise SourceError(
            f"{folder} holds {len(fitting)} images for linux/{wanted} ({', '.join(tags)})",
            hint=f'Name one by its tag: from = "oci:FOLDER:{tags[0]}"',
        )
    return _read_layers(folder, images[fitting[0]])


def verify_blob(path: Path, digest: str) -> None:
    """Raises SourceError unless the file's content has the digest."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, digest.partition(":")[0]).hexdigest()
    if found != digest.partition(":")[2]:
        raise SourceError(
            f"{path} is damaged: its content does not have its digest", hint="Copy the image again."
        )


def _read_index(folder: Path) -> list[Mapping[str, Any]]:
    if not folder.is_dir():
        raise SourceError(
            f"{folder} is no folder", hint="An OCI image layout is a folder with index.json and blobs/."
        )
    path = folder / "index.json"
    if not path.is_file():
        raise SourceError(f"{folder} is no OCI image layout: it has no index.json")
    return _list_manifests(_parse(path, path.read_bytes()), path)


def _has_tag(entry: Mapping[str, Any], tag: str) -> bool:
    """Tools write the tag alone, or a whole name that ends in it."""
    name = str(entry.get("annotations", {}).get(TAG, ""))
    return name == tag or name.endswith(f":{tag}")


def _find_manifests(folder: Path, entry: Mapping[str, Any], depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """An entry's image manifests: itself, or those of the index it names. Attestations are left out."""
    if "vnd.docker.reference.type" in entry.get("annotations", {}):
        return
    if entry.get("mediaType") not in INDEXES:
        yield entry
    elif depth < MOST_INDEXES:
        path = _blob_path(folder, entry)
        for inner in _list_manifests(_read_blob(folder, entry), path):
            yield from _find_manifests(folder, inner, depth + 1)


def _platform_of(folder: Path, entry: Mapping[str, Any]) -> tuple[str, str]:
    platform = entry.get("platform") or _read_blob(folder, _read_blob(folder, entry).get("config", {}))
    return str(platform.get("os", "linux")), str(platform.get("architecture", "unknown"))


def _read_layers(folder: Path, entry: Mapping[str, Any]) -> OciImage:
    path = _blob_path(folder, entry)
    manifest = _read_blob(folder, entry)
    config = _read_blob(folder, manifest.get("config", {}))
    layers, diff_ids = manifest.get("layers"), config.get("rootfs", {}).get("diff_ids")
    if not isinstance(layers, list) or not isinstance(diff_ids, list) or len(layers) != len(diff_ids):
        raise SourceError(f"{path} is damaged: its layers do not match its configuration")
    found = []
    for layer, diff_id in zip(layers, diff_ids, strict=True):
        if "encrypted" in str(layer.get("mediaType")):
            raise SourceError(f"{folder}: layer {layer['digest']} is encrypted: decrypt the image first")
        if not DIGEST.match(str(diff_id)):
            raise SourceError(f"{path} is damaged: {diff_id!r} is no digest")
        found.append(OciLayer(path=_blob_path(folder, layer), digest=layer["digest"], diff_id=diff_id))
    return OciImage(digest=str(entry["digest"]), layers=tuple(found))


def _list_manifests(index: Mapping[str, Any], path: Path) -> list[Mapping[str, Any]]:
    entries = index.get("manifests")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SourceError(f"{path} is damaged: it lists no manifests")
    return entries


def _blob_path(folder: Path, descriptor: Mapping[str, Any]) -> Path:
    """Where a descriptor's blob lies, which is there and has the right size."""
    digest = str(descriptor.get("digest"))
    if not DIGEST.match(digest):
        raise SourceError(f"{folder} is damaged: {digest!r} is no digest that baker knows (sha256, sha512)")
    path = folder / "blobs" / digest.replace(":", "/")
    if not path.is_file():
        raise SourceError(
            f"{folder} lacks the blob {digest}", hint="Copy the image again, with all its layers."
        )
    size = descriptor.get("size")
    if path.stat().st_size != size:
        raise SourceError(f"{path} is damaged: it has {path.stat().st_size} bytes, not {size}")
    return path


def _read_blob(folder: Path, descriptor: Mapping[str, Any]) -> Mapping[str, Any]:
    path = _blob_path(folder, descriptor)
    verify_blob(path, str(descriptor["digest"]))
    return _parse(path, path.read_bytes())


def _parse(path: Path, content: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise SourceError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise SourceError(f"{path} is damaged: it is no JSON object")
    return found
