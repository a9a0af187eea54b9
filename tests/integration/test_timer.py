"""The timer of a project's nightly: units that systemd takes, an environment that only its owner may read."""

from __future__ import annotations

import io
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from baker.cli.timers import find_baker
from baker.errors import CommandFailed, UsageError
from baker.providers.protocol import Machine
from baker.timer import (
    Places,
    Timer,
    check_calendar,
    find_places,
    format_environment,
    format_service,
    format_timer,
    install_timer,
    name_timer,
    remove_timer,
)
from tests.e2e.project import BAKER, Project, make_project
from tests.machines import launch

__all__ = ["launch"]

ODD = "a \"b\" $HOME 100% \\n 'c' `d` ü"
"""Whatever a quoting rule could trip over."""
WAIT_SECONDS = 60.0


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = make_project(tmp_path / "my images", tmp_path / "home")
    project.environ |= {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    project.recipe("base", toml='from = "debian:trixie"\nsecrets = ["REPO_TOKEN"]\n')
    return project


def make_timer(**changes: object) -> Timer:
    values: dict[str, object] = {
        "name": "baker-nightly-images",
        "folder": Path("/srv/my images 100%"),
        "command": ["/usr/local/bin/baker", "nightly", ODD],
        "environ": {"BAKER_CATALOG": ODD, "BAKER_HOME": "/var/lib/baker", "EMPTY": ""},
        "at": "03:00",
        **changes,
    }
    return Timer(**values)  # type: ignore[arg-type]


def test_timer_is_written_once_and_only_its_owner_may_read_the_environment(
    project: Project, tmp_path: Path
) -> None:
    project.environ |= {
        "REPO_TOKEN": "t0ken",
        "UNRELATED": "x",
        "BAKER_CATALOG": "postgresql://ann:s3cret@db/c",
        "BAKER_NIGHTLY_NOTIFY": "env:SLACK json://127.0.0.1:1",
        "SLACK": "json://127.0.0.1:2",
        "PGPASSFILE": "/root/.pgpass",
        "PGP_KEY": "private",
    }
    project.recipe("wrong", toml="nonsense = 1\n")
    project.write("baker.toml", '[nightly]\njitter = "5m"\nping = "env:PING"\n')
    install = ("nightly", "--install-timer", "--user", "--at", "Mon..Fri 02:30", "--jobs", "2", "--no-prune")
    assert "PING, which is not set" in project.run(*install, "base", status=2).stderr
    project.environ["PING"] = "https://hc.example.test/abc"
    done = project.run(*install, "base")
    assert "nonsense" in done.stderr
    assert "install it again when it is right" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert "t0ken" not in done.stdout + done.stderr
    name = name_timer(project.folder)
    assert name.startswith("baker-nightly-my-images-")
    units, environments = tmp_path / "config/systemd/user", tmp_path / "config/baker"
    files = [units / f"{name}.service", units / f"{name}.timer", environments / f"{name}.env"]
    assert done.stdout.splitlines() == [f"wrote {path}" for path in files]
    assert [path.stat().st_mode & 0o777 for path in files] == [0o644, 0o644, 0o600]
    said = files[2].read_text()
    for line in (
        'BAKER_ACTOR="tester"',
        f'BAKER_HOME="{project.home}"',
        'REPO_TOKEN="t0ken"',
        "PING=",
        'SLACK="json://127.0.0.1:2"',
        'PGPASSFILE="/root/.pgpass"',
        "s3cret",
    ):
        assert line in said
    assert "UNRELATED" not in said
    assert "PGP_KEY" not in said
    service = files[0].read_text()
    assert f'ExecStart="{BAKER}" "nightly" "--jitter" "0m" "--no-prune" "--jobs" "2" "base"\n' in service
    assert f"WorkingDirectory={project.folder}\n" in service
    assert "OnCalendar=Mon..Fri 02:30\n" in files[1].read_text()
    assert "RandomizedDelaySec=300\n" in files[1].read_text()
    verify = ["systemd-analyze", "verify", *map(str, files[:2])]
    verified = subprocess.run(verify, capture_output=True, text=True, env=project.variables)
    assert (verified.returncode, str(units) in verified.stderr) == (0, False), verified.stderr

    before = [path.stat().st_ino for path in files]
    again = project.json(*install, "base")
    assert (again["timer"], again["written"]) == (name, [])
    assert [path.stat().st_ino for path in files] == before
    files[2].chmod(0o644)
    assert project.json(*install, "base")["written"] == [str(files[2])], "others could read it"
    assert files[2].stat().st_mode & 0o777 == 0o600
    assert project.json(*install, "base", "--at", "04:00")["written"] == [str(files[1])]

    removed = project.run("nightly", "--remove-timer", "--user").stdout
    assert sorted(removed.splitlines()) == sorted(f"removed {path}" for path in files)
    assert not any(path.exists() for path in files)
    assert "There is no timer" in project.run("nightly", "--remove-timer", "--user").stderr


def test_timer_that_could_not_work_is_refused_when_it_is_installed(project: Project) -> None:
    install = ("nightly", "--install-timer", "--user")
    assert "is no time for a timer" in project.run(*install, "--at", "25:00", status=2).stderr
    assert "latest is always" in project.run(*install, "--promote", "latest", status=2).stderr
    project.write("baker.toml", '[nightly]\nnotify = ["env:NO_SUCH"]\n')
    assert "NO_SUCH, which is not set" in project.run(*install, status=2).stderr
    assert not (Path(project.environ["XDG_CONFIG_HOME"])).exists()


def test_time_is_checked_where_systemd_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    check_calendar("03:00")
    for wrong in ("24:00", "3 o'clock", "03:00\nExecStart=rm"):
        with pytest.raises(UsageError, match="is no time for a timer"):
            check_calendar(wrong)


def test_what_no_unit_can_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="line break"):
        format_service(make_timer(command=["baker", "a\nb"]), Path("/e"))


