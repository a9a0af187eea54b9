"""Package updates, found by the host's apt in a signed archive of our own; then with machines."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from baker.model import Bootstrap
from baker.package_sources import read_sources
from baker.package_state import NEWEST_SEEN, PackageState, PackageUpdate, encode_state
from baker.providers.local import archive
from baker.providers.local.provider import LocalProvider
from baker.updates import AptUpdates
from baker.updates.indexes import Fetching, Indexes
from tests.apt_repository import Deb, keys, publish
from tests.e2e.project import Project, make_project
from tests.package_updates import (
    ADDS_SOURCE,
    SCENARIOS,
    compare,
    diff,
    list_packages,
    make_deb,
    publish_newer,
    serving,
    write_project,
)

__all__ = ["keys"]

AT = "/run/baker/repositories/vendor"
OPTIONS = (("APT::Architecture", "amd64"), ("APT::Architectures::", "amd64"))


def make_state(
    key: Path, *installed: Deb, uri: str = f"file:{AT}", own: str = "", **changes: Any
) -> PackageState:
    """Of an image with these packages and one source."""
    status = "\n".join(
        deb.control.replace("Version", "Status: install ok installed\nVersion", 1) for deb in installed
    )
    return PackageState(
        own=frozenset(own.split()),
        options=OPTIONS,
        files={
            "etc/apt/sources.list": f"deb [signed-by=/k.gpg] {uri} stable main\n".encode(),
            "k.gpg": key.read_bytes(),
            "var/lib/dpkg/status": status.encode(),
            "var/lib/apt/extended_states": changes.pop("extended_states", "").encode(),
        },
        **changes,
    )


def update(name: str, installed: str | None, candidate: str | None) -> PackageUpdate:
    return PackageUpdate(name=name, arch="all", installed=installed, candidate=candidate)


def refuse() -> bytes:
    raise AssertionError("what was found before is remembered")


@pytest.fixture
def vendor(tmp_path: Path) -> Path:
    """A repository, once something is published in it."""
    return tmp_path / "our vendor"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def look(vendor: Path, home: Path) -> Callable[..., list[PackageUpdate]]:
    """What is outdated of a state whose packages come from the folder ``vendor``."""

    def look(state: PackageState, build: str = "01J", **options: Any) -> list[PackageUpdate]:
        updates = AptUpdates(home, **options)
        found, note = updates.outdated(build, lambda: encode_state(state), folders={AT: vendor})
        assert note is None
        return list(found)

    return look


Look = Callable[..., list[PackageUpdate]]

# --- judgement ---------------------------------------------------------------------------------------------


def test_own_packages_are_outdated_and_a_parents_are_not(look: Look, keys: list[Path], vendor: Path) -> None:
    publish(vendor, keys[0], make_deb("tool", "2.0"), make_deb("parents", "2.0"), make_deb("new"))
    state = make_state(keys[0], make_deb("tool"), make_deb("parents"), own="tool")
    assert look(state) == [update("tool", "1.0", "2.0")]
    whole = [update("parents", "1.0", "2.0"), update("tool", "1.0", "2.0")]
    assert look(replace(state, from_archive=True), "01K") == whole
    assert look(replace(state, upgrade="upgrade"), "01L") == whole
    assert look(replace(state, own=frozenset()), "01M") == []


def test_what_a_newer_version_needs_of_the_parent_comes_with_it(
    look: Look, keys: list[Path], vendor: Path
) -> None:
    newer = make_deb("tool", "2.0", Depends="library (>= 2.0), extra", Breaks="old")
    publish(vendor, keys[0], newer, make_deb("library", "2.0"), make_deb("extra"))
    state = make_state(keys[0], make_deb("tool"), make_deb("library"), make_deb("old"), own="tool")
    assert [(each.name, each.installed, each.candidate) for each in look(state)] == [
        ("extra", None, "1.0"),
        ("library", "1.0", "2.0"),
        ("old", "1.0", None),
        ("tool", "1.0", "2.0"),
    ]


def test_what_nothing_needs_any_more_would_not_come_again(look: Look, keys: list[Path], vendor: Path) -> None:
    publish(vendor, keys[0], make_deb("tool", "2.0"), make_deb("library"), make_deb("ours"))
    automatic = "".join(
        f"Package: {name}\nArchitecture: amd64\nAuto-Installed: 1\n\n" for name in ("library", "theirs")
    )
    installed = (make_deb("tool", Depends="library, theirs"), make_deb("library"), make_deb("theirs"))
    state = make_state(keys[0], *installed, own="tool library", extended_states=automatic)
    assert look(state) == [update("library", "1.0", None), update("tool", "1.0", "2.0")]
    never = make_state(
        keys[0], make_deb("tool"), *installed[1:], own="tool library", extended_states=automatic
    )
    assert look(never, "01K") == [update("tool", "1.0", "2.0")], "nothing needed it before either"


def test_newer_version_that_breaks_what_the_older_one_needed_comes_without_that(
    look: Look, keys: list[Path], vendor: Path
) -> None:
    newer = make_deb("tool", "2.0", Depends="library2", Breaks="library1", Replaces="library1")
    publish(vendor, keys[0], newer, make_deb("library1"), make_deb("library2"))
    automatic = "Package: library1\nArchitecture: amd64\nAuto-Installed: 1\n"
    installed = make_deb("tool", Depends="library1"), make_deb("library1")
    state = make_state(keys[0], *installed, own="tool library1", extended_states=automatic)
    expected = [("library1", "1.0", None), ("library2", None, "1.0"), ("tool", "1.0", "2.0")]
    for build, known in (("01J", state), ("01K", replace(state, from_archive=True))):
        assert [(each.name, each.installed, each.candidate) for each in look(known, build)] == expected


def test_what_the_recipe_chose_to_be_older_is_not_outdated(
    look: Look, keys: list[Path], vendor: Path
) -> None:
    publish(vendor, keys[0], make_deb("tool"), make_deb("tool", "2.0"), make_deb("more", "2.0"))
    state = make_state(keys[0], make_deb("tool"), make_deb("more"), own="tool more")
    assert look(replace(state, stuck={"tool": "2.0"})) == [update("more", "1.0", "2.0")]
    assert look(replace(state, pins={"tool": "1.*"}), "01K") == [update("more", "1.0", "2.0")]
    preferences = b"Package: tool\nPin: version 1.0\nPin-Priority: 1001\n"
    files = {**state.files, "etc/apt/preferences.d/keep": preferences}
    assert look(replace(state, files=files), "01L") == [update("more", "1.0", "2.0")]


def test_recommended_packages_come_unless_the_recipe_does_without(
    look: Look, keys: list[Path], vendor: Path
) -> None:
    publish(vendor, keys[0], make_deb("tool", "2.0", Recommends="extra"), make_deb("extra"))
    state = make_state(keys[0], make_deb("tool"), own="tool")
    assert look(state) == [update("extra", None, "1.0"), update("tool", "1.0", "2.0")]
    assert look(replace(state, recommends=False), "01K") == [update("tool", "1.0", "2.0")]


# --- indexes -----------------------------------------------------------------------------------------------


def test_what_was_found_is_remembered_until_an_index_has_another_version_of_it(
    look: Look, keys: list[Path], vendor: Path, home: Path
) -> None:
    publish(vendor, keys[0], make_deb("tool"))
    state = make_state(keys[0], make_deb("tool"), own="tool")
    assert look(state) == []
    updates = AptUpdates(home)
    folders = {AT: vendor}
    assert updates.outdated("01J", refuse, folders=folders) == ((), None)
    publish(vendor, keys[0], make_deb("tool"), make_deb("other"))
    assert updates.outdated("01J", refuse, folders=folders) == ((), None)
    publish(vendor, keys[0], make_deb("tool", "2.0"), make_deb("other"))
    with pytest.raises(AssertionError, match="remembered"):
        updates.outdated("01J", refuse, folders=folders)
    assert look(state) == [update("tool", "1.0", "2.0")]


@pytest.fixture
def served(vendor: Path) -> Iterator[tuple[str, list[str]]]:
    """The address at which the folder ``vendor`` is served, and what was asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code: int | str = "-", _size: int | str = "-") -> None:
            asked.append(f"{int(code)} {self.path.rpartition('/')[2]}")

        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Handler, directory=str(vendor))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_indexes_younger_than_an_hour_are_used_as_they_are_unless_fresh_ones_are_wanted(
    look: Look, keys: list[Path], served: tuple[str, list[str]], vendor: Path, home: Path
) -> None:
    address, asked = served
    publish(vendor, keys[0], make_deb("tool"))
    state = make_state(keys[0], make_deb("tool"), own="tool", uri=address)
    assert look(state) == []
    assert "200 InRelease" in asked
    changed = home / "updates/changed"
    changed.unlink()
    asked.clear()
    assert look(state, "01K") == look(state) == []
    assert asked == []
    assert look(state, refresh=True) == []
    assert asked == ["304 InRelease"]
    assert not changed.exists(), "nothing had changed"
    publish(vendor, keys[0], make_deb("tool", "2.0"))
    later = time.time() + 10.0  # HTTP's dates have no fractions of a second
    for index in (vendor / "dists/stable").rglob("*"):
        os.utime(index, (later, later))
    asked.clear()
    assert look(state) == look(state, refresh=True, offline=True) == []
    assert asked == []
    assert look(state, refresh=True) == [update("tool", "1.0", "2.0")]
    assert changed.exists()


