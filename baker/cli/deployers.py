"""What the commands of environments share: who deploys, and which environment is meant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from baker import identity
from baker.cli.completion import complete_environment
from baker.cli.wiring import Options, base_settings, make_fleet, require_configured
from baker.errors import BadReference, HostError

if TYPE_CHECKING:
    from baker.catalog import Catalog
    from baker.console import Console
    from baker.deploy.deployer import Deployer
    from baker.deploy.release import EnvironmentRecord
    from baker.interrupt import Interruption
    from baker.settings import Settings

Name = Annotated[str, typer.Argument(metavar="ENV", autocompletion=complete_environment)]
Json = Annotated[bool, typer.Option("--json", help="Print the documented JSON.")]
Why = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Kept in the environment's history.")
]
Wait = Annotated[
    str | None,
    typer.Option("--wait", metavar="10m", help="How long to wait while somebody else deploys there."),
]


def make_deployer(
    settings: Settings, catalog: Catalog, target: str, console: Console, interruption: Interruption
) -> Deployer:
    """Who deploys to environments of one target."""
    from baker.deploy.deployer import Deployer

    require_configured(settings, target)
    return Deployer(
        catalog=catalog,
        fleet=make_fleet(settings, target),
        home=settings.home,
        report=console,
        interruption=interruption,
    )


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Within, Ctrl-C takes back what is begun; what is shielded is finished first."""
    from baker.interrupt import Interruption

    interruption = Interruption()
    with interruption.installed():
        yield interruption


def read_wait(wait: str | None) -> float:
    """Seconds. Raises UsageError."""
    if wait is None:
        return 0.0
    from baker.ages import parse_age

    return float(parse_age(wait))


def find_environment(catalog: Catalog, name: str) -> EnvironmentRecord:
    """One that was deployed. Raises BadReference, naming the nearest."""
    record = catalog.environment(name)
    if record is None:
        from baker.toml_file import nearest

        near = nearest(name, [known.name for known in catalog.environments()])
        raise BadReference(
            f"nothing was ever deployed to {name}{near}",
            hint=f"Deploy to it: baker deploy {name}. List what there is: baker env ls",
        )
    return record


def is_here(settings: Settings, record: EnvironmentRecord) -> bool:
    """Whether this command may change it: a local one is served from one store. One of AWS from anywhere."""
    if record.target != "local" or not record.releases:
        return True
    return record.store == identity.store_name(settings.home)


def require_here(settings: Settings, record: EnvironmentRecord) -> None:
    """Raises HostError, saying where it is served."""
    if is_here(settings, record):
        return
    host, _, folder = record.store.partition(":")
    if host == identity.host_name():
        home = folder.partition("#")[0]
        raise HostError(
            f"{record.name} is served from another store of this host ({home}): run it there",
            hint=f"With BAKER_HOME={home}",
        )
    raise HostError(f"{record.name} is served from {host}: run it there", hint=f"On {host}, the same command")


def options_of(context: typer.Context) -> Options:
    options: Options = context.obj
    return options


def region_of(settings: Settings) -> str:
    """Where environments of AWS are, unless their files say otherwise."""
    return str(base_settings(settings, "aws").get("region", ""))
