"""What stands behind instances: real machines (``bodies.py``) or SSH servers alone (``bodiless.py``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tests.lab.faults import InstanceFault


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """How an instance starts. ``public_key`` is its key pair's, ``delay`` the seconds until it boots.

    ``on_ended`` is called, from any thread, when the machine switches itself off.
    """

    instance: str
    image: str
    address: str
    user_data: bytes
    public_key: str | None
    delay: float
    faults: tuple[InstanceFault, ...] = ()
    on_ended: Callable[[], None] = field(default=lambda: None)

    def fault(self, kind: str) -> InstanceFault | None:
        return next((fault for fault in self.faults if fault.kind == kind), None)


class Fleet(Protocol):
    """All methods answer at once; what takes time goes on behind, and ``is_done`` tells of it."""

    ssh_port: int
    ssh_user: str

    def claim_address(self) -> str:
        """An address that this host reaches and no other instance has."""

    def start(self, launch: Launch) -> None:
        """Boot a machine from an image's body; once more after ``stop`` from what it was then."""

    def stop(self, instance: str) -> None:
        """Shut it down in an orderly way."""

    def terminate(self, instance: str) -> None:
        """Remove it."""

    def is_done(self, instance: str) -> bool:
        """Whether the last of start (its process is there), stop and terminate has been done."""

    def capture(self, instance: str, image: str) -> None:
        """Keep the file system of a stopped instance as an image's body."""

    def has_captured(self, image: str) -> bool:
        """Whether the image's body is there."""

    def copy(self, image: str, copy: str) -> None:
        """Give an image the body of another."""

    def forget(self, image: str) -> None:
        """The image is gone."""

    def probe(self, instance: str, address: str, port: int, path: str) -> int | str:
        """The status that the instance's service answers by HTTP, or why there is none. May take a second."""

    def console(self, instance: str) -> str:
        """What was printed while it booted."""

    def close(self) -> None:
        """Remove everything."""
