"""Small real images for tests: layers made by the real store, no machine booted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baker.catalog import Catalog
from baker.layer import Layer
from baker.model import Image, Reference
from baker.providers.local.provider import LocalProvider
from baker.sweep import image_labels
from baker.teardown import Teardown
from tests.factories import make_artifact, make_bake_id, make_build, make_package, make_provenance


def make_store(home: Path) -> LocalProvider:
    """The local provider of a BAKER_HOME whose store holds one bootstrap."""
    provider = LocalProvider(home)
    provider.store.create()
    layer = add_layer(provider, "bootstrap")
    provider.store.write_bootstrap("0123abcd", {"layers": [layer.digest], "bootstrap": "debian:trixie"})
    return provider


def add_layer(provider: LocalProvider, content: str) -> Layer:
    with tempfile.TemporaryDirectory(dir=provider.store.folder) as tree:
        Path(tree, "content").write_text(content * 2000)
        for path in (f"{tree}/content", tree):
            os.utime(path, (0, 0))
        return provider.store.add_layer(Path(tree))


def store_image(
    catalog: Catalog,
    provider: LocalProvider,
    recipe: str = "web",
    *,
    upon: str | None = None,
    content: str | None = None,
    packages: Sequence[str] = ("nginx",),
    carry: Sequence[str] = (),
    preview: str | None = None,
    **changes: Any,
) -> Image:
    """Captures a layer of ``content`` upon the bootstrap, or the image ``upon``, and makes an image of it."""
    bake_id = make_bake_id()
    parent = catalog.resolve(Reference.parse(upon)).builds[0] if upon else None
    if parent is None:
        found = provider.store.read_bootstrap("0123abcd")
        assert found is not None
        below = found["layers"]
    else:
        below = provider.store.read_artifact(parent.artifacts[0].id)["layers"]
    stack = [provider.store.read_layer(digest) for digest in below]
    stack.append(add_layer(provider, content or bake_id))
    digests = [layer.digest for layer in stack]
    artifact = make_artifact(
        id=provider.store.write_artifact(digests, {"bake": bake_id, "bootstrap": "debian:trixie"}),
        arch=provider.arch,
        store=provider.store_name,
        size_bytes=sum(provider.store.layer_size(digest) for digest in digests),
    )
    provenance = make_provenance(parent_build=parent.id if parent else None)
    values = {"arch": provider.arch, "artifacts": (artifact,), "provenance": provenance, **changes}
    build = make_build(recipe, id=bake_id, **values)
    image = catalog.register(
        recipe=recipe,
        build=build,
        layers=stack,
        packages=[make_package(name) for name in packages],
        carry=carry,
        wanted=[("local", provider.arch)],
        preview=preview,
    )
    labels = image_labels(image, bake_id)
    artifacts = provider.distribute(build, labels, Teardown(build.id, None))
    return catalog.make_available(recipe, image.version, {build.id: artifacts})
