"""channel ls, history, protect, unprotect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.channels import Channel, ChannelMove, Protection
from baker.cli import groups
from baker.cli.completion import complete_channel, complete_recipe
from baker.cli.wiring import Options, open_catalog
from baker.console import Console, show_age
from baker.errors import BadReference, UsageError
from baker.gates import Gate, check_requirement, describe_gate, gate_rules, join_gates, read_gate
from baker.model import LATEST, ImageStatus, Reference
from baker.settings import Settings

if TYPE_CHECKING:
    from baker.catalog import Catalog

Json = Annotated[bool, typer.Option("--json", help="Print the documented JSON.")]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", autocompletion=complete_recipe)]
ChannelName = Annotated[
    str,
    typer.Argument(metavar="CHANNEL", help="dev, staging, prod, …", autocompletion=complete_channel),
]


def add_commands(_app: typer.Typer) -> None:
    groups.channel.command("ls")(list_channels)
    groups.channel.command("history")(show_history)
    groups.channel.command("protect")(protect)
    groups.channel.command("unprotect")(unprotect)


def gate_of(settings: Settings, channel: str) -> Gate:
    """What the project's baker.toml asks for a channel."""
    return read_gate(settings.channels.get(channel, {}))


# --- looking --------------------------------------------------------------------------------------------


def list_channels(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", autocompletion=complete_recipe)] = None,
    as_json: Json = False,
) -> int:
    """List channels: what they hold, since when, what protects them."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    with open_catalog(settings, read_only=True, or_empty=True) as catalog:
        channels = catalog.channel_states(recipe)
        every = catalog.protections()
        if recipe is not None and not channels:
            catalog.resolve(Reference(recipe=recipe), allow_unusable=True)
        description = catalog.description
    protections = [kept for kept in every if recipe is None or kept.recipe in ("", recipe)]
    gates = {
        channel.move.name: effective_gate(settings, protections, channel.move.recipe, channel.move.channel)
        for channel in channels
    }
    if as_json:
        console.result_json(
            {
                "channels": [channel_json(channel, gates[channel.move.name]) for channel in channels],
                "protections": [protection_json(kept) for kept in protections],
            }
        )
        return 0
    if channels:
        rows = [
            (
                channel.move.name,
                channel.move.held
                + ("" if channel.status is ImageStatus.AVAILABLE else f" ({channel.status})"),
                show_age(channel.move.at),
                channel.move.actor,
                describe_end(channel),
                describe_gate(gates[channel.move.name]),
            )
            for channel in channels
        ]
        console.table(("CHANNEL", "HOLDS", "SINCE", "BY", "EXPIRES", "GATE"), rows)
    else:
        console.say("No channels yet. Make one: baker promote REF dev")
    for kept in protections:
        console.result_folded(describe_protection(kept))
    console.say(console.style(f"in {description}", "dim"))
    return 0


def describe_held(channel: Channel) -> str:
    usable = channel.status is ImageStatus.AVAILABLE
    return channel.move.held if usable else f"{channel.move.held} ({channel.status})"


def describe_end(channel: Channel) -> str:
    if channel.expires is None:
        return ""
    return f"{channel.expires:%Y-%m-%d %H:%M} UTC" + (" (expired)" if channel.is_over else "")


def effective_gate(settings: Settings, protections: list[Protection], recipe: str, channel: str) -> Gate:
    kept = [kept.gate for kept in protections if kept.covers(recipe, channel)]
    return join_gates([gate_of(settings, channel), *kept])


def describe_protection(kept: Protection) -> str:
    name = f"{kept.recipe or 'every recipe'}:{kept.channel}"
    what = "unprotected" if kept.gate.empty else "protected"
    rules = "" if kept.gate.empty else f": {describe_gate(kept.gate)}"
    return f"{name} was {what} by {kept.actor} {show_age(kept.at)} ago{rules}"


def show_history(
    context: typer.Context, recipe: RecipeName, channel: ChannelName, as_json: Json = False
) -> int:
    """Show every move of a channel, newest first: who, when, from, to, why."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    with open_catalog(options.settings(), read_only=True) as catalog:
        moves = catalog.channel_history(recipe, channel)
        if not moves:
            if channel == LATEST:
                raise BadReference(f"{LATEST} is kept by baker, and has no history")
            catalog.resolve(Reference(recipe=recipe, channel=channel), allow_unusable=True)  # raises
        ends = catalog.channel_end(recipe, channel)
    if as_json:
        told = [move_json(move) for move in moves]
        console.result_json({"recipe": recipe, "channel": channel, "expires": ends, "moves": told})
        return 0
    rows = [
        (
            f"{move.at:%Y-%m-%d %H:%M:%S}",
            move.actor,
            move.held_before or "nothing",
            "nothing" if move.expired else move.held,
            describe_kind(move),
        )
        for move in moves
    ]
    console.table(("WHEN (UTC)", "WHO", "FROM", "TO", "WHY"), rows)
    if ends is not None:
        console.say(f"It expires {ends:%Y-%m-%d %H:%M} UTC")
    return 0


def describe_move(move: ChannelMove) -> str:
    """In one line, without time and actor."""
    why = f": {described}" if (described := describe_kind(move)) else ""
    if move.expired:
        return f"removed {move.channel}, which held {move.held}{why}"
    return f"moved {move.channel} from {move.held_before or 'nothing'} to {move.held}{why}"


