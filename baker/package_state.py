"""What apt in an image knows, which packages are its recipe's own, and what a bake anew would change. Pure.

A package is a recipe's *own* where a bake anew would bring a newer one: what the recipe installed or
changed, what it asked apt for by name, and everything where it upgrades the machine or that is made from the
archive. Every other package is its parent image's affair.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

NEWEST_SEEN = "updates/changed"
"""In BAKER_HOME, touched whenever package indexes were fetched, to look for updates, that had changed."""

FRESH_SECONDS = 3600.0
"""Package indexes that are younger are used as they are, by bakes and by who looks for updates."""

STATUS = "var/lib/dpkg/status"
EXTENDED_STATES = "var/lib/apt/extended_states"

OPTIONS = re.compile(
    r"(?i:APT::(?:Architecture|Architectures|Default-Release|Install-Recommends|Install-Suggests|Ignore-Hold"
    r"|NeverAutoRemove|Never-MarkAuto-Sections|Move-Autobit-Sections|AutoRemove::[\w-]+))(?:::)?",
    re.ASCII,
)
"""What of apt's configuration is taken over. Never all of it: some keys are commands that apt runs."""

NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")
INSTALLED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")
"""What dpkg lets a package and an architecture be called. Any other name is an image's trick: apt would take
one that begins with a dash for an option."""
UPGRADES = {"upgrade": "upgrade", "full-upgrade": "dist-upgrade", "dist-upgrade": "dist-upgrade"}
MAX_CONTENT = 64 << 20
MAX_LINE = 4096
"""Longer lines say nothing that is looked for. Patterns may take the square of a line's length."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class PackageUpdate:
    """A package that a bake anew would change. ``installed`` is None for a new one, ``candidate`` for one
    that would go; ``security`` says whether the newer one comes from the distribution's security archive."""

    name: str
    arch: str
    installed: str | None
    candidate: str | None
    security: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulated:
    """What ``apt-get -s`` says that it would do. Nothing needs ``unneeded`` packages any more; ``kept`` ones
    are left as they are although there are newer ones."""

    changes: tuple[PackageUpdate, ...] = ()
    unneeded: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a recipe asked of apt: packages by name, some of them at a version (``pins``), or at one from a
    variable (``fixed``); to ``upgrade`` (``dist-upgrade``) all; without recommended packages; from ``files``,
    those at ``paths`` among them."""

    names: frozenset[str] = frozenset()
    pins: Mapping[str, str] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()
    upgrade: str | None = None
    recommends: bool = True
    files: bool = False
    paths: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageState:
    """What apt knew when the recipe was done.

    ``own`` are names; ``from_archive``: a bake anew begins with the newest of all. ``files`` are those that
    apt reads, by path. ``stuck`` are those that could have been newer already, and the version that they
    could have had: that one does not make them outdated, for a bake anew would not bring it either. None
    where that could not be found out.
    """

    own: frozenset[str] = frozenset()
    from_archive: bool = False
    upgrade: str | None = None
    pins: Mapping[str, str] = field(default_factory=dict)
    recommends: bool = True
    options: tuple[tuple[str, str], ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    stuck: Mapping[str, str] | None = field(default_factory=dict)

    @property
    def architectures(self) -> tuple[str, ...]:
        """Debian's names, the image's own first. Raises ValueError where apt named none."""
        found = [value for name, value in self.options if name.startswith("APT::Architecture")]
        if not found:
            raise ValueError("no architecture is known")
        return tuple(dict.fromkeys(found))


# --- what a recipe asked for -----------------------------------------------------------------------------

COMMAND = re.compile(r"(?<![\w./-])(?:/usr/bin/)?(?:apt-get|apt|aptitude)\s+([^;&|\n<>]*)")
TAKES_VALUE = {"-o", "--option", "-c", "--config-file", "-t", "--target-release", "--default-release", "-a"}
SIMULATES = {"-s", "--simulate", "--just-print", "--dry-run", "--recon", "--no-act"}
FETCHES = {"-d", "--download-only", "--print-uris"}


def find_asked(texts: Iterable[str], installed: Iterable[str] = ()) -> Asked:
    """What these commands ask of apt. ``installed`` are the names of the packages that came to be installed:
    where a command's names come from a variable, those of them that it mentions count as asked for."""
    names: set[str] = set()
    pins: dict[str, str] = {}
    fixed: set[str] = set()
    upgrade: str | None = None
    recommends: list[bool] = []
    paths: set[str] = set()
    files = False
    known = set(installed)
    for text in texts:
        plain = re.sub(r"[\"'\\]+", " ", text.replace("\\\n", " "))
        files |= bool(re.search(r"\.deb\b|\bdpkg\b", plain))
        paths |= set(re.findall(r"(?<!\S)/\S+\.deb(?!\S)", plain))
        if re.search(r"\bunattended-upgrades?\b", plain) and not COMMAND.search(plain):
            upgrade = upgrade or "upgrade"
        for command in COMMAND.finditer(plain):
            verb, options, words = _read_command(command[1].split())
            if verb in UPGRADES and not options & FETCHES:
                upgrade = "dist-upgrade" if upgrade == "dist-upgrade" else UPGRADES[verb]
                # pyinfra asks what an upgrade would do, and leaves it out where that is nothing.
            if verb not in ("install", "reinstall", "satisfy") or options & (SIMULATES | FETCHES):
                continue
            recommends.append("--no-install-recommends" not in options)
            for word in words:
                name, _, version = word.partition("=")
                name = name.partition("/")[0].partition(":")[0]
                if "$" in word or "`" in word:
                    names |= known & set(re.findall(NAME, plain))
                    fixed |= {name} if version and NAME.fullmatch(name) else set()
                elif NAME.fullmatch(name):
                    names |= {name, name.removesuffix("+")}  # apt-get install NAME+ installs it
                    if version:
                        pins[name] = version
    return Asked(
        names=frozenset(names),
        pins=pins,
        fixed=frozenset(fixed),
        upgrade=upgrade,
        recommends=any(recommends) or not recommends,
        files=files,
        paths=frozenset(paths),
    )


