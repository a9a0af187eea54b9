"""A deployment: ``deploy`` reads as the specification.

    begin -> start -> all healthy for the soak -> traffic, step by step -> watch -> live

The catalog's release says how far it is. Until ``make_live`` whatever happens takes it back: traffic first,
then the new side. After it the old side is warm.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from baker import identity
from baker.catalog import Catalog
from baker.deploy.auditing import note_births
from baker.deploy.collecting import collect_environment, settle
from baker.deploy.deployer import LOOK_SECONDS, TICK_SECONDS, Deployer, describe_settings
from baker.deploy.environment import Environment
from baker.deploy.fleet import FleetMachine, Traffic
from baker.deploy.proposal import Proposal
from baker.deploy.recovery import take_back
from baker.deploy.release import Release, ReleaseState
from baker.errors import BakerError, ConflictError, DeployError, Interrupted
from baker.model import ImageStatus


def deploy(
    deployer: Deployer,
    proposal: Proposal,
    holder: str,
    *,
    steps: Sequence[int] | None = None,
    reason: str | None = None,
) -> Release:
    """Replace what serves by what is proposed. The caller holds the environment's lock as ``holder``.

    Raises DeployError, MachineError, CatalogError, Interrupted …: then the side before serves as it did, and
    nothing of the new one is left, or what is left is named.
    """
    environment, live, fleet = proposal.environment, proposal.live, deployer.fleet
    release = deployer.catalog.begin_release(
        environment.name,
        release_id=proposal.side.release,
        target=environment.target,
        store=store_of(deployer, environment),
        recipe=proposal.image.recipe,
        version=proposal.image.version,
        build=proposal.build.id,
        size=proposal.size,
        settings=describe_settings(environment, proposal.side.first_boot),
        deployer=holder,
    )
    guard = Guard(deployer, release)
    try:
        if release.number != proposal.number:
            raise ConflictError(f"release {proposal.number} of {environment.name} was made meanwhile")
        deployer.report.say(f"Starting {count_machines(proposal.size)} of {release.image} ({release.number})")
        fleet.start(proposal.side, proposal.size, guard.pause)
        await_health(deployer, environment, proposal.size, guard)
        note_births(deployer, release)
        for step in steps or environment.rollout.steps:
            move_traffic(deployer, environment, release, live, step)
            watch(deployer, environment, proposal.size, guard)
        release = deployer.catalog.make_live(release.id, window=environment.rollout.window, reason=reason)
    except BaseException as error:
        with deployer.interruption.shielded():
            now = find_state(deployer.catalog, release)
            if now.state is not ReleaseState.LIVE:
                take_back(deployer, now, explain(error), guard.machines, live)
                raise
            release = now  # only the answer was lost
    with deployer.interruption.shielded():
        settle(deployer, environment.name)
    deployer.report.say(f"{environment.name} serves {release.image} at {fleet.place(environment)}")
    collect_environment(deployer, environment.name)  # one side is kept for a roll-back, not two
    return release


def store_of(deployer: Deployer, environment: Environment) -> str:
    """Where its machines are, for other hosts to know."""
    if environment.target == "aws":
        return str(environment.settings.get("region", ""))
    return identity.store_name(deployer.home)


def count_machines(number: int) -> str:
    return "1 machine" if number == 1 else f"{number} machines"


def find_state(catalog: Catalog, release: Release) -> Release:
    """The release as it is; as it was where the catalog does not answer."""
    with suppress(BakerError):
        return catalog.release(release.id)
    return release


def explain(error: BaseException) -> str:
    if isinstance(error, BakerError):
        return str(error)
    return str(Interrupted("interrupted")) if isinstance(error, KeyboardInterrupt) else repr(error)


class Guard:
    """Looks, while a deployment waits, whether it may go on; keeps what the machines were when last seen."""

    def __init__(self, deployer: Deployer, release: Release) -> None:
        self._deployer = deployer
        self._release = release
        self._looked = deployer.clock()
        self.machines: Sequence[FleetMachine] = ()

    def pause(self, seconds: float) -> None:
        """Wait. Raises Interrupted, DeployError for an image that was withdrawn, ConflictError for a
        deployment that somebody wants taken back."""
        self._deployer.interruption.pause(seconds)
        if self._deployer.clock() - self._looked >= LOOK_SECONDS:
            self._looked = self._deployer.clock()
            self.look()

    def look(self) -> None:
        catalog, release = self._deployer.catalog, self._release
        status = catalog.image(release.recipe, release.version)
        if status.status not in (ImageStatus.AVAILABLE, ImageStatus.DEPRECATED):
            why = f": {status.status_reason}" if status.status_reason else ""
            raise DeployError(f"{release.image} was {status.status} meanwhile{why}")
        now = catalog.release(release.id)
        if now.abort is not None:
            raise DeployError(f"the deployment was taken back: {now.abort}")

    def see(self) -> Sequence[FleetMachine]:
        """The machines of the release as they are now."""
        found = self._deployer.fleet.machines(self._release.environment)
        self.machines = [machine for machine in found if machine.number == self._release.number]
        return self.machines


def await_health(deployer: Deployer, environment: Environment, size: int, guard: Guard) -> None:
    """Until every machine was healthy, without a break, for the soak. Raises DeployError."""
    health, soak, clock = environment.health, environment.rollout.soak, deployer.clock
    deadline = clock() + health.within
    healthy: dict[str, float] = {}
    while True:
        machines = guard.see()
        now = clock()
        healthy = {one.name: healthy.get(one.name, now) for one in machines if one.healthy}
        for machine in machines:
            if not machine.alive:
                raise DeployError(f"machine {machine.name} died: {machine.detail}")
        if len(healthy) == size and all(now - since >= soak for since in healthy.values()):
            deployer.report.say(f"{count_machines(size)} healthy for {soak:g} s")
            return
        if now >= deadline + (soak if len(healthy) == size else 0.0):
            sick = [f"{one.name} ({one.detail})" for one in machines if not one.healthy]
            raise DeployError(
                f"not every machine became and stayed healthy within {health.within:g} s: "
                f"{', '.join(sick) or 'some are missing'}"
            )
        deployer.report.status(f"healthy: {len(healthy)} of {size}")
        guard.pause(TICK_SECONDS)


def move_traffic(
    deployer: Deployer, environment: Environment, release: Release, live: Release | None, step: int
) -> None:
    """Give the new side its share. Raises what keeps the image from being used."""
    deployer.catalog.shift_release(release.id)
    share = 100 if live is None else step
    weights = {release.number: share}
    if live is not None and share < 100:
        weights[live.number] = 100 - share
    deployer.fleet.shift(
        environment,
        Traffic(weights=weights, standby=live.number if live else None, watched=release.number),
    )
    deployer.report.say(f"{share} % of the traffic goes to {release.image}")


def watch(deployer: Deployer, environment: Environment, size: int, guard: Guard) -> None:
    """Raises DeployError as soon as a machine is not healthy."""
    until = deployer.clock() + environment.rollout.watch
    while (left := until - deployer.clock()) > 0:
        machines = guard.see()
        sick = [f"{one.name} ({one.detail})" for one in machines if not (one.alive and one.healthy)]
        if sick or len(machines) < size:
            raise DeployError(f"failed under watch: {', '.join(sick) or 'a machine is missing'}")
        deployer.report.status(f"watching for {left:.0f} s more")
        guard.pause(min(TICK_SECONDS, left))
    guard.look()
