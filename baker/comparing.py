"""The difference of two builds' contents, and what of it somebody should look at before it is deployed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from baker.layer import Layer
from baker.manifest import stack_layers
from baker.model import FileEntry, Manifest, Package
from baker.versions import compare_versions


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageChange:
    """The same package in two builds, at two versions."""

    old: Package
    new: Package


@dataclass(frozen=True, kw_only=True, slots=True)
class FileChange:
    """The same path in two builds, different in content, kind, owner, mode, link or attributes."""

    old: FileEntry
    new: FileEntry


@dataclass(frozen=True, kw_only=True, slots=True)
class Notable:
    """A changed path that matters more than others. ``kind`` is stable, ``detail`` is for people."""

    kind: str
    path: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestDifference:
    """What changed from one manifest to another, each part sorted. ``size_delta`` is in bytes of files."""

    packages_added: tuple[Package, ...]
    packages_removed: tuple[Package, ...]
    packages_upgraded: tuple[PackageChange, ...]
    packages_downgraded: tuple[PackageChange, ...]
    files_added: tuple[FileEntry, ...]
    files_removed: tuple[FileEntry, ...]
    files_changed: tuple[FileChange, ...]
    size_delta: int

    @property
    def empty(self) -> bool:
        """Whether the two are the same."""
        packages = self.packages_added or self.packages_removed or self.packages_upgraded
        files = self.files_added or self.files_removed or self.files_changed
        return not (packages or self.packages_downgraded or files)


def compare_manifests(old: Manifest, new: Manifest) -> ManifestDifference:
    """What changed from ``old`` to ``new``."""
    return compare_contents(
        old.packages,
        new.packages,
        {file.path: file for file in old.files},
        {file.path: file for file in new.files},
    )


def compare_contents(
    old_packages: Iterable[Package],
    new_packages: Iterable[Package],
    old_files: Mapping[str, FileEntry],
    new_files: Mapping[str, FileEntry],
) -> ManifestDifference:
    """The same, of the parts; files that both have alike may be left out on both sides."""
    added, removed, upgraded, downgraded = _compare_packages(old_packages, new_packages)
    files_added = tuple(new_files[path] for path in sorted(new_files.keys() - old_files.keys()))
    files_removed = tuple(old_files[path] for path in sorted(old_files.keys() - new_files.keys()))
    files_changed = tuple(
        FileChange(old=old_files[path], new=new_files[path])
        for path in sorted(old_files.keys() & new_files.keys())
        # Most are one object, of a layer that both stacks have: quicker to see than that they are equal.
        if old_files[path] is not new_files[path] and old_files[path] != new_files[path]
    )
    size_delta = sum(file.size for file in files_added) - sum(file.size for file in files_removed)
    size_delta += sum(change.new.size - change.old.size for change in files_changed)
    return ManifestDifference(
        packages_added=added,
        packages_removed=removed,
        packages_upgraded=upgraded,
        packages_downgraded=downgraded,
        files_added=files_added,
        files_removed=files_removed,
        files_changed=files_changed,
        size_delta=size_delta,
    )


def fold_differing(
    old: Sequence[Layer], new: Sequence[Layer]
) -> tuple[dict[str, FileEntry], dict[str, FileEntry]]:
    """The files of two stacks of layers, lowest first; what both have below is folded once."""
    common = 0
    while common < min(len(old), len(new)) and old[common].digest == new[common].digest:
        common += 1
    below = stack_layers(old[:common])
    return stack_layers(old[common:], upon=below), stack_layers(new[common:], upon=below)


def _compare_packages(
    old: Iterable[Package], new: Iterable[Package]
) -> tuple[tuple[Package, ...], tuple[Package, ...], tuple[PackageChange, ...], tuple[PackageChange, ...]]:
    """Added, removed, upgraded and downgraded, each sorted.

    A package of which several versions are installed at once (rpm's kernels) has no version to go up or
    down: its versions are added and removed.
    """
    before, after = _group_packages(old), _group_packages(new)
    added: list[Package] = []
    removed: list[Package] = []
    upgraded: list[PackageChange] = []
    downgraded: list[PackageChange] = []
    for key in sorted(before.keys() | after.keys()):
        left = [package for package in before[key] if package not in after[key]]
        right = [package for package in after[key] if package not in before[key]]
        if len(before[key]) == len(after[key]) == 1 and left and left[0].version != right[0].version:
            change = PackageChange(old=left[0], new=right[0])
            up = compare_versions(right[0].type, left[0].version, right[0].version) <= 0
            (upgraded if up else downgraded).append(change)
        elif len(before[key]) != 1 or len(after[key]) != 1:
            removed += left
            added += right
    return tuple(added), tuple(removed), tuple(upgraded), tuple(downgraded)


def _group_packages(packages: Iterable[Package]) -> defaultdict[tuple[str, str, str], list[Package]]:
    grouped: defaultdict[tuple[str, str, str], list[Package]] = defaultdict(list)
    for package in sorted(packages):
        grouped[package.type, package.name, package.arch].append(package)
    return grouped


# --- what deserves a look -------------------------------------------------------------------------------

UNIT_FOLDER = r"/(?:etc|usr/lib|lib|usr/local/lib|run)/systemd/(?:system|user)"
PLACES: Mapping[str, tuple[str, str]] = {
    "accounts": (
        r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)|/(etc|usr/lib)/(sysusers|userdb)\.d/.+",
        "users and groups",
    ),
    "privileges": (
        r"/etc/(sudoers|doas\.conf|security/.+)|/etc/(sudoers|pam|polkit-1/rules)\.d/.+",
        "who may become root",
    ),
    "login": (r"/etc/ssh/(sshd_config(\.d/.+)?|ssh_host_.+)|.*/\.ssh/authorized_keys2?", "who may log in"),
    "loader": (r"/etc/ld\.so\.(preload|conf|conf\.d/.+)", "what every program loads"),
    "trust": (
        r"/etc/apt/(sources\.list(\.d/.+)?|trusted\.gpg(\.d/.+)?|keyrings/.+|preferences(\.d/.+)?)"
        r"|/usr/local/share/ca-certificates/.+",
        "whom packages and certificates are taken from",
    ),
    "schedule": (r"/etc/(cron[^/]*(/.+)?|anacrontab)|/var/spool/cron/.+", "what runs by the clock"),
}
"""Kind of a place: its paths, and what it decides. The catalog keeps digests: it knows that they changed."""

LISTENS = re.compile(UNIT_FOLDER + r"/[^/]+\.socket")
UNIT = re.compile(UNIT_FOLDER + r"/[^/]+\.(service|socket|timer|path|mount|automount|target|swap|slice)")
UNIT_SETTINGS = re.compile(UNIT_FOLDER + r"/([^/]+)\.d/[^/]+\.conf")
ENABLEMENT = re.compile(UNIT_FOLDER + r"/([^/]+)\.(wants|requires|upholds)/([^/]+)")
_PLACES = {kind: re.compile(pattern) for kind, (pattern, _) in PLACES.items()}

SETUID, SETGID, STICKY, OTHERS_WRITE = 0o4000, 0o2000, 0o1000, 0o002
CAPABILITY = "security.capability"


def find_notable(difference: ManifestDifference) -> list[Notable]:
    """Set-user-id programs, writable for all, units, accounts and the like; sorted by kind and path."""
    pairs: list[tuple[FileEntry | None, FileEntry | None]] = [(None, file) for file in difference.files_added]
    pairs += [(file, None) for file in difference.files_removed]
    pairs += [(change.old, change.new) for change in difference.files_changed]
    found = [notable for old, new in pairs for notable in _judge(old, new)]
    return sorted(found, key=lambda notable: (notable.kind, notable.path))


def _judge(old: FileEntry | None, new: FileEntry | None) -> Iterator[Notable]:
    entry = new or old
    assert entry is not None
    path = entry.path
    verb = "added" if old is None else "removed" if new is None else "changed"
    yield from _judge_rights(old, new)
    if "/systemd/" in path:
        yield from _judge_unit(path, old, new, verb)
    for kind, pattern in _PLACES.items():
        if entry.kind != "d" and pattern.fullmatch(path):
            yield Notable(kind=kind, path=path, detail=f"{verb}: {PLACES[kind][1]}")


def _judge_rights(old: FileEntry | None, new: FileEntry | None) -> Iterator[Notable]:
    path = (new or old).path  # type: ignore[union-attr]
    for bit, kind in ((SETUID, "setuid"), (SETGID, "setgid")):
        before, after = _has_bit(old, bit), _has_bit(new, bit)
        owner = f"{kind} of {new.uid if bit == SETUID else new.gid}" if new is not None else kind
        if after and not before:
            yield Notable(kind=kind, path=path, detail=f"{'added' if old is None else 'became'} {owner}")
        elif before and not after:
            yield Notable(kind=kind, path=path, detail="removed" if new is None else f"no longer {kind}")
        elif before and after:
            yield Notable(kind=kind, path=path, detail=f"changed, {owner}")
    capability = dict(new.xattrs).get(CAPABILITY) if new else None
    if capability is not None and (old is None or dict(old.xattrs).get(CAPABILITY) != capability):
        yield Notable(kind="capability", path=path, detail="runs with capabilities of the kernel")
    if _is_open(new) and not _is_open(old):
        yield Notable(kind="world-writable", path=path, detail="everybody may write it")


def _has_bit(file: FileEntry | None, bit: int) -> bool:
    return file is not None and file.kind == "f" and bool(file.mode & bit)


def _is_open(file: FileEntry | None) -> bool:
    """Whether every user may write it; /tmp's sticky bit makes a folder's case harmless."""
    if file is None or file.kind not in "fds" or not file.mode & OTHERS_WRITE:
        return False
    return not (file.kind == "d" and file.mode & STICKY)


def _judge_unit(path: str, old: FileEntry | None, new: FileEntry | None, verb: str) -> Iterator[Notable]:
    if enabled := ENABLEMENT.fullmatch(path):
        state = "changed" if old and new else "disabled" if old else "enabled"
        detail = f"{enabled[3]} {state} ({enabled[2]} of {enabled[1]})"
        yield Notable(kind="unit", path=path, detail=detail)
    elif settings := UNIT_SETTINGS.fullmatch(path):
        yield Notable(kind="unit", path=path, detail=f"settings of {settings[1]} {verb}")
    elif UNIT.fullmatch(path):
        masked = new is not None and new.link == "/dev/null"
        listens = ", listens" if LISTENS.fullmatch(path) and new is not None and not masked else ""
        yield Notable(kind="unit", path=path, detail="masked" if masked else f"unit {verb}{listens}")
