"""Baking for aws through the command line, on the lab without machines: what goes on, and what goes wrong."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.aws import calls_of, describe_instances
from tests.e2e.aws_site import COPY_REGION, DEPLOY, Running, Site, running_site
from tests.lab import Fault
from tests.nobody import User, as_nobody, open_the_way

REGION = "eu-west-1"
BLOCKING = DEPLOY.replace('"true"', '"wait-for-the-test"')


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as site:
        yield site


def answer_with(site: Site, act: Callable[[], None]) -> None:
    """Have ``act`` called while the recipe with BLOCKING runs in an instance."""

    def answer(command: str, _stdin: bytes) -> tuple[int, bytes, bytes] | None:
        if "wait-for-the-test" not in command:
            return None
        try:
            act()
        except Exception:
            return 70, b"", traceback.format_exc().encode()
        return 0, b"", b""

    site.lab.fleet.answers.insert(0, answer)  # type: ignore[attr-defined]


# --- baking ---------------------------------------------------------------------------------------------


def test_parents_and_children_are_baked_several_at_once_and_nothing_is_baked_again(site: Site) -> None:
    site.recipe("child", 'from = "probe:latest"\n[targets.aws]\n')
    site.recipe("other")
    done = site.json("bake", "--jobs", "2")["bakes"]
    assert [(one["recipe"], one["outcome"], one["image"]) for one in done] == [
        ("other", "baked", "other:1"),
        ("probe", "baked", "probe:1"),
        ("child", "baked", "child:1"),
    ]
    started_from = [call["ImageId"] for call in calls_of(site.lab, "RunInstances")]
    assert site.amis("probe:1")[REGION] in started_from
    assert site.is_held() == []
    assert {entry["action"] for entry in site.json("plan")["recipes"]} == {"skip"}
    site.lab.forget_calls()
    assert {one["outcome"] for one in site.json("bake")["bakes"]} == {"unchanged"}
    assert len(site.lab.calls) == 3, "the source, and which AMIs are there in either region"


@pytest.mark.slow
def test_ten_bakes_succeed_although_a_fifth_of_all_calls_is_throttled_or_fails(site: Site) -> None:
    names = [f"probe{number}" for number in range(9)]
    for name in names:
        site.recipe(name)
    site.lab.faults.share(0.2)
    done = site.json("bake", "--jobs", "10")["bakes"]
    assert [one["outcome"] for one in done] == ["baked"] * 10
    assert sum(bool(call.fault) for call in site.lab.calls) > 10
    site.lab.faults.clear()
    assert site.is_held() == []
    assert "nothing is left behind" in site.run("system", "sweep").stdout


def test_bake_whose_spot_instance_is_reclaimed_starts_over_on_demand(site: Site) -> None:
    site.configure(spot=True)
    site.recipe("probe", deploy=BLOCKING)
    reclaimed: list[str] = []

    def reclaim() -> None:
        if not reclaimed:
            [instance] = describe_instances(site.lab)
            assert instance["InstanceLifecycle"] == "spot"
            reclaimed.append(instance["InstanceId"])
            site.lab.interrupt_spot(instance["InstanceId"])

    answer_with(site, reclaim)
    done = site.run("bake")
    assert "trying again in 0 s, 1 of 2" in done.said
    assert reclaimed[0] in done.said
    markets = ["InstanceMarketOptions" in call for call in calls_of(site.lab, "RunInstances")]
    assert markets == [True, False, False], "once again on demand, and so the instance for image tests"
    assert set(site.amis("probe:1")) == {REGION, COPY_REGION}
    assert site.is_held() == []


@pytest.mark.parametrize("finishing", [("bake",), ("system", "sweep")], ids=" ".join)
def test_image_that_cannot_be_copied_stays_registered_until_it_is_everywhere(
    site: Site, finishing: tuple[str, ...]
) -> None:
    limit = {"code": "ResourceLimitExceeded", "message": "too many copies"}
    site.lab.faults.add(Fault(action="CopyImage", kind="refuse", **limit))
    done = site.run("bake", status=1)
    assert f"a quota of the account is reached in {COPY_REGION}: too many copies" in done.stderr
    assert site.json("image", "show", "probe:1")["status"] == "registered"
    held = [line.split()[:2] for line in site.lab.holdings()]
    assert held == [[REGION, "image"], [REGION, "snapshot"]], "no copy, nothing temporary"
    site.run("image", "resolve", "probe:1", status=2)

    launched = len(calls_of(site.lab, "RunInstances"))
    site.run(*finishing)
    assert site.json("image", "show", "probe:1")["status"] == "available"
    assert set(site.amis("probe:1")) == {REGION, COPY_REGION}
    assert len(calls_of(site.lab, "RunInstances")) == launched, "it was only distributed"


def test_image_that_fails_its_test_is_not_registered_and_leaves_nothing(site: Site) -> None:
    site.write("recipes/probe/test_image.py", "def test_it(host):\n    assert host.run('true').rc == 1\n")
    done = site.run("bake", status=1)
    assert "test_it" in done.stderr
    assert "no image" in site.run("image", "show", "probe", status=2).stderr
    assert len(calls_of(site.lab, "RunInstances")) == 2, "it was tested on a fresh instance"
    assert site.lab.holdings() == []


def test_interrupted_bake_cleans_up_and_ends_with_130(site: Site) -> None:
    site.recipe("probe", deploy=BLOCKING)
    reached, release = threading.Event(), threading.Event()

    def block() -> None:
        reached.set()
        release.wait(20.0)

    answer_with(site, block)
    baker = site.start("bake")
    assert reached.wait(20.0)
    os.kill(baker.pid, signal.SIGINT)
    done = baker.wait()
    release.set()
    assert (done.status, "Traceback" in done.said) == (130, False), done.said
    assert site.lab.holdings() == []
    assert "nothing is left behind" in site.run("system", "sweep").stdout


# --- sweeping -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def baking(site: Site) -> Iterator[Running]:
    """A bake that goes on as long as the block lasts."""
    site.recipe("probe", deploy=BLOCKING)
    reached, release = threading.Event(), threading.Event()

    def block() -> None:
        reached.set()
        release.wait(30.0)

    answer_with(site, block)
    baker = site.start("bake")
    try:
        assert reached.wait(20.0)
        yield baker
    finally:
        release.set()


def test_sweep_removes_what_a_killed_bake_left_and_nothing_else(site: Site) -> None:
    ec2 = site.lab.client("ec2")
    tags = {
        "baker:bake": "01M871EPCCZBPNN59DZJTH21F9",
        "baker:machine": "01M871EPCCZBPNN59DZJTH21F9",
        "baker:store": "elsewhere:/var/lib/baker",
        "baker:deadline": "2099-01-01T00:00:00+00:00",
    }
    tagged = [{"Key": key, "Value": value} for key, value in tags.items()]
    image = site.lab.source_ami
    for specification in ([], [{"ResourceType": "instance", "Tags": tagged}]):
        ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=specification)
    for name, specification in (
        ("plain", []),
        ("baker-01M871EPCCZBPNN59DZJTH21F9", [{"ResourceType": "security-group", "Tags": tagged}]),
    ):
        ec2.create_security_group(GroupName=name, Description="theirs", TagSpecifications=specification)
    foreign = site.lab.holdings()

    with baking(site) as baker:
        os.kill(baker.pid, signal.SIGKILL)
        baker.wait()
        left = set(site.lab.holdings()) - set(foreign)
        assert {line.split()[1] for line in left} == {"instance", "security-group", "volume"}
        told = site.run("system", "sweep", "--dry-run")
        assert told.stdout.count("would remove") == 2
        assert set(site.lab.holdings()) == set(foreign) | left
        assert site.run("system", "sweep").stdout.count("removed") == 2
        assert site.lab.holdings() == foreign


def test_sweep_never_touches_a_live_bake_of_this_store_or_of_another(site: Site) -> None:
    other = Site(lab=site.lab, folder=site.folder, home=site.folder.parent / "other")
    with baking(site) as baker:
        held = site.lab.holdings()
        for sweeper in (site, other):
            sweeper.run("catalog", "migrate")
            assert "nothing is left behind" in sweeper.run("system", "sweep").stdout
        assert site.lab.holdings() == held
    assert baker.wait().status == 0


# --- who may not, and what is missing -------------------------------------------------------------------


def test_bake_without_credentials_says_where_they_come_from(site: Site) -> None:
    site.variables = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    done = site.run("bake", status=1)
    assert "there are no AWS credentials" in done.stderr
    assert site.lab.calls == []


def test_credentials_that_have_expired_are_told(site: Site) -> None:
    refusal = {"code": "RequestExpired", "message": "Request has expired."}
    site.lab.faults.add(Fault(action="DescribeImages", kind="refuse", times=100, **refusal))
    done = site.run("bake", status=1)
    assert "have expired" in done.said
    assert site.lab.holdings() == []


def test_bake_without_a_region_is_wrong_usage_and_says_where_to_set_it(site: Site) -> None:
    site.write("baker.toml", "[aws]\n")
    site.variables = {"AWS_DEFAULT_REGION": ""}
    assert 'Set it: [aws] region = "eu-west-1" in baker.toml' in site.run("bake", status=2).stderr


def test_endpoint_that_does_not_answer_is_named(site: Site) -> None:
    site.variables = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    site.attempts = 2
    assert "http://127.0.0.1:9" in site.run("bake", status=1).said


def test_target_that_is_not_configured_is_wrong_usage_and_says_what_to_add(site: Site) -> None:
    site.write("baker.toml", "")
    for options in ((), ("--target", "aws")):
        assert "Add a table [aws]" in site.run("bake", *options, status=2).stderr
    assert site.lab.calls == []


def test_somebody_who_is_not_root_bakes_with_a_home_of_his_own(site: Site, tmp_path: Path) -> None:
    user = User(root=tmp_path / "user")
    user.settle()
    open_the_way(site.folder)
    shutil.copytree(site.folder, user.project)
    user.give(user.project)
    for path in user.project.rglob("*"):
        user.give(path)
    code = "import sys; from baker.cli import main; sys.argv[0] = 'baker'; main()"
    command = [sys.executable, "-c", code, "--project", str(user.project), "bake", "--target", "aws"]
    done = subprocess.run(
        as_nobody(command, user.root),
        env={
            **{name: value for name, value in user.variables.items() if not name.startswith("AWS_")},
            **site.lab.environment,
            "BAKER_HOME": str(user.home / "baker"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "probe:1 for aws/x86_64" in done.stdout
    assert site.is_held() == []
    assert (user.home / "baker" / "catalog.db").stat().st_uid == (65534 if os.geteuid() == 0 else os.getuid())
