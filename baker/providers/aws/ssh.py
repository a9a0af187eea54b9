"""One SSH connection to an instance whose host key we made ourselves: verified before anything is sent."""

from __future__ import annotations

import contextlib
import io
import logging
import select
import shlex
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import SSHException

from baker.errors import Interrupted, MachineError
from baker.providers.aws.options import Bastion

logging.getLogger("paramiko").addHandler(logging.NullHandler())

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 15
LOST_MILLISECONDS = 60_000
"""After so long without an answer the kernel gives a connection up."""

SESSIONS = 8
"""Commands under way at once: sshd allows ten of a connection."""

TICK_SECONDS = 0.05
DRAIN_SECONDS = 1.0
CHUNK = 32768


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPair:
    """An ed25519 key pair in OpenSSH's forms; ``public`` is ``ssh-ed25519 AAAA…`` without a comment."""

    private: str
    public: str

    @classmethod
    def make(cls) -> KeyPair:
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        return cls(private=private.decode(), public=public.decode())


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """How an instance is reached."""

    address: str
    port: int
    user: str
    key: KeyPair
    host_key: str
    bastion: Bastion | None = None


class WrongHostKey(MachineError):
    """Somebody else answered than the instance that we launched."""


class LoginRefused(MachineError):
    """The instance does not take our key for this user (it may not know it yet)."""


class ConnectionLost(MachineError):
    """The connection broke."""


class Unreachable(MachineError):
    """Nothing answers by SSH (yet)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A command that ended; ``exit_status`` is None if the connection told none."""

    exit_status: int | None
    stdout: bytes
    stderr: bytes


class TimedOut(Exception):
    """The command still runs."""


class Flooded(Exception):
    """The command prints too much."""


class SshConnection:
    """Runs commands, several at once. Make one with ``open``."""

    def __init__(self, transport: paramiko.Transport, bastion: paramiko.Transport | None) -> None:
        self._transport = transport
        self._bastion = bastion
        self._sessions = threading.BoundedSemaphore(SESSIONS)

    @classmethod
    def open(cls, access: Access) -> SshConnection:
        """Raises Unreachable, WrongHostKey (at once, before we authenticate) or LoginRefused."""
        bastion = None
        try:
            if access.bastion is not None:
                bastion = _open_bastion(access.bastion)
                sock = bastion.open_channel(
                    "direct-tcpip", (access.address, access.port), ("127.0.0.1", 0), timeout=CONNECT_SECONDS
                )
            else:
                sock = _dial(access.address, access.port)  # type: ignore[assignment]
            transport = _authenticate(
                sock,
                f"{access.user}@{access.address}",
                access.user,
                [read_private_key(access.key.private)],
                access.host_key,
            )
        except (OSError, EOFError, SSHException) as error:
            if bastion is not None:
                bastion.close()
            raise Unreachable(
                f"{access.address} port {access.port}: {error or type(error).__name__}"
            ) from error
        except BaseException:
            if bastion is not None:
                bastion.close()
            raise
        return cls(transport, bastion)

    @property
    def is_open(self) -> bool:
        return self._transport.is_active()

    def close(self) -> None:
        self._transport.close()
        if self._bastion is not None:
            self._bastion.close()

    def run(
        self,
        command: str,
        *,
        stdin: bytes | None = None,
        timeout: float | None = None,
        on_output: Callable[[str, bytes], None] | None = None,
        limit: int | None = None,
        cancel: threading.Event | None = None,
    ) -> Finished:
        """Run a command line in the user's login shell.

        Raises TimedOut, Flooded (past ``limit`` bytes), Interrupted (after ``cancel`` was set), all of which
        leave the command running, and ConnectionLost.
        """
        with self._sessions:
            try:
                with contextlib.closing(self._open_session()) as channel:
                    channel.exec_command(command)
                    return _follow(channel, stdin or b"", timeout, on_output, limit, cancel)
            except (OSError, EOFError, SSHException) as error:
                raise ConnectionLost(f"the SSH connection broke: {error or type(error).__name__}") from error

    def _open_session(self) -> paramiko.Channel:
        """sshd may refuse one while it still lets go of those that have just ended."""
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                return self._transport.open_session(timeout=CONNECT_SECONDS * 3)
            except paramiko.ChannelException:
                if time.monotonic() > deadline:
                    raise
            time.sleep(TICK_SECONDS)


