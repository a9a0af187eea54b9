"""What apt says when it cannot fetch: whether that passes by itself."""

from __future__ import annotations

import re

FETCH_FAILED = "Failed to fetch "
NOT_FOUND = ("Unable to locate package ", "has no installation candidate")
"""What apt says of packages whose index it could not fetch before, which by itself is only a warning."""

_PASSING = re.compile(
    r"Could not connect to |Unable to connect to |Cannot initiate the connection to "
    r"|Connection (failed|refused|reset|timed out)|[Tt]imed out|Remote end closed connection"
    r"|Error reading from server|Could not handshake: (Error in the pull|The TLS connection was non-properly)"
    r"|(Temporary failure|System error|Something wicked happened) resolving "
    r"|  (408|429|5\d\d)  "
    r"|Hash Sum mismatch|File has unexpected size "
)
_LASTING = re.compile(
    r"No space left on device|NO_PUBKEY|The following signatures|EXPKEYSIG|BADSIG|Certificate verification"
)


def is_passing_fetch(output: str) -> bool:
    """Whether apt failed of what passes: an archive that cannot be reached, is overloaded, or is just being
    updated. Not of a wrong name, address, signature or key, nor of a full disk, be it only one among others.
    """
    failed = [line for line in output.splitlines() if FETCH_FAILED in line]
    return bool(failed) and not _LASTING.search(output) and all(map(_PASSING.search, failed))
