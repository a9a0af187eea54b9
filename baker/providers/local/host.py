"""What the host offers: tools, cgroups, resolvers, processes. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import select
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from baker.errors import CommandFailed, HostError

PACKAGE_OF_TOOL = {
    "apt-get": "apt",
    "bwrap": "bubblewrap",
    "ip": "iproute2",
    "mkfs.erofs": "erofs-utils",
    "mmdebstrap": "mmdebstrap",
    "nsenter": "util-linux",
    "pasta": "passt",
    "setpriv": "util-linux",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
}
"""Every tool that a local bake runs, and the Debian package that brings it."""

PR_SET_CHILD_SUBREAPER = 36

DPKG_ARCH = {"x86_64": "amd64", "arm64": "arm64"}
"""Our names of architectures to Debian's."""


def host_arch() -> str:
    """``x86_64`` or ``arm64``. Raises HostError on anything else."""
    machine = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}.get(
        platform.machine()
    )
    if machine is None:
        raise HostError(f"{platform.machine()} is not an architecture that baker bakes (x86_64, arm64)")
    return machine


def missing_tools() -> list[str]:
    """Tools that are not on PATH, sbin folders included."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [tool for tool in PACKAGE_OF_TOOL if shutil.which(tool, path=path) is None]


def missing_file_systems() -> list[str]:
    """Kernel file systems that are neither built in, loaded, nor loadable."""
    known = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    missing = [name for name in ("erofs", "overlay") if name not in known]
    return [
        name for name in missing if subprocess.run(["modprobe", name], capture_output=True).returncode != 0
    ]


def require_tools() -> None:
    """Raises HostError if this process cannot run machines here, naming what is missing, and what
    brings it."""
    if os.geteuid() != 0:
        raise HostError("machines of the local target need root", hint="Run it with sudo.")
    if missing := missing_tools():
        packages = sorted({PACKAGE_OF_TOOL[tool] for tool in missing})
        raise HostError(f"missing tools: {', '.join(missing)}", hint=f"apt-get install {' '.join(packages)}")
    if missing := missing_file_systems():
        raise HostError(f"the kernel has no {' and no '.join(missing)} file system")


def booted_with_systemd() -> bool:
    """Whether the host's init is systemd (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def nameservers(resolv_conf: str) -> list[str]:
    """The name servers of a resolv.conf that a machine in its own network namespace can reach."""
    servers = [line.split()[1] for line in resolv_conf.splitlines() if line.startswith("nameserver ")]
    return [server for server in servers if not server.startswith("127.") and server != "::1"]


def host_resolv_conf() -> str:
    """The host's resolver settings; systemd-resolved's upstream servers where it listens on loopback."""
    for path in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        if path.exists() and nameservers(text := path.read_text()):
            return text
    return ""


def run_tool(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    hint: str | None = None,
) -> str:
    """Run a tool of the host; returns its stdout. Raises CommandFailed with the last lines of its stderr."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        **{
            name: os.environ[name]
            for name in ("http_proxy", "https_proxy", "no_proxy", "TMPDIR")
            if name in os.environ
        },
        **(env or {}),
    }
    try:
        done = subprocess.run(
            argv, env=environment, input=stdin, capture_output=True, text=True, errors="replace"
        )
    except FileNotFoundError:
        package = PACKAGE_OF_TOOL.get(argv[0])
        raise HostError(
            f"{argv[0]} is not installed", hint=f"apt-get install {package}" if package else None
        ) from None
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise CommandFailed(
            f"{argv[0]} failed with exit code {done.returncode}:\n{tail}",
            exit_status=done.returncode,
            stderr_tail=tail,
            hint=hint,
        )
    return done.stdout


def wait_for_exit(process: subprocess.Popen[bytes], timeout: float | None) -> int:
    """As ``process.wait``, at once: given a time limit, that one looks only every so often (up to 50 ms).

    Raises subprocess.TimeoutExpired.
    """
    if timeout is not None and process.poll() is None:
        deadline = time.monotonic() + timeout
        descriptor = os.pidfd_open(process.pid)
        try:
            ended = select.poll()
            ended.register(descriptor, select.POLLIN)
            ended.poll(min(timeout * 1000, 2**31 - 1))
        finally:
            os.close(descriptor)
        return process.wait(max(0.0, deadline - time.monotonic()))
    return process.wait()


def children_of(pid: int) -> list[int]:
    """Direct children, of every thread of ``pid``; empty if it is gone."""
    children = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += [int(child) for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        pass
    return children


def descendants_of(pid: int) -> list[int]:
    """Children, their children and so on, the nearest first."""
    found = children_of(pid)
    for child in found:
        found += children_of(child)
    return found


def wait_for_end(pids: Sequence[int], seconds: float) -> None:
    """Wait until the processes are gone or only have to be reaped, but not for ever."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(is_running(pid) for pid in pids):
        reap_orphans()
        time.sleep(0.005)
    reap_orphans()


def adopt_orphans() -> None:
    """Have processes below this one that lose their parent become its children. Idempotent.

    A namespace does not end before all its dead are reaped, and not every host's first process reaps.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans() -> None:
    """Reap the dead of machines that became our children; those we started are in our own pid namespace."""
    depth = len(namespace_pids(os.getpid()))
    for child in children_of(os.getpid()):
        if len(namespace_pids(child)) > depth and not is_running(child):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def namespace_pids(pid: int) -> list[int]:
    """The process's id in each nested pid namespace, outermost first; empty if it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return [int(value) for value in line.split()[1:]]
    except (FileNotFoundError, ProcessLookupError):
        pass
    return []


def entering_argv(leader: int) -> list[str]:
    """The prefix that runs a command in the namespaces of a machine's init, with no more rights than that.

    nsenter alone keeps the capabilities of this process: the host's, to load kernel modules for one.
    """
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{leader}/status").read_text().splitlines())
    known = range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1)
    lacking = [f"-cap_{number}" for number in known if not int(status["CapBnd"], 16) >> number & 1]
    drop = ["setpriv", f"--bounding-set={','.join(lacking)}", "--"] if lacking else []
    return [*drop, "nsenter", "-t", str(leader), "-a", "-r", "-w", "--"]


def has_own_network(pid: int) -> bool:
    """Whether the process has left our network namespace: nspawn's child does so only after a while."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")  # noqa: PTH115
    return False


def remove_folder(folder: Path) -> None:
    """Delete a folder of the store; idempotent, follows no link."""
    if folder.exists():
        shutil.rmtree(folder)
