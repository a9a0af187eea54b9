"""What a build depends on, and the digest of it.

*Inputs* map a key to a text. Source, architecture, target, metadata and tools are there as they are, so
that a change can be told; everything else as a digest:

===================  ==============================================================================
``source``           the exact digest that the bake starts from
``arch``, ``target``
``metadata:KEY``     recipe.toml, as far as it can change the result (canonical JSON)
``data:KEY``         one top-level key of the target's effective data
``setting:KEY``      a setting of the target that can change the result
``env:NAME``         an allow-listed variable; ``unset`` where there is none
``tool:NAME``        version of pyinfra and of the seal
``recipe:PATH``      a file of the recipe's folder, from the folder
``input:PATH``       a file that a glob of ``inputs`` matches, from the project
``file:PATH``        read elsewhere in the project while the recipe ran (traced)
``absent:PATH``      looked for there, not found (traced)
``listing:PATH``     a folder listed there (traced)
``package:NAME``     the version of an installed Python package that the recipe imported (traced)
===================  ==============================================================================

Time, user, host, absolute paths and image tests are never inputs, nor is anything outside the project.
"""

# Paths are text in this file: there are thousands, and pathlib cannot normalise one without the disk.
# ruff: noqa: PTH100, PTH112, PTH113, PTH114, PTH115, PTH116, PTH118, PTH119, PTH123, PTH208

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from baker.errors import RecipeError
from baker.model import Reason, Recipe

TRACED_KINDS = ("file", "absent", "listing", "package")
ABSENT, DIRECTORY, SPECIAL, OUTSIDE, UNSET = "absent", "directory", "special", "outside", "unset"
MOVING = "changed during the bake"
TESTS_CHANGED = "image-tests-changed"
"""The kind of the reason for verifying a build again."""

LITTER = re.compile(
    r"__pycache__|.*\.py[co]|.*~|\..*\.sw[a-z]|\.#.*|#.*#|\.DS_Store|\.git|\.(pytest|mypy|ruff)_cache"
)
"""Names that editors, interpreters and version control leave in any folder."""

SETTLED_NS = 2_000_000_000
"""A file that changed less than this ago may change again without a new time stamp: not cached."""

_digests: dict[str, tuple[tuple[int, ...], str]] = {}


# --- inputs ---------------------------------------------------------------------------------------


def static_inputs(
    recipe: Recipe,
    target: str,
    arch: str,
    source_digest: str,
    environ: Mapping[str, str],
    tools: Mapping[str, str],
    settings: Mapping[str, Any],
) -> dict[str, str]:
    """What is known without running the recipe.

    ``tools`` are the versions of ``pyinfra`` and ``seal``, ``settings`` those of the target that can
    change the result (``baker.settings.result_settings``). Raises RecipeError for an unreadable file.
    """
    metadata = {
        "secrets": sorted(set(recipe.secrets)),
        "environment": sorted(set(recipe.environment)),
        "groups": list(recipe.groups),
        "workdir": recipe.workdir,
    }
    inputs = {"source": source_digest, "arch": arch, "target": target}
    # What is empty is left out, so that a later release can add a key without moving every fingerprint.
    inputs |= {f"metadata:{key}": _canonical(value) for key, value in metadata.items() if value}
    inputs |= {f"data:{key}": _digest_value(value) for key, value in recipe.targets[target].data.items()}
    inputs |= {f"setting:{key}": _digest_value(value) for key, value in settings.items()}
    for name in recipe.environment:
        inputs[f"env:{name}"] = _digest_value(environ[name]) if name in environ else UNSET
    inputs |= {f"tool:{name}": version for name, version in tools.items()}
    inputs |= {f"recipe:{path}": value for path, value in _describe_folder(recipe)}
    inputs |= {f"input:{path}": value for path, value in _describe_globs(recipe)}
    return inputs


def traced_inputs(
    recipe: Recipe, traced: Iterable[tuple[str, str]], *, since: float = math.inf
) -> dict[str, str]:
    """What was seen while the recipe ran: (``file`` | ``absent`` | ``listing``, path), (``package``, name).

    A relative path starts at the project. Left out: what lies outside the project or in this process's
    virtual environment, and what ``static_inputs`` covers already. What changed after ``since`` (when the
    recipe began) may not be what the recipe saw: it gets a value that no later look can equal.
    """
    inputs = {}
    environment = f"{os.path.abspath(sys.prefix)}/"
    for kind, path in sorted(set(traced)):
        if kind == "package":
            inputs[f"package:{path}"] = _look_again(recipe.project, kind, path)
            continue
        absolute = os.path.normpath(os.path.join(recipe.project, _source_of(path)))
        inside = absolute == recipe.project or absolute.startswith(f"{recipe.project}/")
        if not inside or absolute.startswith(environment) or _is_static(recipe, absolute):
            continue
        relative = absolute[len(recipe.project) + 1 :] or "."
        moved = _changed_since(absolute, since)
        inputs[f"{kind}:{relative}"] = MOVING if moved else _look_again(recipe.project, kind, relative)
    return inputs


