"""promote, rollback."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from baker.channels import ChannelMove
from baker.cli.channels import ChannelName, Json, RecipeName, gate_of, move_json
from baker.cli.completion import complete_reference
from baker.cli.publishing import publish_moved
from baker.cli.wiring import Options, open_catalog
from baker.console import Console, show_age, show_size
from baker.errors import UsageError
from baker.gates import describe_gate, refuse
from baker.life import list_warnings
from baker.model import Image, Reference

if TYPE_CHECKING:
    from baker.lifecycle import Move

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Ref = Annotated[
    str,
    typer.Argument(
        metavar="REF", help="web, web:12, web:prod or web@sha256:ab12…", autocompletion=complete_reference
    ),
]
Why = Annotated[str | None, typer.Option("--reason", help="Kept in the channel's history.")]
Override = Annotated[
    str | None,
    typer.Option("--override", metavar="REASON", help="Move it past its gate; what it misses is recorded."),
]


def add_commands(app: typer.Typer) -> None:
    app.command("promote")(promote)
    app.command("rollback")(roll_back)


def promote(
    context: typer.Context,
    reference: Ref,
    channel: ChannelName,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="AGE", help="The channel is removed by itself after so long: 7d."),
    ] = None,
    reason: Why = None,
    yes: Yes = False,
    override: Override = None,
    as_json: Json = False,
) -> int:
    """Move a channel to an image."""
    from baker.ages import parse_age
    from baker.lifecycle import describe_promotion
    from baker.previews import require_preview_channel

    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    gate = gate_of(settings, channel)
    with open_catalog(settings) as catalog:
        parsed = Reference.parse(reference)
        seconds = parse_age(expires) if expires is not None else None
        if seconds is not None:
            require_preview_channel(catalog, channel, [parsed.recipe], settings.named_channels)
        move = describe_promotion(catalog, parsed, channel, gate, expires=seconds)
        confirm_move(console, move, override=override, yes=yes, verb="promote")
        made = None
        if seconds is not None or not move.changes_nothing:
            made = catalog.promote(
                move.image.recipe,
                move.image.version,
                channel,
                reason=reason,
                expected_revision=move.revision,
                gate=gate,
                override=override,
                expires=seconds,
            )
        lagging = publish_moved(catalog, settings, console, move.image, channel)
        ends = catalog.channel_end(move.image.recipe, channel)
    print_moved(console, move, made, lagging, ends)
    return int(bool(lagging))


def roll_back(
    context: typer.Context,
    recipe: RecipeName,
    channel: ChannelName,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="REF",
            help="To this one, which it held before.",
            autocompletion=complete_reference,
        ),
    ] = None,
    reason: Why = None,
    yes: Yes = False,
    override: Override = None,
    as_json: Json = False,
) -> int:
    """Move a channel back to what it held before."""
    from baker.lifecycle import describe_roll_back

    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    gate = gate_of(settings, channel)
    with open_catalog(settings) as catalog:
        move = describe_roll_back(
            catalog,
            recipe,
            channel,
            gate,
            to=Reference.parse(to) if to else None,
            overriding=override is not None,
        )
        for passed, why in move.skipped:
            console.say(f"{passed} is passed over: {why}")
        confirm_move(console, move, override=override, yes=yes, verb="rollback")
        made = None
        if not move.changes_nothing and move.revision is not None:
            made = catalog.roll_back(
                recipe,
                move.image.version,
                channel,
                reason=reason,
                expected_revision=move.revision,
                gate=gate,
                override=override,
            )
        lagging = publish_moved(catalog, settings, console, move.image, channel)
        ends = catalog.channel_end(recipe, channel)
    print_moved(console, move, made, lagging, ends)
    return int(bool(lagging))


def confirm_move(console: Console, move: Move, *, override: str | None, yes: bool, verb: str) -> None:
    """Show what would change, and ask. Raises GateError, UsageError, or Abort for a no."""
    if override is not None and not override.strip():
        raise UsageError("--override takes the reason, which is kept in the channel's history")
    if move.changes_nothing:
        console.say(f"{move.name} is {move.image.reference} already")
        return
    show_move(console, move)
    if move.missing and override is None:
        raise refuse(move.image, move.channel, move.missing)
    for part in move.missing:
        console.say(f"  {console.style('overridden', 'yellow')}  {part.what}")
    if not yes:
        if not console.can_ask():
            raise UsageError(f"{verb} asks before it moves a channel", hint="In a script: --yes.")
        typer.confirm("Move it?", abort=True, err=True)


def show_move(console: Console, move: Move) -> None:
    from baker.progress_console import describe_difference

    image, held = move.image, move.held
    console.say(f"{move.name}: {held.reference if held else 'nothing'} -> {image.reference}")
    if held is not None and move.last is not None:
        console.say(
            f"  holds       {describe_image(held)}, put there {show_age(move.last.at)} ago "
            f"by {move.last.actor}{describe_reason(move.last.reason)}"
        )
    console.say(f"  gets        {describe_image(image)}")
    if move.difference is not None:
        console.say(f"  changes     {describe_difference(move.difference)}")
    if not move.gate.empty:
        console.say(f"  gate        {describe_gate(move.gate)}")
    for warning in [*list_warnings(image), *list_abandoned(move)]:
        console.say(f"  {console.style('warning', 'yellow')}     {warning}")


def list_abandoned(move: Move) -> list[str]:
    """Targets that the channel's image has a build for now and would not have then."""
    if move.held is None:
        return []
    lost = {build.target for build in move.held.builds} - {build.target for build in move.image.builds}
    return [
        f"{move.image.reference} has no build for {target}: who follows {move.name} there stays with "
        f"{move.held.reference}"
        for target in sorted(lost)
    ]


def describe_image(image: Image) -> str:
    size = show_size(sum(build.size_bytes for build in image.builds))
    return f"{image.reference}, made {show_age(image.created)} ago, {size}"


def describe_reason(reason: str | None) -> str:
    return f": {reason}" if reason else ""


def print_moved(
    console: Console,
    move: Move,
    made: ChannelMove | None,
    lagging: list[str],
    ends: datetime | None,
) -> None:
    """``ends`` is when the channel expires, if it does.

    ``lagging`` are places that do not follow the channel yet; that was said already.
    """
    if console.as_json:
        console.result_json(
            {
                "image": move.image.reference,
                "channel": move.channel,
                "move": move_json(made) if made else None,
                "expires": ends,
                "lagging": lagging,
                "passed_over": [{"image": passed, "reason": why} for passed, why in move.skipped],
            }
        )
    elif made is not None:
        until = f" until {ends:%Y-%m-%d %H:%M} UTC" if ends else ""
        console.result(f"{move.name} is {move.image.reference}{until}")
