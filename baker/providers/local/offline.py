"""apt in machines that have no network."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

OFFLINE_METHOD = Path(__file__).with_name("offline_method.sh")


def place_offline_method(folder: Path) -> Path:
    """A copy, in ``folder``, that can be executed: packages of Python files do not keep the mode."""
    path = folder / OFFLINE_METHOD.name
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}")
    shutil.copyfile(OFFLINE_METHOD, new)
    new.chmod(0o755)
    new.replace(path)
    return path
