"""Instances without machines: an SSH server each, on a loopback address of its own; a test answers for it."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.lab.fleet import Launch
from tests.lab.user_data import read_ssh_settings

Reply = tuple[int, bytes, bytes]
"""Exit status, stdout, stderr."""
Answer = Callable[[str, bytes], Reply | None]
"""Of a command and its standard input; None leaves it to whoever is asked next."""

IDLE_SECONDS = 2.0
"""How long a command's standard input may be silent before it counts as ended."""
LOG = logging.getLogger("tests.lab.ssh")
LOG.setLevel(logging.CRITICAL)  # clients that hang up are none of its business
STATUS_DONE = b"status: done\n"
STATUS_ERROR = b"status: error\nerrors:\n  - the lab has cloud-init fail\n"


@dataclass(kw_only=True)
class SshServer:
    """One instance's server."""

    launch: Launch
    host_key: paramiko.PKey
    authorized: frozenset[bytes]
    listener: socket.socket | None = None
    transports: list[paramiko.Transport] = field(default_factory=list)


class Bodiless:
    """See ``Fleet``. ``answers`` are asked first to last for each command; without one it exits 0, silent.

    ``commands`` are those that were run: (instance, command). ``sick`` ones answer the load balancer with
    this status, or not at all for the reason that is given; ``sickness`` is what all others do.
    """

    def __init__(self, *answers: Answer) -> None:
        self.answers: list[Answer] = list(answers)
        self.commands: list[tuple[str, str]] = []
        self.sick: dict[str, int | str] = {}
        self.sickness: int | str | None = None
        self.ssh_port = random.randint(20000, 29999)  # none that the kernel hands out
        self.ssh_user = "admin"
        self._addresses = itertools.count(1)
        self._servers: dict[str, SshServer] = {}
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._late: list[tuple[float, SshServer]] = []
        self._own_key = make_key()
        self._wrong_key = make_key()
        self._waker, self._wakened = socket.socketpair()
        self._selector.register(self._wakened, selectors.EVENT_READ, None)
        self._closed = False
        self._thread = threading.Thread(target=self._serve, daemon=True, name="lab-ssh")
        self._thread.start()

    def claim_address(self) -> str:
        number = next(self._addresses)
        return f"127.{64 + (number >> 16 & 63)}.{number >> 8 & 255}.{number & 255}"

    def start(self, launch: Launch) -> None:
        settings = read_ssh_settings(launch.user_data)
        host_key = self._own_key if settings.host_key is None else read_key(settings.host_key)
        if launch.fault("wrong-host-key"):
            host_key = self._wrong_key
        allowed = [*settings.authorized_keys, *([launch.public_key] if launch.public_key else [])]
        server = SshServer(
            launch=launch,
            host_key=host_key,
            authorized=frozenset(paramiko.PublicBlob.from_string(key).key_blob for key in allowed),
        )
        with self._lock:
            self._servers[launch.instance] = server
            if not launch.fault("no-ssh") and not launch.fault("never-runs"):
                self._late.append((time.monotonic() + launch.delay, server))
        self._waker.send(b"1")

    def stop(self, instance: str) -> None:
        with self._lock:
            server = self._servers.pop(instance, None)
            if server is None:
                return
            self._late = [each for each in self._late if each[1] is not server]
            if server.listener is not None:
                self._selector.unregister(server.listener)
                server.listener.close()
        for transport in server.transports:
            if transport.is_active():  # closing waits for its thread; whoever stops an instance does not
                threading.Thread(target=transport.close, daemon=True).start()

    def terminate(self, instance: str) -> None:
        self.stop(instance)

    def is_done(self, _instance: str) -> bool:
        return True

    def capture(self, instance: str, image: str) -> None:
        pass

    def has_captured(self, _image: str) -> bool:
        return True

    def copy(self, image: str, copy: str) -> None:
        pass

    def forget(self, image: str) -> None:
        pass

    def probe(self, instance: str, address: str, port: int, path: str) -> int | str:
        del address, port, path
        return self.sick.get(instance, self.sickness or 200)

    def console(self, instance: str) -> str:
        return f"cloud-init: this is the console of {instance}\n{instance} login: "

    def close(self) -> None:
        for instance in list(self._servers):
            self.stop(instance)
        self._closed = True
        self._waker.send(b"1")
        self._thread.join()
        self._selector.close()
        self._waker.close()
        self._wakened.close()

    # --- serving ----------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self._closed:
            with self._lock:
                now = time.monotonic()
                for due, server in list(self._late):
                    if due <= now:
                        self._late.remove((due, server))
                        self._listen(server)
                wait = min((due - now for due, _ in self._late), default=None)
            for key, _ in self._selector.select(wait):
                if key.data is None:
                    self._wakened.recv(1024)
                else:
                    self._accept(key.data)

    def _listen(self, server: SshServer) -> None:
        listener = socket.create_server((server.launch.address, self.ssh_port))
        listener.setblocking(False)
        server.listener = listener
        self._selector.register(listener, selectors.EVENT_READ, server)

    def _accept(self, server: SshServer) -> None:
        with contextlib.suppress(OSError):
            assert server.listener is not None
            connection, _ = server.listener.accept()
            connection.setblocking(True)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = paramiko.Transport(connection)
            transport.set_log_channel(LOG.name)
            transport.add_server_key(server.host_key)
            server.transports.append(transport)
            transport.start_server(event=threading.Event(), server=Conversation(self, server, transport))

    def answer(self, server: SshServer, command: str, stdin: bytes) -> Reply:
        self.commands.append((server.launch.instance, command))
        if "read -r line" in command:  # a shell that is told on its input what to run
            line, _, stdin = stdin.partition(b"\n")
            command = f"{command} {line.decode(errors='replace')}"
        words = command.split()
        if server.launch.fault("no-sudo") and "sudo" in words[:6]:
            return 1, b"", b"sudo: a password is required\n"
        failed = server.launch.fault("cloud-init-fails")
        if failed and "cloud-init" in command and "status" in command:
            return 1, STATUS_ERROR, b""
        for answer in self.answers:
            if (reply := answer(command, stdin)) is not None:
                return reply
        return 0, STATUS_DONE if "cloud-init status" in command else b"", b""