def refresh_traced(project: str | Path, old_inputs: Mapping[str, str]) -> dict[str, str]:
    """The traced keys of an earlier build as they are now.

    With ``static_inputs`` they tell whether the build is still current, without running the recipe.
    """
    inputs = {}
    for key in old_inputs:
        kind, _, path = key.partition(":")
        if kind in TRACED_KINDS:
            inputs[key] = _look_again(str(project), kind, path)
    return inputs


def fingerprint(inputs: Mapping[str, str]) -> str:
    """The sha256 of the inputs' canonical JSON."""
    return _digest_value(dict(inputs))


def image_test_inputs(recipe: Recipe) -> dict[str, str]:
    """What the image tests are, by ``test:FILE``: when they move, a build is verified again, not baked."""
    paths = [*recipe.image_tests, f"{recipe.folder}/conftest.py"] if recipe.image_tests else []
    described = {f"test:{os.path.basename(path)}": _describe_path(recipe.project, path) for path in paths}
    return {key: value for key, value in described.items() if value != ABSENT}


# --- what lies where -------------------------------------------------------------------------------


def _is_image_test(name: str) -> bool:
    return (
        name == "conftest.py"
        or (name.endswith(".py") and name.startswith("test_"))
        or name.endswith("_test.py")
    )


def _is_left_out(relative: str) -> bool:
    """Whether a path of the recipe's folder is no input: recipe.toml is covered by its meaning."""
    top_level = "/" not in relative
    return (top_level and (relative == "recipe.toml" or _is_image_test(relative))) or any(
        LITTER.fullmatch(part) for part in relative.split("/")
    )


def _is_static(recipe: Recipe, absolute: str) -> bool:
    """Whether the folder's own inputs cover a traced path. Behind a symbolic link they do not."""
    if absolute == recipe.folder:
        return True
    if not absolute.startswith(f"{recipe.folder}/"):
        return False
    relative = absolute[len(recipe.folder) + 1 :]
    really_inside = os.path.realpath(absolute) == os.path.join(os.path.realpath(recipe.folder), relative)
    return really_inside and not (_is_left_out(relative) and os.path.isfile(absolute))


def _changed_since(path: str, since: float) -> bool:
    """Whether a path was made or changed after a time; file systems stamp by a clock that lags a little."""
    try:
        return os.stat(path).st_ctime > since - 0.1
    except OSError:
        return False


def _source_of(path: str) -> str:
    """Reading byte code means reading the module: the interpreter only looks at the module's time stamp."""
    if path.endswith(".pyc"):
        try:
            return importlib.util.source_from_cache(path)
        except ValueError:  # not in a __pycache__
            return path
    return path


def _describe_folder(recipe: Recipe) -> Iterator[tuple[str, str]]:
    for path in _walk(recipe.folder):
        relative = path[len(recipe.folder) + 1 :]
        if not _is_left_out(relative):
            yield relative, _describe_entry(recipe.project, path)