def test_archive_that_cannot_be_reached_is_told_once_and_older_indexes_are_used(
    keys: list[Path], served: tuple[str, list[str]], vendor: Path, home: Path
) -> None:
    address, asked = served
    publish(vendor, keys[0], make_deb("tool", "2.0"))
    content = encode_state(make_state(keys[0], make_deb("tool"), own="tool", uri=address))
    never = AptUpdates(home, offline=True).outdated("01J", lambda: content, folders={})
    assert (never[0], "never fetched" in str(never[1])) == ((), True)
    AptUpdates(home).outdated("01J", lambda: content, folders={})
    (vendor / "dists/stable/InRelease").unlink()
    updates = AptUpdates(home, refresh=True)
    for build in ("01J", "01K"):
        found, note = updates.outdated(build, lambda: content, folders={})
        assert list(found) == [update("tool", "1.0", "2.0")]
        assert "package indexes could not be fetched" in str(note)
    assert asked.count("404 InRelease") == 1


def test_archive_that_others_have_signed_is_not_believed(
    keys: list[Path], served: tuple[str, list[str]], vendor: Path, home: Path
) -> None:
    publish(vendor, keys[1], make_deb("tool", "2.0"))
    content = encode_state(make_state(keys[0], make_deb("tool"), own="tool", uri=served[0]))
    found, note = AptUpdates(home).outdated("01J", lambda: content, folders={})
    assert found == ()
    assert "NO_PUBKEY" in str(note) or "not signed" in str(note)


