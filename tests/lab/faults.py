"""What goes wrong on purpose: calls, instances, images."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.lab.wire import AwsError, Request

BEFORE = frozenset({"throttle", "error", "refuse", "timeout"})
"""Kinds after which the call was not done."""
CUT = frozenset({"lose", "kill"})
"""Kinds that do the call and cut the connection without an answer."""
THROTTLES = {"ec2": ("RequestLimitExceeded", 503), "ssm": ("ThrottlingException", 400)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Strikes the ``nth`` call of an action (and ``times - 1`` calls after it).

    throttle, error   refused by AWS's own doing (RequestLimitExceeded; 500): clients try again
    refuse            refused with ``code`` and ``message``
    timeout           not done, and no answer until the client gives up
    lose              done, and the connection cut without an answer
    kill              done, no answer, and ``callback`` called before the connection is cut
    delay             done ``seconds`` late
    """

    action: str
    kind: str
    nth: int = 1
    times: int = 1
    region: str | None = None
    code: str = ""
    message: str = "refused by the lab"
    seconds: float = 1.0
    callback: Callable[[], None] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceFault:
    """Strikes the ``nth`` instance that is started (and ``times - 1`` after it).

    never-runs         stays pending
    no-ssh             never answers by SSH
    ssh-late           answers by SSH ``seconds`` later than it would
    wrong-host-key     shows another host key than the user data gave it
    no-sudo            refuses sudo
    cloud-init-fails   cloud-init ends with an error
    spot-interruption  AWS takes it back ``seconds`` after it runs; a spot instance only
    """

    kind: str
    nth: int = 1
    times: int = 1
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFault:
    """Strikes the ``nth`` image of an action, ``CreateImage`` or ``CopyImage``: ``stuck`` or ``fails``."""

    action: str
    kind: str
    nth: int = 1
    times: int = 1
    region: str | None = None


@dataclass(kw_only=True)
class Faults:
    """The faults of one lab. Counting starts when a fault is added: the first call after that is number 1."""

    _calls: list[tuple[Fault, Counter[str]]] = field(default_factory=list)
    _instances: list[tuple[InstanceFault, Counter[str]]] = field(default_factory=list)
    _images: list[tuple[ImageFault, Counter[str]]] = field(default_factory=list)
    _share: tuple[float, Sequence[str], random.Random] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *faults: Fault | InstanceFault | ImageFault) -> None:
        with self._lock:
            for fault in faults:
                if isinstance(fault, Fault):
                    self._calls.append((fault, Counter()))
                elif isinstance(fault, InstanceFault):
                    self._instances.append((fault, Counter()))
                else:
                    self._images.append((fault, Counter()))

    def share(self, share: float, *, kinds: Sequence[str] = ("throttle", "error"), seed: int = 1) -> None:
        """Have this share of all calls struck, at random but in a way that a seed repeats."""
        self._share = (share, kinds, random.Random(seed))

    def clear(self) -> None:
        with self._lock:
            self._calls.clear()
            self._instances.clear()
            self._images.clear()
            self._share = None

    def strike_call(self, request: Request) -> Fault | None:
        with self._lock:
            found = None
            for fault, seen in self._calls:
                if fault.action == request.action and fault.region in (None, request.region):
                    seen["calls"] += 1
                    if fault.nth <= seen["calls"] < fault.nth + fault.times:
                        found = found or fault
            if found is None and self._share is not None:
                share, kinds, dice = self._share
                if dice.random() < share:
                    found = Fault(action=request.action, kind=dice.choice(kinds), seconds=0.2)
            return found

    def strike_instance(self) -> list[InstanceFault]:
        with self._lock:
            found = []
            for fault, seen in self._instances:
                seen["instances"] += 1
                if fault.nth <= seen["instances"] < fault.nth + fault.times:
                    found.append(fault)
            return found

    def strike_image(self, action: str, region: str) -> ImageFault | None:
        with self._lock:
            for fault, seen in self._images:
                if fault.action == action and fault.region in (None, region):
                    seen["images"] += 1
                    if fault.nth <= seen["images"] < fault.nth + fault.times:
                        return fault
            return None


def error_of(fault: Fault, request: Request) -> AwsError:
    """What AWS answers where the fault is one that AWS tells of."""
    if fault.kind == "throttle":
        code, status = THROTTLES.get(request.service, ("Throttling", 400))
        return AwsError(code, "Request limit exceeded.", status)
    if fault.kind == "error":
        code = "InternalError" if request.service == "ec2" else "InternalFailure"
        return AwsError(code, "An internal error has occurred", 500)
    status = 403 if fault.code.startswith(("Unauthorized", "AccessDenied", "AuthFailure")) else 400
    if fault.code.startswith("Insufficient"):
        status = 500  # as EC2 has it: InsufficientInstanceCapacity is a server error
    return AwsError(fault.code, fault.message, status)
