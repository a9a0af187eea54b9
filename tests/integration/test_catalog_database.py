"""The catalog's database: its schema, what it does when it cannot be used, and many processes at once."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from baker.catalog import Catalog, schema
from baker.catalog.migrations import configure_alembic
from baker.errors import CatalogError
from baker.model import Outcome, Reference
from tests.factories import make_bake_id, make_build, make_file, make_image, make_layer, make_resource

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "catalog.db"


@pytest.fixture
def url(path):
    return f"sqlite:///{path}"


@pytest.fixture
def catalog(url):
    with Catalog.open(url, actor="ann") as opened:
        yield opened


def run_sql(path, statement):
    connection = sqlite3.connect(path)
    try:
        with connection:
            return connection.execute(statement).fetchall()
    finally:
        connection.close()


def start_python(code, *arguments):
    """A process of its own, from the project's root."""
    argv = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(argv, cwd=ROOT, text=True, **pipes)


def end_python(process, *, timeout=120):
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors
    return output


# --- the schema ---------------------------------------------------------------------------------


def test_migrations_make_the_schema_that_the_code_knows(catalog):
    def compare(connection):
        options = {"version_table": schema.REVISION_TABLE}
        return compare_metadata(MigrationContext.configure(connection, opts=options), schema.metadata)

    assert catalog._database.read(compare) == []


def test_newest_migration_is_the_revision_that_the_code_expects():
    directory = ScriptDirectory.from_config(configure_alembic())
    assert directory.get_heads() == [schema.REVISION]
    revisions = [script.revision for script in directory.walk_revisions()]
    assert revisions == sorted(revisions, reverse=True)


def test_catalog_is_made_with_its_folder_and_opened_again(path, url):
    with Catalog.open(url, actor="ann") as catalog:
        make_image(catalog)
    with Catalog.open(url, actor="bob") as catalog:
        assert [image.reference for image in catalog.images()] == ["web:1"]
    assert run_sql(path, "PRAGMA journal_mode") == [("wal",)]


def test_existing_catalog_opens_without_alembic(url, catalog):
    code = """
        import sys
        from baker.catalog import Catalog
        with Catalog.open(sys.argv[1], actor="ann") as catalog:
            catalog.images()
        print([name for name in ("alembic", "psycopg", "pyinfra", "boto3", "pytest") if name in sys.modules])
    """
    assert end_python(start_python(code, url)) == "[]\n"
    assert catalog.images() == []


@pytest.mark.parametrize("read_only", [False, True])
def test_newer_schema_is_refused(path, url, catalog, read_only):
    run_sql(path, f"UPDATE {schema.REVISION_TABLE} SET version_num = '9999'")
    with pytest.raises(CatalogError, match="has schema 9999: this baker knows none after") as caught:
        Catalog.open(url, actor="ann", read_only=read_only)
    assert "Update baker" in caught.value.hint
    assert run_sql(path, f"SELECT version_num FROM {schema.REVISION_TABLE}") == [("9999",)]
    assert catalog.images() == []


def test_migration_that_fails_leaves_nothing(path, url):
    path.parent.mkdir()
    run_sql(path, "CREATE TABLE ledger (x)")
    with pytest.raises(CatalogError, match="ledger already exists"):
        Catalog.open(url, actor="ann")
    assert run_sql(path, "SELECT name FROM sqlite_master WHERE type = 'table'") == [("ledger",)]


def test_processes_that_make_the_same_catalog_at_once_all_get_it(url):
    code = """
        import sys
        from baker.catalog import Catalog
        with Catalog.open(sys.argv[1], actor="ann") as catalog:
            print(catalog.recipes())
    """
    processes = [start_python(code, url) for _ in range(6)]
    assert [end_python(process) for process in processes] == ["[]\n"] * 6


# --- reading only -------------------------------------------------------------------------------


