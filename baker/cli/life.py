"""image deprecate, revoke, restore, label."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.ages import AGE, parse_age
from baker.cli import groups
from baker.cli.channels import Json, gate_of, move_json
from baker.cli.images import describe_state, image_json
from baker.cli.promoting import Ref, Yes
from baker.cli.publishing import publish_moved
from baker.cli.wiring import Options, open_catalog
from baker.console import Console
from baker.errors import UsageError
from baker.gates import LABEL_KEY
from baker.model import Image, Reference
from baker.settings import Settings

if TYPE_CHECKING:
    from baker.catalog import Catalog
    from baker.lifecycle import FallBack, Revocation

Message = Annotated[
    str | None, typer.Option("--message", help="Said to whoever uses it: what to use instead.")
]


def add_commands(_app: typer.Typer) -> None:
    groups.image.command("deprecate")(deprecate)
    groups.image.command("revoke")(revoke)
    groups.image.command("restore")(restore)
    groups.image.command("label")(label)


# --- deprecate, restore ---------------------------------------------------------------------------------


def deprecate(
    context: typer.Context,
    reference: Ref,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="DATE|AGE", help="2026-12-31, 2026-12-31T18:00 (UTC), or in 30d."),
    ] = None,
    message: Message = None,
    as_json: Json = False,
) -> int:
    """Warn whoever uses an image, at once or from some day on. It is `latest` no longer then."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    begin = read_moment(at, datetime.now(UTC)) if at else None
    with open_catalog(options.settings()) as catalog:
        image = catalog.resolve(Reference.parse(reference), allow_unusable=True)
        image = catalog.deprecate(image.recipe, image.version, message=message, from_=begin)
    print_image(console, image, f"deprecated from {begin:%Y-%m-%d %H:%M} UTC on" if begin else "deprecated")
    return 0


