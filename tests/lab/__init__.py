"""AWS on this host, for tests: moto's API with its gaps filled, faults on demand, and machines behind it."""

from __future__ import annotations

from tests.lab.calls import Call
from tests.lab.faults import Fault, ImageFault, InstanceFault
from tests.lab.lab import Lab, running_lab
from tests.lab.transitions import Latency

__all__ = ["Call", "Fault", "ImageFault", "InstanceFault", "Lab", "Latency", "running_lab"]
