"""Bakes with their stages, and the ledger of what they made. Each function takes a connection."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, insert, select, update

from baker.catalog.database import insert_ignoring, insert_or_update
from baker.catalog.schema import bake_stages, bakes, ledger
from baker.errors import BadReference, CatalogError, ConflictError
from baker.model import BakeRecord, LedgerEntry, Outcome, Resource, Stage, StageRecord

RUNNING = "running"
INTENDED, EXISTS, REMOVED = "intended", "exists", "removed"

# --- bakes --------------------------------------------------------------------------------------


def start_bake(connection: Connection, record: BakeRecord) -> None:
    """Raises ConflictError if there is a bake of this id already."""
    if connection.execute(select(bakes.c.id).where(bakes.c.id == record.id)).first():
        raise ConflictError(f"bake {record.id} was started already", hint=f"Look: baker logs {record.id}")
    values = {
        "id": record.id,
        "recipe": record.recipe,
        "target": record.target,
        "arch": record.arch,
        "actor": record.actor,
        "host": record.host,
        "pid": record.pid,
        "started": record.started,
        "log_path": record.log_path,
    }
    connection.execute(insert(bakes).values(values))


def begin_stage(connection: Connection, bake_id: str, stage: Stage, now: datetime) -> None:
    """A stage that is begun again, by a bake that goes on, is timed anew."""
    _check_bake(connection, bake_id)
    row = {"bake": bake_id, "stage": stage, "started": now, "seconds": None, "outcome": RUNNING}
    insert_or_update(connection, bake_stages, ["bake", "stage"], [row])


def end_stage(connection: Connection, bake_id: str, stage: Stage, outcome: str, seconds: float) -> None:
    """Raises CatalogError if the stage was not begun."""
    mine = (bake_stages.c.bake == bake_id, bake_stages.c.stage == stage)
    ended = connection.execute(update(bake_stages).where(*mine).values(outcome=outcome, seconds=seconds))
    if ended.rowcount != 1:
        raise CatalogError(f"bake {bake_id} has not begun its stage {stage}")


def finish_bake(
    connection: Connection,
    bake_id: str,
    outcome: Outcome,
    image: str | None,
    error: str | None,
    now: datetime,
) -> None:
    """Raises CatalogError if there is no such bake."""
    _check_bake(connection, bake_id)
    values = {"outcome": outcome, "image": image, "error": error, "finished": now}
    connection.execute(update(bakes).where(bakes.c.id == bake_id).values(values))


def _check_bake(connection: Connection, bake_id: str) -> None:
    if connection.execute(select(bakes.c.id).where(bakes.c.id == bake_id)).first() is None:
        raise CatalogError(f"the catalog has no bake {bake_id}")


def find_bake(connection: Connection, prefix: str) -> BakeRecord:
    """Raises BadReference, with the bakes that may be meant."""
    matching = bakes.c.id.startswith(prefix.upper(), autoescape=True)
    found = _load_bakes(connection, matching, limit=6) if prefix else []
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(record.id for record in found[:5]) + (" and more" if len(found) > 5 else "")
        raise BadReference(f"{prefix} is more than one bake: {shown}", hint="Give more of its id.")
    newest = ", ".join(f"{record.id} ({record.recipe})" for record in list_bakes(connection, 3))
    raise BadReference(
        f"there is no bake {prefix}",
        hint=f"The newest are {newest}." if newest else "Nothing was baked yet: baker bake.",
    )


def list_bakes(connection: Connection, limit: int | None, *, running_only: bool = False) -> list[BakeRecord]:
    """Newest first."""
    conditions = [bakes.c.outcome.is_(None)] if running_only else []
    return _load_bakes(connection, *conditions, limit=limit)


def _load_bakes(
    connection: Connection, *conditions: ColumnElement[bool], limit: int | None
) -> list[BakeRecord]:
    chosen = select(bakes).where(*conditions).order_by(bakes.c.id.desc()).limit(limit)
    rows = connection.execute(chosen).all()
    wanted = chosen.with_only_columns(bakes.c.id).subquery()
    stages: defaultdict[str, list[StageRecord]] = defaultdict(list)
    for row in connection.execute(select(bake_stages).join(wanted, bake_stages.c.bake == wanted.c.id)):
        stage = StageRecord(
            stage=Stage(row.stage), started=row.started, seconds=row.seconds, outcome=row.outcome
        )
        stages[row.bake].append(stage)
    order = list(Stage)
    return [
        BakeRecord(
            id=row.id,
            recipe=row.recipe,
            target=row.target,
            arch=row.arch,
            actor=row.actor,
            host=row.host,
            pid=row.pid,
            started=row.started,
            finished=row.finished,
            outcome=None if row.outcome is None else Outcome(row.outcome),
            image=row.image,
            error=row.error,
            stages=tuple(sorted(stages[row.id], key=lambda stage: order.index(stage.stage))),
            log_path=row.log_path,
        )
        for row in rows
    ]


# --- the ledger -----------------------------------------------------------------------------------


def write_entry(connection: Connection, bake_id: str, resource: Resource, state: str, now: datetime) -> None:
    """Say what has become of a resource. What was never intended cannot be removed: that says nothing."""
    key = {
        "bake": bake_id,
        "provider": resource.provider,
        "kind": resource.kind,
        "id": resource.id,
        "place": resource.place,
    }
    if state != REMOVED:
        first = {**key, "details": {}, "state": state, "intended_at": now, "changed_at": now}
        insert_ignoring(connection, ledger, [first])
    values = {"details": dict(resource.details), "state": state, "changed_at": now}
    mine = [ledger.c[name] == value for name, value in key.items()]
    connection.execute(update(ledger).where(*mine).values(values))


def list_open_entries(connection: Connection, bake_id: str | None) -> Sequence[LedgerEntry]:
    """Oldest first."""
    still = select(ledger).where(ledger.c.state != REMOVED).order_by(ledger.c.number)
    if bake_id is not None:
        still = still.where(ledger.c.bake == bake_id)
    return [
        LedgerEntry(
            bake_id=row.bake,
            resource=Resource(
                provider=row.provider, kind=row.kind, id=row.id, place=row.place, details=row.details
            ),
            state=row.state,
        )
        for row in connection.execute(still)
    ]