def _describe_globs(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """A matched folder stands for everything below it."""
    project = Path(recipe.project)
    for path in {str(path) for pattern in recipe.inputs for path in project.glob(pattern)}:
        relative = os.path.relpath(path, project)
        if any(LITTER.fullmatch(part) for part in relative.split("/")):
            continue
        for file in _walk(path) if os.path.isdir(path) and not os.path.islink(path) else [path]:
            yield os.path.relpath(file, project), _describe_entry(recipe.project, file)


def _walk(folder: str) -> Iterator[str]:
    """Every path below that is not a real folder."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise _unreadable(folder, error) from error
    for entry in entries:
        if LITTER.fullmatch(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        else:
            yield entry.path


def _look_again(project: str, kind: str, relative: str) -> str:
    if kind == "package":
        return _find_version(relative)
    path = os.path.join(project, relative)
    if kind == "listing":
        return _describe_listing(path)
    found = _describe_path(project, path)
    return found if kind == "file" or found == ABSENT else "present"


def _find_version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and seldom asked

    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT


def _describe_listing(path: str) -> str:
    try:
        names = sorted(name for name in os.listdir(path) if not LITTER.fullmatch(name))
    except OSError:
        return ABSENT
    return _digest_value(names)


def _describe_entry(project: str, path: str) -> str:
    """A path itself: a symbolic link is its text and what it leads to."""
    if os.path.islink(path):
        return f"-> {os.readlink(path)} {_describe_path(project, path)}"
    return _describe_path(project, path)


def _describe_path(project: str, path: str) -> str:
    """What a path leads to: ``sha256:…`` (``+x`` if executable), or in a word what is there instead."""
    try:
        found = os.stat(path)
    except OSError:
        return ABSENT  # also: a link that leads nowhere or in a circle, a file where a folder should be
    key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    cached = _digests.get(path)
    if cached and cached[0] == key:
        return cached[1]
    if not f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(project)}/"):
        return OUTSIDE
    if stat.S_ISDIR(found.st_mode):
        return DIRECTORY
    if not stat.S_ISREG(found.st_mode):
        return SPECIAL
    try:
        with open(path, "rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except FileNotFoundError:
        return ABSENT
    except OSError as error:
        raise _unreadable(path, error) from error
    value = digest + ("+x" if found.st_mode & stat.S_IXUSR else "")
    if time.time_ns() - found.st_ctime_ns > SETTLED_NS:
        _digests[path] = (key, value)
    return value


def _unreadable(path: str, error: OSError) -> RecipeError:
    return RecipeError(
        f"{path}: cannot be read: {error.strerror}", hint="A recipe depends on it: make it readable"
    )


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _digest_value(value: Any) -> str:
    return f"sha256:{hashlib.sha256(_canonical(value).encode()).hexdigest()}"


# --- differences in words ----------------------------------------------------------------------------

WORDS: Mapping[str, str] = {
    "recipe": "{name}",
    "test": "{name}",
    "input": "{name}",
    "file": "{name}",
    "absent": "{name}",
    "listing": "the list of files in {name}",
    "data": "data.{name}",
    "setting": "the target's {name}",
    "env": "the variable {name}",
}


def explain(old_inputs: Mapping[str, str], new_inputs: Mapping[str, str]) -> list[Reason]:
    """Every difference in words: what moved, then what changed, by key."""
    keys = sorted(old_inputs.keys() | new_inputs.keys(), key=lambda key: (":" in key, key))
    differing = [key for key in keys if old_inputs.get(key) != new_inputs.get(key)]
    reasons = [_explain_key(key, old_inputs.get(key), new_inputs.get(key)) for key in differing]
    return list(dict.fromkeys(reasons))


def explain_image_tests(passed: Mapping[str, str] | None, now: Mapping[str, str]) -> list[Reason]:
    """Why a build that passed these image tests is to be verified again; empty if it need not be."""
    if passed is None:
        unknown = "it is not known which image tests it passed"
        return [Reason(kind=TESTS_CHANGED, detail=unknown)] if now else []
    changes = ", ".join(reason.detail for reason in explain(passed, now))
    return [Reason(kind=TESTS_CHANGED, detail=f"image tests changed ({changes})")] if changes else []


def _explain_key(key: str, old: str | None, new: str | None) -> Reason:
    kind, _, name = key.partition(":")
    if kind == "source":
        return Reason(kind="source-moved", detail=f"source moved from {_shorten(old)} to {_shorten(new)}")
    if kind in ("tool", "package"):
        return Reason(
            kind="configurer-upgraded" if kind == "tool" else "changed",
            detail=f"{name} {_tell_direction(old, new)}",
        )
    if kind not in WORDS:
        return Reason(
            kind="changed", detail=f"{name or kind} changed from {old or 'none'} to {new or 'none'}"
        )
    thing = WORDS[kind].format(name="the project's folder" if name == "." else name)
    if old in (None, ABSENT, UNSET):
        verb = "was set" if kind == "env" else "was added"
    elif new in (None, ABSENT, UNSET):
        verb = "was unset" if kind == "env" else "was removed"
    elif new == f"{old}+x":
        verb = "became executable"
    elif old == f"{new}+x":
        verb = "is no longer executable"
    else:
        verb = "changed"
    return Reason(kind="changed", detail=f"{thing} {verb}")


def _shorten(text: str | None) -> str:
    """Digests as people compare them: their first twelve digits."""
    return re.sub(r"(sha256:[0-9a-f]{12})[0-9a-f]+", r"\1", text) if text else "none"


def _tell_direction(old: str | None, new: str | None) -> str:
    if old is None or new is None:
        return f"changed from {old or 'none'} to {new or 'none'}"
    before, after = ([int(number) for number in re.findall(r"\d+", version)] for version in (old, new))
    verb = "upgraded" if after > before else "downgraded" if after < before else "changed"
    return f"{verb} from {old} to {new}"
