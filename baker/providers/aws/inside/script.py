"""Packs modules of ``sent/`` into one script, and runs nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from baker.providers.protocol import CommandResult

INTERPRETER = (
    "sh",
    "-c",
    'exec "$(command -v python3 || echo /usr/libexec/platform-python)" -I -B -',
)
"""Runs the script on its stdin. cloud-init is written in Python: what it set up has one of them."""

_PACKAGE = "baker.providers.aws.inside.sent"
_START = """\
import json, sys, types
sources, last, parameters = json.loads({text})
for name, source in sources:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, name, "exec"), module.__dict__)
sys.modules[last].main(**parameters)
"""


def build_script(modules: Sequence[str], parameters: Mapping[str, Any]) -> bytes:
    """Defines the modules, in this order, and calls ``main`` of the last with the parameters."""
    sources = [
        (f"{_PACKAGE}.{name}", files(_PACKAGE).joinpath(f"{name}.py").read_text("utf-8")) for name in modules
    ]
    return _START.format(text=repr(json.dumps([sources, sources[-1][0], dict(parameters)]))).encode()


def explain_failure(result: CommandResult) -> str:
    """Why a script has no answer."""
    lines = result.stderr.decode(errors="replace").strip().splitlines()
    return f"exit status {result.exit_status}" + (f", {lines[-1][:500]}" if lines else "")
