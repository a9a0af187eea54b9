"""Where a recipe's own process lives: bubblewrap's command line.

Namespaces of its own (no network, no processes of the host), a file system that holds the interpreter and
the project read-only and nothing else, and the real user 65534 without capabilities: a user namespace that
maps it to root outside would leave the project's files open to a bug.
"""

from __future__ import annotations

import os
import shutil
import site
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import baker
from baker.errors import HostError

NOBODY = 65534
ACCOUNTS: Mapping[str, str] = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\nnobody:x:{NOBODY}:{NOBODY}:nobody:/tmp:/usr/sbin/nologin\n",
    "group": f"root:x:0:\nnogroup:x:{NOBODY}:\n",
}
"""All of /etc that tells of users; the host's own would tell who they are."""

TOOLS: Mapping[str, str] = {"bwrap": "bubblewrap", "setpriv": "util-linux"}
TMP_BYTES = 1 << 30
LIMITS: Mapping[str, int] = {"as": 4 << 30, "nproc": 1024, "nofile": 1024, "core": 0}
"""Resource limits of a recipe's process. nproc counts all processes of the user nobody on this host."""

HOST_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/ssl/certs", "/etc/alternatives")
ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/tmp",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYINFRA_PROGRESS": "off",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sandbox:
    """What the child sees besides the system's programs; all absolute paths.

    ``hidden`` are folders inside the project that it must not see, ``readable`` others that it needs.
    """

    project: str
    readable: Sequence[str]
    hidden: Sequence[str] = ()


def find_interpreter_folders() -> tuple[str, ...]:
    """The folders outside /usr that a child of this interpreter needs: its home, its environment, us."""
    real_home = Path(sys.executable).resolve().parent.parent
    package = Path(baker.__file__).parent
    folders = dict.fromkeys(map(str, (sys.base_prefix, real_home, sys.prefix, package)))
    covered = {f for f in folders if any(PurePath(f).is_relative_to(o) for o in folders if o != f)}
    return tuple(f for f in folders if f not in covered and not PurePath(f).is_relative_to("/usr"))


def find_linked_packages(apart_from: Sequence[str]) -> tuple[str, ...]:
    """Folders of packages that are installed as links to where they are developed (``pip install -e``).

    Left out: what is in one of the folders ``apart_from``, or would show one.
    """
    folders = []
    for module in [module for name, module in sys.modules.items() if name.startswith("__editable__")]:
        folders += [Path(folder) for folder in vars(module).get("MAPPING", {}).values()]
    for file in [file for place in site.getsitepackages() for file in Path(place).glob("*.pth")]:
        folders += [Path(line) for line in file.read_text().splitlines() if line.startswith("/")]
    others = [*apart_from, *find_interpreter_folders()]
    return tuple(
        str(folder)
        for folder in dict.fromkeys(folders)
        if folder.is_dir()
        and not any(folder.is_relative_to(other) or Path(other).is_relative_to(folder) for other in others)
    )


def require_tools() -> None:
    """Raises HostError if this host cannot make a sandbox."""
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise HostError(
                f"{tool} is missing: a recipe's code runs in a sandbox", hint=f"apt-get install {package}"
            )
    if os.geteuid() != 0:
        raise HostError("only root can make the sandbox that a recipe's code runs in", hint="Use sudo")


def sandbox_argv(sandbox: Sandbox, module: str, *, info_fd: int, account_fds: Mapping[str, int]) -> list[str]:
    """The command that runs ``python -m MODULE`` as nobody. From ``account_fds`` it reads ACCOUNTS.

    bubblewrap tells its child's process id on ``info_fd``. That child is the first in its pid namespace: when
    it ends all others do, and bubblewrap ends only after them.
    """
    argv = ["bwrap", "--die-with-parent", "--as-pid-1", "--new-session", "--hostname", "sandbox"]
    argv += ["--info-fd", str(info_fd)]
    argv += [f"--unshare-{kind}" for kind in ("pid", "net", "ipc", "uts", "cgroup-try")]
    # Just enough to become somebody else, which ends them.
    argv += ["--cap-drop", "ALL"]
    for capability in ("SETUID", "SETGID", "SETPCAP"):
        argv += ["--cap-add", f"CAP_{capability}"]
    argv += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        argv += _like_host(f"/{name}")
    argv += ["--proc", "/proc", "--dev", "/dev"]
    argv += ["--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"]
    argv += _make_parents("/etc/passwd")
    for name, descriptor in account_fds.items():
        argv += ["--perms", "0444", "--ro-bind-data", str(descriptor), f"/etc/{name}"]
    for path in HOST_FILES:
        argv += ["--ro-bind-try", path, path]
    argv += _bind(sandbox.project)
    for folder in sandbox.hidden:
        argv += ["--perms", "0000", "--tmpfs", folder]
    for folder in sandbox.readable:
        argv += _bind(folder)
    # The first process stays root: bubblewrap has given up the right to end anybody else's when it dies.
    argv += ["--remount-ro", "/", "--", "sh", "-c", '"$@"; exit $?', "init"]
    argv += ["prlimit", *(f"--{name}={limit}" for name, limit in LIMITS.items())]
    argv += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    argv += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]
    return [*argv, sys.executable, "-I", "-B", "-u", "-m", module]


def _like_host(path: str) -> list[str]:
    """On a merged-/usr host a link, elsewhere a folder of its own."""
    if Path(path).is_symlink():
        return ["--symlink", os.readlink(path), path]  # noqa: PTH115 - the text, not a path
    return ["--ro-bind-try", path, path]


def _bind(path: str) -> list[str]:
    return [*_make_parents(path), "--ro-bind", path, path]


def _make_parents(path: str) -> Iterator[str]:
    # bubblewrap would make the folders above a bind for root alone.
    for parent in reversed(PurePath(path).parents[:-1]):
        yield from ("--perms", "0755", "--dir", str(parent))
