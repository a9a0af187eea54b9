"""What uses the disk, and what may go."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from baker import identity
from baker.errors import ConflictError
from baker.housekeeping import find_removable, measure_usage, remove

DAY = 86400


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store with one image on an old bootstrap, a current and a stale bootstrap, and an unused layer."""
    local = tmp_path / "local"
    for folder in ("layers", "artifacts", "bootstraps", "apt/debs"):
        (local / folder).mkdir(parents=True)
    for layer in ("below", "image", "current", "stale", "unused"):
        (local / "layers" / f"{layer}.erofs").write_bytes(bytes(4096))
    write_named(local / "artifacts/a.json", ["below", "image"], 0)
    write_named(local / "bootstraps/1.json", ["below"], 1)
    write_named(local / "bootstraps/2.json", ["stale"], 2)
    write_named(local / "bootstraps/3.json", ["current"], 3)
    (local / "apt/debs/nginx.deb").write_bytes(bytes(4096))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/01J.log").write_text("said\n")
    return tmp_path


def write_named(path: Path, layers: list[str], age: int) -> None:

    path.write_text(
        json.dumps({"layers": [f"sha256:{layer}" for layer in layers], "bootstrap": "debian:trixie"})
    )
    os.utime(path, (age, age))


def names(home: Path, *, days: int = 0, **limits: str) -> set[str]:
    return {item.path.name for item in find_removable(home, limits, now=time.time() + days * DAY)}


def test_layer_of_an_image_stays_although_its_bootstrap_is_stale(home: Path) -> None:
    assert names(home) == {"1.json", "2.json", "stale.erofs", "unused.erofs"}


def test_logs_and_packages_go_when_they_are_older_than_their_limits(home: Path) -> None:
    assert {"nginx.deb", "01J.log"} <= names(home, days=100)
    assert names(home, days=20, packages="2w") & {"nginx.deb", "01J.log"} == {"nginx.deb"}
    assert names(home, days=20, logs="12h") & {"nginx.deb", "01J.log"} == {"01J.log"}


def test_clean_removes_what_it_found_and_then_finds_nothing(home: Path) -> None:
    remove(home, find_removable(home, {}, now=time.time()))
    assert names(home) == set()
    assert sorted(path.stem for path in (home / "local/layers").iterdir()) == ["below", "current", "image"]


def test_clean_refuses_while_a_bake_runs(home: Path) -> None:
    with identity.alive(home, "01JRUNNING"), pytest.raises(ConflictError, match="01JRUNNING is running"):
        remove(home, find_removable(home, {}, now=time.time()))
    assert (home / "local/layers/unused.erofs").exists()


def test_usage_tells_layers_by_what_needs_them(home: Path) -> None:
    usage = {use.name: use.files for use in measure_usage(home, None)}
    assert (usage["image layers"], usage["bootstrap layers"], usage["unused layers"]) == (2, 2, 1)
    assert (usage["package cache"], usage["logs"]) == (1, 1)