class Conversation(paramiko.ServerInterface):
    """One connection."""

    def __init__(self, fleet: Bodiless, server: SshServer, transport: paramiko.Transport) -> None:
        self._fleet = fleet
        self._server = server
        self._transport = transport

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if username == self._fleet.ssh_user and key.asbytes() in self._server.authorized:
            return paramiko.AUTH_SUCCESSFUL
        return paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002
        if kind == "session":
            return paramiko.OPEN_SUCCEEDED
        return paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        text = command.decode(errors="replace")
        threading.Thread(target=self._run, args=(channel, text), daemon=True).start()
        return True

    def check_channel_env_request(self, channel: paramiko.Channel, name: bytes, value: bytes) -> bool:  # noqa: ARG002
        return True

    def check_channel_direct_tcpip_request(
        self,
        chanid: int,  # noqa: ARG002
        origin: tuple[str, int],  # noqa: ARG002
        destination: tuple[str, int],
    ) -> int:
        """A bastion: whoever may log in may go on from here."""
        threading.Thread(target=relay, args=(self._transport, destination), daemon=True).start()
        return paramiko.OPEN_SUCCEEDED

    def _run(self, channel: paramiko.Channel, command: str) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            stdin = b""
            channel.settimeout(IDLE_SECONDS)
            with contextlib.suppress(TimeoutError):
                while chunk := channel.recv(1 << 20):
                    stdin += chunk
            channel.settimeout(None)
            exit_status, stdout, stderr = self._fleet.answer(self._server, command, stdin)
            channel.sendall(stdout)
            channel.sendall_stderr(stderr)
            channel.send_exit_status(exit_status)
            channel.close()


def relay(transport: paramiko.Transport, destination: tuple[str, int]) -> None:
    """Carry bytes between the next channel of the transport and an address."""
    channel = transport.accept(10.0)
    if channel is None:
        return
    try:
        far = socket.create_connection(destination)
    except OSError:
        channel.close()
        return

    def carry(source: socket.socket | paramiko.Channel, sink: socket.socket | paramiko.Channel) -> None:
        with contextlib.suppress(OSError, EOFError):
            while chunk := source.recv(1 << 16):
                sink.sendall(chunk)
        sink.close()

    threading.Thread(target=carry, args=(far, channel), daemon=True).start()
    carry(channel, far)


def make_key() -> paramiko.PKey:
    text = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return read_key(text.decode())


def read_key(text: str) -> paramiko.PKey:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(text))
