"""Runs a recipe's image tests with pytest and testinfra, inside the sandbox.

``python -m baker.configurer.test_child``. Reads the request (see ``image_tests``) from stdin and sends each
test's outcome over the socket; what pytest prints goes to the log.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import pytest

import baker
from baker.configurer.events import Event, ImageTestEnded, ImageTestStarted, write_event
from baker.configurer.project import Project
from baker.configurer.wire import MachineClient

MESSAGE_LINES = 6

Report = TypeVar("Report")
Wrapper = Generator[None, Report, Report]
"""A hook around pytest's own: it is given what that returned."""


class Reporter:
    """A plugin of pytest: tells of each test when it starts and when all of it, fixtures too, is over."""

    def __init__(self, project: Project, folder: str, host: str, send: Callable[[Event], None]) -> None:
        self._project = project
        self._folder = folder
        self._host = host
        self._send = send
        self._reports: list[tuple[pytest.TestReport, BaseException | None]] = []

    def pytest_configure(self) -> None:
        import testinfra.backend

        testinfra.backend.BACKENDS["machine"] = "baker.configurer.testinfra_backend.MachineBackend"

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._reports = []
        self._send(ImageTestStarted(name=self._name(nodeid)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[Any]) -> Wrapper[pytest.TestReport]:
        report = yield
        self._reports.append((report, call.excinfo.value if call.excinfo else None))
        return report

    def pytest_runtest_logfinish(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        outcome, error = "passed", None
        for report, raised in self._reports:
            if report.failed:
                outcome, error = "failed" if report.when == "call" else "error", raised
                break
            if report.skipped:
                outcome, error = "skipped", raised
        seconds = sum(report.duration for report, _ in self._reports)
        file, line = self._project.relative(str(Path(self._folder, location[0]))), location[1]
        place = (file, line + 1) if file and line is not None else None
        self._send_end(self._name(nodeid), outcome, seconds, error, place)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Wrapper[pytest.CollectReport]:
        report = yield
        call = report.__dict__.get("call")
        if report.failed and call is not None:
            error = call.excinfo.value
            self._send_end(self._name(collector.nodeid), "error", 0.0, error.__cause__ or error)
        return report

    def _name(self, nodeid: str) -> str:
        """Without the parameter that testinfra adds: there is one machine."""
        return nodeid.replace(f"[{self._host}]", "").replace(f"[{self._host}-", "[")

    def _send_end(
        self,
        name: str,
        outcome: str,
        seconds: float,
        error: BaseException | None,
        place: tuple[str, int] | None = None,
    ) -> None:
        message = "\n".join(_say(error).splitlines()[:MESSAGE_LINES]) if error else ""
        file, line = (error and self._project.locate_error(error)) or place or (None, None)
        self._send(
            ImageTestEnded(name=name, outcome=outcome, seconds=seconds, message=message, file=file, line=line)
        )


def _say(error: BaseException) -> str:
    if isinstance(error, AssertionError | pytest.skip.Exception | pytest.fail.Exception):
        return str(error) or type(error).__name__
    if isinstance(error, pytest.FixtureLookupError):
        return f"fixture {error.argname!r} not found"
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return "".join(traceback.format_exception_only(error)).strip()


def main() -> None:
    request = json.load(sys.stdin)
    client = MachineClient()
    project = Project(request["project"], [sys.prefix, sys.base_prefix, str(Path(baker.__file__).parent)])
    host = f"machine://{request['name']}"
    reporter = Reporter(project, request["folder"], host, lambda event: client.send(write_event(event)))
    # Plugins that happen to be installed are slow to load, and no part of the recipe.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    client.send({"kind": "started"})
    os.chdir(request["workdir"])
    status = pytest.main(
        [
            # Nothing of the project's own pytest settings, but the recipe folder's conftest.py.
            *("-c", os.devnull, "--rootdir", request["folder"], "--confcutdir", request["folder"]),
            *("-p", "no:cacheprovider", "-p", "testinfra.plugin", "--hosts", host),
            *("-q", "--no-header", "--tb=short", "--color=no"),
            *request["files"],
        ],
        plugins=[reporter],
    )
    client.send({"kind": "finished", "status": int(status)})
    os._exit(0)


if __name__ == "__main__":
    main()
