"""What the catalog does when it is killed, full, read-only, locked or cut off: a clear error, no damage."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy

from baker.catalog import Catalog
from baker.errors import CatalogError
from baker.model import Reference
from tests.factories import make_bake_id, make_file, make_image, make_layer, make_package, make_resource
from tests.postgresql import Server, on_small_disk, running_server

ROOT = Path(__file__).parents[2]
NewUrl = Callable[[str], str]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def start_python(code: str, *arguments: object, prelude: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    argv = [*prelude, sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(argv, cwd=ROOT, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def end_python(process: subprocess.Popen[str], *, timeout: float = 600) -> list[Any]:
    """What it said, one JSON value per line."""
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return [json.loads(line) for line in output.splitlines()]


def prepare(url: str) -> None:
    with Catalog.open(url, actor="ann") as catalog:
        make_image(catalog, layers=[make_layer(make_file("/a"))], packages=[make_package()])


def assert_unharmed(url: str) -> None:
    """What ``prepare`` wrote is there, whole, and the catalog is written on."""
    with Catalog.open(url, actor="ann") as catalog:
        assert [image.reference for image in catalog.images()] == ["web:1"]
        build = catalog.resolve(Reference(recipe="web")).builds[0]
        assert [file.path for file in catalog.manifest(build.id).files] == ["/a"]
        assert catalog.packages(build.id) == (make_package(),)
        assert make_image(catalog).reference == "web:2"


# --- many processes, killed -------------------------------------------------------------------------------

WORKER = """
    import json, random, sys, time
    from baker.catalog import Catalog
    from baker.errors import ConflictError
    from tests.factories import *

    url, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    chance = random.Random(name)
    def say(*words):
        print(json.dumps(words), flush=True)
    with Catalog.open(url, actor=name) as catalog:
        for number in range(count):
            bake_id = f"{name}-{number}"
            resource = make_resource(bake_id)
            catalog.intend(bake_id, resource)
            build = make_build(id=bake_id, artifacts=(make_artifact(id=f"artifact {bake_id}"),))
            packages = [make_package(f"p{chance.randrange(30)}", str(chance.randrange(3))) for _ in range(10)]
            layers = [make_layer(make_file("/base")), make_layer(make_file("/top", bake_id))]
            image = make_image(catalog, build=build, layers=layers, packages=packages)
            say("version", image.version, bake_id)
            while True:
                held = catalog.channel("web", "prod")
                try:
                    revision = held[1] if held else None
                    move = catalog.promote("web", image.version, "prod", expected_revision=revision)
                except ConflictError:
                    continue
                say("move", move.revision, image.version)
                break
            catalog.removed(bake_id, resource)
    say("done")
