"""The table that finds the AMI which a root recipe starts from: ``from = { … }`` for the target aws.

One of ``{ id = "ami-…" }``, ``{ owner = "…", name = "…" }`` (the newest whose name fits, perhaps with
``arch``) and ``{ ssm = "/aws/service/…" }``; ``owner`` may go with each: an AMI of somebody else is refused.
In ``name`` and ``ssm``, ``{arch}`` stands for x86_64 or arm64 and ``{deb_arch}`` for amd64 or arm64.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from baker.toml_file import KeyPath, describe, nearest

WAYS = ("id", "name", "ssm")
"""The keys that say how it is found: exactly one of them is given."""

PLACEHOLDERS = ("{arch}", "{deb_arch}")
_TEMPLATE = re.compile(r"\{[^}]*\}?|\}")
_EXAMPLES = (
    '{ owner = "136693071363", name = "debian-13-{deb_arch}-*" }, { ssm = "/aws/service/…" } '
    'or { id = "ami-…" }'
)

_PATTERNS: Mapping[str, tuple[str, str]] = {
    "id": (r"ami-[0-9a-f]{8,17}", 'an AMI\'s id ("ami-0123456789abcdef0")'),
    "owner": (
        r"[0-9]{12}|amazon|aws-marketplace|self",
        "an account (12 digits), self, amazon or aws-marketplace",
    ),
    "name": (r"[A-Za-z0-9()\[\] ./'@_{}*?-]{3,128}", 'the name of an AMI, with * and ? ("debian-13-*")'),
    "arch": (r"x86_64|arm64", '"x86_64" or "arm64"'),
    "ssm": (r"/[A-Za-z0-9_./{}-]+", 'the name of an SSM parameter ("/aws/service/…")'),
}


def check_ami_query(query: Mapping[str, str]) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with such a table: the path of a key within it (empty: the whole), and why."""
    for key, value in query.items():
        if key not in _PATTERNS:
            yield (key,), f'unknown key "{key}"{nearest(key, _PATTERNS)}: an AMI is found by {_EXAMPLES}'
            continue
        pattern, title = _PATTERNS[key]
        if not re.fullmatch(pattern, value):
            yield (key,), f'"{key}" must be {title}, not {describe(value)}'
            continue
        for found in _TEMPLATE.findall(value):
            if found not in PLACEHOLDERS:
                yield (key,), f'"{key}" holds {found}: only {" and ".join(PLACEHOLDERS)} are filled in'
    given = [key for key in WAYS if key in query]
    if len(given) > 1:
        yield (given[1],), f'"{given[0]}" and "{given[1]}" both find an AMI: give one of them'
    elif not given and "owner" in query:
        yield (), '"name" is missing: which of the owner\'s AMIs, such as "debian-13-{deb_arch}-*"'
    elif not given:
        yield (), f"a table that finds an AMI is {_EXAMPLES}"
    elif given == ["name"] and "owner" not in query:
        yield (), '"owner" is required: anybody can publish an AMI of that name'
    elif given != ["name"] and "arch" in query:
        yield ("arch",), f'"arch" goes with "name" only: "{given[0]}" names one AMI'
