"""How a machine is described, and the commands that it is made of: its holder, its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from baker.providers.local.host import host_resolv_conf, nameservers
from baker.providers.local.limits import Limits, read_limits

HOLDER = Path(__file__).with_name("holder.sh")
DNS_FORWARD = "169.254.53.53"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

QUIET_UNITS = ("ldconfig.service", "systemd-journal-catalog-update.service", "systemd-update-done.service")
"""Units of each boot that would write into the image while it is baked. They have no [Install] section, so
that masking them for this boot changes nothing that a recipe enables or disables. Timers are stopped instead:
they would take apt's lock, or write.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineSpec:
    """How to start a machine. ``cgroup`` names a control group that nothing else on this host is in.

    ``binds`` are (name, host folder, path in the machine): read through, written aside. ``quiet`` keeps
    ``QUIET_UNITS`` and timers from running. A ``detached`` machine outlives this process. ``shown`` are (host
    path, path in the machine), read-only. Without ``network`` there is only loopback. ``loopback_ports`` of
    this host's loopback are found on the machine's. ``inbound`` are (port of this host's loopback, port
    in the machine): who connects to the first reaches the second. One that does not ``reboot`` ends instead.
    """

    name: str
    cgroup: str
    folder: Path
    layers: tuple[Path, ...]
    hostname: str
    environment: Mapping[str, str]
    binds: tuple[tuple[str, Path, str], ...] = ()
    quiet: bool = False
    detached: bool = False
    limits: Limits = field(default_factory=lambda: read_limits({}))
    shown: tuple[tuple[Path, str], ...] = ()
    network: bool = True
    loopback_ports: tuple[int, ...] = ()
    inbound: tuple[tuple[int, int], ...] = ()
    reboots: bool = True


def holder_argv(spec: MachineSpec) -> list[str]:
    """The holder: ``holder.sh`` in private mount and pid namespaces, which end with this process."""
    return [
        *(() if spec.detached else ("setpriv", "--pdeathsig", "KILL")),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
        *("sh", str(HOLDER), *map(str, spec.layers)),
    ]


def holder_environment(spec: MachineSpec) -> dict[str, str]:
    """What ``holder.sh`` reads."""
    binds = "".join(f"{name}\t{source}\t{path}\n" for name, source, path in spec.binds)
    boot = [f"systemd.mask={unit}" for unit in QUIET_UNITS] if spec.quiet else []
    shown = [f"--bind-ro={escape_bind(source)}:{escape_bind(path)}" for source, path in spec.shown]
    return {
        "PATH": PATH,
        "BAKER_MACHINE": str(spec.folder),
        "BAKER_HOSTNAME": spec.hostname,
        "BAKER_NSPAWN": "".join(f"{option}\n" for option in shown),
        "BAKER_BOOT": " ".join(boot),
        "BAKER_BINDS": binds,
        "BAKER_REBOOTS": "yes" if spec.reboots else "no",
    }


def network_argv(spec: MachineSpec) -> list[str]:
    """pasta, for the network namespace named ``machine``."""
    forward = [] if nameservers(host_resolv_conf()) else ["--dns-forward", DNS_FORWARD]
    ports = ",".join(map(str, spec.loopback_ports)) or "none"
    inbound = [f"127.0.0.1/{outside}:{inside}" for outside, inside in spec.inbound] or ["none"]
    return [
        *("pasta", "--quiet", "--config-net", "--no-map-gw", *forward, "--runas", "0"),
        *(word for forwarded in inbound for word in ("-t", forwarded)),
        *("-u", "none", "-T", ports, "-U", "none", "--netns", "machine"),
    ]


def escape_bind(path: Path | str) -> str:
    """A path as nspawn's --bind-ro takes it."""
    return str(path).replace("\\", "\\\\").replace(":", "\\:")
