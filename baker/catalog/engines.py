"""Statements that SQLite and PostgreSQL word differently."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Table, text

from baker.catalog.schema import metadata


def insert_links(connection: Connection, target: Table, left: int, rights: list[int]) -> None:
    """Insert the pairs of ``left`` with each of ``rights`` into a table of two columns, in one statement."""
    names = ", ".join(column.name for column in target.columns)
    values: Any = rights
    pairs = "unnest(CAST(:rights AS integer[]))"
    if connection.dialect.name == "sqlite":
        pairs, values = "value FROM json_each(:rights)", json.dumps(rights)
    statement = text(f"INSERT INTO {target.name} ({names}) SELECT :left, {pairs}")
    connection.execute(statement, {"left": left, "rights": values})


def lock_tables(connection: Connection) -> None:
    """Nobody else writes until the transaction ends. SQLite's write transaction does that on its own."""
    if connection.dialect.name == "postgresql":
        names = ", ".join(table.name for table in metadata.sorted_tables)
        connection.execute(text(f"LOCK TABLE {names} IN EXCLUSIVE MODE"))


def continue_numbers(connection: Connection) -> None:
    """The next row of each table is numbered after those that were inserted with their numbers."""
    if connection.dialect.name != "postgresql":  # SQLite always takes the highest and one
        return
    for table in metadata.sorted_tables:
        if "number" in table.columns:
            next_number = f"(SELECT coalesce(max(number), 0) + 1 FROM {table.name})"
            sequence = f"pg_get_serial_sequence('{table.name}', 'number')"
            connection.execute(text(f"SELECT setval({sequence}, {next_number}, false)"))


def describe_engine(connection: Connection) -> str:
    """``SQLite 3.40.1`` or ``PostgreSQL 15.8``."""
    name = "PostgreSQL" if connection.dialect.name == "postgresql" else "SQLite"
    return f"{name} {'.'.join(map(str, connection.dialect.server_version_info or ()))}"


def measure_bytes(connection: Connection) -> int:
    """What the catalog takes on disk."""
    if connection.dialect.name == "postgresql":
        sizes = [f"pg_total_relation_size(to_regclass('{table.name}'))" for table in metadata.sorted_tables]
        total = " + ".join(f"coalesce({size}, 0)" for size in sizes)
    else:
        total = "page_count * page_size FROM pragma_page_count, pragma_page_size"
    return int(connection.execute(text(f"SELECT {total}")).scalar_one())
