"""Whatever goes wrong with AWS is told with what to do next, and nothing is left behind."""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from baker.errors import BakerError, CloudError, HostError, MachineError, MachineReclaimed
from baker.model import Resource
from baker.providers.aws import instances
from baker.providers.aws.machine import AwsMachine
from baker.providers.aws.provider import AwsProvider
from baker.providers.aws.ssh import WrongHostKey
from tests.aws import (
    Baking,
    MemoryLedger,
    assert_nothing_left,
    aws_variables,
    calls_of,
    describe_instances,
    few_attempts,
    make_provider,
    start_baking,
)
from tests.lab import Fault, InstanceFault, Lab
from tests.lab.bodiless import Conversation

UNREACHABLE = "http://127.0.0.1:9"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
NOT_ALLOWED = (
    "You are not authorized to perform this operation. Ann is not authorized to perform: ec2:CreateTags "
    "on resource: arn:aws:ec2:eu-west-1:123456789012:instance/*. Encoded authorization failure message: 9kXq"
)


def fail_launch(lab: Lab, baking: Baking, kind: type[BakerError] = CloudError) -> BakerError:
    """The error with which a launch fails, leaving nothing."""
    with pytest.raises(kind) as raised:
        baking.launch()
    assert_nothing_left(lab, baking)
    return raised.value


def refuse(action: str, code: str, message: str = "AWS says no", **more: Any) -> Fault:
    return Fault(action=action, kind="refuse", code=code, message=message, **more)


# --- credentials and rights -----------------------------------------------------------------------


def test_missing_credentials_are_told_before_anything_is_asked(lab: Lab, tmp_path: Path) -> None:
    without = {key: value for key, value in lab.environment.items() if key not in KEYS}
    with aws_variables(without):
        baking = start_baking(lab, tmp_path)
        with pytest.raises(HostError) as raised:
            baking.provider.check()
        error = fail_launch(lab, baking)

    assert str(raised.value) == str(error) == "there are no AWS credentials"
    assert "AWS_PROFILE" in str(raised.value.hint)
    assert "aws sts get-caller-identity" in str(error.hint)
    assert lab.calls == []


