"""A tiny signed apt repository, and the things around it that a test needs: keys, a proxy, a network."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import list_descendants


def make_key(folder: Path) -> Path:
    """A throw-away key; ``folder/public.gpg`` is what verifies it."""
    folder.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(folder), "--batch", "--quiet"]
    subprocess.run(
        [*gpg, "--passphrase", "", "--quick-generate-key", "tester", "ed25519", "sign", "never"],
        check=True,
        capture_output=True,
    )
    public = folder / "public.gpg"
    public.write_bytes(subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout)
    return public


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[list[Path]]:
    """Two public keys; the private ones lie beside them."""
    folders = [tmp_path / "key-0", tmp_path / "key-1"]
    yield [make_key(folder) for folder in folders]
    stop_agents(*folders)


def stop_agents(*folders: Path) -> None:
    """Of the keys in these folders: the processes that gpg left are gone."""
    for folder in folders:
        subprocess.run(["gpgconf", "--homedir", str(folder), "--kill", "all"], check=True)
    deadline = time.monotonic() + 10
    while any("gpg-agent" in process for process in list_descendants(os.getpid())):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deb:
    """A package with a tool of its name that prints its version. ``fields`` are more of its control file."""

    name: str
    version: str = "1.0"
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def control(self) -> str:
        fields = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": "all",
            "Maintainer": "tester <t@example.test>",
            **self.fields,
            "Description": "prints its version",
        }
        return "".join(f"{name}: {value}\n" for name, value in fields.items())

    def build(self, folder: Path) -> Path:
        """The package as a file in a folder."""
        path = folder / f"{self.name}_{self.version}_all.deb"
        tree = folder / "build"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(self.control)
        (tree / "usr/bin").mkdir(parents=True)
        (tree / "usr/bin" / self.name).write_text(f"#!/bin/sh\necho {self.name} {self.version}\n")
        (tree / "usr/bin" / self.name).chmod(0o755)
        argv = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, path]
        subprocess.run(argv, check=True, capture_output=True)
        subprocess.run(["rm", "-r", tree], check=True)
        return path


def make_repository(folder: Path, key: Path, *, package: str = "tiny-tool", version: str = "1.0") -> Path:
    """One package that prints its version."""
    return publish(folder, key, Deb(name=package, version=version))


def publish(folder: Path, key: Path, *debs: Deb) -> Path:
    """A repository that holds these packages: suite ``stable``, component ``main``, signed by a key."""
    pool = folder / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    index = folder / "dists/stable/main/binary-amd64"
    index.mkdir(parents=True, exist_ok=True)
    stanzas = []
    for deb in debs:
        path = deb.build(pool)
        stanzas.append(
            f"{deb.control}Filename: pool/{path.name}\nSize: {path.stat().st_size}\n"
            f"SHA256: {hashlib.sha256(path.read_bytes()).hexdigest()}\n\n"
        )
    packages = "".join(stanzas).encode()
    (index / "Packages").write_bytes(packages)
    release = (
        "Origin: tester\nSuite: stable\nCodename: stable\nArchitectures: amd64\nComponents: main\n"
        "Date: Mon, 02 Jun 2025 10:00:00 UTC\nSHA256:\n"
        f" {hashlib.sha256(packages).hexdigest()} {len(packages)} main/binary-amd64/Packages\n"
    )
    signed = folder / "dists/stable/InRelease"
    gpg = ["gpg", "--homedir", str(key.parent), "--batch", "--quiet", "--yes", "--clearsign"]
    done = subprocess.run([*gpg, "--output", "-"], input=release.encode(), check=True, capture_output=True)
    signed.write_bytes(done.stdout)
    return folder


@contextlib.contextmanager
def network_namespace(name: str, *, outside: bool) -> Iterator[list[str]]:
    """A network of its own, in which nothing of this host or the world can be reached.

    Yields the command that runs another in it. ``outside``: with an interface that packets leave by.
    """
    ip = ["ip", "-n", name]
    setup: list[Sequence[str]] = [["ip", "netns", "add", name], [*ip, "link", "set", "lo", "up"]]
    if outside:
        setup += [
            [*ip, "link", "add", "uplink", "type", "veth", "peer", "name", "nowhere"],
            [*ip, "link", "set", "nowhere", "up"],
            [*ip, "address", "add", "10.77.0.2/24", "dev", "uplink"],
            [*ip, "link", "set", "uplink", "up"],
            [*ip, "route", "add", "default", "via", "10.77.0.1"],
        ]
    try:
        for argv in setup:
            subprocess.run(argv, check=True)
        yield ["nsenter", f"--net=/run/netns/{name}", "--"]
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
