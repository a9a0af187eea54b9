"""Runs: what commands that bake were asked for, and what came of it so far."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from baker import identity
from baker.catalog.calls import Calls
from baker.catalog.schema import runs
from baker.errors import BadReference, ConflictError
from baker.plan import Node
from baker.runs import Run

KEPT = 300
"""Of each kind; older ones go: the catalog must not grow with them for ever."""


class RunCalls(Calls):
    def start_run(self, run_id: str, kind: str, project: str, options: Mapping[str, Any]) -> Run:
        """A run of this process begins; ids sort by time. Of its kind only the newest are kept.

        Raises ConflictError for an id that is taken.
        """
        values = {
            "id": run_id,
            "kind": kind,
            "project": project,
            "actor": self.actor,
            "host": identity.host_name(),
            "pid": os.getpid(),
            "started": self._clock(),
            "options": dict(options),
            "results": {},
        }
        of_kind = runs.c.kind == kind
        oldest = select(runs.c.id).where(of_kind).order_by(runs.c.id.desc()).limit(1).offset(KEPT - 1)

        def change(connection: Connection) -> Run:
            if connection.execute(select(runs.c.id).where(runs.c.id == run_id)).first():
                raise ConflictError(f"run {run_id} was started already")
            connection.execute(insert(runs).values(values))
            connection.execute(delete(runs).where(of_kind, runs.c.id < oldest.scalar_subquery()))
            return _find_run(connection, run_id)

        return self._database.write(change)

    def record_results(self, run_id: str, results: Mapping[Node, Mapping[str, Any]]) -> None:
        """How these ended; what is known of others stays. Raises BadReference for a run that is not there."""

        def change(connection: Connection) -> None:
            mine = runs.c.id == run_id
            # Threads record at once: PostgreSQL must not read what another one is about to write.
            known = connection.execute(select(runs.c.results).where(mine).with_for_update()).scalar()
            if known is None:
                raise _explain_unknown(run_id)
            new = {"/".join(node): dict(result) for node, result in results.items()}
            connection.execute(update(runs).where(mine).values(results={**known, **new}))

        self._database.write(change)

    def finish_run(self, run_id: str, outcome: str, report: Mapping[str, Any] | None = None) -> None:
        """Raises BadReference for a run that is not there."""
        values = {"outcome": outcome, "report": report, "finished": self._clock()}

        def change(connection: Connection) -> None:
            if connection.execute(update(runs).where(runs.c.id == run_id).values(values)).rowcount != 1:
                raise _explain_unknown(run_id)

        self._database.write(change)

    def run(self, run_id: str) -> Run:
        """Raises BadReference."""
        return self._read(lambda connection: _find_run(connection, run_id))

    def runs(
        self,
        *,
        kind: str | None = None,
        project: str | None = None,
        unfinished: bool = False,
        limit: int | None = None,
    ) -> list[Run]:
        """Newest first. One whose process died stays unfinished."""
        query = select(runs).order_by(runs.c.id.desc()).limit(limit)
        if kind is not None:
            query = query.where(runs.c.kind == kind)
        if project is not None:
            query = query.where(runs.c.project == project)
        if unfinished:
            query = query.where(runs.c.outcome.is_(None))
        return self._read(lambda connection: [_make_run(row) for row in connection.execute(query)])


def _find_run(connection: Connection, run_id: str) -> Run:
    row = connection.execute(select(runs).where(runs.c.id == run_id)).first()
    if row is None:
        raise _explain_unknown(run_id)
    return _make_run(row)


def _explain_unknown(run_id: str) -> BadReference:
    return BadReference(f"the catalog knows no run {run_id}")


def _make_run(row: Row[Any]) -> Run:
    values = dict(row._mapping)
    results: dict[Node, Mapping[str, Any]] = {}
    for node, result in values.pop("results").items():
        recipe, target, arch = node.split("/")
        results[recipe, target, arch] = result
    return Run(results=results, **values)
