"""The host's apt with folders of our own: it sees nothing of the host's sources, state and settings."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from baker.errors import CommandFailed

PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "TMPDIR")
SECONDS = 120.0
MAX_FILE = 2 << 30


def run_apt(
    arguments: Sequence[str],
    options: Sequence[tuple[str, str]],
    proxy: str | None = None,
    *,
    tool: str = "apt-get",
    timeout: float = SECONDS,
) -> str:
    """Run ``apt-get`` (or another ``tool`` of apt's) with this configuration and no other; returns its
    stdout.

    Names that end in ``::`` are lists. Raises CommandFailed with what it complained of, also where it takes
    longer than it may: addresses and packages are an image's, and nobody is to wait for them for ever.
    """
    for name, value in options:
        if '"' in value or not value.isprintable():
            raise CommandFailed(f"apt cannot be told that {name} is {value!r}", exit_status=None)
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        **({"http_proxy": proxy, "https_proxy": proxy} if proxy else {}),
    }
    with tempfile.NamedTemporaryFile(suffix=".conf") as configuration:
        configuration.write(os.fsencode("".join(f'{name} "{value}";\n' for name, value in options)))
        configuration.flush()
        with subprocess.Popen(
            [tool, *arguments],
            env={**environment, "APT_CONFIG": configuration.name},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        ) as apt:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(apt.pid, resource.RLIMIT_FSIZE, (MAX_FILE, MAX_FILE))
            try:
                printed, complained = apt.communicate(timeout=timeout)
            except BaseException as error:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(apt.pid, signal.SIGKILL)
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                said = f"took longer than {timeout:.0f} s"
                raise CommandFailed(
                    f"{tool} {arguments[0]}: {said}", exit_status=None, stderr_tail=said
                ) from error
    if apt.returncode != 0:
        complaints = [line[3:] for line in complained.splitlines() if line.startswith(("E: ", "W: "))]
        said = "; ".join(complaints[:3]) or complained.strip()[-300:]
        raise CommandFailed(f"{tool} {arguments[0]}: {said}", exit_status=apt.returncode, stderr_tail=said)
    return printed


def base_options(folder: Path, etc: Path) -> list[tuple[str, str]]:
    """Every folder of apt's is one of ours: indexes below ``folder``, what configures it in ``etc``."""
    return [
        ("Dir", str(folder)),
        ("Dir::Etc", str(etc)),
        ("Dir::Etc::SourceList", "/dev/null"),
        ("Dir::Etc::SourceParts", str(folder / "etc" / "sources.list.d")),
        ("Dir::Etc::TrustedParts", str(folder / "etc" / "trusted.gpg.d")),
        ("Dir::State", str(folder)),
        ("Dir::State::Lists", str(folder / "lists")),
        ("Dir::State::Status", "/dev/null"),
        ("Dir::Cache", str(folder / "cache")),
        ("Dir::Cache::SrcPkgCache", str(folder / "srcpkgcache.bin")),
        ("Dir::Cache::PkgCache", ""),
        ("Dir::Log", str(folder / "cache")),
        ("APT::Sandbox::User", "root"),
        ("Acquire::Languages", "none"),
    ]
