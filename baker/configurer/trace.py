"""Sees what a recipe reads of its project while it runs, for the fingerprint. Child side.

Python's audit hooks tell of files that are opened and folders that are listed, ``looking`` of what is looked
at and not opened, and a finder of modules of those that would be imported in another one's place. None sees
what C code or a local subprocess reads: a recipe that starts one, or talks to anybody, is *opaque*. So is one
that reads the host's files, and one that uses a package which somebody develops beside the project: its
version says nothing.
"""

# Paths are text in this file: it works on what others pass to os.
# ruff: noqa: PTH109, PTH110, PTH112, PTH114, PTH115, PTH117, PTH118, PTH120

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib.metadata
import os
import shlex
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType
from typing import Any

import baker
from baker.configurer.looking import REAL, Ask, Lookups, is_path_module, module_of
from baker.configurer.project import Project
from baker.configurer.sandbox import find_linked_packages
from baker.project_files import source_of

IMPORT_SYSTEM = {
    "importlib",
    "_frozen_importlib",
    "_frozen_importlib_external",
    "importlib_metadata",
    "zipimport",
}
OURSELVES = {__name__, "baker.configurer.looking"}
UNASKED = {"inspect", "linecache", "baker.configurer.project"}
"""They look for the code of whatever is on the stack, wherever that was once compiled."""

KEEPERS_OF_TIMES = ("jinja2", "shutil")
"""They look at a file's time, and no recipe gets to know it: to compare it later, to give it to a copy."""

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
    "socket.gethostbyaddr": 0,
    "socket.getnameinfo": 0,
}
"""Where each has the address among its arguments."""

UNTOLD_EVENTS = {
    "sqlite3.connect": "opens a database",
    "ctypes.dlopen": "calls C code",
    "ctypes.dlsym": "calls C code",
    "os.getxattr": "reads extended attributes",
    "cpython.PyInterpreterState_New": "starts another interpreter",
}
"""What may read files and tells nobody."""

UNTOLD_MODULES = {"_dbm", "_gdbm", "_xxsubinterpreters", "apsw", "duckdb", "h5py", "lxml", "pygit2"}
"""Modules whose C code opens files itself."""

MAX_LINKS = 40
"""As many as Linux follows."""

IMPLIED = {"file": ("type", "size"), "entries": ("listing", "type"), "listing": ("type",), "size": ("type",)}
"""What need not be known of a path of which something else is known."""


