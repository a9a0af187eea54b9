"""What `nightly --install-timer` and `--remove-timer` do."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from baker.cli.wiring import Options
from baker.console import Console
from baker.errors import UsageError
from baker.notifying import ENVIRONMENT, NOTIFY, PING
from baker.settings import Settings

if TYPE_CHECKING:
    from baker.timer import Places

PASSED_ON = (
    *("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
    *("AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
"""Besides BAKER_*, PostgreSQL's, and what recipes and addresses ask for. Keys of AWS are not: they expire."""

POSTGRESQL = re.compile(r"PG[A-Z]+")
"""What libpq reads: PGPASSWORD, PGPASSFILE, PGSERVICE, PGSSLROOTCERT …"""

NIGHT_ACTOR = "nightly"
"""Who moves channels at night, unless BAKER_ACTOR is set when the timer is installed."""


def install(
    options: Options, settings: Settings, console: Console, arguments: Sequence[str], *, at: str, user: bool
) -> int:
    """Write and enable a timer that runs `nightly` with these arguments."""
    from baker.ages import parse_age
    from baker.timer import Timer, check_calendar, find_places, install_timer, name_timer

    assert settings.project is not None
    check_calendar(at)
    places = find_places(user=user or os.geteuid() != 0, environ=os.environ)
    timer = Timer(
        name=name_timer(settings.project),
        folder=settings.project,
        command=[str(find_baker()), "nightly", "--jitter", "0m", *arguments],
        environ=choose_environment(settings, console, os.environ, catalog=options.catalog),
        at=at,
        spread_seconds=parse_age(settings.nightly.get("jitter", "10m")),
    )
    written, enabled = install_timer(timer, places)
    if console.as_json:
        console.result_json(
            {
                "timer": timer.name,
                "files": {kind: str(path) for kind, path in places.files(timer.name).items()},
                "written": [str(path) for path in written],
                "variables": sorted(timer.environ),
                "enabled": enabled,
            }
        )
        return 0
    for path in places.files(timer.name).values():
        console.result(f"{'wrote' if path in written else 'unchanged'} {path}")
    console.say(f"It runs at {at} with {', '.join(sorted(timer.environ))} as they are set now")
    say_next(console, places, timer.name, enabled=enabled)
    return 0


def say_next(console: Console, places: Places, name: str, *, enabled: bool) -> None:
    systemctl = " ".join(places.systemctl)
    journal = systemctl.replace("systemctl", "journalctl")
    if not enabled:
        console.say(f"No systemd that looks into {places.units} can be reached from here. Enable it with")
        console.say(f"  {systemctl} daemon-reload && {systemctl} enable --now {name}.timer")
    if "--user" in places.systemctl:
        console.say("It runs while you are logged in. Always, once you said: loginctl enable-linger")
    console.say(f"When:    {systemctl} list-timers {name}.timer")
    console.say(f"Now:     {systemctl} start {name}.service")
    console.say(f"Reports: {journal} -u {name}.service")
    console.say("Remove:  baker nightly --remove-timer" + (" --user" if "--user" in places.systemctl else ""))


def remove(settings: Settings, console: Console, *, user: bool) -> int:
    from baker.timer import find_places, name_timer, remove_timer

    assert settings.project is not None
    places = find_places(user=user or os.geteuid() != 0, environ=os.environ)
    name = name_timer(settings.project)
    removed = remove_timer(name, places)
    if console.as_json:
        console.result_json({"timer": name, "removed": [str(path) for path in removed]})
    for path in removed:
        if not console.as_json:
            console.result(f"removed {path}")
    if not removed:
        console.say(f"There is no timer {name}")
    return 0


def find_baker() -> Path:
    """What the timer is to run. Raises UsageError."""
    beside = Path(sys.executable).with_name("baker")
    if beside.is_file():
        return beside
    if found := shutil.which("baker"):  # python is the system's, baker is not (pip install --user)
        return Path(found).absolute()
    raise UsageError(
        f"a timer has to run baker, which is neither beside {sys.executable} nor on PATH",
        hint="Put the folder that has it on PATH, and install the timer again.",
    )


def choose_environment(
    settings: Settings, console: Console, environ: Mapping[str, str], *, catalog: str | None
) -> dict[str, str]:
    """The variables that a night needs of those that are set now."""
    from baker.recipes import load_sound_recipes

    assert settings.project is not None
    addresses = [
        *(*environ.get(NOTIFY, "").split(), *settings.nightly.get("notify", ())),
        *(environ.get(PING, ""), settings.nightly.get("ping", "")),
    ]
    asked = {address.removeprefix(ENVIRONMENT) for address in addresses if address.startswith(ENVIRONMENT)}
    sound, problems = load_sound_recipes(settings.project, folder=settings.recipes)
    for recipe in sound.values():
        asked |= {*recipe.secrets, *recipe.environment}
    for problem in problems:
        console.say(f"{problem}. What it asks for is not in the timer: install it again when it is right")
    chosen = {
        name: value
        for name, value in environ.items()
        if value
        and (name.startswith("BAKER_") or POSTGRESQL.fullmatch(name) or name in PASSED_ON or name in asked)
    }
    chosen = {"BAKER_ACTOR": NIGHT_ACTOR, **chosen, "BAKER_HOME": str(settings.home)}
    return {**chosen, "BAKER_CATALOG": catalog} if catalog else chosen
