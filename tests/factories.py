"""Values for tests: everything has a default, and the keywords say what the test is about."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from baker.catalog import Catalog
from baker.deploy.release import Release, ReleaseState
from baker.layer import Layer
from baker.model import Artifact, Build, FileEntry, Image, Package, Provenance, Resource

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)

_numbers = itertools.count(1)


def make_digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def make_bake_id() -> str:
    """Unique within the process, and sorting in the order of the calls."""
    return f"01J{next(_numbers):023d}"


def make_package(name: str = "nginx", version: str = "1.26.3-3", **changes: Any) -> Package:
    values: dict[str, Any] = {
        "type": "deb",
        "name": name,
        "version": version,
        "arch": "amd64",
        "source": name,
        "source_version": version,
    }
    return Package(**{**values, **changes})


def make_file(path: str = "/etc/nginx/nginx.conf", content: str = "", **changes: Any) -> FileEntry:
    digest = hashlib.sha256(content.encode()).hexdigest()
    values: dict[str, Any] = {
        "path": path,
        "kind": "f",
        "mode": 0o644,
        "uid": 0,
        "gid": 0,
        "size": len(content),
        "digest": digest,
    }
    return FileEntry(**{**values, **changes})


def make_layer(*files: FileEntry, removed: Sequence[str] = (), digest: str | None = None) -> Layer:
    """A layer named by its content, so that the same one made twice is the same."""
    return Layer(
        digest=digest or make_digest(repr((files, removed))),
        removed=tuple(sorted(removed)),
        files=tuple(sorted(files, key=lambda file: file.path)),
    )


def make_artifact(**changes: Any) -> Artifact:
    values: dict[str, Any] = {
        "id": make_digest(f"artifact {next(_numbers)}"),
        "target": "local",
        "arch": "amd64",
        "kind": "layers",
        "store": "builder-1",
        "size_bytes": 1000,
        "details": {},
    }
    return Artifact(**{**values, **changes})


def make_provenance(**changes: Any) -> Provenance:
    values: dict[str, Any] = {
        "source": "debian:trixie",
        "source_digest": make_digest("trixie"),
        "inputs": {"recipe/deploy.py": make_digest("deploy")},
        "commit": None,
        "dirty": None,
        "actor": "ann",
        "host": "builder-1",
        "started": NOON,
        "finished": NOON + timedelta(seconds=90),
        "tools": {"pyinfra": "3.10"},
    }
    return Provenance(**{**values, **changes})


def make_build(recipe: str = "web", target: str = "local", arch: str = "amd64", **changes: Any) -> Build:
    """A build with an id, a digest, a fingerprint and one artifact of its own."""
    build_id = changes.get("id") or make_bake_id()
    values: dict[str, Any] = {
        "id": build_id,
        "recipe": recipe,
        "target": target,
        "arch": arch,
        "fingerprint": make_digest(f"inputs of {build_id}"),
        "digest": make_digest(f"content of {build_id}"),
        "size_bytes": 1000,
        "provenance": make_provenance(),
        "artifacts": (make_artifact(target=target, arch=arch),),
        "created": NOON,
    }
    return Build(**{**values, **changes})


def make_resource(name: str = "machine-1", **changes: Any) -> Resource:
    values: dict[str, Any] = {"provider": "local", "kind": "machine", "id": name, "place": "", "details": {}}
    return Resource(**{**values, **changes})


def make_image(
    catalog: Catalog,
    recipe: str = "web",
    *,
    build: Build | None = None,
    layers: Sequence[Layer] = (),
    packages: Sequence[Package] = (),
    carry: Sequence[str] = (),
    wanted: Sequence[tuple[str, str]] = (("local", "amd64"),),
    preview: str | None = None,
    available: bool = True,
) -> Image:
    """Registers a build in a catalog (a new one, unless told), and by default makes it available."""
    build = build or make_build(recipe)
    image = catalog.register(
        recipe=recipe,
        build=build,
        layers=layers,
        packages=packages,
        carry=carry,
        wanted=wanted,
        preview=preview,
    )
    if available:
        image = catalog.make_available(recipe, image.version, {build.id: build.artifacts})
    return image


def make_release(
    catalog: Catalog,
    *,
    environment: str = "demo",
    image: Image | None = None,
    state: ReleaseState = ReleaseState.LIVE,
    release_id: str | None = None,
    window: float = 1800.0,
    **changes: Any,
) -> Release:
    """Begins a release of an image (a new one, unless told) and brings it to a state that leads to LIVE."""
    image = image or make_image(catalog)
    values: dict[str, Any] = {
        "target": "local",
        "store": "builder-1",
        "build": image.builds[0].id,
        "size": 2,
        "settings": {},
        "deployer": "01JDEPLOYER",
    }
    release = catalog.begin_release(
        environment,
        release_id=release_id or make_bake_id(),
        recipe=image.recipe,
        version=image.version,
        **{**values, **changes},
    )
    if state is not ReleaseState.STARTING:
        release = catalog.shift_release(release.id)
    if state is ReleaseState.LIVE:
        release = catalog.make_live(release.id, window=window)
    return release
