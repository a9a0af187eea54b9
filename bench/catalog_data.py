"""A catalog as large as a team's after years of nightly builds, to measure: ``fill`` makes one in minutes.

Package names and versions are those of a real Debian index; what happens to them is made up, the same for
every run. Each night a fiftieth of the packages gets a new version and every recipe gets a new image: a tenth
of the recipes are roots, the others are built upon the newest image of one of those. All images share a
bootstrap of 14,600 files (renewed every ten nights) below layers of their own.

    python -m bench.catalog_data URL IMAGES [FOLDER_WITH_PACKAGES_FILES]
"""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex

from baker.catalog import Catalog, schema
from baker.catalog.writing import package_key
from baker.layer import Layer, encode_layer
from baker.model import Artifact, Build, FileEntry, Package, Provenance
from baker.settings import DEFAULT_HOME

FIRST_NIGHT = datetime(2024, 1, 1, 2, tzinfo=UTC)
ARCH = "amd64"
KNOWN = ("openssl", "libssl3t64", "bash", "libc6", "curl", "nginx", "zlib1g", "openssh-server", "sudo")
"""Packages that every image has, so that a question about them finds a lot."""

BOOTSTRAP_FILES, ROOT_FILES, CHILD_FILES = 14_600, 300, 60
UPGRADED_PER_NIGHT = 0.02
BOOTSTRAP_NIGHTS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Baked:
    """One build of the made-up history; parts by their place in ``History``."""

    number: int
    version: int
    build: Build
    packages: Sequence[int]
    layers: Sequence[int]


