"""Sees what a recipe reads of its project while it runs, for the fingerprint. Child side.

Python's audit hooks tell of files that are opened and folders that are listed. What is looked for and not
there is seen by ``os.stat`` (``Path.exists``, a template loader) and by a last finder of modules. Neither
sees what C code or a local subprocess reads: a recipe that starts one, or talks to anybody, is *opaque*. So
is one that uses a package which somebody develops beside the project: its version says nothing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import stat
import sys
from collections.abc import Callable, Sequence
from typing import Any

from baker.configurer.project import Project
from baker.configurer.sandbox import find_linked_packages

IMPORT_SYSTEM = {"importlib", "_frozen_importlib_external", "importlib_metadata"}
SOURCE_READERS = {"inspect", "linecache"}
"""They look for the code of whatever is on the stack, wherever that was once compiled."""

PROCESS_EVENTS = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
}
NETWORK_EVENTS = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
}
"""Where each has the address among its arguments."""

_real_stat = os.stat


class Tracer:
    """Collects from ``start`` to ``stop``. Hooks cannot be taken out again: one per process."""

    def __init__(self, project: Project) -> None:
        self.seen: set[tuple[str, str]] = set()
        self.opaque: str | None = None
        self._imported: set[str] = set()
        self._project = project
        self._active = False
        self._linked = tuple(f"{folder}/" for folder in find_linked_packages([project.root]))
        self._handlers: dict[str, Callable[[str, tuple[Any, ...]], None]] = {
            "import": self._see_import,
            "open": self._see_open,
            "os.listdir": self._see_listing,
            "os.scandir": self._see_listing,
            **dict.fromkeys(PROCESS_EVENTS, self._see_process),
            **dict.fromkeys(NETWORK_EVENTS, self._see_network),
        }

    def start(self) -> None:
        sys.addaudithook(self._audit)
        os.stat = self._stat
        sys.meta_path.append(self)
        self._active = True

    def stop(self) -> None:
        self._active = False

    def list_inputs(self) -> list[tuple[str, str]]:
        """(kind, path) of what was seen, and (``package``, NAME) of what the recipe imported, sorted."""
        foreign = self._imported - sys.stdlib_module_names - {"pyinfra"}  # that one is a tool
        homes = importlib.metadata.packages_distributions() if foreign else {}
        packages = {("package", home) for name in foreign for home in homes.get(name, ())}
        return sorted(self.seen | packages)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._active and (handler := self._handlers.get(event)) is not None:
            try:
                handler(event, arguments)
            except Exception as error:  # it would come out of the recipe's own call
                self.opaque = self.opaque or f"{event} could not be traced: {error!r}"

    def _see_open(self, _event: str, arguments: tuple[Any, ...]) -> None:
        path = _text(arguments[0])
        if path is None:
            return
        if path.endswith(".pyc") and "__pycache__" in path:
            path = importlib.util.source_from_cache(path)  # of the module, which is only looked at
        try:
            found = _real_stat(path)
        except OSError:
            self._note("absent", path)
        else:
            if not stat.S_ISDIR(found.st_mode):
                self._note("file", path)

    def _see_import(self, _event: str, arguments: tuple[Any, ...]) -> None:
        """Only what the project's own files import: what a package needs is its own affair."""
        frame = sys._getframe(2)
        while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if self._project.code_file(frame.f_code.co_filename) is not None:
            self._imported.add(str(arguments[0]).partition(".")[0])

    def _see_listing(self, _event: str, arguments: tuple[Any, ...]) -> None:
        caller = str(sys._getframe(2).f_globals.get("__name__"))
        if caller.partition(".")[0] in IMPORT_SYSTEM:
            return  # the modules that are looked for count, not all that lies beside them
        path = "." if arguments[0] is None else _text(arguments[0])
        if path is not None:
            self._note("listing", path)

    def _see_process(self, event: str, arguments: tuple[Any, ...]) -> None:
        command = arguments[1] if event == "subprocess.Popen" else arguments[0] if arguments else ""
        if isinstance(command, list | tuple):
            command = shlex.join(map(str, command))
        if isinstance(command, bytes):
            command = os.fsdecode(command)
        self._set_opaque(f"starts a local process: {command}" if command else "starts a local process")

    def _see_network(self, event: str, arguments: tuple[Any, ...]) -> None:
        address = arguments[NETWORK_EVENTS[event]]
        if address is not None:  # else it was connected before
            self._set_opaque(f"uses the network: {address}")

    def _set_opaque(self, what: str) -> None:
        if self.opaque is None:
            place = self._project.locate(sys._getframe(1))
            self.opaque = f"{place[0]}:{place[1]} {what}" if place else f"it {what}"

    def _note(self, kind: str, path: str) -> None:
        relative = self._project.relative(path)
        if kind == "file" and relative is None and path.startswith(self._linked):
            self._set_opaque(f"uses a package that is installed as a link: {path}")
        # pyinfra takes the inventory's name for a possible path; "<…>" is no file but code without one.
        if relative is not None and not relative.startswith(("@baker", "<")):
            self.seen.add((kind, relative))

    def _stat(self, path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        try:
            return _real_stat(path, *args, **kwargs)
        except OSError:
            text = _text(path)
            callers = {sys._getframe(depth).f_globals.get("__name__") for depth in (1, 2)}
            if callers & SOURCE_READERS:
                text = None
            if self._active and text is not None and kwargs.get("dir_fd") is None:
                self._note("absent", text)
            raise

    def find_spec(self, name: str, path: Sequence[str] | None, _target: object = None) -> None:
        """The last finder: nobody had this module, so adding it to the project would change something."""
        if self._active:
            tail = name.rpartition(".")[2]
            for folder in sys.path if path is None else path:
                self._note("absent", f"{folder}/{tail}.py")
                self._note("absent", f"{folder}/{tail}/__init__.py")


def _text(path: Any) -> str | None:
    """None for what is no path: an open file's number."""
    return os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else None
