"""A connection to the catalog's database: transactions, errors in words, the schema's revision.

What differs between SQLite and PostgreSQL is here, in ``engines.py`` and, their errors, in ``refusals.py``.
"""

from __future__ import annotations

import functools
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy
from sqlalchemy import Connection, Engine, QueuePool, Table, event, exc, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.util import immutabledict

from baker.catalog.columns import Moment
from baker.catalog.refusals import explain
from baker.catalog.schema import REVISION, REVISION_TABLE
from baker.errors import CatalogError, CatalogMissing

T = TypeVar("T")

SQLITE = "sqlite:///"
POSTGRESQL = ("postgresql://", "postgres://")
URL_HINT = "A catalog is sqlite:////absolute/path.db or postgresql://user@host/database."
FIRST_BAKE = "The first bake makes it: baker bake."
MIGRATE = "Bring it up to date, as a user who may write to it: baker catalog migrate"
SNAPSHOT_TRIES = 20
KEEPALIVE = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60000,
}
"""A PostgreSQL server that vanished without a word is noticed within a minute."""


class Database:
    """Runs reads and writes as one transaction each. Threads may share it; processes open their own.

    ``description`` names the catalog to people, without a password.
    """

    def __init__(
        self, url: str, *, read_only: bool = False, lock_seconds: float = 30.0, any_schema: bool = False
    ) -> None:
        """Connects and brings the schema up to date; ``lock_seconds`` is how long a write waits for others.

        ``any_schema`` leaves it as it is, for a look at it.

        Raises CatalogError: the address is wrong or cannot be reached, it is not a catalog, its schema is
        newer than this code, or reading alone cannot make it or bring it up to date.
        """
        self._path: Path | None = None
        self._turn = threading.Lock()
        self._lock_seconds = lock_seconds
        if url.startswith(SQLITE):
            if url == SQLITE:
                raise CatalogError("the address of the catalog names no file", hint=URL_HINT)
            self._path = Path(url.removeprefix(SQLITE)).absolute()
            self.description = f"sqlite {self._path}"
            self._engine = _make_sqlite_engine(self._path, read_only=read_only, lock_seconds=lock_seconds)
            self._read_options: Mapping[str, Any] = {}
        else:
            self._engine = _make_postgresql_engine(url, lock_seconds=lock_seconds)
            address = self._engine.url._replace(drivername="postgresql", password=None, query=immutabledict())
            self.description = address.render_as_string()
            # Several statements of one read see one state, as they do in SQLite.
            self._read_options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._read_only = read_only
        try:
            if not any_schema:
                self._check_revision()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._engine.dispose()

    def read(self, query: Callable[[Connection], T]) -> T:
        """What ``query`` returns; it sees one state of the catalog, and may be called again."""
        for _ in range(SNAPSHOT_TRIES):
            before = self._stamp_file()
            try:
                with self._connect(self._read_options) as connection:
                    torn = isinstance(connection.connection.driver_connection, _Snapshot)
                    result = query(connection)
            except CatalogError:
                if self._stamp_file() == before:
                    raise
                continue
            if not torn or self._stamp_file() == before:
                return result
        raise CatalogError(
            f"the catalog {self.description} kept changing while it was read",
            hint="Try it again in a moment.",
        )

    def write(self, change: Callable[[Connection], T], *, durable: bool = False) -> T:
        """What ``change`` returns; all of it is committed, or nothing if it raises.

        ``durable`` writes survive a power cut from the moment this returns; others survive a crash of
        every process, and a power cut a little later.
        """
        if self._read_only:
            raise CatalogError(f"the catalog {self.description} was opened for reading only")
        options = {"catalog_begin": "BEGIN IMMEDIATE", "catalog_synchronous": "FULL" if durable else "NORMAL"}
        with self._in_turn(), self._connect(options) as connection:
            return change(connection)

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """One thread of this process after the other, where the database cannot have it so.

        SQLite has those who wait ask again and again, and one of hundreds may never be lucky.
        """
        if self._path is None:
            yield
            return
        taken = self._turn.acquire(timeout=self._lock_seconds)
        try:
            yield  # without its turn it waits as other processes do
        finally:
            if taken:
                self._turn.release()

    @contextmanager
    def _connect(self, options: Mapping[str, Any]) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(**options) as connection, connection.begin():
                yield connection
        except exc.DBAPIError as error:  # anything else is a fault of ours, and must look like one
            raise explain(error, self.description) from error

    def _stamp_file(self) -> tuple[int, int, int] | None:
        """Moves whenever a writer moved pages into a SQLite file that we read without its locks."""
        if self._path is None or not self._read_only:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    # --- the schema -------------------------------------------------------------------------------

    def _check_revision(self) -> None:
        found = self.read(read_revision)
        if found == REVISION:
            return
        require_known(found, self.description)
        if self._read_only and found is None:
            raise CatalogMissing(f"the catalog {self.description} is empty", hint=FIRST_BAKE)
        if self._read_only:
            raise CatalogError(
                f"the catalog {self.description} has the older schema {found}",
                hint=MIGRATE,
            )
        self.write(_migrate, durable=True)


