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
``listing:PATH``     a folder listed there (traced); ``entries``: the types of what is in it too
``type:PATH``        what kind of thing is there (traced), ``link`` the path itself, ``mode`` its
                     permissions, ``size`` and ``time``: each where the recipe asked for it
``package:NAME``     the version of an installed Python package that the recipe imported (traced)
===================  ==============================================================================

Time, user, host, absolute paths and image tests are never inputs, nor is anything outside the project.
"""

# Paths are text in this file: there are thousands, and pathlib cannot normalise one without the disk.
# ruff: noqa: PTH100, PTH112, PTH113, PTH114, PTH118, PTH119

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from baker.model import Reason, Recipe
from baker.project_files import (
    ABSENT,
    LISTINGS,
    TRACED_KINDS,
    changed_since,
    describe_below,
    describe_entry,
    describe_path,
    is_litter,
    look_again,
    source_of,
)

UNSET = "unset"
MOVING = "changed during the bake"
TESTS_CHANGED = "image-tests-changed"
"""The kind of the reason for verifying a build again."""

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode

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
    below = describe_below(recipe.project, recipe.folder, lambda path: not _is_left_out(path))
    inputs |= {f"recipe:{path}": value for path, value in below}
    inputs |= {f"input:{path}": value for path, value in _describe_globs(recipe)}
    return inputs


def traced_inputs(
    recipe: Recipe, traced: Iterable[tuple[str, str]], *, since: float = math.inf
) -> dict[str, str]:
    """What was seen while the recipe ran: (kind, path) of TRACED_KINDS, and (``package``, name).

    A relative path starts at the project. Left out: what lies outside the project or in this process's
    virtual environment, and what ``static_inputs`` covers already. What changed after ``since`` (when the
    recipe began) may not be what the recipe saw: it gets a value that no later look can equal.
    """
    inputs = {}
    environment = f"{os.path.abspath(sys.prefix)}/"
    for kind, path in sorted(set(traced)):
        if kind == "package":
            inputs[f"package:{path}"] = look_again(recipe.project, kind, path)
            continue
        absolute = os.path.normpath(os.path.join(recipe.project, source_of(path)))
        inside = absolute == recipe.project or absolute.startswith(f"{recipe.project}/")
        if not inside or absolute.startswith(environment):
            continue
        relative = absolute[len(recipe.project) + 1 :] or "."
        if kind in LISTINGS and is_litter(relative):
            continue
        moved = changed_since(absolute, kind, since)
        if moved or not _is_static(recipe, kind, absolute):
            inputs[f"{kind}:{relative}"] = MOVING if moved else look_again(recipe.project, kind, relative)
    return inputs


def refresh_traced(
    project: str | Path, old_inputs: Mapping[str, str], known: dict[str, str] | None = None
) -> dict[str, str]:
    """The traced keys of an earlier build as they are now.

    With ``static_inputs`` they tell whether the build is still current, without running the recipe. What is
    ``known`` already is not looked at; what is looked at is added to it.
    """
    known = {} if known is None else known
    inputs = {}
    for key in old_inputs:
        kind, _, path = key.partition(":")
        if kind in TRACED_KINDS:
            if key not in known:
                known[key] = look_again(str(project), kind, path)
            inputs[key] = known[key]
    return inputs


def fingerprint(inputs: Mapping[str, str]) -> str:
    """The sha256 of the inputs' canonical JSON."""
    return _digest_value(dict(inputs))


def image_test_inputs(recipe: Recipe) -> dict[str, str]:
    """What the image tests are, by ``test:FILE``: when they move, a build is verified again, not baked."""
    paths = [*recipe.image_tests, f"{recipe.folder}/conftest.py"] if recipe.image_tests else []
    described = {f"test:{os.path.basename(path)}": describe_path(recipe.project, path) for path in paths}
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
    return (top_level and (relative == "recipe.toml" or _is_image_test(relative))) or is_litter(relative)


def _is_static(recipe: Recipe, kind: str, absolute: str) -> bool:
    """Whether the folder's own inputs cover what was seen of a path. Behind a symbolic link they do not.

    They cover files and links, not folders: an empty one is none of them.
    """
    if kind not in ("file", "type", "link") or not absolute.startswith(f"{recipe.folder}/"):
        return False
    relative = absolute[len(recipe.folder) + 1 :]
    above, name = os.path.split(absolute)
    is_inside = f"{os.path.realpath(above)}/{name}" == os.path.join(os.path.realpath(recipe.folder), relative)
    is_file = (
        os.path.islink(absolute)
        if kind == "link"
        else os.path.isfile(absolute) and not os.path.islink(absolute)
    )
    return is_inside and is_file and not _is_left_out(relative)


def _describe_globs(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """A matched folder stands for everything below it."""
    project = Path(recipe.project)
    for path in {str(path) for pattern in recipe.inputs for path in project.glob(pattern)}:
        relative = os.path.relpath(path, project)
        if is_litter(relative):
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            for below, value in describe_below(recipe.project, path, lambda _: True):
                yield f"{relative}/{below}", value
        else:
            yield relative, describe_entry(recipe.project, path)


def _digest_value(value: Any) -> str:
    return f"sha256:{hashlib.sha256(_canonical(value).encode()).hexdigest()}"


# --- differences in words ----------------------------------------------------------------------------

WORDS: Mapping[str, str] = {
    "recipe": "{name}",
    "test": "{name}",
    "input": "{name}",
    "file": "{name}",
    "absent": "{name}",
    "type": "{name}",
    "link": "{name}",
    "mode": "the permissions of {name}",
    "size": "the size of {name}",
    "time": "the time of {name}",
    "listing": "the list of files in {name}",
    "entries": "the list of files in {name}",
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
