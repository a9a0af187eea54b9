"""Reading an export (see ``exporting``) into an empty catalog: all of it or nothing.

Everything is checked that the file says of itself; what is wrong is refused with the number of its line.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, LargeBinary, Table, exc, func, insert, select

from baker.catalog.columns import Moment
from baker.catalog.engines import continue_numbers, insert_links, lock_tables
from baker.catalog.exporting import CRC_BYTES, FORMAT, LINKS
from baker.catalog.refusals import explain
from baker.catalog.schema import REVISION, metadata
from baker.errors import CatalogError, ConflictError

BATCH_ROWS, BATCH_BYTES = 1000, 8 << 20
AGAIN = "Nothing was imported. Export the catalog again, or copy the file again."


@dataclass(kw_only=True, slots=True)
class _Batch:
    """Rows of one table that are not inserted yet, and the line that the first one stands in."""

    table: Table | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    bytes: int = 0
    first_line: int = 0


def import_catalog(
    connection: Connection, lines: Iterable[bytes], *, name: str, description: str
) -> Mapping[str, int]:
    """Insert everything that ``lines`` hold; returns how many rows of each table.

    ``name`` and ``description`` say in messages where the lines come from and which catalog this is. Raises
    ConflictError for a catalog that is not empty, CatalogError for a file that is not whole and sound.
    """
    lock_tables(connection)
    _require_empty(connection, description)
    reader = _Reader(connection, name=name, description=description)
    for number, line in enumerate(lines, 1):
        reader.read(number, line)
    reader.finish()
    continue_numbers(connection)
    return reader.rows


def _require_empty(connection: Connection, description: str) -> None:
    for table in metadata.sorted_tables:
        count = connection.execute(select(func.count()).select_from(table)).scalar_one()
        if count:
            raise ConflictError(
                f"the catalog {description} is not empty: it has {count} rows of {table.name}",
                hint="An export is imported into a new catalog: name one with --catalog URL.",
            )


class _Reader:
    """Takes one line after another."""

    def __init__(self, connection: Connection, *, name: str, description: str) -> None:
        self.rows = {table.name: 0 for table in metadata.sorted_tables}
        self._connection = connection
        self._name = name
        self._description = description
        self._digest = hashlib.sha256()
        self._batch = _Batch()
        self._line = 0
        self._ended = False

    def read(self, number: int, line: bytes) -> None:
        self._line = number
        if self._ended:
            raise self._refuse("something follows the end of the export")
        if not line.endswith(b"\n"):
            raise self._refuse("the line is not whole: the file was cut off here")
        try:
            value = json.loads(line)
        except ValueError:
            raise self._refuse("this is not JSON") from None
        if not isinstance(value, dict):
            raise self._refuse("this is not a line of an export")
        if number == 1:
            self._check_header(value)
        elif "end" in value:
            self._check_trailer(value["end"])
        else:
            self._digest.update(line)
            self._check_crc(line, value)
            self._add_row(value, len(line))

    def finish(self) -> None:
        """Raises CatalogError if the end of the export is missing."""
        if not self._ended:
            self._line += 1
            raise self._refuse("the file ends here without the export's end: it was cut off")

    # --- checks -----------------------------------------------------------------------------------

    def _check_header(self, header: Mapping[str, Any]) -> None:
        version, schema = header.get("baker_catalog"), header.get("schema")
        if not isinstance(version, int) or not isinstance(schema, str):
            raise self._refuse(
                "this is not an export of a catalog", hint="Make one: baker catalog export FILE"
            )
        if version > FORMAT or schema > REVISION:
            raise self._refuse(
                f"a newer baker wrote this: format {version}, schema {schema}; "
                f"this one knows none after {FORMAT} and {REVISION}",
                hint="Update baker.",
            )

    def _check_crc(self, line: bytes, value: Mapping[str, Any]) -> None:
        if value.get("crc") != f"{zlib.crc32(line[: -CRC_BYTES - 1]):08x}":
            raise self._refuse("the line was changed since it was written")

    def _check_trailer(self, trailer: Any) -> None:
        self._insert()
        said = trailer if isinstance(trailer, dict) else {}
        counts = said.get("rows")
        if not isinstance(counts, dict):
            raise self._refuse("the export's end was changed since it was written")
        for table in sorted(counts.keys() | self.rows.keys()):
            found, told = self.rows.get(table, 0), counts.get(table, 0)
            if found != told:
                raise self._refuse(f"the lines above hold {found} rows of {table}, and should hold {told}")
        if said.get("digest") != f"sha256:{self._digest.hexdigest()}":
            raise self._refuse("the lines above are not those that were written: their digest differs")
        self._ended = True

    def _refuse(self, what: str, *, hint: str = AGAIN, line: int | None = None) -> CatalogError:
        return CatalogError(f"{self._name}, line {line or self._line}: {what}", hint=hint)

    # --- rows -------------------------------------------------------------------------------------

    def _add_row(self, value: Mapping[str, Any], size: int) -> None:
        table, row = metadata.tables.get(str(value.get("table"))), value.get("row")
        if table is None or not isinstance(row, dict):
            raise self._refuse(f"the catalog has no table {value.get('table')!r}", hint="Update baker.")
        if unknown := sorted(row.keys() - table.columns.keys()):
            raise self._refuse(f"{table.name} has no {', '.join(unknown)}", hint="Update baker.")
        if (
            self._batch.table is not table
            or len(self._batch.rows) >= BATCH_ROWS
            or self._batch.bytes > BATCH_BYTES
        ):
            self._insert()
            self._batch = _Batch(table=table, first_line=self._line)
        try:
            if table.name == LINKS:
                self._batch.rows.append({name: row[name] for name in table.columns.keys()})  # noqa: SIM118
                self.rows[table.name] += len(row[table.columns.keys()[1]])
            else:
                # What an older schema did not have is null.
                self._batch.rows.append({c.name: _from_json(c, row.get(c.name)) for c in table.columns})
                self.rows[table.name] += 1
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise self._refuse(f"this is not a row of {table.name}") from None
        self._batch.bytes += size

    def _insert(self) -> None:
        """Insert what waits. Raises CatalogError if the database does not take it."""
        batch, self._batch = self._batch, _Batch()
        if batch.table is None:
            return
        try:
            if batch.table.name == LINKS:
                left, right = batch.table.columns.keys()
                for row in batch.rows:
                    insert_links(self._connection, batch.table, row[left], row[right])
            else:
                self._connection.execute(insert(batch.table), batch.rows)
        except (exc.IntegrityError, exc.DataError) as error:
            said = explain(error, self._description)
            raise self._refuse(f"a row from here on does not fit: {said}", line=batch.first_line) from error


def _from_json(column: Column[Any], value: Any) -> Any:
    """Raises TypeError or ValueError."""
    if value is None and not column.nullable:
        raise ValueError(column.name)
    if value is not None and isinstance(column.type, Moment):
        return datetime.fromisoformat(value)
    if value is not None and isinstance(column.type, LargeBinary):
        return base64.b64decode(value, validate=True)
    return value
