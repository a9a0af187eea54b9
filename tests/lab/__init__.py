"""AWS on this host, for tests: moto's API with its gaps filled, faults on demand, and machines behind it.

    with running_lab() as lab:                      # instances are SSH servers that the test answers for
    with running_lab(Bodies(shared_home)) as lab:   # instances are machines; needs root

``lab.environment`` leads any client here. What it cannot show: whether IAM would allow a call
(``permissions`` says what that takes), boot loaders and kernels, the metadata service, networks beyond one
address per instance, volumes but the root's, encryption, and arm64: its images boot this host's kind.
"""

from __future__ import annotations

from tests.lab.calls import Call
from tests.lab.faults import Fault, ImageFault, InstanceFault
from tests.lab.lab import Lab, running_lab
from tests.lab.transitions import Latency

__all__ = ["Call", "Fault", "ImageFault", "InstanceFault", "Lab", "Latency", "running_lab"]
