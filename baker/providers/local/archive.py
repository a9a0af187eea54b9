"""A distribution's package archive, seen from the host: apt with folders of our own.

The host's apt fetches and verifies the indexes (it never looks at the host's own sources or state). They say
what a bootstrap would hold before anything is downloaded, machines start with a copy-on-write view of them,
and they are what a .deb must match before later bakes may use it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote

from baker.apt_failures import is_passing_fetch
from baker.errors import CommandFailed, SourceError
from baker.model import Bootstrap
from baker.package_state import FRESH_SECONDS
from baker.providers.local.host import DPKG_ARCH, run_tool
from baker.providers.local.repositories import Repository
from baker.providers.local.store import Store, json_bytes, publish

KEYRINGS = {
    "debian": (Path("/usr/share/keyrings/debian-archive-keyring.gpg"), "debian-archive-keyring"),
    "ubuntu": (Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"), "ubuntu-keyring"),
}
"""Each distribution's keys on the host, and the package that brings them."""
INCLUDED = ("dbus", "systemd-sysv")
"""What a bootstrap holds beyond minbase: enough to boot, and to be told when it has booted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedPackage:
    """One package of a resolved set: the .deb's file name, size and sha256 (hex)."""

    name: str
    version: str
    file: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedBootstrap:
    """What a bootstrap would hold now: ``key`` is a digest of the packages, ``epoch`` the release's date."""

    key: str
    packages: tuple[ResolvedPackage, ...]
    epoch: int


