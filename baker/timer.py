"""A systemd timer and service for the nightly of a project: their text, and putting it where it belongs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from baker.errors import CommandFailed, HostError, UsageError

BOOTED = Path("/run/systemd/system")
"""Is there where systemd is the init (sd_booted)."""

LONGEST = "12h"
"""After so long a night is asked to end, and has ten minutes to clean up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timer:
    """What is to be run when. ``at`` is a time (``03:00``) or another calendar expression of systemd.

    ``spread_seconds`` is by how much at most it begins later than that.
    """

    name: str
    folder: Path
    command: Sequence[str]
    environ: Mapping[str, str]
    at: str
    spread_seconds: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where systemd, of the system or of one user, and the timer's environment are."""

    units: Path
    environments: Path
    systemctl: tuple[str, ...]

    def files(self, name: str) -> dict[str, Path]:
        return {
            "service": self.units / f"{name}.service",
            "timer": self.units / f"{name}.timer",
            "environment": self.environments / f"{name}.env",
        }


def find_places(*, user: bool, environ: Mapping[str, str]) -> Places:
    """The system's, or the user's own. Raises HostError where there is no systemd."""
    if not sys.platform.startswith("linux"):
        raise HostError(
            f"timers are systemd's, and this is {sys.platform}", hint="Use cron: see docs/nightly.md"
        )
    if not user:
        return Places(
            units=Path("/etc/systemd/system"),
            environments=Path("/etc/baker"),
            systemctl=("systemctl",),
        )
    config = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Places(
        units=config / "systemd/user", environments=config / "baker", systemctl=("systemctl", "--user")
    )


def name_timer(project: Path) -> str:
    """One per project: two of the same name in different folders have two."""
    readable = re.sub(r"[^A-Za-z0-9-]+", "-", project.name).strip("-") or "project"
    return f"baker-nightly-{readable}-{hashlib.sha256(str(project).encode()).hexdigest()[:6]}"


# --- text ---------------------------------------------------------------------------------------------


def format_service(timer: Timer, environment: Path) -> str:
    return f"""\
# Written by: baker nightly --install-timer
[Unit]
Description=Nightly bakes of {escape(str(timer.folder))}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
WorkingDirectory={escape(str(timer.folder))}
EnvironmentFile={escape(str(environment))}
ExecStart={" ".join(quote(word) for word in timer.command)}
# It is told to end, cleans up, and only then is killed with all that it started.
KillMode=mixed
TimeoutStartSec={LONGEST}
TimeoutStopSec=10min
"""


def format_timer(timer: Timer) -> str:
    return f"""\
# Written by: baker nightly --install-timer
[Unit]
Description=Nightly bakes of {escape(str(timer.folder))}

[Timer]
OnCalendar={timer.at}
# What was missed while the host was off is made up for.
Persistent=true
RandomizedDelaySec={timer.spread_seconds}
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def format_environment(environ: Mapping[str, str]) -> str:
    """An environment file of systemd, which reads double quotes as a shell does."""
    lines = [f"{name}={quote_shell(value)}\n" for name, value in sorted(environ.items())]
    return "".join(["# Written by: baker nightly --install-timer\n", *lines])


def escape(text: str) -> str:
    """For a unit file, where % begins a specifier. Raises UsageError for what no unit can hold."""
    if not text.isprintable():
        raise UsageError(f"systemd cannot be told {text!r}: it holds a line break or the like")
    return text.replace("%", "%%")


def quote(word: str) -> str:
    """One word of ExecStart."""
    quoted = escape(word).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + quoted.replace("$", "$$") + '"'


def quote_shell(value: str) -> str:
    return '"' + re.sub(r'([\\"$`])', r"\\\1", value) + '"'


# --- putting them there -------------------------------------------------------------------------------


def is_booted() -> bool:
    return BOOTED.is_dir()


def check_calendar(at: str) -> None:
    """Raises UsageError for what systemd does not understand; where it cannot be asked, but for ``03:00``."""
    try:
        asked = subprocess.run(["systemd-analyze", "calendar", "--", at], capture_output=True, text=True)
        understood = asked.returncode == 0
    except FileNotFoundError:
        understood = bool(re.fullmatch(r"([01]?[0-9]|2[0-3]):[0-5][0-9]", at))
    if not understood or not at.isprintable():
        raise UsageError(
            f"{at!r} is no time for a timer",
            hint='Write it like 03:00 or "Mon..Fri 02:30" (systemd.time(7)).',
        )


def install_timer(timer: Timer, places: Places) -> tuple[list[Path], bool]:
    """Write the files (those that are the same stay as they are), and enable it where systemd reads them.

    Returns the files that were written, and whether it is enabled. Raises HostError, CommandFailed.
    """
    files = places.files(timer.name)
    texts = {
        "environment": format_environment(timer.environ),
        "service": format_service(timer, files["environment"]),
        "timer": format_timer(timer),
    }
    written = [
        files[kind] for kind, text in texts.items() if write(files[kind], text, private=kind == "environment")
    ]
    enabled = reload_units(places)
    if enabled:
        run(*places.systemctl, "enable", "--now", f"{timer.name}.timer")
        if files["timer"] in written:  # one that ran already goes by the new times
            run(*places.systemctl, "restart", f"{timer.name}.timer")
    return written, enabled


def remove_timer(name: str, places: Places) -> list[Path]:
    """Disable the timer and remove its files; returns those that were there. A night at work goes on.

    Raises HostError; CommandFailed when the files are gone.
    """
    files = places.files(name)
    there = [path for path in files.values() if path.exists()]
    with contextlib.ExitStack() as removing:
        if there:
            removing.callback(reload_units, places)
        for path in there:
            removing.callback(remove_file, path)
        if files["timer"] in there and reload_units(places):
            run(*places.systemctl, "disable", "--now", f"{name}.timer")
    return there


def reload_units(places: Places) -> bool:
    """Have systemd read its units anew.

    False where none runs, or the user's cannot be reached (from cron, as root), or does not look there.
    Raises CommandFailed where the system's own fails.
    """
    if not is_booted():
        return False
    if "--user" not in places.systemctl:
        run(*places.systemctl, "daemon-reload")
        return True
    try:
        run(*places.systemctl, "daemon-reload")
        looks = run(*places.systemctl, "show", "--property=UnitPath", "--value")
    except CommandFailed:
        return False
    return str(places.units) in looks.split()


def write(path: Path, text: str, *, private: bool) -> bool:
    """Whether the file was not the same already. ``private``: nobody but its owner may ever read it."""
    mode = 0o600 if private else 0o644
    with explaining(path):
        with contextlib.suppress(FileNotFoundError):
            if path.read_text() == text and path.stat().st_mode & 0o777 == mode:
                return False
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:  # noqa: PTH123
            os.fchmod(file.fileno(), mode)  # whatever the umask
            file.write(text)
        new.replace(path)
    return True


@contextlib.contextmanager
def explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(
            f"{path} cannot be written: {error.strerror}",
            hint="Run it with sudo, or for a timer of your own: --user",
        ) from error


def remove_file(path: Path) -> None:
    with explaining(path):
        path.unlink()


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        raise CommandFailed(
            f"{' '.join(argv)} failed: {done.stderr.strip()}",
            exit_status=done.returncode,
            stderr_tail=done.stderr,
            hint="Look: systemctl status, journalctl -xe",
        )
    return done.stdout