READER = """
    import json, os, sys
    import sqlalchemy.dialects.sqlite
    from baker.catalog import Catalog
    from baker.errors import CatalogError
    from baker.model import Reference, Outcome
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        with Catalog.open(sys.argv[1], actor="nobody", read_only=True) as catalog:
            image = catalog.resolve(Reference(recipe="web"))
            files = catalog.manifest(image.builds[0].id).files
            print(json.dumps([image.reference, [file.path for file in files]]))
    except CatalogError as error:
        print(json.dumps([str(error), error.hint]))
"""


@pytest.fixture
def shared_path():
    """In a folder that others may enter and read, unlike pytest's own."""
    folder = Path("/var/tmp") / f"baker-test-{make_bake_id()}-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder / "catalog.db"
    folder.chmod(0o755)
    shutil.rmtree(folder)


def make_shared(path):
    with Catalog.open(f"sqlite:///{path}", actor="ann") as catalog:
        make_image(catalog, build=make_build(), layers=[make_layer(make_file("/a"))])
    path.chmod(0o444)
    path.parent.chmod(0o555)


def test_reader_who_may_write_neither_file_nor_folder(shared_path):
    make_shared(shared_path)
    assert json.loads(end_python(start_python(READER, f"sqlite:///{shared_path}"))) == ["web:1", ["/a"]]


def test_reader_without_rights_while_a_writer_has_it_open(shared_path):
    url = f"sqlite:///{shared_path}"
    with Catalog.open(url, actor="ann") as catalog:
        make_image(catalog, build=(build := make_build()), layers=[make_layer(make_file("/a"))])
        assert shared_path.with_name("catalog.db-wal").stat().st_size > 0
        assert json.loads(end_python(start_python(READER, url))) == ["web:1", ["/a"]]
        assert catalog.has_build(build.id)


def test_reader_who_may_not_read_is_told_so(shared_path):
    make_shared(shared_path)
    shared_path.chmod(0o400 if os.geteuid() == 0 else 0)
    message, hint = json.loads(end_python(start_python(READER, f"sqlite:///{shared_path}")))
    assert f"the catalog {shared_path} cannot be read: Permission denied" in message
    assert hint


def test_reader_without_locks_reads_again_when_a_writer_moved_pages_meanwhile(shared_path):
    make_shared(shared_path)
    code = """
        import os, sys
        import sqlalchemy.dialects.sqlite
        from baker.catalog import Catalog
        from baker.catalog.reading import list_images
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        seen = []
        def count_slowly(connection):
            seen.append(len(list_images(connection)))
            print(seen, flush=True)
            sys.stdin.readline()
            return seen[-1]
        with Catalog.open(sys.argv[1], actor="nobody", read_only=True) as catalog:
            print("result", catalog._database.read(count_slowly))
    """
    reader = start_python(code, f"sqlite:///{shared_path}")
    assert reader.stdout.readline() == "[1]\n"
    shared_path.parent.chmod(0o755)
    shared_path.chmod(0o644)
    make_shared(shared_path)
    output, errors = reader.communicate("\n\n", timeout=60)
    assert output == "[1, 2]\nresult 2\n", errors


def test_reader_sees_what_was_written_after_it_opened(url, catalog):
    with Catalog.open(url, actor="bob", read_only=True) as reader:
        assert reader.images() == []
        make_image(catalog)
        assert [image.reference for image in reader.images()] == ["web:1"]


def test_reader_cannot_write(url, catalog):
    with (
        Catalog.open(url, actor="bob", read_only=True) as reader,
        pytest.raises(CatalogError, match="opened for reading only"),
    ):
        make_image(reader)
    assert catalog.images() == []


def test_reading_what_was_never_made_makes_nothing(path, url):
    with pytest.raises(CatalogError, match=f"there is no catalog {path} yet") as caught:
        Catalog.open(url, actor="ann", read_only=True)
    assert "baker bake" in caught.value.hint
    assert not path.parent.exists()


def test_reading_an_empty_file_is_refused(path, url):
    path.parent.mkdir()
    path.touch()
    with pytest.raises(CatalogError, match="is empty"):
        Catalog.open(url, actor="ann", read_only=True)


# --- what cannot be used --------------------------------------------------------------------------