def test_source_that_is_not_looked_at_is_named(keys: list[Path], vendor: Path, home: Path) -> None:
    publish(vendor, keys[0], make_deb("tool", "2.0"))
    state = make_state(keys[0], make_deb("tool"), own="tool")
    sources = state.files["etc/apt/sources.list"] + b"deb ssh://host.test/debian x main\n"
    content = encode_state(replace(state, files={**state.files, "etc/apt/sources.list": sources}))
    folders = {AT: vendor}
    found, note = AptUpdates(home).outdated("01J", lambda: content, folders=folders)
    assert list(found) == [update("tool", "1.0", "2.0")]
    assert note == "not looked at for package updates: ssh://host.test/debian"


def test_build_of_which_nothing_is_known_says_so(home: Path) -> None:
    found, note = AptUpdates(home).outdated("01J", lambda: None, folders={})
    assert found == ()
    assert "no apt was found in the build (max_age can bake it by age)" in str(note)


def test_host_without_apt_says_so(
    keys: list[Path], monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path
) -> None:
    content = encode_state(make_state(keys[0], make_deb("tool"), own="tool"))
    monkeypatch.setenv("PATH", str(tmp_path))
    found, note = AptUpdates(home).outdated("01J", lambda: content, folders={})
    assert found == ()
    assert "this host has no apt" in str(note)


