"""logs ENV/MACHINE: of a machine that is there, or of one that was taken back."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from baker.cli.deployers import find_environment, require_here
from baker.cli.wiring import make_fleet, open_catalog
from baker.errors import BadReference, BakerError, UsageError

if TYPE_CHECKING:
    from baker.catalog import Catalog
    from baker.console import Console
    from baker.deploy.release import EnvironmentRecord
    from baker.settings import Settings


def print_machine_log(settings: Settings, console: Console, word: str) -> int:
    """``word`` is ENV/MACHINE. Raises BadReference, naming the machines that have a log."""
    name, _, machine = word.partition("/")
    with open_catalog(settings, read_only=True) as catalog:
        record = find_environment(catalog, name)
        kept = list_kept(catalog, name)
        log = None if machine in kept else read_log_of(settings, record, machine)
        if log is None:
            log = kept.get(machine)
        if log is None:
            raise unknown_machine(settings, record, machine, sorted(kept))
    if machine in kept:
        console.say("(the end of it, kept when the machine was taken back)")
    console.result(log.rstrip("\n"))
    return 0


def list_kept(catalog: Catalog, name: str) -> dict[str, str]:
    """By machine, what is kept of those that were removed; the newest of each."""
    found: dict[str, str] = {}
    for event in catalog.environment_events(name):
        for machine, log in event.details.get("logs", {}).items():
            found.setdefault(machine, log)
    return found


def read_log_of(settings: Settings, record: EnvironmentRecord, machine: str) -> str | None:
    """None for a machine that is not there."""
    if not record.releases:
        return None
    require_here(settings, record)
    try:
        return make_fleet(settings, record.target).log(record.name, machine)
    except BadReference:
        return None


def unknown_machine(
    settings: Settings, record: EnvironmentRecord, machine: str, kept: list[str]
) -> UsageError:
    there: list[str] = []
    if record.releases:
        with suppress(BakerError):
            there = [one.name for one in make_fleet(settings, record.target).machines(record.name)]
    named = ", ".join(f"{record.name}/{one}" for one in [*there, *kept])
    return BadReference(
        f"{record.name} has no machine {machine}" if machine else f"which machine of {record.name}?",
        hint=f"There are logs of {named}" if named else f"See what it had: baker env history {record.name}",
    )
