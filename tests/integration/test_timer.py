"""The timer of a project's nightly: units that systemd takes, an environment that only its owner may read."""

from __future__ import annotations

import io
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from baker.errors import UsageError
from baker.providers.protocol import Machine
from baker.timer import (
    Timer,
    check_calendar,
    find_places,
    format_environment,
    format_service,
    format_timer,
    name_timer,
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
    }
    project.write("baker.toml", '[nightly]\njitter = "5m"\nping = "env:PING"\n')
    install = ("nightly", "--install-timer", "--user", "--at", "Mon..Fri 02:30", "--jobs", "2", "--no-prune")
    assert "PING, which is not set" in project.run(*install, "base", status=2).stderr
    project.environ["PING"] = "https://hc.example.test/abc"
    done = project.run(*install, "base")
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
        "s3cret",
    ):
        assert line in said
    assert "UNRELATED" not in said
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
