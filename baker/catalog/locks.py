"""Locks that hold across hosts, by the clock of the database."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update

from baker.catalog.calls import Calls
from baker.catalog.database import DatabaseNow, insert_or_update, lock_table
from baker.catalog.schema import locks
from baker.locks import Lock


def read_now(connection: Connection) -> datetime:
    now = connection.execute(select(DatabaseNow())).scalar()
    assert now is not None
    return now


def find_lock(connection: Connection, name: str) -> Lock | None:
    """Also one whose deadline has passed: nobody else has taken it then."""
    row = connection.execute(select(locks).where(locks.c.name == name)).first()
    return _make_lock(row) if row else None


def _make_lock(row: Row[Any]) -> Lock:
    return Lock(**row._mapping)


class LockCalls(Calls):
    def hold_lock(
        self, name: str, holder: str, *, seconds: float, store: str, pid: int, instead_of: str | None = None
    ) -> Lock:
        """Take a lock for so long if it is free, was not renewed in time, or is held by ``instead_of``, which
        the caller knows to be dead. Returns the lock as it is then: look whose it is.

        Who holds it already keeps it for ``seconds`` from now.
        """

        def change(connection: Connection) -> Lock:
            lock_table(connection, locks)
            now = read_now(connection)  # after the wait for others
            held = find_lock(connection, name)
            if held and held.holder not in (holder, instead_of) and held.deadline >= now:
                return held
            lock = Lock(
                name=name,
                holder=holder,
                actor=self.actor,
                store=store,
                pid=pid,
                since=held.since if held and held.holder == holder else now,
                deadline=now + timedelta(seconds=seconds),
            )
            insert_or_update(connection, locks, ["name"], [asdict(lock)])
            return lock

        return self._write(change)

    def renew_lock(self, name: str, holder: str, *, seconds: float) -> bool:
        """Keep a lock for so long from now; False: somebody else took it since, or it was released.

        A holder that is late keeps it if nobody came meanwhile.
        """
        mine = (locks.c.name == name, locks.c.holder == holder)

        def change(connection: Connection) -> bool:
            deadline = read_now(connection) + timedelta(seconds=seconds)
            return connection.execute(update(locks).where(*mine).values(deadline=deadline)).rowcount == 1

        return self._database.write(change)

    def release_lock(self, name: str, holder: str) -> None:
        """Does nothing if somebody else holds it."""
        mine = (locks.c.name == name, locks.c.holder == holder)
        self._write(lambda connection: connection.execute(delete(locks).where(*mine)))

    def find_lock(self, name: str) -> Lock | None:
        """Who holds it now; None: nobody, or one that did not renew it in time."""

        def query(connection: Connection) -> Lock | None:
            held = find_lock(connection, name)
            return held if held and held.deadline >= read_now(connection) else None

        return self._read(query)
