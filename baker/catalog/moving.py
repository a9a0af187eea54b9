"""A catalog's calls for moving it: out into a file, in from one, and back from what artifacts carry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

from sqlalchemy import Connection

from baker.catalog.calls import Calls
from baker.catalog.exporting import export_catalog
from baker.catalog.importing import import_catalog
from baker.catalog.rebuilding import restore_build
from baker.layer import Layer
from baker.model import Build, Image, Package

if TYPE_CHECKING:
    from baker.sidecar import Issue


class MovingCalls(Calls):
    def export_to(self, file: BinaryIO) -> Mapping[str, int]:
        """Write everything there is at one moment (see ``exporting``); returns how many rows of each table.

        ``file`` can be written anew: what was read without locks may have to be read again.
        """

        def query(connection: Connection) -> Mapping[str, int]:
            file.seek(0)
            file.truncate()
            return export_catalog(connection, file, self._database.description)

        return self._read(query)

    def import_from(self, lines: Iterable[bytes], *, name: str) -> Mapping[str, int]:
        """Insert an export into this catalog, all of it or nothing; returns how many rows of each table.

        ``name`` says where the lines come from. Raises ConflictError unless this catalog is empty,
        CatalogError (with the line) for an export that is cut off, changed or of a newer baker.
        """
        description = self._database.description
        return self._write(
            lambda connection: import_catalog(connection, lines, name=name, description=description)
        )

    def restore_build(
        self, build: Build, issue: Issue, *, layers: Sequence[Layer], packages: Sequence[Package]
    ) -> Image | None:
        """Write down a build that an artifact tells of, in the version that it was distributed with.

        Its image is available. Idempotent. None, and nothing is changed, where that version holds another
        build in this place.
        """
        return self._write(
            lambda connection: restore_build(
                connection,
                build,
                issue,
                layers=layers,
                packages=packages,
                actor=self.actor,
                now=self._clock(),
            )
        )
