"""Environments on this host: machines that outlive the command, behind HAProxy."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from baker.deploy.environment import Environment
from baker.deploy.fleet import FleetMachine as MachineState
from baker.deploy.fleet import Pause, Traffic
from baker.deploy.observation import Observation
from baker.deploy.side import MachineFacts, Side, tell_facts
from baker.errors import BakerError, CommandTimeout, ConflictError, HostError, MachineError
from baker.providers.local.balancer import Balancer, Balancing, Server, ServerState
from baker.providers.local.fleet_machine import (
    FleetMachine,
    end_machine,
    make_spec,
    read_log,
    write_seed,
)
from baker.providers.local.fleet_store import FleetStore, KeptSide, MachineRecord
from baker.providers.local.host import PACKAGE_OF_TOOL, adopt_orphans, missing_file_systems, missing_tools
from baker.providers.local.store import Store

TICK_SECONDS = 0.1


class LocalFleet:
    """See ``baker.deploy.fleet.Fleet``. ``home`` is BAKER_HOME."""

    target = "local"

    def __init__(self, home: Path) -> None:
        self._layers = Store(home / "local")
        self._store = FleetStore(home)
        self._mark = hashlib.sha256(str(self._store.folder).encode()).hexdigest()[:8]

    def check(self, environment: Environment) -> None:
        if os.geteuid() != 0:
            raise HostError("machines of the local target need root", hint="Run it with sudo.")
        if missing := missing_tools():
            packages = sorted({PACKAGE_OF_TOOL[tool] for tool in missing})
            raise HostError(
                f"missing tools: {', '.join(missing)}", hint=f"apt-get install {' '.join(packages)}"
            )
        if missing := missing_file_systems():
            raise HostError(f"the kernel has no {' and no '.join(missing)} file system")
        self._balancer(environment.name).check(environment.settings["listen"])

    def place(self, environment: Environment) -> str:
        return f"http://{environment.settings['listen']}"

    def list_facts(self, side: Side, size: int) -> Sequence[MachineFacts]:
        roles = side.first_boot.roles if side.first_boot else ()
        names = [f"{side.number}-{number}" for number in range(1, size + 1)]
        return [tell_facts(self.target, side.environment, name, roles) for name in names]

    # --- making -----------------------------------------------------------------------------------

    def start(self, side: Side, size: int, pause: Pause) -> None:
        name = side.environment
        with self._store.lock(name):
            kept = self._store.read_side(name, side.number)
            kept = replace(kept, size=size) if kept else KeptSide(side=side, size=size, last=0)
            self._store.write_side(kept)
            records = [record for record in self._store.machines(name) if record.side == side.number]
            broken = [record for record in records if self._find(name, record) is None]
        self._end(name, broken)
        while (missing := size - self._count(name, side.number)) > 0:
            pause(0.0)
            self._make(name, side.number, min(missing, side.batch))
        self._rebalance(name)

    def _count(self, environment: str, number: int) -> int:
        return sum(record.side == number for record in self._store.machines(environment))

    def _make(self, environment: str, number: int, count: int) -> list[MachineRecord]:
        """So many new machines, booted at once. Raises what the first one that failed raised."""
        with self._store.lock(environment):
            kept = self._store.read_side(environment, number)
            if kept is None:
                raise MachineError(f"side {environment}-{number} is not there any more")
            records = self._store.claim_machines(kept, count)
        side = kept.side
        chain = self._layers.read_artifact(side.artifact.id)
        once = reversed(dict.fromkeys(reversed(chain["layers"])))
        layers = tuple(self._layers.verified_layer(digest) for digest in once)

        def boot(record: MachineRecord) -> MachineRecord:
            spec = make_spec(self._store, side, record, self._cgroup(environment, record.name), layers)
            write_seed(spec.folder, side, record.name)
            machine = FleetMachine.start(spec)
            assert isinstance(machine, FleetMachine)
            record = machine.complete(record)
            self._store.write_machine(environment, record)
            return record

        adopt_orphans()
        with ThreadPoolExecutor(max_workers=count) as pool:
            return [one.result() for one in [pool.submit(boot, record) for record in records]]

    def size(self, environment: str, number: int) -> int:
        kept = self._store.read_side(environment, number)
        return kept.size if kept else 0

    def replace(self, environment: str, names: Collection[str], pause: Pause) -> Sequence[str]:
        old = [self._store.machine(environment, name) for name in sorted(names)]
        new = []
        for number in sorted({record.side for record in old}):
            leaving = [record for record in old if record.side == number]
            kept = self._store.read_side(environment, number)
            if kept is None:
                raise MachineError(f"side {environment}-{number} is not there any more")
            # A process that died while it replaced some has left more than there are to be.
            surplus = max(0, self._count(environment, number) - kept.size)
            spare, leaving = leaving[:surplus], leaving[surplus:]
            self._leave(environment, spare, kept.side.drain, pause)
            for start in range(0, len(leaving), kept.side.batch):
                batch = leaving[start : start + kept.side.batch]
                joining = self._make(environment, number, len(batch))
                try:
                    self._await_health(environment, kept.side, joining, pause)
                except BaseException:
                    self._end(environment, joining)
                    self._rebalance(environment)
                    raise
                self._rebalance(environment)
                self._leave(environment, batch, kept.side.drain, pause)
                new += [record.name for record in joining]
        return new

    def _await_health(
        self, environment: str, side: Side, records: Sequence[MachineRecord], pause: Pause
    ) -> None:
        """Until these, which get nothing yet, are healthy. Raises MachineError."""
        names = {record.name for record in records}
        self._rebalance(environment, out=names)
        left = side.health.within
        while True:
            states = [one for one in self.machines(environment, out=names) if one.name in names]
            sick = [f"{one.name} ({one.detail})" for one in states if not one.healthy]
            if not sick:
                return
            if left <= 0 or not all(one.alive for one in states):
                raise MachineError(f"new machines did not become healthy: {', '.join(sick)}")
            pause(TICK_SECONDS)
            left -= TICK_SECONDS

    # --- looking ----------------------------------------------------------------------------------

    def machines(self, environment: str, *, out: Collection[str] = ()) -> Sequence[MachineState]:
        """``out`` get nothing, and are looked at all the same."""
        records = self._store.machines(environment)
        found = {record.name: self._find(environment, record) for record in records}
        sides = {record.side: self._store.read_side(environment, record.side) for record in records}
        answers = self._run_checks(sides, records, found)
        if answers:
            self._rebalance(environment, out={*out, *(name for name, why in answers.items() if why)})
        balancer = self._balancer(environment)
        seen = {one.name: one for one in balancer.servers()} if balancer.alive() else None
        return [
            describe(
                environment,
                record,
                alive=found[record.name] is not None,
                seen=seen.get(record.name) if seen is not None else None,
                balanced=seen is not None,
                answer=answers.get(record.name, ""),
            )
            for record in records
        ]

    def _run_checks(
        self,
        sides: Mapping[int, KeptSide | None],
        records: Iterable[MachineRecord],
        found: Mapping[str, FleetMachine | None],
    ) -> dict[str, str]:
        """For machines whose health is a command: why not, empty if all is well."""
        asked: list[tuple[str, FleetMachine, tuple[str, ...], float]] = []
        for record in records:
            kept, machine = sides[record.side], found[record.name]
            if kept is not None and machine is not None and kept.side.health.command is not None:
                health = kept.side.health
                asked.append((record.name, machine, kept.side.health.command, health.timeout))
        if not asked:
            return {}
        with ThreadPoolExecutor(max_workers=min(len(asked), 16)) as pool:
            answers = pool.map(lambda one: ask(one[1], one[2], one[3]), asked)
            return dict(zip((one[0] for one in asked), answers, strict=True))

    def traffic(self, environment: str) -> Traffic:
        balancer = self._balancer(environment)
        current = balancer.current()
        if current is None or not balancer.alive():
            return Traffic(weights={})
        return Traffic(weights=current.weights, standby=current.standby, watched=current.watched)

    def sides(self) -> Mapping[str, Collection[int]]:
        return {name: self._store.numbers(name) for name in self._store.environments()}

    def log(self, environment: str, name: str, lines: int | None = None) -> str:
        record = self._store.machine(environment, name)
        kept = self._store.read_side(environment, record.side)
        folder = self._store.machine_folder(environment, name)
        return read_log(folder, self._find(environment, record), kept.side if kept else None, lines)

    def user_data(self, environment: str, name: str) -> str | None:
        self._store.machine(environment, name)
        path = self._store.machine_folder(environment, name) / "seed" / "user-data"
        return path.read_text() if path.exists() else None

    def observe(self, environment: str, name: str, *, full: bool = False) -> Observation:
        from baker.providers.local.observing import observe_machine

        record = self._store.machine(environment, name)
        machine = self._find(environment, record)
        if machine is None:
            raise MachineError(f"machine {name} of {environment} does not run")
        return observe_machine(machine.leader, machine.upper, machine.spec.layers, full=full)

    def _find(self, environment: str, record: MachineRecord) -> FleetMachine | None:
        kept = self._store.read_side(environment, record.side)
        if kept is None:
            return None
        try:
            chain = self._layers.read_artifact(kept.side.artifact.id)["layers"]
        except BakerError:
            chain = []  # it has them open; only an audit wants their files
        once = reversed(dict.fromkeys(reversed(chain)))
        layers = tuple(self._layers.layers / f"{digest.removeprefix('sha256:')}.erofs" for digest in once)
        cgroup = self._cgroup(environment, record.name)
        return FleetMachine.find(make_spec(self._store, kept.side, record, cgroup, layers), record)

    # --- traffic ----------------------------------------------------------------------------------

    def shift(self, environment: Environment, traffic: Traffic) -> None:
        self._rebalance(environment.name, traffic=traffic, listen=environment.settings["listen"])

    def _rebalance(
        self,
        environment: str,
        *,
        traffic: Traffic | None = None,
        listen: str | None = None,
        out: Collection[str] = (),
        without: Collection[str] = (),
    ) -> None:
        """Tell HAProxy of the machines that there are; what is not given stays as it is. ``out`` are known
        to it and get nothing, ``without`` are not known to it any more."""
        balancer = self._balancer(environment)
        with self._store.lock(environment):
            current = balancer.current()
            servers, found = [], None
            for record in self._store.machines(environment):
                kept = self._store.read_side(environment, record.side)
                if kept is not None and record.holder and record.name not in without:
                    found = kept.side
                    servers.append(
                        Server(name=record.name, side=record.side, port=record.port, health=kept.side.health)
                    )
            listen = listen or (current.listen if current else None)
            if listen is None:
                if found is None:
                    return
                listen = str(found.settings["listen"])
            if traffic is None:
                traffic = Traffic(
                    weights=current.weights if current else {},
                    standby=current.standby if current else None,
                    watched=current.watched if current else None,
                )
            balancer.apply(
                Balancing(
                    environment=environment,
                    listen=listen,
                    servers=tuple(servers),
                    weights=traffic.weights,
                    standby=traffic.standby,
                    watched=traffic.watched,
                    sick=frozenset(out),
                )
            )

    def _balancer(self, environment: str) -> Balancer:
        return Balancer(self._store.haproxy(environment), cgroup=self._cgroup(environment, "haproxy"))

    def _cgroup(self, environment: str, name: str) -> str:
        """Names the store too, and never begins like a throwaway machine's."""
        return f"bakerenv-{self._mark}-{environment}-{name}"

    # --- removing ---------------------------------------------------------------------------------

    def remove(self, environment: str, number: int, pause: Pause) -> None:
        if self.traffic(environment).weights.get(number, 0) > 0:
            raise ConflictError(f"side {environment}-{number} still has traffic")
        kept = self._store.read_side(environment, number)
        records = [record for record in self._store.machines(environment) if record.side == number]
        self._leave(environment, records, kept.side.drain if kept else 0.0, pause)
        for folder in (self._store.of(environment) / "machines").glob(f"{number}-*"):  # half made
            end_machine(folder, self._cgroup(environment, folder.name), None)
        self._store.remove_side(environment, number)

    def _leave(
        self, environment: str, records: Sequence[MachineRecord], seconds: float, pause: Pause
    ) -> None:
        """Let machines finish what they are at, then remove them."""
        balancer = self._balancer(environment)
        names = {record.name for record in records}
        if records and balancer.alive() and (self._store.of(environment) / "machines").exists():
            self._rebalance(environment, out=names)
            for record in records:
                if self._find(environment, record) is not None:
                    balancer.drain(record.name, seconds, pause)
            self._rebalance(environment, without=names)
        self._end(environment, records)

    def _end(self, environment: str, records: Sequence[MachineRecord]) -> None:
        def end(record: MachineRecord) -> None:
            folder = self._store.machine_folder(environment, record.name)
            machine = self._find(environment, record)
            end_machine(folder, self._cgroup(environment, record.name), machine)

        if records:
            with ThreadPoolExecutor(max_workers=min(len(records), 16)) as pool:
                list(pool.map(end, records))

    def dismantle(self, environment: str) -> None:
        if self._store.numbers(environment):
            raise ConflictError(f"{environment} still has machines")
        self._balancer(environment).stop()
        self._store.forget(environment)


