"""Bakes that are tried again, and stages that take too long: whole bakes on a lab without machines."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from baker.catalog import Catalog
from baker.errors import Interrupted
from baker.execution import execute_plan, plan_bakes
from baker.interrupt import Interruption
from baker.kitchen import Kitchen
from baker.model import BakeResult, Outcome, Stage
from baker.progress import BakeEnded, Note, Progress, StageEnded
from baker.providers.aws import session
from baker.providers.aws.provider import AwsProvider
from baker.providers.protocol import Machine
from baker.recipes import load_recipes
from baker.settings import load_settings
from tests.aws import DEBIAN, calls_of, make_provider, make_table
from tests.lab import Fault, Lab

RECIPE = f"""
{{keys}}
[targets.aws]
from = {{{{ owner = "{DEBIAN}", name = "debian-13-{{{{deb_arch}}}}-*" }}}}
"""
DEPLOY = """
from pyinfra.operations import server

server.shell(name="Update", commands=["apt-get update"])
server.shell(name="Install", commands=["apt-get install tool"])
"""
READY = b"inside.sent.waiting"
CAPACITY = "InsufficientInstanceCapacity"
Answer = tuple[int, bytes, bytes] | None


class Site:
    """A project with recipes for aws, and what was said while it was baked.

    ``now`` is what stages are timed by, ``pauses`` are the tries after which a bake paused, and for how long
    ``paused`` says.
    """

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.now = 0.0
        self.pauses: list[int] = []
        self.paused = 0.0
        self.said: list[Progress] = []
        self.hung = threading.Event()
        self.settings = ""
        self.types = ["t3.small"]
        self.whole = Interruption(lambda: self.now)
        self.on_note: Callable[[], None] = lambda: None

    def recipe(self, name: str = "base", keys: str = "") -> None:
        recipe = self.folder / "recipes" / name
        recipe.mkdir(parents=True, exist_ok=True)
        (recipe / "recipe.toml").write_text(RECIPE.format(keys=keys))
        (recipe / "deploy.py").write_text(DEPLOY)
        for path in (self.folder, recipe.parent, recipe):
            path.chmod(0o755)

    def answer(self, answer: Callable[[str], Answer]) -> None:
        """Let instances answer to what they are told to run."""
        self.lab.fleet.answers.insert(0, lambda command, stdin: answer(f"{command} {stdin!r}"))  # type: ignore[attr-defined]

    def hang(self, what: str, seconds: float, *, nth: int = 1) -> None:
        """The nth command that holds ``what`` never ends, and ``seconds`` pass."""
        seen: list[str] = []

        def answer(command: str) -> Answer:
            if what not in command:
                return None
            seen.append(command)
            if len(seen) != nth:
                return None
            self.now += seconds
            self.hung.wait()
            return 0, b"", b""

        self.answer(answer)

    def show(self, progress: Progress) -> None:
        self.said.append(progress)
        if isinstance(progress, Note):
            self.on_note()

    def choose_pause(self, tries: int) -> float:
        self.pauses.append(tries)
        return self.paused

    def bake(self, *, force: bool = False, jobs: int = 1) -> list[BakeResult]:
        table = make_table(self.lab, regions=["eu-central-1"], instance_type=self.types)
        lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        (self.folder / "baker.toml").write_text(f"[aws]\n{lines}{self.settings}")
        settings = load_settings(self.folder, {"BAKER_HOME": str(self.folder / "home"), "BAKER_ACTOR": "ann"})
        with Catalog.open(settings.catalog_url, actor="ann") as catalog:
            kitchen = Kitchen(
                catalog=catalog,
                providers={"aws": make_provider(self.lab, self.folder / "home", regions=["eu-central-1"])},
                settings=settings,
                environ={},
                show=self.show,
                interruption=self.whole,
                choose_pause=self.choose_pause,
            )
            recipes = load_recipes(self.folder)
            plan = plan_bakes(recipes, kitchen, selected=None, force=force)
            results = execute_plan(recipes, plan, kitchen, jobs=jobs)
            self.versions = [image.reference for image in catalog.images()]
            self.stages = {one.stage: one for one in catalog.bakes()[0].stages}
            self.left = list(catalog.open_entries())
        return results

    @property
    def notes(self) -> list[str]:
        return [one.text for one in self.said if isinstance(one, Note)]

    def temporary(self) -> Sequence[str]:
        """What the account holds that bakes made, and that is no image."""
        held = [line for line in self.lab.holdings() if "baker:bake=" in line]
        return [line for line in held if " image " not in line and " snapshot " not in line]


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    site = Site(lab, tmp_path)
    site.recipe()
    yield site
    site.hung.set()
    assert site.temporary() == []


@pytest.fixture
def few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call is given up at its first refusal."""
    monkeypatch.setattr(session, "ATTEMPTS", 1)


def launches(site: Site) -> int:
    return len(calls_of(site.lab, "RunInstances"))


# --- trying again -----------------------------------------------------------------------------------------


