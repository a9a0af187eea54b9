"""What baking on this host needs, looked at one by one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

from baker.errors import HostError, SettingsError
from baker.providers.local.cgroups import LIMITING, CgroupRoots, find_cgroup_roots
from baker.providers.local.holder import PATH
from baker.providers.local.host import (
    PACKAGE_OF_TOOL,
    host_arch,
    host_resolv_conf,
    missing_file_systems,
    missing_tools,
)
from baker.providers.local.proxies import loopback_port, mask_credentials, split_address
from baker.providers.protocol import Check

PROXY_SECONDS = 3.0
NEEDED_BYTES = 3 * 10**9
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs"}


def examine_host(home: Path, catalog_url: str, proxy: str | None) -> list[Check]:
    """Every check, in the order in which a bake would stumble. Changes nothing. ``proxy`` is the host's."""
    checks = [check_architecture(), check_rights(home), *check_tools(), check_file_systems(), check_cgroups()]
    checks.append(check_haproxy())
    folder = existing_ancestor(home)
    file_system = file_system_of(folder)
    checks += [check_space(home, folder), check_overlay(home, file_system), check_resolver()]
    checks.append(check_proxy(proxy))
    if catalog_url.startswith("sqlite"):
        catalog = existing_ancestor(Path(catalog_url.removeprefix("sqlite:///")))
        checks.append(check_catalog(catalog, file_system_of(catalog)))
    return checks


def check_architecture() -> Check:
    try:
        return Check(name="architecture", ok=True, detail=host_arch())
    except HostError as error:
        return Check(name="architecture", ok=False, detail=str(error))


def check_rights(home: Path) -> Check:
    if os.geteuid() == 0:
        return Check(name="rights", ok=True, detail="root")
    if not os.access(existing_ancestor(home), os.R_OK | os.X_OK):
        detail = f"not root, and {home} may not be read"
        return Check(name="rights", ok=False, detail=detail, remedy="Run baker with sudo, or ask its owner.")
    detail = "not root: reading works, baking for the local target does not"
    return Check(name="rights", ok=False, detail=detail, remedy="Run baker with sudo.")


def check_tools() -> list[Check]:
    missing = missing_tools()
    return [
        Check(
            name=tool,
            ok=tool not in missing,
            detail="not found" if tool in missing else "found",
            remedy=f"apt-get install {package}" if tool in missing else None,
        )
        for tool, package in PACKAGE_OF_TOOL.items()
    ]


def check_haproxy() -> Check:
    """Baking goes without it: where it is missing that is said, and nothing is wrong."""
    if shutil.which("haproxy", path=PATH) is not None:
        return Check(name="haproxy", ok=True, detail="found")
    return Check(
        name="haproxy", ok=True, detail="not found (only deployments need it: apt-get install haproxy)"
    )


def check_file_systems() -> Check:
    missing = missing_file_systems()
    if not missing:
        return Check(name="kernel", ok=True, detail="erofs and overlay")
    detail = f"no {' and no '.join(missing)}"
    return Check(name="kernel", ok=False, detail=detail, remedy="Use a kernel that has them as modules.")


def check_cgroups() -> Check:
    try:
        roots = find_cgroup_roots()
        return Check(name="cgroups", ok=True, detail=f"cgroup 2 at {roots.unified}; {describe_limits(roots)}")
    except HostError as error:
        return Check(name="cgroups", ok=False, detail=str(error), remedy=error.hint)


def describe_limits(roots: CgroupRoots) -> str:
    """Which limits of machines this host can hold."""
    unified = (roots.unified / "cgroup.controllers").read_text().split()
    missing = [name for name in LIMITING if name not in roots.controllers and name not in unified]
    return f"machines have no limit of {' and '.join(missing)}" if missing else "limits memory and processes"


def check_space(home: Path, folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    detail = f"{free / 10**9:.1f} GB free for {home}"
    if free >= NEEDED_BYTES:
        return Check(name="disk", ok=True, detail=detail)
    remedy = f"Free some, or set BAKER_HOME to another disk ({NEEDED_BYTES / 10**9:.0f} GB is a good start)."
    return Check(name="disk", ok=False, detail=detail, remedy=remedy)


def check_overlay(home: Path, file_system: str) -> Check:
    """Machines write into an overlay's upper directory below ``home``."""
    if file_system == "overlay" or file_system in NETWORK_FILE_SYSTEMS:
        return Check(
            name="store",
            ok=False,
            detail=f"{home} is on {file_system}, which cannot hold what a machine writes",
            remedy="Set BAKER_HOME to a folder on a local disk (in a container: on a volume).",
        )
    return Check(name="store", ok=True, detail=f"{home} on {file_system}")


def check_resolver() -> Check:
    if host_resolv_conf():
        return Check(name="resolver", ok=True, detail="machines use the host's name servers")
    return Check(name="resolver", ok=True, detail="machines ask the host's loopback resolver through pasta")


def check_proxy(proxy: str | None) -> Check:
    """Whether it is where it is said to be: it answers a connection."""
    if not proxy:
        return Check(name="proxy", ok=True, detail="none: packages are fetched directly")
    shown = mask_credentials(proxy)
    try:
        inside = ", which machines reach at theirs" if loopback_port(proxy) else ""
        with socket.create_connection(split_address(proxy), timeout=PROXY_SECONDS):
            return Check(name="proxy", ok=True, detail=f"{shown}{inside}")
    except SettingsError as error:
        return Check(name="proxy", ok=False, detail=str(error), remedy=error.hint)
    except OSError as error:
        detail = f"{shown} does not answer: {error.strerror or error}"
        remedy = "Start it, or correct http_proxy: the variable, or the key in baker.toml."
        return Check(name="proxy", ok=False, detail=detail, remedy=remedy)


def check_catalog(folder: Path, file_system: str) -> Check:
    if file_system in NETWORK_FILE_SYSTEMS:
        return Check(
            name="catalog",
            ok=False,
            detail=f"{folder} is on {file_system}, where SQLite loses data",
            remedy="Set BAKER_CATALOG to a local path, or to a PostgreSQL database.",
        )
    writable = os.access(folder, os.W_OK)
    return Check(
        name="catalog",
        ok=True,
        detail=f"{folder} on {file_system}{'' if writable else ', readable only'}",
    )


def existing_ancestor(path: Path) -> Path:
    """The nearest folder that is there."""
    return next(folder for folder in (path, *path.parents) if os.path.isdir(folder))  # noqa: PTH112 (no error)


def file_system_of(folder: Path) -> str:
    """The type of file system a folder is on, as mount(8) calls it."""
    found = subprocess.run(
        ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(folder)],
        capture_output=True,
        text=True,
    )
    return found.stdout.strip() or "an unknown file system"
