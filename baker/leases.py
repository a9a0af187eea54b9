"""A lease: an environment's or outside consumer's claim on an image. Leased images are never pruned."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """``owner`` is who needs the image, ``actor`` who wrote that down. Without ``expires`` it holds until
    it is released."""

    id: str
    recipe: str
    version: int
    owner: str
    actor: str
    reason: str | None
    created: datetime
    expires: datetime | None
    released: datetime | None

    @property
    def reference(self) -> str:
        return f"{self.recipe}:{self.version}"

    def holds_at(self, now: datetime) -> bool:
        return self.released is None and (self.expires is None or self.expires > now)
