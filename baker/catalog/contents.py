"""What is inside two builds, compared. Each function takes a connection."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from baker.catalog.calls import Calls
from baker.catalog.reading import find_build_number, list_packages, read_layer
from baker.catalog.schema import build_layers, layers

if TYPE_CHECKING:  # imported when it is asked for: most commands compare nothing
    from baker.comparing import ManifestDifference


class CompareCalls(Calls):
    def compare(self, old_build: str, new_build: str) -> ManifestDifference:
        """What changed from one build to another, by their ids.

        Raises CatalogError for a build that is not there, or a damaged layer.
        """
        return self._read(lambda connection: compare_builds(connection, old_build, new_build))


def compare_builds(connection: Connection, old_build: str, new_build: str) -> ManifestDifference:
    from baker.comparing import compare_contents, fold_differing

    stacks = _list_stacks(connection, old_build, new_build)
    old, new = stacks[old_build], stacks[new_build]
    # Where the stacks are the same nothing is read; a layer that both have is read once.
    wanted = set() if old == new else {*old, *new}
    found = select(layers.c.digest, layers.c.content).where(layers.c.digest.in_(wanted))
    known = {digest: read_layer(digest, content) for digest, content in connection.execute(found)}
    old_files, new_files = fold_differing(
        [known[digest] for digest in old if wanted], [known[digest] for digest in new if wanted]
    )
    old_packages, new_packages = (list_packages(connection, build) for build in (old_build, new_build))
    return compare_contents(old_packages, new_packages, old_files, new_files)


def _list_stacks(connection: Connection, *build_ids: str) -> defaultdict[str, list[str]]:
    """The digests of builds' layers, lowest first, by build's id."""
    numbers = {find_build_number(connection, build_id): build_id for build_id in build_ids}
    stacks: defaultdict[str, list[str]] = defaultdict(list)
    rows = (
        select(build_layers.c.build, layers.c.digest)
        .join(layers)
        .where(build_layers.c.build.in_(numbers))
        .order_by(build_layers.c.build, build_layers.c.position)
    )
    for build, digest in connection.execute(rows):
        stacks[numbers[build]].append(digest)
    return stacks
