"""What commands say of previews: what became of their channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from baker.cli.publishing import say_left_behind
from baker.console import Console

if TYPE_CHECKING:
    from baker.previews import Collected, PreviewMove


def print_previews(console: Console, moves: Sequence[PreviewMove]) -> None:
    """After a bake for a preview."""
    for move in moves:
        if move.why_not is not None:
            stays = f"stays {move.held}" if move.held else "is not there"
            console.say(f"{console.style(move.name, 'bold')} {stays}: {move.why_not}")
            continue
        until = f" until {move.expires:%Y-%m-%d %H:%M} UTC" if move.expires else ""
        console.say(f"{console.style(move.name, 'bold')} is {move.image}{until}")
        for lag in move.lagging:
            say_left_behind(console, lag, move.image or move.name)


def print_expired(console: Console, expired: Sequence[Collected], *, dry_run: bool) -> None:
    for one in expired:
        move = one.channel.move
        what = f"{move.name}, which held {move.held} and expired {one.channel.expires:%Y-%m-%d %H:%M} UTC"
        if one.why_not is not None:
            console.say(f"Left: the channel {what}: {one.why_not}")
        else:
            console.result(f"{'would remove' if dry_run else 'removed'} the channel {what}")


# --- documented JSON -----------------------------------------------------------------------------------


def previews_json(moves: Sequence[PreviewMove]) -> list[dict[str, Any]]:
    """``previews`` of ``bake --channel --json``; ``why_not`` is null where the channel holds ``image``."""
    return [
        {
            "recipe": move.recipe,
            "channel": move.channel,
            "image": move.image,
            "held": move.held,
            "expires": move.expires,
            "why_not": move.why_not,
            "lagging": [str(lag) for lag in move.lagging],
        }
        for move in moves
    ]


def expired_json(expired: Sequence[Collected]) -> dict[str, Any]:
    """``expired`` of prune and sweep; ``why_not`` says why a channel stays, null that it does not."""
    return {
        "expired": [
            {
                "recipe": one.channel.move.recipe,
                "channel": one.channel.move.channel,
                "image": one.channel.move.held,
                "expires": one.channel.expires,
                "why_not": one.why_not,
            }
            for one in expired
        ]
    }
