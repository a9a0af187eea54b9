"""Makes the instance generic: nothing of this instance and nothing of baker stays on its disks.

Answers with one JSON object on stdout: ``{"keys": lines removed, "failures": [[PATH, REASON]…]}``.
"""

# ruff: noqa: PTH103, PTH108, PTH110, PTH114, PTH118, PTH120, PTH123, PTH207, UP022

import glob
import json
import os
import re
import shutil
import stat
import subprocess
import sys

from baker.providers.aws.inside.sent.persistent import Rules, decode_path, open_view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

# They would write again what is removed. Never the network, which carries this very session.
WRITERS = (
    "syslog.socket",
    "rsyslog.service",
    "syslog-ng.service",
    "amazon-ssm-agent.service",
    "snap.amazon-ssm-agent.amazon-ssm-agent.service",
    "amazon-cloudwatch-agent.service",
    "apt-daily.service",
    "apt-daily-upgrade.service",
    "unattended-upgrades.service",
    "packagekit.service",
    "dnf-automatic.service",
    "cron.service",
    "crond.service",
    "atd.service",
    "systemd-timesyncd.service",
)
# They write when the machine stops; masked until then (below /run), they do not.
WRITERS_AT_STOP = ("systemd-random-seed.service", "systemd-update-utmp.service")
JOURNAL_IN_MEMORY = "/run/systemd/journald.conf.d/zz-baker-seal.conf"
STOP_SECONDS = 120

# Written by cloud-init from the metadata of this instance (its MAC address), and again on the next one.
NETWORK_FILES = (
    "/etc/netplan/50-cloud-init.yaml",
    "/etc/network/interfaces.d/50-cloud-init",
    "/etc/network/interfaces.d/50-cloud-init.cfg",
    "/etc/NetworkManager/system-connections/cloud-init-*.nmconnection",
    "/etc/systemd/network/10-cloud-init-*.network",
    "/etc/sysconfig/network-scripts/ifcfg-*",
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/etc/udev/rules.d/85-persistent-net-cloud-init.rules",
)
SHARED_FOLDER = "/etc/sysconfig/network-scripts/"
NETWORK_DISABLED = re.compile(r"^\s*network:\s*\{?\s*config:\s*['\"]?disabled", re.MULTILINE)
RESOLVER_WRITERS = ("NetworkManager", "dhclient", "dhcpcd", "cloud-init", "resolvconf")


class Seal:
    def __init__(self) -> None:
        self.keys = 0
        self.failures: list[tuple[str, str]] = []

    # --- what runs ----------------------------------------------------------------------------------

    def silence(self, kept_timer: str) -> None:
        """End what writes to the places that are cleaned. Not being there is no failure."""
        listed = run("systemctl", "list-units", "--type=timer", "--plain", "--no-legend", "--all")
        timers = [line.split()[0] for line in listed.splitlines() if line.strip()]
        run("systemctl", "stop", *(timer for timer in timers if timer != kept_timer))
        run("systemctl", "stop", *WRITERS)
        run("systemctl", "mask", "--runtime", *WRITERS_AT_STOP)
        # auditd refuses to be stopped by systemctl.
        run("sh", "-c", "read pid < /run/auditd.pid && kill $pid")
        os.makedirs(os.path.dirname(JOURNAL_IN_MEMORY), exist_ok=True)
        with open(JOURNAL_IN_MEMORY, "w") as file:
            file.write("[Journal]\nStorage=volatile\n")
        run("systemctl", "restart", "systemd-journald.service")

    # --- our key --------------------------------------------------------------------------------------

    def remove_key(self, key: str) -> None:
        """``key`` is the base64 part of a public key: lines that hold it go, whatever options they have."""
        for path in find_authorized_keys():
            try:
                self.keys += remove_lines(path, lambda line: key in line.split())
            except FileNotFoundError:
                continue
            except OSError as error:
                self.fail(path, error)

    # --- what cloud-init wrote --------------------------------------------------------------------------

    def forget_instance(self) -> None:
        if not cloud_init_is_off():
            if not network_is_configured_by_hand():
                for path in list_generated_network_files():
                    self.attempt(path, os.unlink, path)
            self.forget_name()
        if is_generated("/etc/resolv.conf", RESOLVER_WRITERS):
            self.attempt("/etc/resolv.conf", empty_file, "/etc/resolv.conf")

    def forget_name(self) -> None:
        """The name that cloud-init gave this instance, where it would give another to the next."""
        names = read_given_names()
        if read_text("/etc/hostname").strip() in names:
            self.attempt("/etc/hostname", empty_file, "/etc/hostname")

        def names_this_instance(line: str) -> bool:
            words = line.split()
            return words[:1] in (["127.0.1.1"], ["::1"]) and not names.isdisjoint(words[1:])

        self.attempt("/etc/hosts", remove_lines, "/etc/hosts", names_this_instance, True)

    # --- files --------------------------------------------------------------------------------------------

    def clean(self, rules: Rules) -> None:
        with open_view() as view:
            for inside, outside, removed in view.walk(rules.is_removed):
                path = decode_path(inside)
                if removed:
                    self.attempt(path, remove_tree, outside)
                elif rules.is_emptied(path) and stat.S_ISREG(mode_of(outside)):
                    self.attempt(path, empty_file, outside)

    def attempt(self, path: str, act: "Callable[..., object]", *arguments: "Any") -> None:
        try:
            act(*arguments)
        except FileNotFoundError:
            return
        except OSError as error:
            self.fail(path, error)

    def fail(self, path: str, error: OSError) -> None:
        self.failures.append((path, str(error.strerror)))


