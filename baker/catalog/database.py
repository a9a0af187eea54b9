"""A connection to the catalog's database: transactions, errors in words, the schema's revision.

What differs between SQLite and PostgreSQL is here and nowhere else.
"""

from __future__ import annotations

import functools
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy
from sqlalchemy import Connection, Engine, NullPool, QueuePool, Table, event, exc, text
from sqlalchemy.util import immutabledict

from baker.catalog.schema import REVISION, REVISION_TABLE
from baker.errors import CatalogError

T = TypeVar("T")

SQLITE = "sqlite:///"
POSTGRESQL = ("postgresql://", "postgres://")
URL_HINT = "A catalog is sqlite:////absolute/path.db or postgresql://user@host/database."
SNAPSHOT_TRIES = 20


class Database:
    """Runs reads and writes as one transaction each. Threads may share it; processes open their own.

    ``description`` names the catalog to people, without a password.
    """

    def __init__(self, url: str, *, read_only: bool = False, lock_seconds: float = 30.0) -> None:
        """Connects and brings the schema up to date; ``lock_seconds`` is how long a write waits for others.

        Raises CatalogError: the address is wrong or cannot be reached, it is not a catalog, its schema is
        newer than this code, or reading alone cannot make it or bring it up to date.
        """
        self._path: Path | None = None
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
        with self._connect(options) as connection:
            return change(connection)

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
        if found is not None and found > REVISION:
            raise CatalogError(
                f"the catalog {self.description} has schema {found}: this baker knows none after {REVISION}",
                hint="Update baker: a newer version has written to this catalog.",
            )
        if self._read_only:
            state = "is empty" if found is None else f"has the older schema {found}"
            raise CatalogError(
                f"the catalog {self.description} {state}",
                hint="Run a command that writes to it first, as a user who may: baker bake.",
            )
        self.write(_migrate, durable=True)


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
        if not path.exists():
            raise CatalogError(f"there is no catalog {path} yet", hint="The first bake makes it: baker bake.")
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
    # A reader connects anew for each read: a snapshot never sees what others write later.
    pool: dict[str, Any] = (
        {"poolclass": NullPool} if read_only else {"poolclass": QueuePool, "max_overflow": -1}
    )
    engine = sqlalchemy.create_engine("sqlite://", creator=connect, json_serializer=_serialize, **pool)
    event.listen(engine, "begin", _begin)
    return engine


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
        if not refused or (log.exists() and log.stat().st_size > 0):
            raise
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
            connect_args={"options": settings, "connect_timeout": 10},
            json_serializer=_serialize,
            max_overflow=-1,
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


# --- errors -------------------------------------------------------------------------------------

SQLITE_ERRORS = {
    "SQLITE_BUSY": ("is locked by another process", "Wait for it to end, then try again."),
    "SQLITE_LOCKED": ("is locked by another process", "Wait for it to end, then try again."),
    "SQLITE_READONLY": (
        "cannot be written: it is read-only",
        "Run it with sudo, or as the owner of the file.",
    ),
    "SQLITE_PERM": ("may not be opened", "Run it with sudo, or as the owner of the file."),
    "SQLITE_CANTOPEN": ("cannot be opened", "Check that it is a file, and what you may do in its folder."),
    "SQLITE_FULL": ("cannot be written: the disk is full", "Free some space; nothing of this was applied."),
    "SQLITE_IOERR": ("cannot be read or written: the disk failed", "Look at the kernel's log: dmesg."),
    "SQLITE_NOTADB": ("is not a database", "Name another file, or move this one out of the way."),
    "SQLITE_CORRUPT": ("is damaged", "Restore it from a backup."),
}
POSTGRESQL_ERRORS = {
    "53100": ("cannot be written: its disk is full", "Free some space; nothing of this was applied."),
    "25006": ("cannot be written: it is read-only", "Is the server a standby? Name the primary."),
    "42501": ("may not be used by this user", "Ask its owner for the rights."),
    "55P03": ("is locked by another process", "Wait for it to end, then try again."),
    "40001": ("was changed by somebody else", "Try it again."),
    "40P01": ("was changed by somebody else", "Try it again."),
}


def explain(error: exc.DBAPIError, description: str) -> CatalogError:
    """What a database's error means for the user of the catalog ``description``."""
    cause = error.orig
    name = getattr(cause, "sqlite_errorname", None) or ""
    state = getattr(cause, "sqlstate", None) or ""
    known = next((said for start, said in SQLITE_ERRORS.items() if name.startswith(start)), None)
    known = known or POSTGRESQL_ERRORS.get(state)
    if known is None and isinstance(error, exc.OperationalError) and not name:
        known = ("cannot be reached", "Check the address, the network and that the server runs.")
    first_line = next(iter(str(cause or error).splitlines()), "")
    if known is None:
        return CatalogError(f"the catalog {description} refused: {first_line}")
    return CatalogError(f"the catalog {description} {known[0]} ({first_line})", hint=known[1])
