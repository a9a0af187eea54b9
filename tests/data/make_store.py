"""Writes tests/data/store-1: a catalog (as SQL) and a store as this version writes them, small.

Run it once per schema, from the repository: ``python -m tests.data.make_store FOLDER``. What is committed is
never written again: tests/integration/test_upgrade.py reads it with every later version.
"""

from __future__ import annotations

import hashlib
import sqlite3
import sys
import tempfile
from pathlib import Path

from baker.catalog import Catalog
from baker.model import Outcome, Stage
from baker.providers.local.store import Store, hash_file
from tests.factories import make_artifact, make_build, make_file, make_layer, make_package, make_resource

LAYER = b"stands for an EROFS file: the store knows it by its digest alone\n"


def write_store(folder: Path) -> None:
    """A base and a web image (promoted), a failed bake that left something, and their artifacts."""
    store = Store(folder / "local")
    store.create()
    digest = f"sha256:{hashlib.sha256(LAYER).hexdigest()}"
    path = store.layers / f"{digest.removeprefix('sha256:')}.erofs"
    path.write_bytes(LAYER)
    assert hash_file(path) == digest
    packages = [make_package("libc6", "2.41-12"), make_package("nginx")]
    row = {
        "type": "deb",
        "name": "libc6",
        "version": "2.41-12",
        "arch": "amd64",
        "source": "glibc",
        "source_version": "2.41-12",
    }
    chain = {"bootstrap": "debian:trixie", "epoch": 1760000000, "packages": [row]}
    store.write_bootstrap("0123abcd", {"layers": [digest], **chain})
    with tempfile.TemporaryDirectory() as scratch:
        url = f"sqlite:///{scratch}/catalog.db"
        with Catalog.open(url, actor="ann") as catalog:
            for number, recipe in enumerate(("base", "web")):
                bake_id = f"01J{number:023d}"
                catalog.start_bake(
                    id=bake_id, recipe=recipe, target="local", arch="x86_64", log_path=f"/logs/{bake_id}.log"
                )
                catalog.begin_stage(bake_id, Stage.CAPTURE)
                artifact = store.write_artifact([digest], {"bake": bake_id, **chain})
                build = make_build(
                    recipe,
                    arch="x86_64",
                    id=bake_id,
                    artifacts=(make_artifact(id=artifact, arch="x86_64"),),
                )
                image = catalog.register(
                    recipe=recipe,
                    build=build,
                    layers=[make_layer(make_file(), digest=digest)],
                    packages=packages,
                    carry=[],
                    wanted=[("local", "x86_64")],
                )
                catalog.make_available(recipe, image.version, {bake_id: build.artifacts})
                catalog.end_stage(bake_id, Stage.CAPTURE, "done", 1.5)
                catalog.finish_bake(bake_id, Outcome.BAKED, image.reference, None)
            catalog.promote("web", 1, "prod", reason="tried", expected_revision=None)
            dead = "01J00000000000000000000009"
            catalog.start_bake(
                id=dead,
                recipe="web",
                target="local",
                arch="x86_64",
                log_path=f"/logs/{dead}.log",
                host="gone",
            )
            catalog.intend(dead, make_resource(dead))
        connection = sqlite3.connect(f"{scratch}/catalog.db")
        (folder / "catalog.sql").write_text("\n".join(connection.iterdump()) + "\n")
        connection.close()


if __name__ == "__main__":
    write_store(Path(sys.argv[1]))