def test_lacking_capacity_is_waited_for_and_the_bake_is_tried_again(site: Site) -> None:
    site.lab.faults.add(Fault(action="RunInstances", kind="refuse", code=CAPACITY))
    [result] = site.bake()
    assert (result.outcome, result.image, result.attempts) == (Outcome.BAKED, "base:1", 2)
    assert site.pauses == [1]
    [note] = site.notes
    assert note.startswith("base: ec2:RunInstances in eu-west-1: ")
    assert note.endswith(f"({CAPACITY}); trying again in 0 s, 1 of 2")
    assert launches(site) == 3, "one more to verify"
    [ended] = [one for one in site.said if isinstance(one, BakeEnded)]
    assert note.removeprefix("base: ") in Path(str(ended.log)).read_text()
    spent = [one.seconds for one in site.said if isinstance(one, StageEnded) and one.stage == "launch"]
    assert len(spent) == 2
    assert result.stages["launch"] == pytest.approx(sum(spent), abs=0.01), "of both tries"
    assert (site.stages[Stage.LAUNCH].outcome, site.stages[Stage.LAUNCH].seconds) == (
        "done",
        result.stages["launch"],
    )


def test_what_lacks_for_good_is_given_up_after_the_retries(site: Site) -> None:
    site.types = ["t3.small", "t3.medium"]
    site.settings = "[bake]\nretries = 3\n"
    site.lab.faults.add(Fault(action="RunInstances", kind="refuse", code=CAPACITY, times=99))
    [result] = site.bake()
    assert (result.outcome, result.attempts, site.pauses) == (Outcome.FAILED, 4, [1, 2, 3])
    assert "no instance type can be launched" in str(result.error)
    assert [note.rpartition(", ")[2] for note in site.notes] == ["1 of 3", "2 of 3", "3 of 3"]


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "VcpuLimitExceeded"])
def test_what_failed_for_its_own_reason_is_tried_once(site: Site, code: str) -> None:
    site.lab.faults.add(Fault(action="RunInstances", kind="refuse", code=code))
    [result] = site.bake()
    assert (result.outcome, result.attempts, site.notes) == (Outcome.FAILED, 1, [])
    assert launches(site) == 1


@pytest.mark.usefixtures("few_calls")
def test_calls_that_aws_itself_fails_are_made_again_with_the_bake(site: Site) -> None:
    site.recipe(keys="retries = 1")
    site.lab.faults.add(Fault(action="CreateImage", kind="lose"))
    [result] = site.bake()
    assert (result.outcome, result.attempts, site.versions) == (Outcome.BAKED, 2, ["base:1"])
    assert len(calls_of(site.lab, "CreateImage")) == 2


@pytest.mark.usefixtures("few_calls")
def test_image_that_is_registered_is_only_distributed_again(site: Site) -> None:
    site.lab.faults.add(Fault(action="CopyImage", kind="throttle"))
    [result] = site.bake()
    assert (result.outcome, result.image, result.attempts) == (Outcome.BAKED, "base:1", 2)
    assert (site.versions, launches(site)) == (["base:1"], 2)
    assert len(calls_of(site.lab, "CopyImage")) == 2


def test_what_cannot_be_removed_ends_the_bake_and_is_named(site: Site) -> None:
    site.answer(lambda command: (100, b"", UNREACHABLE) if "apt-get update" in command else None)
    site.lab.faults.add(Fault(action="TerminateInstances", kind="refuse", code="Odd", times=2))
    [result] = site.bake()
    assert (result.outcome, result.attempts, site.notes) == (Outcome.FAILED, 1, [])
    assert "Could not connect" in str(result.error)
    [ended] = [one for one in site.said if isinstance(one, BakeEnded)]
    assert [left.resource.kind for left in ended.left_behind][:1] == ["instance"]
    site.lab.faults.clear()
    for left in ended.left_behind:
        make_provider(site.lab, site.folder / "home").remove(left.resource)


def test_pause_ends_with_the_bake(site: Site) -> None:
    site.lab.faults.add(Fault(action="RunInstances", kind="refuse", code=CAPACITY))
    site.paused = 600.0
    site.on_note = lambda: site.whole.end("interrupted by SIGINT")
    with pytest.raises(Interrupted, match="SIGINT"):
        site.bake()
    [ended] = [one for one in site.said if isinstance(one, BakeEnded)]
    assert (ended.result.error, ended.result.attempts) == ("interrupted by SIGINT", 1)


# --- archives, from within the machine --------------------------------------------------------------------

UNREACHABLE = (
    b"E: Failed to fetch http://deb.example/t.deb  Could not connect to deb.example:80 (192.0.2.1). "
    b"- connect (111: Connection refused)\n"
    b"E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?\n"
)
MISSING = b"E: Failed to fetch http://deb.example/t.deb  404  Not Found [IP: 192.0.2.1 80]\n"
IGNORED = b"W: Failed to fetch http://deb.example/InRelease  503  Service Unavailable [IP: 192.0.2.1 80]\n"
UNKNOWN = b"E: Unable to locate package tool\n"


