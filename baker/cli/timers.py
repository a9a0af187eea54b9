"""What `nightly --install-timer` and `--remove-timer` do."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from baker.cli.wiring import Options, load_project_recipes
from baker.console import Console
from baker.errors import RecipeError
from baker.notifying import ENVIRONMENT
from baker.settings import Settings

if TYPE_CHECKING:
    from baker.timer import Places

PASSED_ON = (
    *("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
)
"""Besides BAKER_*, and what recipes and addresses ask for by name. Keys of AWS are not: they expire."""

NIGHT_ACTOR = "nightly"
"""Who moves channels at night, unless BAKER_ACTOR is set when the timer is installed."""


def install(
    options: Options, settings: Settings, console: Console, arguments: Sequence[str], *, at: str, user: bool
) -> int:
    """Write and enable a timer that runs `nightly` with these arguments."""
    from baker.ages import parse_age
    from baker.timer import Timer, check_calendar, find_places, install_timer, is_booted, name_timer

    assert settings.project is not None
    check_calendar(at)
    places = find_places(user=user or os.geteuid() != 0, environ=os.environ)
    timer = Timer(
        name=name_timer(settings.project),
        folder=settings.project,
        command=[str(Path(sys.executable).with_name("baker")), "nightly", "--jitter", "0m", *arguments],
        environ=choose_environment(settings, os.environ, catalog=options.catalog),
        at=at,
        spread_seconds=parse_age(settings.nightly.get("jitter", "10m")),
    )
    written = install_timer(timer, places)
    if console.as_json:
        console.result_json(
            {
                "timer": timer.name,
                "files": {kind: str(path) for kind, path in places.files(timer.name).items()},
                "written": [str(path) for path in written],
                "variables": sorted(timer.environ),
                "enabled": is_booted(),
            }
        )
        return 0
    for path in places.files(timer.name).values():
        console.result(f"{'wrote' if path in written else 'unchanged'} {path}")
    console.say(f"It runs at {at} with {', '.join(sorted(timer.environ))} as they are set now")
    say_next(console, places, timer.name, booted=is_booted())
    return 0


def say_next(console: Console, places: Places, name: str, *, booted: bool) -> None:
    systemctl = " ".join(places.systemctl)
    journal = systemctl.replace("systemctl", "journalctl")
    if not booted:
        console.say("systemd does not run here: where it does, enable it with")
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


def choose_environment(
    settings: Settings, environ: Mapping[str, str], *, catalog: str | None
) -> dict[str, str]:
    """The variables that a night needs of those that are set now."""
    asked = {
        address.removeprefix(ENVIRONMENT)
        for address in [*settings.nightly.get("notify", ()), settings.nightly.get("ping", "")]
        if address.startswith(ENVIRONMENT)
    }
    try:
        for recipe in load_project_recipes(settings).values():
            asked |= {*recipe.secrets, *recipe.environment}
    except RecipeError:
        pass  # the nights will say it
    chosen = {
        name: value
        for name, value in environ.items()
        if value and (name.startswith("BAKER_") or name in PASSED_ON or name in asked)
    }
    chosen = {"BAKER_ACTOR": NIGHT_ACTOR, **chosen, "BAKER_HOME": str(settings.home)}
    return {**chosen, "BAKER_CATALOG": catalog} if catalog else chosen
