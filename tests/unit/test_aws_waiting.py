"""Waiting for AWS: by what it took before, where that is known."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from baker.errors import CloudError
from baker.providers.aws.experience import KEPT, Experience
from baker.providers.aws.waiting import LATER, SOON, Pace, wait_for


class Time(threading.Event):
    """Seconds that pass by waiting alone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.looks: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0.0
        return False

    def wait_until(
        self,
        due: float,
        experience: Experience,
        *,
        pace: Pace = SOON,
        seconds: float = 600.0,
        at_once: bool = False,
    ) -> float:
        """How late it was seen that something was there after ``due`` seconds."""
        started, self.looks = self.now, []

        def ask() -> bool | None:
            self.looks.append(self.now - started)
            return True if self.now - started >= due else None

        wait_for(
            ask,
            seconds=seconds,
            pace=pace,
            what=lambda: "it is not there",
            cancel=self,
            clock=lambda: self.now,
            at_once=at_once,
            usual=experience.of("image", "eu-west-1"),
        )
        return self.now - started - due


def test_second_wait_of_a_kind_looks_when_it_is_about_due():
    time, experience = Time(), Experience()
    time.wait_until(60.0, experience, pace=LATER)
    late = time.wait_until(60.0, experience, pace=LATER)
    for _ in range(KEPT):
        late = time.wait_until(60.0, experience, pace=LATER)
    assert late < 5.0
    assert len(time.looks) <= 6


def test_what_takes_less_than_before_is_waited_for_less_and_less():
    time, experience = Time(), Experience()
    time.wait_until(120.0, experience)
    lates = [time.wait_until(30.0, experience) for _ in range(20)]
    assert lates[0] > 60.0
    assert lates[-1] < 10.0


def test_what_takes_longer_than_before_is_looked_for_until_its_deadline():
    time, experience = Time(), Experience()
    time.wait_until(10.0, experience)
    assert time.wait_until(100.0, experience) < 6.0
    with pytest.raises(CloudError, match="it is not there after 50 s"):
        time.wait_until(100.0, experience, seconds=50.0)


def test_first_look_is_never_later_than_the_deadline():
    time, experience = Time(), Experience()
    time.wait_until(300.0, experience)
    with pytest.raises(CloudError):
        time.wait_until(300.0, experience, seconds=20.0)
    assert time.looks[0] <= 21.0


def test_what_was_there_at_once_teaches_nothing():
    time, experience = Time(), Experience()
    time.wait_until(0.0, experience, at_once=True)
    assert experience.of("image", "eu-west-1").seconds == 0.0


def test_regions_and_kinds_are_apart():
    experience = Experience()
    experience.of("image", "eu-west-1").note(60.0, at_first_look=False)
    assert experience.of("image", "us-east-1").seconds == 0.0
    assert experience.of("stop", "eu-west-1").seconds == 0.0


def test_experience_outlives_the_process(tmp_path: Path):
    file = tmp_path / "aws" / "waits.json"
    Experience(file).of("stop", "eu-west-1").note(20.0, at_first_look=False)
    assert 19.0 < Experience(file).of("stop", "eu-west-1").seconds < 20.0


@pytest.mark.parametrize("text", ["", "[]", "{", '{"stop eu-west-1": 3}', '{"stop eu-west-1": ["a"]}'])
def test_experience_that_cannot_be_read_counts_for_nothing(tmp_path: Path, text: str):
    file = tmp_path / "waits.json"
    file.write_text(text)
    assert Experience(file).of("stop", "eu-west-1").seconds == 0.0
    Experience(file).of("stop", "eu-west-1").note(20.0, at_first_look=False)
    assert Experience(file).of("stop", "eu-west-1").seconds > 0.0


def test_experience_that_cannot_be_written_does_no_harm(tmp_path: Path):
    (tmp_path / "aws").write_text("a file")
    Experience(tmp_path / "aws" / "waits.json").of("stop", "eu-west-1").note(20.0, at_first_look=False)