def test_locked_catalog_is_reported_and_unharmed(path, url, catalog):
    with Catalog.open(url, actor="bob", lock_seconds=0.2) as other:
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(CatalogError, match="is locked by another process"):
                make_image(other)
            assert other.images() == []
        finally:
            blocker.close()
        assert make_image(other).version == 1
    assert [image.reference for image in catalog.images()] == ["web:1"]


def test_writer_waits_for_another_one(path, catalog):
    blocker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, blocker.rollback)
    release.start()
    assert make_image(catalog).version == 1
    release.join()
    blocker.close()


def test_full_disk_is_reported_and_nothing_is_half_written(catalog):
    make_image(catalog)

    def fill(connection):
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    catalog._database.read(fill)
    layer = make_layer(*[make_file(f"/{number}", os.urandom(32).hex()) for number in range(5000)])
    with pytest.raises(CatalogError, match="the disk is full") as caught:
        make_image(catalog, layers=[layer])
    assert caught.value.hint
    assert [image.reference for image in catalog.images()] == ["web:1"]
    assert catalog.recipes() == ["web"]


def test_file_that_is_something_else_is_refused_and_kept(path, url):
    path.parent.mkdir()
    path.write_text("Dear diary, " * 500)
    for read_only in (False, True):
        with pytest.raises(CatalogError, match=f"the catalog sqlite {path} is not a database"):
            Catalog.open(url, actor="ann", read_only=read_only)
    assert path.read_text() == "Dear diary, " * 500


def test_damaged_file_is_reported(path, url):
    with Catalog.open(url, actor="ann") as catalog:
        make_image(catalog)
    content = bytearray(path.read_bytes())
    content[4096:] = random.Random(1).randbytes(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(CatalogError, match=r"is damaged|not a database|malformed"):  # noqa: SIM117
        with Catalog.open(url, actor="ann") as catalog:
            catalog.images()


def test_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CatalogError, match="cannot be made: File exists"):
        Catalog.open(f"sqlite:///{tmp_path}/file/catalog.db", actor="ann")


def test_folder_in_place_of_the_file_is_reported(path, url):
    path.mkdir(parents=True)
    with pytest.raises(CatalogError, match="cannot be opened"):
        Catalog.open(url, actor="ann")


def test_path_with_odd_characters(tmp_path):
    url = f"sqlite:///{tmp_path}/a b%20c?mode=x#ü/catalog.db"
    with Catalog.open(url, actor="ann") as catalog:
        make_image(catalog)
    with Catalog.open(url, actor="ann", read_only=True) as catalog:
        assert catalog.recipes() == ["web"]
    assert (tmp_path / "a b%20c?mode=x#ü" / "catalog.db").is_file()


@pytest.mark.parametrize("url", ["catalog.db", "mysql://root:secret@db/baker", "sqlite:///", "sqlite://", ""])
def test_address_of_another_kind_is_refused_without_repeating_it(url):
    with pytest.raises(CatalogError) as caught:
        Catalog.open(url, actor="ann")
    assert "secret" not in str(caught.value)
    assert "sqlite:////" in caught.value.hint


def test_server_that_does_not_answer_is_reported_without_its_password():
    with pytest.raises(CatalogError) as caught:
        Catalog.open("postgresql://ann:secret@127.0.0.1:1/baker", actor="ann")
    message = str(caught.value)
    assert message.startswith("the catalog postgresql://ann@127.0.0.1:1/baker cannot be reached")
    assert "secret" not in message


def test_undecodable_words_of_a_command_are_kept_readable(catalog):
    catalog.start_bake(id="01J", recipe="web", target="local", arch="amd64", log_path="/log")
    catalog.finish_bake("01J", Outcome.FAILED, None, "caf\udce9 \0 failed")
    assert catalog.bake("01J").error == "caf\\udce9 \\0 failed"


# --- many processes -------------------------------------------------------------------------------

