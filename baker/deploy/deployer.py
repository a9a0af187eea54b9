"""What deployments are run with: the catalog, a fleet, a lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from baker import identity
from baker.catalog import Catalog
from baker.deploy.environment import Environment, FirstBootFile, Health, Rollout
from baker.deploy.fleet import Fleet
from baker.deploy.release import Release
from baker.deploy.side import FirstBoot
from baker.interrupt import Interruption
from baker.locking import holding_lock
from baker.model import Reference

TICK_SECONDS = 0.25
LOOK_SECONDS = 0.5


class Reporter(Protocol):
    """Where a deployment says what it does."""

    def say(self, text: str) -> None: ...

    def status(self, text: str) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployer:
    """What deployments are run with. ``fleet`` is the one of the environment's target, ``home`` is
    BAKER_HOME."""

    catalog: Catalog
    fleet: Fleet
    home: Path
    report: Reporter
    interruption: Interruption
    clock: Callable[[], float] = time.monotonic

    @contextmanager
    def holding(self, environment: str, *, wait_seconds: float = 0.0) -> Iterator[str]:
        """Within, nobody else changes the environment. Yields the id of the holder. Raises LockHeld."""
        holder = identity.make_bake_id()
        with holding_lock(
            self.catalog,
            self.home,
            lock_name(environment),
            holder,
            on_lost=self.interruption.end,
            wait_seconds=wait_seconds,
            pause=self.interruption.pause,
        ):
            yield holder


def lock_name(environment: str) -> str:
    return f"env:{environment}"


# --- an environment as its release keeps it -----------------------------------------------------------


def describe_settings(environment: Environment, first_boot: FirstBoot | None) -> dict[str, Any]:
    """All that a release is made with, as JSON and without secrets: two that are equal come out the same."""
    settings: dict[str, Any] = asdict(environment)
    settings["image"] = str(environment.image)
    if first_boot is not None:
        settings["first_boot"]["text"] = first_boot.text
    return {key: as_json(value) for key, value in settings.items()}


def as_json(value: Any) -> Any:
    """As it comes back from a database; times and the like are text."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def environment_of(release: Release) -> Environment:
    """The environment as it was when the release was made: what runs does not follow an edited file."""
    kept = dict(release.settings)
    health, rollout, first_boot = kept.pop("health"), kept.pop("rollout"), kept.pop("first_boot")
    return Environment(
        **{**kept, "image": Reference.parse(kept["image"])},
        health=Health.from_json(health),
        rollout=Rollout(**{**rollout, "steps": tuple(rollout["steps"])}),
        first_boot=None
        if first_boot is None
        else FirstBootFile(
            template=first_boot["template"],
            data=first_boot["data"],
            secrets=tuple(first_boot["secrets"]),
            roles=tuple(first_boot["roles"]),
        ),
    )
