"""The order of package versions, and questions about packages: ``openssl>=3.0,<3.0.15``.

The order is that of dpkg (``deb``) or rpm, from ``univers``: imported when two versions differ, since that
takes longer than many a command.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from baker.errors import UsageError
from baker.model import Package

ORDER: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}
QUESTION = re.compile(r"([^\s<>=!,]+)\s*((?:[<>=!].*)?)", re.DOTALL)
CONDITION = re.compile(r"\s*(<=|>=|!=|<|>|=)\s*([^\s<>=!,]+)\s*")
GLOB = re.compile(r"[*?\[]")
HINT = (
    "Ask like 'openssl<3.0.15', 'openssl>=3.0,<3.0.15', 'openssl=3.0.*', 'lib*ssl*'; quote it for the shell."
)


def compare_versions(package_type: str, left: str, right: str) -> int:
    """Negative, zero or positive, in the order of dpkg (``deb``) or rpm.

    A version that the package's policy forbids is compared as text, rather than failing a whole list.
    """
    if left == right:
        return 0
    if package_type == "rpm":
        from univers.rpm import compare_rpm_versions

        try:
            return int(compare_rpm_versions(left, right))
        except ValueError:
            return (left > right) - (left < right)
    from univers.debian import compare_version_objects

    one, other = _parse_debian(left), _parse_debian(right)
    if one is None or other is None:
        return (left > right) - (left < right)
    return int(compare_version_objects(one, other))


@lru_cache(maxsize=4096)
def _parse_debian(version: str) -> Any:
    """None for what Debian's policy forbids."""
    from univers.debian import Version

    try:
        return Version.from_string(version)
    except ValueError:
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What a version must be. ``order`` is a key of ORDER; for ``=`` and ``!=`` the version may be a glob."""

    order: str
    version: str

    def is_met(self, package_type: str, version: str) -> bool:
        if GLOB.search(self.version):
            return fnmatch.fnmatchcase(version, self.version) == (self.order == "=")
        return ORDER[self.order](compare_versions(package_type, version, self.version), 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageQuestion:
    """Which packages are meant: by name (a glob, of a binary or a source package) and all the conditions."""

    name: str
    conditions: Sequence[Condition]

    @classmethod
    def parse(cls, text: str) -> PackageQuestion:
        """``openssl``, ``openssl<3.0.15``, ``openssl>=3.0,<3.0.15``, ``lib*ssl*``. Raises UsageError."""
        asked = QUESTION.fullmatch(text.strip())
        if asked is None:
            raise UsageError(f"{text!r} is no question about a package", hint=HINT)
        name, rest = asked.groups()
        conditions = []
        for part in rest.split(",") if rest else []:
            found = CONDITION.fullmatch(part)
            if found is None:
                raise UsageError(f"{text!r}: {part!r} is no condition on a version", hint=HINT)
            order, version = found.groups()
            if GLOB.search(version) and order not in ("=", "!="):
                raise UsageError(f"{text!r}: a pattern like {version} has no order: only = and != fit it")
            conditions.append(Condition(order=order, version=version))
        return cls(name=name, conditions=tuple(conditions))

    def is_met(self, package: Package) -> bool:
        """A binary package by its version, or one of a source package by the version of that."""
        named = ((package.name, package.version), (package.source, package.source_version))
        return any(self.has_name(name) and self.has_version(package.type, version) for name, version in named)

    def has_name(self, name: str) -> bool:
        return name == self.name or fnmatch.fnmatchcase(name, self.name)

    def has_version(self, package_type: str, version: str) -> bool:
        return all(condition.is_met(package_type, version) for condition in self.conditions)
