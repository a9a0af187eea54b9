"""What a machine is told at its first boot: a Jinja2 template, rendered and checked before anything starts.

A template has ``machine`` (``MachineFacts``), ``environment``, ``release`` (its number), ``image``
(``web:12``), ``port``, ``data`` and ``secrets``, and two filters that put any value safely where it belongs:
``yaml`` (a YAML value on one line) and ``shell`` (one word). It stands alone, without ``include`` and the
like: a machine must come out the same when it is made again, whatever became of the project. What it makes
is for cloud-init.

Where a fact is known only in the machine (``MachineFacts.filled_in_there``), the text is a template once
more, for cloud-init: then everything else in it that looks like one is escaped.
"""

from __future__ import annotations

import hashlib
import html
import json
import posixpath
import re
import shlex
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import yaml

from baker.deploy.environment import FirstBootFile
from baker.deploy.schema import decode_file, find_config_problems
from baker.deploy.side import FirstBoot, MachineFacts, Side
from baker.errors import EnvironmentFileError

JINJA_HEADER = "## template: jinja"
VARIABLES = ("machine", "environment", "release", "image", "port", "data", "secrets")
AWS_LIMIT = 16384
"""Bytes of user data that EC2 takes."""

MASK = "***"
SHORTEST_LINE = 4
"""A shorter line of a secret says nothing, and would blot out the whole text."""

_MIME = re.compile(r"(mime-version|content-type):", re.IGNORECASE)
_BRACE = "\ufdd0"
"""Stands for a brace of a value until the text is whole; no text has this character (a noncharacter)."""


# --- reading --------------------------------------------------------------------------------------


def read_first_boot(project: Path, file: FirstBootFile, environ: Mapping[str, str]) -> FirstBoot:
    """The template's text and the secrets' values. Raises EnvironmentFileError, naming what is missing."""
    try:
        text = (project / file.template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise EnvironmentFileError(f"{file.template}: cannot be read: {said}") from None
    missing = [name for name in file.secrets if not environ.get(name)]
    problems = [f'the secret "{name}" is not set: it is the value of the variable {name}' for name in missing]
    problems += [
        f'the secret "{name}" is not UTF-8 text'
        for name in file.secrets
        if name not in missing and not _is_text(environ[name])
    ]
    if problems:
        raise EnvironmentFileError(
            "\n".join(f"{file.template}: {problem}" for problem in problems),
            hint=f"Set it for the command: export {missing[0]}=…" if missing else None,
        )
    return FirstBoot(
        template=file.template,
        text=text,
        data=file.data,
        secrets={name: environ[name] for name in file.secrets},
        roles=file.roles,
    )


# --- rendering ------------------------------------------------------------------------------------


def render(first_boot: FirstBoot, side: Side, facts: MachineFacts) -> str:
    """What one machine is told. Raises EnvironmentFileError with the template's line."""
    return render_for(
        first_boot,
        facts,
        {"environment": side.environment, "release": side.number, "image": side.image, "port": side.port},
    )


def render_for(first_boot: FirstBoot, facts: MachineFacts, side: Mapping[str, Any]) -> str:
    """``render`` before there is a side: ``side`` has what a template may say of it."""
    expressions = _find_expressions(facts)
    if not expressions:
        return _render(first_boot, facts, {}, side)
    # What is filled in later is a number as long as it is not. A template that looks into it (its length, its
    # base64) would come out differently with other numbers.
    tokens = _make_tokens(first_boot, expressions, 24)
    text = _escape(_render(first_boot, facts, tokens, side), tokens)
    others = _make_tokens(first_boot, expressions, 31)
    other = _escape(_render(first_boot, facts, others, side), others)
    for name, expression in expressions.items():
        text, other = text.replace(tokens[name], expression), other.replace(others[name], expression)
    if text != other:
        raise EnvironmentFileError(
            f"{first_boot.template}: does more with a fact than write it: {', '.join(sorted(expressions))} "
            "are known only when the machine runs",
            hint="Write {{ machine.NAME }} or {{ machine.NAME | yaml }}; compute with it in a script.",
        )
    if all(expression not in text for expression in expressions.values()):
        return _render(first_boot, facts, {}, side)
    if _MIME.match(text):
        raise EnvironmentFileError(
            f"{first_boot.template}: a MIME message cannot say what is known only when the machine runs",
            hint="Write one #cloud-config or one script.",
        )
    return text if text.startswith(JINJA_HEADER) else f"{JINJA_HEADER}\n{text}"


def _find_expressions(facts: MachineFacts) -> dict[str, str]:
    if not facts.filled_in_there:
        return {}
    values = {name: getattr(facts, name) for name in ("name", "hostname", "role", "address")}
    return {name: value for name, value in values.items() if "{{" in value}


def _make_tokens(first_boot: FirstBoot, names: Mapping[str, str], digits: int) -> dict[str, str]:
    """Numbers that are nowhere in the text: no filter for quotes or case changes them."""
    made = {}
    for name in names:
        digest = hashlib.sha256(f"{first_boot.template}\0{first_boot.text}\0{name}\0{digits}".encode())
        made[name] = "7" + str(int(digest.hexdigest(), 16))[: digits - 1]
    return made


def _render(
    first_boot: FirstBoot, facts: MachineFacts, tokens: Mapping[str, str], side: Mapping[str, Any]
) -> str:
    machine = {name: tokens.get(name, getattr(facts, name)) for name in facts.__dataclass_fields__}
    environment = make_environment()
    if first_boot.text.lstrip().startswith(JINJA_HEADER):
        # The author writes for cloud-init's Jinja: the text is meant, braces in values are not.
        environment.finalize = lambda value: value.replace("{", _BRACE) if isinstance(value, str) else value
    try:
        template = environment.from_string(first_boot.text)
        text = template.render(
            machine=machine, data=first_boot.data, secrets=dict(first_boot.secrets), **side
        ).lstrip()
    except Exception as error:  # whatever an expression of the template raises
        line = _find_line(error)
        place = f"{first_boot.template}:{line}" if line else first_boot.template
        said = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        said = mask(str(said), first_boot.secrets)
        raise EnvironmentFileError(f"{place}: {said} (for machine {facts.name})") from None
    return text.replace(_BRACE, "{{ '{' }}")


def _find_line(error: Exception) -> int | None:
    """The template's line that raised: Jinja2 puts it into the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
    return lines[-1] if lines else getattr(error, "lineno", None)


def _escape(text: str, tokens: Mapping[str, str]) -> str:
    """Braces that cloud-init's Jinja would take for its own; what is written for it is left alone."""
    if text.startswith(JINJA_HEADER):
        return text
    return re.sub(rf"\{{(?=[{{%#]|{'|'.join(tokens.values())})", "{{ '{' }}", text)


def make_environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"yaml": quote_yaml, "shell": _quote_shell}
    return environment


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- quoting --------------------------------------------------------------------------------------


