"""Where a recipe's own process lives: bubblewrap's command line.

Namespaces of its own (no network, no processes of the host), a file system that holds the interpreter and
the project read-only and nothing else, and no capabilities. For root it is the real user 65534: a user
namespace that maps it to root outside would leave the project's files open to a bug. For another user, who
may become nobody else, it is user 65534 of a user namespace, with that user's rights to what it sees.

``BAKER_SANDBOX=off`` runs it without any of this, as a process of a user who is not root; so does macOS,
which has no bubblewrap. Then only its environment is clean: it may read what the user may, credentials too.
"""

from __future__ import annotations

import functools
import os
import resource
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import baker
from baker.errors import HostError, SettingsError

NOBODY = 65534
ACCOUNTS: Mapping[str, str] = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\nnobody:x:{NOBODY}:{NOBODY}:nobody:/tmp:/usr/sbin/nologin\n",
    "group": f"root:x:0:\nnogroup:x:{NOBODY}:\n",
}
"""All of /etc that tells of users; the host's own would tell who they are."""

TOOLS: Mapping[str, str] = {"bwrap": "bubblewrap", "setpriv": "util-linux"}
TMP_BYTES = 1 << 30
LIMITS: Mapping[str, int] = {"as": 4 << 30, "nproc": 1024, "nofile": 1024, "core": 0}
"""Resource limits of a recipe's process. nproc counts all processes of the user nobody on this host, and in
a user namespace (since Linux 5.14) those in it."""

REFUSALS = ("new namespace", "uid map", "gid map", "setgroups", "RTM_NEWADDR")
"""Words of bubblewrap where user namespaces, or any right in them, are refused."""

HOST_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/ssl/certs", "/etc/alternatives")
VARIABLE = "BAKER_SANDBOX"
WITHOUT = f"Without a sandbox: {VARIABLE}=off (a recipe's code may then read all that you may)"
CREDENTIALS = (".aws", ".ssh", ".gnupg")
"""Folders of a home that no recipe sees, even if the home is (in) the project."""

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


def why_no_sandbox() -> str | None:
    """Why a recipe's code runs without a sandbox here; None: it has one. Raises SettingsError, HostError."""
    wish = os.environ.get(VARIABLE) or "on"
    if wish not in ("on", "off"):
        raise SettingsError(f'{VARIABLE} must be "on" or "off", not "{wish}"')
    if sys.platform.startswith("linux") and wish == "on":
        return None
    why = f"{VARIABLE}=off" if wish == "off" else f"{sys.platform} has no bubblewrap"
    if os.geteuid() == 0:
        raise HostError(
            f"a recipe's code would run as root on this host, without a sandbox ({why})",
            hint="Bake as another user" + (f", or unset {VARIABLE}" if wish == "off" else ""),
        )
    return why


def require_tools() -> None:
    """Raises HostError if this host cannot make a sandbox."""
    as_root = os.geteuid() == 0
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise HostError(
                f"{tool} is missing: a recipe's code runs in a sandbox",
                hint=f"apt-get install {package}" + ("" if as_root else f". {WITHOUT}"),
            )
    if not as_root:
        _require_user_namespaces()


@functools.cache  # a refusal is raised, and so asked for again
def _require_user_namespaces() -> None:
    """Before a machine is launched for nothing. Raises HostError."""
    argv = [*_namespaces(as_root=False), *_system(), "--", "true"]
    done = subprocess.run(
        argv, env=dict(ENVIRONMENT), executable=shutil.which(argv[0]), capture_output=True, text=True
    )
    if done.returncode != 0:
        raise explain_refusal(done.stderr) or HostError(
            f"bwrap makes no sandbox: {done.stderr.strip()}", hint=WITHOUT
        )


def explain_refusal(text: str, *, kernel: Path = Path("/proc/sys/kernel")) -> HostError | None:
    """What bubblewrap says when the kernel, or who guards it, refuses a user that is not root. Else None."""
    if any(mark in text for mark in REFUSALS):
        why = "users of this host may not make user namespaces"
        remedy = _allow_user_namespaces(kernel)
    elif "mount proc" in text:
        why = "this container may not mount a /proc of its own"
        remedy = "Let the container have an unmasked /proc, or bake as root"
    else:
        return None
    said = "".join(f"\n  {line}" for line in text.splitlines()[-3:])
    return HostError(f"the sandbox for a recipe's code was refused: {why}{said}", hint=f"{remedy}. {WITHOUT}")


def _allow_user_namespaces(kernel: Path) -> str:
    for switch, value in (("apparmor_restrict_unprivileged_userns", "0"), ("unprivileged_userns_clone", "1")):
        file = kernel / switch
        if file.exists() and file.read_text().strip() != value:
            profile = " (or give /usr/bin/bwrap an AppArmor profile that has userns)" if value == "0" else ""
            return f"sudo sysctl kernel.{switch}={value}{profile}, or bake as root"
    return "Allow them (sysctl user.max_user_namespaces; in a container, its host does), or bake as root"


def sandbox_argv(
    sandbox: Sandbox, module: str, *, info_fd: int, account_fds: Mapping[str, int], as_root: bool = True
) -> list[str]:
    """The command that runs ``python -m MODULE`` as nobody. From ``account_fds`` it reads ACCOUNTS.

    bubblewrap tells its child's process id on ``info_fd``. That child is the first in its pid namespace: when
    it ends all others do, and bubblewrap ends only after them. ``as_root`` is who runs the command.
    """
    argv = [*_namespaces(as_root=as_root), "--as-pid-1", "--info-fd", str(info_fd), *_system()]
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
    for folder in [] if as_root else ["/dev", *sandbox.hidden]:  # the user owns them, and could open them
        argv += ["--remount-ro", folder]
    # Root's first process stays root: bubblewrap has given up the right to end anybody else's when it dies.
    argv += ["--remount-ro", "/", "--", "sh", "-c", '"$@"; exit $?', "init"]
    argv += ["prlimit", *(f"--{name}={limit}" for name, limit in limits(as_root=as_root).items())]
    if as_root:
        argv += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        argv += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]
    return [*argv, *interpreter_argv(module)]


def interpreter_argv(module: str) -> list[str]:
    return [sys.executable, "-I", "-B", "-u", "-m", module]


def limits(*, as_root: bool) -> dict[str, int]:
    """LIMITS, none above what the user has himself: nobody but root may raise one."""
    found = dict(LIMITS)
    for name in [] if as_root else LIMITS:
        _, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
        if hard != resource.RLIM_INFINITY:
            found[name] = min(found[name], hard)
    return found


def _namespaces(*, as_root: bool) -> list[str]:
    argv = ["bwrap", "--die-with-parent", "--new-session", "--hostname", "sandbox"]
    argv += [f"--unshare-{kind}" for kind in ("pid", "net", "ipc", "uts", "cgroup-try")]
    argv += ["--cap-drop", "ALL"]
    if as_root:
        # Just enough to become somebody else, which ends them.
        for capability in ("SETUID", "SETGID", "SETPCAP"):
            argv += ["--cap-add", f"CAP_{capability}"]
    else:
        argv += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    return argv


def _system() -> list[str]:
    argv = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        argv += _like_host(f"/{name}")
    return [*argv, "--proc", "/proc", "--dev", "/dev"]


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
