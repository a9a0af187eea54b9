"""pyinfra's way into the machine: a connector that asks the parent. Child side.

Unlike pyinfra's own ``@chroot`` it touches no file of the machine from outside: an upload is a command in
the machine, so that an absolute symbolic link stays inside and ``_sudo_user`` or ``_timeout`` hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from pyinfra import logger
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.util import get_file_io
from pyinfra.connectors.base import BaseConnector
from pyinfra.connectors.util import (
    CommandOutput,
    OutputLine,
    extract_control_arguments,
    make_unix_command_for_host,
)

from baker.configurer.redaction import Redactor
from baker.configurer.wire import MachineClient

groups: list[str] = []
"""The pyinfra groups that the machine is in, besides ``all`` and ``@baker``."""

redactor = Redactor(())
"""Finds what must not become an argument of a process: everybody on the host can read those."""

PLAIN = {"_shell_executable", "_env", "_chdir", "_temp_dir", "_retries", "_retry_delay", "_retry_until"}
"""Arguments that leave the user as it is."""


KERNEL_COMMAND = re.compile(r"((/usr)?/sbin/)?(sysctl|modprobe) [^;&|\n]*\Z")
"""Changes the running kernel. No image ever has that, only what is written for its boot.

The machine's kernel is the host's, which it may not change: to fail here would keep recipes from baking that
are right where they are used.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LastCommand:
    """What ran last in the machine; ``exit_status`` is None after a time-out."""

    command: str
    exit_status: int | None
    output: CommandOutput


class MachineConnector(BaseConnector):
    """``@baker/NAME``: the one machine of this bake."""

    handles_execution = True

    last: LastCommand | None = None

    @staticmethod
    def make_names_data(name: str) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        # Another name than the inventory's: pyinfra would put it in every group twice.
        yield name, {}, ["@baker", *groups]

    def run_shell_command(
        self,
        command: StringCommand | str,
        print_output: bool = False,
        print_input: bool = False,
        **arguments: Any,
    ) -> tuple[bool, CommandOutput]:
        command = StringCommand(command) if isinstance(command, str) else command
        success_codes = arguments.get("_success_exit_codes") or [0]
        status, stdout, stderr = self._run(command, print_input or print_output, arguments)
        lines = [OutputLine("stdout", line) for line in _split(stdout)]
        output = CommandOutput(lines + [OutputLine("stderr", line) for line in _split(stderr)])
        if status not in success_codes and KERNEL_COMMAND.match(str(command)):
            reason = output.stderr_lines[-1] if output.stderr_lines else f"status {status}"
            logger.warning(f"{command}: not in this machine, which has its host's kernel ({reason})")
            return True, output
        self.last = LastCommand(command=str(command), exit_status=status, output=output)
        return status in success_codes, output

    def put_file(
        self,
        filename_or_io: Any,
        remote_filename: str,
        remote_temp_filename: str | None = None,  # noqa: ARG002 - no detour is needed
        print_output: bool = False,
        print_input: bool = False,
        **arguments: Any,
    ) -> bool:
        with get_file_io(filename_or_io) as file:
            data = file.read()
        arguments["_stdin"] = data.encode() if isinstance(data, str) else data
        self._transfer("upload to", "cat >", remote_filename, print_input or print_output, arguments)
        return True

    def get_file(
        self,
        remote_filename: str,
        filename_or_io: Any,
        remote_temp_filename: str | None = None,  # noqa: ARG002
        print_output: bool = False,
        print_input: bool = False,
        **arguments: Any,
    ) -> bool:
        arguments["_stdin"] = b""
        data = self._transfer("download of", "cat <", remote_filename, print_input or print_output, arguments)
        with get_file_io(filename_or_io, "wb") as file:
            file.write(data)
        return True

    def check_can_rsync(self) -> NoReturn:
        raise NotImplementedError("files.rsync cannot reach a machine that is baked: use files.sync")

    def _transfer(self, what: str, how: str, path: str, show: bool, arguments: dict[str, Any]) -> bytes:
        command = StringCommand(how, QuoteString(path))
        status, stdout, stderr = self._run(command, show, arguments)
        output = CommandOutput([OutputLine("stderr", line) for line in _split(stderr)])
        self.last = LastCommand(command=f"{what} {path}", exit_status=status, output=output)
        if status != 0:
            raise OSError(output.stderr)  # as the other connectors do: the operation fails
        return stdout

    def _run(self, command: StringCommand, show: bool, arguments: dict[str, Any]) -> tuple[int, bytes, bytes]:
        if not (arguments.get("_use_sudo_login") or arguments.get("_sudo_user") not in (None, "root")):
            arguments["_sudo"] = False  # root is who we are, and a small image has no sudo
        control = extract_control_arguments(cast(ConnectorArguments, arguments))
        stdin = _encode_stdin(control.get("_stdin"))
        shell = arguments.get("_shell_executable") or "sh"
        if stdin is None and self._is_secret(command, arguments):
            # The shell reads the command from its input, not from an argument.
            arguments["_shell_executable"] = None
            script = make_unix_command_for_host(self.state, self.host, command, **arguments)
            argv, stdin = [shell, "-c", 'eval "$(cat)"'], script.get_raw_value().encode()
        else:
            unix_command = make_unix_command_for_host(self.state, self.host, command, **arguments)
            argv = ["sh", "-c", unix_command.get_raw_value()]
        timeout = control.get("_timeout") or self._callback_timeout()
        try:
            client = MachineClient()
            reply = client.run(argv, stdin=stdin, timeout=timeout, show=str(command) if show else None)
        except TimeoutError:
            self.last = LastCommand(command=str(command), exit_status=None, output=CommandOutput([]))
            raise
        return reply.exit_status, reply.stdout, reply.stderr

    def _is_secret(self, command: StringCommand, arguments: dict[str, Any]) -> bool:
        if any(value for key, value in arguments.items() if key not in PLAIN):
            return False  # another user's shell gets it as an argument anyway
        text = f"{command.get_raw_value()} {arguments.get('_env') or ''}"
        return redactor.text(text) != text

    def _callback_timeout(self) -> float | None:
        """The ``_timeout`` of the python.call that asks: pyinfra would only stop waiting for the command."""
        if self.host.executing_op_hash is None:
            return None
        data = self.state.get_op_data_for_host(self.host, self.host.executing_op_hash)
        return data.global_arguments.get("_timeout")


def _split(data: bytes) -> Sequence[str]:
    text = data.decode(errors="replace")
    return text.removesuffix("\n").split("\n") if text else []


def _encode_stdin(stdin: Any) -> bytes | None:
    """As pyinfra's connectors take it: a text, lines, or a file; bytes are ours."""
    if stdin is None or isinstance(stdin, bytes):
        return stdin
    lines = stdin.readlines() if hasattr(stdin, "readlines") else stdin
    if isinstance(lines, str):
        lines = [lines]
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines).encode()