def read_moment(text: str, now: datetime) -> datetime:
    """A date, a moment (UTC unless it says), or a length of time from now on. Raises UsageError."""
    if re.match(AGE, text):
        return now + timedelta(seconds=parse_age(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is neither a date nor a length of time",
            hint="Write 2026-12-31, 2026-12-31T18:00, or 30d for in thirty days.",
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def restore(context: typer.Context, reference: Ref, as_json: Json = False) -> int:
    """Make a deprecated or revoked image what it was."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    with open_catalog(options.settings()) as catalog:
        image = catalog.resolve(Reference.parse(reference), allow_unusable=True)
        image = catalog.restore(image.recipe, image.version)
        below = catalog.descendants(image.recipe, image.version)
    print_image(console, image, str(image.status))
    still = [found.reference for found in below if found.status == "revoked"]
    if still:
        console.say(f"Built upon it and still revoked: {', '.join(still)}. Restore each that is good.")
    return 0


def print_image(console: Console, image: Image, what: str) -> None:
    if console.as_json:
        console.result_json(image_json(image))
    else:
        console.result(f"{image.reference} is {what}")


# --- label ----------------------------------------------------------------------------------------------


def label(
    context: typer.Context,
    reference: Ref,
    labels: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…")] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="KEY", help="Take a label away.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Give an image labels, or take some away; gates and retention can ask for them."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    added = dict(read_label(text) for text in labels or ())
    if not added and not remove:
        raise UsageError("label needs a KEY=VALUE, or --remove KEY")
    with open_catalog(options.settings()) as catalog:
        image = catalog.resolve(Reference.parse(reference), allow_unusable=True)
        image = catalog.label(image.recipe, image.version, added=added, removed=remove or ())
    if as_json:
        console.result_json(image_json(image))
    else:
        has = ", ".join(f"{key}={value}" for key, value in image.labels.items())
        console.result(f"{image.reference} has {'the labels ' + has if has else 'no labels'}")
    return 0


def read_label(text: str) -> tuple[str, str]:
    """Raises UsageError."""
    key, _, value = text.partition("=")
    if not re.fullmatch(LABEL_KEY, key) or not value.strip() or "\n" in value:
        raise UsageError(
            f"{text!r} is not a label", hint="Write KEY=VALUE, the key of letters, digits and ._/- within."
        )
    return key, value


# --- revoke ---------------------------------------------------------------------------------------------


def revoke(
    context: typer.Context,
    reference: Ref,
    reason: Annotated[str, typer.Option("--reason", help="Said to whoever is refused.")],
    descendants: Annotated[
        bool, typer.Option("--descendants", help="And all that is built upon it.")
    ] = False,
    falls_back: Annotated[
        bool | None,
        typer.Option(
            "--fall-back/--no-fall-back",
            help="Move the channels that hold it back to what they held before, or leave them.",
            show_default=False,
        ),
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Refuse an image everywhere, at once: nothing resolves, runs, promotes or builds upon it any more."""
    from baker.lifecycle import describe_revocation, fall_back, find_holding

    if not reason.strip():
        raise UsageError("--reason takes what is said to whoever is refused")
    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    with open_catalog(settings) as catalog:
        planned = describe_revocation(catalog, Reference.parse(reference), descendants=descendants)
        show_revocation(console, planned, descendants=descendants)
        ask_whether(console, yes=yes)
        moves = ask_fall_back(console, planned, falls_back)
        image = planned.image
        revoked = catalog.revoke(image.recipe, image.version, reason=reason, descendants=descendants)
        touched = {image.reference, *(found.reference for found in revoked)}
        fallen = [
            fall_back(
                catalog,
                channel,
                lambda name: gate_of(settings, name),
                f"{channel.move.held} was revoked: {reason}",
            )
            for channel in (find_holding(catalog, touched) if moves else ())
        ]
        lagging = publish_fallen(catalog, settings, console, fallen)
    print_revocation(console, planned, revoked, fallen, lagging)
    return int(bool(lagging) or any(channel.move is None for channel in fallen))


def publish_fallen(
    catalog: Catalog, settings: Settings, console: Console, fallen: list[FallBack]
) -> list[str]:
    """Bring those who follow the channels after them; returns what lags."""
    lagging = []
    for move in [channel.move for channel in fallen if channel.move is not None]:
        image = catalog.image(move.recipe, move.to_version)
        lagging += publish_moved(catalog, settings, console, image, move.channel)
    return lagging


def show_revocation(console: Console, planned: Revocation, *, descendants: bool) -> None:
    console.say(f"{planned.image.reference} is {describe_state(planned.image)}")
    for found in planned.descendants:
        what = (
            "is revoked too" if descendants else "is flagged, and stays usable (--descendants revokes it too)"
        )
        console.say(f"  built upon it: {found.reference} {what}")
    for channel in planned.holding:
        console.say(f"  {channel.move.name} holds {channel.move.held}")
    for twin in planned.twins:
        console.say(f"  {twin} holds a build of it too, and is not revoked with it")


def ask_whether(console: Console, *, yes: bool) -> None:
    if not yes:
        if not console.can_ask():
            raise UsageError("revoke asks before it refuses an image", hint="In a script: --yes.")
        typer.confirm("Revoke it?", abort=True, err=True)


def ask_fall_back(console: Console, planned: Revocation, answer: bool | None) -> bool:
    """Whether the channels that hold it move back. Raises UsageError where nobody can be asked."""
    if answer is not None or not planned.holding:
        return bool(answer)
    if not console.can_ask():
        held = ", ".join(channel.move.name for channel in planned.holding)
        raise UsageError(
            f"{held} would hold a revoked image: say what becomes of that",
            hint="Give --fall-back (to what it held before) or --no-fall-back. Nothing was revoked.",
        )
    return typer.confirm("Move the channels back to what they held before?", default=True, err=True)


def print_revocation(
    console: Console,
    planned: Revocation,
    revoked: list[Image],
    fallen: list[FallBack],
    lagging: list[str],
) -> None:
    if console.as_json:
        console.result_json(revocation_json(planned, revoked, fallen, lagging))
        return
    if not revoked:
        console.say(f"{planned.image.reference} was revoked before")
    for image in reversed(revoked):
        console.result(f"{image.reference} is revoked: {image.status_reason}")
    for channel in fallen:
        if channel.move is not None:
            console.result(f"{channel.channel.move.name} is {channel.move.held} again")
        else:
            console.say(f"{channel.channel.move.name} stays, and is refused: {channel.why_not}")


def revocation_json(
    planned: Revocation, revoked: list[Image], fallen: list[FallBack], lagging: list[str]
) -> dict[str, Any]:
    return {
        "lagging": lagging,
        "image": planned.image.reference,
        "revoked": [image.reference for image in revoked],
        "flagged": [
            found.reference
            for found in planned.descendants
            if found.reference not in {image.reference for image in revoked}
        ],
        "channels": [
            {
                "channel": channel.channel.move.name,
                "held": channel.channel.move.held,
                "move": move_json(channel.move) if channel.move else None,
                "error": channel.why_not,
            }
            for channel in fallen
        ],
    }
