"""Archives written into a folder as root: what is kept, and what no archive can do."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baker.errors import SourceError
from baker.providers.local.oci import read_image, verify_blob
from baker.providers.local.unpack import TreeUnpacker, open_decompressed
from tests.conftest import require_root

MOMENT = 1_700_000_000


@pytest.fixture(autouse=True)
def root() -> None:
    require_root()


def entry(name: str, content: bytes | None = None, **changes: Any) -> tuple[tarfile.TarInfo, bytes | None]:
    member = tarfile.TarInfo(name)
    member.mode, member.mtime = 0o755, MOMENT
    if content is not None:
        member.size = len(content)
    for key, value in changes.items():
        setattr(member, key, value)
    return member, content


def folder(name: str, **changes: Any) -> tuple[tarfile.TarInfo, None]:
    return entry(name, type=tarfile.DIRTYPE, **changes)[0], None


def link(name: str, target: str) -> tuple[tarfile.TarInfo, None]:
    return entry(name, type=tarfile.SYMTYPE, linkname=target)[0], None


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, None]:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)[0], None


def pack(*entries: tuple[tarfile.TarInfo, bytes | None]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in entries:
            archive.addfile(member, io.BytesIO(content or b""))
    return buffer.getvalue()


def unpack(tree: Path, *archives: bytes, layered: bool = False) -> TreeUnpacker:
    tree.mkdir(exist_ok=True)
    unpacker = TreeUnpacker(tree)
    for archive in archives:
        unpacker.unpack(io.BytesIO(archive), "the archive", layered=layered)
    unpacker.finish()
    return unpacker


def names(tree: Path) -> set[str]:
    return {str(path.relative_to(tree)) for path in tree.rglob("*")}


def test_owner_mode_time_and_attributes_are_kept(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    attributes = {"SCHILY.xattr.user.note": "kept", "SCHILY.xattr.trusted.overlay.opaque": "y"}
    unpacker = unpack(
        tree,
        pack(
            folder("./srv", mode=0o2750, uid=33, gid=44),
            entry("./srv/tool", b"content", mode=0o4711, uid=12, gid=34, pax_headers=attributes),
            hard_link("srv/same", "./srv/tool"),
            link("srv/link", "/etc/passwd"),
            entry("srv/pipe", type=tarfile.FIFOTYPE),
            entry("srv/null", type=tarfile.CHRTYPE),
            entry("srv/disk", type=tarfile.BLKTYPE),
        ),
    )
    assert names(tree) == {"srv", "srv/tool", "srv/same", "srv/link", "srv/pipe"}
    status = (tree / "srv/tool").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o4711, 12, 34)
    assert (status.st_mtime, status.st_nlink) == (MOMENT, 2)
    assert {name: os.getxattr(tree / "srv/tool", name) for name in os.listxattr(tree / "srv/tool")} == {
        "user.note": b"kept"
    }
    status = (tree / "srv").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime) == (0o2750, 33, MOMENT)
    assert os.readlink(tree / "srv/link") == "/etc/passwd"  # noqa: PTH115
    assert (tree / "srv/link").lstat().st_mtime == MOMENT
    assert unpacker.epoch == MOMENT


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "dots": lambda _: pack(entry("../precious", b"bad")),
    "inner-dots": lambda _: pack(folder("a"), entry("a/../../precious", b"bad")),
    "hard-link-out": lambda _: pack(hard_link("a", "../precious"), entry("a", b"bad")),
    "absolute-hard-link": lambda outside: pack(hard_link("a", str(outside)), entry("a", b"bad")),
    "absolute": lambda outside: pack(entry(str(outside), b"bad")),
    "absolute-link": lambda outside: pack(link("a", str(outside.parent)), entry("a/precious", b"bad")),
    "relative-link": lambda _: pack(link("a", ".."), entry("a/precious", b"bad")),
    "link-to-link": lambda _: pack(link("a", "b/.."), link("b", "../.."), entry("a/precious", b"bad")),
    "onto-a-link": lambda outside: pack(link("a", str(outside)), entry("a", b"bad")),
    "hard-link-to-a-link": lambda outside: pack(
        link("a", str(outside)), hard_link("b", "a"), entry("b", b"bad")
    ),
    "folder-over-a-link": lambda outside: pack(
        link("a", str(outside.parent)), folder("a", mode=0o777), entry("a/precious", b"bad")
    ),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("layered", [False, True])
def test_nothing_outside_the_tree_is_ever_touched(
    tmp_path: Path, make: Callable[[Path], bytes], layered: bool
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("of the host")
    tmp_path.chmod(0o700)
    before = precious.stat()
    with contextlib.suppress(SourceError):
        unpack(tmp_path / "tree", make(precious), layered=layered)
    assert precious.read_text() == "of the host"
    assert precious.stat().st_ctime_ns == before.st_ctime_ns
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    assert {path.name for path in tmp_path.iterdir()} == {"precious", "tree"}


def test_whiteout_through_a_link_removes_nothing_outside(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("of the host")
    below = pack(link("a", str(tmp_path)))
    for above in (pack(entry("a/.wh.precious", b"")), pack(entry("a/.wh..wh..opq", b""))):
        unpack(tmp_path / "tree", below, above, layered=True)
        assert precious.exists()
    with pytest.raises(SourceError, match=r"\.wh\.\.\. is no proper whiteout"):
        unpack(tmp_path / "tree", pack(entry(".wh...", b"")), layered=True)


def test_links_are_followed_as_inside_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    unpack(tree, pack(folder("usr/lib"), link("lib", "/usr/lib")), pack(entry("lib/x", b"x")))
    assert (tree / "usr/lib/x").read_bytes() == b"x"
    assert (tree / "lib").is_symlink()


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="links in a circle"):
        unpack(tmp_path / "tree", pack(link("a", "b"), link("b", "a"), entry("a/x", b"x")))


def test_whiteouts_remove_what_is_below_and_never_their_own_layer(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    below = pack(entry("a/one", b"1"), entry("a/two", b"2"), entry("b/old/x", b"x"), entry("c", b"c"))
    above = pack(
        entry("b/new", b"n"),
        entry("b/old/y", b"y"),
        entry("b/.wh..wh..opq", b""),
        entry("a/.wh.one", b""),
        entry(".wh.c", b""),
        entry(".wh..wh.plnk", b""),
    )
    unpack(tree, below, above, layered=True)
    assert names(tree) == {"a", "a/two", "b", "b/new", "b/old", "b/old/y"}


def test_whiteout_names_mean_nothing_in_a_plain_archive(tmp_path: Path) -> None:
    unpack(tmp_path / "tree", pack(entry(".wh.a", b"")))
    assert names(tmp_path / "tree") == {".wh.a"}


@pytest.mark.parametrize("compressor", [None, "gzip", "bzip2", "xz", "zstd"])
def test_archive_is_read_however_it_is_compressed_and_refused_when_it_breaks_off(
    tmp_path: Path, compressor: str | None
) -> None:
    path = tmp_path / "archive"
    content = pack(entry("a", os.urandom(300_000)), entry("b", b"b"))
    if compressor:
        content = subprocess.run([compressor, "-c"], input=content, capture_output=True, check=True).stdout
    for length in (len(content), len(content) // 2, len(content) // 2 // 512 * 512):
        path.write_bytes(content[:length])
        tree = tmp_path / f"tree-{length}"
        tree.mkdir(exist_ok=True)
        unpacker = TreeUnpacker(tree)
        if length == len(content):
            with open_decompressed(path) as stream:
                unpacker.unpack(stream, "the archive")
            assert names(tree) == {"a", "b"}
        else:
            with pytest.raises(SourceError, match="is damaged"), open_decompressed(path) as stream:
                unpacker.unpack(stream, "the archive")


def test_archive_with_a_broken_header_in_the_middle_is_refused(tmp_path: Path) -> None:
    content = bytearray(pack(entry("a", b"a" * 512), entry("b", b"b")))
    content[1024 + 100] ^= 0xFF
    with pytest.raises(SourceError, match="the archive is damaged"):
        unpack(tmp_path / "tree", bytes(content))
    with pytest.raises(SourceError, match="the archive is damaged"):
        unpack(tmp_path / "tree", b"this is no archive" * 100)


# --- image layouts -----------------------------------------------------------------------------------


class Layout:
    """An OCI image layout that a test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[dict[str, Any]] = []
        (folder / "blobs/sha256").mkdir(parents=True)

    def add(self, content: bytes | dict[str, Any], media_type: str = "") -> dict[str, Any]:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        digest = hashlib.sha256(data).hexdigest()
        (self.folder / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def image(self, arch: str = "amd64", **changes: Any) -> dict[str, Any]:
        layer = pack(entry("arch", arch.encode()))
        diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
        config = {"os": "linux", "architecture": arch, "rootfs": {"diff_ids": diff_ids}}
        manifest = {
            "config": self.add(config),
            "layers": [self.add(gzip.compress(layer, mtime=0))],
            **changes,
        }
        return self.add(manifest, "application/vnd.oci.image.manifest.v1+json")

    def write(self, *entries: dict[str, Any]) -> Path:
        (self.folder / "index.json").write_text(json.dumps({"manifests": entries}))
        return self.folder

    def blob(self, descriptor: dict[str, Any]) -> Path:
        return self.folder / "blobs/sha256" / str(descriptor["digest"]).removeprefix("sha256:")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def tagged(descriptor: dict[str, Any], tag: str) -> dict[str, Any]:
    return {**descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}}


