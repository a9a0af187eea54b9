"""What every group of the catalog's calls is made of: ``Catalog`` inherits them all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy import Connection

from baker.catalog.database import Database

T = TypeVar("T")


def read_clock() -> datetime:
    return datetime.now(UTC)


class Calls:
    """One database, and in whose name it is changed."""

    def __init__(
        self, database: Database, *, url: str, actor: str, clock: Callable[[], datetime] = read_clock
    ) -> None:
        self._database = database
        self._clock = clock
        self.url = url
        self.actor = actor

    def _read(self, query: Callable[[Connection], T]) -> T:
        return self._database.read(query)

    def _write(self, change: Callable[[Connection], T]) -> T:
        """For what the outside world may know of: it must survive a power cut."""
        return self._database.write(change, durable=True)
