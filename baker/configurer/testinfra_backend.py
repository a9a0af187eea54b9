"""testinfra's way into the machine: ``--hosts=machine://NAME``. Child side."""

from __future__ import annotations

from typing import Any

from testinfra.backend.base import BaseBackend, CommandResult

from baker.configurer.wire import MachineClient


class MachineBackend(BaseBackend):  # type: ignore[misc]
    """Every command of a test goes to the parent."""

    NAME = "machine"

    def run(self, command: str, *args: str, **_kwargs: Any) -> CommandResult:
        command = self.get_command(command, *args)
        client = MachineClient()
        reply = client.run(["sh", "-c", command], show=command)
        return self.result(reply.exit_status, self.encode(command), reply.stdout, reply.stderr)

    def get_encoding(self) -> str:
        # testinfra would ask a Python in the machine, which a good image may not have.
        return "utf-8"
