"""env ls, show, history: what is known of environments, of those of other hosts too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli import groups
from baker.cli.deployers import Json, Name, is_here, make_deployer, options_of
from baker.cli.environment_seen import Seen, event_json, listed_json, see, shown_json
from baker.cli.wiring import explaining_refusals, open_catalog
from baker.console import Console, show_age
from baker.deploy.release import EnvironmentEvent, Release, ReleaseState
from baker.errors import BadReference, BakerError
from baker.model import ImageStatus

if TYPE_CHECKING:
    from baker.deploy.fleet import FleetMachine
    from baker.model import Image
    from baker.settings import Settings


def add_commands(_app: typer.Typer) -> None:
    groups.env.command("ls")(list_environments)
    groups.env.command("show")(show)
    groups.env.command("history")(show_history)


# --- looking --------------------------------------------------------------------------------------------


def collect_due(settings: Settings, console: Console, names: Sequence[str] | None = None) -> None:
    """Collect what is past its roll-back window, where this user may. Never an error: others look too."""
    if os.geteuid() != 0 and names is None:
        return
    with suppress(BakerError, OSError), open_catalog(settings, read_only=True) as catalog:
        due = [
            record.name
            for record in catalog.environments()
            if (names is None or record.name in names)
            and is_here(settings, record)
            and (record.target != "local" or os.geteuid() == 0)
            and catalog.due_releases(record.name)
        ]
    if not due:
        return
    from baker.deploy.collecting import collect_if_free
    from baker.interrupt import Interruption

    with suppress(BakerError, OSError), open_catalog(settings) as catalog:
        for name in due:
            record = catalog.environment(name)
            if record is not None:
                deployer = make_deployer(settings, catalog, record.target, console, Interruption())
                with suppress(BakerError, OSError):
                    collect_if_free(deployer, name)


def list_files(project: Path | None) -> dict[str, dict[str, Any]]:
    """Environments of the project by name, as their files have them; a broken one without values."""
    from baker.deploy.reading import list_environments as list_names
    from baker.toml_file import Problem, read_document

    found = {}
    for name in list_names(project) if project else ():
        assert project is not None
        document = read_document(project / "environments" / f"{name}.toml", project)
        found[name] = {} if isinstance(document, Problem) else dict(document.values)
    return found


# --- env ls ---------------------------------------------------------------------------------------------


@explaining_refusals()
def list_environments(
    context: typer.Context,
    as_json: Json = False,
) -> int:
    """List environments: what serves, where, since when.

    Those of this project that were never deployed are listed too.
    """
    settings = options_of(context).settings()
    console = Console(as_json=as_json)
    collect_due(settings, console)
    files = list_files(settings.project)
    with open_catalog(settings, read_only=True, or_empty=True) as catalog:
        records = {record.name: record for record in catalog.environments()}
        seen = [see(settings, catalog, name, record) for name, record in records.items()]
        description = catalog.description
    seen += [
        Seen(name=name, target=str(values.get("target", "")), record=None, lock=None)
        for name, values in files.items()
        if name not in records
    ]
    seen.sort(key=lambda one: one.name)
    if as_json:
        console.result_json({"environments": [listed_json(one) for one in seen]})
        return 0
    if not seen:
        console.say("No environments. Describe one in environments/NAME.toml, then: baker deploy NAME")
        return 0
    header = ("NAME", "IMAGE", "MACHINES", "STATE", "TARGET", "PLACE", "SINCE")
    console.table(header, [list_row(one, files.get(one.name, {})) for one in seen])
    for one in seen:
        if one.unseen and one.record and is_here(settings, one.record):
            console.say(f"{one.name} was not looked at: {one.unseen}")
    console.say(console.style(f"in {description}", "dim"))
    return 0


def list_row(one: Seen, file: dict[str, Any]) -> tuple[str, ...]:
    release = one.shown
    if release is None:
        size = str(file.get("machines", 1)) if one.state == "not deployed" and file else ""
        return (one.name, str(file.get("recipe", "")), size, one.state, one.target, "", "")
    place = one.place or (f"on {one.unseen.rpartition(' ')[2]}" if one.unseen and not one.machines else "")
    since = show_age(release.live_since or release.started)
    return (one.name, release.image, count_healthy(one, release), one.state, one.target, place, since)


def count_healthy(one: Seen, release: Release) -> str:
    """``2/2``; ``?/2`` where the machines were not seen."""
    machines = one.machines_of(release)
    if one.traffic is None:
        return f"?/{release.size}"
    return (
        f"{sum(machine.alive and machine.healthy for machine in machines)}/{max(len(machines), release.size)}"
    )


# --- env show -------------------------------------------------------------------------------------------


@explaining_refusals()
def show(
    context: typer.Context,
    name: Name,
    first_boot: Annotated[
        bool,
        typer.Option("--first-boot", help="What each machine was, or would be, told; secrets are masked."),
    ] = False,
    as_json: Json = False,
) -> int:
    """Show an environment: its sides, their images, machines and traffic, and until when it can roll back."""
    settings = options_of(context).settings()
    console = Console(as_json=as_json)
    if first_boot:
        from baker.cli.first_boots import show_first_boot

        return show_first_boot(settings, console, name)
    collect_due(settings, console, [name])
    with open_catalog(settings, read_only=True, or_empty=True) as catalog:
        record = catalog.environment(name)
        files = list_files(settings.project)
        if record is None and name not in files:
            raise unknown(name, [*files, *(one.name for one in catalog.environments())])
        one = see(settings, catalog, name, record)
        releases = one.record.releases if one.record else ()
        images = {release.id: catalog.image(release.recipe, release.version) for release in releases}
    if as_json:
        console.result_json(shown_json(one, images))
        return 0
    if not releases:
        what = "removed" if record else "never deployed"
        console.result(f"{name}: {what}")
        console.say(
            f"Deploy to it: baker deploy {name}" + (f". Its past: baker env history {name}" if record else "")
        )
        return 0
    for line in describe_environment(console, one):
        console.result_folded(line, hang=12)
    for release in releases:
        console.result("")
        for line in describe_side(console, one, release, images[release.id]):
            console.result_folded(line, hang=14)
        machines = one.machines_of(release)
        if machines:
            header = ("  MACHINE", "ADDRESS", "HEALTH", "AGE", "SESSIONS")
            console.table(header, [machine_row(machine) for machine in machines])
    return 0


def unknown(name: str, known: Sequence[str]) -> BadReference:
    from baker.toml_file import nearest

    return BadReference(
        f'no environment "{name}"{nearest(name, known)}', hint="List what there is: baker env ls"
    )


def describe_environment(console: Console, one: Seen) -> list[str]:
    record = one.record
    assert record is not None
    lines = [f"{one.name}  {one.state}"]
    lines.append(f"  target    {record.target} ({record.store.partition('#')[0]})")
    if one.place:
        lines.append(f"  place     {one.place}")
    warm = record.warm
    if warm is not None and warm.warm_until is not None:
        left = (warm.warm_until - datetime.now(UTC)).total_seconds()
        until = f"{warm.warm_until:%Y-%m-%d %H:%M:%S} UTC"
        lines.append(f"  back to   {warm.image} until {until}" + (" (over)" if left <= 0 else ""))
    if one.lock is not None:
        lines.append(
            f"  at work   {one.lock.actor} on {one.lock.host} (process {one.lock.pid}) "
            f"for {show_age(one.lock.since)}"
        )
    if one.unseen:
        lines.append(f"  {console.style('not looked at', 'yellow')}: {one.unseen}")
    return lines


WORDS = {ReleaseState.STARTING: "new", ReleaseState.SHIFTING: "new"}
"""How sides are called beside the states of their releases."""


def describe_side(console: Console, one: Seen, release: Release, image: Image) -> list[str]:
    role = WORDS.get(release.state, str(release.state))
    flag = ""
    if image.status not in (ImageStatus.AVAILABLE,):
        why = f": {image.status_reason}" if image.status_reason else ""
        flag = f"  {console.style(f'{image.status}{why}', 'red')}"
    lines = [f"side {one.name}-{release.number}  {role}  {release.image}{flag}"]
    share = one.share_of(release)
    if share is not None:
        lines.append(f"  traffic     {share} %")
    began = f"{show_age(release.live_since)} ago" if release.live_since else "not yet"
    lines.append(f"  serves      since {began}" if release.live_since else f"  serves      {began}")
    lines.append(f"  deployed    {show_age(release.started)} ago by {release.actor} on {release.host}")
    if release.abort:
        lines.append(f"  taken back  {release.abort}")
    if release.reason:
        lines.append(f"  reason      {release.reason}")
    lines.append(f"  image       made {show_age(image.created)} ago; leased to env:{one.name}")
    if release.audit:
        lines.append(f"  audit       {describe_audit(release)}")
    return lines


def describe_audit(release: Release) -> str:
    """What ``env audit`` found last, and when."""
    audit = release.audit or {}
    machines = audit.get("machines", {})
    drifted = [f"{name} ({len(one['drifts'])})" for name, one in machines.items() if one["drifts"]]
    unseen = [name for name, one in machines.items() if one["error"]]
    parts = [f"drift on {', '.join(sorted(drifted))}"] if drifted else []
    parts += [f"not looked at: {', '.join(sorted(unseen))}"] if unseen else []
    age = show_age(datetime.fromisoformat(audit["at"])) + " ago: " if "at" in audit else ""
    return age + ("; ".join(parts) or "unmodified")


def machine_row(machine: FleetMachine) -> tuple[str, ...]:
    return (
        f"  {machine.name}",
        machine.address,
        describe_health(machine),
        show_age(machine.started) if machine.started else "",
        "" if machine.sessions is None else str(machine.sessions),
    )


def describe_health(machine: FleetMachine) -> str:
    word = "dead" if not machine.alive else "healthy" if machine.healthy else "sick"
    detail = machine.detail if word != "healthy" else ""
    return f"{word} ({detail})" if detail else word


# --- env history ----------------------------------------------------------------------------------------


@explaining_refusals()
def show_history(
    context: typer.Context,
    name: Name,
    last: Annotated[
        int | None, typer.Option("--last", metavar="N", min=1, help="Only the newest so many.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Show what became of an environment, newest first: who deployed what, what failed and why."""
    settings = options_of(context).settings()
    console = Console(as_json=as_json)
    collect_due(settings, console, [name])
    with open_catalog(settings, read_only=True, or_empty=True) as catalog:
        if catalog.environment(name) is None:
            files = list_files(settings.project)
            if name not in files:
                raise unknown(name, [*files, *(one.name for one in catalog.environments())])
        events = catalog.environment_events(name, limit=last)
    if as_json:
        console.result_json({"environment": name, "events": [event_json(event) for event in events]})
        return 0
    if not events:
        console.say(f"Nothing was ever deployed to {name}")
        return 0
    rows = [
        (
            f"{event.at:%Y-%m-%d %H:%M:%S}",
            event.event,
            "" if event.number is None else str(event.number),
            event.image or "",
            event.actor,
            describe_reason(event),
        )
        for event in events
    ]
    console.table(("WHEN (UTC)", "WHAT", "RELEASE", "IMAGE", "WHO", "WHY"), rows)
    return 0


def describe_reason(event: EnvironmentEvent) -> str:
    parts = [event.reason or ""]
    if event.event == "replaced":
        parts.append(
            f"{', '.join(event.details.get('old', ()))} -> {', '.join(event.details.get('new', ()))}"
        )
    if logs := event.details.get("logs"):
        parts.append(f"logs kept: {', '.join(sorted(logs))}")
    return "; ".join(part for part in parts if part)