def test_a_profile_that_is_not_there_is_named(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(
        CloudError, match=r"the AWS credentials cannot be used: .*\(builds\) could not be found"
    ):
        make_provider(lab, tmp_path, profile="builds").check()


def test_no_region_is_told_with_where_to_set_it(lab: Lab, tmp_path: Path) -> None:
    without = {key: value for key, value in lab.environment.items() if key != "AWS_DEFAULT_REGION"}
    with aws_variables(without), pytest.raises(BakerError) as raised:
        make_provider(lab, tmp_path, region=None).check()

    assert str(raised.value) == "no AWS region is set"
    assert 'region = "eu-west-1"' in str(raised.value.hint)


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestExpired"])
def test_expired_credentials_are_told_apart(lab: Lab, tmp_path: Path, code: str) -> None:
    lab.faults.add(refuse("RunInstances", code, "Request has expired."))

    error = fail_launch(lab, start_baking(lab, tmp_path))

    assert str(error) == "the AWS credentials have expired (ec2:RunInstances: Request has expired.)"
    assert error.hint == "Renew them, then go on."


def test_wrong_credentials_are_told_apart(lab: Lab, tmp_path: Path) -> None:
    lab.faults.add(refuse("DescribeImages", "AuthFailure", "AWS was not able to validate them"))

    error = fail_launch(lab, start_baking(lab, tmp_path))

    assert str(error).startswith("AWS does not accept the credentials (ec2:DescribeImages in eu-west-1: ")
    assert "aws sts get-caller-identity" in str(error.hint)
    assert "enabled" in str(error.hint)


@pytest.mark.parametrize(
    ("message", "missing"), [(NOT_ALLOWED, "ec2:CreateTags"), ("You may not.", "ec2:RunInstances")]
)
def test_a_missing_right_is_named_as_the_action_that_is_to_be_granted(
    lab: Lab, tmp_path: Path, message: str, missing: str
) -> None:
    lab.faults.add(refuse("RunInstances", "UnauthorizedOperation", message))

    error = fail_launch(lab, start_baking(lab, tmp_path))

    assert str(error) == f"these AWS credentials may not call {missing} in eu-west-1"
    assert f"Grant {missing}; `baker aws policy` prints all that is needed" in str(error.hint)


def test_a_role_is_assumed_and_one_that_may_not_be_is_named(lab: Lab, tmp_path: Path) -> None:
    role = {"role": "arn:aws:iam::123456789012:role/baking", "external_id": "ours"}
    baking = start_baking(lab, tmp_path, **role)
    baking.launch()
    assert_nothing_left(lab, baking)
    [asked] = calls_of(lab, "AssumeRole")
    assert (asked["RoleArn"], asked["ExternalId"]) == (role["role"], "ours")

    denied = "User: ann is not authorized to perform: sts:AssumeRole on resource: " + role["role"]
    lab.faults.add(refuse("AssumeRole", "AccessDenied", denied))
    error = fail_launch(lab, start_baking(lab, tmp_path, **role))
    assert str(error).startswith("these AWS credentials may not call sts:AssumeRole")


# --- regions, quotas, networks --------------------------------------------------------------------


def test_a_region_that_does_not_exist_is_asked_for_once(lab: Lab, tmp_path: Path) -> None:
    with aws_variables({**lab.environment, "AWS_ENDPOINT_URL": UNREACHABLE}):
        baking = start_baking(lab, tmp_path, region="eu-nowhere-1")
        error = fail_launch(lab, baking)

    assert "ec2 in eu-nowhere-1 cannot be reached" in str(error)
    assert "Is eu-nowhere-1 the name of a region" in str(error.hint)
    assert baking.provider.aws.calls_of_thread == 1


def test_a_region_that_cannot_be_reached_is_tried_again_and_told(lab: Lab, tmp_path: Path) -> None:
    with aws_variables({**lab.environment, "AWS_ENDPOINT_URL": UNREACHABLE}), few_attempts(2):
        baking = start_baking(lab, tmp_path)
        error = fail_launch(lab, baking)

    assert "ec2 in eu-west-1 cannot be reached" in str(error)
    assert "is there a way to it from here" in str(error.hint)
    assert baking.provider.aws.calls_of_thread == 2


def test_a_region_that_is_not_enabled_is_told(lab: Lab, tmp_path: Path) -> None:
    lab.faults.add(refuse("DescribeImages", "OptInRequired", "You are not subscribed"))

    error = fail_launch(lab, start_baking(lab, tmp_path))

    assert str(error) == "the account may not use eu-west-1 yet: You are not subscribed"
    assert error.hint == "Enable the region for the account."


@pytest.mark.parametrize(
    ("action", "code"),
    [("RunInstances", "VcpuLimitExceeded"), ("CreateSecurityGroup", "SecurityGroupLimitExceeded")],
)
def test_a_quota_is_told_as_one(lab: Lab, tmp_path: Path, action: str, code: str) -> None:
    lab.faults.add(refuse(action, code, "You have requested more than your limit of 8.", times=9))

    error = fail_launch(lab, start_baking(lab, tmp_path, instance_type="t3.small"))

    assert str(error) == (
        "a quota of the account is reached in eu-west-1: "
        f"You have requested more than your limit of 8. ({code})"
    )
    assert "Service Quotas" in str(error.hint)


@pytest.mark.parametrize("action", ["CreateSecurityGroup", "RunInstances"])
def test_an_account_without_a_default_vpc_is_told_to_name_a_subnet(
    lab: Lab, tmp_path: Path, action: str
) -> None:
    lab.faults.add(refuse(action, "VPCIdNotSpecified", "No default VPC for this user"))

    error = fail_launch(lab, start_baking(lab, tmp_path))

    assert str(error) == "eu-west-1 has no default VPC to put a build instance into"
    assert 'subnet = "subnet-…"' in str(error.hint)


def test_throttling_beyond_patience_is_told(lab: Lab, tmp_path: Path) -> None:
    lab.faults.add(Fault(action="RunInstances", kind="throttle", times=99))

    with few_attempts(2):
        error = fail_launch(lab, start_baking(lab, tmp_path))

    assert str(error) == "AWS throttled ec2:RunInstances in eu-west-1 for too long (RequestLimitExceeded)"
    assert "--jobs" in str(error.hint)


# --- instances that do not come -------------------------------------------------------------------


def test_an_instance_that_ends_while_it_starts_is_explained_by_aws(lab: Lab, tmp_path: Path) -> None:
    lab.faults.add(InstanceFault(kind="never-runs"))
    baking = start_baking(lab, tmp_path)

    def end() -> None:
        [instance] = describe_instances(lab, **{"tag:baker:bake": baking.id})
        lab.client("ec2").terminate_instances(InstanceIds=[instance["InstanceId"]])

    lab.faults.add(Fault(action="DescribeInstances", kind="kill", callback=end))
    error = fail_launch(lab, baking, MachineError)

    assert "in eu-west-1 is terminated: " in str(error)
    assert error.hint


def test_an_instance_that_never_runs_is_told(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "ADDRESS_SECONDS", 0.2)
    lab.faults.add(InstanceFault(kind="never-runs"))

    error = fail_launch(lab, start_baking(lab, tmp_path))

    assert " in eu-west-1 is still pending after " in str(error)
    assert "another zone" in str(error.hint)


def test_an_instance_without_a_public_address_is_told(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "ADDRESS_SECONDS", 0.2)
    monkeypatch.setattr(instances, "_address_of", lambda _described, _options: None)

    error = fail_launch(lab, start_baking(lab, tmp_path))

    assert " in eu-west-1 has no public address after " in str(error)
    assert 'address = "private"' in str(error.hint)


def test_an_instance_that_never_answers_is_told_with_its_console(lab: Lab, tmp_path: Path) -> None:
    lab.faults.add(InstanceFault(kind="no-ssh"))

    error = fail_launch(lab, start_baking(lab, tmp_path, ssh_timeout="1s"), MachineError)

    assert "in eu-west-1 did not answer by SSH within 1 s (127." in str(error)
    assert "the end of its console:\ncloud-init: this is the console of i-" in str(error)
    assert "ssh_timeout" in str(error.hint)


def test_an_instance_that_answers_late_is_waited_for(lab: Lab, tmp_path: Path) -> None:
    lab.faults.add(InstanceFault(kind="ssh-late", seconds=0.5))
    baking = start_baking(lab, tmp_path)

    assert baking.launch().run(["true"]).exit_status == 0
    assert_nothing_left(lab, baking)


def test_a_wrong_host_key_ends_the_launch_at_once_and_nobody_logs_in(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logins: list[str] = []
    monkeypatch.setattr(
        Conversation, "check_auth_publickey", lambda _self, user, _key: logins.append(user) or 2
    )
    lab.faults.add(InstanceFault(kind="wrong-host-key"))

    error = fail_launch(lab, start_baking(lab, tmp_path, ssh_timeout="10m"), WrongHostKey)

    assert "shows another host key than the one it was given" in str(error)
    assert "the instance's console tells" in str(error.hint)
    assert logins == []


def test_a_user_whom_the_ami_does_not_have_is_told(lab: Lab, tmp_path: Path) -> None:
    error = fail_launch(lab, start_baking(lab, tmp_path, ssh_user="ubuntu"), MachineError)

    assert "does not let ubuntu in" in str(error)
    assert "the AMI's own user" in str(error.hint)


def test_cloud_init_that_failed_is_told_with_its_log(lab: Lab, tmp_path: Path) -> None:
    answer = {
        "state": "failed",
        "errors": ["cc_package_update_upgrade_install failed"],
        "warnings": [],
        "log": "E: Unable to locate package jqq",
    }
    lab.fleet.answers.insert(  # type: ignore[attr-defined]
        0,
        lambda _command, stdin: (
            (0, json.dumps(answer).encode(), b"") if b"inside.sent.waiting" in stdin else None
        ),
    )

    error = fail_launch(lab, start_baking(lab, tmp_path), MachineError)

    assert str(error) == "cloud-init failed: cc_package_update_upgrade_install failed"
    assert str(error.hint).endswith("cloud-init-output.log:\nE: Unable to locate package jqq")


def test_a_user_who_may_not_become_root_is_told(lab: Lab, tmp_path: Path) -> None:
    lab.faults.add(InstanceFault(kind="no-sudo"))

    error = fail_launch(lab, start_baking(lab, tmp_path), MachineError)

    assert str(error).startswith("admin may not become root on instance i-")
    assert str(error).endswith("in eu-west-1: sudo: a password is required")
    assert "sudo without a password" in str(error.hint)


# --- machines that are taken back -----------------------------------------------------------------


def test_a_spot_instance_that_is_taken_back_is_launched_on_demand_the_next_time(
    lab: Lab, tmp_path: Path
) -> None:
    baking = start_baking(lab, tmp_path, spot=True)
    machine = baking.launch()
    assert machine.instance.spot
    lab.fleet.answers.insert(0, interrupting(lab, machine))  # type: ignore[attr-defined]

    with pytest.raises(MachineReclaimed) as raised:
        machine.run(["apt-get", "upgrade"])

    assert "Spot instance termination (while it ran apt-get upgrade)" in str(raised.value)
    assert "Without spot = true" in str(raised.value.hint)
    for resource in reversed(baking.teardown.resources):
        baking.teardown.undo(resource)
    again = baking.launch()
    assert not again.instance.spot
    # Nor is the machine that verifies it one that may be taken back.
    settings = {**baking.settings, "security_groups": []}
    artifact = baking.resolve().artifact
    assert artifact is not None
    fresh = baking.provider.start(f"{baking.id}-verify", "base", artifact, baking.teardown, settings)
    assert isinstance(fresh, AwsMachine)
    assert not fresh.instance.spot
    assert_nothing_left(lab, baking)


def interrupting(lab: Lab, machine: AwsMachine) -> Any:
    """AWS takes the machine back while it upgrades."""

    def answer(command: str, _stdin: bytes) -> None:
        if "apt-get" in command:
            lab.interrupt_spot(machine.instance.id)

    return answer


# --- what may have been made ----------------------------------------------------------------------


@pytest.mark.parametrize("action", ["RunInstances", "CreateSecurityGroup"])
@pytest.mark.parametrize("then", ["no further answer", "UnauthorizedOperation", "RequestLimitExceeded"])
def test_what_may_have_been_made_is_looked_for_and_removed(
    lab: Lab, tmp_path: Path, action: str, then: str
) -> None:
    """The answer was lost, and what came of the next try does not tell either."""
    lab.faults.add(Fault(action=action, kind="lose"), refuse(action, then, nth=2, times=9))

    with few_attempts(1 if then == "no further answer" else 2):
        fail_launch(lab, start_baking(lab, tmp_path))


def test_nothing_is_made_that_cannot_be_written_down(lab: Lab, tmp_path: Path) -> None:
    class FullLedger(MemoryLedger):
        def intend(self, _bake: str, resource: Resource) -> None:
            raise OSError(f"no space left for {resource.kind}")

    baking = start_baking(lab, tmp_path)
    baking.teardown._ledger = FullLedger()

    with pytest.raises(OSError, match="no space left for security-group"):
        baking.launch()

    assert calls_of(lab, "CreateSecurityGroup") == calls_of(lab, "RunInstances") == []


def test_an_answer_that_is_not_aws_is_told(tmp_path: Path) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Log in to the hotel's network</title>")

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        variables = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }
        with aws_variables(variables), few_attempts(1), pytest.raises(CloudError) as raised:
            AwsProvider(tmp_path, {"region": "eu-west-1"}).leftovers()
        server.shutdown()
    assert "is not AWS" in str(raised.value)
    assert "AWS_ENDPOINT_URL" in str(raised.value.hint)
