"""The made-up catalog of the measurements is one that the product itself could have written."""

from __future__ import annotations

from baker.catalog import Catalog
from baker.catalog.finding import Scope
from baker.model import Reference
from baker.versions import PackageQuestion
from bench.catalog_data import FIRST_NIGHT, KNOWN, History, fill
from tests.factories import make_image, make_package

ARCHIVE = [
    *(make_package(name, "1.0-1") for name in KNOWN),
    *(make_package(f"p{n}", "2") for n in range(150)),
]


def test_filled_catalog_is_read_and_written_like_any_other(catalog_url, monkeypatch):
    monkeypatch.setattr("bench.catalog_data.BOOTSTRAP_FILES", 400)
    history = fill(catalog_url, 50, archive=ARCHIVE, recipes=10, packages=50)
    with Catalog.open(catalog_url, actor="ann") as catalog:
        assert len(catalog.images()) == 50
        newest = catalog.resolve(Reference.parse("app-009"))
        assert (newest.version, newest.channels) == (5, ("dev", "latest"))
        assert newest.builds[0].created > FIRST_NIGHT
        manifest = catalog.manifest(newest.builds[0].id)
        assert (len(manifest.packages), len(manifest.files)) == (50, 400 + 300 + 60)
        family = catalog.family("app-009", 5)
        assert family["app-009:5"].parents == ("root-000:5",)
        found = catalog.find_package(PackageQuestion.parse("openssl"), Scope(limit=1))
        assert found.total == 50
        assert make_image(catalog, "app-009").version == 6
    assert len(history.packages) > len(ARCHIVE)


def test_history_is_the_same_every_time():
    def bake():
        history = History(recipes=4, packages_per_image=30, archive=ARCHIVE)
        return [(one.build, list(one.packages), list(one.layers)) for one in history.bake_nights(8)]

    assert bake() == bake()
