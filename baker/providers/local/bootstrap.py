"""The bottom layer: a minimal distribution, made by mmdebstrap from exactly what was resolved."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from baker.errors import CommandFailed, SourceError
from baker.manifest import parse_dpkg_status
from baker.model import Bootstrap, Package, Resource
from baker.providers.local.archive import INCLUDED, Archive, ResolvedBootstrap
from baker.providers.local.host import DPKG_ARCH, remove_folder, run_tool
from baker.providers.local.store import Store
from baker.providers.local.tree import seal_tree
from baker.teardown import Teardown


def ensure_bootstrap(
    store: Store, archive: Archive, resolved: ResolvedBootstrap, teardown: Teardown, *, offline: bool
) -> dict[str, Any]:
    """What ``resolved`` comes to: see ``ensure_bottom_layer``. Raises SourceError."""

    def make(tree: Path) -> dict[str, Any]:
        archive.download(resolved.packages, offline=offline)
        packages = unpack(archive, resolved, tree)
        return {
            "bootstrap": str(archive.bootstrap),
            "epoch": resolved.epoch,
            "packages": [asdict(package) for package in packages],
        }

    return ensure_bottom_layer(store, resolved.key, teardown, make)


def ensure_bottom_layer(
    store: Store, key: str, teardown: Teardown, make: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """``layers`` (one digest), ``packages``, ``epoch`` and ``bootstrap``: from the store, or made now.

    ``make`` fills a folder that is not there yet with a sealed tree, and returns all but ``layers``. Two
    bakes that want the same one at once make it once.
    """
    with store.lock(f"bootstrap-{key}"):
        found = store.read_bootstrap(key)
        if found is not None and all(map(store.is_intact, found["layers"])):
            return found
        folder = store.machines / f"bootstrap-{teardown.bake_id}"
        resource = Resource(provider="local", kind="folder", id=str(folder))
        with teardown.making(resource, undo=lambda: remove_folder(folder)):
            folder.mkdir(parents=True)
        tree = folder / "root"
        made = make(tree)
        with store.lock("layers", shared=True):
            made["layers"] = [store.add_layer(tree).digest]
            store.write_bootstrap(key, made)
        teardown.undo(resource)
        return made


def unpack(archive: Archive, resolved: ResolvedBootstrap, tree: Path) -> tuple[Package, ...]:
    """Run mmdebstrap on the indexes and packages as they lie in the cache, and seal the result.

    Returns what is installed, which is what was resolved.
    """
    started = time.time() - 1.0
    debs = " ".join(shlex.quote(str(archive.debs / package.file)) for package in resolved.packages)
    lists = shlex.quote(str(archive.lists))
    argv = [
        # What it mounts ends with it, also when this process is killed.
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
        *("mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase", "--skip=update"),
        *("--skip=check/signed-by", f"--include={','.join(INCLUDED)}"),
        f"--architectures={DPKG_ARCH[archive.arch]}",
        f'--setup-hook=cp {lists}/*_* "$1"/var/lib/apt/lists/',
        f'--setup-hook=mkdir -p "$1"/var/cache/apt/archives && cp {debs} "$1"/var/cache/apt/archives/',
        # The machine's name and resolver come from who starts it; an empty machine-id is made anew at each
        # first boot, without the first-boot presets that would undo a recipe's `systemctl disable`.
        '--customize-hook=rm -f "$1"/etc/hostname "$1"/etc/resolv.conf && : > "$1"/etc/machine-id',
        archive.bootstrap.suite,
        str(tree),
        str(archive.folder / "etc" / "sources.list"),
    ]
    try:
        run_tool(argv, env={"SOURCE_DATE_EPOCH": str(resolved.epoch)})
    except CommandFailed as error:
        raise SourceError(f"{archive.bootstrap} could not be bootstrapped: {error}") from error
    packages = parse_dpkg_status((tree / "var/lib/dpkg/status").read_text())
    installed = {(package.name, package.version) for package in packages}
    expected = {(package.name, package.version) for package in resolved.packages}
    if installed != expected:
        odd = ", ".join(f"{name} {version}" for name, version in sorted(installed ^ expected)[:5])
        raise SourceError(f"mmdebstrap installed another set of packages than was resolved: {odd}")
    seal_tree(tree, started=started, epoch=resolved.epoch)
    return packages


def parse_bootstrap(text: str) -> Bootstrap:
    """The inverse of ``str(bootstrap)``."""
    distribution, _, suite = text.partition(":")
    return Bootstrap(distribution=distribution, suite=suite)
