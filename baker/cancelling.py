"""Asking a bake of another process on this host to stop.

A process may run several bakes, so that a signal would say too little: who cancels writes a file
``BAKER_HOME/bakes/ID.cancel`` that names him, and a thread beside each bake looks for its own. Who may write
there may cancel.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from baker import identity
from baker.errors import HostError
from baker.interrupt import Interruption

TICK_SECONDS = 0.1
GRACE_SECONDS = 1.0
"""How long a bake has to stop by itself before what it waits for is killed."""


def request_cancel(home: Path, bake_id: str, actor: str) -> None:
    """Ask a live bake to stop. It is gone, and cleaned up, once ``identity.is_alive`` says so.

    Raises HostError.
    """
    path = _request_path(home, bake_id)
    new = path.with_suffix(".asking")
    try:
        new.write_text(actor)
        new.replace(path)
    except OSError as error:
        raise HostError(
            f"{path} cannot be written: {error.strerror}", hint="Cancel as the user who bakes: use sudo."
        ) from error


def forget_request(home: Path, bake_id: str) -> None:
    """Idempotent."""
    _request_path(home, bake_id).unlink(missing_ok=True)


@contextmanager
def heeding_cancel(home: Path, bake_id: str, interruption: Interruption) -> Iterator[None]:
    """Within, a request ends ``interruption``; once that has ended, or a time limit has, this thread is not
    left waiting."""
    path = _request_path(home, bake_id)
    this_thread = threading.get_native_id()
    done = threading.Event()

    def watch() -> None:
        ended = 0.0
        while not done.wait(TICK_SECONDS):
            interruption.expire()
            if interruption.cancel.is_set():
                ended += TICK_SECONDS
                if ended > GRACE_SECONDS:
                    interruption.break_off(this_thread)
                continue
            ended = 0.0
            if path.exists():
                interruption.end(f"cancelled by {path.read_text() or 'somebody'}")

    watcher = threading.Thread(target=watch, name=f"cancel-{bake_id}", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        forget_request(home, bake_id)


def _request_path(home: Path, bake_id: str) -> Path:
    return identity.bakes_folder(home) / f"{bake_id}.cancel"
