"""What images and archives may do to the host when their packages are looked at: nothing, nor for ever."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import socket
import tarfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baker.errors import CommandFailed
from baker.package_reading import _unpack
from baker.package_sources import read_sources
from baker.package_state import PackageState, PackageUpdate, encode_state
from baker.updates import AptUpdates
from baker.updates.apt import base_options, run_apt
from baker.updates.indexes import Indexes
from tests.apt_repository import Deb
from tests.integration.test_package_updates import AT, make_state, update
from tests.package_updates import make_deb

PROGRAM = "#!/bin/sh\ntouch {}\n"


@pytest.fixture
def vendor(tmp_path: Path) -> Path:
    return tmp_path / "vendor"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def look(
    home: Path, vendor: Path, state: PackageState, build: str = "01J"
) -> tuple[Sequence[PackageUpdate], str | None]:
    return AptUpdates(home).outdated(build, lambda: encode_state(state), folders={AT: vendor})


def make(*installed: Deb, uri: str = f"file:{AT}", **changes: Any) -> PackageState:
    """Of an image that trusts its source without a key."""
    state = make_state(Path("/dev/null"), *installed, **changes)
    sources = f"deb [trusted=yes] {uri} stable main\n".encode()
    return replace(state, files={**state.files, "etc/apt/sources.list": sources})


def publish(vendor: Path, *debs: Deb) -> None:
    """A repository that is not signed: its packages may have names that no tool would write."""
    index = vendor / "dists/stable/main/binary-amd64"
    index.mkdir(parents=True, exist_ok=True)
    packages = "".join(
        f"{deb.control}Filename: a.deb\nSize: 1\nSHA256: {'0' * 64}\n\n" for deb in debs
    ).encode()
    (index / "Packages").write_bytes(packages)
    digest = hashlib.sha256(packages).hexdigest()
    (vendor / "dists/stable/Release").write_text(
        "Suite: stable\nCodename: stable\nArchitectures: amd64\nComponents: main\n"
        f"Date: Mon, 02 Jun 2025 10:00:00 UTC\nSHA256:\n {digest} {len(packages)} "
        "main/binary-amd64/Packages\n"
    )


def test_package_with_the_name_of_an_option_runs_nothing_on_the_host(
    home: Path, vendor: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "evil").write_text(PROGRAM.format(ran))
    (tmp_path / "evil").chmod(0o755)
    (tmp_path / "conf").write_text(f'APT::Solver "evil";\nDir::Bin::Solvers:: "{tmp_path}";\n')
    option = f"--config-file={tmp_path}/conf"
    publish(vendor, make_deb("tool", "2.0"), make_deb(option, "2.0"))
    state = make(make_deb("tool"), make_deb(option), own=f"tool {option}")
    found, note = look(home, vendor, state)
    assert (list(found), note, ran.exists()) == ([update("tool", "1.0", "2.0")], None, False)


def pack(*members: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=kind) as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(packed.getvalue())


def test_files_of_an_image_are_unpacked() -> None:
    long = "etc/apt/" + "sources.list.d/" * 8 + "a.list"
    link = tarfile.TarInfo("link")
    link.type = tarfile.SYMTYPE
    packed = pack((tarfile.TarInfo("a"), b"1" * 700), (link, b""), (tarfile.TarInfo(long), b""))
    assert _unpack(packed) == {"a": b"1" * 700, long: b""}
    assert _unpack(gzip.compress(gzip.decompress(packed)[:1000])) == _unpack(b"no archive") == {}


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,1"},
        {"GNU.sparse.map": "a,b"},
        {"size": str(1 << 40)},
    ],
)
def test_archive_that_pretends_to_be_huge_is_taken_for_what_it_is(headers: dict[str, str]) -> None:
    member = tarfile.TarInfo("a")
    member.pax_headers = headers
    files = _unpack(pack((member, b"x"), kind=tarfile.PAX_FORMAT))
    assert sum(map(len, files.values())) < 4096


def test_newer_version_than_the_one_that_could_have_been_there_is_an_update(home: Path, vendor: Path) -> None:
    publish(vendor, make_deb("tool", "2.0"), make_deb("kept", "2.0", Depends="absent"))
    state = make(make_deb("tool"), make_deb("kept"), own="tool kept")
    state = replace(state, stuck={"tool": "2.0", "kept": "2.0"})
    assert look(home, vendor, state) == ((), None)
    publish(vendor, make_deb("tool", "2.1"), make_deb("kept", "2.1"))
    found, _ = look(home, vendor, state)
    assert list(found) == [update("kept", "1.0", "2.1"), update("tool", "1.0", "2.1")]


def test_build_that_could_not_see_its_archive_tells_nothing(home: Path, vendor: Path) -> None:
    publish(vendor, make_deb("tool", "2.0"))
    state = make(make_deb("tool"), own="tool", stuck=None)
    for _ in range(2):  # found, and remembered
        found, note = look(home, vendor, state)
        assert (found, "could not find out which" in str(note)) == ((), True)


def test_package_that_would_go_is_named_with_its_architecture(home: Path, vendor: Path) -> None:
    publish(vendor, make_deb("tool", "2.0", Breaks="old"))
    state = make(make_deb("tool"), make_deb("old"), own="tool")
    assert list(look(home, vendor, state)[0]) == [update("old", "1.0", None), update("tool", "1.0", "2.0")]


def test_what_is_damaged_or_gone_stops_no_plan(home: Path, vendor: Path) -> None:
    publish(vendor, make_deb("tool", "2.0"))
    state = make(make_deb("tool"), own="tool")
    expected = [update("tool", "1.0", "2.0")], None
    assert (list(look(home, vendor, state)[0]), None) == expected
    (known,) = home.glob("updates/sets/*/folders.json")
    for damaged in ("", "[]", "{"):
        known.write_text(damaged)
        assert (list(look(home, vendor, state)[0]), None) == expected
    publish(vendor, make_deb("tool", "3.0"))
    found, note = AptUpdates(home).outdated("01J", lambda: None, folders={AT: vendor})
    assert (found, "cannot be told" in str(note)) == ((), True), "its memo outlives what is known of it"


def test_home_may_be_called_anything(tmp_path: Path, vendor: Path) -> None:
    publish(vendor, make_deb("tool", "2.0"))
    state = make(make_deb("tool"), own="tool")
    for name in ("bäckerei", "面包"):
        assert look(tmp_path / name, vendor, state) == ((update("tool", "1.0", "2.0"),), None)
    found, note = look(tmp_path / 'a"; Evil "b', vendor, state)
    assert (found, "cannot be told" in str(note)) == ((), True)


def test_apt_is_broken_off_with_all_that_it_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name in ("lists/partial", "etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "cache"):
            (tmp_path / name).mkdir(parents=True)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        sources = tmp_path / "etc/sources.list.d/all.list"
        sources.write_text(f"deb [trusted=yes] {address} stable main\n")
        with pytest.raises(CommandFailed, match="took longer than"):
            run_apt(["update"], base_options(tmp_path, tmp_path / "etc"), timeout=1.0)
        connection, _ = silent.accept()
        with connection:
            connection.settimeout(10.0)
            while connection.recv(4096):  # until the other side is gone
                pass


def make_archive(folder: Path, address: str, *suites: str) -> Path:
    """As baker has a distribution's: with an index of another place as well."""
    (folder / "etc").mkdir(parents=True)
    (folder / "lists").mkdir()
    (folder / "refreshed").touch()
    (folder / "etc/sources.list").write_text(
        "".join(f"deb [signed-by=/k.gpg] {address} {suite} main\n" for suite in suites)
    )
    for suite in ("stable", "stable-extra"):
        (folder / f"lists/a.test_debian_dists_{suite}_main_binary-amd64_Packages").write_text("")
    return folder


