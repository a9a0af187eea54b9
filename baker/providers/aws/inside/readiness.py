"""Whether cloud-init made an instance ready."""

from __future__ import annotations

import json

from baker.errors import MachineError
from baker.providers.aws.inside.script import build_script, explain_failure
from baker.providers.aws.inside.user_data import DEADLINE_TIMER
from baker.providers.protocol import CommandResult


def build_readiness_script(seconds: float) -> bytes:
    """Waits at most so long, then stops the timers of the system (not ours): no updater holds a lock
    while a recipe runs."""
    return build_script(["waiting"], {"seconds": seconds, "kept_timer": DEADLINE_TIMER})


def parse_readiness(result: CommandResult) -> tuple[str, ...]:
    """What went wrong and does no harm. Raises MachineError; its hint ends with cloud-init's log."""
    try:
        answer = json.loads(result.stdout)
        state, errors = answer["state"], [str(error) for error in answer["errors"]]
        warnings = tuple(str(warning) for warning in answer["warnings"])
        log = str(answer["log"]).strip()
    except (ValueError, KeyError, TypeError):
        raise MachineError(
            f"nobody can tell whether cloud-init is ready: {explain_failure(result)}"
        ) from None
    told = "; ".join(errors) or "it does not say why"
    hint = f"The end of /var/log/cloud-init-output.log:\n{log}" if log else None
    if state == "failed":
        raise MachineError(f"cloud-init failed: {told}", hint=hint)
    if state == "waiting":
        raise MachineError(f"cloud-init did not finish in time: {told}", hint=hint)
    return warnings
