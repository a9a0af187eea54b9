"""Waiting for the host's processes."""

from __future__ import annotations

import subprocess

import pytest

from baker.providers.local.host import wait_for_exit


def test_a_process_that_ends_in_time_gives_its_exit_status():
    with subprocess.Popen(["sh", "-c", "sleep 0.05; exit 3"]) as process:
        assert wait_for_exit(process, 60.0) == 3


def test_a_process_that_has_ended_before_gives_its_exit_status():
    with subprocess.Popen(["sh", "-c", "exit 4"]) as process:
        process.wait()
        assert wait_for_exit(process, 60.0) == 4


def test_without_a_time_limit_it_is_waited_for():
    with subprocess.Popen(["sh", "-c", "exit 5"]) as process:
        assert wait_for_exit(process, None) == 5


@pytest.mark.parametrize("timeout", [0.0, 0.05])
def test_a_process_that_runs_longer_is_left_running(timeout):
    with subprocess.Popen(["sleep", "60"]) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            wait_for_exit(process, timeout)
        assert process.poll() is None
        process.kill()