def main(key: str, kept_timer: str, removed: "list[str]", emptied: "list[str]") -> None:
    seal = Seal()
    seal.silence(kept_timer)
    seal.remove_key(key)
    seal.forget_instance()
    seal.clean(Rules(removed, emptied))
    os.sync()
    sys.stdout.write(json.dumps({"keys": seal.keys, "failures": seal.failures}) + "\n")


def run(*argv: str) -> str:
    """What a command prints; it may fail."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=STOP_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return decode_path(done.stdout)


def mode_of(path: bytes) -> int:
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def remove_tree(path: bytes) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def empty_file(path: "str | bytes") -> None:
    """Owner and mode stay, and whoever has it open writes on to it."""
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW))


def remove_lines(path: str, is_unwanted: "Callable[[str], bool]", keep: bool = False) -> int:
    """How many lines went. Written in place: owner, mode and label stay. A file with nothing left is removed
    unless ``keep``. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    with open(descriptor, "r+", encoding="utf-8", errors="surrogateescape", newline="") as file:
        lines = file.readlines()
        kept = [line for line in lines if not is_unwanted(line)]
        if len(kept) < len(lines):
            if not "".join(kept).strip() and not keep:
                os.unlink(path)
            file.seek(0)
            file.truncate()
            file.writelines(kept)
    return len(lines) - len(kept)


def read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


# --- keys ---------------------------------------------------------------------------------------------


def find_authorized_keys() -> "list[str]":
    """Every file in which sshd looks for keys of a user."""
    settings = [line.split() for line in run("sshd", "-T").splitlines()]
    files = [words[1:] for words in settings if words[:1] == ["authorizedkeysfile"]]
    patterns = files[0] if files else [".ssh/authorized_keys", ".ssh/authorized_keys2"]
    found = []
    for line in read_text("/etc/passwd").splitlines():
        fields = line.split(":")
        if len(fields) == 7:
            found += [expand_pattern(pattern, fields[0], fields[2], fields[5]) for pattern in patterns]
    return sorted(set(found))


def expand_pattern(pattern: str, user: str, number: str, home: str) -> str:
    """See sshd_config(5), TOKENS."""
    tokens = {"%%": "%", "%h": home, "%u": user, "%U": number}
    path = re.sub("%[%huU]", lambda found: tokens[found.group()], pattern)
    return os.path.join(home, path)


# --- cloud-init -----------------------------------------------------------------------------------------


def cloud_init_is_off() -> bool:
    """Whether nothing would write again what is removed here."""
    return os.path.exists("/etc/cloud/cloud-init.disabled") or not os.path.exists("/etc/cloud")


def network_is_configured_by_hand() -> bool:
    files = ["/etc/cloud/cloud.cfg", *sorted(glob.glob("/etc/cloud/cloud.cfg.d/*.cfg"))]
    return any(NETWORK_DISABLED.search(read_text(path)) for path in files)


def list_generated_network_files() -> "list[str]":
    found = [path for pattern in NETWORK_FILES for path in glob.glob(pattern)]
    return [
        path for path in found if not path.startswith(SHARED_FOLDER) or is_generated(path, ["cloud-init"])
    ]


def is_generated(path: str, writers: "Iterable[str]") -> bool:
    """Whether the first lines of a file say that one of these wrote it."""
    if os.path.islink(path):
        return False
    start = [line for line in read_text(path).splitlines()[:3] if line.startswith(("#", ";"))]
    return any(writer in line for line in start for writer in writers)


def read_given_names() -> "set[str]":
    """Host names that cloud-init gave."""
    names = {read_text("/var/lib/cloud/data/previous-hostname").strip()}
    try:
        given = json.loads(read_text("/var/lib/cloud/data/set-hostname") or "{}")
    except ValueError:
        given = {}
    names |= {given.get("hostname"), given.get("fqdn")}
    return {name for name in names if name and not name.startswith("localhost")}
