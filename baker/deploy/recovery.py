"""Undoing a deployment that failed, was interrupted, or whose process died."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from baker.deploy.collecting import dismantle_if_empty, finish_removal, settle
from baker.deploy.deployer import Deployer, environment_of
from baker.deploy.fleet import FleetMachine, Traffic
from baker.deploy.release import UNDONE, EnvironmentRecord, Release, ReleaseState
from baker.errors import BakerError

LOG_LINES = 200
"""Of a sick machine's log, kept in the environment's history."""


def take_back(
    deployer: Deployer,
    release: Release,
    reason: str,
    machines: Sequence[FleetMachine] = (),
    live: Release | None = None,
) -> None:
    """Undo a release that is not live: traffic, then its machines. Never raises: what is left is said.

    With ``live`` the traffic goes back to it even if the catalog does not answer.
    """
    name = release.environment
    if release.state in UNDONE:
        deployer.report.say(f"Taking {release.image} back: {reason}")
    if live is not None:
        with suppress(BakerError):
            deployer.fleet.shift(environment_of(live), Traffic(weights={live.number: 100}))
    logs = collect_logs(deployer, name, release, machines)
    steps: list[Callable[[], object]] = [
        lambda: settle(deployer, name),
        lambda: deployer.catalog.retire_release(
            release.id, reason=reason, failed=True, details={"logs": logs}
        ),
        lambda: finish_removal(deployer, release),
        lambda: dismantle_if_empty(deployer, name),
    ]
    for step in steps:
        try:
            step()
        except Exception as error:  # a cleanup never hides the failure before it
            deployer.report.say(
                f"Left behind: side {name}-{release.number} ({error}). Remove it: baker env reconcile {name}"
            )
            return
    for machine, log in logs.items():
        tail = "\n".join(f"    {line}" for line in log.splitlines()[-8:])
        deployer.report.say(
            f"The end of {machine}'s log (all that is kept: baker logs {name}/{machine}):\n{tail}"
        )


def collect_logs(
    deployer: Deployer, environment: str, release: Release, machines: Sequence[FleetMachine]
) -> dict[str, str]:
    """The ends of the logs of those that were not well; of the first, where all were."""
    if not machines:
        with suppress(BakerError):
            found = deployer.fleet.machines(environment)
            machines = [machine for machine in found if machine.number == release.number]
    sick = [machine for machine in machines if not (machine.alive and machine.healthy)]
    logs = {}
    for machine in (sick or machines[:1])[:4]:
        with suppress(BakerError):
            logs[machine.name] = deployer.fleet.log(environment, machine.name, LOG_LINES)
    return logs


def recover(deployer: Deployer, record: EnvironmentRecord) -> Collection[str]:
    """Finish or undo what a dead deployment left. The caller holds the lock, so nobody else is at work.

    Returns what was done, for people.
    """
    done = []
    for release in record.releases:
        if release.state in UNDONE:
            reason = (
                release.abort
                or f"its deployment died while {release.state} ({release.host}, process {release.pid})"
            )
            take_back(deployer, release, reason)
            done.append(f"took back {release.image}: {reason}")
        elif release.state is ReleaseState.RETIRING:
            finish_removal(deployer, release)
            done.append(f"finished removing side {record.name}-{release.number}")
    if done:
        deployer.report.say("\n".join(done))
    if record.live is not None:
        settle(deployer, record.name)
    return done