def describe(
    environment: str,
    record: MachineRecord,
    *,
    alive: bool,
    seen: ServerState | None,
    balanced: bool,
    answer: str,
) -> MachineState:
    """``seen`` is what HAProxy says (``balanced``: it runs), ``answer`` what the health command does."""
    if not alive:
        detail = "it does not run any more" if record.holder else "it did not start"
    elif not balanced:
        detail = "HAProxy does not run, so nobody looks"
    elif seen is None:
        detail = "HAProxy does not know it"
    else:
        detail = answer or seen.detail
    healthy = alive and seen is not None and not answer and seen.healthy is not False
    return MachineState(
        environment=environment,
        number=record.side,
        name=record.name,
        hostname=record.hostname,
        address=f"127.0.0.1:{record.port}",
        alive=alive,
        healthy=healthy,
        detail="" if healthy else detail,
        since=seen.since if seen is not None else None,
        started=record.started,
        sessions=seen.sessions if seen is not None else None,
        errors=seen.errors if seen is not None else None,
    )


def ask(machine: FleetMachine, command: Sequence[str], seconds: float) -> str:
    """What is wrong, by a health command; empty: nothing."""
    try:
        done = machine.run(command, timeout=seconds)
    except CommandTimeout:
        return f"its health command takes longer than {seconds:g} s"
    except BakerError as error:
        return str(error)
    if done.exit_status == 0:
        return ""
    said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    return f"its health command ends with {done.exit_status}" + (f": {said[-1][:200]}" if said else "")
