"""A real PostgreSQL server for tests: started when the first test asks for it, gone with the test run.

The fixture ``catalog_url`` runs a test on both engines; ``postgresql_url`` is a new, empty database.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

NOBODY = 65534
"""The server refuses to run as root."""

START_SECONDS = 60.0

_numbers = itertools.count(1)


@dataclass(kw_only=True)
class Server:
    """One cluster in a folder, reached by its socket alone.

    ``small_disk`` ("16m") is the size of a file system of its own for the tablespace ``small``: needs root.
    """

    folder: Path
    programs: Path
    small_disk: str | None = None
    process: subprocess.Popen[bytes] | None = field(default=None)

    def url(self, database: str) -> str:
        return f"postgresql://baker@/{database}?host={self.folder}"

    def make_database(self) -> str:
        """The address of a new, empty database."""
        name = f"catalog_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the server's owner; what it returns, if it returns rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            done = connection.execute(statement)  # type: ignore[call-overload]
            return list(done.fetchall()) if done.description else []

    def initialize(self) -> None:
        options = ["--auth=trust", "--username=baker", "--encoding=UTF8", "--locale=C", "--no-sync"]
        argv = [self.programs / "initdb", "--pgdata", self.folder / "data", *options]
        self.run(*argv)

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = ["listen_addresses=", f"unix_socket_directories={self.folder}", "fsync=off"]
        options = [word for setting in settings for word in ("-c", setting)]
        # Killed with us, however we end.
        argv = ["setpriv", "--pdeathsig", "QUIT", *self._identity(), str(self.programs / "postgres")]
        if self.small_disk:
            argv = [*on_small_disk(self.folder / "small", self.small_disk, owner=NOBODY), *argv]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, "-D", self.folder / "data", *options], stdout=log, stderr=log, cwd=self.folder
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)
            else:
                break
        if self.small_disk:
            self.execute(f"CREATE TABLESPACE small LOCATION '{self.folder}/small'")

    def stop(self) -> None:
        """Idempotent."""
        if self.process is not None:
            self.process.send_signal(3)  # SIGQUIT: at once
            self.process.wait(timeout=START_SECONDS)
            self.process = None

    def run(self, *argv: str | Path) -> None:
        done = subprocess.run(["setpriv", *self._identity(), *argv], capture_output=True, cwd=self.folder)
        assert done.returncode == 0, done.stderr.decode()

    def _identity(self) -> list[str]:
        return (
            [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            if os.geteuid() == 0
            else ["--no-new-privs"]
        )


def on_small_disk(folder: Path, size: str, *, owner: int = 0) -> list[str]:
    """What comes before a command that shall see a small file system at ``folder``, and nobody else."""
    options = f"size={size},uid={owner},gid={owner},mode=700"
    mount = f'mkdir -p "$0" && mount -t tmpfs -o {options} none "$0" && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, str(folder)]


def find_programs() -> Path:
    """The folder of the newest server's programs; Debian does not put them on PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    path = found[-1] if found else shutil.which("initdb")
    if path is None:
        pytest.fail("there is no PostgreSQL server on this host: install the package postgresql")
    return Path(path).parent


@contextlib.contextmanager
def running_server(*, small_disk: str | None = None) -> Iterator[Server]:
    """A server of its own, for tests that stop it or fill its disk."""
    with tempfile.TemporaryDirectory(prefix="baker-postgresql-", ignore_cleanup_errors=True) as name:
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
        server = Server(folder=Path(name), programs=find_programs(), small_disk=small_disk)
        server.initialize()
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql: Server) -> str:
    return postgresql.make_database()


ENGINES = ("sqlite", "postgresql")


@pytest.fixture(params=ENGINES)
def catalog_url(request: pytest.FixtureRequest, new_url: Callable[[str], str]) -> str:
    """The address of a catalog that is not made yet, once on each engine."""
    return new_url(request.param)


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """A function that gives the address of a new catalog on the engine named."""

    def make(engine: str) -> str:
        if engine == "postgresql":
            server: Server = request.getfixturevalue("postgresql")
            return server.make_database()
        return f"sqlite:///{tmp_path}/home-{next(_numbers)}/catalog.db"

    return make
