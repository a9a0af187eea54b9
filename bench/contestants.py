"""What is measured: baker, the floor, buildah. Each is a whole process, started as a user would."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from baker.providers.local.cgroups import enter_cgroups, find_cgroup_roots, remove_cgroup
from baker.providers.local.host import booted_with_systemd, host_resolv_conf
from bench.measuring import Run, run_process, say

FOLDER = Path(__file__).parent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROXIES = ("http_proxy", "https_proxy", "no_proxy")
PROGRAM = Path(sys.executable).with_name("baker")
TRY_SECONDS = 300.0
RESULT = re.compile(rb"(applied|failed|passed)[^\n]* in [0-9.]+ (s|min)")
"""How `baker try` ends a round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Baker:
    """A copy of a project of ``bench`` and a BAKER_HOME, in ``folder``."""

    folder: Path

    @classmethod
    @contextmanager
    def in_scratch_folder(cls, project: str = "project") -> Iterator[Baker]:
        """In the folder that BENCH_HOME names, which keeps its packages; else in one that is removed."""
        kept = os.environ.get("BENCH_HOME")
        folder = Path(kept) if kept else Path(tempfile.mkdtemp(prefix="baker-bench-", dir="/var/tmp"))
        try:
            shutil.rmtree(folder / "project", ignore_errors=True)
            shutil.copytree(FOLDER / project, folder / "project", dirs_exist_ok=True)
            yield cls(folder=folder)
        finally:
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def environment(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in PROXIES if name in os.environ}
        for name in ("BAKER_LOCAL_MIRROR", "BAKER_LOCAL_SECURITY_MIRROR", "BAKER_LOCAL_HTTP_PROXY"):
            passed.update({name: os.environ[name]} if name in os.environ else {})
        return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root", "BAKER_HOME": str(self.home), **passed}

    def check(self) -> None:
        """Raises SystemExit with what this host lacks."""
        self.command("system", "doctor")

    def command(self, *arguments: str) -> Run:
        return run_process([PROGRAM, *arguments], env=self.environment, cwd=self.project)

    def python(self, code: str) -> Run:
        return run_process([sys.executable, "-c", code], env=self.environment, cwd=self.project)

    def bake(self, *arguments: str) -> Run:
        return self.command("bake", "--force", "--json", *arguments)

    def offers(self, word: str, *command: str) -> bool:
        """Whether the command exists and its help has the word."""
        shown = subprocess.run(
            [PROGRAM, *command, "--help"],
            env=self.environment,
            capture_output=True,
            text=True,
            cwd=self.project,
        )
        return shown.returncode == 0 and word in shown.stdout

    def stored_bytes(self) -> int:
        """All of BAKER_HOME, with the catalog and logs, but not the caches."""
        folders = [path for path in self.home.rglob("*") if "apt" not in path.parts]
        return sum(path.lstat().st_size for path in folders if path.is_file() and not path.is_symlink())

    def layer(self) -> Path:
        """The bottom layer: the root file system that every contestant starts from."""
        layers = (self.home / "local" / "layers").glob("*.erofs")
        bootstraps = "".join(path.read_text() for path in (self.home / "local" / "bootstraps").glob("*.json"))
        found = sorted(
            (path for path in layers if path.stem in bootstraps), key=lambda path: path.stat().st_mtime
        )
        return found[-1]

    def lists(self) -> Path:
        [found] = (self.home / "local" / "apt").glob("debian-*/lists")
        return found

    def edit_and_try(self, recipe: str, template: str, times: int) -> list[float]:
        """Seconds from saving the template to the loop's next result. The loop needs a terminal: a pty."""
        ours, theirs = os.openpty()
        process = subprocess.Popen(
            [PROGRAM, "try", recipe],
            env={**self.environment, "NO_COLOR": "1", "TERM": "dumb"},
            cwd=self.project,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        seconds = []
        try:
            wait_for_result(ours)
            path = self.project / template
            first = path.read_text().splitlines()[0]
            for number in range(times):
                time.sleep(1.0)
                started = time.monotonic()
                path.write_text(f"{first}\n# edit {number}\n")
                wait_for_result(ours)
                seconds.append(time.monotonic() - started)
            os.write(ours, b"q")
        finally:
            if len(seconds) < times:
                process.terminate()
            with contextlib.suppress(OSError):  # it has ended, and with it the terminal
                while os.read(ours, 65536):
                    pass
            process.wait()
            os.close(ours)
        return seconds


def wait_for_result(terminal: int) -> None:
    """Read until the loop says what its round came to. Raises SystemExit if it ended or takes too long."""
    deadline, said = time.monotonic() + TRY_SECONDS, b""
    with selectors.DefaultSelector() as selector:
        selector.register(terminal, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if not selector.select(timeout=1.0):
                continue
            try:
                said += os.read(terminal, 65536)
            except OSError:  # it has ended
                break
            if RESULT.search(said):
                return
    raise SystemExit(f"baker try came to nothing:\n{said.decode(errors='replace')[-2000:]}")


def render_files(folder: Path) -> Path:
    """The files that the recipe ``small`` writes, as a tree."""
    source = FOLDER / "project" / "templates"
    snippets = folder / "etc/nginx/snippets"
    units = folder / "etc/systemd/system"
    for made in (snippets, units):
        made.mkdir(parents=True, exist_ok=True)
    template = (source / "snippet.conf.j2").read_text()
    for number in range(20):
        text = template.replace("{{ number }}", str(number))
        (snippets / f"bench-{number}.conf").write_text(text)
    shutil.copy(source / "bench.service", units / "bench.service")
    return folder


def make_floor(baker: Baker) -> Callable[[], Run]:
    """The same steps by a shell script. What it needs is made outside the time that is measured."""
    scratch = baker.folder / "floor"
    shutil.rmtree(scratch, ignore_errors=True)
    files = render_files(scratch / "files")
    (scratch / "resolv.conf").write_text(host_resolv_conf())
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]

    def run() -> Run:
        work = scratch / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        name = f"baker-bench-{os.getpid()}"
        groups = [root / name for root in find_cgroup_roots().all]
        if booted_with_systemd():
            enter = ["systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes", "--"]
        else:
            for group in groups:
                group.mkdir(exist_ok=True)
            enter = enter_cgroups(groups)
        environment = {
            **baker.environment,
            "LAYER": str(baker.layer()),
            "LISTS": str(baker.lists()),
            "DEBS": str(baker.home / "local" / "apt" / "debs"),
            "FILES": str(files),
            "WORK": str(work),
            "RESOLV_CONF": str(scratch / "resolv.conf"),
            "OUT": str(scratch / "layer.erofs"),
        }
        try:
            argv = [*enter, *namespaces, "sh", str(FOLDER / "floor.sh")]
            return run_process(argv, env=environment, cwd=scratch)
        finally:
            if not booted_with_systemd():
                for group in groups:
                    remove_cgroup(group)

    return run


def make_buildah(baker: Baker) -> Callable[[], Run]:
    """The same package, files and unit by buildah. The base image is imported once, outside the time."""
    scratch = baker.folder / "buildah"
    storage = [
        "--storage-driver",
        "overlay",
        "--root",
        str(scratch / "storage"),
        "--runroot",
        str(scratch / "run"),
    ]
    say("importing buildah's base image")
    remove_buildah_storage(scratch)
    files = render_files(scratch / "files")
    import_base(baker.layer(), scratch, storage)

    def run() -> Run:
        # Copies of its own: buildah binds them, and what it writes there must not reach baker's caches.
        for name, source in (("lists", baker.lists()), ("debs", baker.home / "local" / "apt" / "debs")):
            shutil.rmtree(scratch / name, ignore_errors=True)
            shutil.copytree(source, scratch / name)
        environment = {
            **baker.environment,
            "STORAGE": " ".join(storage),
            "BASE": "localhost/base",
            "LISTS": str(scratch / "lists"),
            "DEBS": str(scratch / "debs"),
            "FILES": str(files),
        }
        return run_process(["sh", str(FOLDER / "buildah.sh")], env=environment, cwd=scratch)

    return run


def import_base(layer: Path, scratch: Path, storage: list[str]) -> None:
    """The root file system of a layer as the image ``base``; no service may start in a chroot of the host."""
    script = """set -eu
        mkdir -p "$2/base"
        mount -t erofs -o ro,loop "$1" "$2/base"
        tar -C "$2/base" -cf "$2/base.tar" .
        umount "$2/base"
        printf '#!/bin/sh\\nexit 101\\n' >"$2/policy-rc.d"
        chmod 755 "$2/policy-rc.d"
        shift 2
        container=$(buildah "$@" from scratch)
        buildah "$@" add --quiet "$container" base.tar /
        buildah "$@" copy --quiet "$container" policy-rc.d /usr/sbin/policy-rc.d
        buildah "$@" commit --quiet "$container" base
        buildah "$@" rm "$container"
        rm base.tar"""
    argv = ["unshare", "--mount", "sh", "-c", script, "import", str(layer), str(scratch), *storage]
    run_process(argv, env={"PATH": PATH, "HOME": "/root"}, cwd=scratch)


def remove_buildah_storage(scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
