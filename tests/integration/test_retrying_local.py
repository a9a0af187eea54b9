"""An archive that fails for a while, as real apt sees it: on this host, and in the machine that is baked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from baker.catalog import Catalog
from baker.errors import SourceError
from baker.execution import execute_plan, plan_bakes
from baker.interrupt import Interruption
from baker.kitchen import Kitchen
from baker.model import Bootstrap, Outcome
from baker.progress import Note, Progress
from baker.providers.local.archive import Archive
from baker.providers.local.provider import LocalProvider
from baker.providers.local.store import Store
from baker.recipes import load_recipes
from baker.settings import load_settings
from tests.apt_repository import keys, make_repository
from tests.e2e.project import share_downloads
from tests.proxy import Proxy

__all__ = ["keys"]

pytestmark = pytest.mark.machine

HOST = "apt.example.test"
RECIPE = f"""
from = "debian:trixie"

[[targets.local.repositories]]
uri = "http://{HOST}"
suite = "stable"
keyring = "tiny.gpg"
"""
DEPLOY = """
from pyinfra.operations import apt

apt.packages(name="Install", packages=["tiny-tool"], update=True)
"""


class FailingProxy(Proxy):
    """Answers 503 for what ``broken`` says is in the path of."""

    broken: set[str]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.hostname == HOST and any(word in parts.path for word in self.broken):
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[str]:
    """Its address; nothing is broken yet."""
    FailingProxy.folder, FailingProxy.log = tmp_path / "served", tmp_path / "proxy.log"
    FailingProxy.broken = set()
    with ThreadingHTTPServer(("127.0.0.1", 0), FailingProxy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left_behind")
def test_bake_waits_for_an_archive_that_fails_here_and_then_in_the_machine(
    shared_home: Path, tmp_path: Path, proxy: str, keys: list[Path]
) -> None:
    home = tmp_path / "home"
    share_downloads(shared_home, home)
    for stamp in (home / "local/apt").glob("*/refreshed"):
        stamp.touch()
    provider = LocalProvider(home, project=tmp_path / "project")
    provider.check()
    (tmp_path / "served").mkdir()
    make_repository(tmp_path / "served" / HOST, keys[0])
    recipe = tmp_path / "project/recipes/web"
    recipe.mkdir(parents=True)
    (recipe / "recipe.toml").write_text(RECIPE)
    (recipe / "deploy.py").write_text(DEPLOY)
    (tmp_path / "project/tiny.gpg").write_bytes(keys[0].read_bytes())
    (tmp_path / "project/baker.toml").write_text(f'[local]\nhttp_proxy = "{proxy}"\n')
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(path.stat().st_mode | 0o055)

    notes: list[str] = []
    mended = iter(("InRelease", ".deb"))
    FailingProxy.broken = {"InRelease", ".deb"}

    def show(progress: Progress) -> None:
        if isinstance(progress, Note):
            notes.append(progress.text)
            FailingProxy.broken.discard(next(mended))

    settings = load_settings(tmp_path / "project", {"BAKER_HOME": str(home), "BAKER_ACTOR": "ann"})
    with Catalog.open(settings.catalog_url, actor="ann") as catalog:
        kitchen = Kitchen(
            catalog=catalog,
            providers={"local": provider},
            settings=settings,
            environ={},
            show=show,
            interruption=Interruption(),
            choose_pause=lambda _tries: 0.0,
        )
        recipes = load_recipes(tmp_path / "project")
        [result] = execute_plan(recipes, plan_bakes(recipes, kitchen, selected=None), kitchen)
        assert catalog.open_entries() == []

    assert (result.outcome, result.attempts) == (Outcome.BAKED, 3), result.error
    assert len(notes) == 2
    assert notes[0].startswith("web: the package archive of debian:trixie cannot be read: ")
    assert "503 Service Unavailable" in notes[0]
    assert 'operation "Install" failed' in notes[1]
    assert notes[1].endswith("trying again in 0 s, 2 of 2")


@pytest.mark.parametrize(("address", "passing"), [("http://127.0.0.1:1", True), ("file:///nowhere", False)])
def test_error_of_an_archive_says_whether_it_passes(tmp_path: Path, address: str, passing: bool) -> None:
    store = Store(tmp_path / "local")
    store.create()
    trixie = Bootstrap(distribution="debian", suite="trixie")
    archive = Archive(store, trixie, "x86_64", mirror=f"{address}/debian", security_mirror=f"{address}/s")
    with pytest.raises(SourceError) as raised:
        archive.refresh()
    assert raised.value.passing is passing, str(raised.value)