def test_many_threads_at_once_find_the_same(look: Look, keys: list[Path], vendor: Path) -> None:
    publish(vendor, keys[0], make_deb("tool", "2.0"))
    state = make_state(keys[0], make_deb("tool"), own="tool")
    found: list[Sequence[PackageUpdate]] = []
    threads = [threading.Thread(target=lambda n=n: found.append(look(state, f"01{n}"))) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[update("tool", "1.0", "2.0")]] * 6


def test_bakes_fetch_their_indexes_again_once_updates_were_seen_in_newer_ones(
    keys: list[Path],
    served: tuple[str, list[str]],
    vendor: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, asked = served
    publish(vendor, keys[0], make_deb("tool"))
    monkeypatch.setitem(archive.KEYRINGS, "debian", (keys[0], "none"))
    monkeypatch.setattr(archive.Archive, "_default_source_lines", lambda _: ["deb http://x.test stable main"])

    def refresh(provider: LocalProvider) -> list[str]:
        asked.clear()
        provider.store.create()
        provider._archive(Bootstrap(distribution="debian", suite="stable"), {"mirror": address}).refresh()
        return list(asked)

    provider = LocalProvider(home)
    assert "200 InRelease" in refresh(provider)
    assert refresh(provider) == []
    changed = home / NEWEST_SEEN
    changed.parent.mkdir()
    changed.touch()
    assert refresh(provider) == ["304 InRelease"]
    assert refresh(provider) == []
    provider = LocalProvider(home, refresh=True)
    assert refresh(provider) == ["304 InRelease"]
    assert refresh(provider) == []


# --- with machines -----------------------------------------------------------------------------------------


@pytest.fixture
def project(shared_home: Path, tmp_path: Path) -> Project:
    project = make_project(tmp_path / "project", shared_home)
    project.environ["BAKER_CATALOG"] = f"sqlite:///{project.folder}/catalog.db"
    return project


def assert_foretold(project: Project, keys: list[Path], names: Sequence[str]) -> None:
    """Plan is empty after the bake; once the archive moved, what it says is what a forced bake changes."""
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in names]
    write_project(project, keys, scenarios)
    project.bake("--jobs", "2")
    planned = project.json("plan")["recipes"]
    assert {entry["action"] for entry in planned} == {"skip"}, planned
    publish_newer(project, keys)
    for compared in compare(project, scenarios):
        assert compared.foretold == compared.happened, compared.scenario.name
        assert bool(compared.happened) == compared.scenario.moves, compared.scenario.name
    planned = project.json("plan", *(scenario.name for scenario in scenarios if scenario.source != "root"))
    assert [entry["action"] for entry in planned["recipes"]] == ["skip"]


@pytest.mark.slow
@pytest.mark.machine
@pytest.mark.usefixtures("nothing_left_behind")
def test_what_is_foretold_is_what_a_bake_anew_changes(project: Project, keys: list[Path]) -> None:
    assert_foretold(project, keys, ["root", "gets-dependency"])


