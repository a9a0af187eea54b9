"""Instances are reached through a bastion whose key is known, and again after they rebooted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from baker.errors import MachineError
from baker.providers.aws.ssh import KeyPair, WrongHostKey
from tests.aws import Baking, assert_nothing_left, make_provider, quick_lab
from tests.lab import Lab
from tests.lab.bodiless import Bodiless, Conversation
from tests.lab.fleet import Launch


@dataclass(frozen=True, kw_only=True, slots=True)
class Bastion:
    """A host on the way to the lab's instances."""

    settings: dict[str, Any]
    host: str


@pytest.fixture(scope="module")
def fleet() -> Bodiless:
    return Bodiless()


@pytest.fixture(scope="module")
def lab(fleet: Bodiless) -> Iterator[Lab]:
    with quick_lab(fleet) as lab:
        yield lab


@pytest.fixture
def bastion(fleet: Bodiless, tmp_path: Path) -> Iterator[Bastion]:
    host_key, key = KeyPair.make(), KeyPair.make()
    key_file = tmp_path / "bastion_key"
    key_file.write_text(key.private)
    address = fleet.claim_address()
    told = {"ssh_keys": {"ed25519_private": host_key.private}, "ssh_authorized_keys": [key.public]}
    fleet.start(
        Launch(
            instance="bastion",
            image="",
            address=address,
            user_data=f"#cloud-config\n{json.dumps(told)}".encode(),
            public_key=None,
            delay=0,
        )
    )
    yield Bastion(
        host=address,
        settings={
            "host": address,
            "port": fleet.ssh_port,
            "user": fleet.ssh_user,
            "key_file": str(key_file),
            "host_key": host_key.public,
        },
    )
    fleet.terminate("bastion")


def fail_launch(lab: Lab, baking: Baking, kind: type[MachineError] = MachineError) -> MachineError:
    with pytest.raises(kind) as raised:
        baking.launch()
    assert_nothing_left(lab, baking)
    return raised.value


# --- the bastion ----------------------------------------------------------------------------------


def test_an_instance_is_reached_through_the_bastion(
    lab: Lab, tmp_path: Path, bastion: Bastion, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    original = Conversation.check_channel_direct_tcpip_request

    def check(self: Conversation, chanid: int, origin: tuple[str, int], destination: tuple[str, int]) -> int:
        asked.append(destination)
        return original(self, chanid, origin, destination)

    monkeypatch.setattr(Conversation, "check_channel_direct_tcpip_request", check)
    baking = Baking(make_provider(lab, tmp_path, bastion=bastion.settings, address="private"))

    machine = baking.launch()

    assert machine.run(["true"]).exit_status == 0
    assert set(asked) == {(machine.instance.address, lab.ssh_port)}
    assert_nothing_left(lab, baking)


def test_a_bastion_with_another_host_key_is_refused(lab: Lab, tmp_path: Path, bastion: Bastion) -> None:
    wrong = {**bastion.settings, "host_key": KeyPair.make().public}

    error = fail_launch(lab, Baking(make_provider(lab, tmp_path, bastion=wrong)), WrongHostKey)

    assert f"bastion admin@{bastion.host} shows another host key" in str(error)
    assert "bastion in [aws]" in str(error.hint)


def test_a_bastion_that_does_not_let_us_in_is_told_apart_from_the_instance(
    lab: Lab, tmp_path: Path, bastion: Bastion
) -> None:
    tmp_path.joinpath("other").write_text(KeyPair.make().private)
    wrong = {**bastion.settings, "key_file": str(tmp_path / "other")}

    error = fail_launch(lab, Baking(make_provider(lab, tmp_path, bastion=wrong)))

    assert f"bastion admin@{bastion.host} does not accept the key" in str(error)
    assert error.hint == "Check bastion in [aws] of baker.toml."


@pytest.mark.parametrize("content", [None, "not a key"])
def test_a_bastions_key_that_cannot_be_read_is_told(
    lab: Lab, tmp_path: Path, bastion: Bastion, content: str | None
) -> None:
    if content is not None:
        tmp_path.joinpath("other").write_text(content)
    wrong = {**bastion.settings, "key_file": str(tmp_path / "other")}

    error = fail_launch(lab, Baking(make_provider(lab, tmp_path, bastion=wrong)))

    assert str(error).startswith(f"bastion admin@{bastion.host}: {tmp_path}/other gives no key: ")
    assert error.hint == "Check bastion in [aws] of baker.toml."


def test_a_bastion_that_does_not_answer_is_told(lab: Lab, tmp_path: Path, bastion: Bastion) -> None:
    silent = {**bastion.settings, "port": 9}

    error = fail_launch(lab, Baking(make_provider(lab, tmp_path, bastion=silent)))

    assert str(error) == f"bastion admin@{bastion.host} cannot be used: [Errno 111] Connection refused"


# --- reboots --------------------------------------------------------------------------------------


def test_a_command_under_which_the_machine_reboots_ends_and_the_next_one_runs(
    lab: Lab, fleet: Bodiless, tmp_path: Path
) -> None:
    baking = Baking(make_provider(lab, tmp_path))
    boots = ["first"]

    def answer(command: str, _stdin: bytes) -> tuple[int, bytes, bytes] | None:
        if "boot_id" in command:
            return 0, boots[-1].encode(), b""
        if "systemctl" in command:
            boots.append("second")
            for transport in list(fleet._servers[machine.instance.id].transports):
                transport.close()
        return None

    fleet.answers.insert(0, answer)
    try:
        machine = baking.launch()
        done = machine.run(["systemctl", "reboot"])
        assert (done.exit_status, boots) == (-1, ["first", "second"])
        assert machine.run(["true"]).exit_status == 0
    finally:
        fleet.answers.remove(answer)
    assert_nothing_left(lab, baking)
