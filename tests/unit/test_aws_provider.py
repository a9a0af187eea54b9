"""The AWS provider's settings, names, waiting and ways to say what went wrong: no call is made."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from moto.ec2.models.instance_types import INSTANCE_TYPES

from baker.aws_settings import AWS_SETTINGS
from baker.errors import CloudError, Interrupted, SettingsError
from baker.model import AmiSource
from baker.providers.aws.images import AmiImage
from baker.providers.aws.instances import describe_disks, require_running
from baker.providers.aws.naming import Marks, bake_of, group_name, image_name, read_tags, write_tags
from baker.providers.aws.options import (
    ARM_FAMILY,
    DEFAULT_TYPES,
    Disk,
    Distribution,
    parse_age,
    parse_seconds,
    read_archs,
    read_distribution,
    read_options,
    read_user_data,
    require_sensible_keys,
)
from baker.providers.aws.parameters import name_parameter
from baker.providers.aws.refusals import explain
from baker.providers.aws.waiting import Pace, wait_for
from tests.factories import NOON, make_bake_id

# --- settings -------------------------------------------------------------------------------------


def test_the_arm_types_are_told_by_their_names() -> None:
    """By the list of all types that AWS had when moto's was made."""
    wrong = [
        name
        for name, known in INSTANCE_TYPES.items()
        if bool(ARM_FAMILY.match(name)) != ("arm64" in known["ProcessorInfo"]["SupportedArchitectures"])
    ]

    assert len(INSTANCE_TYPES) > 500
    assert [name for name in wrong if not name.startswith("mac")] == []


def test_every_type_may_be_configured() -> None:
    pattern = re.compile(AWS_SETTINGS["instance_type"]["pattern"])

    assert [name for name in INSTANCE_TYPES if not pattern.match(name)] == []


def test_only_the_types_of_the_architecture_are_kept_in_their_order() -> None:
    settings = {"instance_type": ["m7g.large", "g5.xlarge", "t3.small", "g5g.xlarge", "a1.medium"]}

    assert read_options(settings, "x86_64").instance_types == ("g5.xlarge", "t3.small")
    assert read_options(settings, "arm64").instance_types == ("m7g.large", "g5g.xlarge", "a1.medium")


def test_an_architecture_without_a_type_has_the_default_ones() -> None:
    assert read_options({"instance_type": "t3.small"}, "arm64").instance_types == DEFAULT_TYPES["arm64"]
    assert read_options({}, "x86_64").instance_types == DEFAULT_TYPES["x86_64"]


def test_a_bastion_needs_to_be_told_whom_instances_are_opened_to() -> None:
    bastion = {"bastion": {"host": "jump", "user": "ann", "host_key": "ssh-ed25519 AAAA"}}

    with pytest.raises(SettingsError, match="which address reaches build instances"):
        read_options(bastion, "x86_64")
    assert read_options({**bastion, "open_to": "10.0.1.5/32"}, "x86_64").bastion
    assert read_options({**bastion, "security_groups": ["sg-1"]}, "x86_64").bastion


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1s", 1)])
def test_lengths_of_time_are_seconds(text: str, seconds: float) -> None:
    assert re.match(AWS_SETTINGS["deadline"]["pattern"], text)
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "age"), [("12h", timedelta(hours=12)), ("90d", timedelta(days=90)), ("2w", timedelta(days=14))]
)
def test_ages_are_lengths_of_time(text: str, age: timedelta) -> None:
    assert re.match(AWS_SETTINGS["deprecate_after"]["pattern"], text)
    assert parse_age(text) == age


@pytest.mark.parametrize("text", ["", "0s", "90", "1.5h", "2 h", "-1m", "5d", "90s "])
def test_what_is_no_length_of_time_is_not_accepted(text: str) -> None:
    assert not re.match(AWS_SETTINGS["deadline"]["pattern"], text)


