"""An image's package sources, as the host's apt may look at them."""

from __future__ import annotations

from pathlib import Path

import pytest

from baker.package_sources import Entry, name_keyrings, read_sources
from baker.updates.sources import write_sources

ARMOURED = b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n"
AMD64 = ("amd64",)


def read(
    files: dict[str, str | bytes], shown: dict[str, Path] | None = None
) -> tuple[list[Entry], list[str]]:
    content = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
    sources, refused = read_sources(content, AMD64, shown or {})
    return list(sources.entries), refused


def test_both_formats_of_sources_are_read() -> None:
    entries, refused = read(
        {
            "etc/apt/sources.list": (
                "# a comment\ndeb-src http://a.test/debian trixie main\n"
                "deb [arch=amd64,arm64 signed-by=/usr/share/keyrings/a.gpg] http://a.test/debian trixie "
                "main contrib # x\n"
                "  deb http://flat.test/repo ./\n"
            ),
            "etc/apt/sources.list.d/b.sources": (
                "Types: deb deb-src\n# between\nURIs: https://b.test/debian\nSuites: trixie trixie-updates\n"
                "Components:\n main\n non-free\nSigned-By: /etc/apt/keyrings/b.asc\n\n"
                "Types: deb\nEnabled: no\nURIs: http://off.test\nSuites: x\n\n"
                "Types: deb-src\nURIs: http://source.test\nSuites: x\n"
            ),
            "usr/share/keyrings/a.gpg": b"A",
            "etc/apt/keyrings/b.asc": ARMOURED,
        }
    )
    assert refused == []
    assert entries == [
        Entry(
            uris=("http://a.test/debian",),
            suites=("trixie",),
            components=("main", "contrib"),
            options=(("architectures", "amd64 arm64"),),
            keys=(b"A",),
        ),
        Entry(uris=("http://flat.test/repo",), suites=("./",), components=()),
        Entry(
            uris=("https://b.test/debian",),
            suites=("trixie", "trixie-updates"),
            components=("main", "non-free"),
            keys=(ARMOURED,),
        ),
    ]


@pytest.mark.parametrize(
    "uri",
    [
        "file:/etc",
        "cdrom:[Debian]/",
        "copy:/etc",
        "ssh://host.test/debian",
        "mirror+http://m.test/list",
        "mirror+file:/etc/apt/mirrors/absent.list",
        "s3://bucket/debian",
    ],
)
def test_only_what_is_fetched_by_http_is_looked_at(uri: str) -> None:
    files: dict[str, str | bytes] = {
        "etc/apt/sources.list.d/x.sources": f"Types: deb\nURIs: {uri}\nSuites: x/\n"
    }
    assert read(files) == ([], [uri])


def test_password_of_a_source_is_not_shown() -> None:
    assert read({"etc/apt/sources.list": "deb http://ann:secret@a.test/debian x main\n"}) == (
        [],
        ["http://***@a.test/debian"],
    )


def test_a_list_of_mirrors_stands_for_its_first_address() -> None:
    entries, refused = read(
        {
            "etc/apt/sources.list.d/debian.sources": (
                "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: x\nComponents: main\n"
            ),
            "etc/apt/mirrors/debian.list": "# first\nfile:/etc\nhttps://cdn.test/debian\tpriority:1\nhttps://b.test\n",
        }
    )
    assert (entries[0].uris, refused) == (("https://cdn.test/debian",), [])


def test_folder_that_machines_see_is_where_it_lies_on_this_host(tmp_path: Path) -> None:
    shown = {"/run/baker/repositories/vendor-1": tmp_path}
    entries, refused = read(
        {"etc/apt/sources.list": "deb file:/run/baker/repositories/vendor-1 stable main\n"}, shown
    )
    assert (entries[0].uris, refused) == ((f"file:{tmp_path}",), [])
    assert entries[0].folders == [tmp_path]


