"""An environment on this host, as who deploys to it meets it: real machines, a real HAProxy."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.project import Project, make_project, share_downloads

pytestmark = pytest.mark.machine

SERVER = r"""#!/usr/bin/perl
use IO::Socket::INET;
my ($version, $mode) = @ARGV;
my $asked = 0;
my $listener = IO::Socket::INET->new(LocalPort => 80, Listen => 64, ReuseAddr => 1) or die $!;
print STDERR "serving $version ($mode)\n";
while (my $client = $listener->accept) {
    my $request = <$client> || "";
    while (my $line = <$client>) { last if $line =~ /^\r?$/ }
    my ($path) = $request =~ m{^\S+ (\S+)};
    $asked = 1 if $path eq "/";
    my $bad = $mode eq "sick" || ($mode eq "falters" && $asked);
    my $status = $path eq "/status" && $bad ? "503 Sick" : "200 OK";
    my $length = length("$version\n");
    print $client "HTTP/1.1 $status\r\nConnection: close\r\nContent-Length: $length\r\n\r\n$version\n";
    close $client;
}
"""

DEPLOY = """
import io

from pyinfra import host
from pyinfra.operations import files, systemd

UNIT = f"[Service]\\nExecStart=/usr/local/bin/web {host.data.version} {host.data.mode}\\n"
UNIT += "[Install]\\nWantedBy=multi-user.target\\n"
files.put(name="Server", src="recipes/web/server", dest="/usr/local/bin/web", mode="755")
files.put(name="Unit", src=io.StringIO(UNIT), dest="/etc/systemd/system/web.service")
systemd.service(name="Enabled", service="web", enabled=True, daemon_reload=True)
"""

ENVIRONMENT = """
recipe = "web"
target = "local"
machines = {machines}
[health]
path = "/status"
within = "{within}"
[rollout]
soak = "1s"
watch = "{watch}"
window = "10m"
drain = "1s"
[local]
listen = "127.0.0.1:{port}"
"""


@dataclass(kw_only=True)
class Site:
    """A project with images of ``web`` (1: one, 2: two, 3: sick, 4: falters), and a place for each
    environment of a test."""

    project: Project

    def environment(
        self, name: str, *, machines: int = 1, within: str = "20s", watch: str = "1s", more: str = ""
    ) -> str:
        """Describe one. Returns where it will listen."""
        port = free_port()
        text = ENVIRONMENT.format(machines=machines, within=within, watch=watch, port=port)
        self.project.write(f"environments/{name}.toml", more + text)
        return f"http://127.0.0.1:{port}"

    def show(self, name: str) -> Any:
        return self.project.json("env", "show", name)

    def bake(self, version: str, mode: str = "good") -> None:
        text = f'from = "debian:trixie"\n[data]\nversion = "{version}"\nmode = "{mode}"\n'
        self.project.recipe("web", toml=text, deploy=DEPLOY)
        self.project.write("recipes/web/server", SERVER)
        (bake,) = self.project.bake("web")
        assert bake["outcome"] == "baked"


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> Site:
    folder = tmp_path_factory.mktemp("deploying")
    share_downloads(shared_home, folder / "home")
    site = Site(project=make_project(folder / "project", folder / "home"))
    site.bake("one")
    site.bake("two")
    return site


@pytest.fixture(scope="module")
def broken(baked: Site) -> Site:
    """With the images that should not serve as well."""
    baked.bake("three", "sick")
    baked.bake("four", "falters")
    return baked


@pytest.fixture
def site(baked: Site) -> Iterator[Site]:
    yield baked
    remove_all(baked)


@pytest.fixture
def broken_site(broken: Site) -> Iterator[Site]:
    yield broken
    remove_all(broken)


def remove_all(site: Site) -> None:
    for file in sorted((site.project.folder / "environments").glob("*.toml")):
        if site.project.json("env", "history", file.stem)["events"]:
            with contextlib.suppress(AssertionError):
                site.project.run("env", "rm", file.stem, "--yes")
        file.unlink()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def ask(place: str) -> str:
    """The version that answers."""
    with urllib.request.urlopen(f"{place}/", timeout=10) as answer:
        return str(answer.read().decode().split()[0])


def assert_nothing_left(site: Site, name: str, place: str) -> None:
    folder = site.project.home / "local" / "environments"
    assert list(folder.glob(f"{name}/**/*.json")) == []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            assert f"{folder}/{name}/".encode() not in command, command
    mark = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    assert list(Path("/sys/fs/cgroup").rglob(f"bakerenv-{mark}-{name}-*")) == []
    leases = site.project.json("lease", "ls")["leases"]
    assert [lease for lease in leases if lease["owner"] == f"env:{name}"] == []
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(place, timeout=5)


def test_images_replace_one_another_and_the_one_before_comes_back(site: Site) -> None:
    project = site.project
    place = site.environment("demo")
    first = project.json("deploy", "demo", "1")
    assert (first["outcome"], first["image"], first["before"], first["machines"]) == (
        "deployed",
        "web:1",
        None,
        1,
    )
    assert first["place"] == place
    assert ask(place) == "one"

    assert project.json("deploy", "demo", "web:1")["outcome"] == "unchanged"

    dry = project.run("deploy", "demo", "2", "--dry-run").stdout
    assert "web:1 -> web:2" in dry
    assert "files     1 changed" in dry
    assert ask(place) == "one"

    second = project.json("deploy", "demo", "2", "--reason", "the newer one")
    assert (second["image"], second["before"], second["release"]) == ("web:2", "web:1", 2)
    assert ask(place) == "two"
    shown = site.show("demo")
    assert [(side["image"], side["state"], side["traffic"]) for side in shown["sides"]] == [
        ("web:2", "live", 100),
        ("web:1", "warm", 0),
    ]
    assert shown["roll_back"]["image"] == "web:1"
    assert "2-1" in project.run("env", "show", "demo").stdout
    assert "serving two" in project.run("logs", "demo/2-1").stdout
    missing = project.run("logs", "demo/9-9", status=2).stderr
    assert "demo/2-1" in missing

    back = project.json("env", "rollback", "demo", "--reason", "it was better")
    assert (back["image"], back["before"]) == ("web:1", "web:2")
    assert ask(place) == "one"

    listed = project.json("env", "ls")["environments"]
    assert [(one["environment"], one["image"], one["healthy"]) for one in listed] == [("demo", "web:1", 1)]
    asked = project.run("env", "rm", "demo", status=2).stderr
    assert "1 machine serves" in asked
    project.run("env", "rm", "demo", "--yes")
    assert_nothing_left(site, "demo", place)
    events = [one["event"] for one in project.json("env", "history", "demo")["events"]]
    assert events[0] == "removed"
    assert {"deploying", "live", "rolled back", "collected"} <= set(events)


def test_what_cannot_be_deployed_is_said_before_anything_is_made(site: Site) -> None:
    project = site.project
    site.environment("fresh")
    assert "recipe web, not base" in project.run("deploy", "fresh", "base:1", status=2).stderr
    assert "ascend" in project.run("deploy", "fresh", "--steps", "50,10", status=2).stderr
    assert "web has no version 99" in project.run("deploy", "fresh", "99", status=2).stderr
    assert "fresh" in project.run("deploy", "frseh", status=2).stderr
    assert "nothing was ever deployed to fresh" in project.run("env", "rollback", "fresh", status=2).stderr
    listed = project.json("env", "ls")["environments"]
    assert [(one["environment"], one["state"]) for one in listed] == [("fresh", "not deployed")]


@pytest.mark.slow
@pytest.mark.parametrize(("image", "why"), [("3", "healthy within"), ("4", "watch")])
def test_image_that_is_not_well_is_taken_back_and_its_log_kept(
    broken_site: Site, image: str, why: str
) -> None:
    project, name = broken_site.project, f"shaky{image}"
    place = broken_site.environment(name, within="10s", watch="5s")
    project.run("deploy", name, "1")
    with asking(place) as answers:
        failed = project.run("deploy", name, image, status=1)
    assert why in failed.stderr
    assert f"baker logs {name}/2-1" in failed.stderr
    assert answers
    assert set(answers) <= {"one", "three", "four"}
    assert ask(place) == "one"
    assert [side["image"] for side in broken_site.show(name)["sides"]] == ["web:1"]
    assert "serving" in project.run("logs", f"{name}/2-1").stdout
    (event,) = [one for one in project.json("env", "history", name)["events"] if one["event"] == "failed"]
    assert why in event["reason"]


@contextlib.contextmanager
def asking(place: str) -> Iterator[list[str]]:
    """Within, requests come one after the other; each answers, or the version is ``failed``."""
    answers: list[str] = []
    done = threading.Event()

    def go_on() -> None:
        while not done.wait(0.05):
            try:
                answers.append(ask(place))
            except OSError:
                answers.append("failed")

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield answers
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
def test_ctrl_c_takes_a_deployment_back_and_a_second_one_is_told_who_is_at_work(site: Site) -> None:
    project = site.project
    place = site.environment("stopped")
    project.run("deploy", "stopped", "1")
    text = (project.folder / "environments/stopped.toml").read_text()
    project.write("environments/stopped.toml", text.replace('watch = "1s"', 'watch = "5m"'))
    running = project.start("deploy", "stopped", "2")
    assert running.stderr is not None
    for line in running.stderr:
        if "% of the traffic" in line:
            break
    held = project.run("deploy", "stopped", "2", status=1).stderr
    assert "is held by tester" in held
    assert str(running.pid) in held
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=120)
    assert running.returncode == 130, stderr
    assert ask(place) == "one"
    assert [side["image"] for side in site.show("stopped")["sides"]] == ["web:1"]


@pytest.mark.slow
def test_what_staging_serves_is_promoted_to_production(site: Site) -> None:
    project = site.project
    site.environment("staging")
    place = site.environment("prod", machines=2)
    project.run("deploy", "staging", "1")
    promoted = project.json("env", "promote", "staging", "prod")
    assert (promoted["image"], promoted["machines"]) == ("web:1", 2)
    assert ask(place) == "one"
    (live,) = [one for one in project.json("env", "history", "prod")["events"] if one["event"] == "live"]
    assert live["reason"] == "promoted from staging"


@pytest.mark.slow
def test_dead_machine_is_replaced_by_a_new_one(site: Site) -> None:
    project = site.project
    place = site.environment("mortal", machines=2)
    project.run("deploy", "mortal", "1")
    record = project.home / "local/environments/mortal/machines/1-1/machine.json"
    os.kill(json.loads(record.read_text())["holder"], signal.SIGKILL)
    wait_until(lambda: not site.show("mortal")["sides"][0]["machines"][0]["alive"])
    (done,) = project.json("env", "reconcile")["environments"]
    assert [(one["old"], one["new"]) for one in done["replaced"]] == [(["1-1"], ["1-3"])]
    assert ask(place) == "one"
    names = [one["name"] for one in site.show("mortal")["sides"][0]["machines"]]
    assert names == ["1-2", "1-3"]


def wait_until(happened: Any) -> None:
    until = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.mark.slow
def test_what_a_killed_deployment_left_is_swept(site: Site) -> None:
    project = site.project
    place = site.environment("killed")
    project.run("deploy", "killed", "1")
    text = (project.folder / "environments/killed.toml").read_text()
    project.write("environments/killed.toml", text.replace('watch = "1s"', 'watch = "5m"'))
    running = project.start("deploy", "killed", "2")
    assert running.stderr is not None
    for line in running.stderr:
        if "% of the traffic" in line:
            break
    running.kill()
    running.communicate()
    (left,) = project.json("system", "sweep", "--dry-run")["sides"]
    assert (left["environment"], left["release"]) == ("killed", 2)
    (swept,) = project.json("system", "sweep")["sides"]
    assert swept["error"] is None
    assert ask(place) == "one"
    assert project.json("system", "sweep")["sides"] == []


@pytest.mark.slow
def test_secrets_of_first_boot_are_never_shown(site: Site) -> None:
    project = site.project
    project.write(
        "templates/first-boot.yaml.j2",
        "#cloud-config\nwrite_files:\n  - path: /etc/token\n    content: {{ secrets.TOKEN | yaml }}\n",
    )
    site.environment("secret")
    text = (project.folder / "environments/secret.toml").read_text()
    table = '[first_boot]\ntemplate = "templates/first-boot.yaml.j2"\nsecrets = ["TOKEN"]\n'
    project.write("environments/secret.toml", text + table)
    missing = project.run("deploy", "secret", "1", status=1).stderr
    assert '"TOKEN" is not set' in missing
    project.environ["TOKEN"] = "swordfish-in-the-sea"
    try:
        deployed = project.run("deploy", "secret", "1")
        told = project.run("env", "show", "secret", "--first-boot")
    finally:
        del project.environ["TOKEN"]
    assert "swordfish" not in deployed.stdout + deployed.stderr + told.stdout + told.stderr
    assert re.search(r'content: "\*\*\*"', told.stdout)
    assert "masked: TOKEN" in told.stdout