"""


def run_with_kills(url: str, *, processes: int, count: int, kills: int, seed: int) -> list[list[Any]]:
    """Workers that register and promote; each is killed ``kills`` times and started again. What they said."""
    chance = random.Random(seed)
    said: list[list[Any]] = []
    running: dict[str, tuple[subprocess.Popen[str], int]] = {}
    for number in range(processes):
        name = f"worker{number}"
        running[name] = (start_python(WORKER, url, name, count), kills)
    while running:
        for name, (process, left) in list(running.items()):
            if left:
                assert process.stdout is not None
                lines = [process.stdout.readline() for _ in range(chance.randrange(1, 4))]
                time.sleep(chance.random() / 30)
                process.kill()
                rest, _ = process.communicate()
                said += [
                    json.loads(line) for line in ("".join(lines) + rest).splitlines() if line.endswith("]")
                ]
                running[name] = (start_python(WORKER, url, name, count), left - 1)
            else:
                said += end_python(process)
                del running[name]
    return said


def assert_kills_did_no_harm(url: str, said: list[list[Any]], *, processes: int, count: int) -> None:
    total = processes * count
    with Catalog.open(url, actor="ann") as catalog:
        images = catalog.images("web")
        assert [image.version for image in images] == list(range(total, 0, -1))
        builds = {image.builds[0].id: image for image in images}
        assert builds.keys() == {f"worker{p}-{n}" for p in range(processes) for n in range(count)}
        told = {
            (bake, version) for kind, version, *rest in map(pad, said) for bake in rest if kind == "version"
        }
        assert told == {(bake, image.version) for bake, image in builds.items()}, "each build has one version"
        for image in images:
            (build,) = image.builds
            assert image.status == "available"
            assert [file.path for file in catalog.manifest(build.id).files] == ["/base", "/top"]
            assert catalog.packages(build.id)
            assert len(build.artifacts) == 1
        history = catalog.channel_history("web", "prod")[::-1]
        assert [move.revision for move in history] == list(range(1, len(history) + 1))
        assert [move.from_version for move in history] == [None, *[move.to_version for move in history[:-1]]]
        assert catalog.channel("web", "prod") == (history[-1].to_version, len(history))
        assert {move.to_version for move in history} == {image.version for image in images}
        moves = {
            (revision, version)
            for kind, revision, *rest in map(pad, said)
            for version in rest
            if kind == "move"
        }
        assert moves <= {(move.revision, move.to_version) for move in history}, (
            "a move that was told is there"
        )
        assert catalog.open_entries() == []
        export = io.BytesIO()
        catalog.export_to(export)
    assert export.getvalue().endswith(b"}}\n")


def pad(words: list[Any]) -> list[Any]:
    return words if len(words) > 1 else [*words, 0]


def test_killed_processes_lose_and_double_nothing(catalog_url: str) -> None:
    said = run_with_kills(catalog_url, processes=3, count=5, kills=1, seed=7)
    assert_kills_did_no_harm(catalog_url, said, processes=3, count=5)


@pytest.mark.slow
def test_eight_processes_that_are_killed_again_and_again_lose_and_double_nothing(catalog_url: str) -> None:
    said = run_with_kills(catalog_url, processes=8, count=50, kills=3, seed=8)
    assert_kills_did_no_harm(catalog_url, said, processes=8, count=50)


def test_killed_import_leaves_the_catalog_empty(catalog_url: str, new_url: NewUrl) -> None:
    source = new_url("sqlite")
    prepare(source)
    with Catalog.open(source, actor="ann") as catalog:
        for _ in range(20):
            make_image(catalog, packages=[make_package(f"p{number}") for number in range(100)])
        whole = io.BytesIO()
        catalog.export_to(whole)
    code = """
        import sys
        from baker.catalog import Catalog
        def lines():
            for number, line in enumerate(open(sys.argv[2], "rb")):
                if number == 100:
                    print("half", flush=True)
                    sys.stdin.readline()
                yield line
        with Catalog.open(sys.argv[1], actor="ann") as catalog:
            catalog.import_from(lines(), name="file")
    """
    path = Path(make_bake_id())
    folder = Path("/var/tmp") / f"baker-test-{path}-{os.getpid()}"
    folder.write_bytes(whole.getvalue())
    try:
        importer = start_python(code, catalog_url, folder)
        assert importer.stdout is not None
        assert importer.stdout.readline() == "half\n"
        importer.kill()
        importer.communicate()
    finally:
        folder.unlink()
    with Catalog.open(catalog_url, actor="ann", lock_seconds=20) as catalog:
        assert catalog.images() == []
        assert catalog.recipes() == []
        rows = catalog.import_from(io.BytesIO(whole.getvalue()), name="file")
        assert rows["images"] == len(catalog.images()) == 21


# --- a full disk ------------------------------------------------------------------------------------------

FILL = """
    import json, os, sys
    from baker.catalog import Catalog
    from baker.errors import CatalogError
    from tests.factories import *

    url, free = sys.argv[1], sys.argv[2]
    with Catalog.open(url, actor="ann") as catalog:
        made = 0
        try:
            for _ in range(1000):
                file = make_file("/large", link=os.urandom(200_000).hex())
                make_image(catalog, layers=[make_layer(file)], packages=[make_package()])
                made += 1
        except CatalogError as error:
            print(json.dumps([str(error), error.hint]), flush=True)
        images = catalog.images()
        whole = [len(catalog.manifest(build.id).files) for image in images for build in image.builds]
        print(json.dumps([made, len(images), whole]), flush=True)
        if free:
            os.unlink(free)
            print(json.dumps(make_image(catalog, layers=[make_layer(make_file())]).version), flush=True)
