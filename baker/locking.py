"""Holding a lock of the catalog for as long as some work takes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from baker import identity
from baker.catalog import Catalog
from baker.errors import CatalogError, ConflictError
from baker.locks import Lock

SECONDS = 120.0
"""How long a lock outlives a holder whose host died, or that cannot reach the catalog any more."""

RENEW_SECONDS = 20.0
PAUSE_SECONDS = 2.0


class LockHeld(ConflictError):
    """Somebody else holds the lock."""

    def __init__(self, lock: Lock) -> None:
        self.lock = lock
        since = f"{lock.since:%Y-%m-%d %H:%M:%S} UTC"
        super().__init__(
            f"{lock.name} is held by {lock.actor} on {lock.host} (process {lock.pid}) since {since}",
            hint="Wait for it with --wait 2h, or end that process.",
        )


@contextmanager
def holding_lock(
    catalog: Catalog,
    home: Path,
    name: str,
    holder: str,
    *,
    on_lost: Callable[[str], None],
    wait_seconds: float = 0.0,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Lock]:
    """Within, nobody else holds the lock, as long as the catalog is reached every two minutes.

    While somebody else holds it, ``pause`` is called again and again: it sleeps, or raises to give up. A
    holder whose process is dead on this host is not waited for. ``on_lost`` is called, from a thread and with
    the reason, once the lock is lost: the work must end. Raises LockHeld after ``wait_seconds``.
    """
    until = clock() + wait_seconds
    with identity.alive(home, holder):
        while (lock := take_lock(catalog, home, name, holder)).holder != holder:
            if clock() >= until:
                raise LockHeld(lock)
            pause(PAUSE_SECONDS)
        done = threading.Event()
        renewing = threading.Thread(
            target=renew_until, args=(catalog, lock, done, on_lost), name="lock", daemon=True
        )
        renewing.start()
        try:
            yield lock
        finally:
            done.set()
            renewing.join()
            with suppress(CatalogError):  # then it ends by itself; why the work ended is what counts
                catalog.release_lock(name, holder)


def take_lock(catalog: Catalog, home: Path, name: str, holder: str) -> Lock:
    """Take it if it can be taken. Returns the lock as it is then."""
    store = identity.store_name(home)
    held = catalog.find_lock(name)
    dead = held and held.store == store and not identity.is_alive(home, held.holder)
    instead_of = held.holder if held and dead else None
    return catalog.hold_lock(
        name, holder, seconds=SECONDS, store=store, pid=os.getpid(), instead_of=instead_of
    )


def renew_until(
    catalog: Catalog,
    lock: Lock,
    done: threading.Event,
    on_lost: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Renew a lock until ``done``. A catalog that is out of reach is tried again, up to the deadline.

    Whatever else fails, the lock counts as lost: nobody renews it any more.
    """
    deadline = clock() + SECONDS
    while not done.wait(RENEW_SECONDS):
        asked = clock()
        try:
            if not catalog.renew_lock(lock.name, lock.holder, seconds=SECONDS):
                return on_lost(f"somebody else took the lock {lock.name}")
            deadline = asked + SECONDS
        except CatalogError as error:
            if clock() >= deadline - RENEW_SECONDS:
                return on_lost(f"the lock {lock.name} could not be renewed: {error}")
        except Exception as fault:
            return on_lost(f"the lock {lock.name} could not be renewed: {type(fault).__name__}: {fault}")
