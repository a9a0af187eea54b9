"""Applies a recipe to a machine with pyinfra, and image tests with testinfra, in a sandboxed child process.

The parent side (``parent``, ``image_tests``) never imports pyinfra, testinfra or the recipe; the child side
(``child``, ``test_child``) never enters the machine: it asks the parent to, over one socket (``wire``).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baker.configurer.image_tests import TestRecord, TestReport, run_image_tests, tests_child_spec
    from baker.configurer.parent import (
        Configured,
        ConfigureRequest,
        OperationRecord,
        TracedInput,
        child_spec,
        configure,
    )
    from baker.configurer.process import Standby

__all__ = [
    "ConfigureRequest",
    "Configured",
    "OperationRecord",
    "Standby",
    "TestRecord",
    "TestReport",
    "TracedInput",
    "child_spec",
    "configure",
    "run_image_tests",
    "tests_child_spec",
]

HOMES = {
    "Standby": "process",
    "TestRecord": "image_tests",
    "TestReport": "image_tests",
    "run_image_tests": "image_tests",
    "tests_child_spec": "image_tests",
}


def __getattr__(name: str) -> Any:
    # Not before they are asked for: a child must not import the parent's side before gevent patched the
    # standard library, nor a command that only shows things import either.
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    home = HOMES.get(name, "parent")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
