"""Package indexes of one set of sources, shared by all images that have the same."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from baker.errors import CommandFailed
from baker.package_sources import Sources
from baker.updates.apt import base_options, run_apt
from baker.updates.sources import write_sources

FRESH_SECONDS = 3600.0
FETCHING = (
    ("Acquire::Retries", "1"),
    ("Acquire::http::Timeout", "20"),
    ("Acquire::https::Timeout", "20"),
    ("Acquire::ForceHash", "sha256"),
)


@dataclass(kw_only=True, slots=True)
class Fetching:
    """When indexes are fetched. ``since``: older ones are fetched again, however young they are.

    ``told`` remembers, for as long as it lives, what could not be fetched: it is tried once.
    """

    offline: bool = False
    since: float = 0.0
    clock: Callable[[], float] = time.time
    told: dict[str, str] = field(default_factory=dict)


class Indexes:
    """``folder`` holds everything of this set of sources; ``changed`` is touched when they have changed."""

    def __init__(self, folder: Path, changed: Path) -> None:
        self.folder = folder
        self.lists = folder / "lists"
        self._stamp = folder / "fetched"
        self._folders = folder / "folders.json"
        self._changed = changed

    def is_prepared(self) -> bool:
        return self._folders.exists()

    def prepare(self, sources: Sources, beside: Sequence[Path]) -> None:
        """Make the folder, unless it is there. What lies in the folders ``beside`` need not be fetched."""
        if self.is_prepared():
            return
        with self._locked():
            if self.is_prepared():
                return
            for path in (self.lists / "partial", self.folder / "cache"):
                path.mkdir(parents=True, exist_ok=True)
            write_sources(sources, self.folder / "etc")
            begin = tuple(_file_name(uri) for entry in sources.entries for uri in entry.uris)
            found = (path for lists in beside for path in lists.glob("*_*") if path.name.startswith(begin))
            for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
                _link(path, self.lists / path.name)
            releases = {
                str(folder): [suite if suite.endswith("/") else f"dists/{suite}" for suite in entry.suites]
                for entry in sources.entries
                for folder in entry.folders
            }
            remote = any(not uri.startswith("file:") for entry in sources.entries for uri in entry.uris)
            write_json(
                self._folders,
                {"releases": releases, "remote": remote, "architectures": sources.architectures},
            )

    def refresh(self, fetching: Fetching, proxy: str | None = None) -> str | None:
        """Bring them up to date where they are not fresh; returns what could not be fetched, and why."""
        known = json.loads(self._folders.read_bytes())
        if not self._is_due(known, fetching):
            return fetching.told.get(self.folder.name)
        with self._locked():
            known = json.loads(self._folders.read_bytes())
            due = self._is_due(known, fetching)
            if due:
                self._update(due, known, fetching, proxy)
        return fetching.told.get(self.folder.name)

    def state(self) -> str:
        """Changes whenever a package index does; not when one is signed anew."""
        found = []
        for entry in os.scandir(self.lists):
            if "_Packages" in entry.name:
                status = entry.stat()  # follows a link: apt makes one to what lies in a folder of this host
                found.append((entry.name, status.st_mtime_ns, status.st_size))
        return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()[:24]

    def versions(self) -> Mapping[str, str]:
        """All versions that there are of each package, as one text. Remembered until an index changes."""
        path, state = self.folder / "versions.json", self.state()
        with contextlib.suppress(OSError, ValueError):
            known: dict[str, Any] = json.loads(path.read_bytes())
            if known["state"] == state:
                return cast(Mapping[str, str], known["versions"])
        found: dict[str, list[str]] = {}
        names = [str(each) for each in self.lists.glob("*_Packages*")]
        lines = subprocess.run(
            ["grep", "-hE", "^(Package|Version): ", *sorted(names)], env={"LC_ALL": "C"}, capture_output=True
        ).stdout.decode(errors="replace")
        package = ""
        for line in lines.splitlines():
            field, _, value = line.partition(": ")
            if field == "Package":
                package = value
            else:
                found.setdefault(package, []).append(value)
        versions = {name: " ".join(sorted(values)) for name, values in found.items()}
        with contextlib.suppress(PermissionError):
            write_json(path, {"state": state, "versions": versions})
        return versions

    def is_empty(self) -> bool:
        return not any(self.lists.glob("*_Packages*"))

    def _is_due(self, known: dict[str, object], fetching: Fetching) -> str | None:
        """``all`` or ``folders``, if they have to be read."""
        if known["remote"] and not fetching.offline and self.folder.name not in fetching.told:
            fetched = self._stamp.stat().st_mtime if self._stamp.exists() else 0.0
            if fetched < fetching.since or not 0 <= fetching.clock() - fetched < FRESH_SECONDS:
                return "all"
        return "folders" if self._look_at_folders(known) != known.get("seen", {}) else None

    def _look_at_folders(self, known: dict[str, object]) -> dict[str, str]:
        """The digest of each folder repository's index."""
        seen = {}
        releases = known["releases"]
        assert isinstance(releases, dict)
        for folder, places in releases.items():
            for place in places:
                for name in ("InRelease", "Release"):
                    path = Path(folder, place, name)
                    if path.is_file():
                        seen[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return seen

    def _update(self, due: str, known: dict[str, object], fetching: Fetching, proxy: str | None) -> None:
        before, seen = self.state(), self._look_at_folders(known)
        architectures = known["architectures"]
        assert isinstance(architectures, list)
        options = [
            *base_options(self.folder, self.folder / "etc"),
            ("APT::Architecture", architectures[0]),
            *(("APT::Architectures::", name) for name in architectures),
            *FETCHING,
        ]
        if due == "folders":
            options += [
                ("Dir::Etc::SourceList", str(self.folder / "etc" / "folders.sources")),
                ("Dir::Etc::SourceParts", "/dev/null"),
                ("APT::Get::List-Cleanup", "false"),
            ]
        try:
            run_apt(["update", "-qq", "--error-on=any"], options, proxy)
            if due == "all":
                self._stamp.touch()
                fetching.told.pop(self.folder.name, None)
        except CommandFailed as error:
            fetching.told[self.folder.name] = error.stderr_tail
        else:
            write_json(self._folders, {**known, "seen": seen})
        if self.state() != before:
            self._changed.touch()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def write_json(path: Path, value: object) -> None:
    """All of it or nothing."""
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}")
    new.write_text(json.dumps(value, sort_keys=True))
    new.replace(path)


def _file_name(uri: str) -> str:
    """How the names of the indexes of an address begin."""
    return uri.partition(":")[2].strip("/").replace("_", "%5f").replace("/", "_") + "_"


def _link(path: Path, target: Path) -> None:
    """Indexes are replaced, never changed: a link does. Others' files may only be copied."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(path, target)
        except PermissionError:
            shutil.copy2(path, target)