@pytest.mark.parametrize("key", ["Name", "baker:bake", "baker:mine", "aws:cloudformation:stack-name"])
def test_tags_of_our_own_and_of_aws_are_refused(key: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read_options({"tags": {"team": "web", key: "x"}}, "x86_64")

    assert str(raised.value) == f'the tag "{key}" is baker\'s own'
    assert "tags of [aws]" in str(raised.value.hint)


def test_a_key_encrypts_the_volume() -> None:
    assert Disk(kms_key="alias/images").describe() == {
        "DeleteOnTermination": True,
        "Encrypted": True,
        "KmsKeyId": "alias/images",
    }
    assert Disk(size=9, encrypted=False).describe() == {
        "DeleteOnTermination": True,
        "VolumeSize": 9,
        "Encrypted": False,
    }


def test_a_distribution_is_the_same_after_it_was_kept_with_the_artifact() -> None:
    wanted = read_distribution(
        {
            "regions": ["eu-west-1", "eu-west-2", "eu-west-1"],
            "kms_keys": {"eu-west-2": "alias/images"},
            "share_accounts": ["111122223333"],
            "share_organizations": ["arn:aws:organizations::1:organization/o-1"],
            "share_ous": ["arn:aws:organizations::1:ou/o-1/ou-1"],
            "public": True,
            "deprecate_after": "90d",
            "parameters": "/images",
            "tags": {"team": "web"},
        }
    )

    assert wanted.regions == ("eu-west-1", "eu-west-2")
    assert Distribution.from_json(wanted.to_json()) == wanted


def test_architectures_are_named_once_each_and_x86_64_by_default() -> None:
    assert read_archs({}) == ("x86_64",)
    assert read_archs({"archs": ["arm64", "x86_64", "arm64"]}) == ("arm64", "x86_64")


def test_user_data_lies_in_the_project(tmp_path: Path) -> None:
    tmp_path.joinpath("cloud.yaml").write_text("#cloud-config\n")
    options = read_options({"user_data": "cloud.yaml"}, "x86_64")

    assert read_user_data(options, tmp_path) == b"#cloud-config\n"
    assert read_user_data(read_options({}, "x86_64"), tmp_path) is None


# --- names ----------------------------------------------------------------------------------------


def make_marks(**changes: Any) -> Marks:
    values: dict[str, Any] = {
        "bake": "01JBAKE",
        "recipe": "web",
        "store": "builder:/var/lib/baker",
        "actor": "ann",
        "deadline": NOON,
        "extra": {},
    }
    return Marks(**{**values, **changes})


def test_marks_say_whose_a_thing_is_and_until_when() -> None:
    assert read_tags({"Tags": make_marks(extra={"team": "web"}).tags(Name="web-1", machine="01JBAKE")}) == {
        "team": "web",
        "baker:bake": "01JBAKE",
        "baker:recipe": "web",
        "baker:store": "builder:/var/lib/baker",
        "baker:actor": "ann",
        "baker:deadline": "2025-06-01T12:00:00+00:00",
        "Name": "web-1",
        "baker:machine": "01JBAKE",
    }


def test_configured_tags_never_replace_ours() -> None:
    assert read_tags({"Tags": make_marks(extra={"baker:bake": "x"}).tags()})["baker:bake"] == "01JBAKE"


def test_tags_are_as_long_as_aws_takes_them_and_never_empty() -> None:
    assert write_tags({"a": "x" * 300, "b": ""}) == [{"Key": "a", "Value": "x" * 256}]


def test_the_machine_that_verifies_belongs_to_its_bake() -> None:
    bake = make_bake_id()
    made = {"store": "s", "actor": "a", "seconds": 60.0, "extra": {}}

    marks = Marks.of(f"{bake}-verify", "web", **made)

    assert bake_of(f"{bake}-verify") == marks.bake == bake
    left = marks.deadline - datetime.now(UTC)
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)
    resource = marks.resource("instance", f"{bake}-verify", "eu-west-1")
    assert (resource.provider, resource.id, resource.place) == ("aws", f"{bake}-verify", "eu-west-1")
    assert resource.details == {"bake": bake, "store": "s", "deadline": marks.deadline.isoformat()}


def test_names_are_made_of_the_bakes_id() -> None:
    assert (group_name("01J"), image_name("web", "01J")) == ("baker-01J", "web-01J")


@pytest.mark.parametrize(
    ("arch", "only", "name"),
    [
        ("x86_64", True, "/baker/web/prod"),
        ("arm64", True, "/baker/web/prod"),
        ("x86_64", False, "/baker/web/prod"),
        ("arm64", False, "/baker/web/prod/arm64"),
    ],
)
def test_the_parameter_of_the_main_architecture_is_the_plain_one(arch: str, only: bool, name: str) -> None:
    assert name_parameter("/baker", "web", "prod", arch, only=only) == name


def test_an_ami_source_is_told_as_it_was_asked_for() -> None:
    assert str(AmiSource(query={"owner": "1", "name": "debian-*"})) == "ami(name=debian-*, owner=1)"


# --- instances ------------------------------------------------------------------------------------


def make_image(**devices: bool) -> AmiImage:
    return AmiImage(
        id="ami-1",
        name="debian",
        owner="1",
        arch="x86_64",
        state="available",
        root_device="/dev/xvda",
        created="",
        devices={f"/dev/{name}": ends for name, ends in devices.items()},
        snapshots=(),
        size_bytes=0,
        tags={},
    )


def test_only_what_differs_from_the_source_is_said_of_disks() -> None:
    settings = {"root_volume": {"size": 20}, "volumes": [{"device": "/dev/sdf", "size": 5}]}
    image = make_image(xvda=True, sdb=False)

    assert describe_disks(image, read_options({}, "x86_64")) == [
        {"DeviceName": "/dev/sdb", "Ebs": {"DeleteOnTermination": True}}
    ]
    assert describe_disks(image, read_options(settings, "x86_64")) == [
        {"DeviceName": "/dev/sdb", "Ebs": {"DeleteOnTermination": True}},
        {"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": True, "VolumeSize": 20}},
        {"DeviceName": "/dev/sdf", "Ebs": {"DeleteOnTermination": True, "VolumeSize": 5}},
    ]


