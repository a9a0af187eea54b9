"""status, cancel, logs: bakes that run, and those that have ended."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from baker import identity
from baker.cli.completion import complete_bake, complete_log
from baker.cli.wiring import Options, explaining_refusals, open_catalog
from baker.console import Console, show_age, show_seconds
from baker.errors import BakerError, CatalogError, UsageError
from baker.model import BakeRecord, Outcome, StageRecord

TICK_SECONDS = 0.1
BakeId = Annotated[
    str,
    typer.Argument(metavar="BAKE", help="Its id, or the beginning of it.", autocompletion=complete_bake),
]
Json = Annotated[bool, typer.Option("--json", help="Print the documented JSON.")]


def add_commands(app: typer.Typer) -> None:
    app.command("status")(status)
    app.command("cancel")(cancel)
    app.command("logs")(logs)


# --- status -------------------------------------------------------------------------------------------


@explaining_refusals()
def status(
    context: typer.Context,
    last: Annotated[int, typer.Option("--last", metavar="N", min=0, help="How many that have ended.")] = 5,
    as_json: Json = False,
) -> int:
    """Show the bakes that run now, and the last ones that have ended."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    with open_catalog(settings, read_only=True, or_empty=True) as catalog:
        running = catalog.bakes(running_only=True)
        newest = catalog.bakes(limit=last + len(running))
        description = catalog.description
    finished = [record for record in newest if record.outcome is not None][:last]
    if as_json:
        console.result_json(
            {
                "running": [running_json(record, lives(settings.home, record)) for record in running],
                "finished": [finished_json(record) for record in finished],
            }
        )
        return 0
    show_work = name_works([*running, *finished])
    if not running:
        console.say("Nothing is baked now")
    else:
        console.table(
            ("BAKE", "RECIPE", "STAGE", "SINCE", "WHO", "HOST"),
            [
                (
                    record.id,
                    show_work(record),
                    describe_stage(record, lives(settings.home, record)),
                    show_age(record.started),
                    record.actor,
                    record.host,
                )
                for record in running
            ],
        )
    if running and finished:
        console.result("")
    if finished:
        console.table(
            ("BAKE", "RECIPE", "OUTCOME", "ENDED", "TOOK", "WHO"),
            [
                (
                    record.id,
                    show_work(record),
                    f"{record.outcome} {record.image or ''}".rstrip(),
                    f"{show_age(record.finished)} ago" if record.finished else "",
                    show_seconds(seconds_of(record)),
                    record.actor,
                )
                for record in finished
            ],
        )
    if newest:
        console.say(console.style(f"in {description}", "dim"))
    return 0


def name_works(records: Sequence[BakeRecord]) -> Callable[[BakeRecord], str]:
    """How each of these bakes is named: by its recipe, and by what else tells them apart.

    ``web`` where all are for one target, else ``web/aws``; ``web/aws/arm64`` for one of several
    architectures.
    """
    archs: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        archs[record.target].add(record.arch)

    def name(record: BakeRecord) -> str:
        parts = [record.recipe]
        if len(archs) > 1 or len(archs[record.target]) > 1:
            parts.append(record.target)
        if len(archs[record.target]) > 1:
            parts.append(record.arch)
        return "/".join(parts)

    return name


def lives(home: Path, record: BakeRecord) -> bool | None:
    """Whether the process of a running bake is there; None if that cannot be told from this host."""
    if record.host != identity.host_name():
        return None
    return identity.is_alive(home, record.id)


def describe_stage(record: BakeRecord, alive: bool | None) -> str:
    stage = current_stage(record)
    name = str(stage.stage) if stage else "starting"
    return f"died in {name}" if alive is False else name


def current_stage(record: BakeRecord) -> StageRecord | None:
    """The stage that a running bake is in; between two, the one that ended last."""
    return max(record.stages, key=lambda stage: stage.started, default=None)


def seconds_of(record: BakeRecord) -> float:
    spent = (record.finished or datetime.now(UTC)) - record.started
    return max(0.0, round(spent.total_seconds(), 3))  # the clock may have been set back meanwhile


# --- cancel -------------------------------------------------------------------------------------------


@explaining_refusals()
def cancel(context: typer.Context, bake_id: BakeId, as_json: Json = False) -> int:
    """Stop a running bake of this host.

    Waits until it is cleaned up. Others of its process go on.
    """
    from baker.cancelling import forget_request, request_cancel

    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    with open_catalog(settings, read_only=True) as catalog:
        record = catalog.bake(bake_id)
        require_running(settings.home, record)
        request_cancel(settings.home, record.id, settings.actor)
        console.say(f"Cancelling bake {record.id} of {record.recipe}")
        while identity.is_alive(settings.home, record.id):
            time.sleep(TICK_SECONDS)
        forget_request(settings.home, record.id)
        record = catalog.bake(record.id)
        left = catalog.open_entries(record.id)
    if record.outcome is Outcome.BAKED:
        raise BakerError(
            f"bake {record.id} could not be cancelled any more: it came to {record.image}",
            hint=f"See what it is: baker image show {record.image}",
        )
    if as_json:
        names = [{"kind": entry.resource.kind, "id": entry.resource.id} for entry in left]
        console.result_json({**finished_json(record), "left_behind": names})
    else:
        console.result_folded(
            f"cancelled {record.id} ({record.recipe}): {record.error or 'its process died'}"
        )
    if left:
        things = ", ".join(f"{entry.resource.kind} {entry.resource.id}" for entry in left)
        console.say(f"Left behind: {things}. Remove it: baker system sweep --bake {record.id}")
    return int(bool(left))