def test_image_is_chosen_by_architecture_also_within_an_index(layout: Layout) -> None:
    images = {arch: layout.image(arch) for arch in ("amd64", "arm64")}
    index = layout.add({"manifests": list(images.values())}, "application/vnd.oci.image.index.v1+json")
    for entries in ([index], list(images.values())):
        folder = layout.write(*entries)
        assert read_image(folder, None, "x86_64").digest == images["amd64"]["digest"]
        assert read_image(folder, None, "arm64").digest == images["arm64"]["digest"]
    with pytest.raises(SourceError, match=r"holds no image for linux/arm64 \(linux/amd64\)"):
        read_image(layout.write(images["amd64"]), None, "arm64")


def test_image_is_chosen_by_tag_and_several_need_one(layout: Layout) -> None:
    one, two = layout.image(), layout.image(note="two")
    folder = layout.write(tagged(one, "v1"), tagged(two, "registry.example.test/web:v2"))
    assert read_image(folder, "v1", "x86_64").digest == one["digest"]
    assert read_image(folder, "v2", "x86_64").digest == two["digest"]
    with pytest.raises(SourceError, match=r"2 images for linux/amd64 \(registry.*v2, v1\)"):
        read_image(folder, None, "x86_64")
    with pytest.raises(SourceError, match="no image tagged v3"):
        read_image(folder, "v3", "x86_64")