@pytest.mark.machine
@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left_behind")
def test_archive_that_a_recipe_adds_itself_is_looked_at(
    project: Project, keys: list[Path], tmp_path: Path
) -> None:
    served = tmp_path / "served/apt.example.test/debian"
    publish(served, keys[0], make_deb("our-beta"))
    project.write("vendor.gpg", "").write_bytes(keys[0].read_bytes())
    project.recipe("bottom")
    project.bake("bottom")  # whose packages and indexes are here then
    project.recipe("web", deploy=ADDS_SOURCE)
    with serving(tmp_path / "served", tmp_path / "log") as proxy:
        project.environ["BAKER_LOCAL_HTTP_PROXY"] = proxy
        project.bake("web")
        assert [entry["action"] for entry in project.json("plan", "web")["recipes"]] == ["skip"]
        publish(served, keys[0], make_deb("our-beta", "2.0"), make_deb("our-gamma"))
        (entry,) = project.json("plan", "web")["recipes"]
        assert entry["action"] == "skip", "the indexes are not an hour old"
        (entry,) = project.json("plan", "web", "--refresh")["recipes"]
        assert [reason["kind"] for reason in entry["reasons"]] == ["packages-outdated"]
        assert [(each["package"], each["from"], each["to"]) for each in entry["updates"]] == [
            ("our-beta", "1.0", "2.0")
        ]
        before = list_packages(project, "web")
        assert [bake["outcome"] for bake in project.bake("web")] == ["baked"]
        assert diff(before, list_packages(project, "web")) == {("our-beta", "1.0", "2.0")}
        assert [entry["action"] for entry in project.json("plan", "web", "--refresh")["recipes"]] == ["skip"]


@pytest.mark.machine
@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left_behind")
def test_what_is_foretold_of_every_kind_of_recipe_is_what_a_bake_anew_changes(
    project: Project, keys: list[Path]
) -> None:
    assert_foretold(project, keys, [scenario.name for scenario in SCENARIOS])


def test_indexes_that_an_archive_has_fetched_just_now_are_taken_from_there(tmp_path: Path) -> None:
    archive = tmp_path / "apt" / "debian-trixie"
    (archive / "etc").mkdir(parents=True)
    (archive / "lists").mkdir()
    (archive / "etc/sources.list").write_text(
        "deb [signed-by=/k.gpg] http://archive.invalid/debian trixie main\n"
    )
    index = archive / "lists/archive.invalid_debian_dists_trixie_main_binary-amd64_Packages"
    index.write_text("Package: tool\nVersion: 1.0\n\n")
    (archive / "refreshed").touch()
    files = {"etc/apt/sources.list": b"deb http://archive.invalid/debian trixie main\n"}
    sources, refused = read_sources(files, ("amd64",), {})
    assert refused == []
    indexes = Indexes(tmp_path / "set", tmp_path / "changed")
    indexes.prepare(sources, [])
    assert indexes.is_empty()
    fetching = Fetching(since=(archive / "refreshed").stat().st_mtime)
    assert indexes.refresh(fetching, archives=[archive]) is None
    assert indexes.versions() == {"tool": "1.0"}
    assert (tmp_path / "changed").stat().st_mtime < (archive / "refreshed").stat().st_mtime

    newer = index.with_name("newer")
    newer.write_text("Package: tool\nVersion: 1.1\n\n")
    newer.replace(index)
    later = Fetching(since=time.time() + 1.0)
    assert "archive.invalid" in (indexes.refresh(later, archives=[archive]) or ""), "it was fetched before"
    (tmp_path / "set/failed").unlink()
    os.utime(archive / "refreshed", (later.since, later.since))
    later = Fetching(since=later.since, clock=lambda: later.since + 1.0)
    assert indexes.refresh(later, archives=[archive]) is None
    assert indexes.versions() == {"tool": "1.1"}

    both, _ = read_sources(
        {"etc/apt/sources.list": files["etc/apt/sources.list"].replace(b"main", b"main contrib")},
        ("amd64",),
        {},
    )
    other = Indexes(tmp_path / "other", tmp_path / "changed")
    other.prepare(both, [archive])
    told = other.refresh(Fetching(since=later.since, clock=later.clock), archives=[archive])
    assert "archive.invalid" in (told or ""), "the archive has no contrib"
