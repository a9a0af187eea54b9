"""The ends of finished bakes' logs, for those who cannot read the files on the host that baked."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from baker.catalog.calls import Calls
from baker.catalog.database import insert_or_update
from baker.catalog.schema import bake_logs

KEPT = 1000
"""Logs of older bakes go: the catalog must not grow with them for ever."""


class LogCalls(Calls):
    def keep_log(self, bake_id: str, packed: bytes) -> None:
        """Keep a log as ``baker.log.pack_log`` gives it; only those of the newest bakes are kept."""
        newest = select(bake_logs.c.bake).order_by(bake_logs.c.bake.desc()).limit(1).offset(KEPT - 1)

        def change(connection: Connection) -> None:
            insert_or_update(connection, bake_logs, ["bake"], [{"bake": bake_id, "content": packed}])
            connection.execute(delete(bake_logs).where(bake_logs.c.bake < newest.scalar_subquery()))

        self._database.write(change)

    def kept_log(self, bake_id: str) -> bytes | None:
        """What ``keep_log`` was given last."""
        kept = select(bake_logs.c.content).where(bake_logs.c.bake == bake_id)
        return self._read(lambda connection: connection.execute(kept).scalar())
