"""What commands say of channels that have expired."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from baker.console import Console

if TYPE_CHECKING:
    from baker.previews import Collected


def print_expired(console: Console, expired: Sequence[Collected], *, dry_run: bool) -> None:
    for one in expired:
        move = one.channel.move
        what = f"{move.name}, which held {move.held} and expired {one.channel.expires:%Y-%m-%d %H:%M} UTC"
        if one.why_not is not None:
            console.say(f"Left: the channel {what}: {one.why_not}")
        else:
            console.result(f"{'would remove' if dry_run else 'removed'} the channel {what}")


# --- documented JSON -----------------------------------------------------------------------------------


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