WORKER = """
    import json, random, sys, time
    from baker.catalog import Catalog
    from baker.errors import ConflictError
    from tests.factories import make_build, make_file, make_image, make_layer, make_package, make_resource

    url, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    chance = random.Random(name)
    with Catalog.open(url, actor=name) as catalog:
        for number in range(count):
            bake_id = f"{name}-{number}"
            catalog.intend(bake_id, make_resource())
            build = make_build(id=bake_id)
            packages = [make_package(f"p{chance.randrange(30)}", str(chance.randrange(3))) for _ in range(10)]
            layers = [make_layer(make_file("/base")), make_layer(make_file("/top", bake_id))]
            image = make_image(catalog, build=build, layers=layers, packages=packages)
            catalog.removed(bake_id, make_resource())
            print(json.dumps(["version", image.version]), flush=True)
            held = catalog.channel("web", "prod")
            time.sleep(chance.random() / 100)
            try:
                move = catalog.promote(
                    "web", image.version, "prod", expected_revision=held[1] if held else None
                )
                assert move.revision == (held[1] if held else 0) + 1, "a move was lost"
                print(json.dumps(["move", move.revision]), flush=True)
            except ConflictError:
                print(json.dumps(["conflict", 0]), flush=True)
"""


def read_events(output, kind):
    events = [json.loads(line) for line in output.splitlines() if line.endswith("]")]
    return [number for event, number in events if event == kind]


def assert_histories_are_contiguous(catalog):
    versions = [image.version for image in catalog.images("web")]
    assert versions == list(range(len(versions), 0, -1))
    history = catalog.channel_history("web", "prod")[::-1]
    assert [move.revision for move in history] == list(range(1, len(history) + 1))
    assert [move.from_version for move in history] == [None, *[move.to_version for move in history[:-1]]]
    assert catalog.channel("web", "prod") == (history[-1].to_version, len(history))


def assert_builds_are_whole(catalog):
    for image in catalog.images("web"):
        (build,) = image.builds
        manifest = catalog.manifest(build.id)
        assert [file.path for file in manifest.files] == ["/base", "/top"]
        assert manifest.packages


def test_processes_at_once_give_every_version_once_and_lose_no_move(url, catalog):
    workers = [start_python(WORKER, url, f"worker{number}", 12) for number in range(6)]
    outputs = [end_python(worker) for worker in workers]
    versions = sorted(version for output in outputs for version in read_events(output, "version"))
    assert versions == list(range(1, 73))
    revisions = sorted(revision for output in outputs for revision in read_events(output, "move"))
    assert revisions == list(range(1, len(revisions) + 1))
    conflicts = sum(len(read_events(output, "conflict")) for output in outputs)
    assert len(revisions) + conflicts == 72
    assert_histories_are_contiguous(catalog)
    assert_builds_are_whole(catalog)
    assert len(catalog.channel_history("web", "prod")) == len(revisions)
    assert catalog.open_entries() == []


def test_killed_processes_leave_nothing_half_written(url, catalog):
    chance = random.Random(7)
    said = []
    for number in range(5):
        worker = start_python(WORKER, url, f"killed{number}", 1000)
        lines = [worker.stdout.readline() for _ in range(chance.randrange(3, 12))]
        time.sleep(chance.random() / 50)
        worker.kill()
        rest, _ = worker.communicate()
        said += read_events("".join(lines) + rest, "version")
    images = catalog.images("web")
    assert {image.version for image in images} >= set(said)
    assert len(said) >= 5
    assert_histories_are_contiguous(catalog)
    assert_builds_are_whole(catalog)
    registered = {build.id for image in images for build in image.builds}
    for entry in catalog.open_entries():
        assert entry.resource == make_resource()
        assert entry.bake_id not in registered or entry.bake_id == max(
            (build for build in registered if build.startswith(entry.bake_id.split("-")[0])),
            key=lambda build: int(build.split("-")[1]),
        )
    with Catalog.open(url, actor="ann", lock_seconds=1) as next_one:
        assert make_image(next_one).version == len(images) + 1
        assert next_one.resolve(Reference(recipe="web")).version == len(images) + 1
