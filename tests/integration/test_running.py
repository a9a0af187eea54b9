"""Ending bakes one by one or all together, turns between processes, and who is speaking on the screen."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from baker import identity
from baker.cancelling import heeding_cancel, request_cancel
from baker.cli.running import name_works, read_log
from baker.errors import BakerError, CommandFailed, HostError, Interrupted
from baker.interrupt import Interruption
from baker.model import BakeRecord, Stage
from baker.progress import BakeStarted, Note, StageEnded, StageStarted
from baker.progress_console import ProgressConsole
from baker.providers.local.store import Store
from tests.factories import NOON


class Refused(Exception):
    pass


def refuse() -> None:
    raise Refused


def test_part_ends_alone_or_with_the_whole() -> None:
    whole = Interruption()
    one, other = whole.part(), whole.part()
    one.end("cancelled by ann")
    assert (one.cancel.is_set(), other.cancel.is_set(), whole.cancel.is_set()) == (True, False, False)
    with pytest.raises(Interrupted, match="cancelled by ann"):
        one.check()
    other.check()
    whole.end("interrupted by SIGINT")
    with pytest.raises(Interrupted, match="interrupted by SIGINT"):
        other.check()
    with pytest.raises(Interrupted):
        whole.part().check()


def test_signal_ends_every_part_and_a_shield_holds_it_back() -> None:
    whole = Interruption()
    part = whole.part()
    with whole.installed(), whole.shielded():
        signal.raise_signal(signal.SIGTERM)
        assert part.cancel.is_set()
    with pytest.raises(Interrupted, match="SIGTERM"):
        whole.check()


def test_first_signal_after_something_else_ended_the_work_still_lets_it_clean_up() -> None:
    whole = Interruption()
    with whole.installed():
        whole.end("somebody else took the lock nightly")
        with whole.shielded():
            signal.raise_signal(signal.SIGTERM)  # as a second one it would end this process
        whole = Interruption()
    with whole.installed():
        whole.end("somebody else took the lock nightly")
        with pytest.raises(Interrupted, match="somebody else took the lock"):
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture(params=[signal.SIG_DFL, signal.SIG_IGN])
def hanging_up(request: pytest.FixtureRequest) -> Iterator[signal.Handlers]:
    """What whoever started us has decided about closed terminals; nohup ignores them."""
    before = signal.signal(signal.SIGHUP, request.param)
    yield request.param
    signal.signal(signal.SIGHUP, before)


def test_closed_terminal_interrupts_once_except_under_nohup(hanging_up: signal.Handlers) -> None:
    whole = Interruption()
    with whole.installed(), whole.shielded():
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)  # of the shell, then of the kernel: a second Ctrl-C would end us
    assert whole.cancel.is_set() is (hanging_up is signal.SIG_DFL)


def test_progress_that_nobody_reads_any_more_stops_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as err:  # noqa: PTH123 - a descriptor
        console = ProgressConsole(err=err)
        console.say("to nobody")
        console.say("to nobody")


def test_what_breaking_off_made_fail_is_called_an_interruption() -> None:
    part = Interruption()
    failure = CommandFailed("mkfs.erofs failed", exit_status=-9)
    assert part.explain(failure) is failure
    part.end("cancelled by ann")
    explained: BakerError = part.explain(failure)
    assert isinstance(explained, Interrupted)
    assert str(explained) == "cancelled by ann"


def test_request_ends_the_bake_and_what_its_thread_waits_for(tmp_path: Path) -> None:
    part, bystander = Interruption(), subprocess.Popen(["sleep", "600"])
    statuses = []

    def wait_for_long() -> None:
        with identity.alive(tmp_path, "B1"), heeding_cancel(tmp_path, "B1", part):
            statuses.append(subprocess.run(["sleep", "600"]).returncode)

    thread = threading.Thread(target=wait_for_long)
    thread.start()
    while not identity.is_alive(tmp_path, "B1"):
        time.sleep(0.01)
    request_cancel(tmp_path, "B1", "ann")
    thread.join(30)
    assert statuses == [-signal.SIGKILL]
    with pytest.raises(Interrupted, match="cancelled by ann"):
        part.check()
    assert list(identity.bakes_folder(tmp_path).iterdir()) == []
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_shielded_thread_is_not_broken_off() -> None:
    part = Interruption()
    with subprocess.Popen(["sleep", "600"]) as child:
        part.break_off(threading.get_native_id())
        assert child.poll() is None, "nothing has ended yet"
        part.end("cancelled by ann")
        with part.shielded():
            part.break_off(threading.get_native_id())
            assert child.poll() is None
        part.break_off(threading.get_native_id())
        assert child.wait(30) == -signal.SIGKILL


def test_cancelling_where_one_may_not_write_says_so(tmp_path: Path) -> None:
    (tmp_path / "bakes").write_text("in the way")
    with pytest.raises(HostError, match=r"B1\.cancel cannot be written"):
        request_cancel(tmp_path, "B1", "ann")


def test_turn_is_one_at_a_time_for_threads_and_processes_and_ends_with_them(tmp_path: Path) -> None:
    with identity.in_turn(tmp_path, "web", refuse):
        with identity.in_turn(tmp_path, "base", refuse):
            pass
        with pytest.raises(Refused), identity.in_turn(tmp_path, "web", refuse):
            pass
    script = f"""
