"""A catalog moves between databases and schemas without loss, on both engines."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert

from baker import identity
from baker.catalog import Catalog, schema
from baker.catalog.database import Database
from baker.catalog.describing import describe_catalog, migrate_catalog, read_schema
from baker.catalog.exporting import CRC_BYTES, seal_line
from baker.catalog.logs import KEPT
from baker.catalog.migrations import configure_alembic
from baker.deploy.release import ReleaseState
from baker.errors import CatalogError, ConflictError
from baker.knowledge import ProjectKnowledge, explain_absence
from baker.log import pack_log
from baker.model import Artifact, ImageStatus, Outcome, Reference, Stage
from baker.settings import load_settings
from tests.e2e.project import Project, make_project
from tests.factories import (
    NOON,
    make_artifact,
    make_build,
    make_file,
    make_image,
    make_layer,
    make_package,
    make_provenance,
    make_release,
    make_resource,
)
from tests.postgresql import ENGINES

STORE_1 = Path(__file__).parents[1] / "data" / "store-1" / "catalog.sql"
SEVERAL = (("local", "amd64"), ("aws", "amd64"))
NewUrl = Callable[[str], str]


def fill(catalog: Catalog) -> None:
    """Something in every table, with what is odd: every state, null, text that is hard to write down."""
    make_image(catalog, "base", layers=[make_layer(make_file("/base"))], packages=[make_package("libc6")])
    odd = make_provenance(
        inputs={"file:caf\udce9": "absent", "recipe:größe": "\0"},
        commit="c0ffee",
        dirty=True,
        opaque='it ran "git"\n',
        parent_build="01JPARENT",
    )
    local = make_build(provenance=odd, image_tests={"test:test_image.py": "v1"}, size_bytes=5 << 32)
    layers = [make_layer(make_file("/base")), make_layer(make_file("/odd \udce9\n"), removed=["/tmp/x"])]
    packages = [make_package(f"p{number}", "1:2~rc3") for number in range(30)]
    make_image(catalog, build=local, layers=layers, packages=packages, wanted=SEVERAL)
    aws = make_build(target="aws", artifacts=(make_artifact(id="ami-1", target="aws", details={"é": [1.5]}),))
    make_image(catalog, build=aws, wanted=SEVERAL)
    for number, status in enumerate(ImageStatus):
        image = make_image(catalog, carry=[aws.id], available=status is not ImageStatus.REGISTERED)
        assert image.version == number + 2
        change = schema.images.update().where(schema.images.c.version == image.version)
        run(
            catalog, change.values(status=status, status_reason=f"{status} “because”\n", deprecated_from=NOON)
        )
    catalog.start_bake(id="01JBAKE", recipe="web", target="local", arch="amd64", log_path="/logs/a")
    catalog.begin_stage("01JBAKE", Stage.CAPTURE)
    catalog.end_stage("01JBAKE", Stage.CAPTURE, "done", 0.1 + 0.2)
    catalog.finish_bake("01JBAKE", Outcome.FAILED, None, "caf\udce9 \0 failed")
    catalog.keep_log("01JBAKE", bytes(range(256)))
    catalog.start_bake(id="01JLIVES", recipe="web", target="local", arch="amd64", log_path="/logs/b")
    catalog.intend("01JLIVES", make_resource(details={"token": "t"}))
    catalog.exists("01JLIVES", make_resource("machine-2"))
    catalog.removed("01JLIVES", make_resource("machine-2"))
    run(catalog, insert(schema.package_states).values(build=1, content=bytes(range(256))))
    who = {"actor": "bob", "at": NOON}
    move = {"recipe": "web", "channel": "prod", "to_version": 1, **who}
    run(catalog, insert(schema.channels).values(recipe="web", name="prod", version=1, revision=2))
    run(catalog, insert(schema.channel_moves).values(revision=1, overridden=["tests"], reason=None, **move))
    run(catalog, insert(schema.channel_moves).values(revision=2, from_version=1, reason="it’s\tit", **move))
    run(catalog, insert(schema.channel_protections).values(recipe="", channel="prod", rules={"a": 1}, **who))
    run(catalog, insert(schema.image_labels).values(image=1, key="approved-by", value="bob", **who))
    run(catalog, insert(schema.image_events).values(image=1, event="deprecated", reason="old", **who))
    lease = {"id": "01JLEASE", "image": 1, "owner": "web-prod", "actor": "bob", "created": NOON}
    run(catalog, insert(schema.leases).values(expires=NOON + timedelta(days=1), **lease))
    catalog.start_run("01JRUN", "nightly", "/srv/größe", {"recipes": None, "jobs": 2})
    catalog.record_results("01JRUN", {("web", "local", "amd64"): {"error": "caf\\udce9 “failed”\n"}})
    catalog.finish_run("01JRUN", "failed", {"seconds": 1.5})
    catalog.start_run("01JRUNS", "bake", "/srv", {})
    make_release(catalog, environment="demo", release_id="01JONE", image=catalog.image("base", 1))
    make_release(catalog, environment="demo", release_id="01JTWO", image=catalog.image("base", 1), window=9.5)
    catalog.note_born("01JTWO", {"größe": [1.5, None]})
    catalog.note_audit("01JTWO", {"3-1": {"drift": ["/etc/caf\udce9"]}})
    make_release(
        catalog,
        environment="demo",
        release_id="01JTHREE",
        image=catalog.image("base", 1),
        state=ReleaseState.STARTING,
        settings={"port": 80},
    )
    catalog.request_abort("demo", "no “good”\n")
    catalog.retire_release("01JTHREE", reason="no\0good", failed=True, details={"log": "caf\udce9"})
    catalog.hold_lock("nightly", "01JRUN", seconds=60, store="builder-1:/var/lib/baker#00", pid=7)


def run(catalog: Catalog, statement: sqlalchemy.Executable) -> None:
    catalog._database.write(lambda connection: connection.execute(statement))


def export(url: str) -> bytes:
    with Catalog.open(url, actor="ann", read_only=True) as catalog:
        file = io.BytesIO()
        catalog.export_to(file)
        return file.getvalue()


def import_into(url: str, content: bytes) -> dict[str, int]:
    with Catalog.open(url, actor="ann") as catalog:
        return dict(catalog.import_from(io.BytesIO(content), name="file"))


def without_header(content: bytes) -> bytes:
    return content.partition(b"\n")[2]


@pytest.fixture
def filled_url(catalog_url: str) -> str:
    with Catalog.open(catalog_url, actor="ann") as catalog:
        fill(catalog)
    return catalog_url


# --- export and import ------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [ENGINES, ENGINES[::-1]], ids=lambda engine: engine)
def test_catalog_that_goes_there_and_back_is_the_same(new_url: NewUrl, first: str, second: str) -> None:
    here, there, back = new_url(first), new_url(second), new_url(first)
    with Catalog.open(here, actor="ann") as catalog:
        fill(catalog)
    content = export(here)
    rows = import_into(there, content)
    assert rows.keys() == schema.metadata.tables.keys()
    assert all(rows.values()), "the test writes something into every table"
    moved = export(there)
    assert without_header(moved) == without_header(content)
    assert moved != content, "the header names the catalog"
    import_into(back, moved)
    assert without_header(export(back)) == without_header(content)
    with Catalog.open(here, actor="ann") as one, Catalog.open(back, actor="ann") as other:
        assert one.images() == other.images()
        assert one.bakes() == other.bakes()
        assert one.open_entries() == other.open_entries()
        assert one.environments() == other.environments()
        assert one.environment_events("demo") == other.environment_events("demo")
        build = one.image("web", 1).builds[0]
        assert one.manifest(build.id) == other.manifest(build.id)


def test_catalog_goes_on_after_an_import(new_url: NewUrl) -> None:
    source = new_url("sqlite")
    with Catalog.open(source, actor="ann") as catalog:
        fill(catalog)
    content = export(source)
    for engine in ENGINES:
        with Catalog.open(new_url(engine), actor="ann") as catalog:
            catalog.import_from(io.BytesIO(content), name="file")
            newest = catalog.images("web")[0].version
            image = make_image(
                catalog,
                layers=[make_layer(make_file("/new"))],
                packages=[make_package("new"), make_package("p1")],
            )
            assert image.version == newest + 1
            assert catalog.images()[0] == image
            catalog.intend("01JLIVES", make_resource("machine-3"))
            assert catalog.open_entries()[-1].resource.id == "machine-3"


def test_import_into_what_is_not_empty_is_refused_and_changes_nothing(
    filled_url: str, new_url: NewUrl
) -> None:
    other = new_url("sqlite")
    with Catalog.open(other, actor="ann") as catalog:
        make_image(catalog, "other")
    content = export(filled_url)
    before = export(other)
    with pytest.raises(ConflictError, match="is not empty: it has 1 rows of") as caught:
        import_into(other, content)
    assert "--catalog" in str(caught.value.hint)
    assert without_header(export(other)) == without_header(before)


def tamper(content: bytes, what: str) -> tuple[bytes, str]:
    """A damaged export, and what the refusal says."""
    lines = content.splitlines(keepends=True)
    last = len(lines)
    middle = last // 2
    damaged: dict[str, tuple[list[bytes], str]] = {
        "cut in a line": ([*lines[:middle], lines[middle][:20]], f"line {middle + 1}: the line is not whole"),
        "cut between lines": (lines[:middle], f"line {middle + 1}: the file ends here"),
        "empty": ([], "line 1: the file ends here"),
        "changed": (
            [*lines[:middle], lines[middle].replace(b'"row":', b'"row" :'), *lines[middle + 1 :]],
            f"line {middle + 1}: the line was changed",
        ),
        "a line less": ([*lines[: last - 2], lines[last - 1]], f"line {last - 1}: the lines above hold"),
        "two swapped": (
            [*lines[: last - 3], lines[last - 2], lines[last - 3], lines[last - 1]],
            f"line {last}: the lines above are not those that were written",
        ),
        "something after": ([*lines, lines[1]], f"line {last + 1}: something follows the end"),
        "no JSON": ([lines[0], b"Dear diary\n", *lines[1:]], "line 2: this is not JSON"),
        "another file": ([b'{"name": "baker"}\n'], "line 1: this is not an export of a catalog"),
        "a list": ([b"[]\n"], "line 1: this is not a line of an export"),
        "newer format": ([lines[0].replace(b'log":1', b'log":2'), *lines[1:]], "line 1: a newer baker wrote"),
        "newer schema": (
            [re.sub(rb'"schema":"\d+"', b'"schema":"9999"', lines[0]), *lines[1:]],
            "line 1: a newer baker wrote this: format 1, schema 9999",
        ),
        "strange table": (
            [lines[0], seal_line(b'{"table":"secrets","row":{}}\n'), *lines[1:]],
            "line 2: the catalog has no table 'secrets'",
        ),
        "strange column": (
            [lines[0], seal_line(b'{"table":"recipes","row":{"colour":"red"}}\n'), *lines[1:]],
            "line 2: recipes has no colour",
        ),
        "nothing where something must be": (
            [lines[0], seal_line(b'{"table":"recipes","row":{"name":"x"}}\n'), *lines[1:]],
            "line 2: this is not a row of recipes",
        ),
    }
    found, message = damaged[what]
    return b"".join(found), message


DAMAGES = (
    "cut in a line",
    "cut between lines",
    "empty",
    "changed",
    "a line less",
    "two swapped",
    "something after",
    "no JSON",
    "another file",
    "a list",
    "newer format",
    "newer schema",
    "strange table",
    "strange column",
    "nothing where something must be",
)


def test_export_that_is_not_whole_and_sound_is_refused_with_its_line(new_url: NewUrl) -> None:
    source, target = new_url("sqlite"), new_url("postgresql")
    with Catalog.open(source, actor="ann") as catalog:
        fill(catalog)
    content = export(source)
    for what in DAMAGES:
        damaged, message = tamper(content, what)
        for url in (target, new_url("sqlite")):
            with pytest.raises(CatalogError, match=re.escape(f"file, {message}")) as caught:
                import_into(url, damaged)
            assert caught.value.hint, what
            assert describe_catalog(url).contents.counts["recipes"] == 0, what  # type: ignore[union-attr]
    assert import_into(target, content)["recipes"] == 2, "after all that it can still be imported"


def test_row_that_does_not_fit_is_refused_with_its_line(catalog_url: str, new_url: NewUrl) -> None:
    with Catalog.open(new_url("sqlite"), actor="ann") as catalog:
        file = io.BytesIO()
        catalog.export_to(file)
    header, trailer = file.getvalue().splitlines(keepends=True)
    orphan = seal_line(b'{"table":"channels","row":{"recipe":"x","name":"y","version":1,"revision":1}}\n')
    with pytest.raises(CatalogError, match="file, line 2: a row from here on does not fit"):
        import_into(catalog_url, header + orphan + trailer)


def test_export_of_an_older_schema_lacks_what_came_later(new_url: NewUrl) -> None:
    url = new_url("sqlite")
    with Catalog.open(url, actor="ann") as catalog:
        make_image(catalog)
    content = export(url).replace(b'"schema":"0005"', b'"schema":"0002"', 1)
    lines = content.splitlines(keepends=True)
    changed = [
        seal_line(re.sub(rb',"deprecated_from":null', b"", line)[: -CRC_BYTES - 1] + b"}\n")
        for line in lines[1:-1]
    ]
    end = json.loads(lines[-1])
    end["end"]["digest"] = f"sha256:{hashlib.sha256(b''.join(changed)).hexdigest()}"
    other = new_url("sqlite")
    import_into(other, b"".join([lines[0], *changed, json.dumps(end).encode() + b"\n"]))
    assert without_header(export(other)) == without_header(export(url))


def test_export_sees_one_state_while_others_write(catalog_url: str) -> None:
    with Catalog.open(catalog_url, actor="ann") as catalog:
        for _ in range(3):
            make_image(catalog, packages=[make_package("a")])

        class Interrupting(io.BytesIO):
            """Somebody registers another image as soon as the first lines are out."""

            def write(self, data: Any) -> int:
                if self.tell() == 0:
                    written = super().write(data)
                    make_image(catalog, "other", packages=[make_package("b")])
                    return written
                return super().write(data)

        file = Interrupting()
        with Catalog.open(catalog_url, actor="bob", read_only=True) as reader:
            rows = reader.export_to(file)
        assert (rows["images"], rows["recipes"]) == (3, 1) or (rows["images"], rows["recipes"]) == (4, 2)
        assert len(catalog.images()) == 4
    content = file.getvalue()
    assert content.count(b'"table":"images"') == rows["images"] == content.count(b'"table":"artifacts"')


MEMORY = """
    import resource, sys
    from baker.catalog import Catalog
    with Catalog.open(sys.argv[1], actor="ann", read_only=sys.argv[2] == "export") as catalog:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if sys.argv[2] == "export":
            with open(sys.argv[3], "w+b") as file:
                catalog.export_to(file)
        else:
            with open(sys.argv[3], "rb") as file:
                catalog.import_from(file, name="file")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_catalog(tmp_path: Path, new_url: NewUrl) -> None:
    """30 MB of layers go through some MB."""
    source = new_url("sqlite")
    with Catalog.open(source, actor="ann") as catalog:
        make_image(catalog)
        blob = os.urandom(500_000)
        rows = [{"digest": f"sha256:{number}", "content": blob} for number in range(60)]
        run_many(catalog, schema.layers, rows)
        numbers = range(1, 2001)
        run_many(catalog, schema.packages, [package_row(number) for number in numbers])
        links = [{"build": 1, "package": number} for number in numbers]
        run_many(catalog, schema.build_packages, links)
    file = tmp_path / "export.jsonl"

    def grow(url: str, verb: str) -> int:
        argv = [sys.executable, "-c", textwrap.dedent(MEMORY), url, verb, str(file)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        return int(done.stdout)

    there = new_url("postgresql")
    grown = {
        "export sqlite": grow(source, "export"),
        "import postgresql": grow(there, "import"),
        "export postgresql": grow(there, "export"),
        "import sqlite": grow(new_url("sqlite"), "import"),
    }
    assert file.stat().st_size > 40_000_000
    assert {what: kilobytes for what, kilobytes in grown.items() if kilobytes > 25_000} == {}


def run_many(catalog: Catalog, table: sqlalchemy.Table, rows: list[dict[str, Any]]) -> None:
    catalog._database.write(lambda connection: connection.execute(insert(table), rows))


def package_row(number: int) -> dict[str, Any]:
    names = ("name", "version", "source", "source_version")
    return {"key": str(number), "type": "deb", "arch": "all", **dict.fromkeys(names, "x")}


# --- schemas ------------------------------------------------------------------------------------------


def load_store_1(url: str, revision: str) -> None:
    """The rows that the first release wrote, where its migration made the tables; then on to ``revision``."""
    with contextlib.closing(sqlite3.connect(":memory:")) as written:
        written.executescript(STORE_1.read_text())
        written.row_factory = sqlite3.Row
        database = Database(url, any_schema=True)
        try:
            database.write(lambda connection: _load(connection, written, revision))
        finally:
            database.close()


def _load(connection: sqlalchemy.Connection, written: sqlite3.Connection, revision: str) -> None:
    command.upgrade(configure_alembic(connection), "0001")
    made = sqlalchemy.MetaData()
    made.reflect(connection)
    made.remove(made.tables[schema.REVISION_TABLE])
    for table in made.sorted_tables:
        rows = [
            {column.name: _convert(column, row[column.name]) for column in table.columns}
            for row in written.execute(f"SELECT * FROM {table.name}")
        ]
        if rows:
            connection.execute(insert(table), rows)
        if connection.dialect.name == "postgresql" and "number" in table.columns and rows:
            sequence = f"pg_get_serial_sequence('{table.name}', 'number')"
            highest = max(row["number"] for row in rows)
            connection.execute(sqlalchemy.text(f"SELECT setval({sequence}, {highest})"))
    command.upgrade(configure_alembic(connection), revision)


def _convert(column: sqlalchemy.Column[Any], value: Any) -> Any:
    if isinstance(column.type, sqlalchemy.Boolean) and value is not None:
        return bool(value)
    return json.loads(value) if isinstance(column.type, sqlalchemy.JSON) and value is not None else value


@pytest.mark.parametrize("revision", ["0001", "0002", "0004"])
def test_every_released_schema_is_migrated_forward_to_the_same_on_both_engines(
    new_url: NewUrl, revision: str
) -> None:
    exports = []
    for engine in ENGINES:
        url = new_url(engine)
        load_store_1(url, revision)
        assert read_schema(url) == revision
        assert describe_catalog(url).contents is None
        with pytest.raises(CatalogError, match=f"has the older schema {revision}") as caught:
            Catalog.open(url, actor="bob", read_only=True)
        assert "baker catalog migrate" in str(caught.value.hint)
        migrate_catalog(url)
        assert read_schema(url) == schema.REVISION
        with Catalog.open(url, actor="bob", read_only=True) as catalog:
            assert catalog.resolve(Reference(recipe="web", channel="prod")).reference == "web:1"
            assert [entry.bake_id for entry in catalog.open_entries()] == ["01J00000000000000000000009"]
        exports.append(without_header(export(url)))
        with Catalog.open(url, actor="bob") as catalog:
            assert make_image(catalog, "web").version == 2
    assert exports[0] == exports[1]


def test_migrations_make_the_schema_that_the_code_knows(catalog_url: str) -> None:
    def compare(connection: sqlalchemy.Connection) -> list[Any]:
        options = {"version_table": schema.REVISION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, schema.metadata))

    with Catalog.open(catalog_url, actor="ann") as catalog:
        assert catalog._database.read(compare) == []


