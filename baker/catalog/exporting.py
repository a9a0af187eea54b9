"""A whole catalog as text, to move it between databases: JSON lines, in this format, version 1::

    {"baker_catalog":1,"schema":"0003","source":"sqlite /…","exported":"…","baker":"0.1.0"}
    {"table":"recipes","row":{"name":"base","last_version":1},"crc":"4c3b2a19"}
    …
    {"end":{"rows":{"recipes":1,…},"digest":"sha256:…"}}

One line per row, tables before those that refer to them, rows in the order of their keys; so the same catalog
gives the same text, but for its first line, whatever database it is in. Times are text, bytes are base64, and
the links of a build with its packages are one line per build, with a list. ``crc`` is the CRC-32 of the line
up to it, which tells where a file was damaged; ``digest`` is the sha256 of the lines between first and last.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO

from sqlalchemy import Connection, LargeBinary, Table, select

from baker import identity
from baker.catalog.schema import REVISION, metadata

FORMAT = 1
CRC_BYTES = len(',"crc":"4c3b2a19"}')
LINKS = "build_packages"
"""The one table with hundreds of rows per build."""


def export_catalog(connection: Connection, file: BinaryIO, source: str) -> Mapping[str, int]:
    """Write everything, a few rows at a time; returns how many rows of each table."""
    file.write(format_line(make_header(source)))
    rows = {table.name: 0 for table in metadata.sorted_tables}
    digest = hashlib.sha256()
    for table in metadata.sorted_tables:
        for count, row in (
            _list_links(connection, table) if table.name == LINKS else _list_rows(connection, table)
        ):
            line = seal_line(format_line({"table": table.name, "row": row}))
            digest.update(line)
            file.write(line)
            rows[table.name] += count
    file.write(format_line({"end": {"rows": rows, "digest": f"sha256:{digest.hexdigest()}"}}))
    return rows


def make_header(source: str) -> dict[str, Any]:
    return {
        "baker_catalog": FORMAT,
        "schema": REVISION,
        "source": source,
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "baker": identity.baker_version(),
    }


def format_line(value: Mapping[str, Any]) -> bytes:
    return f"{json.dumps(value, separators=(',', ':'))}\n".encode()


def seal_line(line: bytes) -> bytes:
    """The line with its ``crc`` as the last member."""
    content = line[:-2]  # without the brace and the newline
    return content + f',"crc":"{zlib.crc32(content):08x}"}}\n'.encode()


def _list_rows(connection: Connection, table: Table) -> Iterator[tuple[int, dict[str, Any]]]:
    heavy = any(isinstance(column.type, LargeBinary) for column in table.columns)
    query = (
        select(table).order_by(*table.primary_key.columns).execution_options(yield_per=20 if heavy else 1000)
    )
    for row in connection.execute(query):
        yield 1, {name: _to_json(value) for name, value in row._mapping.items()}


def _list_links(connection: Connection, table: Table) -> Iterator[tuple[int, dict[str, Any]]]:
    left, right = table.columns
    query = select(left, right).order_by(left, right).execution_options(yield_per=10_000)
    for number, pairs in itertools.groupby(connection.execute(query), key=lambda pair: pair[0]):
        rights = [pair[1] for pair in pairs]
        yield len(rights), {left.name: number, right.name: rights}


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