"""


def assert_full_disk_did_no_harm(said: list[Any]) -> None:
    (message, hint), (made, images, whole), *_ = said
    assert "cannot be written" in message
    assert "disk is full" in message
    assert "Free some space" in hint
    # The one that failed may be registered, and not available; its file list is there or it is not.
    assert images in (made, made + 1)
    assert whole == [1] * images
    assert made > 0


@needs_root
def test_full_disk_under_sqlite_is_reported_and_nothing_is_half_written(tmp_path: Path) -> None:
    disk = tmp_path / "small"
    ballast = disk / "ballast"
    make_ballast = ("sh", "-c", f'head -c 1000000 /dev/zero >"{ballast}" && exec "$@"', "sh")
    prelude = (*on_small_disk(disk, "3m"), *make_ballast)
    said = end_python(start_python(FILL, f"sqlite:///{disk}/catalog.db", ballast, prelude=prelude))
    assert_full_disk_did_no_harm(said)
    assert said[-1] == said[1][1] + 1, "once there is space it goes on"


@needs_root
@pytest.mark.slow
def test_full_disk_under_postgresql_is_reported_and_nothing_is_half_written() -> None:
    with running_server(small_disk="11m") as server:
        server.execute("CREATE DATABASE small TABLESPACE small")
        said = end_python(start_python(FILL, server.url("small"), ""))
        assert_full_disk_did_no_harm(said)
        with Catalog.open(server.url("small"), actor="ann", read_only=True) as catalog:
            assert len(catalog.images()) == said[1][1]


# --- read-only ----------------------------------------------------------------------------------------------

WRITE_AS_NOBODY = """
    import json, os, sys
    import sqlalchemy.dialects.sqlite
    from baker.catalog import Catalog
    from baker.errors import CatalogError
    from tests.factories import make_image
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    try:
        with Catalog.open(sys.argv[1], actor="nobody") as catalog:
            make_image(catalog)
        print(json.dumps("written"))
    except CatalogError as error:
        print(json.dumps([str(error), error.hint]))
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that others may enter, unlike pytest's own."""
    folder = Path("/var/tmp") / f"baker-test-{make_bake_id()}-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@needs_root
@pytest.mark.parametrize("what", ["the file", "the folder", "both"])
def test_read_only_sqlite_is_reported_to_whoever_writes(open_folder: Path, what: str) -> None:
    path = open_folder / "catalog.db"
    url = f"sqlite:///{path}"
    prepare(url)
    path.chmod(0o444 if what in ("the file", "both") else 0o666)
    open_folder.chmod(0o555 if what in ("the folder", "both") else 0o777)
    ((message, hint),) = end_python(start_python(WRITE_AS_NOBODY, url))
    assert f"the catalog sqlite {path} " in message
    assert "read-only" in message or "cannot be opened" in message
    assert hint
    assert_unharmed(url)


@needs_root
def test_read_only_file_system_is_reported(open_folder: Path) -> None:
    url = f"sqlite:///{open_folder}/catalog.db"
    prepare(url)
    code = """
        import json, sys
        from baker.catalog import Catalog
        from baker.errors import CatalogError
        from tests.factories import make_image
        with Catalog.open(sys.argv[1], actor="ann", read_only=True) as catalog:
            print(json.dumps([image.reference for image in catalog.images()]))
        try:
            with Catalog.open(sys.argv[1], actor="ann") as catalog:
                make_image(catalog)
        except CatalogError as error:
            print(json.dumps([str(error), error.hint]))
    """
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    prelude = ("unshare", "--mount", "sh", "-c", mount, str(open_folder))
    seen, (message, hint) = end_python(start_python(code, url, prelude=prelude))
    assert seen == ["web:1"]
    assert "read-only" in message or "cannot be opened" in message
    assert hint
    assert_unharmed(url)


def test_server_that_only_reads_is_reported(postgresql_url: str) -> None:
    prepare(postgresql_url)

    def change(connection: sqlalchemy.Connection) -> None:
        connection.execute(sqlalchemy.text("SET TRANSACTION READ ONLY"))  # as on a standby
        connection.execute(sqlalchemy.text("UPDATE images SET status = 'revoked'"))

    with Catalog.open(postgresql_url, actor="ann") as catalog:
        with pytest.raises(CatalogError, match="cannot be written: it is read-only") as caught:
            catalog._write(change)
        assert "primary" in str(caught.value.hint)
    assert_unharmed(postgresql_url)


def test_user_without_rights_on_the_server_is_told_so(postgresql: Server, postgresql_url: str) -> None:
    prepare(postgresql_url)
    guest = f"guest{make_bake_id().lower()}"
    postgresql.execute(f"CREATE ROLE {guest} LOGIN")
    url = postgresql_url.replace("baker@", f"{guest}@")
    with pytest.raises(CatalogError, match="may not be used by this user") as caught:
        Catalog.open(url, actor="guest")
    assert "rights" in str(caught.value.hint)
    assert_unharmed(postgresql_url)


# --- locked -------------------------------------------------------------------------------------------------


@contextmanager
def holding_a_lock(url: str) -> Iterator[None]:
    if url.startswith("sqlite"):
        blocker = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            blocker.close()
    else:
        with psycopg.connect(url) as connection:
            connection.execute("LOCK TABLE recipes IN ACCESS EXCLUSIVE MODE")
            yield
            connection.rollback()