def require_running(home: Path, record: BakeRecord) -> None:
    """Raises BakerError, saying why there is nothing to cancel."""
    if record.finished is not None:
        came_to = f"{record.outcome} {record.image or ''}".rstrip()
        raise BakerError(
            f"bake {record.id} of {record.recipe} ended {show_age(record.finished)} ago: {came_to}",
            hint="See what runs: baker status",
        )
    if record.host != identity.host_name():
        raise BakerError(
            f"bake {record.id} of {record.recipe} runs on {record.host}, not on this host",
            hint=f"On {record.host}: baker cancel {record.id}",
        )
    if not identity.is_alive(home, record.id):
        raise BakerError(
            f"the process of bake {record.id} of {record.recipe} died: there is nothing to cancel",
            hint="Remove what it left: baker system sweep",
        )


# --- logs ---------------------------------------------------------------------------------------------


@explaining_refusals()
def logs(
    context: typer.Context,
    bake_id: Annotated[
        str,
        typer.Argument(
            metavar="BAKE|ENV/MACHINE",
            help="A bake's id, or the beginning of it; or a machine of an environment.",
            autocompletion=complete_log,
        ),
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the bake has ended.")] = False,
) -> int:
    """Print the complete log of a bake, or of a machine of an environment."""
    options: Options = context.obj
    console = Console()
    settings = options.settings()
    if "/" in bake_id:
        from baker.cli.machine_logs import print_machine_log

        if follow:
            raise UsageError("--follow is for bakes: a machine's log is printed as it is now")
        return print_machine_log(settings, console, bake_id)
    with open_catalog(settings, read_only=True) as catalog:
        record = catalog.bake(bake_id)

        def has_ended() -> bool:
            alive = lives(settings.home, record)
            return catalog.bake(record.id).finished is not None if alive is None else not alive

        try:
            for line in read_log(record, has_ended if follow else lambda: True):
                console.result(line)
        except CatalogError as error:
            while follow and catalog.bake(record.id).finished is None:
                time.sleep(TICK_SECONDS * 10)
            for line in read_kept_log(record, catalog.kept_log(record.id), error):
                console.result(line)
            console.say(f"(as the catalog keeps it; the file is {record.log_path} on {record.host})")
        if follow:
            console.say(describe_end(catalog.bake(record.id)))
    return 0


def read_log(record: BakeRecord, has_ended: Callable[[], bool]) -> Iterator[str]:
    """The lines of a log as they come, until the bake has ended. Raises CatalogError."""
    path = Path(record.log_path)
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except OSError as error:
        where = "" if record.host == identity.host_name() else f" (the bake ran on {record.host})"
        hint = "Run it with sudo, or ask its owner." if isinstance(error, PermissionError) else None
        raise CatalogError(f"the log {path} cannot be read{where}: {error.strerror}", hint=hint) from error
    with file:
        begun = ""
        while True:
            ended = has_ended()  # asked first: what it wrote until then is read below
            for line in file:
                begun += line
                if begun.endswith("\n"):
                    yield begun.removesuffix("\n")
                    begun = ""
            if ended:
                break
            time.sleep(TICK_SECONDS)
        if begun:
            yield begun


def read_kept_log(record: BakeRecord, kept: bytes | None, refused: CatalogError) -> list[str]:
    """The lines of a log whose file this user cannot read here. Raises CatalogError."""
    from baker.log import unpack_log

    if kept is not None:
        return unpack_log(kept)
    if record.finished is not None or record.host == identity.host_name():
        raise refused
    raise CatalogError(
        f"bake {record.id} of {record.recipe} is not finished: until then its log is only on {record.host}",
        hint=f"Wait for its end: baker logs --follow {record.id}. On {record.host}: baker logs {record.id}",
    ) from refused


def describe_end(record: BakeRecord) -> str:
    if record.outcome is None:
        return "Its process died. Remove what it left: baker system sweep"
    return f"{record.outcome} {record.image}" if record.image else f"{record.outcome}: {record.error}"


# --- documented JSON ----------------------------------------------------------------------------------


def running_json(record: BakeRecord, alive: bool | None) -> dict[str, Any]:
    """One element of ``running`` in ``status --json``. ``alive`` is null on another host."""
    stage = current_stage(record)
    return {
        **_identity_json(record),
        "pid": record.pid,
        "stage": str(stage.stage) if stage else None,
        "alive": alive,
        "started": record.started,
        "seconds": seconds_of(record),
        "log": record.log_path,
    }


def finished_json(record: BakeRecord) -> dict[str, Any]:
    """One element of ``finished`` in ``status --json``; what ``cancel --json`` begins with."""
    return {
        **_identity_json(record),
        "outcome": None if record.outcome is None else str(record.outcome),
        "image": record.image,
        "error": record.error,
        "started": record.started,
        "finished": record.finished,
        "seconds": seconds_of(record),
        "log": record.log_path,
    }


def _identity_json(record: BakeRecord) -> dict[str, Any]:
    return {
        "bake": record.id,
        "recipe": record.recipe,
        "target": record.target,
        "arch": record.arch,
        "actor": record.actor,
        "host": record.host,
    }
