"""What a bake may start from and fetch from: root file systems, repositories, proxies, no network at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baker.errors import SourceError
from baker.model import Bootstrap
from baker.providers.local.archive import Archive
from baker.providers.local.provider import LocalProvider
from baker.providers.local.store import Store
from baker.teardown import Teardown
from tests.apt_repository import keys, make_repository, network_namespace
from tests.e2e.project import BAKER, Project, make_project
from tests.mirror import Mirror, serving_mirror

__all__ = ["keys"]

pytestmark = [pytest.mark.machine, pytest.mark.usefixtures("nothing_left_behind")]

TRIXIE = Bootstrap(distribution="debian", suite="trixie")
PROXY = Path(__file__).parents[1] / "proxy.py"
INSTALL = """
from pyinfra.operations import apt

apt.packages(name="Install", packages=["tiny-tool"], update=True)
"""
INSTALL_AT_ONCE = INSTALL.replace(", update=True", "")


@pytest.fixture(scope="module")
def bottom(shared_home: Path) -> Path:
    """The layer of the plain trixie that every test here begins with."""
    provider = LocalProvider(shared_home)
    provider.check()
    teardown = Teardown("SOURCES", None)
    source = provider.resolve(TRIXIE, None, {}, provider.arch)
    chain = provider._chain(source, teardown)
    assert teardown.close() == []
    return provider.store.verified_layer(chain["layers"][0])


@pytest.fixture(scope="module")
def root_archive(bottom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That layer as an archive."""
    path = tmp_path_factory.mktemp("root") / "root.tar"
    in_layer(bottom, f"tar --create --file {path} --xattrs --sort=name --directory $layer .")
    return path


def in_layer(layer: Path, script: str) -> str:
    """Run a script that finds the layer mounted at $layer."""
    mount = f"layer=/mnt; mount -t erofs -o ro,loop {layer} /mnt; {script}"
    done = subprocess.run(["unshare", "--mount", "sh", "-euc", mount], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path: Path, shared_home: Path, bottom: Path) -> Project:
    """A project with a catalog of its own. Its home has fresh indexes, however old they are."""
    del bottom
    for stamp in (shared_home / "local/apt").glob("*/refreshed"):
        stamp.touch()
    project = make_project(tmp_path / "project", shared_home)
    project.environ["BAKER_CATALOG"] = f"sqlite:///{project.folder}/catalog.db"
    return project


def bake_inside(prefix: list[str], project: Project, *arguments: str, status: int = 0) -> str:
    """``baker bake`` run by another command; returns all that it said."""
    argv = [*prefix, str(BAKER), "bake", *arguments]
    done = subprocess.run(argv, cwd=project.folder, env=project.variables, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def top_layer(project: Project, reference: str) -> Path:
    artifact = project.run("image", "resolve", reference).stdout.strip()
    store = Store(project.home / "local")
    return store.verified_layer(store.read_artifact(artifact)["layers"][-1])


def assert_plan_is_empty(project: Project, *arguments: str) -> None:
    planned = project.json("plan", *arguments)["recipes"]
    assert {entry["action"] for entry in planned} == {"skip"}, planned


# --- root file systems ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_recipe_is_baked_from_an_archive_until_the_archive_changes(
    project: Project, root_archive: Path
) -> None:
    target = project.folder / "images/root.tar.zst"
    target.parent.mkdir()
    subprocess.run(["zstd", "-q", "-1", root_archive, "-o", target], check=True)
    test = "def test_it(host):\n    assert host.package('systemd').is_installed\n"
    project.recipe("web", toml='from = "tar:images/root.tar.zst"\n', test=test)
    assert [bake["outcome"] for bake in project.bake("web")] == ["baked"]
    assert_plan_is_empty(project)
    shown = project.json("image", "show", "web:1")
    assert any(package["name"] == "systemd" for package in shown["builds"][0]["packages"])
    subprocess.run(["zstd", "-q", "-2", "-f", root_archive, "-o", target], check=True)
    reasons = project.json("plan")["recipes"][0]["reasons"]
    assert [reason["kind"] for reason in reasons] == ["source-moved"]
    target.unlink()
    assert project.json("plan")["recipes"][0]["action"] == "blocked"
    assert "root.tar.zst cannot be read" in project.run("bake", "web", status=1).stderr


def test_archive_without_an_init_is_refused_before_it_is_booted(project: Project) -> None:
    with tarfile.open(project.folder / "plain.tar", "w") as archive:
        add_file(archive, "bin/sh", b"no shell")
    project.recipe("web", toml='from = "tar:plain.tar"\n')
    said = project.run("bake", "web", status=1).stderr
    assert "tar:plain.tar has no systemd (/usr/lib/systemd/systemd) and no systemctl" in said
    assert list((project.home / "local/machines").iterdir()) == []