def _read_command(words: list[str]) -> tuple[str, set[str], list[str]]:
    """The verb of an apt command, its options, and what else it names."""
    options: set[str] = set()
    rest: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-"):
            options.add(word.partition("=")[0])
            options |= {f"-{letter}" for letter in word[1:]} if re.fullmatch(r"-[a-z]{2,}", word) else set()
            skip = word in TAKES_VALUE
        elif not word.endswith("-"):  # apt-get install NAME- removes it
            rest.append(word)
    return (rest[0] if rest else ""), options, rest[1:]


def find_own(before: Mapping[str, str], after: Mapping[str, str], asked: Asked) -> frozenset[str]:
    """Names of the packages that a recipe changed or asked for; both map ``name:arch`` to a version.

    What came of upgrading everything is not among them: an upgrade does not bring all that is newer.
    """
    changed = {name for name, version in after.items() if before.get(name) != version}
    if asked.upgrade is not None:
        changed -= before.keys()
    wanted = {name for name in after if name.partition(":")[0] in asked.names}
    return frozenset(name.partition(":")[0] for name in changed | wanted)


# --- what apt says ----------------------------------------------------------------------------------------

INSTALLS = re.compile(r"^Inst (\S+) (?:\[([^]\n]*)\] )?\((\S+) (.*?) ?\[([^]\n]+)\]\)", re.MULTILINE)
REMOVES = re.compile(r"^(?:Remv|Purg) (\S+) \[([^]\n]*)\]", re.MULTILINE)
UNNEEDED = re.compile(r"automatically installed and (?:is|are) no longer required:\n((?:  .*\n)+)")
KEPT = re.compile(r"^The following packages have been kept back:\n((?:  .*\n)+)", re.MULTILINE)
SECURITY = re.compile(r"-security\b|\bDebian-Security:", re.IGNORECASE)


def drop_long_lines(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if len(line) <= MAX_LINE)


def parse_simulation(printed: str) -> Simulated:
    """What ``apt-get -s`` printed in the C locale. It names no architecture of native packages that go."""
    printed = drop_long_lines(printed)
    changes = []
    for name, installed, candidate, origin, arch in INSTALLS.findall(printed):
        changes.append(
            PackageUpdate(
                name=name.partition(":")[0],
                arch=arch,
                installed=installed or None,
                candidate=candidate,
                security=bool(SECURITY.search(origin)),
            )
        )
    for name, installed in REMOVES.findall(printed):
        short, _, arch = name.partition(":")
        changes.append(PackageUpdate(name=short, arch=arch, installed=installed, candidate=None))
    unneeded, kept = (
        {word for block in pattern.findall(printed) for word in block.split()} for pattern in (UNNEEDED, KEPT)
    )
    return Simulated(
        changes=tuple(changes),
        unneeded=frozenset(unneeded),
        kept=frozenset(word.partition(":")[0] for word in kept),
    )


def parse_options(dumped: str) -> tuple[tuple[str, str], ...]:
    """The allowed lines of ``apt-config dump``."""
    found = []
    for name, value in re.findall(r'^(\S+) "([ !#-~]*)";$', drop_long_lines(dumped), re.MULTILINE):
        if OPTIONS.fullmatch(name) and value:
            found.append((name, value))
    return tuple(found)