class Tracer:
    """Collects from ``start`` to ``stop``. Hooks cannot be taken out again: one per process."""

    def __init__(self, project: Project) -> None:
        self.seen: set[tuple[str, str]] = set()
        self.opaque: str | None = None
        self._imported: set[str] = set()
        self._project = project
        self._active = False
        self._busy: set[int] = set()
        self._linked = tuple(f"{folder}/" for folder in find_linked_packages([project.root]))
        folders = (*sys.path, sys.prefix, os.path.dirname(baker.__file__))
        self._code = tuple(
            f"{folder}/" for folder in folders if not f"{project.root}/".startswith(f"{folder}/")
        )
        self._not_the_hosts = (*self._code, f"{tempfile.gettempdir()}/", "/proc/", "/dev/")
        self._handlers: dict[str, Callable[..., None]] = {
            "import": self._see_import,
            "open": self._see_open,
            "os.listdir": functools.partial(self._see_listing, "listing"),
            "os.scandir": functools.partial(self._see_listing, "entries"),
            "os.link": self._see_open,
            **dict.fromkeys(PROCESS_EVENTS, self._see_process),
            **dict.fromkeys(NETWORK_EVENTS, self._see_network),
            **dict.fromkeys(UNTOLD_EVENTS, self._see_untold),
        }

    def start(self) -> None:
        import _posixsubprocess

        sys.addaudithook(self._audit)
        Lookups(self._look, self._opening).install()
        sys.meta_path.insert(sys.meta_path.index(PathFinder), self)
        self._real_import, builtins.__import__ = builtins.__import__, self._import
        self._real_fork_exec, _posixsubprocess.fork_exec = _posixsubprocess.fork_exec, self._fork_exec
        self._active = True

    def stop(self) -> None:
        self._active = False

    def list_inputs(self) -> list[tuple[str, str]]:
        """(kind, path) of what was seen, and (``package``, NAME) of what the recipe imported, sorted.

        What follows from another one is left out: what a file holds says what it is.
        """
        foreign = self._imported - sys.stdlib_module_names - {"pyinfra"}  # that one is a tool
        homes = importlib.metadata.packages_distributions() if foreign else {}
        packages = {("package", home) for name in foreign for home in homes.get(name, ())}
        said = {(kind, path) for of, path in self.seen for kind in IMPLIED.get(of, ())}
        return sorted((self.seen - said) | packages)

    # --- what happens ------------------------------------------------------------------------------------

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if (handler := self._handlers.get(event)) is not None:
            self._attend(event, handler, event, arguments)

    def _look(self, kind: str, path: Any, dir_fd: int | None = None) -> Ask | None:
        if isinstance(path, str) and path.startswith(self._code):
            return None  # most of what is looked at
        ask: Ask | None = self._attend("a look", self._see_look, kind, path, dir_fd)
        return ask

    def _attend(self, what: str, see: Callable[..., Any], *arguments: Any) -> Any:
        """What seeing it comes to; None where it does not count, as all that we do ourselves."""
        if not self._active or threading.get_ident() in self._busy:
            return None
        with self._unseen():
            try:
                return see(*arguments)
            except Exception as error:  # it would come out of the recipe's own call
                self.opaque = self.opaque or f"{what} could not be traced: {error!r}"
        return None

    @contextlib.contextmanager
    def _unseen(self) -> Iterator[None]:
        thread = threading.get_ident()
        self._busy.add(thread)
        try:
            yield
        finally:
            self._busy.discard(thread)

    @contextlib.contextmanager
    def _opening(self, path: Any, dir_fd: int) -> Iterator[None]:
        """The audit hook would take the path for one that starts at the working directory."""
        self._attend("a look", self._see_opened, path, dir_fd)
        with self._unseen():
            yield

    def _see_look(self, kind: str, path: Any, dir_fd: int | None) -> Ask | None:
        asker = _find_asker()
        place = None if asker in UNASKED or _is_import(asker) else self._find_place(path, dir_fd)
        if place is None:
            return None
        self._add(kind, place)

        def ask(kind: str) -> None:
            if self._active and not (kind == "time" and asker.startswith(KEEPERS_OF_TIMES)):
                self._add(kind, place)

        return ask

    def _see_open(self, _event: str, arguments: tuple[Any, ...]) -> None:
        self._see_opened(arguments[0])

    def _see_opened(self, path: Any, dir_fd: int | None = None) -> None:
        text = self._find_text(path, dir_fd)
        if text is None or isinstance(path, int):  # what is open was opened
            return
        text = source_of(text)
        if text.startswith(self._code) and not text.startswith(self._linked):
            return  # most of what is opened
        place = self._find_place(text)
        try:
            is_folder = stat.S_ISDIR(REAL["stat"](text).st_mode)
        except OSError:
            if place is not None:
                self._add("absent", place)
            return
        if place is not None:
            self._add("type" if is_folder else "file", place)
        if not is_folder:
            self._see_outside("reads", text)

    def _see_listing(self, kind: str, _event: str, arguments: tuple[Any, ...]) -> None:
        if _is_import(_find_asker()):
            return  # the modules that are looked for count, not all that lies beside them
        path = "." if arguments[0] is None else arguments[0]
        if (text := self._find_text(path)) is None:
            return
        is_folder = os.path.isdir(text)
        if (place := self._find_place(path)) is not None:
            self._add(kind if is_folder else "type" if os.path.lexists(text) else "absent", place)
        if is_folder:
            self._see_outside("lists", text)

    def _see_outside(self, verb: str, path: str) -> None:
        """What belongs to the host is no input: nobody could tell whether it is what it was."""
        real = os.path.realpath(path)
        if path.startswith(self._linked) or real.startswith(self._linked):
            self._set_opaque(f"uses a package that is installed as a link: {path}")
        elif self._project.relative(real) is None and not f"{real}/".startswith(self._not_the_hosts):
            self._set_opaque(f"{verb} {path}, which is the host's")

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

    def _see_untold(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "ctypes.dlopen" or arguments[0] is not None:  # importing ctypes opens the program itself
            self._set_opaque(f"{UNTOLD_EVENTS[event]}, and what that reads cannot be told")

    def _fork_exec(self, *arguments: Any) -> Any:
        """What multiprocessing starts its processes by; no audit hook tells of it."""
        self._attend("a process", self._see_process, "fork_exec", ())
        return self._real_fork_exec(*arguments)

    # --- modules ----------------------------------------------------------------------------------------

    def _see_import(self, _event: str, arguments: tuple[Any, ...]) -> None:
        """Is told of modules that are not loaded yet, and of the files of those that are C code."""
        name, file = str(arguments[0]), arguments[1]
        if file is not None:
            self._see_opened(file)
        if name.partition(".")[0] in UNTOLD_MODULES:
            self._set_opaque(f"imports {name}, and what its C code reads cannot be told")
        frame = sys._getframe(3)
        while frame.f_back is not None and (_is_import(module_of(frame)) or module_of(frame) in OURSELVES):
            frame = frame.f_back
        self._see_imported(name, frame)

    def _import(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        """Audit hooks do not tell of a module that somebody else (pyinfra) has loaded before."""
        frame = sys._getframe(1)
        if level == 0 and not frame.f_code.co_filename.startswith(self._code):
            self._attend("an import", self._see_imported, name, frame)
        return self._real_import(name, globals, locals, fromlist, level)

    def _see_imported(self, name: str, frame: FrameType) -> None:
        """Only what the project's own files import: what a package needs is its own affair."""
        if self._project.code_file(frame.f_code.co_filename) is not None:
            self._imported.add(name.partition(".")[0])

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: Any = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        self._attend("an import", self._see_search, name, sys.path if path is None else path, spec)
        return spec

    def _see_search(self, name: str, folders: Iterable[str], spec: ModuleSpec | None) -> None:
        """What in the project would be found before what was found, if it were there."""
        tail = name.rpartition(".")[2]
        origin = spec.origin if spec is not None and spec.has_location else None
        for folder in folders:
            place = self._find_place(folder)
            candidates = [f"{folder}/{tail}/__init__.py", f"{folder}/{tail}.py"]
            if origin is None:
                candidates.append(f"{folder}/{tail}")  # a folder without __init__.py is a package, too
            for candidate in candidates if place is not None else ():
                if candidate == origin:
                    break
                self._add_path("type" if os.path.exists(candidate) else "absent", candidate)
            if origin is not None and origin.startswith((f"{folder}/{tail}.", f"{folder}/{tail}/")):
                self._add_path("type", origin)
                return

    # --- what is noted ------------------------------------------------------------------------------------

    def _set_opaque(self, what: str) -> None:
        if self.opaque is None:
            stacks = [sys._getframe(1), *sys._current_frames().values()]  # it may be done in another thread
            place = next(filter(None, map(self._project.locate, stacks)), None)
            self.opaque = f"{place[0]}:{place[1]} {what}" if place else f"it {what}"

    def _add_path(self, kind: str, path: str) -> None:
        if (place := self._find_place(path)) is not None:
            self._add(kind, place)

    def _add_way(self, folder: str) -> None:
        """A folder that is only gone through: it must be there, and where it leads matters."""
        self._add_path("type" if os.path.exists(folder) else "absent", folder)
        for _ in range(MAX_LINKS):
            self._add_path("link" if os.path.lexists(folder) else "absent", folder)
            if not os.path.islink(folder):
                break
            folder = os.path.join(os.path.dirname(folder), os.readlink(folder))

    def _add(self, kind: str, place: str) -> None:
        # pyinfra takes the inventory's name for a possible path; "<…>" is no file but code without one.
        if not place.startswith(("@baker", "<")) and (place != "." or kind in ("listing", "entries")):
            self.seen.add((kind, place))

    def _find_place(self, path: Any, dir_fd: int | None = None) -> str | None:
        """Where in the project a path is, or leads to; None for one that is and leads elsewhere."""
        text = self._find_text(path, dir_fd)
        if text is None:
            return None
        place = self._project.relative(text)
        if place is None and not text.startswith(self._code):
            place = self._project.relative(os.path.realpath(text))
        return place

    def _find_text(self, path: Any, dir_fd: int | None = None) -> str | None:
        """An absolute path, or None for what has none. ``..`` is followed as the system does."""
        if isinstance(path, int):
            return _path_of(path)
        text = os.fsdecode(path)
        folder = os.getcwd() if dir_fd is None or os.path.isabs(text) else _path_of(dir_fd)
        if folder is None:
            return None
        text = os.path.join(folder, text)
        if "/../" in f"{text}/":
            self._add_way(text[: f"{text}/".index("/../")])
            above, _, name = text.rstrip("/").rpartition("/")
            text = os.path.realpath(text) if name == ".." else f"{os.path.realpath(above)}/{name}"
        return text


def _path_of(descriptor: int) -> str | None:
    """What an open file's number stands for; None for what is no path. Raises OSError."""
    if sys.platform == "darwin":
        import fcntl

        return os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).partition(b"\0")[0])
    text = str(REAL["readlink"](f"/proc/self/fd/{descriptor}"))
    return text if text.startswith("/") else None


def _find_asker() -> str:
    """The module that wants to know: not the one of the standard library that looks for it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (
        is_path_module(name := module_of(frame)) or name in OURSELVES or name == "contextlib"
    ):
        frame = frame.f_back
    return module_of(frame)


def _is_import(module: str) -> bool:
    return module.partition(".")[0] in IMPORT_SYSTEM and not module.startswith("importlib.resources")