def fail_once(site: Site, *answers: tuple[str, int, bytes]) -> None:
    """Each command fails the first time that it is run."""
    left = {what: (status, b"", stderr) for what, status, stderr in answers}
    site.answer(lambda command: next((left.pop(what) for what in list(left) if what in command), None))


def test_archive_that_a_recipe_could_not_reach_is_asked_again_on_a_fresh_machine(site: Site) -> None:
    fail_once(site, ("apt-get install", 100, UNREACHABLE))
    [result] = site.bake()
    assert (result.outcome, result.attempts) == (Outcome.BAKED, 2)
    assert "Could not connect to deb.example:80" in site.notes[0]
    assert launches(site) == 3


def test_index_that_was_not_fetched_is_why_a_package_is_unknown(site: Site) -> None:
    fail_once(site, ("apt-get update", 0, IGNORED), ("apt-get install", 100, UNKNOWN))
    [result] = site.bake()
    assert (result.outcome, result.attempts) == (Outcome.BAKED, 2)


def test_package_that_is_not_there_is_asked_for_once(site: Site) -> None:
    fail_once(site, ("apt-get install", 100, MISSING))
    [result] = site.bake()
    assert (result.outcome, result.attempts, site.notes) == (Outcome.FAILED, 1, [])


# --- time limits ------------------------------------------------------------------------------------------


def test_recipe_that_hangs_is_ended_and_fails_alone(site: Site) -> None:
    site.recipe("slow", 'limits = { configure = "30m", launch = "1h" }')
    site.hang("apt-get update", 1801.0)
    (site.folder / "recipes/base/deploy.py").write_text("")  # it does not hang
    other, slow = site.bake(jobs=2)
    assert (other.outcome, other.image) == (Outcome.BAKED, "base:1")
    assert (slow.outcome, slow.attempts, site.notes) == (Outcome.FAILED, 1, [])
    assert str(slow.error) == (
        "configure took longer than 30m (limits.configure of slow)\n"
        "If it needs more time, raise limits.configure in slow's recipe.toml."
    )
    assert site.versions == ["base:1"]
    assert site.left == []


def test_machine_that_does_not_come_up_in_time_is_replaced_by_another(site: Site) -> None:
    site.settings = '[bake.limits]\nlaunch = "5m"\nconfigure = 60\n'
    site.hang(READY.decode(), 301.0)
    [result] = site.bake()
    assert (result.outcome, result.attempts) == (Outcome.BAKED, 2)
    assert site.notes == [
        "base: launch took longer than 5m (limits.launch of [bake]); trying again in 0 s, 1 of 2"
    ]
    assert launches(site) == 3


def test_processes_that_a_stage_waits_for_are_killed_and_the_next_try_starts_its_own(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.settings = '[bake.limits]\nlaunch = "5m"\n'
    launch, statuses = AwsProvider.launch, []

    def launch_slowly(*given: Any) -> Machine:
        if not statuses:
            site.now += 301.0
            statuses.append(subprocess.run(["sleep", "600"]).returncode)
        return launch(*given)

    monkeypatch.setattr(AwsProvider, "launch", launch_slowly)
    [result] = site.bake()
    assert (result.outcome, result.attempts) == (Outcome.BAKED, 2), result.error
    assert statuses == [-signal.SIGKILL]


def test_verifying_that_takes_too_long_registers_nothing_and_is_not_tried_again(site: Site) -> None:
    site.recipe(keys='limits = { verify = "10m" }')
    site.settings = '[bake.limits]\nverify = "1m"\n'
    site.hang(READY.decode(), 601.0, nth=2)
    [result] = site.bake()
    assert (result.outcome, result.attempts) == (Outcome.FAILED, 1)
    assert str(result.error).startswith("verify took longer than 10m (limits.verify of base)\n")
    assert site.versions == []
    assert [line for line in site.lab.holdings() if f"baker:bake={result.bake}" in line] == []


def test_bake_that_is_interrupted_while_its_stage_is_too_late_was_interrupted(site: Site) -> None:
    site.recipe(keys='limits = { configure = "30m" }')

    def interrupt(command: str) -> Answer:
        if "apt-get update" in command:
            site.now += 1801.0
            site.whole.end("interrupted by SIGINT")
            site.hung.wait()
        return None

    site.answer(interrupt)
    with pytest.raises(Interrupted, match="SIGINT"):
        site.bake()
    [ended] = [one for one in site.said if isinstance(one, BakeEnded)]
    assert ended.result.error == "interrupted by SIGINT"


def test_limits_hold_only_for_their_stages(site: Site) -> None:
    site.recipe(keys='limits = { seal = "1s", launch = 1 }')
    passing: dict[str, Any] = {"apt-get install": None}

    def take_long(command: str) -> Answer:
        for what in passing:
            if what in command:
                site.now += 7200.0
        return None

    site.answer(take_long)
    [result] = site.bake()
    assert (result.outcome, result.attempts) == (Outcome.BAKED, 1)