def parse_policy(printed: str) -> dict[str, str]:
    """Of ``apt-cache policy`` the installed packages that could have another version, and that one."""
    pattern = r"^(\S+):\n  Installed: (\S+)\n  Candidate: (\S+)$"
    return {
        name.partition(":")[0]: candidate
        for name, installed, candidate in re.findall(pattern, drop_long_lines(printed), re.MULTILINE)
        if "(none)" not in (installed, candidate) and installed != candidate
    }


def parse_local(listed: str) -> frozenset[str]:
    """Of ``apt list --installed`` the packages whose version no archive has."""
    found = set()
    for line in listed.splitlines():
        name, _, rest = line.partition("/")
        if "local" in rest.rpartition("[")[2].rstrip("]").split(","):
            found.add(name)
    return frozenset(found)


def parse_files(shown: str, versions: Mapping[str, str]) -> frozenset[str]:
    """Of ``dpkg-deb --show`` the packages that are installed at this version."""
    pairs = (line.partition("\t") for line in shown.splitlines())
    return frozenset(name for name, _, version in pairs if versions.get(name) == version)


# --- the status file --------------------------------------------------------------------------------------

UNUSED = re.compile(
    r"^(?:Description|Conffiles|Maintainer|Original-Maintainer|Homepage|Bugs|Build-Ids|Tag):.*\n"
    r"(?:[ \t].*\n)*",
    re.MULTILINE,
)


def strip_status(text: str) -> str:
    """A dpkg status file without what apt needs for no decision, and without packages of impossible names."""
    stanzas = UNUSED.sub("", text if text.endswith("\n") else f"{text}\n").split("\n\n")
    return "\n\n".join(stanza for stanza in stanzas if _is_named_well(stanza))


def _is_named_well(stanza: str) -> bool:
    names = re.findall(r"^package[ \t]*:(.*)$", stanza, re.MULTILINE | re.IGNORECASE)
    return len(names) <= 1 and all(INSTALLED_NAME.fullmatch(name.strip()) for name in names)


def list_installed(status: str) -> Iterator[tuple[str, str]]:
    """``name:arch`` and version of what a dpkg status file calls installed."""
    for stanza in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Status|Version|Architecture): (.*)$", stanza, re.MULTILINE))
        name, arch = fields.get("Package", ""), fields.get("Architecture", "")
        is_named_well = INSTALLED_NAME.fullmatch(name) and INSTALLED_NAME.fullmatch(arch)
        if is_named_well and fields.get("Status", "").endswith(" installed"):
            yield f"{name}:{arch}", fields.get("Version", "")


def lift_holds(status: str, names: Collection[str] | None) -> str:
    """Without the holds of these packages (None: of all): the recipe set them once it had the newest ones."""
    stanzas = status.split("\n\n")
    for number, stanza in enumerate(stanzas):
        found = re.search(r"^Package: (.*)$", stanza, re.MULTILINE)
        if found and (names is None or found[1] in names):
            stanzas[number] = re.sub(r"^Status: hold ", "Status: install ", stanza, flags=re.MULTILINE)
    return "\n\n".join(stanzas)


# --- keeping it ------------------------------------------------------------------------------------------


def encode_state(state: PackageState) -> bytes:
    """As the catalog keeps it."""
    value = {
        "own": sorted(state.own),
        "from_archive": state.from_archive,
        "upgrade": state.upgrade,
        "pins": dict(state.pins),
        "recommends": state.recommends,
        "options": [list(option) for option in state.options],
        "stuck": None if state.stuck is None else dict(state.stuck),
        "files": {path: content.decode("latin-1") for path, content in state.files.items()},
    }
    return zlib.compress(json.dumps(value, sort_keys=True).encode(), 9)


def decode_state(content: bytes) -> PackageState:
    """The inverse. Raises ValueError for what is none."""
    try:
        text = zlib.decompressobj().decompress(content, MAX_CONTENT)
        value: dict[str, Any] = json.loads(text)
        return PackageState(
            own=frozenset(value["own"]),
            from_archive=value["from_archive"],
            upgrade=value["upgrade"],
            pins=value["pins"],
            recommends=value["recommends"],
            options=tuple((name, setting) for name, setting in value["options"]),
            stuck=None if value["stuck"] is None else dict(value["stuck"]),
            files={path: text.encode("latin-1") for path, text in value["files"].items()},
        )
    except (zlib.error, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no package state: {error}") from error
