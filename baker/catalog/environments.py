"""Environments: which release should have an environment's traffic, and what became of the others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, and_, or_, update

from baker.catalog.calls import Calls
from baker.catalog.database import DatabaseNow
from baker.catalog.locks import read_now
from baker.catalog.releases import (
    begin_release,
    end_lease,
    find_in_state,
    find_release,
    find_warm,
    has_failed,
    insert_event,
    list_environments,
    list_events,
    list_releases,
    lock_environment,
    lock_release,
    move,
    not_ended,
    require_deployable,
    write_event,
)
from baker.catalog.schema import environments, releases
from baker.deploy.release import UNDONE, EnvironmentEvent, EnvironmentRecord, Release, ReleaseState
from baker.errors import CatalogError, ConflictError

STARTING, SHIFTING, LIVE, WARM, RETIRING, ENDED = ReleaseState


class EnvironmentCalls(Calls):
    """Changes of one environment come one after the other, whatever the host; all times of releases are the
    database's. A call that names a release and is made again, as its answer was lost, changes nothing."""

    def environments(self, *, include_removed: bool = False) -> list[EnvironmentRecord]:
        """By name."""
        conditions = [] if include_removed else [environments.c.removed.is_(None)]
        return self._read(lambda connection: list_environments(connection, *conditions))

    def environment(self, name: str) -> EnvironmentRecord | None:
        """Also one that was removed; None: it was never deployed."""
        found = self._read(lambda connection: list_environments(connection, environments.c.name == name))
        return found[0] if found else None

    def releases(self, environment: str, *, limit: int | None = None) -> list[Release]:
        """Newest first, in every state."""
        mine = releases.c.environment == environment
        return self._read(lambda connection: list_releases(connection, mine, limit=limit))

    def release(self, release_id: str) -> Release:
        """Raises BadReference."""
        return self._read(lambda connection: find_release(connection, release_id))

    def due_releases(self, environment: str) -> list[Release]:
        """What is to be collected: WARM ones past their window, and RETIRING ones; newest first."""
        over = and_(releases.c.state == WARM, releases.c.warm_until <= DatabaseNow())
        due = (releases.c.environment == environment, or_(over, releases.c.state == RETIRING))
        return self._read(lambda connection: list_releases(connection, *due))

    # --- a deployment -------------------------------------------------------------------------------

    def begin_release(
        self,
        environment: str,
        *,
        release_id: str,
        target: str,
        store: str,
        recipe: str,
        version: int,
        build: str,
        size: int,
        settings: Mapping[str, Any],
        deployer: str,
    ) -> Release:
        """A deployment by this process begins: the environment's next release, and its lease on the image.

        The environment is made if it is new or was removed. Raises ConflictError while another release is
        STARTING or SHIFTING, or while one that has not ended is at another target or store; CatalogError
        for an image that is not available or deprecated, or that holds no such distributed build.
        """
        return self._write(
            lambda connection: begin_release(
                connection,
                environment,
                release_id=release_id,
                target=target,
                store=store,
                recipe=recipe,
                version=version,
                build=build,
                size=size,
                settings=settings,
                deployer=deployer,
                actor=self.actor,
                pid=os.getpid(),
            )
        )

    def shift_release(self, release_id: str) -> Release:
        """STARTING becomes SHIFTING: it may get traffic from now on. For one that is SHIFTING it is asked
        again whether it still may.

        Raises ConflictError, with the reason, if it is to be taken back or is in another state; CatalogError
        if its image was revoked or deleted.
        """

        def change(connection: Connection) -> Release:
            release = lock_release(connection, release_id)
            _require_undone(connection, release, *UNDONE)
            return release if release.state == SHIFTING else move(connection, release, SHIFTING)

        return self._write(change)

    def make_live(self, release_id: str, *, window: float, reason: str | None = None) -> Release:
        """SHIFTING becomes LIVE. What was LIVE is WARM for ``window`` seconds; what was WARM is due now.

        Raises as ``shift_release`` does.
        """

        def change(connection: Connection) -> Release:
            release = lock_release(connection, release_id)
            if release.state == LIVE:
                return release
            _require_undone(connection, release, SHIFTING)
            now = read_now(connection)
            mine = releases.c.environment == release.environment
            waiting = (mine, releases.c.state == WARM, releases.c.warm_until > now)
            connection.execute(update(releases).where(*waiting).values(warm_until=now))
            if before := find_in_state(connection, release.environment, LIVE):
                move(connection, before, WARM, warm_until=now + timedelta(seconds=window))
            live = move(connection, release, LIVE, live_since=now)
            write_event(connection, live, "live", self.actor, reason)
            return live

        return self._write(change)

    def request_abort(self, environment: str, reason: str) -> Release | None:
        """Ask for the deployment that is at work to be taken back: it is told when it wants to go on. Who
        asked first is kept. None if there is none."""

        def change(connection: Connection) -> Release | None:
            found = find_in_state(connection, environment, *UNDONE)
            release = lock_release(connection, found.id) if found else None
            if release is None or release.state not in UNDONE:
                return None
            if release.abort is not None:
                return release
            return move(connection, release, release.state, abort=f"{reason} ({self.actor})")

        return self._write(change)

    def swap_live(
        self, environment: str, *, window: float, reason: str | None = None, release_id: str | None = None
    ) -> tuple[Release, Release]:
        """Roll back: the WARM release that served last is LIVE, and what was LIVE is WARM for ``window``
        seconds. Returns them in this order.

        With ``release_id`` only to that one; if it is LIVE already, nothing is changed. Raises BadReference
        for an environment that was never deployed; ConflictError if another one than ``release_id`` would
        be; CatalogError if there is nothing to go back to or from, or its image was revoked.
        """

        def change(connection: Connection) -> tuple[Release, Release]:
            lock_environment(connection, environment)
            live, warm = find_in_state(connection, environment, LIVE), find_warm(connection, environment)
            hint = f"See what it had, and deploy that again: baker env history {environment}"
            if live is None or warm is None:
                missing = "release is live" if live is None else "earlier release is kept warm any more"
                raise CatalogError(f"{environment} cannot be rolled back: no {missing}", hint=hint)
            if release_id == live.id:
                return live, warm
            if release_id not in (None, warm.id):
                raise ConflictError(
                    f"{environment} would be rolled back to release {warm.number} ({warm.image}) by now",
                    hint=f"Nothing was changed. Look: baker env show {environment}",
                )
            require_deployable(connection, warm)
            now = read_now(connection)
            after = move(connection, live, WARM, warm_until=now + timedelta(seconds=window))
            back = move(connection, warm, LIVE, live_since=now, warm_until=None)
            write_event(connection, back, "rolled back", self.actor, reason, {"from": live.number})
            return back, after

        return self._write(change)

    # --- the end of a release -----------------------------------------------------------------------

    def retire_release(
        self,
        release_id: str,
        *,
        reason: str,
        failed: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> Release:
        """STARTING, SHIFTING or WARM becomes RETIRING: its machines may be removed. With ``failed`` that is
        an event, with ``details``. One that is RETIRING or ENDED stays as it is.

        Raises ConflictError for a LIVE one.
        """

        def change(connection: Connection) -> Release:
            release = lock_release(connection, release_id)
            if release.state in (RETIRING, ENDED):
                return release
            if release.state == LIVE:
                raise _explain_state(release, "it has the traffic and is not taken from it")
            retired = move(connection, release, RETIRING, reason=reason, failed=failed)
            if failed:
                write_event(connection, retired, "failed", self.actor, reason, details)
            return retired

        return self._write(change)

    def retire_live(self, release_id: str, *, reason: str) -> Release:
        """LIVE becomes RETIRING: for an environment that is removed, since nothing serves it then.

        Raises ConflictError for one that is neither, nor ENDED.
        """

        def change(connection: Connection) -> Release:
            release = lock_release(connection, release_id)
            if release.state in (RETIRING, ENDED):
                return release
            if release.state != LIVE:
                raise _explain_state(release, "it is not the one that has the traffic")
            return move(connection, release, RETIRING, reason=reason)

        return self._write(change)

    def end_release(self, release_id: str) -> Release:
        """RETIRING becomes ENDED, once nothing is left of its machines: its lease ends with it.

        Raises ConflictError for one that is neither.
        """

        def change(connection: Connection) -> Release:
            release = lock_release(connection, release_id)
            if release.state == ENDED:
                return release
            if release.state != RETIRING:
                raise _explain_state(release, "its machines are still needed")
            end_lease(connection, release)
            ended = move(connection, release, ENDED, ended=read_now(connection))
            if not has_failed(connection, release):
                write_event(connection, ended, "collected", self.actor, ended.reason)
            return ended

        return self._write(change)

    def remove_environment(self, environment: str, *, reason: str | None = None) -> None:
        """It is gone until it is deployed again; its history stays. Idempotent.

        Raises BadReference, and ConflictError while a release of it has not ended.
        """

        def change(connection: Connection) -> None:
            if lock_environment(connection, environment).removed is not None:
                return
            mine = releases.c.environment == environment
            if left := list_releases(connection, mine, not_ended, limit=1):
                raise _explain_state(left[0], f"{environment} is not removed before it has ended")
            chosen = environments.c.name == environment
            connection.execute(update(environments).where(chosen).values(removed=read_now(connection)))
            insert_event(connection, environment, "removed", None, None, self.actor, reason, None)

        self._write(change)

    # --- what is known of it ------------------------------------------------------------------------

    def note_born(self, release_id: str, born: Mapping[str, Any]) -> None:
        """What its machines had before they got traffic, instead of what was noted. Raises BadReference."""
        self._note(release_id, {"born": dict(born)})

    def note_audit(self, release_id: str, audit: Mapping[str, Any]) -> None:
        """What the last audit found, instead of the one before. Raises BadReference."""
        self._note(release_id, {"audit": dict(audit)})

    def _note(self, release_id: str, values: Mapping[str, Any]) -> None:
        mine = update(releases).where(releases.c.id == release_id).values(**values)

        def change(connection: Connection) -> None:
            if not connection.execute(mine).rowcount:
                find_release(connection, release_id)  # raises

        self._write(change)

    def add_environment_event(
        self,
        environment: str,
        event: str,
        *,
        number: int | None = None,
        image: str | None = None,
        reason: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """One more line of its history; of a release's ``number`` the image is known. Raises BadReference
        for an environment that was never deployed."""

        def change(connection: Connection) -> None:
            lock_environment(connection, environment)
            mine = (releases.c.environment == environment, releases.c.number == number)
            found = list_releases(connection, *mine) if number is not None and image is None else ()
            named = found[0].image if found else image
            insert_event(connection, environment, event, number, named, self.actor, reason, details)

        self._write(change)

    def environment_events(self, environment: str, *, limit: int | None = None) -> list[EnvironmentEvent]:
        """Newest first."""
        return self._read(lambda connection: list_events(connection, environment, limit))


def _require_undone(connection: Connection, release: Release, *states: ReleaseState) -> None:
    """A release in one of these states may go on. Raises as ``EnvironmentCalls.shift_release`` does."""
    if release.abort is not None and release.state in UNDONE:
        raise ConflictError(
            f"release {release.number} of {release.environment} is to be taken back: {release.abort}"
        )
    if release.state not in states:
        raise _explain_state(release, "it cannot go on")
    require_deployable(connection, release)


def _explain_state(release: Release, what: str) -> ConflictError:
    return ConflictError(
        f"release {release.number} of {release.environment} ({release.image}) is {release.state}: {what}",
        hint=f"Nothing was changed. Look: baker env show {release.environment}",
    )
