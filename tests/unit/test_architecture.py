"""Imports run one way, and heavy or platform-bound ones stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "baker"
MAX_LINES = 400
PURE = (
    "errors",
    "model",
    "layer",
    "leases",
    "locks",
    "runs",
    "gates",
    "ages",
    "apt_failures",
    "aws_settings",
    "channels",
    "life",
    "manifest",
    "comparing",
    "deploy.allowed",
    "deploy.drift",
    "deploy.environment",
    "deploy.first_boot",
    "deploy.fleet",
    "deploy.observation",
    "deploy.reading",
    "deploy.release",
    "deploy.schema",
    "deploy.side",
    "deploy.users",
    "versions",
    "layer_search",
    "seal",
    "fingerprint",
    "project_files",
    "graph",
    "judging",
    "package_sources",
    "package_state",
    "plan",
    "project_schema",
    "recipes",
    "retention",
    "settings",
    "sidecar",
    "time_limits",
    "toml_file",
)
ADAPTERS = ("providers.aws", "providers.local", "catalog", "configurer", "updates")
ONLY_THERE = {
    "typer": ("cli",),
    "sqlalchemy": ("catalog",),
    "alembic": ("catalog",),
    "pyinfra": ("configurer",),
    "testinfra": ("configurer",),
    "boto3": ("providers.aws",),
    "botocore": ("providers.aws",),
    "paramiko": ("providers.aws",),
    "apprise": ("notifying",),
    "fcntl": ("providers.local", "updates", "identity", "configurer.trace"),
    "ctypes": ("providers.local", "providers.aws.inside"),
}
LINUX_ONLY = {
    "os": {
        *(
            "eventfd",
            "getxattr",
            "listxattr",
            "memfd_create",
            "pidfd_open",
            "removexattr",
            "setns",
            "setxattr",
        ),
        *(
            "sched_getaffinity",
            "sched_setaffinity",
            "splice",
            "unshare",
            "copy_file_range",
            "O_PATH",
            "O_TMPFILE",
        ),
    },
    "select": {"epoll"},
    "signal": {"pidfd_send_signal"},
    "socket": {"AF_NETLINK", "AF_PACKET", "AF_VSOCK", "SO_PEERCRED", "SOCK_CLOEXEC"},
    "time": {"CLOCK_BOOTTIME"},
}
"""What these modules of the standard library have on no other system."""

LINUX_ONLY_PLACES = ("providers.local", "configurer.bubblewrap", "providers.aws.inside")
"""Who may use it, and not before it is called; the last one runs in the machine that is baked."""


def list_modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def list_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def is_in(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def test_pure_code_imports_only_pure_code() -> None:
    for module, path in list_modules():
        if is_in(module, PURE):
            ours = {name.removeprefix("baker.") for name in list_imports(path) if name.startswith("baker.")}
            assert {name for name in ours if not is_in(name, PURE)} == set(), module


def test_adapters_import_neither_one_another_nor_use_cases() -> None:
    allowed = (*PURE, "teardown", "providers.protocol", "providers.transfer", "identity", "git")
    for adapter in ADAPTERS:
        for module, path in list_modules():
            if is_in(module, (adapter,)):
                ours = {
                    name.removeprefix("baker.") for name in list_imports(path) if name.startswith("baker.")
                }
                assert {name for name in ours if not is_in(name, (*allowed, adapter))} == set(), module


def test_only_the_command_line_imports_the_command_line() -> None:
    for module, path in list_modules():
        if not is_in(module, ("cli",)):
            assert not [name for name in list_imports(path) if name.startswith("baker.cli")], module


def test_bound_imports_stay_where_they_belong() -> None:
    for module, path in list_modules():
        for imported in list_imports(path):
            places = ONLY_THERE.get(imported.split(".")[0])
            assert places is None or is_in(module, places), f"{module} imports {imported}"


def test_only_the_console_prints() -> None:
    for module, path in list_modules():
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        printing = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        assert not printing, module


def test_no_module_is_too_long_to_read() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in list_modules()}
    assert {module: length for module, length in lengths.items() if length > MAX_LINES} == {}


def test_listing_images_imports_neither_pyinfra_nor_boto3_nor_alembic() -> None:
    script = "import sys, baker.cli, baker.catalog; print(' '.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    for name in ("pyinfra", "boto3", "alembic", "gevent", "testinfra", "rich", "univers"):
        assert name not in loaded


def test_only_the_local_target_and_the_sandbox_use_what_linux_alone_has() -> None:
    for module, path in list_modules():
        nodes = list(ast.walk(ast.parse(path.read_text())))
        used = {
            f"{node.value.id}.{node.attr}"
            for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        } | list_imports(path)
        found = {f"{home}.{name}" for home, names in LINUX_ONLY.items() for name in names} & used
        assert found == set() or is_in(module, LINUX_ONLY_PLACES), f"{module} uses {found}"


ELSEWHERE = """
import asyncio, importlib, os, pkgutil, select, signal, socket, subprocess, sys, sysconfig, time, types
# What the standard library itself has only on a real one.
sys.modules["_scproxy"] = types.SimpleNamespace(_get_proxy_settings=dict, _get_proxies=dict)
sysconfig.get_config_vars()
sys.platform = "darwin"
for module, names in {linux_only!r}.items():
    for name in names:
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "baker.providers.local":
            raise ImportError(name + " works on Linux only")
sys.meta_path.insert(0, Refuse())
import baker
for package in ("", ".cli", ".catalog", ".configurer", ".recipes", ".providers", ".providers.aws"):
    package = "baker" + package
    home = importlib.import_module(package)
    for found in pkgutil.iter_modules(home.__path__, package + "."):
        if not found.ispkg and found.name not in {children!r}:
            importlib.import_module(found.name)
            print(found.name)
"""
CHILDREN = ("child", "connector", "failures", "operations", "test_child", "testinfra_backend")


def test_everything_that_an_aws_bake_needs_is_imported_on_a_mac() -> None:
    """As far as a Linux host can show it, and without the configurer's children, who import pyinfra."""
    script = ELSEWHERE.format(
        linux_only={home: sorted(names) for home, names in LINUX_ONLY.items()},
        children=tuple(f"baker.configurer.{name}" for name in CHILDREN),
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert {"baker.bake", "baker.cli.bakes", "baker.configurer.process", "baker.catalog.store"} <= imported
