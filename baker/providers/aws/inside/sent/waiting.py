"""Waits until cloud-init has finished, and stops what would change the machine behind a recipe's back.

Answers with one JSON object on stdout: ``{"state": STATE, "errors": […], "warnings": […], "log": TAIL}``.
States: ``done``, ``failed``, ``waiting`` (the time is over), ``absent`` (no cloud-init, or off).
"""

# ruff: noqa: PTH110, PTH118, PTH123, UP022

import json
import os
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STATUS_FOLDER = "/run/cloud-init"
LOG = "/var/log/cloud-init-output.log"
LOG_LINES = 25
UPDATERS = ("apt-daily.service", "apt-daily-upgrade.service", "dnf-makecache.service", "packagekit.service")


def main(seconds: float, kept_timer: str) -> None:
    answer = wait_for_cloud_init(time.monotonic() + seconds)
    if answer["state"] in ("done", "absent"):
        stop_updaters(kept_timer)
    sys.stdout.write(json.dumps(answer) + "\n")


def wait_for_cloud_init(deadline: float) -> "dict[str, Any]":
    """By the file that cloud-init itself writes last: ``cloud-init status --wait`` is younger than some
    systems, and its exit codes changed (23.4)."""
    looked = time.monotonic()
    ended_since = None
    while True:
        result = read_json(os.path.join(STATUS_FOLDER, "result.json"))
        if result is not None:
            return describe(result, read_json(os.path.join(STATUS_FOLDER, "status.json")) or {})
        if os.path.exists(os.path.join(STATUS_FOLDER, "disabled")) or not os.path.exists("/etc/cloud"):
            return make_answer("absent")
        now = time.monotonic()
        if now >= deadline:
            return make_answer("waiting", errors=[describe_stage()])
        # Asking systemd costs more than looking for a file.
        if now - looked >= 2.0:
            looked = now
            ended_since = (ended_since or now) if cloud_init_ended() else None
            if ended_since is not None and now - ended_since >= 5.0:
                return make_answer("failed", errors=["it ended without a result", *list_failed_units()])
        time.sleep(0.1)


def describe(result: "dict[str, Any]", status: "dict[str, Any]") -> "dict[str, Any]":
    """Of cloud-init's ``result.json`` and ``status.json``. Recoverable errors are warnings."""
    errors = [str(error) for error in result.get("v1", {}).get("errors", [])]
    warnings = []
    for stage in status.get("v1", {}).values():
        if isinstance(stage, dict):
            for level, messages in sorted(stage.get("recoverable_errors", {}).items()):
                warnings += [f"{level}: {message}" for message in messages]
    return make_answer("failed" if errors else "done", errors=errors, warnings=list(dict.fromkeys(warnings)))


def make_answer(
    state: str, errors: "list[str] | None" = None, warnings: "list[str] | None" = None
) -> "dict[str, Any]":
    log = "" if state in ("done", "absent") else read_tail(LOG)
    return {"state": state, "errors": errors or [], "warnings": warnings or [], "log": log}


def describe_stage() -> str:
    status = read_json(os.path.join(STATUS_FOLDER, "status.json")) or {}
    stage = status.get("v1", {}).get("stage")
    return "it is in its stage " + str(stage) if stage else "it has not begun its next stage"


def read_json(path: str) -> "dict[str, Any] | None":
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_tail(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-LOG_LINES:])
    except OSError:
        return ""


def cloud_init_ended() -> bool:
    """Whether booting is over, or the stage that writes the result failed."""
    state = run("systemctl", "is-system-running").strip()
    return state in ("running", "degraded") or "cloud-final.service" in list_failed_units()


def list_failed_units() -> "list[str]":
    listed = run("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "cloud-*")
    return [line.split()[0] for line in listed.splitlines() if line.strip()]


def stop_updaters(kept_timer: str) -> None:
    """Nobody else may hold the package database; an upgrade under way ends first (systemd asks it to)."""
    listed = run("systemctl", "list-units", "--type=timer", "--plain", "--no-legend", "--all")
    timers = [line.split()[0] for line in listed.splitlines() if line.strip()]
    run("systemctl", "stop", *(timer for timer in timers if timer != kept_timer))
    run("systemctl", "stop", *UPDATERS)


def run(*argv: str) -> str:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")
