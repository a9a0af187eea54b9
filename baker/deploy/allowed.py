"""What of a machine may differ from its image although nobody tampered with it, and what never may.

A pattern's ``*`` stands for anything but a slash, ``**`` for anything. Kept narrow: each line is something
that booting, a first boot or a day of running is known to write. Whoever needs more says so (``[audit]
allow``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

STATE = (
    # what makes a machine itself
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
    "/etc/ssh/ssh_host_*_key",
    "/etc/ssh/ssh_host_*_key.pub",
    # what systemd, ld.so and accounts' tools keep for themselves
    "/etc/.pwd.lock",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/subgid-",
    "/etc/subuid-",
    "/etc/.updated",
    "/var/.updated",
    "/var/cache/ldconfig",
    "/var/cache/ldconfig/aux-cache",
    "/var/cache/private",
    "/var/lib/private",
    "/var/lib/private/systemd/**",
    "/var/lib/systemd/backlight/**",
    "/var/lib/systemd/catalog/database",
    "/var/lib/systemd/coredump/**",
    "/var/lib/systemd/credential.secret",
    "/var/lib/systemd/ephemeral-trees/**",
    "/var/lib/systemd/linger",
    "/var/lib/systemd/pstore/**",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/rfkill/**",
    "/var/lib/systemd/timers/**",
    "/var/lib/systemd/timesync/**",
    # logs, and who was logged in
    "/var/log/**",
    "/var/lib/lastlog/**",
    "/var/lib/wtmpdb/**",
    # what a day's timers write
    "/var/lib/logrotate/status",
    "/var/lib/logrotate/status.tmp",
    "/var/lib/logrotate.status",
    "/var/lib/man-db/auto-update",
    "/var/cache/man/**",
    "/var/cache/debconf/*-old",
    "/var/cache/apt/*.bin",
    "/var/cache/apt/archives/lock",
    "/var/cache/apt/archives/partial/**",
    "/var/lib/apt/lists/**",
    "/var/lib/apt/periodic/**",
    "/var/lib/apt/daily_lock",
    "/var/lib/dpkg/lock",
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/triggers/Lock",
    "/var/backups/*.[0-9]",
    "/var/backups/*.[0-9].gz",
    "/var/backups/alternatives.tar.[0-9]*",
    "/var/backups/apt.extended_states.[0-9]*",
    "/var/backups/dpkg.*.[0-9]*",
    # the network
    "/var/lib/dhcp/*.lease*",
    "/var/lib/dhcpcd/**",
    "/var/lib/NetworkManager/*.lease",
    "/var/lib/NetworkManager/secret_key",
    "/var/lib/NetworkManager/seen-bssids",
    "/var/lib/NetworkManager/timestamps",
    "/var/lib/chrony/drift",
    # cloud-init's results, and the agent of AWS
    "/var/lib/cloud",
    "/var/lib/cloud/data",
    "/var/lib/cloud/data/**",
    "/var/lib/cloud/handlers",
    "/var/lib/cloud/instance",
    "/var/lib/cloud/instances",
    "/var/lib/cloud/instances/**",
    "/var/lib/cloud/scripts",
    "/var/lib/cloud/scripts/per-*",
    "/var/lib/cloud/seed",
    "/var/lib/cloud/seed/nocloud",
    "/var/lib/cloud/seed/nocloud/**",
    "/var/lib/cloud/sem",
    "/var/lib/cloud/sem/**",
    "/var/lib/amazon/ssm/**",
    # what programs drop for a while
    "/run/**",
    "/tmp",
    "/tmp/**",
    "/var/tmp/**",
    "/dev/**",
    "/dev",
    "/var/lib/sudo/ts/**",
    "/var/lib/sudo/lectured/**",
    "/var/spool/cron/atjobs/.SEQ",
    "/root/.cache/**",
    "/root/.bash_history",
    "/root/.lesshst",
    "/root/.wget-hsts",
    "/home/*/.cache/**",
    "/home/*/.bash_history",
    "/home/*/.lesshst",
    # what services keep: data, which no image has
    "/var/lib/nginx",
    "/var/lib/nginx/**",
    "/var/cache/nginx/**",
    "/var/lib/php/sessions/**",
)
"""Paths that come, go and change by themselves."""

EMPTY = ("/etc/resolv.conf",)
"""What nspawn makes to mount something on it: empty, or as the first boot left it."""

NEVER = (
    # run by systemd
    "/etc/systemd/**",
    "/usr/lib/systemd/**",
    "/usr/local/lib/systemd/**",
    "/run/systemd/system/**",
    "/run/systemd/system.control/**",
    "/run/systemd/system.attached/**",
    "/run/systemd/transient/**",
    "/run/systemd/user/**",
    "/run/systemd/generator/**",
    "/run/systemd/generator.*/**",
    "/run/systemd/*.conf.d/**",
    "/run/systemd/system-generators/**",
    "/root/.config/systemd/**",
    "/home/*/.config/systemd/**",
    "/root/.config/autostart/**",
    "/home/*/.config/autostart/**",
    "/root/.local/share/systemd/**",
    "/home/*/.local/share/systemd/**",
    "/var/lib/systemd/linger/*",
    # run by the clock, at a login, at a boot, by a package's tools
    "/etc/cron*",
    "/etc/cron*/**",
    "/etc/anacrontab",
    "/var/spool/cron/**",
    "/var/spool/at/**",
    "/etc/profile",
    "/etc/profile.d/**",
    "/etc/bash*",
    "/etc/zsh/**",
    "/etc/environment",
    "/etc/rc*",
    "/etc/rc*.d/**",
    "/etc/init.d/**",
    "/etc/xdg/autostart/**",
    "/etc/update-motd.d/**",
    "/etc/apt/**",
    "/etc/dpkg/**",
    "/etc/logrotate*",
    "/etc/logrotate.d/**",
    "/etc/network/**",
    "/etc/dhcp/**",
    "/etc/tmpfiles.d/**",
    "/run/tmpfiles.d/**",
    "/run/udev/rules.d/**",
    "/etc/udev/**",
    "/run/sysctl.d/**",
    "/run/modprobe.d/**",
    "/run/modules-load.d/**",
    "/run/binfmt.d/**",
    "/run/sysusers.d/**",
    "/run/polkit-1/**",
    "/run/dbus-1/**",
    "/run/extensions/**",
    "/run/confexts/**",
    "/run/motd.dynamic.new",
    "/root/.profile",
    "/root/.bash_profile",
    "/root/.bash_login",
    "/root/.bash_logout",
    "/root/.bashrc",
    "/root/.zsh*",
    "/home/*/.profile",
    "/home/*/.bash_profile",
    "/home/*/.bash_login",
    "/home/*/.bash_logout",
    "/home/*/.bashrc",
    "/home/*/.zsh*",
    "/var/lib/cloud/scripts/**/*",
    "/var/lib/cloud/handlers/**",
    # who may log in, and as what
    "/root/.ssh/**",
    "/home/*/.ssh/**",
    "/etc/passwd",
    "/etc/group",
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/sudo*",
    "/etc/sudoers.d/**",
    "/etc/pam*",
    "/etc/pam.d/**",
    "/etc/security/**",
    "/etc/polkit-1/**",
    "/etc/doas.conf",
    # what every program loads
    "/etc/ld.so.*",
    "/etc/ld.so.conf.d/**",
    # what the kernel loads
    "/etc/modprobe.d/**",
    "/etc/modules*",
    "/etc/modules-load.d/**",
    "/etc/sysctl*",
    "/etc/sysctl.d/**",
    "/etc/binfmt.d/**",
)
"""Places from which something is started, or somebody let in. No pattern of what may change reaches in here:
only a path that is named whole does."""

MADE_AT_BOOT = (
    "/run/systemd/transient/*.scope",
    "/run/systemd/transient/*.scope.d/**",
    "/run/systemd/generator/**.mount",
    "/run/systemd/generator/**.swap",
    "/run/systemd/generator/sshd-*.socket",
    "/run/systemd/generator/**.requires",
    "/run/systemd/generator/**.wants",
    "/run/systemd/generator.*/**.wants",
    "/run/systemd/generator*/**.d",
    "/run/systemd/user-*",
)
"""What systemd's own generators and logins leave in such places; and links there, to units of the image."""

