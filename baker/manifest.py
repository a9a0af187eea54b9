"""What is inside a build: its digest, how it is put together, and the difference of two.

**The digest** is the sha256 of this text, UTF-8 with undecodable bytes of paths as they were::

    baker manifest 1
    package <type> <name> <version> <arch> <source> <source_version>
    file <path> <kind> <mode> <uid> <gid> <size> <digest> <link> [<xattr> <hex value>]…

with packages and then files in sorted order, where every field is ended by a NUL (a path may hold anything
else), every record by a newline, and mode is octal. The first line ends in a newline alone.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from baker.layer import Layer
from baker.model import FileEntry, Manifest, Package


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


# --- identity -------------------------------------------------------------------------------------


def manifest_digest(manifest: Manifest) -> str:
    """``sha256:`` and 64 hex digits; the order of packages and files does not matter."""
    digest = hashlib.sha256(b"baker manifest 1\n")
    for record in _list_records(manifest):
        digest.update(record.encode("utf-8", "surrogateescape"))
    return f"sha256:{digest.hexdigest()}"


def _list_records(manifest: Manifest) -> Iterator[str]:
    for package in sorted(manifest.packages):
        fields = (package.type, package.name, package.version, package.arch, package.source)
        yield "\0".join(("package", *fields, package.source_version, "\n"))
    for file in sorted(manifest.files, key=lambda file: file.path):
        fields = (file.path, file.kind, f"{file.mode:o}", str(file.uid), str(file.gid))
        content = (str(file.size), file.digest, file.link)
        attributes = [text for attribute in sorted(file.xattrs) for text in attribute]
        yield "\0".join(("file", *fields, *content, *attributes, "\n"))


# --- putting one together ----------------------------------------------------------------------------


def parse_dpkg_status(text: str) -> tuple[Package, ...]:
    """The installed packages of a dpkg status file (``/var/lib/dpkg/status``), sorted."""
    packages = []
    for stanza in text.split("\n\n"):
        fields = dict(_list_fields(stanza))
        if fields.get("Status", "").split()[-1:] != ["installed"]:
            continue
        name, version = fields["Package"], fields["Version"]
        source, _, source_version = fields.get("Source", name).partition(" ")
        packages.append(
            Package(
                type="deb",
                name=name,
                version=version,
                arch=fields["Architecture"],
                source=source,
                source_version=source_version.strip("()") or version,
            )
        )
    return tuple(sorted(packages))


def _list_fields(stanza: str) -> Iterator[tuple[str, str]]:
    wanted = ("Package", "Status", "Version", "Architecture", "Source")
    for line in stanza.splitlines():
        name, colon, value = line.partition(":")
        if colon and name in wanted:
            yield name, value.strip()


def fold_layers(layers: Iterable[Layer]) -> tuple[FileEntry, ...]:
    """The files that are seen through a stack of layers, lowest first; sorted by path."""
    files: dict[str, FileEntry] = {}
    for layer in layers:
        gone = set(layer.removed)
        for file in layer.files:
            old = files.get(file.path)
            if old is not None and old.kind == "d" and file.kind != "d":
                gone.add(file.path)
        if gone:
            files = {path: file for path, file in files.items() if not _is_below(path, gone)}
        files.update((file.path, file) for file in layer.files)
    return tuple(files[path] for path in sorted(files))


def _is_below(path: str, removed: set[str]) -> bool:
    """Whether a path or a folder that it lies in was removed."""
    while path:
        if path in removed:
            return True
        path = path.rpartition("/")[0]
    return "/" in removed


# --- the difference of two ------------------------------------------------------------------------------


def compare_manifests(old: Manifest, new: Manifest) -> ManifestDifference:
    """What changed from ``old`` to ``new``."""
    added, removed, upgraded, downgraded = _compare_packages(old.packages, new.packages)
    old_files = {file.path: file for file in old.files}
    new_files = {file.path: file for file in new.files}
    common = sorted(old_files.keys() & new_files.keys())
    return ManifestDifference(
        packages_added=added,
        packages_removed=removed,
        packages_upgraded=upgraded,
        packages_downgraded=downgraded,
        files_added=tuple(new_files[path] for path in sorted(new_files.keys() - old_files.keys())),
        files_removed=tuple(old_files[path] for path in sorted(old_files.keys() - new_files.keys())),
        files_changed=tuple(
            FileChange(old=old_files[path], new=new_files[path])
            for path in common
            if old_files[path] != new_files[path]
        ),
        size_delta=sum(file.size for file in new.files) - sum(file.size for file in old.files),
    )


def _compare_packages(
    old: Sequence[Package], new: Sequence[Package]
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


def compare_versions(package_type: str, left: str, right: str) -> int:
    """Negative, zero or positive, in the order of dpkg (``deb``) or rpm.

    A version that the package's policy forbids is compared as text, rather than failing a whole list.
    """
    if package_type == "rpm":
        from univers.rpm import compare_rpm_versions as compare
    else:  # imported here: 50 ms that most commands do without
        from univers.debian import compare_versions as compare
    try:
        return int(compare(left, right))
    except ValueError:
        return (left > right) - (left < right)
