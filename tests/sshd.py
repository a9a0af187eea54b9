"""OpenSSH's own server on a loopback port of its own, which lets one key in as root."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from baker.providers.aws.ssh import Access, KeyPair
from tests.conftest import list_descendants, require_root

CONFIGURATION = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
LogLevel VERBOSE
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sshd:
    """A running server. ``log`` is where it says who came."""

    process: subprocess.Popen[bytes]
    access: Access
    log: Path

    def break_connections(self) -> None:
        """Every connection ends, and whatever runs in it; new ones are let in."""
        for told in list_descendants(self.process.pid):
            pid, _, name = told.partition(" ")
            if name.startswith("sshd"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


@contextmanager
def running_sshd(folder: Path) -> Iterator[Sshd]:
    """Needs root: skips the test without. ``folder`` gets the server's keys."""
    require_root()
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        pytest.fail("sshd is missing: run make test, which installs openssh-server")
    host_key, key = KeyPair.make(), KeyPair.make()
    folder.joinpath("host_key").touch(mode=0o600)
    folder.joinpath("host_key").write_text(host_key.private)
    folder.joinpath("authorized_keys").write_text(f"{key.public}\n")
    # Where sshd gives up its rights; a host that never ran one has none.
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = find_free_port()
    configuration = folder / "sshd_config"
    configuration.write_text(CONFIGURATION.format(port=port, folder=folder))
    log = folder / "log"
    process = subprocess.Popen([program, "-D", "-f", str(configuration), "-E", str(log)])
    access = Access(address="127.0.0.1", port=port, user="root", key=key, host_key=host_key.public)
    server = Sshd(process=process, access=access, log=log)
    try:
        wait_for_port(server)
        yield server
    finally:
        server.break_connections()
        process.terminate()
        process.wait()


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_for_port(server: Sshd, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((server.access.address, server.access.port)).close()
        except ConnectionRefusedError:
            assert server.process.poll() is None, server.log.read_text()
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(0.02)
        else:
            return
