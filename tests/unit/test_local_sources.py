"""What the local provider decides about sources, before anything is run."""

from __future__ import annotations

import base64
from dataclasses import asdict
from pathlib import Path

import pytest

from baker.errors import SettingsError, SourceError
from baker.model import Bootstrap
from baker.providers.local import archive, proxies
from baker.providers.local.archive import Archive
from baker.providers.local.repositories import (
    Repository,
    pin_repositories,
    read_repositories,
    remove_folder_repositories,
)
from baker.providers.local.store import Store

NOBLE = Bootstrap(distribution="ubuntu", suite="noble")
TABLE = {"uri": "https://apt.example.test/debian", "suite": "stable", "keyring": "keys.gpg"}


def make_repository(**changes: object) -> Repository:
    values = {"uri": TABLE["uri"], "suite": "stable", "components": ("main",), "key": ""}
    return Repository(**{**values, **changes})  # type: ignore[arg-type]


def test_ubuntu_without_its_keys_names_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(archive.KEYRINGS, "ubuntu", (tmp_path / "none.gpg", "ubuntu-keyring"))
    with pytest.raises(
        SourceError, match=r"ubuntu:noble cannot be verified: this host has no .*/none\.gpg"
    ) as raised:
        Archive(Store(tmp_path), NOBLE, "x86_64")
    assert raised.value.hint == "apt-get install ubuntu-keyring"


def test_ubuntu_takes_the_lines_of_mmdebstrap_with_its_own_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = tmp_path / "ubuntu.gpg"
    keyring.touch()
    monkeypatch.setitem(archive.KEYRINGS, "ubuntu", (keyring, "ubuntu-keyring"))
    lines = [
        "deb http://a.example.test/ubuntu noble main",
        "deb http://s.example.test/ubuntu noble-security main",
    ]
    monkeypatch.setattr(Archive, "_default_source_lines", lambda _: lines)
    found = Archive(Store(tmp_path), NOBLE, "x86_64", mirror="http://m.example.test/ubuntu")
    assert found.folder.name.startswith("ubuntu-noble-x86_64-")
    assert found._source_lines() == [
        f"deb [signed-by={keyring}] http://m.example.test/ubuntu noble main",
        f"deb [signed-by={keyring}] http://s.example.test/ubuntu noble-security main",
    ]


def test_sources_file_names_what_signs_it() -> None:
    key = base64.b64encode(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n").decode()
    repository = make_repository(key=key, components=("main", "extra"))
    assert repository.keyring == f"/etc/apt/keyrings/{repository.name}.asc"
    assert make_repository(key="AAAA").keyring.endswith(".gpg")
    assert repository.describe(repository.uri, repository.keyring) == (
        "Types: deb\nURIs: https://apt.example.test/debian\nSuites: stable\nComponents: main extra\n"
        f"Signed-By: {repository.keyring}\n"
    )
    assert "Components" not in make_repository(suite="./", components=()).describe("file:/x", "/k")


def test_repositories_of_one_place_and_another_suite_are_two() -> None:
    names = {make_repository(suite=suite).name for suite in ("stable", "testing")}
    assert len(names) == 2
    assert all(name.startswith("apt-example-test-debian-") for name in names)


def test_pinned_settings_move_with_the_keys_but_neither_with_a_folders_packages_nor_the_projects_place(
    tmp_path: Path,
) -> None:
    pinned = []
    for project, key, index in (("a", b"1", b"x"), ("b", b"1", b"x"), ("c", b"2", b"x"), ("d", b"1", b"y")):
        folder = tmp_path / project
        (folder / "vendor/dists/stable").mkdir(parents=True)
        (folder / "keys.gpg").write_bytes(key)
        (folder / "vendor/dists/stable/InRelease").write_bytes(index)
        settings = {"repositories": [TABLE, {**TABLE, "uri": "vendor"}], "memory": "1G"}
        pinned.append(pin_repositories(settings, folder))
    assert pinned[0] == pinned[1] == pinned[3]
    assert pinned[0]["memory"] == "1G"
    assert pinned[0] != pinned[2]
    repositories = read_repositories(pinned[0]["repositories"])
    assert [repository.is_folder for repository in repositories] == [False, True]
    assert [asdict(repository) for repository in repositories] == pinned[0]["repositories"]


def test_repositories_that_an_earlier_release_wrote_down_are_read() -> None:
    row = {"uri": TABLE["uri"], "suite": "stable", "components": ["main"], "key": "", "index": None}
    assert read_repositories([row]) == (make_repository(),)


def test_settings_without_repositories_stay_as_they_are() -> None:
    assert pin_repositories({"mirror": "http://m"}, None) == {"mirror": "http://m"}


def test_missing_keyring_and_missing_index_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"its keyring .*/keys\.gpg cannot be read: No such file"):
        pin_repositories({"repositories": [TABLE]}, tmp_path)
    (tmp_path / "keys.gpg").write_bytes(b"key")
    with pytest.raises(
        SourceError, match=r"repository vendor: .*/dists/stable holds neither InRelease nor Release"
    ):
        pin_repositories({"repositories": [{**TABLE, "uri": "vendor"}]}, tmp_path)


def test_only_folder_repositories_are_taken_out_and_no_link_is_followed(tmp_path: Path) -> None:
    upper, outside = tmp_path / "upper", tmp_path / "outside"
    kept, folder = make_repository(), make_repository(uri="vendor")
    for path in (upper / "etc/apt/sources.list.d", upper / "etc/apt/keyrings", outside):
        path.mkdir(parents=True)
    for repository in (kept, folder):
        (upper / repository.sources.lstrip("/")).touch()
    remove_folder_repositories(upper, [kept, folder])
    assert [path.name for path in (upper / "etc/apt/sources.list.d").iterdir()] == [f"{kept.name}.sources"]
    (upper / "etc/apt/keyrings").rmdir()
    (upper / "etc/apt/keyrings").symlink_to(outside)
    precious = outside / Path(folder.keyring).name
    precious.touch()
    remove_folder_repositories(upper, [folder])
    assert precious.exists()


@pytest.mark.parametrize(
    ("proxy", "port"),
    [
        ("http://localhost:3128", 3128),
        ("http://127.0.0.1", 80),
        ("http://[::1]:8080/", 8080),
        ("http://10.0.0.9:3128", None),
        ("http://proxy.example.test:3128", None),
    ],
)
def test_proxy_on_loopback_is_found(proxy: str, port: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "_own_address", lambda: "10.0.0.1")
    assert proxies.loopback_port(proxy) == port


def test_proxy_that_machines_cannot_reach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "_own_address", lambda: "10.0.0.1")
    with pytest.raises(SettingsError) as raised:
        proxies.loopback_port("http://10.0.0.1:3128")
    assert raised.value.hint == (
        "Let the proxy listen on loopback too, and set http_proxy to http://127.0.0.1:3128."
    )
    with pytest.raises(SettingsError, match="is no address"):
        proxies.loopback_port("http://10.0.0.1:99999")
