"""A lock in the catalog: who may do what only one may do at once, wherever they run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """``holder`` is the id of what holds it, ``store`` where that runs (see ``identity.store_name``).

    A holder that does not renew it before ``deadline``, by the clock of the database, may lose it.
    """

    name: str
    holder: str
    actor: str
    store: str
    pid: int
    since: datetime
    deadline: datetime

    @property
    def host(self) -> str:
        return self.store.partition(":")[0]
