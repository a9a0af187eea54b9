"""Package updates found without a machine: the host's apt looks at what an image's apt knew."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from baker.errors import CommandFailed
from baker.package_sources import read_sources
from baker.package_state import NEWEST_SEEN, PackageUpdate, decode_state
from baker.updates.indexes import Fetching, Indexes, write_json
from baker.updates.simulation import find_updates

FORMAT = 2
"""Of what is remembered: raise it when the same packages and indexes may come to other updates."""

KEPT_SECONDS = 30 * 86400.0
BY_AGE = "(max_age can bake it by age)"
UNTOLD = "which packages are outdated cannot be told"
UNKNOWN = f"{UNTOLD}: no apt was found in the build {BY_AGE}"
UNSEEN = f"{UNTOLD}: the build could not find out which of them could have been newer {BY_AGE}"
NO_APT = f"{UNTOLD}: this host has no apt {BY_AGE}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """A set of indexes as they are: ``lists`` is their state, ``missed`` says what could not be fetched."""

    indexes: Indexes
    missed: str | None
    lists: str
    is_empty: bool


class AptUpdates:
    """``home`` is BAKER_HOME; who may not write there has what he fetches in a cache of his own, or else uses
    what is there.

    Indexes that are younger than an hour are used as they are, unless ``refresh``; ``offline`` uses those
    that there are. Threads and processes may share one home.
    """

    def __init__(
        self,
        home: Path,
        *,
        refresh: bool = False,
        offline: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._home = home
        shared = (home / NEWEST_SEEN).parent
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
        own = Path(cache, "baker", "updates")
        self._folder = own if not _may_write(shared) and _may_write(own) else shared
        self._looked: dict[str, Looked] | None = None
        self._versions: dict[tuple[str, str], Mapping[str, str]] = {}
        offline = offline or not _may_write(self._folder)
        self._fetching = Fetching(offline=offline, since=clock() if refresh else 0.0, clock=clock)

    def for_plan(self) -> AptUpdates:
        """The same, for one plan: each set of indexes is looked at once."""
        same = copy.copy(self)
        same._looked = {}
        return same

    def outdated(
        self,
        build: str,
        load: Callable[[], bytes | None],
        *,
        folders: Mapping[str, Path],
        proxy: str | None = None,
    ) -> tuple[Sequence[PackageUpdate], str | None]:
        """The packages that a bake anew would change; and what cannot be told, and why.

        ``load`` gives what is known of the build's packages (``encode_state``). ``folders`` are those that
        its machines see, by their path there. What was found is remembered until an index changes.
        """
        try:
            return self._find(build, load, folders, proxy)
        except CommandFailed as error:
            return (), f"{UNTOLD}: {error}"
        except ValueError:  # nothing is known of its packages, or not any more
            return (), UNKNOWN
        except OSError as error:  # a disk is full, or this user may write nowhere
            return (), f"{UNTOLD}: {error.filename}: {error.strerror}"

    def _find(
        self,
        build: str,
        load: Callable[[], bytes | None],
        folders: Mapping[str, Path],
        proxy: str | None,
    ) -> tuple[Sequence[PackageUpdate], str | None]:
        memo = self._recall(build, folders)
        if memo is None:
            memo = self._begin(load(), folders)
            self._remember(build, memo)
        if memo["unseen"]:
            return (), UNSEEN
        if memo["set"] is None:
            return (), None
        looked = self._look_at(memo["set"], proxy)
        if looked is None:
            return (), NO_APT
        indexes, lists, missed = looked.indexes, looked.lists, looked.missed
        if looked.is_empty:
            why = missed or "their indexes were never fetched, and --offline forbids it"
            return (), f"{UNTOLD}: {why}"
        if memo["lists"] != lists:
            memo = {**memo, "lists": lists, **self._look(memo, lists, indexes, load)}
            self._remember(build, memo)
        updates = tuple(PackageUpdate(**row) for row in memo["updates"])
        notes = [f"package indexes could not be fetched: {missed}"] if missed else []
        if memo["refused"]:
            notes.append(f"not looked at for package updates: {', '.join(memo['refused'])}")
        return updates, "; ".join(notes) or None

    def _look_at(self, digest: str, proxy: str | None) -> Looked | None:
        """A set of indexes, fetched anew where that is due; None without apt."""
        looked = None if self._looked is None else self._looked.get(digest)
        if looked is None and shutil.which("apt-get") is not None:
            indexes = self._indexes(digest)
            missed = indexes.refresh(self._fetching, proxy, self._list_archives())
            looked = Looked(
                indexes=indexes, missed=missed, lists=indexes.state(), is_empty=indexes.is_empty()
            )
            if self._looked is not None:
                self._looked[digest] = looked
        return looked

    def _look(
        self, memo: Mapping[str, Any], lists: str, indexes: Indexes, load: Callable[[], bytes | None]
    ) -> dict[str, Any]:
        """What is to be remembered of newer indexes. Mostly they have nothing of the packages that count."""
        key = memo["set"], lists
        if key not in self._versions:
            self._versions = {key: indexes.versions()}  # one: they are large
        versions = self._versions.get(key) or indexes.versions()
        if memo["settled"] and memo["versions"] == _digest(memo["names"], versions):
            return {}
        found = find_updates(decode_state(load() or b""), indexes.folder)
        return {
            "updates": [asdict(update) for update in found.updates],
            "names": sorted(found.names),
            "settled": found.settled,
            "versions": _digest(found.names, versions),
        }

    def _begin(self, content: bytes | None, folders: Mapping[str, Path]) -> dict[str, Any]:
        """What is to be remembered of a build that was not looked at before. Raises ValueError."""
        state = decode_state(content or b"")
        memo: dict[str, Any] = {
            "folders": _name(folders),
            "set": None,
            "refused": [],
            "lists": None,
            "updates": [],
            "settled": False,
            "unseen": state.stuck is None,
        }
        if state.stuck is None:
            return memo
        if not state.own and not state.from_archive and state.upgrade is None:
            return memo
        self._forget_old()
        sources, refused = read_sources(state.files, state.architectures, folders)
        self._indexes(sources.digest).prepare(sources, self._list_archives())
        return {**memo, "set": sources.digest, "refused": refused}

    def _indexes(self, digest: str) -> Indexes:
        return Indexes(self._folder / "sets" / digest, self._folder / Path(NEWEST_SEEN).name)

    def _list_archives(self) -> list[Path]:
        """The folders of distributions' archives. Never another set's: its keys are those of its images."""
        return sorted(path.parent for path in self._home.glob("local/apt/*/refreshed"))

    # --- what was found ---------------------------------------------------------------------------

    def _memo_path(self, build: str) -> Path:
        return self._folder / "builds" / f"{Path(build).name}.json"

    def _recall(self, build: str, folders: Mapping[str, Path]) -> dict[str, Any] | None:
        try:
            # Paths as text: a plan asks this of a thousand builds.
            with open(f"{self._folder}/builds/{os.path.basename(build)}.json", "rb") as file:  # noqa: PTH119, PTH123
                memo: dict[str, Any] = json.loads(file.read())
        except (OSError, ValueError):
            return None
        if memo.get("format") != FORMAT or memo["folders"] != _name(folders):
            return None
        digest = memo["set"]
        is_known = digest is None or digest in (self._looked or ())
        return memo if is_known or self._indexes(digest).is_prepared() else None

    def _remember(self, build: str, memo: Mapping[str, Any]) -> None:
        path = self._memo_path(build)
        if _may_write(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"format": FORMAT, **memo})

    def _forget_old(self) -> None:
        """What has not been of use for a month."""
        oldest = time.time() - KEPT_SECONDS
        for path in self._folder.glob("builds/*"):
            with contextlib.suppress(FileNotFoundError):  # others forget as well
                if path.stat().st_mtime < oldest:
                    path.unlink()
        for folder in self._folder.glob("sets/*"):
            self._indexes(folder.name).forget(oldest)


def _name(folders: Mapping[str, Path]) -> dict[str, str]:
    return {path: str(folder) for path, folder in sorted(folders.items())}


def _digest(names: Iterable[str], versions: Mapping[str, str]) -> str:
    """Moves whenever there is another version of one of these packages."""
    return hashlib.sha256(repr([(name, versions.get(name)) for name in sorted(names)]).encode()).hexdigest()


def _may_write(folder: Path) -> bool:
    """Whether this process may write there, or make the folder."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(existing, os.W_OK)
