"""Package indexes of one set of sources, shared by all images that have the same."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from baker.errors import CommandFailed
from baker.package_sources import Sources
from baker.package_state import FRESH_SECONDS
from baker.updates.apt import base_options, run_apt
from baker.updates.sources import write_sources

RETRY_SECONDS = 600.0
"""What could not be fetched is tried again after so long."""
FETCH_SECONDS = 300.0
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

    def is_fresh(self, since: float, seconds: float) -> bool:
        """Whether what was done then is as good as done now."""
        return since >= self.since and 0 <= self.clock() - since < seconds


class Indexes:
    """``folder`` holds everything of this set of sources; ``changed`` is touched when they have changed."""

    def __init__(self, folder: Path, changed: Path) -> None:
        self.folder = folder
        self.lists = folder / "lists"
        self._stamp = folder / "fetched"
        self._failed = folder / "failed"
        self._folders = folder / "folders.json"
        self._changed = changed

    def is_prepared(self) -> bool:
        return self._read_known() is not None

    def _read_known(self) -> dict[str, Any] | None:
        """What ``prepare`` and updates wrote down; None, and away with it, where it is damaged."""
        try:
            known = json.loads(self._folders.read_bytes())
            if isinstance(known, dict) and known.keys() >= {"releases", "remote", "architectures", "places"}:
                return known
        except FileNotFoundError:
            return None
        except ValueError:
            pass
        self._folders.unlink(missing_ok=True)
        return None

    def prepare(self, sources: Sources, archives: Sequence[Path]) -> None:
        """Make the folder, unless it is there. What ``archives`` hold need not be fetched: the folders of
        distributions' archives, verified by the keys that the distributions publish."""
        if self.is_prepared():
            return
        with self._locked():
            if self.is_prepared():
                return
            for path in (self.lists / "partial", self.folder / "cache"):
                path.mkdir(parents=True, exist_ok=True)
            write_sources(sources, self.folder / "etc")
            wanted = {place[:2] for place in sources.places}
            found = []
            for archive in archives:
                begin = {_file_name(*place[:2]) for place in _list_places(archive) if place[:2] in wanted}
                found += [path for path in archive.glob("lists/*_*") if path.name.startswith(tuple(begin))]
            for path in sorted(found, key=_modified, reverse=True):
                _link(path, self.lists / path.name)
            releases = {
                str(folder): [suite if suite.endswith("/") else f"dists/{suite}" for suite in entry.suites]
                for entry in sources.entries
                for folder in entry.folders
            }
            remote = any(not uri.startswith("file:") for entry in sources.entries for uri in entry.uris)
            write_json(
                self._folders,
                {
                    "releases": releases,
                    "remote": remote,
                    "architectures": sources.architectures,
                    "places": sorted(sources.places),
                },
            )

    def refresh(
        self, fetching: Fetching, proxy: str | None = None, archives: Sequence[Path] = ()
    ) -> str | None:
        """Bring them up to date where they are not fresh; returns what could not be fetched, and why.

        Where one of ``archives`` has been fetched just now, and has all of them, they are taken from there.
        """
        known = self._read_known()
        if known is None or self._is_due(known, fetching):
            with self._locked():
                known = self._read_known()
                if known is None:
                    raise CommandFailed("package indexes were thrown away meanwhile", exit_status=None)
                due = self._is_due(known, fetching)
                if due and not (due == "all" and self._take(archives, known, fetching)):
                    self._update(due, known, fetching, proxy)
        return fetching.told.get(self.folder.name)

    def forget(self, oldest: float) -> None:
        """Throw all of it away, unless it was of use since."""

        def is_old() -> bool:
            return _modified(self._folders if self._folders.exists() else self.folder) < oldest

        if is_old():
            with self._locked():
                if is_old():
                    shutil.rmtree(self.folder, ignore_errors=True)

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
        may_fetch = known["remote"] and not fetching.offline and self.folder.name not in fetching.told
        if may_fetch and not fetching.is_fresh(_modified(self._stamp), FRESH_SECONDS):
            if not fetching.is_fresh(_modified(self._failed), RETRY_SECONDS):
                return "all"
            fetching.told[self.folder.name] = self._failed.read_text()
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

    def _take(self, archives: Sequence[Path], known: dict[str, Any], fetching: Fetching) -> bool:
        """Whether a fresh archive has all that these sources name; then its indexes are in place."""
        wanted = {tuple(place) for place in known["places"]}
        for archive in () if known["releases"] else archives:
            stamp = _modified(archive / "refreshed")
            if not fetching.is_fresh(stamp, FRESH_SECONDS) or not wanted <= _list_places(archive):
                continue
            before = self.state()
            begin = tuple({_file_name(*place[:2]) for place in wanted})
            theirs = {path.name: path for path in archive.glob("lists/*_*") if path.name.startswith(begin)}
            needed = [
                f"{_file_name(*place[:2])}{place[2]}_binary-{architecture}_Packages"
                for place in wanted
                for architecture in known["architectures"]
            ]
            if not all(any(name.startswith(one) for name in theirs) for one in needed):
                continue
            for path in self.lists.glob("*_*"):
                if path.name not in theirs or not path.samefile(theirs[path.name]):
                    path.unlink()
            for name, path in theirs.items():
                _link(path, self.lists / name)
            self._stamp.touch()
            os.utime(self._stamp, (stamp, stamp))
            self._failed.unlink(missing_ok=True)
            fetching.told.pop(self.folder.name, None)
            seen = stamp - 0.001  # other archives may have older ones; this one has these
            if self.state() != before and _modified(self._changed) < seen:
                self._changed.touch()
                os.utime(self._changed, (seen, seen))
            return True
        return False

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
            run_apt(["update", "-qq", "--error-on=any"], options, proxy, timeout=FETCH_SECONDS)
            if due == "all":
                self._stamp.touch()
                self._failed.unlink(missing_ok=True)
                fetching.told.pop(self.folder.name, None)
        except CommandFailed as error:
            fetching.told[self.folder.name] = error.stderr_tail or str(error)
            if due == "all":
                self._failed.write_text(fetching.told[self.folder.name])
        else:
            write_json(self._folders, {**known, "seen": seen})
        if self.state() != before:
            self._changed.touch()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._open_locked():
            yield

    def _open_locked(self) -> IO[str]:
        """The lock's file, locked. One that was thrown away while we waited for it is no lock."""
        path = self.folder / "lock"
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                file = path.open("w")
                fcntl.flock(file, fcntl.LOCK_EX)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                        return file
                file.close()


def write_json(path: Path, value: object) -> None:
    """All of it or nothing."""
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}")
    new.write_text(json.dumps(value, sort_keys=True))
    new.replace(path)


def _list_places(archive: Path) -> set[tuple[str, str, str]]:
    """Address, suite and component of each source of a distribution's archive."""
    try:
        lines = (archive / "etc" / "sources.list").read_text().splitlines()
    except OSError:
        return set()
    found = (re.fullmatch(r"deb (?:\[.*?\] )?(\S+) (\S+)(?: (.*))?", line) for line in lines)
    return {
        (line[1].rstrip("/"), line[2], component)
        for line in found
        if line
        for component in (line[3] or "").split() or [""]
    }


def _file_name(uri: str, suite: str) -> str:
    """How the names of the indexes of a suite begin."""
    place = f"{uri.partition(':')[2].strip('/')}/dists/{suite}"
    return place.replace("_", "%5f").replace("/", "_") + "_"


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _link(path: Path, target: Path) -> None:
    """Indexes are replaced, never changed: a link does. Those on another file system, and others' files
    where that is forbidden, are copied."""
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        try:
            os.link(path, target)
        except (FileExistsError, FileNotFoundError):
            raise
        except OSError:
            shutil.copy2(path, target)