def test_key_within_a_source_and_fingerprints_are_taken_over(tmp_path: Path) -> None:
    inline = "".join(f" {line or '.'}\n" for line in ARMOURED.decode().splitlines())
    stanza = "Types: deb\nURIs: http://a.test\nSuites: x/\nSigned-By:"
    content = {
        "etc/apt/sources.list.d/a.sources": f"{stanza}\n{inline}".encode(),
        "etc/apt/sources.list.d/b.sources": f"{stanza} 0123456789ABCDEF\n".encode(),
        "etc/apt/trusted.gpg.d/all.gpg": b"binary",
    }
    sources, _ = read_sources(content, AMD64, {})
    assert sources.entries[0].keys == (ARMOURED,)
    assert sources.entries[1].fingerprints == ("0123456789ABCDEF",)
    assert sources.trusted == (b"binary",)
    write_sources(sources, tmp_path)
    written = (tmp_path / "sources.list.d/all.sources").read_text()
    (key,) = (tmp_path / "keys").iterdir()
    assert (key.suffix, key.read_bytes()) == (".asc", ARMOURED)
    assert f"Signed-By: {key}\n" in written
    assert "Signed-By: 0123456789ABCDEF\n" in written
    assert [path.name for path in (tmp_path / "trusted.gpg.d").iterdir()] == ["000.gpg"]


def test_images_with_the_same_sources_share_them_whatever_their_files_are_called() -> None:
    line, key = b"deb [signed-by=/k/%b.gpg] http://a.test x main\n", b"key"
    first, _ = read_sources({"etc/apt/sources.list": line % b"a", "k/a.gpg": key}, AMD64, {})
    second, _ = read_sources({"etc/apt/sources.list.d/b.list": line % b"b", "k/b.gpg": key}, AMD64, {})
    other, _ = read_sources({"etc/apt/sources.list": line % b"a", "k/a.gpg": b"other"}, AMD64, {})
    assert first.digest == second.digest != other.digest
    assert (
        first.digest
        != read_sources({"etc/apt/sources.list": line % b"a", "k/a.gpg": key}, ("arm64",), {})[0].digest
    )


def test_keyrings_that_sources_name_are_told_and_the_trusted_ones_where_one_names_none() -> None:
    files = {
        "etc/apt/sources.list": b"deb [signed-by=/k/a.gpg,/k/b.gpg] file:/anywhere x main\n",
        "etc/apt/trusted.gpg.d/all.gpg": b"",
    }
    assert name_keyrings(files) == {"k/a.gpg", "k/b.gpg"}
    files["etc/apt/sources.list.d/c.list"] = b"deb http://c.test x main\n"
    assert name_keyrings(files) == {"k/a.gpg", "k/b.gpg", "etc/apt/trusted.gpg.d/all.gpg"}


def test_source_whose_key_was_not_read_is_not_looked_at_with_all_that_are_trusted() -> None:
    files: dict[str, str | bytes] = {
        "etc/apt/sources.list": (
            "deb [signed-by=/k/absent.key] http://a.test x main\n"
            "deb [signed-by=/k/absent.gpg,0123456789ABCDEF] http://b.test x main\n"
            "deb [signed-by=/k/a.gpg,/k/absent.gpg] http://c.test x main\n"
        ),
        "k/a.gpg": b"A",
        "etc/apt/trusted.gpg.d/all.gpg": b"all",
    }
    entries, refused = read(files)
    assert [(entry.uris, entry.keys) for entry in entries] == [(("http://c.test",), (b"A",))]
    assert refused == ["http://a.test", "http://b.test"]


def test_lists_of_mirrors_and_sources_are_read_however_long_their_lines_are() -> None:
    files: dict[str, str | bytes] = {
        "etc/apt/sources.list": f"deb ssh:{'/' * 200_000} x main\ndeb mirror+file:/m x main\n",
        "m": "\n" * 200_000 + "http://a.test/debian\n",
    }
    entries, refused = read(files)
    assert ([entry.uris for entry in entries], refused) == ([("http://a.test/debian",)], [])


def test_nothing_in_a_source_reaches_another_line_of_what_is_written(tmp_path: Path) -> None:
    stanza = "Types: deb\nURIs: http://a.test\nSuites: x/\nTrusted: yes\n Signed-By: /evil\nX-Hook: run\n"
    sources, _ = read_sources({"etc/apt/sources.list.d/a.sources": stanza.encode()}, AMD64, {})
    write_sources(sources, tmp_path)
    written = (tmp_path / "sources.list.d/all.sources").read_text()
    assert written.splitlines() == [
        "Types: deb",
        "URIs: http://a.test",
        "Suites: x/",
        "Trusted: yes Signed-By: /evil",
    ]
