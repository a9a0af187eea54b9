"""The bottom layer, made from a root file system that something else built: a tar archive or an OCI image."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import stat
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from baker.errors import SourceError
from baker.manifest import parse_dpkg_status
from baker.model import Package, TreeSource
from baker.providers.local.archive import KEYRINGS
from baker.providers.local.bootstrap import ensure_bottom_layer
from baker.providers.local.oci import OciLayer, read_image, verify_blob
from baker.providers.local.store import Store, hash_file
from baker.providers.local.tree import seal_tree
from baker.providers.local.unpack import CHUNK, Readable, TreeUnpacker, open_decompressed, resolve_inside
from baker.teardown import Teardown

NEEDED_TO_BOOT: Mapping[str, tuple[str, ...]] = {
    "systemd": ("usr/lib/systemd/systemd", "lib/systemd/systemd"),
    "systemctl": ("usr/bin/systemctl", "bin/systemctl"),
    "a shell": ("bin/sh",),
}
APT_FOLDERS = ("var/lib/apt/lists", "var/cache/apt/archives", "usr/lib/apt/methods")
ELF_MACHINES = {62: "x86_64", 183: "arm64"}
SETTLED_SECONDS = 2.0


def locate(source: TreeSource, project: Path | None) -> Path:
    """Where it lies; a relative path starts at the project."""
    return (project or Path.cwd()) / source.path


def resolve_tree(store: Store, source: TreeSource, project: Path | None, arch: str) -> str:
    """The digest of the archive, or of the image's manifest. Raises SourceError."""
    path = locate(source, project)
    if source.format == "oci":
        return read_image(path, source.tag, arch).digest
    try:
        return _digest_of(store, path)
    except OSError as error:
        raise SourceError(f"{source}: {path} cannot be read: {error.strerror}") from error


def ensure_tree(
    store: Store, source: TreeSource, project: Path | None, arch: str, digest: str, teardown: Teardown
) -> dict[str, Any]:
    """What the tree comes to, as ``ensure_bottom_layer`` says. ``bootstrap`` is the distribution whose apt it
    has, or None. Raises SourceError: for what is damaged, moved since it was resolved, or cannot boot.
    """

    def make(tree: Path) -> dict[str, Any]:
        tree.mkdir(mode=0o755)
        unpacker = TreeUnpacker(tree)
        path = locate(source, project)
        if source.format == "oci":
            unpack_image(unpacker, path, source, arch, digest)
        else:
            unpack_archive(unpacker, path, source, digest)
        unpacker.finish()
        require_bootable(tree, source, arch)
        make_generic(tree)
        # Nothing that was unpacked is newer than the epoch: what is, was touched here.
        seal_tree(tree, started=unpacker.epoch, epoch=unpacker.epoch)
        packages = read_packages(tree)
        return {
            "bootstrap": find_distribution(tree),
            "epoch": unpacker.epoch,
            "packages": [asdict(package) for package in packages],
        }

    key = hashlib.sha256(f"{source.format} {digest} {arch}".encode()).hexdigest()
    return ensure_bottom_layer(store, key, teardown, make)


def unpack_archive(unpacker: TreeUnpacker, path: Path, source: TreeSource, digest: str) -> None:
    if hash_file(path) != digest:
        raise SourceError(f"{source} changed while it was read", hint="Bake again once it is written.")
    with open_decompressed(path) as stream:
        unpacker.unpack(stream, str(source))


def unpack_image(unpacker: TreeUnpacker, folder: Path, source: TreeSource, arch: str, digest: str) -> None:
    image = read_image(folder, source.tag, arch)
    if image.digest != digest:
        raise SourceError(f"{source} changed while it was read", hint="Bake again once it is written.")
    for layer in image.layers:
        unpack_layer(unpacker, layer, f"{source}, layer {layer.digest[:19]}")


def unpack_layer(unpacker: TreeUnpacker, layer: OciLayer, what: str) -> None:
    verify_blob(layer.path, layer.digest)
    with open_decompressed(layer.path) as stream:
        hashed = HashingReader(stream, layer.diff_id.partition(":")[0])
        unpacker.unpack(hashed, what, layered=True)
    if hashed.hexdigest() != layer.diff_id.partition(":")[2]:
        raise SourceError(f"{what} is damaged: it does not decompress to what the image's configuration says")


