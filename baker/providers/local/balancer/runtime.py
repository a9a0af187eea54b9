"""HAProxy's runtime API: asked, and brought from what it does to what it is to do, losing no request."""

from __future__ import annotations

import contextlib
import csv
import io
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from baker.errors import HostError
from baker.providers.local.balancer.balancing import Balancing, Server, weigh_servers
from baker.providers.local.balancer.configuration import (
    BACKEND,
    Files,
    render_health_map,
    render_traffic_map,
    server_words,
)

ANSWER_SECONDS = 10.0
COMMANDS_AT_ONCE = 50
MAP_LINES_AT_ONCE = 100
"""What is sent in one go has to fit HAProxy's buffer of 16 KiB."""


class Runtime:
    """One HAProxy, by its socket. Everything raises HostError if it does not answer or refuses."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, command: str) -> str:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(ANSWER_SECONDS)
                connection.connect(str(self._path))
                connection.sendall(command.encode() + b"\n")
                answer = b""
                while part := connection.recv(65536):
                    answer += part
        except OSError as error:
            raise HostError(f"HAProxy does not answer at {self._path}: {error}") from error
        return answer.decode(errors="replace").strip()

    def tell(self, commands: Sequence[str]) -> None:
        """Commands that say nothing when all is well."""
        for start in range(0, len(commands), COMMANDS_AT_ONCE):
            batch = "; ".join(commands[start : start + COMMANDS_AT_ONCE])
            if answer := self.ask(batch):
                raise HostError(f"HAProxy refuses a change: {' '.join(answer.split())[:500]}")

    def pid(self) -> int | None:
        """Its process, None if nobody answers."""
        with contextlib.suppress(HostError):
            for line in self.ask("show info").splitlines():
                if line.startswith("Pid: "):
                    return int(line.removeprefix("Pid: "))
        return None

    def rows(self) -> Mapping[str, Mapping[str, str]]:
        """The statistics of each machine's entry, those that are about to go included."""
        table = csv.DictReader(io.StringIO(self.ask("show stat").removeprefix("# ")))
        return {
            row["svname"]: row for row in table if row["pxname"] == BACKEND and row["svname"] != "BACKEND"
        }

    def addresses(self) -> Mapping[str, str]:
        """Where each entry leads: ``127.0.0.1:PORT``."""
        lines = self.ask(f"show servers state {BACKEND}").splitlines()
        names = next((line[2:].split() for line in lines if line.startswith("# ")), [])
        rows = [
            dict(zip(names, line.split(), strict=False)) for line in lines if line.split()[1:2] == [BACKEND]
        ]
        return {row["srv_name"]: f"{row['srv_addr']}:{row['srv_port']}" for row in rows}

    # --- changing ---------------------------------------------------------------------------------

    def bring_to(self, balancing: Balancing, files: Files) -> None:
        """Idempotent. In this order somebody serves at every moment: who gets more, then who is picked, then
        who gets less, then who goes."""
        rows, weights = self.rows(), weigh_servers(balancing)
        addresses = self.addresses()
        wanted = {server.name: server for server in balancing.servers}
        self.tell(
            [
                f"set server {BACKEND}/{name} addr 127.0.0.1 port {server.port}"
                for name, server in wanted.items()
                if name in rows and addresses.get(name) != f"127.0.0.1:{server.port}"
            ]
        )
        self.tell(
            [
                f"set server {BACKEND}/{name} state ready"
                for name, row in rows.items()
                if name in wanted and is_out(row)
            ]
        )
        new = [server for server in balancing.servers if server.name not in rows]
        if paths := render_health_map(balancing):
            self.replace_map(files.health_map, paths)
        for server in new:
            self._add(server, balancing)
        known = {name: int(row["weight"] or 0) for name, row in rows.items()}
        more = {name: weight for name, weight in weights.items() if weight > known.get(name, 0)}
        less = {name: weight for name, weight in weights.items() if weight < known.get(name, 0)}
        self.tell(_weight_commands(more))
        self.replace_map(files.traffic_map, render_traffic_map(balancing))
        self.tell(_weight_commands(less))
        self._remove([name for name in rows if name not in wanted])

    def _add(self, server: Server, balancing: Balancing) -> None:
        """Without weight; one that is checked counts as down until the checks say otherwise."""
        entry = f"{BACKEND}/{server.name}"
        words = server_words(server, 0, balancing)
        checked = words[-1].startswith("check ")
        answer = self.ask(f"add server {entry} {' '.join(words)}")
        if "registered" not in answer:
            raise HostError(f"HAProxy does not take machine {server.name}: {answer[:500]}")
        self.tell([f"enable server {entry}"])
        if checked:
            self.tell([f"enable health {entry}", f"set server {entry} health down"])

    def _remove(self, names: Sequence[str]) -> None:
        """Nothing new goes there; what is under way is finished. An entry that is still at work stays, out of
        order, and goes at the next change."""
        self.tell([f"set server {BACKEND}/{name} state maint" for name in names])
        for name in names:
            self.ask(f"del server {BACKEND}/{name}")

    def replace_map(self, file: Path, text: str) -> None:
        """All of a map at once: requests see the old one or the new one."""
        current = [line.split(" ", 1)[-1] for line in self.ask(f"show map {file}").splitlines() if line]
        if sorted(current) == sorted(text.splitlines()):
            return
        answer = self.ask(f"prepare map {file}")
        version = answer.rsplit(" ", 1)[-1]
        if not version.isdigit():
            raise HostError(f"HAProxy does not know {file}: {answer[:500]}")
        lines = text.splitlines()
        for start in range(0, len(lines), MAP_LINES_AT_ONCE):
            payload = "\n".join(lines[start : start + MAP_LINES_AT_ONCE])
            if refused := self.ask(f"add map @{version} {file} <<\n{payload}\n"):
                raise HostError(f"HAProxy does not take {file}: {refused[:500]}")
        self.tell([f"commit map @{version} {file}"])


def is_out(row: Mapping[str, str]) -> bool:
    """Whether an entry was taken out, and waits for its last request to end."""
    return row["status"].startswith("MAINT")


def _weight_commands(weights: Mapping[str, int]) -> list[str]:
    return [f"set server {BACKEND}/{name} weight {weight}" for name, weight in weights.items()]
