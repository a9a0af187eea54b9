"""Roll-back: traffic goes back at once."""

from __future__ import annotations

from baker.deploy.collecting import collect_environment, settle
from baker.deploy.deployer import Deployer, environment_of
from baker.deploy.recovery import recover
from baker.deploy.release import EnvironmentRecord, Release
from baker.errors import DeployError

ROLL_BACK_WAIT_SECONDS = 120.0
"""How long a roll-back waits for a deployment at work to take itself back."""


def roll_back(deployer: Deployer, environment: str, *, reason: str | None = None) -> Release:
    """Traffic goes back at once: to the warm side, or away from a deployment that is at work or died.

    Returns the release that serves now. Raises CatalogError where there is nothing to go back to.
    """
    asked = reason or "rolled back"
    aborted = deployer.catalog.request_abort(environment, asked)
    with deployer.holding(environment, wait_seconds=ROLL_BACK_WAIT_SECONDS):
        record = deployer.catalog.environment(environment)
        if aborted is not None:
            if record is not None:
                recover(deployer, record)
            now = deployer.catalog.environment(environment)
            live = now.live if now else None
            if live is None:
                raise DeployError(
                    f"the deployment of {aborted.image} was taken back: {environment} serves nothing"
                )
            return live
        warm = record.warm if record else None
        if warm is not None:
            require_machines(deployer, environment, warm)
        live, _ = deployer.catalog.swap_live(
            environment, window=window_of(record), reason=reason, release_id=warm.id if warm else None
        )
        with deployer.interruption.shielded():
            settle(deployer, environment, standby=False)
        deployer.report.say(f"{environment} serves {live.image} again")
        collect_environment(deployer, environment)
        return live


def window_of(record: EnvironmentRecord | None) -> float:
    live = record.live if record else None
    return environment_of(live).rollout.window if live else 0.0


def require_machines(deployer: Deployer, environment: str, warm: Release) -> None:
    """Raises DeployError if no machine of the warm side could take the traffic."""
    machines = [one for one in deployer.fleet.machines(environment) if one.number == warm.number]
    if not any(machine.alive for machine in machines):
        raise DeployError(
            f"no machine of {warm.image} (side {environment}-{warm.number}) runs any more",
            hint=f"Start new ones: baker env reconcile {environment}",
        )
