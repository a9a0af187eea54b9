"""Makes a running instance generic, before it is stopped.

It still runs afterwards, so daemons that write to what was cleaned are stopped, the journal stays in
memory, and what writes only while the machine stops is masked until then. What cannot be helped:

- A daemon that nobody knows and that writes when it ends leaves that.
- Deleted content stays in free blocks of the snapshot until they are used again: the host key and user
  data of an instance that is gone. Give secrets to recipes, not to user data.
- ``/etc/ssh/sshd_config.d/50-cloud-init.conf`` stays as the build's user data made it: removing it could
  allow passwords.
- The default user stays, locked and with its sudo rule; cloud-init finds it and gives it new keys.
"""

from __future__ import annotations

import json

from baker.errors import MachineError
from baker.providers.aws.inside.script import build_script, explain_failure
from baker.providers.aws.inside.user_data import DEADLINE_TIMER
from baker.providers.protocol import CommandResult
from baker.seal import EMPTIED, REMOVED, REMOVED_FROM_INSTANCES

SHOWN = 5


def build_seal_script(public_key: str) -> bytes:
    """Removes what identifies the instance, and ``public_key`` (as in authorized_keys) of every user.

    The connection that runs it lives on; no further one can be made. To be run last but for the listing,
    which describes what this leaves.
    """
    key = next(word for word in public_key.split() if word.startswith("AAAA"))
    parameters = {
        "key": key,
        "kept_timer": DEADLINE_TIMER,
        "removed": [*REMOVED, *REMOVED_FROM_INSTANCES],
        "emptied": EMPTIED,
    }
    return build_script(["persistent", "sealing"], parameters)


def parse_seal(result: CommandResult) -> int:
    """How many lines held the key: none where a recipe removed it itself.

    Raises MachineError unless everything was removed."""
    try:
        answer = json.loads(result.stdout)
        failures = [(str(path), str(reason)) for path, reason in answer["failures"]]
        keys = int(answer["keys"])
    except (ValueError, KeyError, TypeError):
        raise MachineError(f"the instance could not be sealed: {explain_failure(result)}") from None
    if failures:
        told = "; ".join(f"{path}: {reason}" for path, reason in failures[:SHOWN])
        more = f" (and {len(failures) - SHOWN} more)" if len(failures) > SHOWN else ""
        raise MachineError(f"the instance could not be sealed: {told}{more}")
    return keys
