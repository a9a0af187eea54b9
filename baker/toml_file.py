"""TOML that people write: read strictly, checked against a schema, every problem with its file and line.

``tomllib`` gives no positions, so the line of a key is looked up by a second, tolerant reading of the
text, made only when there is something to say. Schemas are the part of JSON Schema that we need
(``type``, ``properties``, ``additionalProperties``, ``required``, ``items``, ``pattern``,
``exclusiveMinimum`` and with it ``exclusiveMaximum``, ``anyOf``), so that the same table serves editors. A
schema's ``title`` is said to the user: "must be TITLE".
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KeyPath = tuple[str | int, ...]
Schema = Mapping[str, Any]

TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Problem:
    """One thing that is wrong in a file. ``line`` and ``column`` count from 1; None where unknown."""

    file: str
    line: int | None = None
    column: int | None = None
    message: str

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        return f"{place}: {self.message}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A TOML file that parsed. ``file`` is the name to show, relative to the project."""

    file: str
    text: str
    values: Mapping[str, Any]
    _lines: dict[KeyPath, int] = field(default_factory=dict)

    def line(self, path: KeyPath) -> int:
        """The line of a key, of its table where the key is not there, else 1."""
        if not self._lines:
            self._lines.update(locate_keys(self.text))
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def problem(self, path: KeyPath, message: str) -> Problem:
        return Problem(file=self.file, line=self.line(path), message=message)


def read_document(path: Path, project: Path) -> Document | Problem:
    """Parse a TOML file; what stands in the way is returned, with line and column for bad syntax."""
    file = str(path.relative_to(project))
    try:
        with open(path, "rb", buffering=0) as opened:  # noqa: PTH123 - a third of the time, and there are many
            text = opened.read().decode("utf-8")
    except OSError as error:
        return Problem(file=file, message=f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return Problem(file=file, line=line, message="is not UTF-8 text")
    try:
        return Document(file=file, text=text, values=tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        where = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
        line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
        if where:
            message = message[: where.start()]
            if where[1]:
                line, column = int(where[1]), int(where[2])
        return Problem(file=file, line=line, column=column, message=f"is not TOML: {message}")


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean "web"?)``, or nothing when no known name is near."""
    matches = difflib.get_close_matches(name, sorted(known), n=1)
    return f' (did you mean "{matches[0]}"?)' if matches else ""


# --- checking -----------------------------------------------------------------------------------


def find_problems(
    document: Document, schema: Schema, value: Any = None, path: KeyPath = (), root: Schema | None = None
) -> Iterator[Problem]:
    """Every way in which the document (or ``value`` at ``path`` in it) does not fit the schema."""
    root = root or schema
    value = document.values if not path else value
    schema = next((option for option in schema.get("anyOf", ()) if _fits(value, option)), schema)
    if not _fits(value, schema):
        yield document.problem(path, f'"{show_path(path)}" must be {schema["title"]}, not {describe(value)}')
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from find_problems(document, schema.get("items", {}), item, (*path, index), root)
    elif isinstance(value, dict):
        properties = schema.get("properties", {})
        for key in schema.get("required", ()):
            if key not in value:
                yield document.problem(path, f'"{show_path((*path, key))}" is missing')
        for key, item in value.items():
            inner = properties.get(key, schema.get("additionalProperties", {}))
            if inner is False:
                yield document.problem((*path, key), _explain_unknown(key, path, properties, root))
            else:
                yield from find_problems(document, inner or {}, item, (*path, key), root)


def _fits(value: Any, schema: Schema) -> bool:
    if "anyOf" in schema:
        return any(_fits(value, option) for option in schema["anyOf"])
    expected = schema.get("type")
    if expected is None:
        return True
    if not isinstance(value, TYPES[expected]) or (isinstance(value, bool) and expected != "boolean"):
        return False
    if isinstance(value, str) and "pattern" in schema:
        return "\n" not in value and re.search(schema["pattern"], value) is not None
    if isinstance(value, int | float) and "exclusiveMinimum" in schema:
        return bool(schema["exclusiveMinimum"] < value < schema.get("exclusiveMaximum", float("inf")))
    return True


def _explain_unknown(key: str, path: KeyPath, known: Iterable[str], root: Schema) -> str:
    place = f" in [{show_path(path)}]" if path else ""
    top = root.get("properties", {})
    if path and key in top:
        return f'unknown key "{key}"{place} (it belongs at the top of the file, before the first [table])'
    hint = nearest(key, known) or nearest(key, top) or f" (known: {', '.join(sorted(known))})"
    return f'unknown key "{key}"{place}{hint}'


def show_path(path: KeyPath) -> str:
    """``targets.local.mirror``, ``secrets[1]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def describe(value: Any) -> str:
    """A value as a message shows it."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else f"{value[:57]}…", ensure_ascii=False)
    return str(value)


# --- lines of keys ------------------------------------------------------------------------------

BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
KEY_PART = re.compile(r"""[ \t]*("(?:\\.|[^"\\])*"|'[^']*'|[A-Za-z0-9_-]+)[ \t]*""")
SCALAR = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'"
    r"|[^,\]}#\n]+",
    re.DOTALL,
)


def locate_keys(text: str) -> dict[KeyPath, int]:
    """The line of every key, table and list item of a *valid* TOML text, by its path."""
    return _KeyFinder(text).find()


class _KeyFinder:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.table_lists: dict[KeyPath, int] = {}

    def find(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip(BLANK)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._read_header()
            else:
                self._read_pair(table)
            self._skip(BLANK)
        return self.lines

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"not TOML at character {self.at}")
        self.at = match.end()
        return match[0]

    def _mark(self, path: KeyPath) -> None:
        self.lines.setdefault(path, self.text.count("\n", 0, self.at) + 1)

    def _read_key(self) -> list[str]:
        parts = []
        while True:
            part = self._skip(KEY_PART).strip()
            parts.append(tomllib.loads(f"part = {part}")["part"] if part[0] in "\"'" else part)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def _read_header(self) -> KeyPath:
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        self.at += brackets
        path: KeyPath = ()
        parts = self._read_key()
        for position, part in enumerate(parts):
            path += (part,)
            self._mark(path)
            if brackets == 2 and position == len(parts) - 1:
                self.table_lists[path] = self.table_lists.get(path, -1) + 1
            if path in self.table_lists:
                path += (self.table_lists[path],)
                self._mark(path)
        self.at += brackets
        return path

    def _read_pair(self, table: KeyPath) -> None:
        path = table
        start = self.at
        for part in self._read_key():
            path += (part,)
            end, self.at = self.at, start
            self._mark(path)
            self.at = end
        self.at += 1  # "="
        self._read_value(path)

    def _read_value(self, path: KeyPath) -> None:
        self._skip(BLANK)
        opening = self.text[self.at]
        if opening not in "[{":
            self._skip(SCALAR)
            return
        self.at += 1
        self._skip(BLANK)
        index = 0
        while self.text[self.at] not in "]}":
            if self.text[self.at] == ",":
                self.at += 1
            elif opening == "[":
                self._mark((*path, index))
                self._read_value((*path, index))
                index += 1
            else:
                self._read_pair(path)
            self._skip(BLANK)
        self.at += 1