def _follow(
    channel: paramiko.Channel,
    stdin: bytes,
    timeout: float | None,
    on_output: Callable[[str, bytes], None] | None,
    limit: int | None,
    cancel: threading.Event | None,
) -> Finished:
    """Feed a started command and read it to its end, in this thread."""
    deadline = None if timeout is None else time.monotonic() + timeout
    chunks: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    size, sent, ended = 0, 0, None
    channel.setblocking(False)
    if not stdin:
        channel.shutdown_write()
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)

    def take(stream: str, chunk: bytes) -> None:
        nonlocal size
        chunks[stream].append(chunk)
        size += len(chunk)
        if on_output is not None:
            on_output(stream, chunk)
        if limit is not None and size > limit:
            raise Flooded

    while True:
        progress = False
        while channel.recv_ready() and (chunk := channel.recv(CHUNK)):
            progress = True
            take("stdout", chunk)
        while channel.recv_stderr_ready() and (chunk := channel.recv_stderr(CHUNK)):
            progress = True
            take("stderr", chunk)
        if sent < len(stdin):
            if channel.exit_status_ready() or channel.closed:
                sent = len(stdin)  # it ended without reading all of it
            elif channel.send_ready():
                with contextlib.suppress(TimeoutError, socket.timeout):
                    sent += channel.send(stdin[sent : sent + CHUNK])
                    progress = True
            if sent >= len(stdin) and not channel.closed:
                channel.shutdown_write()
        if progress:
            continue
        now = time.monotonic()
        if channel.exit_status_ready():
            ended = ended or now
            # A daemon that the command left behind may hold its pipes open for ever.
            if channel.eof_received or channel.closed or now - ended > DRAIN_SECONDS:
                break
        elif channel.closed:
            break
        if deadline is not None and now >= deadline:
            raise TimedOut
        if cancel is not None and cancel.is_set():
            raise Interrupted("interrupted")
        tick = TICK_SECONDS / 10 if sent < len(stdin) else TICK_SECONDS
        if channel.eof_received or channel.closed:
            time.sleep(TICK_SECONDS / 10)  # poll would not wait: the end is there for good
        else:
            poll.poll(1000 * (tick if deadline is None else min(tick, deadline - now)))
    status = channel.recv_exit_status() if channel.exit_status_ready() else -1
    return Finished(
        exit_status=None if status == -1 else status,
        stdout=b"".join(chunks["stdout"]),
        stderr=b"".join(chunks["stderr"]),
    )


# --- connecting -----------------------------------------------------------------------------------------


def _dial(address: str, port: int) -> socket.socket:
    sock = socket.create_connection((address, port), timeout=CONNECT_SECONDS)
    # Nagle's algorithm costs 40 ms per command.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_MILLISECONDS)
    return sock


def _authenticate(
    sock: socket.socket | paramiko.Channel, where: str, user: str, keys: list[paramiko.PKey], host_key: str
) -> paramiko.Transport:
    """Raises WrongHostKey, LoginRefused, or what the connection raises. Closes the socket then."""
    transport = paramiko.Transport(sock)
    try:
        kind, _, text = host_key.partition(" ")
        transport.get_security_options().key_types = _signatures_of(kind)
        transport.start_client(timeout=CONNECT_SECONDS)
        shown = transport.get_remote_server_key()
        if (shown.get_name(), shown.get_base64()) != (kind, text.split()[0]):
            raise _explain_wrong_key(where, shown.get_name(), shown.get_base64())
        transport.set_keepalive(KEEPALIVE_SECONDS)
        refused: SSHException | None = None
        for key in keys:
            try:
                transport.auth_publickey(user, key)
            except paramiko.AuthenticationException as error:
                refused = error
            else:
                return transport
        raise LoginRefused(f"{where} does not accept the key: {refused or 'there is none'}")
    except paramiko.ssh_exception.IncompatiblePeer as error:
        transport.close()
        raise WrongHostKey(
            f"{where} has no {host_key.partition(' ')[0]} host key: not the one that was handed over",
            hint="Nothing was sent to it. cloud-init may not have run, or somebody else answers there.",
        ) from error
    except BaseException:
        transport.close()
        raise