def test_locked_catalog_is_reported_and_unharmed(catalog_url: str) -> None:
    prepare(catalog_url)
    with Catalog.open(catalog_url, actor="bob", lock_seconds=0.2) as catalog, holding_a_lock(catalog_url):
        with pytest.raises(CatalogError, match="is locked by another process") as caught:
            make_image(catalog)
        assert "try again" in str(caught.value.hint)
    assert_unharmed(catalog_url)


def test_import_waits_for_writers_and_they_for_it(catalog_url: str, new_url: NewUrl) -> None:
    empty = io.BytesIO()
    with Catalog.open(new_url("sqlite"), actor="ann") as source:
        source.export_to(empty)
    Catalog.open(catalog_url, actor="ann").close()
    with (
        Catalog.open(catalog_url, actor="bob", lock_seconds=0.2) as catalog,
        holding_a_lock(catalog_url),
        pytest.raises(CatalogError, match="is locked by another process"),
    ):
        catalog.import_from(io.BytesIO(empty.getvalue()), name="file")
    prepare(catalog_url)
    assert_unharmed(catalog_url)


# --- a lost connection --------------------------------------------------------------------------------------


def end_backends(server: Server, url: str) -> int:
    """Cut every connection to a catalog, as a restart or a failing network does; how many there were."""
    name = url.partition("@/")[2].partition("?")[0]
    rows = server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    return len(rows)


def test_connection_that_is_lost_within_a_transaction_is_reported_and_nothing_applied(
    postgresql: Server, postgresql_url: str
) -> None:
    prepare(postgresql_url)
    with Catalog.open(postgresql_url, actor="ann") as catalog:

        def change(connection: sqlalchemy.Connection) -> None:
            connection.execute(sqlalchemy.text("UPDATE images SET status = 'revoked'"))
            assert end_backends(postgresql, postgresql_url) >= 1
            connection.execute(sqlalchemy.text("UPDATE images SET status = 'deleted'"))

        with pytest.raises(CatalogError, match="cannot be reached") as caught:
            catalog._write(change)
        assert "server runs" in str(caught.value.hint)
        assert [str(image.status) for image in catalog.images()] == ["available"]
    assert_unharmed(postgresql_url)


def test_connection_that_is_lost_at_the_commit_is_reported(postgresql: Server, postgresql_url: str) -> None:
    prepare(postgresql_url)
    with Catalog.open(postgresql_url, actor="ann") as catalog:

        def change(connection: sqlalchemy.Connection) -> None:
            connection.execute(sqlalchemy.text("UPDATE images SET status = 'revoked'"))
            end_backends(postgresql, postgresql_url)

        with pytest.raises(CatalogError, match="cannot be reached"):
            catalog._write(change)
        assert [str(image.status) for image in catalog.images()] == ["available"]
    assert_unharmed(postgresql_url)


def test_connection_that_is_lost_while_nothing_is_asked_is_made_anew(
    postgresql: Server, postgresql_url: str
) -> None:
    with Catalog.open(postgresql_url, actor="ann") as catalog:
        make_image(catalog)
        for _ in range(3):
            assert end_backends(postgresql, postgresql_url) == 1
            catalog.intend("01J", make_resource())
        assert make_image(catalog).version == 2


def test_server_that_is_restarted_is_found_again() -> None:
    with running_server() as server:
        url = server.make_database()
        prepare(url)
        with Catalog.open(url, actor="ann") as catalog:
            server.stop()
            with pytest.raises(CatalogError, match="cannot be reached") as caught:
                make_image(catalog)
            assert "server runs" in str(caught.value.hint)
            with pytest.raises(CatalogError, match="cannot be reached"):
                catalog.images()
            server.start()
            assert [image.reference for image in catalog.images()] == ["web:1"]
        assert_unharmed(url)


@needs_root
def test_export_to_a_full_disk_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.db"
    prepare(url)
    with Catalog.open(url, actor="ann") as catalog:
        make_image(catalog, layers=[make_layer(make_file("/large", link=os.urandom(2_000_000).hex()))])
    baker = Path(sys.executable).with_name("baker")
    disk = tmp_path / "small"
    script = f'"{baker}" --catalog "{url}" catalog export "{disk}/x.jsonl"; echo $?; ls -A "{disk}"'
    argv = [*on_small_disk(disk, "1m"), "sh", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout == "1\n"
    assert "the export cannot be written" in done.stderr
    assert "No space left on device" in done.stderr