def test_timers_of_folders_with_one_name_do_not_meet() -> None:
    assert name_timer(Path("/a/images")) != name_timer(Path("/b/images"))
    assert name_timer(Path("/größe/日本")).startswith("baker-nightly-project-")
    assert find_places(user=False, environ={}).files("x")["timer"] == Path("/etc/systemd/system/x.timer")


SYSTEMCTL = """\
#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
    *$BROKEN*) echo 'Failed to connect to bus: No medium found' >&2; exit 1 ;;
    *UnitPath*) echo "/etc/systemd/user $LOOKS /usr/lib/systemd/user" ;;
esac
"""
"""Stands in for a systemd that runs, is out of reach, or looks elsewhere."""


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Says what it was told since; then it breaks at ``broken``, and looks for units in ``looks``."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(SYSTEMCTL)
    (tmp_path / "bin/systemctl").chmod(0o755)
    monkeypatch.setattr("baker.timer.BOOTED", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    log = tmp_path / "log"
    monkeypatch.setenv("LOG", str(log))

    def set_up(*, broken: str = "nothing", looks: Path = Path("/nowhere")) -> list[str]:
        monkeypatch.setenv("BROKEN", broken)
        monkeypatch.setenv("LOOKS", str(looks))
        told = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return told

    set_up()
    return set_up


def test_timer_of_a_user_is_enabled_only_where_that_systemd_is_reached_and_looks(
    systemctl: Callable[..., list[str]], tmp_path: Path
) -> None:
    places = find_places(user=True, environ={"XDG_CONFIG_HOME": str(tmp_path)})
    timer = make_timer(folder=tmp_path)
    written, enabled = install_timer(timer, places)
    assert (len(written), enabled) == (3, False), "it looks elsewhere"
    assert not [told for told in systemctl(broken="daemon-reload") if "enable" in told]
    assert install_timer(timer, places) == ([], False), "it cannot be reached"
    assert len(remove_timer(timer.name, places)) == 3
    systemctl(looks=places.units)
    written, enabled = install_timer(timer, places)
    assert (len(written), enabled) == (3, True)
    assert f"--user enable --now {timer.name}.timer" in systemctl(looks=places.units)
    assert len(remove_timer(timer.name, places)) == 3
    assert f"--user disable --now {timer.name}.timer" in systemctl()


def test_timer_that_is_half_there_or_cannot_be_disabled_is_removed_all_the_same(
    systemctl: Callable[..., list[str]], tmp_path: Path
) -> None:
    places = Places(units=tmp_path / "units", environments=tmp_path / "etc", systemctl=("systemctl",))
    timer = make_timer(folder=tmp_path)
    files = places.files(timer.name)
    install_timer(timer, places)
    files["timer"].unlink()
    systemctl()
    assert len(remove_timer(timer.name, places)) == 2
    assert systemctl() == ["daemon-reload"]
    for broken in ("disable", "daemon-reload"):
        systemctl()
        install_timer(timer, places)
        systemctl(broken=broken)
        with pytest.raises(CommandFailed, match="No medium found"):
            remove_timer(timer.name, places)
        assert not any(path.exists() for path in files.values())


def test_timer_runs_the_baker_on_the_path_where_none_is_beside_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_baker() == BAKER
    monkeypatch.setattr("sys.executable", "/usr/bin/nowhere/python3")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="nor on PATH"):
        find_baker()
    shutil.copy(BAKER, tmp_path)
    assert find_baker() == tmp_path / "baker"


TELL = """\
#!/usr/bin/perl
# Says with what it was run, byte for byte.
open(my $file, ">", "/run/told.new") or die;
print $file join("\\0", "$ENV{BAKER_CATALOG}|$ENV{BAKER_HOME}", `pwd` =~ s/\\n//r, @ARGV);
close($file);
rename("/run/told.new", "/run/told");
"""


@pytest.mark.machine
def test_timer_really_fires_with_its_folder_environment_and_arguments(
    launch: Callable[[], Machine],
) -> None:
    machine = launch()
    timer = make_timer(at="*-*-* *:*:0/2")
    environment = Path("/etc/baker/baker-nightly-images.env")
    machine.run(["mkdir", "-p", str(timer.folder), "/etc/baker"])
    for path, text, mode in (
        (timer.command[0], TELL, 0o755),
        (str(environment), format_environment(timer.environ), 0o600),
        (f"/etc/systemd/system/{timer.name}.service", format_service(timer, environment), 0o644),
        (f"/etc/systemd/system/{timer.name}.timer", format_timer(timer), 0o644),
    ):
        machine.put(io.BytesIO(text.encode()), path, mode=mode)
    for command in (["daemon-reload"], ["enable", "--now", f"{timer.name}.timer"]):
        done = machine.run(["systemctl", *command])
        assert done.exit_status == 0, done.stderr
    deadline = time.monotonic() + WAIT_SECONDS
    while (told := machine.run(["cat", "/run/told"])).exit_status != 0:
        assert time.monotonic() < deadline, machine.run(["journalctl", "-u", timer.name]).stdout.decode()
        time.sleep(0.2)
    assert told.stdout.decode().split("\0") == [
        f"{ODD}|/var/lib/baker",
        str(timer.folder),
        "nightly",
        ODD,
    ]
