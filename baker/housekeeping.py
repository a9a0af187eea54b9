"""What uses the disk under BAKER_HOME, and removing what nothing needs: caches, old logs, unused layers.

Never what an image needs: a layer that an artifact or a current bootstrap names stays.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baker import identity
from baker.ages import parse_age
from baker.errors import ConflictError

DEFAULT_LIMITS = {"logs": "90d", "packages": "30d"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """How much one kind of thing takes: blocks on disk; a file with two names counts once."""

    name: str
    bytes: int
    files: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Removable:
    """A file that nothing needs, and why."""

    kind: str
    path: Path
    bytes: int
    reason: str


def measure_usage(home: Path, catalog: Path | None) -> list[Usage]:
    """What is under ``home``, by use. What this user may not read counts as nothing."""
    local = home / "local"
    needed = find_needed_layers(local)
    layers: dict[str, list[Path]] = {"image layers": [], "bootstrap layers": [], "unused layers": []}
    for path in list_files(local / "layers"):
        layers[f"{needed.get(path.stem, 'unused')} layers"].append(path)
    groups = {
        **layers,
        "package cache": list(list_files(local / "apt" / "debs")),
        "package indexes": [p for p in list_files(local / "apt") if "debs" not in p.parts],
        "machines": list(list_files(local / "machines")),
        "logs": list(list_files(home / "logs")),
        "catalog": [] if catalog is None else sorted(catalog.parent.glob(f"{catalog.name}*")),
    }
    return [Usage(name=name, bytes=sum_blocks(paths), files=len(paths)) for name, paths in groups.items()]


def find_needed_layers(local: Path) -> dict[str, str]:
    """The hex digest of every layer that is named, to ``image`` or ``bootstrap`` (those of no image)."""
    needed: dict[str, str] = {}
    for folder, use in (("bootstraps", "bootstrap"), ("artifacts", "image")):
        for path in (local / folder).glob("*.json"):
            needed |= dict.fromkeys(
                (layer.removeprefix("sha256:") for layer in read_json(path)["layers"]), use
            )
    return needed


def find_removable(home: Path, limits: Mapping[str, str], *, now: float) -> list[Removable]:
    """What ``clean`` would remove: logs and packages older than the limits, bootstraps that are neither the
    newest of their distribution nor below an image, layers that nothing names.
    """
    local = home / "local"
    ages = {name: parse_age(limits.get(name, default)) for name, default in DEFAULT_LIMITS.items()}
    found = []
    for path in (home / "logs").glob("*.log"):
        if is_older(path, ages["logs"], now) and not identity.is_kept(home, path.stem):
            found.append(removable("log", path, f"older than {limits.get('logs', DEFAULT_LIMITS['logs'])}"))
    for path in list_files(local / "apt" / "debs"):
        if path.suffix == ".deb" and is_older(path, ages["packages"], now):
            reason = f"fetched more than {limits.get('packages', DEFAULT_LIMITS['packages'])} ago"
            found.append(removable("package", path, reason))
    stale = find_stale_bootstraps(local)
    found += [removable("bootstrap", path, "a newer one is used") for path in stale]
    named = find_named_layers(local, without=stale)
    for path in list_files(local / "layers"):
        if path.stem not in named and not path.name.startswith("."):
            found.append(removable("layer", path, "no image and no current bootstrap needs it"))
    return found


def find_named_layers(local: Path, *, without: list[Path]) -> set[str]:
    paths = {*(local / "artifacts").glob("*.json"), *(local / "bootstraps").glob("*.json")} - set(without)
    return {layer.removeprefix("sha256:") for path in paths for layer in read_json(path)["layers"]}


def find_stale_bootstraps(local: Path) -> list[Path]:
    """All but the newest of each distribution; the layer of one stays while an image stands on it."""
    newest: dict[str, Path] = {}
    paths = sorted((local / "bootstraps").glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in paths:
        newest[str(read_json(path).get("bootstrap"))] = path
    return [path for path in paths if path not in newest.values()]


def remove(home: Path, found: list[Removable]) -> None:
    """Remove it all. Raises ConflictError while a bake runs: it may use what nothing names yet."""
    alive = [path.stem for path in (home / "bakes").glob("*.lock") if identity.is_alive(home, path.stem)]
    if alive:
        raise ConflictError(f"bake {alive[0]} is running", hint="Clean when it has ended: baker status")
    for item in found:
        item.path.unlink(missing_ok=True)


# --- files ----------------------------------------------------------------------------------------------


def list_files(folder: Path) -> Iterator[Path]:
    """Every file below a folder, as far as this user may look; no link is followed."""
    for path, _, names in os.walk(folder):
        for name in names:
            yield Path(path, name)


def sum_blocks(paths: list[Path]) -> int:
    sizes = {}
    for path in paths:
        try:
            status = path.lstat()
        except OSError:
            continue
        sizes[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(sizes.values())


def is_older(path: Path, age: int, now: float) -> bool:
    # Not the modification time: a package carries its archive's.
    return now - path.lstat().st_ctime > age


def removable(kind: str, path: Path, reason: str) -> Removable:
    return Removable(kind=kind, path=path, bytes=sum_blocks([path]), reason=reason)


def read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found
