"""A release: one image rolled out to an environment, and what may become of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


class ReleaseState(enum.StrEnum):
    """STARTING has machines and no traffic yet; SHIFTING has, or may have, a share of it and is watched; LIVE
    serves; WARM served before and waits for a roll-back; RETIRING is being removed; ENDED is gone."""

    STARTING = "starting"
    SHIFTING = "shifting"
    LIVE = "live"
    WARM = "warm"
    RETIRING = "retiring"
    ENDED = "ended"


UNDONE = (ReleaseState.STARTING, ReleaseState.SHIFTING)
"""A deployment is at work on these; if its process died, they are taken back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """``number`` counts an environment's releases. ``build`` is the id of the build that its machines are
    made from, ``size`` how many machines it began with.

    ``settings`` is what its side was made with, without secrets: enough to tell whether another deployment
    would come out the same. ``deployer`` is the id that holds the environment's lock while it works.
    ``warm_until`` is when a WARM one is collected, by the database's clock. ``reason`` says why one that
    ENDED or is RETIRING did; ``abort`` why one that is UNDONE is to be taken back, and who wants that.
    ``born`` is what its machines had before they got traffic (see ``baker.deploy.drift``), ``audit`` what the
    last audit found, by machine.
    """

    id: str
    environment: str
    number: int
    recipe: str
    version: int
    build: str
    state: ReleaseState
    size: int
    settings: Mapping[str, Any]
    actor: str
    host: str
    pid: int
    deployer: str
    started: datetime
    live_since: datetime | None = None
    warm_until: datetime | None = None
    ended: datetime | None = None
    reason: str | None = None
    abort: str | None = None
    born: Mapping[str, Any] = field(default_factory=dict)
    audit: Mapping[str, Any] | None = None

    @property
    def image(self) -> str:
        return f"{self.recipe}:{self.version}"


def rank_by_service(release: Release) -> tuple[datetime, int]:
    """The greater, the later it began to serve."""
    return release.live_since or release.started, release.number


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentRecord:
    """An environment as the catalog knows it. ``store`` is where its machines are (see
    ``identity.store_name``; a region of AWS). ``releases`` are those that have not ended, newest first."""

    name: str
    target: str
    store: str
    created: datetime
    removed: datetime | None
    releases: tuple[Release, ...]

    def in_state(self, *states: ReleaseState) -> Release | None:
        """The newest release in one of these states."""
        return next((release for release in self.releases if release.state in states), None)

    @property
    def live(self) -> Release | None:
        return self.in_state(ReleaseState.LIVE)

    @property
    def warm(self) -> Release | None:
        """What a roll-back goes back to: of those that are WARM, the one that served last.

        After a roll-back that is not the newest.
        """
        warm = [release for release in self.releases if release.state is ReleaseState.WARM]
        return max(warm, key=rank_by_service, default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentEvent:
    """One line of an environment's history. ``event`` is one of ``deploying``, ``live``, ``rolled back``,
    ``failed``, ``collected``, ``replaced``, ``drifted``, ``removed``; ``image`` and
    ``number`` are the release's."""

    environment: str
    event: str
    number: int | None
    image: str | None
    actor: str
    at: datetime
    reason: str | None
    details: Mapping[str, Any]