def _signatures_of(kind: str) -> tuple[str, ...]:
    return ("rsa-sha2-512", "rsa-sha2-256") if kind == "ssh-rsa" else (kind,)


def _explain_wrong_key(where: str, kind: str, text: str) -> WrongHostKey:
    return WrongHostKey(
        f"{where} shows another host key than the one it was given: {kind} {text[:24]}…",
        hint="Nothing was sent to it. Somebody else answers at this address, or cloud-init did not take the "
        "user data; the instance's console tells.",
    )


def read_private_key(text: str) -> paramiko.PKey:
    """Of any kind that EC2's key pairs have. Raises SSHException."""
    if "BEGIN RSA" in text:
        return paramiko.RSAKey.from_private_key(io.StringIO(text))
    kinds = (paramiko.Ed25519Key, paramiko.RSAKey, paramiko.ECDSAKey)
    failures: list[SSHException] = []
    for kind in kinds:
        try:
            return kind.from_private_key(io.StringIO(text))
        except SSHException as error:
            failures.append(error)
    raise failures[0]


def _open_bastion(bastion: Bastion) -> paramiko.Transport:
    """Raises WrongHostKey, MachineError: it is there before any instance, and nothing to wait for."""
    where = f"bastion {bastion.user}@{bastion.host}"
    check = "Check bastion in [aws] of baker.toml."
    try:
        if bastion.key_file:
            keys: list[paramiko.PKey] = [paramiko.PKey.from_path(Path(bastion.key_file).expanduser())]
        else:
            keys = list(paramiko.Agent().get_keys())
    except (OSError, SSHException, ValueError, UnknownKeyType) as error:
        raise MachineError(
            f"{where}: {bastion.key_file or 'the agent'} gives no key: {error}", hint=check
        ) from error
    try:
        sock = _dial(bastion.host, bastion.port)
        return _authenticate(sock, where, bastion.user, keys, bastion.host_key)
    except WrongHostKey as error:
        error.hint = f"Nothing was sent to it. Somebody else answers there, or its key was changed. {check}"
        raise
    except LoginRefused as error:
        raise MachineError(str(error), hint=check) from error
    except (OSError, EOFError, SSHException, ValueError) as error:
        raise MachineError(f"{where} cannot be used: {error}", hint=check) from error


def describe_command(access: Access, key_file: str, known_hosts: str, remote: str = "") -> list[str]:
    """The ssh command that does the same by hand."""
    argv = ["ssh", "-i", key_file, "-p", str(access.port), "-o", f"UserKnownHostsFile={known_hosts}"]
    argv += ["-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes"]
    if access.bastion is not None:
        inner = ["ssh", "-W", "%h:%p", "-p", str(access.bastion.port)]
        inner += ["-o", f"UserKnownHostsFile={known_hosts}", "-o", "StrictHostKeyChecking=yes"]
        if access.bastion.key_file:
            inner += ["-i", access.bastion.key_file]
        argv += [
            "-o",
            f"ProxyCommand={shlex.join([*inner, '--', f'{access.bastion.user}@{access.bastion.host}'])}",
        ]
    if remote:
        argv.append("-t")
    # A user's name may come from a tag.
    return [*argv, "--", f"{access.user}@{access.address}", *([remote] if remote else [])]


def describe_known_hosts(access: Access) -> str:
    """The known_hosts file that goes with it."""

    def line(host: str, port: int, key: str) -> str:
        return f"{host if port == 22 else f'[{host}]:{port}'} {key}\n"

    text = line(access.address, access.port, access.host_key)
    if access.bastion is not None:
        text += line(access.bastion.host, access.bastion.port, access.bastion.host_key)
    return text
