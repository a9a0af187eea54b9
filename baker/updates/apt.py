"""The host's apt with folders of our own: it sees nothing of the host's sources, state and settings."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from baker.errors import CommandFailed

PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "TMPDIR")


def run_apt(arguments: Sequence[str], options: Sequence[tuple[str, str]], proxy: str | None = None) -> str:
    """Run ``apt-get`` with this configuration and no other; returns its stdout.

    Names that end in ``::`` are lists. Raises CommandFailed with what it complained of.
    """
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        **({"http_proxy": proxy, "https_proxy": proxy} if proxy else {}),
    }
    with tempfile.NamedTemporaryFile("w", suffix=".conf", encoding="latin-1") as configuration:
        configuration.write("".join(f'{name} "{value}";\n' for name, value in options))
        configuration.flush()
        done = subprocess.run(
            ["apt-get", *arguments],
            env={**environment, "APT_CONFIG": configuration.name},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    if done.returncode != 0:
        complaints = [line[3:] for line in done.stderr.splitlines() if line.startswith(("E: ", "W: "))]
        said = "; ".join(complaints[:3]) or done.stderr.strip()[-300:]
        raise CommandFailed(f"apt-get {arguments[0]}: {said}", exit_status=done.returncode, stderr_tail=said)
    return done.stdout


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
