"""Further signed apt repositories of a project, and how they come into a machine.

One at an address is kept in the image. One that is a folder of this host is there while baking only: nobody
could update from it elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from baker.errors import SourceError
from baker.providers.protocol import Machine

SOURCES = "/etc/apt/sources.list.d"
KEYRINGS = "/etc/apt/keyrings"
SHOWN = "/run/baker/repositories"
ARMOUR = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """One repository, pinned: ``key`` holds its public keys (base64). ``uri`` is an address, or what the
    project calls a folder.

    What a folder holds is no part of it: package updates tell whom that concerns.
    """

    uri: str
    suite: str
    components: tuple[str, ...]
    key: str

    @property
    def name(self) -> str:
        """What its files are called; another repository never has the same."""
        readable = re.sub(
            r"[^a-z0-9]+", "-", f"{self.uri.partition('//')[2] or self.uri} {self.suite}".lower()
        )
        unique = hashlib.sha256(f"{self.uri} {self.suite}".encode()).hexdigest()[:6]
        return f"{readable.strip('-')[:60]}-{unique}"

    @property
    def is_folder(self) -> bool:
        return re.match(r"https?://", self.uri) is None

    @property
    def keyring(self) -> str:
        """Where its keys lie in a machine: apt tells armoured from binary keys by the ending."""
        armoured = self.key_bytes.lstrip().startswith(ARMOUR)
        return f"{KEYRINGS}/{self.name}.{'asc' if armoured else 'gpg'}"

    @property
    def sources(self) -> str:
        return f"{SOURCES}/{self.name}.sources"

    @property
    def key_bytes(self) -> bytes:
        return base64.b64decode(self.key)

    def describe(self, uri: str, keyring: str) -> str:
        """The text of a sources file (deb822)."""
        lines = ["Types: deb", f"URIs: {uri}", f"Suites: {self.suite}"]
        if self.components:
            lines.append(f"Components: {' '.join(self.components)}")
        return "\n".join([*lines, f"Signed-By: {keyring}", ""])


def pin_repositories(settings: Mapping[str, Any], project: Path | None) -> dict[str, Any]:
    """The settings, with each repository's keys in it: so that a build depends on them.

    Raises SourceError for a keyring or folder that is missing or is none.
    """
    if "repositories" not in settings:
        return dict(settings)
    pinned = [_pin(table, project or Path.cwd()) for table in settings["repositories"]]
    return {**settings, "repositories": [asdict(repository) for repository in pinned]}


def read_repositories(rows: Sequence[Mapping[str, Any]]) -> tuple[Repository, ...]:
    """The inverse of ``asdict``, also from JSON that an earlier release wrote."""
    known = ("uri", "suite", "key")
    return tuple(
        Repository(**{name: row[name] for name in known}, components=tuple(row["components"])) for row in rows
    )


def find_folder(repository: Repository, project: Path | None) -> Path:
    """Where a folder repository lies on this host."""
    uri = repository.uri
    path = unquote(re.sub(r"^file:(//)?", "", uri)) if uri.startswith("file:") else uri
    return (project or Path.cwd()) / path


def show_folders(repositories: Sequence[Repository], project: Path | None) -> dict[str, Path]:
    """The folders among them, by the path at which machines see each while baking."""
    folders = [repository for repository in repositories if repository.is_folder]
    return {f"{SHOWN}/{folder.name}": find_folder(folder, project).resolve() for folder in folders}


def install_repository(machine: Machine, repository: Repository) -> None:
    """Write its sources and keys into a machine, unless they are there; a folder must be shown in it.

    A folder's index is read at once. Raises SourceError if apt in the machine does not accept it.
    """
    uri = f"file:{SHOWN}/{repository.name}" if repository.is_folder else repository.uri
    files = {
        repository.keyring: repository.key_bytes,
        repository.sources: repository.describe(uri, repository.keyring).encode(),
    }
    machine.run(["mkdir", "-p", SOURCES, KEYRINGS])
    for path, content in files.items():
        if machine.run(["cat", path]).stdout != content:
            machine.put(io.BytesIO(content), path)
    if repository.is_folder:
        options = {
            "Dir::Etc::sourcelist": repository.sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "APT::Get::List-Cleanup": "false",
        }
        argv = ["apt-get", "update", "-qq", "--error-on=any"]
        done = machine.run([*argv, *(f"-o{name}={value}" for name, value in options.items())])
        if done.exit_status != 0:
            complaint = done.stderr.decode(errors="replace").strip()
            raise SourceError(
                f"apt refuses the repository {repository.uri}: {complaint}",
                hint="Sign its Release file with a key of its keyring.",
            )


def remove_folder_repositories(upper: Path, repositories: Sequence[Repository]) -> None:
    """Take the files of folder repositories out of what a stopped machine wrote. Follows no link."""
    for repository in repositories:
        for name in (repository.sources, repository.keyring) if repository.is_folder else ():
            path = upper / name.lstrip("/")
            if not any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(upper)):
                path.unlink(missing_ok=True)


def _pin(table: Mapping[str, Any], project: Path) -> Repository:
    uri, suite = table["uri"], table["suite"]
    keyring = project / table["keyring"]
    try:
        key = keyring.read_bytes()
    except OSError as error:
        raise SourceError(
            f"repository {uri}: its keyring {keyring} cannot be read: {error.strerror}"
        ) from error
    if not key.strip():
        raise SourceError(f"repository {uri}: its keyring {keyring} is empty")
    flat = suite.endswith("/")
    repository = Repository(
        uri=uri,
        suite=suite,
        components=tuple(table.get("components", () if flat else ("main",))),
        key=base64.b64encode(key).decode(),
    )
    if not repository.is_folder:
        return repository
    folder = find_folder(repository, project) / ("" if flat else "dists") / suite
    if not any((folder / name).is_file() for name in ("InRelease", "Release")):
        raise SourceError(f"repository {uri}: {folder} holds neither InRelease nor Release")
    return repository