from pathlib import Path
from baker import identity
with identity.in_turn(Path({str(tmp_path)!r}), "web", lambda: None):
    print("mine", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(Refused), identity.in_turn(tmp_path, "web", refuse):
            pass
        process.kill()
    with identity.in_turn(tmp_path, "web", refuse):
        pass


def test_what_two_bakes_came_to_stays_until_both_have_given_it_up(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create()
    artifact = store.write_artifact([], {"bake": "B1"})
    assert store.write_artifact([], {"bake": "B2"}) == artifact
    store.delete_captures("B1")
    assert store.has_artifact(artifact)
    store.delete_captures("B2")
    assert not store.has_artifact(artifact)


def make_record(log: Path) -> BakeRecord:
    return BakeRecord(
        id="B1",
        recipe="web",
        target="local",
        arch="x86_64",
        actor="ann",
        host=identity.host_name(),
        pid=1,
        started=NOON,
        finished=None,
        outcome=None,
        image=None,
        error=None,
        stages=(),
        log_path=str(log),
    )


def test_followed_log_is_whole_though_it_is_written_in_pieces(tmp_path: Path) -> None:
    log = tmp_path / "B1.log"
    log.write_text("one\ntw")
    pieces = ["o\n", "", "thr", "ee\nlast"]

    def has_ended() -> bool:
        if not pieces:
            return True
        with log.open("a") as file:
            file.write(pieces.pop(0))
        return False

    assert list(read_log(make_record(log), has_ended)) == ["one", "two", "three", "last"]


def test_bakes_are_named_by_what_tells_them_apart() -> None:
    local = make_record(Path("/nowhere"))
    aws, arm = replace(local, target="aws"), replace(local, target="aws", arch="arm64")
    assert name_works([local])(local) == "web"
    show = name_works([local, aws])
    assert (show(local), show(aws)) == ("web/local", "web/aws")
    show = name_works([local, aws, arm])
    assert (show(local), show(arm)) == ("web/local", "web/aws/arm64")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def started(recipe: str) -> StageStarted:
    return StageStarted(bake="B1", recipe=recipe, stage=Stage.CONFIGURE)


def ended(recipe: str) -> StageEnded:
    return StageEnded(
        bake="B1", recipe=recipe, stage=Stage.CONFIGURE, seconds=1.0, failed=False, detail="one\ntwo"
    )


def test_each_line_of_several_bakes_begins_with_its_recipe() -> None:
    screen = io.StringIO()
    console = ProgressConsole(err=screen, out=io.StringIO(), environ={}, several=True)
    console.show(ended("web"))
    console.show(Note(text="of nobody"))
    assert screen.getvalue().splitlines() == ["web |   configure    1.00 s  one", "web | two", "of nobody"]


def test_bakes_of_one_recipe_for_several_targets_are_told_apart() -> None:
    screen = io.StringIO()
    console = ProgressConsole(err=screen, out=io.StringIO(), environ={}, several=True)
    for bake, target in (("B1", "local"), ("B2", "aws")):
        console.show(
            BakeStarted(bake=bake, recipe="web", target=target, arch="arm64", reasons=(), log="/nowhere")
        )
    for bake in ("B1", "B2"):
        console.show(
            StageEnded(bake=bake, recipe="web", stage=Stage.SEAL, seconds=1.0, failed=False, detail="")
        )
    assert [line.partition(" | ")[0].strip() for line in screen.getvalue().splitlines()[-2:]] == [
        "web",
        "web/aws/arm64",
    ]


def test_line_of_one_bake_begins_with_nothing() -> None:
    screen = io.StringIO()
    ProgressConsole(err=screen, out=io.StringIO(), environ={}).show(ended("web"))
    assert screen.getvalue().splitlines()[0] == "  configure    1.00 s  one"


def test_moving_line_shows_every_bake_that_runs() -> None:
    screen = Terminal()
    console = ProgressConsole(err=screen, out=io.StringIO(), environ={"NO_COLOR": "1"}, several=True)
    console.show(started("base"))
    console.show(started("web"))
    assert screen.getvalue().endswith("\r\x1b[Kbase configure …  ·  web configure …")
    console.show(ended("base"))
    assert screen.getvalue().endswith("base | two\nweb configure …")