def describe_kind(move: ChannelMove) -> str:
    """Why a channel was moved, and how."""
    parts = [part for part in ("rolled back" if move.rolled_back else "", move.reason) if part]
    if move.overridden is not None:
        missing = "; ".join(move.overridden.missing)
        parts.append(f"past its gate ({missing}) because: {move.overridden.reason}")
    return ": ".join(parts)


# --- protecting -----------------------------------------------------------------------------------------


def protect(
    context: typer.Context,
    words: Annotated[list[str], typer.Argument(metavar="[RECIPE] CHANNEL", help="RECIPE or --all.")],
    every: Annotated[bool, typer.Option("--all", help="The channel of every recipe.")] = False,
    after: Annotated[
        str | None, typer.Option("--after", metavar="CHANNEL", help="Which must hold the image, or have.")
    ] = None,
    soak: Annotated[
        str | None, typer.Option("--soak", metavar="24h", help="For how long; goes with --after.")
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require", metavar="RULE", help="tests, no-revoked-ancestor, label:KEY or label:KEY=VALUE."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="ACTOR", help="Who alone may move it; nothing overrides this."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Keep a channel's gate in the catalog, where a pipeline cannot edit it. Replaces the one before."""
    from baker.ages import parse_age

    recipe, channel = read_names(words, every=every)
    if soak is not None and after is None:
        raise UsageError("--soak needs --after", hint="Say in which channel: --after staging --soak 24h")
    if after is not None and after in (channel, LATEST):
        raise UsageError(f"--after takes another channel, not {after}")
    gate = Gate(
        after={} if after is None else {after: parse_age(soak) if soak else 0},
        require=frozenset(check_requirement(rule) for rule in require or ()),
        only=frozenset(only) if only else None,
    )
    if gate.empty:
        raise UsageError(
            "channel protect needs something to ask",
            hint="Give --after, --require or --only. To take a protection back: baker channel unprotect",
        )
    return write_protection(context, recipe, channel, gate, Console(as_json=as_json))


def unprotect(
    context: typer.Context,
    words: Annotated[list[str], typer.Argument(metavar="[RECIPE] CHANNEL", help="RECIPE or --all.")],
    every: Annotated[bool, typer.Option("--all", help="The channel of every recipe.")] = False,
    as_json: Json = False,
) -> int:
    """Take back what `channel protect` kept. That, and who did it, stays on the record."""
    recipe, channel = read_names(words, every=every)
    return write_protection(context, recipe, channel, Gate(), Console(as_json=as_json))


def read_names(words: list[str], *, every: bool) -> tuple[str, str]:
    """Recipe (empty for all) and channel. Raises UsageError."""
    if every and len(words) == 1:
        return "", words[0]
    if not every and len(words) == 2:
        return words[0], words[1]
    raise UsageError("this takes a recipe and a channel, or --all and a channel", hint="Like: web prod")


def write_protection(context: typer.Context, recipe: str, channel: str, gate: Gate, console: Console) -> int:
    options: Options = context.obj
    settings = options.settings()
    with open_catalog(settings) as catalog:
        require_known(catalog, recipe, channel, gate)
        kept = catalog.protect(recipe, channel, gate)
    if console.as_json:
        console.result_json(protection_json(kept))
    else:
        console.result(describe_protection(kept))
    return 0


def require_known(catalog: Catalog, recipe: str, channel: str, gate: Gate) -> None:
    """Raises BadReference for a recipe without images, UsageError for a protection that is not there."""
    if recipe and recipe not in catalog.recipes():
        catalog.resolve(Reference(recipe=recipe), allow_unusable=True)  # raises, with the nearest
    kept = [(kept.recipe, kept.channel) for kept in catalog.protections() if not kept.gate.empty]
    if gate.empty and (recipe, channel) not in kept:
        name = f"{recipe or 'every recipe'}:{channel}"
        raise UsageError(f"the catalog keeps no protection of {name}", hint="See all: baker channel ls")


# --- documented JSON -----------------------------------------------------------------------------------


def move_json(move: ChannelMove) -> dict[str, Any]:
    """One element of ``moves`` in ``channel history --json``."""
    past = move.overridden
    return {
        "channel": move.channel,
        "revision": move.revision,
        "from": move.held_before,
        "to": None if move.expired else move.held,
        "actor": move.actor,
        "reason": move.reason,
        "rolled_back": move.rolled_back,
        "expired": move.expired,
        "overridden": {"reason": past.reason, "missing": list(past.missing)} if past else None,
        "at": move.at,
    }


def channel_json(channel: Channel, gate: Gate) -> dict[str, Any]:
    """One element of ``channels`` in ``channel ls --json``. ``gate`` is that of file and catalog."""
    move = channel.move
    return {
        "recipe": move.recipe,
        "channel": move.channel,
        "image": move.held,
        "status": str(channel.status),
        "revision": move.revision,
        "actor": move.actor,
        "reason": move.reason,
        "at": move.at,
        "expires": channel.expires,
        "expired": channel.is_over,
        "gate": gate_json(gate),
    }


def gate_json(gate: Gate) -> dict[str, Any]:
    """``after`` gives seconds per channel; ``only`` is null where everybody may move it."""
    return {"after": {}, "require": [], "only": None, **gate_rules(gate)}


def protection_json(kept: Protection) -> dict[str, Any]:
    """``recipe`` is null for every recipe; a ``gate`` that asks nothing was taken back."""
    return {
        "recipe": kept.recipe or None,
        "channel": kept.channel,
        "gate": gate_json(kept.gate),
        "actor": kept.actor,
        "at": kept.at,
    }
