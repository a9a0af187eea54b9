"""A small machine for tests of what runs inside machines: real processes in a throwaway Debian root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from baker.errors import CommandFailed, CommandTimeout, MachineError
from baker.providers.protocol import CommandResult, OutputSink

ROOTFS = Path("/tmp/baker-test-rootfs")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}

HOLDER = """
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
mount --rbind /dev "$1/root/dev"
echo ready
exec sleep infinity
"""


def prepare_rootfs() -> Path:
    """A minimal Debian, made once per host."""
    if not ROOTFS.exists():
        making = Path(tempfile.mkdtemp(dir="/tmp")) / "root"
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "trixie", str(making)], check=True)
        making.rename(ROOTFS)
        making.parent.rmdir()
    return ROOTFS


class ChrootMachine:
    """``Machine`` over a chroot: what a command leaves running ends with the command."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs: list[list[str]] = []
        self._folder = tempfile.mkdtemp(prefix="baker-test-machine-")
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-euc", HOLDER, "holder", self._folder, str(prepare_rootfs())],
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            raise MachineError("the test machine did not start")

    @property
    def root(self) -> Path:
        """The machine's root, as the host sees it."""
        return Path(f"/proc/{self._holder.pid}/root{self._folder}/root")

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_output: OutputSink | None = None,
    ) -> CommandResult:
        if not self.alive():
            raise MachineError(f"machine {self.name} is not running")
        self.runs.append(list(argv))
        root = f"{self._folder}/root"
        enter = ["nsenter", "-t", str(self._holder.pid), "-m", "--"]
        enter += ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={root}/proc"]
        process = subprocess.Popen(
            [*enter, "chroot", root, *argv],
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**ENVIRONMENT, **(env or {})},
        )
        output: dict[str, list[bytes]] = {"stdout": [], "stderr": []}

        def read(name: str, stream: BinaryIO) -> None:
            while chunk := os.read(stream.fileno(), 65536):
                output[name].append(chunk)
                if on_output:
                    on_output(name, chunk)
            stream.close()

        def write() -> None:
            assert process.stdin is not None
            try:
                process.stdin.write(stdin or b"")
                process.stdin.close()
            except BrokenPipeError:
                pass

        threads = [
            threading.Thread(target=read, args=("stdout", process.stdout)),
            threading.Thread(target=read, args=("stderr", process.stderr)),
        ]
        if stdin is not None:
            threads.append(threading.Thread(target=write))
        for thread in threads:
            thread.start()
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise CommandTimeout(f"{argv} ran longer than {timeout} s") from None
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            for thread in threads:
                thread.join()
        return CommandResult(
            exit_status=status, stdout=b"".join(output["stdout"]), stderr=b"".join(output["stderr"])
        )

    def put(self, source: BinaryIO, path: str, *, mode: int = 0o644) -> None:
        script = 'cat >"$1" && chmod "$2" "$1"'
        done = self.run(["sh", "-c", script, "put", path, f"{mode:o}"], stdin=source.read())
        if done.exit_status != 0:
            raise CommandFailed(f"{path} could not be written", exit_status=done.exit_status)

    def get(self, path: str, destination: BinaryIO) -> None:
        done = self.run(["cat", "--", path])
        if done.exit_status != 0:
            raise CommandFailed(f"{path} could not be read", exit_status=done.exit_status)
        destination.write(done.stdout)

    def alive(self) -> bool:
        return self._holder.poll() is None

    def interactive(self, argv: Sequence[str]) -> int:
        raise NotImplementedError

    def stop(self) -> None:
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- for assertions -------------------------------------------------------------------------------

    def read(self, path: str) -> str:
        """A file of the machine, which must be there."""
        done = self.run(["cat", "--", path])
        assert done.exit_status == 0, done.stderr
        return done.stdout.decode()
