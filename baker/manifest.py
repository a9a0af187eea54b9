"""What is inside a build: its digest, and how it is put together.

**The digest** is the sha256 of this text, UTF-8 with undecodable bytes of paths as they were::

    baker manifest 1
    package <type> <name> <version> <arch> <source> <source_version>
    file <path> <kind> <mode> <uid> <gid> <size> <digest> <link> [<xattr> <hex value>]…

with packages and then files in sorted order, where every field is ended by a NUL (a path may hold anything
else), every record by a newline, and mode is octal. The first line ends in a newline alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping

from baker.layer import Layer
from baker.model import FileEntry, Manifest, Package

_SOURCE_RPM = re.compile(r"(.+)-([^-]+-[^-]+)\.(?:no)?src\.rpm")

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


def parse_rpm_list(text: str) -> tuple[Package, ...]:
    """The packages of lines ``NAME<tab>EPOCH:VERSION-RELEASE<tab>ARCH<tab>SOURCE RPM``, sorted.

    As ``rpm -qa`` prints them with ``EPOCHNUM``: an epoch of 0 is left out. Imported keys are no packages. A
    source's epoch is not known. Raises ValueError.
    """
    packages = []
    for line in text.splitlines():
        name, version, arch, source_file = line.split("\t")
        if name == "gpg-pubkey":
            continue
        version = version.removeprefix("0:")
        source = _SOURCE_RPM.fullmatch(source_file)
        packages.append(
            Package(
                type="rpm",
                name=name,
                version=version,
                arch=arch,
                source=source[1] if source else name,
                source_version=source[2] if source else version,
            )
        )
    return tuple(sorted(packages))


def fold_layers(layers: Iterable[Layer]) -> tuple[FileEntry, ...]:
    """The files that are seen through a stack of layers, lowest first; sorted by path."""
    files = stack_layers(layers)
    return tuple(files[path] for path in sorted(files))


def stack_layers(
    layers: Iterable[Layer], *, upon: Mapping[str, FileEntry] | None = None
) -> dict[str, FileEntry]:
    """The same by path, unsorted, ``upon`` those that lie below; that is left as it is."""
    files = dict(upon or {})
    for layer in layers:
        gone = set(layer.removed)
        for file in layer.files:
            old = files.get(file.path)
            if old is not None and old.kind == "d" and file.kind != "d":
                gone.add(file.path)
        if gone:
            files = {path: file for path, file in files.items() if not _is_below(path, gone)}
        files.update((file.path, file) for file in layer.files)
    return files


def _is_below(path: str, removed: set[str]) -> bool:
    """Whether a path or a folder that it lies in was removed."""
    while path:
        if path in removed:
            return True
        path = path.rpartition("/")[0]
    return "/" in removed
