"""HAProxy in front of an environment's machines: its configuration, its runtime, its process."""

from baker.providers.local.balancer.balancing import Balancing, Server
from baker.providers.local.balancer.process import Balancer
from baker.providers.local.balancer.state import ServerState

__all__ = ["Balancer", "Balancing", "Server", "ServerState"]