@dataclass(kw_only=True)
class History:
    """What was baked so far. ``packages`` and ``layers`` hold all there ever were."""

    recipes: int
    packages_per_image: int
    archive: Sequence[Package]
    seed: int = 1
    packages: list[Package] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._current = [self._add_package(package) for package in self.archive]
        self._upgrades = [0] * len(self.archive)
        by_source: dict[str, list[int]] = {}
        for place, package in enumerate(self.archive):
            by_source.setdefault(package.source, []).append(place)
        self._sources = list(by_source.values())
        known = [place for place, package in enumerate(self.archive) if package.name in KNOWN]
        common = [*known, *self._sample(self.packages_per_image * 2 // 5 - len(known), set(known))]
        self._roots = max(self.recipes // 10, 1)
        self._contents: list[list[int]] = []
        for recipe in range(self.recipes):
            below = common if recipe < self._roots else self._contents[recipe % self._roots]
            size = self.packages_per_image * (3 if recipe < self._roots else 5) // 5
            self._contents.append([*below, *self._sample(size - len(below), set(below))])
        self._newest: dict[int, Baked] = {}
        self._builds = 0

    def _sample(self, count: int, left_out: set[int]) -> list[int]:
        places = [place for place in range(len(self.archive)) if place not in left_out]
        return self._random.sample(places, count)

    def _add_package(self, package: Package) -> int:
        self.packages.append(package)
        return len(self.packages) - 1

    def bake_nights(self, images: int) -> Iterator[Baked]:
        """So many builds, night by night, parents first."""
        for night in range(images):
            if night:
                self._upgrade_packages()
            if night % BOOTSTRAP_NIGHTS == 0:
                self._bootstrap = self._add_layer(f"bootstrap {night}", BOOTSTRAP_FILES)
            for recipe in range(self.recipes):
                if self._builds == images:
                    return
                yield self._bake(night, recipe)

    def _upgrade_packages(self) -> None:
        """All binary packages of a source package at once, as it is in an archive."""
        upgraded = self._random.sample(self._sources, int(len(self._sources) * UPGRADED_PER_NIGHT))
        for place in (place for places in upgraded for place in places):
            self._upgrades[place] += 1
            first, addition = self.archive[place], f"+u{self._upgrades[place]}"
            version, source_version = first.version + addition, first.source_version + addition
            self._current[place] = self._add_package(
                replace(first, version=version, source_version=source_version)
            )

    def _add_layer(self, name: str, files: int) -> int:
        folder = f"/usr/share/{name.replace(' ', '/')}" if files < BOOTSTRAP_FILES else "/usr/lib/bootstrap"
        entries = [
            FileEntry(
                path=f"{folder}/{place // 50:03d}/file-{place:05d}",
                kind="f",
                mode=0o644,
                uid=0,
                gid=0,
                size=1000 + place,
                digest=self._random.randbytes(32).hex(),
            )
            for place in range(files)
        ]
        digest = hashlib.sha256(f"layer {name}".encode()).hexdigest()
        self.layers.append(Layer(digest=f"sha256:{digest}", removed=(), files=tuple(entries)))
        return len(self.layers) - 1

    def _bake(self, night: int, recipe: int) -> Baked:
        root = recipe < self._roots
        name = f"root-{recipe:03d}" if root else f"app-{recipe:03d}"
        parent, below = (None, [self._bootstrap]) if root else self._find_parent(recipe)
        layer = self._add_layer(f"{name} {night}", ROOT_FILES if root else CHILD_FILES)
        build = make_build(name, self._builds, night, parent)
        baked = Baked(
            number=self._builds,
            version=night + 1,
            build=build,
            packages=sorted(self._current[place] for place in self._contents[recipe]),
            layers=[*below, layer],
        )
        self._builds += 1
        if root:
            self._newest[recipe] = baked
        return baked

    def _find_parent(self, recipe: int) -> tuple[Build, Sequence[int]]:
        baked = self._newest[recipe % self._roots]
        return baked.build, baked.layers


def make_build(recipe: str, number: int, night: int, parent: Build | None) -> Build:
    def digest(what: str) -> str:
        return f"sha256:{hashlib.sha256(f'{what} {number}'.encode()).hexdigest()}"

    started = FIRST_NIGHT + timedelta(days=night, seconds=number % 7200)
    files = [f"recipe:deploy.py {recipe}", f"file:templates/{recipe}.conf.j2", "recipe:tasks.py"]
    inputs = {key.split()[0]: f"sha256:{hashlib.sha256(key.encode()).hexdigest()}" for key in files}
    source_digest = (
        parent.digest if parent else f"sha256:{hashlib.sha256(str(night // 10).encode()).hexdigest()}"
    )
    provenance = Provenance(
        source=f"{parent.recipe}:latest" if parent else "debian:trixie",
        source_digest=source_digest,
        inputs={**inputs, "source": source_digest, "arch": ARCH, "target": "local"},
        commit=hashlib.sha1(str(night).encode()).hexdigest(),
        dirty=False,
        actor="nightly",
        host="builder-1",
        started=started,
        finished=started + timedelta(seconds=40),
        tools={"baker": "0.4.0", "pyinfra": "3.10", "seal": "1"},
        parent_build=parent.id if parent else None,
    )
    artifact = Artifact(
        id=digest("artifact"), target="local", arch=ARCH, kind="layers", store="builder-1", size_bytes=10**8
    )
    return Build(
        id=f"01B{number:023d}",
        recipe=recipe,
        target="local",
        arch=ARCH,
        fingerprint=digest("fingerprint"),
        digest=digest("manifest"),
        size_bytes=3 * 10**8 + number,
        provenance=provenance,
        artifacts=(artifact,),
        created=started + timedelta(seconds=40),
        image_tests={},
    )


# --- a real archive -------------------------------------------------------------------------------------


def read_archive(folder: Path, count: int, seed: int = 1) -> list[Package]:
    """So many packages of the indexes (``*Packages``) in a folder, sorted; the newest of each name."""
    found: dict[str, Package] = {}
    for path in sorted(folder.glob("*Packages")):
        for stanza in path.read_text(encoding="utf-8").split("\n\n"):
            fields = dict(
                line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " "
            )
            if "Package" in fields:
                name, version = fields["Package"], fields["Version"]
                source, _, source_version = fields.get("Source", name).partition(" ")
                found[name] = Package(
                    type="deb",
                    name=name,
                    version=version,
                    arch=fields["Architecture"],
                    source=source,
                    source_version=source_version.strip("()") or version,
                )
    if len(found) < count:
        raise SystemExit(f"{folder} has {len(found)} packages: {count} are needed. Bake something first.")
    chosen = {name for name in KNOWN if name in found}
    others = sorted(found.keys() - chosen)
    chosen |= set(random.Random(seed).sample(others, count - len(chosen)))
    return [found[name] for name in sorted(chosen)]


def find_lists(home: Path) -> Path:
    """The folder of a baker home that holds the newest indexes."""
    folders = [path.parent for path in home.glob("local/apt/*/lists/*_main_binary-*_Packages")]
    if not folders:
        raise SystemExit(f"{home} has no package indexes: bake something first, or name a folder.")
    return max(folders, key=lambda path: path.stat().st_mtime)


# --- writing it down ----------------------------------------------------------------------------------


def fill(
    url: str, images: int, *, archive: Sequence[Package], recipes: int = 200, packages: int = 500
) -> History:
    """Make the catalog ``url``, which must not be there yet, with so many images. Returns what is in it.

    The schema is the product's own; rows are written past it, since registering takes milliseconds each.
    """
    with Catalog.open(url, actor="bench"):
        pass
    history = History(recipes=recipes, packages_per_image=packages, archive=archive)
    links = schema.build_packages
    with connect_bulk(url) as bulk:
        for index in links.indexes:
            bulk.execute(f"DROP INDEX {index.name}")
        last: dict[str, int] = {}
        baked: list[Baked] = []
        layers = 0
        for one in history.bake_nights(images):
            if one.version == 1:
                bulk.insert("recipes", [(one.build.recipe, 0)])
            last[one.build.recipe] = one.version
            baked.append(one)
            if len(baked) == 1000 or one.number == images - 1:
                new = history.layers[layers:]
                write_images(bulk, baked, new, layers)
                history.layers[layers:] = [replace(layer, files=()) for layer in new]
                layers += len(new)
                baked = []
        bulk.insert("packages", (package_row(n, one) for n, one in enumerate(history.packages, 1)))
        write_channels(bulk, last)
        for index in links.indexes:
            bulk.execute(str(CreateIndex(index).compile(dialect=bulk.dialect)))
        for recipe, version in last.items():
            bulk.execute(f"UPDATE recipes SET last_version = {version} WHERE name = '{recipe}'")
        bulk.finish()
    return history


class Bulk:
    """Rows as fast as the database takes them: nothing is checked, what is half-way is of no use."""

    dialect: Any

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def execute(self, statement: str) -> None:
        self.connection.execute(statement)

    def insert(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError


def list_columns(table: str) -> list[str]:
    return [f'"{column.name}"' for column in schema.metadata.tables[table].columns]


class SqliteBulk(Bulk):
    dialect = sqlite.dialect()

    def insert(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        columns = list_columns(table)
        places = ", ".join("?" * len(columns))
        self.connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)

    def finish(self) -> None:
        # Without ANALYZE, as the product's catalogs are.
        self.connection.execute("COMMIT")
        self.connection.execute("PRAGMA journal_mode = WAL")


class PostgresqlBulk(Bulk):
    dialect = postgresql.dialect()

    def insert(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        columns = ", ".join(list_columns(table))
        with self.connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    def finish(self) -> None:
        for table in ("images", "builds", "artifacts", "packages", "layers", "image_events"):
            sequence = f"pg_get_serial_sequence('{table}', 'number')"
            self.connection.execute(
                f"SELECT setval({sequence}, (SELECT coalesce(max(number), 1) FROM {table}))"
            )
        self.connection.commit()
        self.connection.autocommit = True
        self.connection.execute("VACUUM ANALYZE")


@contextmanager
def connect_bulk(url: str) -> Iterator[Bulk]:
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            for setting in ("journal_mode = OFF", "cache_size = -1000000", "foreign_keys = OFF"):
                connection.execute(f"PRAGMA {setting}")
            connection.execute("BEGIN IMMEDIATE")
            yield SqliteBulk(connection)
        return
    import psycopg

    with closing(psycopg.connect(url)) as connection:
        connection.execute("SET session_replication_role = replica")
        yield PostgresqlBulk(connection)


def write_images(bulk: Bulk, baked: Sequence[Baked], layers: Sequence[Layer], known_layers: int) -> None:
    """Numbers in the database start at 1, in ``History`` at 0."""
    bulk.insert(
        "layers",
        ((n, one.digest, encode_layer(one)) for n, one in enumerate(layers, known_layers + 1)),
    )
    bulk.insert("images", (image_row(one) for one in baked))
    bulk.insert("builds", (build_row(one.number + 1, one.build) for one in baked))
    bulk.insert("artifacts", (artifact_row(one.number + 1, one.build.artifacts[0]) for one in baked))
    bulk.insert("image_builds", ((one.number + 1, "local", ARCH, one.number + 1, True) for one in baked))
    bulk.insert(
        "build_layers",
        ((one.number + 1, place, layer + 1) for one in baked for place, layer in enumerate(one.layers)),
    )
    bulk.insert(
        "build_packages", ((one.number + 1, package + 1) for one in baked for package in one.packages)
    )


def write_moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def image_row(baked: Baked) -> Sequence[Any]:
    """Of a thousand images ten are deprecated, ten deleted and five revoked."""
    made = write_moment(baked.build.created)
    kind = baked.number * 7919 % 1000
    status, reason = "available", None
    if kind < 25:
        status = "deprecated" if kind < 10 else "deleted" if kind < 20 else "revoked"
        reason = "superseded"
    values = {
        "number": baked.number + 1,
        "recipe": baked.build.recipe,
        "version": baked.version,
        "complete": True,
        "created": made,
        "status": status,
        "status_reason": reason,
        "status_actor": "nightly",
        "status_at": made,
    }
    return [values.get(column.name) for column in schema.images.columns]


def build_row(number: int, build: Build) -> Sequence[Any]:
    origin = build.provenance
    values: dict[str, Any] = {
        "number": number,
        "created": write_moment(build.created),
        "started": write_moment(origin.started),
        "finished": write_moment(origin.finished),
        "inputs": json.dumps(dict(origin.inputs), separators=(",", ":"), sort_keys=True),
        "tools": json.dumps(dict(origin.tools), separators=(",", ":"), sort_keys=True),
        "image_tests": "{}",
    }
    for column in schema.builds.columns:
        if column.name not in values:
            values[column.name] = getattr(build if hasattr(build, column.name) else origin, column.name)
    return [values[column.name] for column in schema.builds.columns]


def artifact_row(number: int, artifact: Artifact) -> Sequence[Any]:
    values = {"number": number, "build": number, "details": "{}"}
    return [values.get(column.name) or getattr(artifact, column.name) for column in schema.artifacts.columns]


def package_row(number: int, package: Package) -> Sequence[Any]:
    values = {"number": number, "key": package_key(package)}
    return [values.get(column.name) or getattr(package, column.name) for column in schema.packages.columns]


def write_channels(bulk: Bulk, last: dict[str, int]) -> None:
    """Each recipe has a channel at its newest image, one a version behind it and one three behind."""
    moved = write_moment(FIRST_NIGHT)
    held = [
        (recipe, channel, max(version - behind, 1))
        for recipe, version in last.items()
        for channel, behind in (("dev", 0), ("staging", 1), ("prod", 3))
    ]
    bulk.insert("channels", ((recipe, channel, version, version, None) for recipe, channel, version in held))
    moves = (
        {
            "recipe": recipe,
            "channel": channel,
            "revision": revision,
            "from_version": revision - 1 or None,
            "to_version": revision,
            "actor": "nightly",
            "at": moved,
        }
        for recipe, channel, version in held
        for revision in range(1, version + 1)
    )
    columns = [column.name for column in schema.channel_moves.columns]
    bulk.insert("channel_moves", ([move.get(name) for name in columns] for move in moves))


def main() -> None:
    if len(sys.argv) not in (3, 4):
        raise SystemExit(f"usage: {__doc__.splitlines()[-1].strip()}" if __doc__ else "usage: URL IMAGES")
    folder = Path(sys.argv[3]) if len(sys.argv) == 4 else find_lists(Path(DEFAULT_HOME))
    fill(sys.argv[1], int(sys.argv[2]), archive=read_archive(folder, 4000))


if __name__ == "__main__":
    main()
