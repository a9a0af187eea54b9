"""What the tables are made of: the types of their columns, and how keys and indexes are named."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Column, Dialect, Index, MetaData, Table, Text, TypeDecorator

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)
"""``schema`` fills it: take it from there."""


def link_table(name: str, *columns: Column[int], index: tuple[str, str]) -> Table:
    """Pairs that are looked up from both sides; SQLite keeps them without a hidden row number."""
    return Table(name, metadata, *columns, Index(None, *index), sqlite_with_rowid=False)


class Moment(TypeDecorator[datetime]):
    """An aware datetime as ISO 8601 text in UTC, microseconds always written: it sorts by time."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else datetime.fromisoformat(value)


class Prose(TypeDecorator[str]):
    """What people and programs said. What no database takes (undecodable bytes, NUL) is spelled out."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return (
            None if value is None else value.encode(errors="backslashreplace").decode().replace("\0", "\\0")
        )