def test_whatever_is_missing_or_damaged_is_named(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is no folder"):
        read_image(tmp_path / "none", None, "x86_64")
    with pytest.raises(SourceError, match=r"is no OCI image layout: it has no index\.json"):
        read_image(layout.folder, None, "x86_64")
    image = layout.image()
    folder = layout.write(image)
    layer = read_image(folder, None, "x86_64").layers[0]
    verify_blob(layer.path, layer.digest)
    content = layer.path.read_bytes()
    layer.path.write_bytes(content[:-1] + b"!")
    with pytest.raises(SourceError, match="is damaged: its content does not have its digest"):
        verify_blob(layer.path, layer.digest)
    layer.path.write_bytes(content[:-1])
    with pytest.raises(SourceError, match=f"is damaged: it has {len(content) - 1} bytes, not {len(content)}"):
        read_image(folder, None, "x86_64")
    layer.path.unlink()
    with pytest.raises(SourceError, match=f"lacks the blob {layer.digest}"):
        read_image(folder, None, "x86_64")
    layout.blob(image).write_bytes(b" " * image["size"])
    with pytest.raises(SourceError, match="is damaged: its content does not have its digest"):
        read_image(folder, None, "x86_64")
    with pytest.raises(SourceError, match="is no digest that baker knows"):
        read_image(layout.write({**image, "digest": "sha256:../../../etc/passwd"}), None, "x86_64")
    (folder / "index.json").write_text("{")
    with pytest.raises(SourceError, match=r"index\.json is damaged"):
        read_image(folder, None, "x86_64")