class Archive:
    """The archive of one suite and architecture.

    ``mirror`` and ``security_mirror`` are base addresses; without them what mmdebstrap knows is taken.
    ``repositories`` (addresses only) are known beside it: their indexes are fetched with its own. Those that
    were fetched before ``not_before`` are fetched again, however young they are.
    """

    def __init__(
        self,
        store: Store,
        bootstrap: Bootstrap,
        arch: str,
        *,
        mirror: str | None = None,
        security_mirror: str | None = None,
        proxy: str | None = None,
        repositories: Sequence[Repository] = (),
        not_before: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if bootstrap.distribution not in KEYRINGS:
            known = ", ".join(KEYRINGS)
            raise SourceError(f"{bootstrap}: baker bootstraps {known}, not {bootstrap.distribution}")
        self.store = store
        self.bootstrap = bootstrap
        self.arch = arch
        self.keyring, package = KEYRINGS[bootstrap.distribution]
        if not self.keyring.exists():
            raise SourceError(
                f"{bootstrap} cannot be verified: this host has no {self.keyring}",
                hint=f"apt-get install {package}",
            )
        self.repositories = tuple(repositories)
        self._mirror = mirror
        self._security_mirror = security_mirror
        self._proxy = {"http_proxy": proxy, "https_proxy": proxy} if proxy else {}
        self._not_before = not_before
        self._clock = clock
        mirrors = f"{mirror} {security_mirror}".encode()
        chosen = hashlib.sha256(mirrors).hexdigest()[:8] if mirror or security_mirror else "default"
        folder = store.folder / "apt" / f"{bootstrap.distribution}-{bootstrap.suite}-{arch}-{chosen}"
        self._plain_lists = folder / "lists"
        if self.repositories:
            known = hashlib.sha256(repr(self.repositories).encode()).hexdigest()[:8]
            folder = folder.with_name(f"{folder.name}-{known}")
        self.folder = folder
        self.lists = self.folder / "lists"
        # apt takes a cached package of the right name and size for the right one: what further repositories
        # bring never lies where bakes without them would find it.
        self._plain_debs = store.folder / "apt" / "debs"
        self.debs = self.folder / "debs" if self.repositories else self._plain_debs

    # --- indexes ----------------------------------------------------------------------------------

    def refresh(self, *, offline: bool = False) -> None:
        """Bring the indexes up to date unless they are younger than an hour. Raises SourceError."""
        stamp = self.folder / "refreshed"

        def is_fresh() -> bool:
            if not stamp.exists():
                return False
            fetched = stamp.stat().st_mtime
            return offline or (fetched > self._not_before and 0 <= self._clock() - fetched < FRESH_SECONDS)

        if is_fresh():
            return
        if offline:
            beside = "".join(f" with {repository.uri}" for repository in self.repositories)
            raise SourceError(
                f"there are no package indexes of {self.bootstrap}{beside} here, "
                "and --offline forbids to fetch them",
                hint="Run once without --offline.",
            )
        with self.store.lock(f"apt-{self.folder.name}"):
            if is_fresh():  # somebody else has just fetched them
                return
            self._write_configuration()
            try:
                self._apt("update", "--error-on=any", "-qq")
            except CommandFailed as error:
                raise SourceError(
                    f"the package archive of {self.bootstrap} cannot be read: {error.stderr_tail}",
                    hint="Check the network, the proxy, [local] mirror in baker.toml; or use --offline.",
                    passing=is_passing_fetch(error.stderr_tail),
                ) from error
            finally:
                remove_files(self.lists / "partial")
            stamp.touch()

    def _write_configuration(self) -> None:
        for folder in ("etc/apt.conf.d", "etc/preferences.d", "etc/trusted.gpg.d", "lists/partial", "cache"):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        (self.debs / "partial").mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        sources = self.folder / "etc" / "sources.list"
        if not sources.exists():
            sources.write_text("".join(f"{line}\n" for line in self._source_lines()))
        if self.repositories:
            self._write_repositories()

    def _write_repositories(self) -> None:
        for name in ("sources.list.d", "keyrings"):
            (self.folder / "etc" / name).mkdir(exist_ok=True)
        for repository in self.repositories:
            keyring = self.folder / "etc" / "keyrings" / Path(repository.keyring).name
            keyring.write_bytes(repository.key_bytes)
            sources = self.folder / "etc" / "sources.list.d" / Path(repository.sources).name
            sources.write_text(repository.describe(repository.uri, str(keyring)))
        # What is here need not be fetched again.
        for path, folder in (
            *((path, self.lists) for path in self._plain_lists.glob("*_*")),
            *((path, self.debs) for path in self._plain_debs.glob("*.deb")),
        ):
            if not (folder / path.name).exists():
                os.link(path, folder / path.name)

    def _source_lines(self) -> list[str]:
        lines = []
        for line in self._default_source_lines():
            _, address, suite, *components = line.split()
            chosen = self._security_mirror if suite.endswith("-security") else self._mirror
            lines.append(" ".join(["deb", chosen or address, suite, *components]))
        signed = f"deb [signed-by={self.keyring}] "
        return [re.sub(r"^deb ", signed, line) for line in lines]

    def _default_source_lines(self) -> list[str]:
        """The lines that mmdebstrap itself would write: it knows the suites, we need not."""
        with tempfile.TemporaryDirectory(dir=self.store.folder) as scratch:
            found = Path(scratch) / "sources.list"
            hook = f'cp "$1"/etc/apt/sources.list {found}; exit 1'
            argv = ["mmdebstrap", "--variant=custom", "--mode=root", f"--setup-hook={hook}"]
            argv += ["--skip=check/signed-by", f"--architectures={DPKG_ARCH[self.arch]}"]
            try:
                run_tool([*argv, f"--keyring={self.keyring}", self.bootstrap.suite, f"{scratch}/root"])
            except CommandFailed as error:
                if not found.exists():
                    raise SourceError(f"mmdebstrap knows no {self.bootstrap}: {error.stderr_tail}") from error
            return [line for line in found.read_text().splitlines() if line.startswith("deb ")]

    def _apt(self, *arguments: str) -> str:
        options = {
            "Dir": self.folder,
            "Dir::Etc": self.folder / "etc",
            "Dir::State": self.folder,
            "Dir::State::lists": self.lists,
            "Dir::State::status": self.folder / "status",
            "Dir::Cache": self.folder / "cache",
            "Dir::Cache::archives": self.debs,
            "APT::Architecture": DPKG_ARCH[self.arch],
            "APT::Architectures": DPKG_ARCH[self.arch],
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "Acquire::ForceHash": "sha256",
            "Acquire::Languages": "en",
        }
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as configuration:
            configuration.write("".join(f'{name} "{value}";\n' for name, value in options.items()))
            configuration.flush()
            return run_tool(["apt-get", *arguments], env={"APT_CONFIG": configuration.name, **self._proxy})

    # --- resolving --------------------------------------------------------------------------------

    def resolve_bootstrap(self, *, offline: bool = False) -> ResolvedBootstrap:
        """What a bootstrap would hold now. Raises SourceError. Remembered until the indexes change."""
        self.refresh(offline=offline)
        state = self._lists_state()
        remembered = self.folder / "resolved.json"
        if remembered.exists():
            found = json.loads(remembered.read_bytes())
            if found["lists"] == state:
                packages = tuple(ResolvedPackage(**package) for package in found["packages"])
                return ResolvedBootstrap(key=found["key"], packages=packages, epoch=found["epoch"])
        resolved = self._resolve()
        packages_json = [
            {"name": p.name, "version": p.version, "file": p.file, "size": p.size, "sha256": p.sha256}
            for p in resolved.packages
        ]
        found = {"lists": state, "key": resolved.key, "epoch": resolved.epoch, "packages": packages_json}
        new = remembered.with_suffix(f".{os.getpid()}.{threading.get_native_id()}")
        new.write_bytes(json_bytes(found))
        publish(new, remembered)
        return resolved

    def _lists_state(self) -> str:
        """Changes whenever a downloaded index does."""
        found = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in self.lists.glob("*_*")]
        return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()

    def _resolve(self) -> ResolvedBootstrap:
        names = [*self._required_packages(), *INCLUDED]
        nothing = self.folder / "nothing"  # apt does not tell of packages that are cached already
        (nothing / "partial").mkdir(parents=True, exist_ok=True)
        asked = ["-o", f"Dir::Cache::archives={nothing}", "--print-uris", "-qq", "-y"]
        try:
            printed = self._apt("install", *asked, "?essential", "apt", *names)
        except CommandFailed as error:
            raise SourceError(f"{self.bootstrap} does not resolve: {error.stderr_tail}") from error
        packages = tuple(sorted(parse_uris(printed), key=lambda package: package.file))
        epoch = self._release_date()
        identity = [[package.file, package.size, package.sha256] for package in packages]
        mirrors = [self._mirror, self._security_mirror]  # an image goes on using them
        parts = [identity, epoch, sorted(names), *(mirrors if any(mirrors) else ())]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return ResolvedBootstrap(key=key, packages=packages, epoch=epoch)

    def _required_packages(self) -> list[str]:
        """Packages of priority required, by name: minbase is these, the essential ones and apt."""
        names = set()
        for path in self.lists.glob("*_Packages*"):
            text = run_tool(["/usr/lib/apt/apt-helper", "cat-file", str(path)])
            for match in re.finditer(r"^Priority: required$", text, re.MULTILINE):
                start = text.rfind("\n\n", 0, match.start()) + 2
                found = re.compile(r"^Package: (\S+)$", re.MULTILINE).search(text, max(start - 2, 0))
                if found:
                    names.add(found[1])
        return sorted(names)

    def _release_date(self) -> int:
        """The suite's release date, in seconds: moves with point releases, not at every re-signing."""
        for path in sorted(self.lists.glob(f"*_dists_{self.bootstrap.suite}_InRelease")):
            found = re.search(r"^Date: (.+)$", path.read_text(errors="replace"), re.MULTILINE)
            if found:
                return int(parsedate_to_datetime(found[1]).astimezone(UTC).timestamp())
        raise SourceError(f"the archive of {self.bootstrap} has no dated InRelease file")

    # --- packages ---------------------------------------------------------------------------------

    def download(self, packages: Sequence[ResolvedPackage], *, offline: bool) -> None:
        """Have every .deb in the cache. Raises SourceError."""
        missing = [package for package in packages if not (self.debs / package.file).exists()]
        if not missing:
            return
        if offline:
            raise SourceError(
                f"{len(missing)} packages of {self.bootstrap} are not in the cache (such as "
                f"{', '.join(package.name for package in missing[:3])}), and --offline forbids to fetch any",
                hint="Bake once without --offline.",
            )
        wanted = [f"{package.name}={package.version}" for package in packages]
        try:
            with self.store.lock("debs"):  # apt does not wait for its own lock
                try:
                    self._apt("install", "--download-only", "-qq", "-y", *wanted)
                finally:
                    remove_files(self.debs / "partial", "*_*.deb")
        except CommandFailed as error:
            raise SourceError(
                f"packages of {self.bootstrap} cannot be fetched: {error.stderr_tail}",
                hint="Bake again: what did arrive is kept.",
                passing=is_passing_fetch(error.stderr_tail),
            ) from error

    def accept(self, folder: Path) -> int:
        """Take .deb files that a machine fetched into the cache: only those that the verified indexes know.

        Returns how many. Names are the machine's: nothing but a plain file with a proper name is looked at.
        """
        offered = {}
        for entry in os.scandir(folder) if folder.is_dir() else ():
            name, version, *rest = [*unquote(entry.name).split("_"), "", ""]
            is_package = rest[0].endswith(".deb") and entry.is_file(follow_symlinks=False)
            if is_package:  # also under a name that is here: what is here was not what apt wanted
                offered[entry.name] = f"{name}={version}"
        if not offered:
            return 0
        accepted = 0
        for package in self._known(sorted(offered.values())):
            path = folder / package.file
            if package.file in offered and matches(path, package):
                new = self.debs / "partial" / f"{package.file}.{os.getpid()}.{threading.get_native_id()}"
                try:
                    shutil.copyfile(path, new, follow_symlinks=False)
                    if matches(new, package):
                        new.replace(self.debs / package.file)
                        accepted += 1
                finally:
                    new.unlink(missing_ok=True)
        return accepted

    def _known(self, wanted: Sequence[str]) -> list[ResolvedPackage]:
        """Those of ``NAME=VERSION`` that the indexes hold. apt gives up at unknown ones: take them out."""
        names = list(wanted)
        while names:
            try:
                return list(parse_uris(self._apt("download", "--print-uris", "-qq", *names)))
            except CommandFailed as error:
                unknown = [
                    name
                    for name in names
                    if f"'{name.split('=')[1]}' for '{name.split('=')[0]}'" in error.stderr_tail
                ]
                unknown += [
                    name for name in names if f"locate package {name.split('=')[0]}" in error.stderr_tail
                ]
                if not unknown:
                    return []
                names = [name for name in names if name not in unknown]
        return []


def parse_uris(printed: str) -> list[ResolvedPackage]:
    """The lines of ``apt-get --print-uris``: 'URI' FILE SIZE SHA256:HEX."""
    packages = []
    for match in re.finditer(r"^'[^']+' (\S+\.deb) (\d+) SHA256:([0-9a-f]{64})$", printed, re.MULTILINE):
        name, version, _ = match[1].split("_")
        packages.append(
            ResolvedPackage(
                name=name, version=unquote(version), file=match[1], size=int(match[2]), sha256=match[3]
            )
        )
    return packages


def remove_files(folder: Path, pattern: str = "*") -> None:
    """What a download that broke off left."""
    for path in folder.glob(pattern):
        path.unlink(missing_ok=True)


def matches(path: Path, package: ResolvedPackage) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == package.sha256