def test_newer_schema_is_refused_clearly_and_left_alone(filled_url: str) -> None:
    with Catalog.open(filled_url, actor="ann") as catalog:
        run(catalog, sqlalchemy.text(f"UPDATE {schema.REVISION_TABLE} SET version_num = '9999'"))
    for open_it in (
        lambda: Catalog.open(filled_url, actor="ann"),
        lambda: Catalog.open(filled_url, actor="ann", read_only=True),
        lambda: migrate_catalog(filled_url),
        lambda: read_schema(filled_url),
    ):
        with pytest.raises(CatalogError, match="has schema 9999: this baker knows none after") as caught:
            open_it()  # type: ignore[no-untyped-call]
        assert "Update baker" in str(caught.value.hint)
    assert describe_catalog(filled_url).schema == "9999"
    assert describe_catalog(filled_url).contents is None


# --- logs ---------------------------------------------------------------------------------------------


def test_catalog_keeps_the_logs_of_the_newest_bakes(
    catalog_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert KEPT == 1000
    monkeypatch.setattr("baker.catalog.logs.KEPT", 3)
    with Catalog.open(catalog_url, actor="ann") as catalog:
        for number in range(5):
            bake = f"01J{number}"
            catalog.start_bake(id=bake, recipe="web", target="local", arch="amd64", log_path="/log")
            assert catalog.kept_log(bake) is None
            catalog.keep_log(bake, f"log {number}".encode())
            catalog.keep_log(bake, f"log {number} again".encode())
        kept = [catalog.kept_log(f"01J{number}") for number in range(5)]
    assert kept == [None, None, b"log 2 again", b"log 3 again", b"log 4 again"]


# --- the command line -----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "project", tmp_path / "home")


def test_catalog_moves_to_the_team_s_server_by_commands(project: Project, postgresql_url: str) -> None:
    project.home.mkdir()
    with Catalog.open(f"sqlite:///{project.home}/catalog.db", actor="ann") as catalog:
        fill(catalog)
    before = project.json("catalog", "info")
    assert before["catalog"] == f"sqlite {project.home}/catalog.db"
    assert (before["images"]["available"], before["counts"]["recipes"]) == (3, 2)
    assert before["schema"] == before["known_schema"] == schema.REVISION
    said = project.run("catalog", "export", "backup.jsonl")
    assert "exported 7 images of 2 recipes" in said.stderr
    assert said.stdout == ""
    project.environ["BAKER_CATALOG"] = postgresql_url
    assert project.run("catalog", "migrate", "--check", status=3).stdout.startswith(
        "schema 0005: would be made"
    )
    assert project.run("catalog", "migrate").stdout.startswith("schema 0005: was made")
    assert project.run("catalog", "migrate", "--check").stdout == "schema 0005: up to date\n"
    imported = project.run("catalog", "import", "-", stdin=(project.folder / "backup.jsonl").read_text())
    assert imported.stdout.startswith("imported 7 images of 2 recipes")
    after = project.json("catalog", "info")
    assert after["engine"].startswith("PostgreSQL ")
    assert {**before, "catalog": 0, "engine": 0, "size_bytes": 0} == {
        **after,
        "catalog": 0,
        "engine": 0,
        "size_bytes": 0,
    }
    exported = project.run("catalog", "export").stdout.encode()
    assert without_header(exported) == without_header((project.folder / "backup.jsonl").read_bytes())
    refused = project.run("catalog", "import", "backup.jsonl", status=1)
    assert "is not empty" in refused.stderr
    lines = project.run("catalog", "info").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[3].startswith("size")


def test_export_never_leaves_half_a_file(project: Project) -> None:
    with Catalog.open(f"sqlite:///{project.home}/catalog.db", actor="ann") as catalog:
        fill(catalog)
    backup = project.folder / "backup.jsonl"
    backup.write_text("the one before")
    backup.chmod(0o600)
    project.run("catalog", "export", str(backup))
    whole = backup.read_bytes()
    assert backup.stat().st_mode & 0o777 == 0o600
    assert whole.endswith(b"}}\n")
    assert "No such file" in project.run("catalog", "export", "no/folder", status=1).stderr
    project.run("catalog", "export", "/dev/null")
    assert Path("/dev/null").is_char_device()
    assert project.json("catalog", "export", "other.jsonl")["rows"]["images"] == 7
    assert project.run("catalog", "export", "--json", status=2).stdout == ""
    assert sorted(path.name for path in project.folder.iterdir()) == [
        "backup.jsonl",
        "baker.toml",
        "other.jsonl",
    ]


def test_catalog_that_is_not_there_is_explained(project: Project) -> None:
    assert "there is no catalog" in project.run("catalog", "info", status=1).stderr
    assert "there is no catalog" in project.run("catalog", "export", status=1).stderr
    assert "cannot be read" in project.run("catalog", "import", "none.jsonl", status=2).stderr
    assert project.json("catalog", "migrate", "--check", status=3) == {
        "from": None,
        "to": schema.REVISION,
        "migrated": False,
    }
    assert not project.home.exists()


def test_teammate_reads_the_log_of_another_host(
    project: Project, postgresql_url: str, tmp_path: Path
) -> None:
    project.environ["BAKER_CATALOG"] = postgresql_url
    bake = "01JELSEWHERE"
    with Catalog.open(postgresql_url, actor="ann") as catalog:
        path = tmp_path / "gone.log"
        catalog.start_bake(
            id=bake, recipe="web", target="local", arch="amd64", log_path=str(path), host="builder-1"
        )
        running = project.run("logs", bake, status=1)
        assert "is not finished: until then its log is only on builder-1" in running.stderr
        assert f"baker logs --follow {bake}" in running.stderr
        path.write_text("first line\nlast line\n")
        catalog.keep_log(bake, pack_log(path))
        path.unlink()
        catalog.finish_bake(bake, Outcome.FAILED, None, "it broke")
    read = project.run("logs", bake)
    assert read.stdout == "first line\nlast line\n"
    assert f"the file is {path} on builder-1" in read.stderr


def test_image_in_another_machine_s_store_is_named_as_such(postgresql_url: str) -> None:
    build = make_build(artifacts=(make_artifact(store="builder-1:/var/lib/baker/local"),))
    where = "web:12 is on builder-1 (in the store /var/lib/baker/local), not on this host"
    assert explain_absence("web:12", build) == where
    here = make_build(artifacts=(make_artifact(store=f"{identity.host_name()}:/elsewhere/local"),))
    assert "was put into /elsewhere/local" in explain_absence("web:12", here)
    with Catalog.open(postgresql_url, actor="ann") as catalog:
        make_image(catalog, build=build)
        knowledge = ProjectKnowledge(
            catalog=catalog,
            providers={"local": Empty()},  # type: ignore[dict-item]
            settings=load_settings(None, {}),
            environ={},
        )
        why = knowledge.explain_no_build(Reference(recipe="web"), "local", "amd64")
        assert why == where.replace("web:12", "web:1")


class Empty:
    """A provider whose store holds nothing."""

    def holds(self, artifact: Artifact) -> bool:
        return artifact.store == "here"