@pytest.mark.slow
def test_broken_off_archive_is_refused_and_its_whole_copy_bakes(project: Project, root_archive: Path) -> None:
    target = project.folder / "root.tar"
    content = root_archive.read_bytes()
    target.write_bytes(content[: len(content) // 2])
    project.recipe("web", toml='from = "tar:root.tar"\n')
    assert "tar:root.tar is damaged" in project.run("bake", "web", status=1).stderr
    assert list((project.home / "local/machines").iterdir()) == []
    target.write_bytes(content)
    project.bake("web")


@pytest.mark.slow
def test_recipe_is_baked_from_an_image_layout(project: Project, root_archive: Path) -> None:
    layout = project.folder / "layout"
    above = io.BytesIO()
    with tarfile.open(fileobj=above, mode="w") as archive:
        add_file(archive, "etc/.wh.issue.net", b"")
        add_file(archive, "usr/share/doc/.wh..wh..opq", b"")
        add_file(archive, "usr/share/doc/new", b"new")
    write_layout(layout, [root_archive.read_bytes(), above.getvalue()], tag="v1")
    test = (
        "def test_it(host):\n"
        "    assert not host.file('/etc/issue.net').exists\n"
        "    assert host.file('/usr/share/doc').listdir() == ['new']\n"
    )
    project.recipe("web", toml='from = "oci:layout:v1"\n', test=test)
    assert [bake["outcome"] for bake in project.bake("web")] == ["baked"]
    assert_plan_is_empty(project)


def add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), 0o755, 1_700_000_000
    archive.addfile(member, io.BytesIO(content))


def write_layout(folder: Path, layers: list[bytes], *, tag: str) -> None:
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def add(content: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(x).hexdigest()}" for x in layers]},
    }
    packed = [gzip.compress(layer, 1, mtime=0) for layer in layers]
    manifest = {
        "schemaVersion": 2,
        "config": add(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [add(layer, "application/vnd.oci.image.layer.v1.tar+gzip") for layer in packed],
    }
    entry = add(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


# --- repositories, proxies, no network -----------------------------------------------------------------


def test_folder_of_the_project_is_a_repository_while_baking_only(project: Project, keys: list[Path]) -> None:
    make_repository(project.folder / "vendor", keys[0])
    (project.folder / "vendor.gpg").write_bytes(keys[0].read_bytes())
    project.write(
        "baker.toml",
        '[[local.repositories]]\nuri = "vendor"\nsuite = "stable"\nkeyring = "vendor.gpg"\n',
    )
    test = "def test_it(host):\n    assert host.check_output('tiny-tool') == 'tiny-tool 1.0'\n"
    project.recipe("web", deploy=INSTALL_AT_ONCE, test=test)
    project.bake("web")
    assert_plan_is_empty(project)
    layer = top_layer(project, "web:1")
    found = in_layer(layer, "cd $layer; find etc/apt run -type f; grep -rl vendor . || true")
    assert found == ""
    make_repository(project.folder / "vendor", keys[0], version="2.0")
    assert project.json("plan")["recipes"][0]["action"] == "bake"
    (project.folder / "vendor.gpg").write_bytes(keys[1].read_bytes())
    said = project.run("bake", "web", status=1).stderr
    assert "apt refuses the repository vendor" in said
    assert list((project.home / "local/machines").iterdir()) == []


@pytest.fixture
def proxied(project: Project, keys: list[Path], tmp_path: Path) -> Iterator[tuple[list[str], Path]]:
    """A network whose only way out is a proxy on loopback, which knows one repository; and its log."""
    make_repository(tmp_path / "served/apt.example.test/debian", keys[0])
    (project.folder / "vendor.gpg").write_bytes(keys[0].read_bytes())
    project.write(
        "baker.toml",
        '[[local.repositories]]\nuri = "http://apt.example.test/debian"\nsuite = "stable"\n'
        'keyring = "vendor.gpg"\n',
    )
    log = tmp_path / "requests"
    log.touch()
    with network_namespace(f"baker-test-{os.getpid()}", outside=True) as inside:
        argv = [*inside, sys.executable, str(PROXY), str(tmp_path / "served"), "3128", str(log)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as proxy:
            try:
                assert proxy.stdout is not None
                assert proxy.stdout.readline() == "listening\n"
                yield inside, log
            finally:
                proxy.kill()


@pytest.mark.slow
def test_repository_behind_a_proxy_is_kept_in_the_image_and_the_proxy_is_not_and_then_no_network_is_needed(
    project: Project, proxied: tuple[list[str], Path], keys: list[Path]
) -> None:
    inside, log = proxied
    project.recipe("web", deploy=INSTALL)
    project.environ["BAKER_LOCAL_HTTP_PROXY"] = "http://127.0.0.1:3128"
    bake_inside(inside, project, "web")
    requests = log.read_text()
    # Asked for by the host for its indexes, and by apt-get update in the machine.
    assert requests.count("http://apt.example.test/debian/dists/stable/InRelease") == 2, requests
    assert requests.count("/pool/tiny-tool_1.0_all.deb") == 1, requests
    layer = top_layer(project, "web:1")
    kept = in_layer(layer, "cd $layer; find etc/apt -type f | sort; cat etc/apt/sources.list.d/*")
    assert "URIs: http://apt.example.test/debian" in kept
    assert "etc/apt/keyrings/apt-example-test-debian-stable" in kept
    assert in_layer(layer, "cd $layer; grep -rlF -e :3128 -e 127.0.0.1:3 . || true") == ""

    del project.environ["BAKER_LOCAL_HTTP_PROXY"]
    assert_plan_is_empty(project, "--offline")
    with network_namespace(f"baker-test-{os.getpid()}-b", outside=False) as cut_off:
        said = bake_inside(cut_off, project, "web", "--force", "--offline")
        assert "web:2" in said
        project.recipe("more", deploy=INSTALL.replace("tiny-tool", "nonesuch-tool"))
        said = bake_inside(cut_off, project, "more", "--offline", status=1)
        assert "nonesuch-tool" in said
    first, second = (project.json("image", "show", f"web:{number}") for number in (1, 2))
    assert first["builds"][0]["digest"] == second["builds"][0]["digest"]

    (project.folder / "vendor.gpg").write_bytes(keys[1].read_bytes())
    project.environ["BAKER_LOCAL_HTTP_PROXY"] = "http://127.0.0.1:3128"
    said = bake_inside(inside, project, "web", status=1)
    assert "apt.example.test" in said
    assert "NO_PUBKEY" in said or "not signed" in said or "signature" in said


def test_offline_bake_without_a_filled_cache_says_what_is_missing(project: Project, tmp_path: Path) -> None:
    project.home = tmp_path / "empty"
    project.recipe("web")
    said = project.run("bake", "web", "--offline", status=1).stderr
    assert "there are no package indexes of debian:trixie here, and --offline forbids to fetch them" in said


def test_proxy_at_the_address_of_this_host_is_refused(project: Project) -> None:
    project.recipe("web")
    project.environ["BAKER_LOCAL_HTTP_PROXY"] = "http://10.77.0.2:3128"
    with network_namespace(f"baker-test-{os.getpid()}", outside=True) as inside:
        said = bake_inside(inside, project, "web", status=1)
    assert "http_proxy 10.77.0.2:3128 is this host's own address, which machines cannot reach" in said


def test_what_a_bootstrap_holds_does_not_depend_on_what_is_cached(shared_home: Path, bottom: Path) -> None:
    del bottom  # its packages are cached
    archive = Archive(Store(shared_home / "local"), TRIXIE, "x86_64")
    before = archive.resolve_bootstrap(offline=True)
    (archive.folder / "resolved.json").unlink()
    assert archive.resolve_bootstrap(offline=True) == before


# --- a mirror that breaks off ----------------------------------------------------------------------------


@pytest.fixture
def mirror(shared_home: Path, bottom: Path) -> Iterator[str]:
    del bottom
    with serving_mirror(shared_home) as address:
        yield address


@pytest.mark.slow
def test_archive_that_breaks_off_leaves_nothing_and_is_read_the_next_time(
    mirror: str, tmp_path: Path
) -> None:
    store = Store(tmp_path / "local")
    store.create()
    security = f"{mirror}/debian-security"
    archive = Archive(store, TRIXIE, "x86_64", mirror=f"{mirror}/debian", security_mirror=security)
    Mirror.cut = "binary-amd64"
    with pytest.raises(SourceError, match="the package archive of debian:trixie cannot be read"):
        archive.refresh()
    assert list((archive.lists / "partial").iterdir()) == []
    with pytest.raises(SourceError, match="there are no package indexes"):
        archive.refresh(offline=True)
    Mirror.cut = ".deb"
    resolved = archive.resolve_bootstrap()
    small = [package for package in resolved.packages if package.name == "base-passwd"]
    with pytest.raises(SourceError, match="packages of debian:trixie cannot be fetched"):
        archive.download(small, offline=False)
    assert [path for path in archive.debs.rglob("*") if path.suffix == ".deb"] == []
    Mirror.cut = None
    archive.download(small, offline=False)
    assert (archive.debs / small[0].file).stat().st_size == small[0].size


def test_bake_from_an_archive_that_breaks_off_says_so(project: Project, mirror: str, tmp_path: Path) -> None:
    Mirror.cut = "InRelease"
    project.home = tmp_path / "home"
    project.recipe("web")
    project.write("baker.toml", f'[local]\nmirror = "{mirror}/debian"\nsecurity_mirror = "{mirror}/s"\n')
    said = project.run("bake", "web", status=1).stderr
    assert "the package archive of debian:trixie cannot be read" in said
    assert list((project.home / "local/machines").iterdir()) == []