class HashingReader:
    """Reads through, and knows the digest of what was read."""

    def __init__(self, stream: Readable, algorithm: str) -> None:
        self._stream = stream
        self._hash = hashlib.new(algorithm)

    def read(self, size: int = CHUNK, /) -> bytes:
        chunk = self._stream.read(size)
        self._hash.update(chunk)
        return chunk

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


# --- what a tree holds ---------------------------------------------------------------------------------


def require_bootable(tree: Path, source: TreeSource, arch: str) -> None:
    """Raises SourceError if what a build instance boots is not in the tree, or is of another architecture."""
    found = {name: find_file(tree, *paths) for name, paths in NEEDED_TO_BOOT.items()}
    missing = [f"{name} (/{NEEDED_TO_BOOT[name][0]})" for name, path in found.items() if path is None]
    if missing:
        raise SourceError(
            f"{source} has no {' and no '.join(missing)}: a build instance is booted, so its root file "
            "system must hold an init",
            hint="Install systemd-sysv and dbus (on Debian and Ubuntu) in it before it is packed.",
        )
    init = found["systemd"]
    assert init is not None
    with init.open("rb") as file:
        header = file.read(20)
    machine = int.from_bytes(header[18:20], "little") if header.startswith(b"\x7fELF") else None
    if ELF_MACHINES.get(machine or 0) != arch:
        raise SourceError(
            f"{source} is not for {arch}: its systemd is {ELF_MACHINES.get(machine or 0, 'another')}'s"
        )


def find_file(tree: Path, *paths: str) -> Path | None:
    """The first of the paths that means a file to a process in the tree."""
    for path in paths:
        with contextlib.suppress(OSError):
            found = resolve_inside(str(tree), path.split("/"))
            if found is not None and stat.S_ISREG(os.lstat(found).st_mode):
                return Path(found)
    return None


def make_generic(tree: Path) -> None:
    """As in a bootstrap: name and resolver come from who starts the machine, and an empty machine-id is made
    anew at each first boot, without the first-boot presets that would undo ``systemctl disable``."""
    folder = resolve_inside(str(tree), ["etc"], make=True)
    assert folder is not None
    for name in ("hostname", "resolv.conf", "machine-id"):
        (Path(folder) / name).unlink(missing_ok=True)
    (Path(folder) / "machine-id").touch(mode=0o444)


def find_distribution(tree: Path) -> str | None:
    """``debian:trixie`` where the tree has that distribution's apt, in folders that are no links."""
    release = find_file(tree, "etc/os-release", "usr/lib/os-release")
    if release is None:
        return None
    lines = release.read_text(errors="replace").splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    distribution, suite = (_unquote(values.get(name, "")) for name in ("ID", "VERSION_CODENAME"))
    folders = [tree.joinpath(folder) for folder in APT_FOLDERS]
    there = all(folder.is_dir() and os.path.realpath(folder) == str(folder) for folder in folders)
    return f"{distribution}:{suite}" if distribution in KEYRINGS and suite and there else None


def _unquote(value: str) -> str:
    with contextlib.suppress(ValueError):
        return "".join(shlex.split(value))
    return ""


def read_packages(tree: Path) -> tuple[Package, ...]:
    """What dpkg says is installed; nothing where there is no dpkg."""
    status = find_file(tree, "var/lib/dpkg/status")
    return parse_dpkg_status(status.read_text()) if status else ()


def _digest_of(store: Store, path: Path) -> str:
    """A file's digest; remembered, since archives are large, while inode, size and times stay."""
    status = path.stat()
    seen = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    stamp = store.digests / hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    with contextlib.suppress(OSError, ValueError):
        remembered, digest = stamp.read_text().split("\n")
        if remembered == seen:
            return digest
    digest = hash_file(path)
    # What changed just now may change again without a new time. Who may only read remembers nothing.
    if time.time() - status.st_ctime > SETTLED_SECONDS:
        with contextlib.suppress(OSError):
            store.remember_digest(stamp, f"{seen}\n{digest}")
    return digest
