"""What apt in an image knows, and what a bake of it anew would change."""

from __future__ import annotations

from dataclasses import dataclass

NEWEST_SEEN = "updates/changed"
"""In BAKER_HOME, touched whenever package indexes were fetched, to look for updates, that had changed."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class PackageUpdate:
    """A package that a bake anew would change. ``installed`` is None for a new one, ``candidate`` for one
    that would go; ``security`` says whether the newer one comes from the distribution's security archive."""

    name: str
    arch: str
    installed: str | None
    candidate: str | None
    security: bool = False