def quote_yaml(value: Any) -> str:
    """A value as YAML on one line: a text comes out of it as it went in, whatever is in it."""
    if isinstance(value, jinja2.Undefined):
        return str(value)  # raises, naming it
    if isinstance(value, str):
        return f'"{"".join(map(_quote_character, value))}"'
    if value is None or isinstance(value, int):
        return json.dumps(value)
    if isinstance(value, float):
        return _quote_float(value)
    if isinstance(value, Mapping):
        pairs = (f"{quote_yaml(str(key))}: {quote_yaml(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(quote_yaml, value))}]"
    raise TypeError(f"yaml takes text, numbers, lists and tables, not {type(value).__name__}")


def _quote_float(value: float) -> str:
    """YAML 1.1 wants a dot in a number: 1e+16 is a text for it."""
    text = repr(value)
    if text.endswith(("inf", "nan")):
        return text.replace("inf", ".inf").replace("nan", ".nan")
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _quote_character(character: str) -> str:
    code = ord(character)
    if character in '"\\\n':
        return "\\n" if character == "\n" else f"\\{character}"
    if character.isprintable():
        return character
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _quote_shell(value: Any) -> str:
    return shlex.quote(str(value))


def mask(text: str, secrets: Mapping[str, str]) -> str:
    """The text with every secret as ``***``: whole, each line of it, and however a filter writes it."""
    spellings = set()
    for secret in secrets.values():
        lines = [line.strip() for line in secret.splitlines() if len(line.strip()) >= SHORTEST_LINE]
        for plain in (secret, *lines):
            quoted = {plain, quote_yaml(plain)[1:-1], json.dumps(plain)[1:-1], plain.replace("'", "'\"'\"'")}
            quoted |= {repr(plain)[1:-1], html.escape(plain)}
            quoted |= {json.dumps(plain, ensure_ascii=False)[1:-1], jinja2.filters.do_urlencode(plain)}
            spellings |= quoted
            for spelling in quoted:
                spellings |= {
                    spelling.replace("{", "{{ '{' }}"),
                    re.sub(r"\{(?=[{%#])", "{{ '{' }}", spelling),
                }
    # The longest first: one secret may be a part of another.
    for spelling in sorted((each for each in spellings if each.strip()), key=len, reverse=True):
        text = text.replace(spelling, MASK)
    return text


# --- checking -------------------------------------------------------------------------------------


def check_rendered(text: str, file: str, *, limit: int | None = None) -> list[str]:
    """What cloud-init would not understand, one line each, with the line of the rendered text.

    ``file`` is the template's name, ``limit`` how many bytes may be told (``AWS_LIMIT``). Secrets are in the
    text, so whoever shows a message masks it.
    """
    problems = []
    if limit is not None and (size := len(text.encode())) > limit:
        problems.append(f"{file}: renders {size} bytes, and at most {limit} can be told to a machine")
    body = text
    if text.startswith(JINJA_HEADER):
        try:
            body = fill_in(text)
        except jinja2.TemplateError as error:
            line = getattr(error, "lineno", None)
            place = f" line {line + 1} of what it renders:" if line else ""
            return [*problems, f"{file}:{place} is no template for cloud-init: {error.message}"]
    first = body.lstrip().partition("\n")[0].rstrip()
    if first == "#cloud-config":
        # The header that was taken off is one line of what is shown.
        offset = len(text.splitlines()) - len(body.splitlines())
        for line, message in find_config_problems(body):
            place = f"line {line + offset} of what it renders: " if line else ""
            problems.append(f"{file}: {place}{message}")
    elif not first.startswith("#!") and not _MIME.match(first):
        shown = json.dumps(first[:40], ensure_ascii=False)
        problems.append(
            f'{file}: what it renders must begin with "#cloud-config", "#!", "{JINJA_HEADER}" or be a '
            f"MIME message, not with {shown}"
        )
    return problems


# --- what comes of it ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstBootResult:
    """What a first boot is known to leave. ``files`` are paths with the sha256 of their content, empty where
    it is appended or known only there; ``users`` those that it makes, the image's default user left out."""

    files: Mapping[str, str] = field(default_factory=dict)
    users: tuple[str, ...] = ()
    hostname: str | None = None


class _FilledInThere(jinja2.ChainableUndefined):
    """What cloud-init knows and we do not: any name is something."""

    word = "known-there"

    def __str__(self) -> str:
        return self.word


class _OtherwiseFilledIn(_FilledInThere):
    word = "known-only-there"


def fill_in(text: str, undefined: type[jinja2.Undefined] = _FilledInThere) -> str:
    """A text with ``JINJA_HEADER`` as cloud-init would make it, without that line. Raises TemplateError."""
    body = text.partition("\n")[2]
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        undefined=undefined, trim_blocks=True, keep_trailing_newline=True, extensions=["jinja2.ext.do"]
    )
    try:
        return environment.from_string(body).render()
    except Exception as error:  # a filter that cannot take what stands in for the real value
        if isinstance(error, jinja2.TemplateError):
            raise
        raise jinja2.TemplateError(f"{type(error).__name__}: {error}") from None