def require_known(revision: str | None, description: str) -> None:
    """Raises CatalogError for a schema that is newer than this code."""
    if revision is not None and revision > REVISION:
        raise CatalogError(
            f"the catalog {description} has schema {revision}: this baker knows none after {REVISION}",
            hint="Update baker: a newer version has written to this catalog.",
        )


def read_revision(connection: Connection) -> str | None:
    """The revision of the schema that is there; None in an empty database."""
    if not connection.dialect.has_table(connection, REVISION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {REVISION_TABLE}")).scalar()


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # SQLite's write transaction is a lock already
        connection.execute(text("SELECT pg_advisory_xact_lock(7119620511)"))
    if (read_revision(connection) or "") < REVISION:
        from baker.catalog.migrations import upgrade  # imported here: Alembic takes 0.2 s

        upgrade(connection)


class DatabaseNow(FunctionElement[datetime]):
    """The time by the clock of the database, one for every host: ``Moment`` text, as columns hold it."""

    type = Moment()
    inherit_cache = True


@compiles(DatabaseNow, "sqlite")
def _compile_sqlite_now(*_: Any, **__: Any) -> str:
    return "strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now')"


@compiles(DatabaseNow, "postgresql")
def _compile_postgresql_now(*_: Any, **__: Any) -> str:
    # Of the statement, not of the transaction: that may have waited for somebody else's.
    moment = "statement_timestamp() AT TIME ZONE 'UTC'"
    return f"""to_char({moment}, 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')"""


def lock_table(connection: Connection, target: Table) -> None:
    """Nobody else writes to it or locks rows of it before the transaction ends; SQLite is locked already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"LOCK TABLE {target.name} IN EXCLUSIVE MODE"))


def insert_ignoring(connection: Connection, target: Table, rows: list[dict[str, Any]]) -> None:
    """Insert the rows; those that are there already stay as they are."""
    if rows:
        connection.execute(_insert(connection, target).on_conflict_do_nothing(), rows)


def insert_or_update(
    connection: Connection, target: Table, key: list[str], rows: list[dict[str, Any]]
) -> None:
    """Insert the rows; one whose ``key`` is there already gets all the other values."""
    if rows:
        statement = _insert(connection, target)
        values = {name: statement.excluded[name] for name in rows[0] if name not in key}
        connection.execute(statement.on_conflict_do_update(index_elements=key, set_=values), rows)


def _insert(connection: Connection, target: Table) -> Any:
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(target)
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert(target)


# --- SQLite -------------------------------------------------------------------------------------


class _Snapshot(sqlite3.Connection):
    """A connection that takes no locks and does not look for other writers' changes."""


def _make_sqlite_engine(path: Path, *, read_only: bool, lock_seconds: float) -> Engine:
    if read_only:
        require_file(path)
        connect = functools.partial(_connect_reader, path, lock_seconds)
    else:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CatalogError(
                f"the folder of the catalog {path} cannot be made: {error.strerror}",
                hint="Run it with sudo, or set BAKER_HOME to a folder of yours.",
            ) from error
        connect = functools.partial(_connect_writer, path, lock_seconds)
    engine = sqlalchemy.create_engine(
        "sqlite://", creator=connect, json_serializer=_serialize, poolclass=QueuePool, max_overflow=-1
    )
    event.listen(engine, "begin", _begin)
    event.listen(engine, "checkin", _drop_snapshot)
    return engine


def _drop_snapshot(connection: object, record: Any) -> None:
    """Each read takes a new one: a snapshot never sees what others write later."""
    if isinstance(connection, _Snapshot):
        record.invalidate()


def require_file(path: Path) -> None:
    """Raises CatalogMissing, or CatalogError where this user may not look."""
    try:
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        raise CatalogMissing(f"there is no catalog {path} yet", hint=FIRST_BAKE) from None
    except OSError as error:
        raise CatalogError(
            f"the catalog {path} cannot be read: {error.strerror}",
            hint="Run it with sudo, or ask its owner to let you read it.",
        ) from error


def _connect_writer(path: Path, lock_seconds: float) -> sqlite3.Connection:
    # isolation_level=None: the driver begins nothing on its own, _begin does.
    connection = sqlite3.connect(path, timeout=lock_seconds, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        deadline = time.monotonic() + lock_seconds
        while connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            try:  # two that make the same file: SQLite refuses one without waiting
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_reader(path: Path, lock_seconds: float) -> sqlite3.Connection:
    """Read with locks where possible.

    Who may not write the folder cannot make the files of the write-ahead log. While no writer has it open
    the log is empty and everything is in the one file; then that is read as it is, and ``Database.read``
    looks whether it was changed meanwhile.
    """
    address = f"file:{quote(str(path))}"
    settings: dict[str, Any] = {"uri": True, "isolation_level": None, "check_same_thread": False}
    locked = f"{address}?mode=ro"
    connection: sqlite3.Connection = sqlite3.connect(locked, timeout=lock_seconds, **settings)
    try:
        connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        log = path.with_name(f"{path.name}-wal")
        refused = error.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY"))
        if not refused:
            raise
        if log.exists() and log.stat().st_size > 0:
            raise CatalogError(
                f"the catalog {path} was left with changes that are not in its file yet, "
                "and this user may not write them there",
                hint="Let its owner run any command once (sudo baker status), then try it again.",
            ) from error
        return _Snapshot(f"{address}?immutable=1", **settings)
    except BaseException:
        connection.close()
        raise
    return connection


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if "catalog_synchronous" in options:
        connection.exec_driver_sql(f"PRAGMA synchronous = {options['catalog_synchronous']}")
    connection.exec_driver_sql(options.get("catalog_begin", "BEGIN"))


# --- PostgreSQL ---------------------------------------------------------------------------------


def _make_postgresql_engine(url: str, *, lock_seconds: float) -> Engine:
    scheme, _, rest = url.partition("://")
    if f"{scheme}://" not in POSTGRESQL:
        raise CatalogError(f'"{scheme}:…" is not the address of a catalog', hint=URL_HINT)
    settings = f"-c lock_timeout={int(lock_seconds * 1000)}"
    try:
        return sqlalchemy.create_engine(
            f"postgresql+psycopg://{rest}",
            connect_args={"options": settings, "connect_timeout": 10, **KEEPALIVE},
            json_serializer=_serialize,
            max_overflow=-1,
            # A bake says nothing for minutes: what a firewall or a restart cut off meanwhile is made anew.
            pool_pre_ping=True,
        )
    except exc.ArgumentError as error:
        raise CatalogError("the address of the catalog cannot be understood", hint=URL_HINT) from error
    except ModuleNotFoundError as error:
        raise CatalogError(
            "a catalog on PostgreSQL needs psycopg, which is not installed",
            hint="pip install 'baker[postgresql]'",
        ) from error


def _serialize(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
