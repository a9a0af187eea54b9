"""What is in a sealed instance: its packages and files."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from baker.errors import MachineError
from baker.layer import Layer, make_file
from baker.manifest import manifest_digest, parse_dpkg_status, parse_rpm_list
from baker.model import FileEntry, Manifest, Package
from baker.providers.aws.inside.script import build_script, explain_failure
from baker.providers.protocol import CommandResult
from baker.seal import EMPTIED, REMOVED, REMOVED_FROM_INSTANCES

MAX_BYTES = 2 << 30
KINDS = frozenset("fdlcbps")
_CHUNK = 1 << 20
_DIGEST = re.compile("([0-9a-f]{64})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """``layer`` holds every file; ``unreadable`` are those whose content is unknown, with why."""

    packages: tuple[Package, ...]
    layer: Layer
    unreadable: tuple[tuple[str, str], ...] = ()


def build_listing_script() -> bytes:
    """Lists packages and files; what sealing removes is left out, and what it empties is empty."""
    parameters = {"removed": [*REMOVED, *REMOVED_FROM_INSTANCES], "emptied": EMPTIED}
    return build_script(["persistent", "listing"], parameters)


def parse_listing(result: CommandResult) -> Contents:
    """Raises MachineError if the list is not whole. The instance is not trusted: a recipe ran there."""
    if result.exit_status != 0:
        raise MachineError(f"the instance could not be read: {explain_failure(result)}")
    try:
        return _collect(list_records(result.stdout))
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise MachineError(f"what the instance says of its files cannot be read: {error}") from error


def list_records(stream: bytes) -> Iterator[object]:
    """What a script sent, record by record. Raises ValueError or zlib.error."""
    decompressor = zlib.decompressobj()
    rest, total = b"", 0
    while not decompressor.eof:
        data = decompressor.decompress(stream, _CHUNK)
        stream = decompressor.unconsumed_tail
        if not data and not stream and not decompressor.eof:
            raise ValueError("it is cut off")
        total += len(data)
        if total > MAX_BYTES:
            raise ValueError(f"it is longer than {MAX_BYTES >> 20} MiB")
        *lines, rest = (rest + data).split(b"\n")
        yield from map(json.loads, lines)
    if decompressor.unused_data:
        raise ValueError("something follows its end")


def _collect(records: Iterator[object]) -> Contents:
    if next(records, None) != {"format": 1}:
        raise ValueError("it does not begin as expected")
    packages: list[Package] = []
    files: dict[str, FileEntry] = {}
    for record in records:
        if isinstance(record, list):
            file = make_file(record)
            require_sound(file)
            files[file.path] = file
        elif isinstance(record, dict) and "end" in record:
            if record["end"] != len(files) or next(records, None) is not None:
                raise ValueError(f"it holds {len(files)} files and says {record['end']}")
            unreadable = tuple((str(path), str(reason)) for path, reason in record["unreadable"])
            return _assemble(packages, files, unreadable)
        elif isinstance(record, dict) and "dpkg" in record:
            packages += parse_dpkg_status(record["dpkg"])
        elif isinstance(record, dict) and "rpm" in record:
            packages += parse_rpm_list(record["rpm"])
        else:
            raise ValueError(f"{str(record)[:80]} is none of its records")
    raise ValueError("its end is missing")


def require_sound(file: FileEntry) -> None:
    """Raises ValueError for what no file system has: a recipe ran where this comes from."""
    numbers = (file.mode, file.uid, file.gid, file.size)
    texts = (file.path, file.digest, file.link, *(text for pair in file.xattrs for text in pair))
    if (
        not all(isinstance(text, str) and "\0" not in text for text in texts)
        or not all(type(number) is int and number >= 0 for number in numbers)
        or not file.path.startswith("/")
        or file.kind not in KINDS
        or not _DIGEST.fullmatch(file.digest)
    ):
        raise ValueError(f"{str(file.path)[:80]!r} is described wrongly")


def _assemble(
    packages: list[Package], files: dict[str, FileEntry], unreadable: tuple[tuple[str, str], ...]
) -> Contents:
    listed = tuple(files[path] for path in sorted(files))
    # No file stands for the layer as in the local store: what it holds names it.
    digest = manifest_digest(Manifest(packages=(), files=listed))
    layer = Layer(digest=digest, removed=(), files=listed)
    return Contents(packages=tuple(sorted(packages)), layer=layer, unreadable=unreadable)
