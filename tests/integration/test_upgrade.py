"""A catalog and a store that the first released schema wrote are still read and written."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy
from alembic import command

from baker.catalog import Catalog
from baker.catalog.migrations import configure_alembic
from baker.errors import CatalogError, StoreError
from baker.model import ImageStatus, Outcome, Reference
from baker.providers.local.store import Store

WRITTEN = Path(__file__).parents[1] / "data" / "store-1"
DEAD = "01J00000000000000000000009"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The fixture as a BAKER_HOME."""
    home = tmp_path / "home"
    shutil.copytree(WRITTEN, home)
    connection = sqlite3.connect(home / "catalog.db")
    connection.executescript((home / "catalog.sql").read_text())
    connection.close()
    return home


def test_first_migration_still_makes_what_was_released(home: Path) -> None:
    def list_tables(connection: sqlite3.Connection) -> list[tuple[str, str]]:
        return connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()

    engine = sqlalchemy.create_engine("sqlite://")
    with engine.begin() as connection:
        command.upgrade(configure_alembic(connection), "0001")
        made = connection.connection.driver_connection
        assert made is not None
        with contextlib.closing(sqlite3.connect(home / "catalog.db")) as written:
            assert sorted(list_tables(made)) == sorted(list_tables(written))
    engine.dispose()


def test_older_catalog_is_not_read_before_it_is_brought_up_to_date(home: Path) -> None:
    url = f"sqlite:///{home}/catalog.db"
    with pytest.raises(CatalogError, match="has the older schema 0001") as caught:
        Catalog.open(url, actor="bob", read_only=True)
    assert "as a user who may write to it" in str(caught.value.hint)
    Catalog.open(url, actor="ann").close()
    with Catalog.open(url, actor="bob", read_only=True) as catalog:
        assert len(catalog.images()) == 2


def test_what_an_older_schema_did_not_say_is_not_known(home: Path) -> None:
    with Catalog.open(f"sqlite:///{home}/catalog.db", actor="bob") as catalog:
        (build,) = catalog.image("web", 1).builds
        assert build.image_tests is None
        catalog.record_image_tests(build.id, {"test:test_image.py": "v1"})
        assert catalog.image("web", 1).builds[0].image_tests == {"test:test_image.py": "v1"}
        assert catalog.image("base", 1).builds[0].image_tests is None


def test_images_contents_and_channels_of_an_older_catalog_are_read(home: Path) -> None:
    with Catalog.open(f"sqlite:///{home}/catalog.db", actor="bob") as catalog:
        image = catalog.resolve(Reference(recipe="web", channel="prod"))
        assert (image.reference, image.status, image.complete) == ("web:1", ImageStatus.AVAILABLE, True)
        build = image.build_for("local", "x86_64")
        assert build is not None
        assert build.provenance.actor == "ann"
        assert [package.name for package in catalog.packages(build.id)] == ["libc6", "nginx"]
        assert [file.path for file in catalog.manifest(build.id).files] == ["/etc/nginx/nginx.conf"]
        assert [entry.resource.id for entry in catalog.open_entries()] == [DEAD]
        assert catalog.bake(build.id).outcome is Outcome.BAKED


def test_older_catalog_is_written_on(home: Path) -> None:
    with Catalog.open(f"sqlite:///{home}/catalog.db", actor="bob") as catalog:
        move = catalog.promote("base", 1, "prod", expected_revision=None)
        assert move.to_version == 1
        catalog.removed(DEAD, catalog.open_entries()[0].resource)
        catalog.finish_bake(DEAD, Outcome.FAILED, None, "swept")
        assert catalog.bakes(running_only=True) == []
        again = catalog.register(
            recipe="web",
            build=None,
            layers=(),
            packages=(),
            carry=[catalog.image("web", 1).builds[0].id],
            wanted=[("local", "x86_64")],
        )
        assert again.version == 2


def test_artifacts_and_bootstraps_of_an_older_store_are_read(home: Path) -> None:
    store = Store(home / "local")
    store.create()
    with Catalog.open(f"sqlite:///{home}/catalog.db", actor="bob") as catalog:
        (artifact,) = catalog.image("web", 1).builds[0].artifacts
    chain = store.read_artifact(artifact.id)
    assert store.has_artifact(artifact.id)
    bootstrap = store.read_bootstrap("0123abcd")
    assert bootstrap is not None
    assert bootstrap["layers"] == chain["layers"]
    layer = store.verified_layer(chain["layers"][0])
    layer.write_bytes(b"damaged")
    with pytest.raises(StoreError, match="damaged"):
        store.verified_layer(chain["layers"][0])
