"""What every provider and its machines promise: one suite for all of them, with two machines at once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from baker.errors import CommandFailed, CommandTimeout
from baker.manifest import fold_layers, manifest_digest
from baker.model import AmiSource, Artifact, Bootstrap, Manifest, Recipe, Source
from baker.providers.local.provider import LocalProvider
from baker.providers.protocol import Captured, Machine, Provider, ResolvedSource
from baker.teardown import Teardown
from tests.factories import make_bake_id, make_build

pytestmark = pytest.mark.machine

RECIPE = Recipe(name="probe", folder="/nowhere", project="/nowhere", description="", targets={})


@dataclass(frozen=True, kw_only=True)
class Site:
    """A provider, and what its machines are made from."""

    provider: Provider
    source: Source
    settings: Mapping[str, Any]

    def resolve(self) -> ResolvedSource:
        [arch] = self.provider.archs(self.settings)
        return self.provider.resolve(self.source, None, self.settings, arch)


@pytest.fixture(scope="module", params=["local", "aws"])
def site(request: pytest.FixtureRequest, shared_home: Path) -> Iterator[Site]:
    if request.param == "local":
        local = LocalProvider(shared_home)
        local.check()
        yield Site(provider=local, source=Bootstrap(distribution="debian", suite="trixie"), settings={})
        return
    from baker.providers.aws.provider import AwsProvider
    from tests.lab import running_lab
    from tests.lab.bodies import Bodies

    bodies = Bodies(request.getfixturevalue("bodies_home"))
    with running_lab(bodies) as lab, pytest.MonkeyPatch.context() as patch:
        for name, value in lab.environment.items():
            patch.setenv(name, value)
        home = request.getfixturevalue("tmp_path_factory").mktemp("aws-home")
        settings = {
            "region": lab.region,
            "ssh_user": lab.ssh_user,
            "ssh_port": lab.ssh_port,
            "open_to": "127.0.0.1/32",
        }
        aws = AwsProvider(home, settings, actor="tester")
        aws.check()
        source = AmiSource(query={"owner": "136693071363", "name": "debian-13-{deb_arch}-*"})
        yield Site(provider=aws, source=source, settings=settings)
        assert [thing for thing in lab.holdings() if "terminated" not in thing] == []


@pytest.fixture(scope="module")
def bakes(site: Site) -> Iterator[tuple[Teardown, Teardown]]:
    del site  # outlives them
    teardowns = Teardown(make_bake_id(), None), Teardown(make_bake_id(), None)
    yield teardowns
    assert [left for teardown in teardowns for left in teardown.close()] == []


@pytest.fixture(scope="module")
def two(site: Site, bakes: tuple[Teardown, Teardown]) -> Iterator[tuple[Machine, Machine]]:
    """The build instances of two bakes, launched at the same time."""
    source = site.resolve()
    # The threads outlive the machines: a local one ends with the thread that started it.
    with ThreadPoolExecutor(2) as pool:
        started = [
            pool.submit(site.provider.launch, teardown.bake_id, RECIPE, source, teardown)
            for teardown in bakes
        ]
        yield started[0].result(), started[1].result()


@pytest.fixture
def machine(two: tuple[Machine, Machine]) -> Machine:
    return two[0]


def say(machine: Machine, script: str) -> str:
    done = machine.run(["sh", "-euc", script])
    assert done.exit_status == 0, done.stderr.decode()
    return done.stdout.decode().strip()


# --- machines -------------------------------------------------------------------------------------------


def test_two_machines_know_nothing_of_each_other(two: tuple[Machine, Machine]) -> None:
    first, second = two
    assert first.name != second.name
    say(first, "echo first >/root/mark")
    assert second.run(["test", "-e", "/root/mark"]).exit_status == 1
    assert say(first, "cat /root/mark") == "first"


def test_commands_run_as_root_with_an_init_and_nothing_of_ours(machine: Machine) -> None:
    assert say(machine, "id -u; pwd; cat /proc/1/comm") == "0\n/\nsystemd"
    variables = {line.partition("=")[0] for line in say(machine, "env").splitlines()}
    assert not {name for name in variables if name.startswith(("AWS_", "SSH_", "SUDO_"))}
    assert {"PATH", "HOME", "LANG"} <= variables


def test_output_input_status_and_environment_go_through(machine: Machine) -> None:
    seen: list[tuple[str, bytes]] = []
    script = 'cat; echo "$COLOUR" >&2; exit 7'
    done = machine.run(
        ["sh", "-c", script],
        stdin=b"a\0b",
        env={"COLOUR": "blue sky's"},
        on_output=lambda stream, chunk: seen.append((stream, chunk)),
    )
    assert (done.exit_status, done.stdout, done.stderr) == (7, b"a\0b", b"blue sky's\n")
    assert b"".join(chunk for stream, chunk in seen if stream == "stdout") == b"a\0b"


def test_arguments_arrive_as_they_are(machine: Machine) -> None:
    words = ["with space", "$HOME", "a'b\"c", "*", "", "ü\n"]
    assert machine.run(["printf", "%s|", *words]).stdout.decode() == "".join(f"{word}|" for word in words)


def test_a_signal_shows_as_a_negative_status(machine: Machine) -> None:
    assert machine.run(["sh", "-c", "kill -KILL $$"]).exit_status < 0


def test_a_time_out_ends_all_that_the_command_started(machine: Machine) -> None:
    script = "setsid sleep 4321 & sleep 4321 & wait"
    with pytest.raises(CommandTimeout, match="longer than 1 s"):
        machine.run(["sh", "-c", script], timeout=1.0)
    assert machine.run(["pgrep", "-f", "^sleep 4321"]).stdout == b""


def test_a_daemon_that_keeps_the_pipes_does_not_keep_us(machine: Machine) -> None:
    assert machine.run(["sh", "-c", "sleep 5432 & echo started"], timeout=60.0).stdout == b"started\n"
    machine.run(["pkill", "-f", "^sleep 5432"])


def test_many_commands_at_once_do_not_mix(machine: Machine) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda number: say(machine, f"sleep 0.1; echo {number}"), range(40)))
    assert answers == [str(number) for number in range(40)]


def test_files_follow_links_inside_the_machine_only(machine: Machine, tmp_path: Path) -> None:
    outside = tmp_path / "target"
    say(machine, f"mkdir -p {tmp_path} && ln -sf {outside} /root/link")
    machine.put(io.BytesIO(b"content"), "/root/link", mode=0o640)
    assert not outside.exists()
    assert say(machine, f"stat -c '%a %s' {outside}") == "640 7"
    copy = io.BytesIO()
    machine.get("/root/link", copy)
    assert copy.getvalue() == b"content"
    say(machine, f"rm -r /root/link {outside}")


def test_files_that_cannot_be_are_an_error(machine: Machine) -> None:
    with pytest.raises(CommandFailed, match="/no/such/folder"):
        machine.put(io.BytesIO(b""), "/no/such/folder/file")
    with pytest.raises(CommandFailed, match="/no/such/file"):
        machine.get("/no/such/file", io.BytesIO())


def test_large_input_and_output_come_whole(machine: Machine) -> None:
    data = bytes(range(256)) * (40 << 10)
    machine.put(io.BytesIO(data), "/root/large")
    copy = io.BytesIO()
    machine.get("/root/large", copy)
    assert copy.getvalue() == data
    say(machine, "rm /root/large")


# --- from a machine to an artifact, and back --------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Result:
    captured: Captured
    fresh: Machine
    machine_id: str


@pytest.fixture(scope="module")
def result(site: Site, two: tuple[Machine, Machine], bakes: tuple[Teardown, Teardown]) -> Iterator[Result]:
    """The second machine, configured, sealed and captured, and a fresh one from that."""
    machine, source, teardown = two[1], site.resolve(), bakes[1]
    say(machine, "mkdir -p /srv/probe && echo content >/srv/probe/file && chmod 4711 /srv/probe/file")
    say(machine, "echo secret >/tmp/left; echo history >/root/.bash_history; ln -s /srv/probe/file /srv/link")
    machine_id = say(machine, "cat /etc/machine-id")
    site.provider.seal(machine)
    captured = site.provider.capture(teardown.bake_id, machine, source, teardown)
    teardown.keep(captured.resource)
    name = f"{teardown.bake_id}-verify"
    with ThreadPoolExecutor(1) as pool:
        start = site.provider.start
        started = pool.submit(start, name, "probe", captured.artifact, teardown, site.settings)
        yield Result(captured=captured, fresh=started.result(), machine_id=machine_id)
    site.provider.delete(captured.artifact)


def test_a_sealed_machine_is_not_alive(result: Result, two: tuple[Machine, Machine]) -> None:
    assert result.fresh.alive()
    assert not two[1].alive()


def test_the_artifact_holds_what_was_configured_and_says_so(result: Result) -> None:
    files = {file.path: file for file in fold_layers(result.captured.layers)}
    assert (files["/srv/probe/file"].kind, files["/srv/probe/file"].mode) == ("f", 0o4711)
    assert files["/srv/link"].link == "/srv/probe/file"
    assert not {path for path in files if path.startswith(("/tmp/", "/proc/", "/sys/"))}
    assert "/root/.bash_history" not in files
    names = {package.name for package in result.captured.packages}
    assert {"base-files", "systemd"} <= names
    whole = Manifest(packages=result.captured.packages, files=tuple(files.values()))
    assert manifest_digest(whole).startswith("sha256:")


def test_a_fresh_machine_has_what_was_configured_and_an_identity_of_its_own(result: Result) -> None:
    assert say(result.fresh, "cat /srv/link; stat -c %a /srv/probe/file") == "content\n4711"
    assert result.fresh.run(["test", "-e", "/tmp/left"]).exit_status == 1
    assert result.fresh.run(["test", "-e", "/root/.bash_history"]).exit_status == 1
    assert say(result.fresh, "cat /etc/machine-id") != result.machine_id
    assert say(result.fresh, "systemctl is-system-running --wait || true") in ("running", "degraded")


def test_the_artifact_is_there_until_it_is_deleted(site: Site, result: Result) -> None:
    artifact = result.captured.artifact
    assert site.provider.holds(artifact)
    assert site.provider.reaches(artifact)
    assert [size > 0 for size in site.provider.measure(artifact)] == [True]
    gone = Artifact(**{**_values(artifact), "id": "ami-0123456789abcdef0"})
    assert not site.provider.holds(gone)


def test_distributing_again_changes_nothing(site: Site, result: Result) -> None:
    build = make_build(
        id=result.captured.resource.id,
        recipe="probe",
        target=site.provider.target,
        arch=result.captured.artifact.arch,
        artifacts=(result.captured.artifact,),
    )
    labels = {"recipe": "probe", "version": "1", "bake": build.id, "wanted": ""}
    teardown = Teardown(build.id, None)
    first = site.provider.distribute(build, labels, teardown, site.settings)
    again = site.provider.distribute(build, labels, teardown, site.settings)
    assert teardown.close() == []
    assert [artifact.id for artifact in first] == [artifact.id for artifact in again]
    assert first[0].id == result.captured.artifact.id


def test_live_machines_are_found_as_leftovers(
    site: Site, two: tuple[Machine, Machine], result: Result
) -> None:
    found = {one.id for one in site.provider.leftovers() if one.kind in ("machine", "instance")}
    assert {two[0].name, result.fresh.name} <= found


def test_a_launch_that_is_torn_down_leaves_nothing(site: Site) -> None:
    teardown = Teardown(make_bake_id(), None)
    source = site.resolve()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(site.provider.launch, teardown.bake_id, RECIPE, source, teardown).result()
        made = list(teardown.resources)
        assert teardown.close() == []
    assert teardown.bake_id not in {resource.id for resource in site.provider.leftovers()}
    for resource in made:
        site.provider.remove(resource)


def _values(artifact: Artifact) -> dict[str, Any]:
    return {name: getattr(artifact, name) for name in Artifact.__slots__}
