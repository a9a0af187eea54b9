"""What commands are made of: the catalog that a command opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from baker.catalog import Catalog
from baker.cli.wiring import open_catalog
from baker.errors import CatalogError, CatalogMissing
from baker.settings import load_settings
from tests.factories import make_image


@pytest.mark.parametrize("begun", [False, True], ids=["not there", "being made"])
def test_catalog_that_the_first_bake_is_about_to_make_is_an_empty_one(tmp_path: Path, begun: bool) -> None:
    path = tmp_path / "catalog.db"
    settings = load_settings(None, {}, catalog_url=f"sqlite:///{path}")
    if begun:
        path.touch()
    with open_catalog(settings, read_only=True, or_empty=True) as catalog:
        assert catalog.images() == []
    with pytest.raises(CatalogMissing) as caught, open_catalog(settings, read_only=True):
        pass
    assert caught.value.hint == "The first bake makes it: baker bake."
    assert path.exists() is begun, "nothing is made by reading"


def test_catalog_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_text("a letter")
    settings = load_settings(None, {}, catalog_url=f"sqlite:///{path}")
    refused = pytest.raises(CatalogError, match="is not a database")
    with refused, open_catalog(settings, read_only=True, or_empty=True):
        pass


def test_catalog_with_images_is_the_one_that_is_read(tmp_path: Path) -> None:
    settings = load_settings(None, {}, catalog_url=f"sqlite:///{tmp_path}/catalog.db")
    with Catalog.open(settings.catalog_url, actor="ann") as catalog:
        make_image(catalog)
    with open_catalog(settings, read_only=True, or_empty=True) as catalog:
        assert [image.reference for image in catalog.images()] == ["web:1"]
