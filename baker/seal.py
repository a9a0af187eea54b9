"""What makes a configured machine generic: nothing in the image may identify the build instance, or differ
between two bakes of the same inputs only because a machine was booted.

Pure: rules over paths. A provider applies them: to a tree that lies still (local), inside the machine (AWS).
"""

from __future__ import annotations

import re
from fnmatch import translate

SEAL_VERSION = "1"
"""Part of every fingerprint: raise it when a rule changes what an image holds."""

REMOVED = (
    "/etc/.updated",
    "/etc/ssh/ssh_host_*",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/subuid-",
    "/etc/subgid-",
    "/home/*/.ash_history",
    "/home/*/.bash_history",
    "/home/*/.cache/*",
    "/home/*/.lesshst",
    "/home/*/.python_history",
    "/home/*/.wget-hsts",
    "/root/.ash_history",
    "/root/.bash_history",
    "/root/.cache/*",
    "/root/.lesshst",
    "/root/.python_history",
    "/root/.wget-hsts",
    "/run/*",
    "/tmp/*",
    "/var/.updated",
    "/var/cache/apt/*.bin",
    "/var/cache/apt/archives/*.deb",
    "/var/cache/debconf/*-old",
    "/var/cache/ldconfig/aux-cache",
    "/var/lib/apt/lists/*",
    "/var/lib/apt/periodic/*",
    "/var/lib/cloud/*",
    "/var/lib/dbus/machine-id",
    "/var/lib/dhcp/*",
    "/var/lib/dpkg/*-old",
    "/var/lib/private/systemd/*",
    "/var/lib/systemd/catalog/database",
    "/var/lib/systemd/coredump/*",
    "/var/lib/systemd/credential.secret",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/timers/*",
    "/var/lib/systemd/timesync/clock",
    "/var/log/*.gz",
    "/var/log/*.[0-9]",
    "/var/log/*.old",
    "/var/log/apt/*",
    "/var/log/journal/*",
    "/var/log/unattended-upgrades/*",
    "/var/tmp/*",
)
"""Paths that go. ``*`` matches ``/`` too: a folder that matches goes with all it holds.
In a layer, a path that the parent had before comes back as the parent's."""

EMPTIED = ("/etc/machine-id", "/var/log/*")
"""Files that stay, with owner and mode, and become empty: services may need them to exist."""

REMOVED_FROM_INSTANCES = (
    "/etc/insights-client/machine-id",
    "/home/*/.mysql_history",
    "/home/*/.psql_history",
    "/home/*/.sudo_as_admin_successful",
    "/home/*/.viminfo",
    "/home/*/.zsh_history",
    "/root/.mysql_history",
    "/root/.psql_history",
    "/root/.viminfo",
    "/root/.zsh_history",
    "/var/cache/PackageKit/*",
    "/var/cache/dnf/*",
    "/var/cache/libdnf5/*",
    "/var/cache/yum/*",
    "/var/lib/NetworkManager/*.lease",
    "/var/lib/NetworkManager/secret_key",
    "/var/lib/NetworkManager/seen-bssids",
    "/var/lib/NetworkManager/timestamps",
    "/var/lib/amazon/ssm/*",
    "/var/lib/dhclient/*",
    "/var/lib/dhcpcd/*",
    "/var/lib/lastlog/*",
    "/var/lib/logrotate/*",
    "/var/lib/sudo/ts/*",
    "/var/lib/wtmpdb/*",
)
"""What goes besides where a whole foreign system was booted, not one that baker put together."""

_REMOVED = re.compile("|".join(translate(pattern) for pattern in REMOVED))
_EMPTIED = re.compile("|".join(translate(pattern) for pattern in EMPTIED))


def is_removed(path: str) -> bool:
    """Whether sealing removes this absolute path."""
    return _REMOVED.match(path) is not None


def is_emptied(path: str) -> bool:
    """Whether sealing empties the file at this absolute path."""
    return _EMPTIED.match(path) is not None