def test_only_what_the_distributions_keys_have_verified_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_archive(tmp_path / "archive", "http://a.test/debian", "stable")
    line = b"deb [trusted=yes] http://a.test/debian %b main\n"
    lines = line % b"stable" + line % b"stable-extra"
    sources, _ = read_sources({"etc/apt/sources.list": lines}, ("amd64",), {})

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    indexes = Indexes(tmp_path / "set", tmp_path / "changed")
    indexes.prepare(sources, [archive])
    assert [path.name for path in indexes.lists.glob("*_*")] == [
        "a.test_debian_dists_stable_main_binary-amd64_Packages"
    ]


def test_indexes_of_one_image_are_not_anothers(home: Path, vendor: Path) -> None:
    publish(vendor, make_deb("tool", "2.0"))
    address = "http://127.0.0.1:9"
    other = home / "updates/sets/0123/lists"
    other.mkdir(parents=True)
    names = {"Release": "Release", "main_binary-amd64_Packages": "main/binary-amd64/Packages"}
    for name, path in names.items():
        content = (vendor / "dists/stable" / path).read_bytes()
        (other / f"127.0.0.1:9_dists_stable_{name}").write_bytes(content)
    found, note = look(home, vendor, make(make_deb("tool"), own="tool", uri=address))
    assert found == ()
    assert "cannot be told" in str(note)


def test_what_could_not_be_fetched_is_not_tried_again_at_once(home: Path, vendor: Path) -> None:
    state = make(make_deb("tool"), own="tool", uri="http://127.0.0.1:9")
    notes = [look(home, vendor, state)[1]]
    (failed,) = home.glob("updates/sets/*/failed")
    first = failed.stat().st_mtime_ns
    notes.append(look(home, vendor, state)[1])
    assert (notes[0], failed.stat().st_mtime_ns) == (notes[1], first)
    now = time.time()
    os.utime(failed, (now - 700, now - 700))
    assert look(home, vendor, state)[1] == notes[0]
    assert failed.stat().st_mtime > now - 600, "tried again"


def test_sets_of_indexes_that_nobody_uses_go(home: Path, vendor: Path) -> None:
    publish(vendor, make_deb("tool", "2.0"))
    look(home, vendor, make(make_deb("tool"), own="tool"))
    (known,) = home.glob("updates/sets/*/folders.json")
    long_ago = time.time() - 40 * 86400
    os.utime(known, (long_ago, long_ago))
    look(home, vendor, make(make_deb("tool"), own="tool", uri="http://127.0.0.1:9"), "01K")
    assert not known.exists()
    assert len(list(home.glob("updates/sets/*"))) == 1


def test_file_size_of_apt_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baker.updates.apt.MAX_FILE", 4096)
    script = f"trap '' XFSZ; sleep 0.3; head -c 9000 /dev/zero > {tmp_path}/big"
    with pytest.raises(CommandFailed):
        run_apt(["-c", script], [], tool="sh")
    assert (tmp_path / "big").stat().st_size == 4096
