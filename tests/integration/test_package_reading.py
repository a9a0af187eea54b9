"""What is read of a real machine's apt."""

from __future__ import annotations

from pathlib import Path

import pytest

from baker.package_reading import ObservedMachine, read_installed, read_package_state
from baker.package_state import STATUS, PackageState
from baker.providers.protocol import Machine
from tests.machines import launch, machine
from tests.package_updates import make_deb

__all__ = ["launch", "machine"]

pytestmark = pytest.mark.machine

KEYRING = "usr/share/keyrings/debian-archive-keyring.gpg"


def run(machine: Machine, script: str) -> str:
    done = machine.run(["sh", "-euc", script])
    assert done.exit_status == 0, done.stderr
    return done.stdout.decode()


def read(machine: Machine, *texts: str, from_archive: bool = False) -> PackageState:
    """As if the recipe had given the commands ``texts``."""
    before = read_installed(machine)
    assert before is not None
    for text in texts:
        run(machine, text)
    state = read_package_state(machine, before, texts, from_archive=from_archive)
    assert state is not None
    return state


def test_what_apt_reads_is_read_and_no_keyring_that_it_does_not_use(machine: Machine) -> None:
    state = read(machine, from_archive=True)
    assert b"Package: apt\nStatus: install ok installed\n" in state.files[STATUS]
    assert any(path.startswith("etc/apt/sources.list.d/") for path in state.files)
    assert [path for path in state.files if path.endswith((".gpg", ".asc"))] == [KEYRING]
    assert state.architectures == ("amd64",)
    assert (state.own, state.stuck) == (frozenset(), {})


def test_recipe_without_packages_of_its_own_is_not_looked_into(machine: Machine) -> None:
    assert read(machine, "mkdir -p /srv/made") == PackageState()


def test_package_from_a_file_is_own_and_stays_at_its_version(machine: Machine, tmp_path: Path) -> None:
    with make_deb("lambda").build(tmp_path).open("rb") as file:
        machine.put(file, "/root/lambda.deb")
    state = read(machine, "dpkg -i /root/lambda.deb")
    assert (state.own, dict(state.pins)) == ({"lambda"}, {"lambda": "1.0"})
    with make_deb("lambda", "1.1").build(tmp_path).open("rb") as file:
        machine.put(file, "/root/lambda.deb")
    state = read(machine, "dpkg -i /root/lambda.deb; rm /root/lambda.deb")
    assert dict(state.pins) == {"lambda": "1.1"}, "no archive has it"
    run(machine, "dpkg --purge lambda")


def test_what_could_have_been_newer_already_is_stuck(machine: Machine) -> None:
    older = "sed -i '/^Package: zlib1g$/,/^Version:/ s/^Version: .*/Version: 0.1/' /var/lib/dpkg/status"
    run(machine, "cp /var/lib/dpkg/status /root/status; ls /var/lib/apt/lists/*_Packages")
    state = read(machine, f"{older} # instead of apt-get install zlib1g=0.1")
    run(machine, "mv /root/status /var/lib/dpkg/status")
    assert state.stuck is not None
    assert (state.own, state.stuck.keys()) == ({"zlib1g"}, {"zlib1g"})
    assert state.stuck["zlib1g"].startswith("1:")


def test_lists_that_are_old_or_gone_do_not_tell_what_could_have_been_newer(machine: Machine) -> None:
    older = "sed -i '/^Package: zlib1g$/,/^Version:/ s/^Version: .*/Version: 0.1/' /var/lib/dpkg/status"
    lists, sources = "/var/lib/apt/lists", "/etc/apt/sources.list.d"
    run(machine, f"cp /var/lib/dpkg/status /root/status; mv {sources} /root/sources; mkdir {sources}")
    run(machine, f"touch -d '2 days ago' {lists}/partial {lists}")
    old = read(machine, f"{older} # instead of apt-get install zlib1g")
    run(machine, f"mkdir /root/lists; mv {lists}/*_* /root/lists; mv /root/status /var/lib/dpkg/status")
    run(machine, "cp /var/lib/dpkg/status /root/status")
    gone = read(machine, f"{older} # instead of apt-get install zlib1g")
    run(machine, "mv /root/status /var/lib/dpkg/status; mv /root/lists/* /var/lib/apt/lists")
    run(machine, f"rmdir {sources}; mv /root/sources {sources}")
    assert (old.own, old.stuck, gone.own, gone.stuck) == ({"zlib1g"}, None, {"zlib1g"}, None)


def test_more_than_an_apt_needs_is_not_read(machine: Machine) -> None:
    source = "deb [signed-by=/etc/apt/keyrings/huge.gpg] http://huge.test x main"
    run(machine, f"echo '{source}' > /etc/apt/sources.list.d/huge.list; mkdir -p /etc/apt/keyrings")
    run(machine, "head -c 20M /dev/urandom > /etc/apt/keyrings/huge.gpg")
    before = read_installed(machine)
    assert read_package_state(machine, before, [], from_archive=True) is None
    run(machine, "rm /etc/apt/sources.list.d/huge.list /etc/apt/keyrings/huge.gpg")


def test_machine_without_dpkg_has_no_state(machine: Machine) -> None:
    run(machine, "mv /usr/bin/dpkg-query /root")
    try:
        assert read_installed(machine) is None
        assert read_package_state(machine, None, [], from_archive=True) is None
    finally:
        run(machine, "mv /root/dpkg-query /usr/bin")


def test_commands_for_apt_are_noticed_and_scripts_when_they_are_run(machine: Machine) -> None:
    observed = ObservedMachine(machine)
    script = b"#!/bin/sh\napt-get --version\n"
    observed.run(["sh", "-c", "sh -c 'cat > /tmp/never'"], stdin=script)
    observed.run(["sh", "-c", "sh -c 'cat > /tmp/script'"], stdin=script)
    observed.run(["sh", "-c", "chmod +x /tmp/script"])
    assert observed.texts == []
    assert observed.run(["sh", "-c", "sh -c '/tmp/script now'"]).exit_status == 0
    assert observed.texts == [script.decode()]
    observed.run(["sh", "-c", 'eval "$(cat)"'], stdin=b"apt-cache stats; apt --version")
    observed.run(["true"])
    assert observed.texts[1:] == ["apt-cache stats; apt --version"]