def expected_result(text: str) -> FirstBootResult:
    """What a machine that was told ``text`` will have. Nothing is promised of scripts and MIME messages."""
    if not text.lstrip().startswith(JINJA_HEADER):
        return _read_result(_load(text))
    try:
        one, other = (
            _read_result(_load(fill_in(text.lstrip(), kind))) for kind in (_FilledInThere, _OtherwiseFilledIn)
        )
    except jinja2.TemplateError:
        return FirstBootResult()
    # What differs is known only there.
    files = {
        path: digest if other.files[path] == digest else ""
        for path, digest in one.files.items()
        if path in other.files
    }
    return FirstBootResult(
        files=files,
        users=tuple(user for user in one.users if user in other.users),
        hostname=one.hostname if one.hostname == other.hostname else None,
    )


def _load(text: str) -> Mapping[str, Any]:
    if text.lstrip().partition("\n")[0].rstrip() != "#cloud-config":
        return {}
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError):
        return {}
    return values if isinstance(values, dict) else {}


def _read_result(values: Mapping[str, Any]) -> FirstBootResult:
    files: dict[str, str] = {}
    written = values.get("write_files")
    for file in written if isinstance(written, list) else ():
        if not isinstance(file, dict) or not isinstance(file.get("path"), str):
            continue
        path = posixpath.normpath(file["path"])
        data = decode_file(file)
        known = data is not None and not file.get("append") and "source" not in file
        files[path] = hashlib.sha256(data).hexdigest() if known and data is not None else ""
    return FirstBootResult(files=files, users=_read_users(values), hostname=_read_hostname(values))


def _read_users(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of users that it makes; ``default`` is the image's own affair."""
    users = values.get("users", ())
    users = [user.strip() for user in users.split(",")] if isinstance(users, str) else users
    found = []
    for user in users if isinstance(users, list | dict) else ():
        name = user.get("name") if isinstance(user, dict) else user
        if isinstance(name, str) and name not in ("", "default"):
            found.append(name)
    extra = values.get("user")
    extra = extra.get("name") if isinstance(extra, dict) else extra
    return tuple(dict.fromkeys([*found, *([extra] if isinstance(extra, str) else [])]))


def _read_hostname(values: Mapping[str, Any]) -> str | None:
    """As cloud-init sets it: the first word of ``fqdn`` where there is no ``hostname``."""
    for key in ("hostname", "fqdn"):
        if isinstance(values.get(key), str):
            return str(values[key]).partition(".")[0]
    return None