UNIT_FOLDERS = ("/usr/lib/systemd/", "/lib/systemd/", "/etc/systemd/", "/usr/local/lib/systemd/")

DEVICES = (
    "/dev/console",
    "/dev/full",
    "/dev/fuse",
    "/dev/net/tun",
    "/dev/null",
    "/dev/ptmx",
    "/dev/pts/*",
    "/dev/random",
    "/dev/tty",
    "/dev/urandom",
    "/dev/zero",
    "/run/host/inaccessible/*",
    "/run/systemd/inaccessible/*",
)
"""Device nodes that a container has; a machine's devtmpfs is not looked at."""

MOUNTS = (
    "/dev/**",
    "/dev",
    "/proc",
    "/proc/**",
    "/run",
    "/run/credentials/*",
    "/run/host",
    "/run/host/**",
    "/run/lock",
    "/run/netns",
    "/run/netns/*",
    "/run/user/*",
    "/sys",
    "/sys/**",
    "/tmp",
)
"""Where something is mounted on every machine, though not what (see ``MEMORY``)."""

SHOWN = ("/etc/resolv.conf", "/run/host/os-release", "/var/lib/cloud/seed/nocloud")
"""Where nspawn and baker themselves show a local machine something."""

MEMORY = (
    *("autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs"),
    *("efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "securityfs", "sysfs"),
    *("tmpfs", "tracefs"),
)
"""File systems of the kernel's own, which such a mount may be."""

NOBODY_BUT_THE_IMAGE = (
    *("/usr/**", "/boot/**", "/bin/**", "/sbin/**", "/lib/**", "/lib32/**", "/lib64/**", "/libx32/**"),
    "/etc/ld.so.preload",
)
"""Not even a first boot may change these: what is there when a machine is born excuses nothing."""


class Patterns:
    """Whether a path is one of a list."""

    def __init__(self, patterns: Iterable[str]) -> None:
        patterns = tuple(patterns)
        self._whole = {pattern for pattern in patterns if not is_pattern(pattern)}
        globs = [translate(pattern) for pattern in patterns if is_pattern(pattern)]
        self._globs = re.compile("|".join(globs) or r"(?!)", re.DOTALL)

    def names(self, path: str) -> bool:
        """Whether it stands there itself."""
        return path in self._whole

    def match(self, path: str) -> bool:
        return path in self._whole or self._globs.fullmatch(path) is not None


def is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def translate(pattern: str) -> str:
    """As a regular expression. ``[...]`` is a set of characters, ``?`` one that is no slash."""
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^]/]+\])", pattern)
    return "".join(
        pieces.get(part) or (part.replace("[!", "[^") if part.startswith("[") else re.escape(part))
        for part in parts
    )
