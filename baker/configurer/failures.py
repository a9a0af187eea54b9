"""What went wrong in a recipe, in the recipe's own terms: its file, its line, its words. Child side."""

from __future__ import annotations

import errno
import os
import socket
import sys
import traceback
from dataclasses import dataclass
from types import FrameType

import jinja2
from pyinfra.api.exceptions import PyinfraError
from pyinfra_cli.exceptions import UnexpectedExternalError

from baker.configurer.project import Project

NO_NETWORK = {errno.ENETUNREACH, errno.EHOSTUNREACH}
Frames = list[tuple[FrameType, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """``file`` starts at the project's root; so does ``unreadable``, which this user may not read."""

    message: str
    file: str | None
    line: int | None
    unreadable: str | None = None


def describe_failure(error: BaseException, project: Project, place: tuple[str, int] | None = None) -> Failure:
    """The failure that an exception means. ``place`` is the recipe's line if the traceback does not tell."""
    while isinstance(error, UnexpectedExternalError):  # one for each file that includes another
        error = error.exception
    if isinstance(error, SyntaxError) and error.filename and (file := project.relative(error.filename)):
        return Failure(message=f"{type(error).__name__}: {error.msg}", file=file, line=error.lineno)
    frames = list(traceback.walk_tb(error.__traceback__))
    if isinstance(error, PyinfraError) and isinstance(error.__context__, jinja2.TemplateError):
        error = error.__context__
        frames += traceback.walk_tb(error.__traceback__)
    message = f"{_say(error, project)}{_explain_limit(error)}"
    found = _find_place(frames, project)
    if found and place and _is_template(frames):
        message += f" (asked for by {place[0]}:{place[1]})"
    file, line = found or place or (None, None)
    return Failure(message=message, file=file, line=line, unreadable=_find_barrier(error, project))


def _find_barrier(error: BaseException, project: Project) -> str | None:
    """Python says "not found" of what lies in a folder that it may not read."""
    path = None
    if isinstance(error, PermissionError):
        path = error.filename
    elif isinstance(error, jinja2.TemplateNotFound):
        path = error.name
    elif isinstance(error, ModuleNotFoundError) and error.name:
        path = f"{project.root}/{error.name.replace('.', '/')}"
    return project.find_barrier(path) if isinstance(path, str) else None


def _say(error: BaseException, project: Project) -> str:
    if isinstance(error, SystemExit):
        return f"the recipe ended its own process: sys.exit({error.code!r})"
    if isinstance(error, jinja2.TemplateNotFound):
        return f"template {error.name} not found"
    if isinstance(error, PyinfraError | jinja2.TemplateError):
        return str(error)
    if isinstance(error, OSError) and isinstance(error.filename, str | os.PathLike):
        path = os.fspath(error.filename)
        return f"{project.relative(path) or path}: {error.strerror}"
    return "".join(traceback.format_exception_only(error)).strip()


def _explain_limit(error: BaseException) -> str:
    """What of the sandbox is behind an error that does not tell; nothing if nothing is."""
    if isinstance(error, ModuleNotFoundError):
        return f": it is neither in the folder where paths start nor installed in {sys.prefix}"
    if isinstance(error, KeyError) and _is_raised_in(error, os._Environ):
        return " (no such variable: name it in recipe.toml, in environment or secrets)"
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    codes = {cause.errno for cause in causes if isinstance(cause, OSError)}
    if codes & NO_NETWORK or any(isinstance(cause, socket.gaierror) for cause in causes):
        return " (a recipe's own process has no network: fetch in the machine, as files.download does)"
    if errno.EROFS in codes:
        return " (a recipe's own process cannot write here, only in /tmp)"
    return ""


def _is_raised_in(error: BaseException, kind: type) -> bool:
    """Whether a method of such an object raised it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and isinstance(frames[-1].f_locals.get("self"), kind)


def _find_place(frames: Frames, project: Project) -> tuple[str, int] | None:
    """The innermost line of the project, be it Python or a template."""
    for frame, line in reversed(frames):
        name: str | None = frame.f_code.co_filename
        if _is_template([(frame, line)]) and name in ("<template>", "<unknown>"):
            name = _find_rendered(frames)  # pyinfra gives jinja the text alone
        if name and (file := project.code_file(name)) is not None:
            return file, line
    return None


def _is_template(frames: Frames) -> bool:
    """Whether the innermost lines are a template's: jinja puts its own frames in."""
    return any("__jinja_exception__" in frame.f_globals for frame, _ in frames)


def _find_rendered(frames: Frames) -> str | None:
    """The file that files.template was asked to render; None if it was a text."""
    for frame, _ in reversed(frames):
        if frame.f_code.co_filename.endswith("pyinfra/operations/files.py"):
            source = frame.f_locals.get("src")
            if isinstance(source, str):
                return source
    return None
