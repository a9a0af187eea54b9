"""Applies one recipe with pyinfra, inside the sandbox: ``python -m baker.configurer.child``.

Reads the request (see ``parent``) from stdin, sends what happens over the socket, and prints for the log.
Does what the ``pyinfra`` command does with ``--yes``.
"""

from __future__ import annotations

import pyinfra_cli  # noqa: F401 - patches the standard library for gevent: nothing may come before  # isort: skip

import dataclasses
import errno
import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyinfra
from pyinfra.api.config import Config
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.operations import run_ops
from pyinfra.api.state import StateStage
from pyinfra.api.util import PYINFRA_INSTALL_DIR
from pyinfra.context import ctx_config, ctx_inventory, ctx_state
from pyinfra_cli.inventory import make_inventory
from pyinfra_cli.util import exec_file, load_deploy_file

import baker
from baker.configurer import connector
from baker.configurer.events import Prepared, write_event
from baker.configurer.failures import describe_failure
from baker.configurer.operations import OperationReporter, RecipeState
from baker.configurer.project import Project
from baker.configurer.redaction import Redactor
from baker.configurer.trace import Tracer
from baker.configurer.wire import MachineClient


def main() -> None:
    request = json.load(sys.stdin)
    client = MachineClient()
    project = Project(request["project"], [sys.prefix, sys.base_prefix, str(Path(baker.__file__).parent)])
    tracer = Tracer(project)
    state = RecipeState(project)
    reporter = OperationReporter(state, lambda event: client.send(write_event(event)))
    client.send({"kind": "started"})
    try:
        require_readable(request["deploy"], project)
        apply_recipe(request, state, reporter, tracer)
    except BaseException as error:
        tracer.stop()
        if reporter.failed:
            client.send(write_event(reporter.failed))
        else:
            failure = describe_failure(error, project, reporter.place)
            client.send({"kind": "failed", **dataclasses.asdict(failure)})
    else:
        client.send({"kind": "finished", "traced": tracer.list_inputs(), "opaque": tracer.opaque})
    # What the recipe left running (threads, greenlets) has no say any more.
    os._exit(0)


def require_readable(path: str, project: Project) -> None:
    """Raises PermissionError for the file or folder on the way that this user may not read."""
    barrier = project.find_barrier(path)
    if barrier is not None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), f"{project.root}/{barrier}")


def apply_recipe(
    request: Mapping[str, Any], state: RecipeState, reporter: OperationReporter, tracer: Tracer
) -> None:
    """Prepare and execute, in the order in which the ``pyinfra`` command does it."""
    started = time.monotonic()
    os.chdir(request["workdir"])
    state.cwd = str(Path.cwd())
    sys.path.append(state.cwd)
    set_up_pyinfra(state)
    reporter.watch_callbacks()
    connector.groups[:] = request["groups"]
    connector.redactor = Redactor(request["secrets"].values())
    os.environ.update(request["secrets"])

    tracer.start()
    config = Config()
    ctx_config.set(config)
    config_file = Path(state.cwd) / "config.py"
    if config_file.exists():
        exec_file(str(config_file))
    config.lock_current_state()
    data = {**request["data"], **request["secrets"]}
    inventory = make_inventory(f"@baker/{request['name']}", override_data=data, cwd=state.cwd)
    ctx_inventory.set(inventory)
    state.init(inventory, config)
    state.callback_handlers.append(reporter)
    state.set_stage(StateStage.Connect)
    connect_all(state)

    state.set_stage(StateStage.Prepare)
    load_deploy_file(state, os.path.relpath(request["deploy"]))
    config.reset_locked_state()
    [operations] = state.ops.values()
    reporter.send(Prepared(operations=len(operations), seconds=time.monotonic() - started))

    for meta in state.op_meta.values():
        # In this greenlet: another one would hand on a copy of a traceback, without what is in its frames.
        meta.global_arguments["_serial"] = True
    state.set_stage(StateStage.Execute)
    run_ops(state)
    state.set_stage(StateStage.Disconnect)
    disconnect_all(state)
    tracer.stop()


def set_up_pyinfra(state: RecipeState) -> None:
    pyinfra.is_cli = True
    ctx_state.set(state)
    # Commands and their output go into the log, facts do not.
    state.print_input = state.print_output = True
    handler = logging.StreamHandler()
    handler.addFilter(is_worth_logging)
    pyinfra.logger.addHandler(handler)
    pyinfra.logger.setLevel(logging.INFO)
    pyinfra.logger.propagate = False


def is_worth_logging(record: logging.LogRecord) -> bool:
    """Warnings, and what a recipe logs; what pyinfra says about its progress the parent says better."""
    if re.search(r"Error.*: executed \d+ commands\Z", record.getMessage()):
        return False
    return record.levelno >= logging.WARNING or not record.pathname.startswith(PYINFRA_INSTALL_DIR)


if __name__ == "__main__":
    main()
