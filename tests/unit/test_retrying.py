"""What passes by itself, how long stages may take, and how pauses grow."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, SSLError

from baker.apt_failures import is_passing_fetch
from baker.configurer.events import OperationFailed
from baker.configurer.parent import explain_failed_operation
from baker.errors import BakerError, Interrupted, MachineError, MachineReclaimed, StageTimeout
from baker.interrupt import Interruption
from baker.model import Recipe, Stage
from baker.providers.aws.instances import require_running
from baker.providers.aws.refusals import explain
from baker.providers.aws.session import AwsSession
from baker.time_limits import LONGEST_PAUSE_SECONDS, choose_pause, find_limit, find_retries, show_duration

URL = "http://deb.example/debian/dists/trixie/InRelease"
SOME = "E: Some index files failed to download. They have been ignored, or old ones used instead."


def make_recipe(**changes: Any) -> Recipe:
    shared = {"folder": "/p/recipes/web", "project": "/p", "description": "", "targets": {}}
    return Recipe(**{"name": "web", **shared, **changes})


# --- apt ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reason",
    [
        "Could not connect to 127.0.0.1:1 (127.0.0.1). - connect (111: Connection refused)",
        "Could not connect to deb.example:80 (192.0.2.1), connection timed out",
        "Unable to connect to 127.0.0.1:3128:",
        "Cannot initiate the connection to deb.example:80 (::1). - connect (101: Network is unreachable)",
        "Connection failed [IP: 192.0.2.1 80]",
        "Connection timed out [IP: 192.0.2.1 80]",
        "Error reading from server. Remote end closed connection [IP: 192.0.2.1 80]",
        "Temporary failure resolving 'deb.example'",
        "500  Internal Server Error [IP: 127.0.0.1 80]",
        "503  Service Unavailable [IP: 127.0.0.1 80]",
        "429  Too Many Requests [IP: 127.0.0.1 80]",
        "Hash Sum mismatch",
        "File has unexpected size (1000 != 2000). Mirror sync in progress? [IP: 192.0.2.1 80]",
    ],
)
@pytest.mark.parametrize("mark", ["E:", "W:", "Error:"])
def test_archive_that_is_out_of_reach_or_moving_passes(mark: str, reason: str) -> None:
    assert is_passing_fetch(f"{mark} Failed to fetch {URL}  {reason}\n{SOME}")
    assert is_passing_fetch(
        f"{mark} Failed to fetch {URL}  {reason}\nE: The repository '{URL}' is not signed."
    )


@pytest.mark.parametrize(
    "lasting",
    [
        f"E: Failed to fetch {URL}  404  Not Found [IP: 192.0.2.1 80]",
        f"E: Failed to fetch {URL}  403  Forbidden [IP: 192.0.2.1 80]",
        f"E: Failed to fetch {URL}  Could not resolve 'deb.exmaple'",
        f"W: Failed to fetch {URL}  The following signatures couldn't be verified: NO_PUBKEY 0E98404D",
        "E: Write error - write (28: No space left on device)",
    ],
)
def test_wrong_names_keys_and_full_disks_last_whatever_else_fails(lasting: str) -> None:
    assert not is_passing_fetch(lasting)
    assert not is_passing_fetch(f"E: Failed to fetch {URL}  503  Service Unavailable\n{lasting}")


@pytest.mark.parametrize(
    "output",
    [
        "",
        "E: Unable to locate package nginx",
        f"E: The repository '{URL}' does not have a Release file.",
        "503",
    ],
)
def test_what_is_no_failed_fetch_does_not_pass(output: str) -> None:
    assert not is_passing_fetch(output)


def failed(stderr: str) -> OperationFailed:
    return OperationFailed(
        name="Install",
        message="exited with status 100",
        file=None,
        line=None,
        command="apt-get install nginx",
        exit_status=100,
        stderr_tail=stderr,
    )


def test_warnings_of_before_count_only_where_a_package_is_unknown() -> None:
    warning = f"W: Failed to fetch {URL}  503  Service Unavailable"
    unknown = "E: Unable to locate package nginx"
    assert explain_failed_operation(failed(unknown), [warning]).passing
    assert not explain_failed_operation(failed(unknown)).passing
    assert not explain_failed_operation(failed("nginx: bad configuration"), [warning]).passing


# --- aws ----------------------------------------------------------------------------------------------


def refuse(code: str, status: int = 400) -> ClientError:
    told = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(told, "RunInstances")  # type: ignore[arg-type]


URL_OF_EC2 = "https://ec2.eu-west-1.example"


@pytest.mark.parametrize(
    "error",
    [
        refuse("InsufficientInstanceCapacity", 500),
        refuse("InsufficientHostCapacity"),
        refuse("RequestLimitExceeded", 503),
        refuse("Throttling"),
        refuse("InternalError", 500),
        refuse("SnapshotCreationPerVolumeRateExceeded"),
        ConnectTimeoutError(endpoint_url=URL_OF_EC2),
        EndpointConnectionError(endpoint_url=URL_OF_EC2),
    ],
)
def test_lacking_capacity_throttling_and_lost_connections_to_aws_pass(error: Any) -> None:
    assert explain(error, service="ec2", operation="RunInstances", region="eu-west-1").passing


@pytest.mark.parametrize(
    "error",
    [
        refuse("UnauthorizedOperation", 403),
        refuse("VcpuLimitExceeded"),
        refuse("InvalidAMIID.NotFound"),
        refuse("Unsupported"),
        refuse("SpotMaxPriceTooLow"),
        refuse("ExpiredToken"),
        SSLError(endpoint_url=URL_OF_EC2, error="certificate verify failed"),
    ],
)
def test_rights_quotas_and_wrong_names_on_aws_do_not_pass(error: Any) -> None:
    assert not explain(error, service="ec2", operation="RunInstances", region="eu-west-1").passing


@pytest.mark.parametrize(("region", "passing"), [("eu-west-1", True), ("eu-wset-1", False)])
def test_region_that_is_misspelt_does_not_come_into_reach(region: str, passing: bool) -> None:
    aws = AwsSession({"region": "eu-west-1"})
    with pytest.raises(BakerError) as raised, aws._explaining("ec2", "RunInstances", region):
        raise EndpointConnectionError(endpoint_url=URL_OF_EC2)
    assert raised.value.passing is passing


@pytest.mark.parametrize(
    ("code", "passing"),
    [
        ("Server.InternalError", True),
        ("Server.InsufficientInstanceCapacity", True),
        ("Server.SpotInstanceTermination", True),
        ("Client.VolumeLimitExceeded", False),
        ("Client.InstanceInitiatedShutdown", False),
    ],
)
def test_instance_that_ends_by_itself_passes_where_aws_is_why(code: str, passing: bool) -> None:
    described = {"InstanceId": "i-1", "State": {"Name": "terminated"}, "StateReason": {"Code": code}}
    with pytest.raises(MachineError) as raised:
        require_running(described, "eu-west-1")
    assert raised.value.passing is passing


def test_error_passes_where_it_is_said_to() -> None:
    assert not BakerError("no").passing
    assert BakerError("no", passing=True).passing
    assert MachineReclaimed("gone").passing
    assert not MachineReclaimed("gone", passing=False).passing


# --- limits and pauses --------------------------------------------------------------------------------


def test_recipe_has_its_say_before_the_project() -> None:
    table = {"limits": {"launch": "5m", "verify": 90}, "retries": 4}
    recipe = make_recipe(limits={"verify": 7200.0}, retries=0)
    launch, verify = find_limit(Stage.LAUNCH, recipe, table), find_limit(Stage.VERIFY, recipe, table)
    assert launch is not None
    assert verify is not None
    assert (launch[0], str(launch[1])) == (300.0, "launch took longer than 5m (limits.launch of [bake])")
    assert (verify[0], str(verify[1])) == (7200.0, "verify took longer than 2h (limits.verify of web)")
    assert [launch[1].passing, verify[1].passing] == [True, False]
    assert find_limit(Stage.SEAL, recipe, table) is None
    assert find_limit(Stage.SEAL, recipe, {}) is None
    assert (find_retries(recipe, table), find_retries(make_recipe(), table)) == (0, 4)
    assert find_retries(make_recipe(), {}) == 2


def test_durations_are_shown_as_they_are_written() -> None:
    assert [show_duration(seconds) for seconds in (0.5, 90, 300, 3600, 5400, 7200)] == [
        "0.5s",
        "90s",
        "5m",
        "1h",
        "90m",
        "2h",
    ]


def test_pauses_double_and_vary_up_to_a_longest_one() -> None:
    for tries, least in ((1, 5.0), (2, 10.0), (3, 20.0), (20, LONGEST_PAUSE_SECONDS)):
        pauses = {choose_pause(tries) for _ in range(50)}
        assert min(pauses) >= least
        assert max(pauses) <= 1.5 * least
        assert len(pauses) > 40


# --- breaking off -------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


LATE = StageTimeout("launch took longer than 5m")


def test_what_takes_too_long_is_broken_off_and_the_rest_goes_on() -> None:
    clock = Clock()
    whole = Interruption(clock)
    part, other = whole.part(), whole.part()

    @part.limited(300.0, LATE)
    def launch() -> None:
        clock.now = 299.0
        part.expire()
        assert not part.cancel.is_set()
        clock.now = 300.0
        part.expire()
        assert (part.cancel.is_set(), other.cancel.is_set()) == (True, False)
        raise Interrupted("a wait that looked at it")

    with pytest.raises(StageTimeout) as raised:
        launch()
    assert raised.value is LATE
    assert not part.cancel.is_set()
    part.check()
    assert part.explain(LATE) is LATE


def test_what_ends_late_by_itself_was_too_late() -> None:
    clock = Clock()
    part = Interruption(clock)

    @part.limited(300.0, LATE)
    def launch() -> None:
        clock.now = 301.0
        part.expire()

    with pytest.raises(StageTimeout):
        launch()
    with part.limited(300.0, LATE):  # from now on
        clock.now = 600.0
        part.expire()
    clock.now = 10_000.0
    part.expire()
    assert not part.cancel.is_set(), "nothing is limited any more"


def test_what_fails_in_time_fails_of_its_own_reason() -> None:
    part = Interruption(Clock())
    with pytest.raises(MachineError, match="died"), part.limited(300.0, LATE):
        raise MachineError("died")


def test_interruption_goes_before_a_time_out() -> None:
    clock = Clock()
    part = Interruption(clock)

    @part.limited(300.0, LATE)
    def launch() -> None:
        clock.now = 301.0
        part.expire()
        part.end("interrupted by SIGINT")
        raise MachineError("killed")

    with pytest.raises(MachineError):
        launch()
    assert part.cancel.is_set()
    with pytest.raises(Interrupted, match="SIGINT"):
        part.check()


def test_pause_ends_at_once_when_all_is_to_end() -> None:
    part = Interruption()
    part.pause(0.0)
    threading.Timer(0.05, part.end, ["cancelled by ann"]).start()
    with pytest.raises(Interrupted, match="cancelled by ann"):
        part.pause(600.0)
