"""What the artifacts of the local store tell of their builds; older ones tell less."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from baker.errors import StoreError
from baker.layer import Layer
from baker.model import Artifact, Build, Package, Provenance
from baker.providers.local.store import Store
from baker.sidecar import UNKNOWN, Issue, Sidecar, Unreadable, made_at, parse_build, parse_issue

NOT_SAID = ("provenance", "inputs", "image tests")
"""What artifacts did not carry before the store wrote ``builds`` into them."""


def list_sidecars(store: Store, arch: str, store_name: str) -> Iterator[Sidecar | Unreadable]:
    """Of every artifact that was distributed: others belong to no image."""
    for path in sorted(store.artifacts.glob("*.json")):
        artifact = f"sha256:{path.stem}"
        try:
            found = store.read_artifact(artifact)
            if "labels" in found:
                size = sum(store.layer_size(layer) for layer in found["layers"])
                yield from _read_artifact(store, found, arch, store_name, size)
        except FileNotFoundError as error:
            yield Unreadable(artifact=artifact, reason=f"its layer {error.filename} is gone")
        except (StoreError, KeyError, TypeError, ValueError, AttributeError) as error:
            yield Unreadable(artifact=artifact, reason=f"{type(error).__name__}: {error}")


def _read_artifact(
    store: Store, found: Mapping[str, Any], arch: str, store_name: str, size: int
) -> Iterator[Sidecar]:
    def make_artifact(of_arch: str) -> Artifact:
        return Artifact(
            id=found["id"], target="local", arch=of_arch, kind="layers", store=store_name, size_bytes=size
        )

    if "builds" not in found:
        yield _read_old(store, found, make_artifact(arch))
        return
    for told in found["builds"].values():
        issues = tuple(parse_issue(version, issue) for version, issue in told["versions"].items())
        yield Sidecar(build=parse_build(told["build"], make_artifact(told["build"]["arch"])), issues=issues)


def _read_old(store: Store, found: Mapping[str, Any], artifact: Artifact) -> Sidecar:
    """From labels alone: the image, the identity and, of a child, what it was built upon."""
    labels = found["labels"]
    owners = [found["bake"], *found.get("joined", [])]
    bake_id = labels["bake"] if labels["bake"] in owners else found["bake"]
    made = made_at(bake_id)
    parent = _find_parent(store, found["layers"])
    provenance = Provenance(
        source=parent["recipe"] if parent else found.get("bootstrap") or UNKNOWN,
        source_digest=parent["digest"] if parent else UNKNOWN,
        inputs={},
        commit=None,
        dirty=None,
        actor=UNKNOWN,
        host=UNKNOWN,
        started=made,
        finished=made,
        tools={},
        parent_build=parent["bake"] if parent else None,
    )
    build = Build(
        id=bake_id,
        recipe=labels["recipe"],
        target=artifact.target,
        arch=artifact.arch,
        fingerprint=labels["fingerprint"],
        digest=labels["digest"],
        size_bytes=artifact.size_bytes,
        provenance=provenance,
        artifacts=(artifact,),
        created=made,
    )
    issue = Issue(version=int(labels["version"]), at=made_at(labels["bake"]))
    return Sidecar(build=build, issues=(issue,), missing=NOT_SAID)


def _find_parent(store: Store, layers: list[str]) -> Mapping[str, str] | None:
    """The labels of the artifact that consists of all layers but the last one."""
    parent = f"sha256:{hashlib.sha256(chr(10).join(layers[:-1]).encode()).hexdigest()}"
    try:
        labels: Mapping[str, str] | None = store.read_artifact(parent).get("labels")
    except StoreError:
        return None
    return labels


def read_contents(store: Store, artifact: str) -> tuple[list[Layer], tuple[Package, ...]]:
    """What is in an artifact. Raises StoreError."""
    found = store.read_artifact(artifact)
    packages = tuple(Package(**row) for row in found["packages"])
    return [store.read_layer(digest) for digest in found["layers"]], packages