@pytest.mark.parametrize("state", ["pending", "running"])
def test_an_instance_that_starts_or_runs_is_none_that_ends(state: str) -> None:
    require_running({"State": {"Name": state}, "InstanceId": "i-1"}, "eu-west-1")
    require_running(None, "eu-west-1")


# --- waiting --------------------------------------------------------------------------------------


class Clock(threading.Event):
    """Time passes only while somebody waits."""

    def __init__(self, cancelled_at: float | None = None) -> None:
        super().__init__()
        self.now = 0.0
        self.pauses: list[float] = []
        self._cancelled_at = cancelled_at

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.pauses.append(timeout)
        self.now += timeout
        return self._cancelled_at is not None and self.now >= self._cancelled_at


PACE = Pace(first=1.0, longest=8.0)


def wait(clock: Clock, ask: Callable[[], str | None], **changes: Any) -> str:
    values: dict[str, Any] = {
        "seconds": 60.0,
        "pace": PACE,
        "what": lambda: "the thing is not there",
        "cancel": clock,
        "clock": lambda: clock.now,
    }
    return wait_for(ask, **{**values, **changes})


def test_waiting_ends_with_the_answer() -> None:
    clock = Clock()
    answers = iter([None, None, "here"])

    assert wait(clock, lambda: next(answers)) == "here"
    assert len(clock.pauses) == 3


def test_what_is_there_at_once_costs_no_time() -> None:
    clock = Clock()

    assert wait(clock, lambda: "here", at_once=True) == "here"
    assert clock.now == 0


def test_pauses_grow_up_to_the_longest() -> None:
    clock = Clock()

    with pytest.raises(CloudError):
        wait(clock, lambda: None, seconds=300.0)

    assert 0.8 <= clock.pauses[0] <= 1.2
    assert all(5.0 < pause < 10.0 for pause in clock.pauses[8:])
    assert len(clock.pauses) < 60


def test_waiting_ends_at_its_deadline_and_says_what_for() -> None:
    clock = Clock()

    with pytest.raises(CloudError) as raised:
        wait(clock, lambda: None, hint="Look at it.")

    assert str(raised.value) == "the thing is not there after 60 s"
    assert raised.value.hint == "Look at it."
    assert 60.0 <= clock.now < 70.0


def test_waiting_ends_when_the_bake_is_to_end() -> None:
    clock = Clock(cancelled_at=5.0)

    with pytest.raises(Interrupted):
        wait(clock, lambda: None)

    assert clock.now < 20.0


# --- what went wrong ------------------------------------------------------------------------------


def refused(error: Any) -> Any:
    return explain(error, service="ec2", operation="RunInstances", region="eu-west-1")


def answer(code: str, retries: int = 0, **metadata: Any) -> ClientError:
    response: Mapping[str, Any] = {
        "Error": {"Code": code, "Message": "said"},
        "ResponseMetadata": {"RetryAttempts": retries, **metadata},
    }
    return ClientError(response, "RunInstances")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "unknown"),
    [
        (answer("UnauthorizedOperation"), False),
        (answer("InsufficientInstanceCapacity"), False),
        (answer("UnauthorizedOperation", retries=1), True),
        (answer("InternalError"), True),
        (answer("Unavailable"), True),
        (ReadTimeoutError(endpoint_url="https://ec2"), True),
        (ConnectTimeoutError(endpoint_url="https://ec2"), True),
        (EndpointConnectionError(endpoint_url="https://ec2"), True),
        (NoCredentialsError(), False),
    ],
)
def test_whether_a_call_may_have_been_done_is_known(error: Any, unknown: bool) -> None:
    assert refused(error).outcome_unknown is unknown


@pytest.mark.parametrize(
    "code", ["InvalidInstanceID.NotFound", "ParameterNotFound", "InvalidAMIID.Unavailable"]
)
def test_what_is_not_there_is_said_to_be_absent(code: str) -> None:
    assert refused(answer(code)).says_absent
    assert not refused(answer("UnauthorizedOperation")).says_absent


def test_an_error_that_nobody_expects_says_call_region_and_code() -> None:
    error = refused(answer("SomethingNew"))

    assert str(error) == "ec2:RunInstances in eu-west-1: said (SomethingNew)"
    assert (error.code, error.action, error.region) == ("SomethingNew", "ec2:RunInstances", "eu-west-1")


@pytest.mark.parametrize(
    ("region", "told"),
    [("eu-west-1", "root_volume"), ("us-east-1", "Add it to regions")],
)
def test_key_that_would_encrypt_nothing_is_refused(region: str, told: str) -> None:
    distribution = Distribution(regions=("eu-central-1",), kms_keys={region: "alias/images"})
    with pytest.raises(SettingsError) as raised:
        require_sensible_keys(distribution, "eu-west-1")
    assert told in str(raised.value.hint)
