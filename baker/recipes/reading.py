"""One recipe folder: recipe.toml checked and made into a Recipe. Nothing of it is executed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from baker.errors import BadReference
from baker.model import RECIPE_NAME, AmiSource, Bootstrap, Recipe, Reference, Source, TargetSpec, TreeSource
from baker.recipes.ami import check_ami_query
from baker.recipes.data import find_dates, merge_data
from baker.recipes.schema import DISTRIBUTIONS, FROM, RECIPE_SCHEMA, RESERVED_NAMES, TREE_FORMATS
from baker.toml_file import Document, KeyPath, Problem, describe, find_problems, read_document


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadRecipe:
    """What reading one folder came to. ``recipe`` is None when it has problems."""

    name: str
    problems: tuple[Problem, ...]
    document: Document | None = None
    recipe: Recipe | None = None


def read_recipe(project: Path, folder: Path) -> ReadRecipe:
    name = folder.name
    files = _list_files(folder)
    path = folder / "recipe.toml"
    document = read_document(path, project)
    missing = []
    if "deploy.py" not in files:
        missing.append(
            Problem(
                file=f"{folder.relative_to(project)}/deploy.py",
                message="no such file: a recipe is applied by it",
            )
        )
    if isinstance(document, Problem):
        if not path.exists():
            document = replace(document, message="no such file: a recipe is described by it")
        return ReadRecipe(name=name, problems=(document, *missing))
    problems = [*missing, *_check_name(document, name), *find_problems(document, RECIPE_SCHEMA)]
    if not problems:
        problems += _check_values(document, folder)
    if problems:
        return ReadRecipe(name=name, problems=tuple(problems), document=document)
    return ReadRecipe(
        name=name, problems=(), document=document, recipe=_make_recipe(document, project, folder, files)
    )


def _list_files(folder: Path) -> list[str]:
    """Names of the files in a folder, also behind links; none where it cannot be listed."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    return [
        entry.name
        for entry in entries
        if entry.is_file(follow_symlinks=False) or (entry.is_symlink() and Path(entry.path).is_file())
    ]


def _make_recipe(document: Document, project: Path, folder: Path, files: Sequence[str]) -> Recipe:
    values = document.values
    targets = {}
    for target, table in values.get("targets", {"local": {}}).items():
        source = _parse_source(table.get("from", values.get("from")), target)
        assert not isinstance(source, str)
        targets[target] = TargetSpec(
            target=target,
            source=source,
            data=merge_data(values.get("data", {}), table.get("data", {})),
            settings={key: value for key, value in table.items() if key not in ("from", "data")},
        )
    timeout = parse_duration(values.get("timeout", 1800))
    tests = [name for name in files if _is_image_test(name)]
    return Recipe(
        name=folder.name,
        folder=str(folder),
        project=str(project),
        description=values.get("description", ""),
        targets=targets,
        secrets=tuple(values.get("secrets", ())),
        environment=tuple(values.get("environment", ())),
        inputs=tuple(values.get("inputs", ())),
        groups=tuple(values.get("groups", ())),
        workdir=values.get("workdir"),
        timeout=timeout,
        total_timeout=parse_duration(values.get("total_timeout", max(7200.0, timeout))),
        image_tests=tuple(f"{folder}/{name}" for name in sorted(tests)),
        limits={stage: parse_duration(value) for stage, value in values.get("limits", {}).items()},
        retries=values.get("retries"),
        max_age=values.get("max_age"),
        audit_allow=tuple(values.get("audit", {}).get("allow", ())),
        audit_ports=tuple(values.get("audit", {}).get("ports", ())),
    )


def _is_image_test(name: str) -> bool:
    return name.endswith(".py") and (name.startswith("test_") or name.endswith("_test.py"))


def parse_duration(value: float | str) -> float:
    """Seconds of ``90`` or ``"90s"``, ``"30m"``, ``"2h"``, ``"7d"``."""
    if isinstance(value, str):
        return float(value[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[value[-1]]
    return float(value)


def _parse_source(value: Any, target: str) -> Source | str:
    """The source, or what is wrong with it (to be said after ``from = VALUE``)."""
    if isinstance(value, dict):
        return (
            AmiSource(query=value) if target == "aws" else "finds an AMI, which only target aws starts from"
        )
    name, colon, suite = value.partition(":")
    if name in DISTRIBUTIONS:
        if target != "local":
            return f'only bootstraps the target local: give [targets.{target}] a "from" of its own'
        if not colon or not re.search(r"^[a-z][a-z0-9.-]*\Z", suite):
            return f'lacks the suite, as in "{name}:{"noble" if name == "ubuntu" else "trixie"}"'
        return Bootstrap(distribution=name, suite=suite)
    if name in TREE_FORMATS:
        if target != "local":
            return f'is only unpacked on the target local: give [targets.{target}] a "from" of its own'
        return _parse_tree(name, suite)
    try:
        return Reference.parse(value)
    except BadReference:
        return f"is not {FROM['title']}"


def _parse_tree(kind: str, rest: str) -> Source | str:
    path, colon, tag = rest.rpartition(":") if kind == "oci" and ":" in rest else (rest, "", "")
    if not path:
        example = "tar:images/root.tar.zst" if kind == "tar" else "oci:images/debian"
        return f'lacks the path, as in "{example}"'
    if colon and not re.search(r"^[A-Za-z0-9_][A-Za-z0-9._-]*\Z", tag):
        return f"ends in {describe(tag)}, which is no tag"
    return TreeSource(format=kind, path=path, tag=tag or None)


# --- checks that a schema cannot say ---------------------------------------------------------------


def _check_name(document: Document, name: str) -> Iterator[Problem]:
    if not RECIPE_NAME.match(name):
        rule = "lower-case letters and digits in words joined by -, a letter first"
        yield document.problem((), f'the folder\'s name "{name}" is no recipe name ({rule})')
    elif name in RESERVED_NAMES:
        yield document.problem((), f'the name "{name}" is reserved for a source: rename the folder')


def _check_values(document: Document, folder: Path) -> Iterator[Problem]:
    values = document.values
    targets = values.get("targets", {"local": {}})
    if not targets:
        yield document.problem(("targets",), '"targets" is empty: name one, or leave it out to mean local')
    for target, table in targets.items():
        own = "from" in table
        if not own and "from" not in values:
            example = (
                '"debian:trixie" or "base:latest"' if target == "local" else '"base:latest" or an AMI query'
            )
            message = f'"from" is missing: what target {target} starts from, such as {example}'
            yield document.problem(("targets", target), message)
            continue
        value = table["from"] if own else values["from"]
        source = _parse_source(value, target)
        path: KeyPath = ("targets", target, "from") if own else ("from",)
        if isinstance(source, AmiSource):
            for inside, message in check_ami_query(source.query):
                yield document.problem((*path, *inside), message)
        if isinstance(source, str):
            shown = "{…}" if isinstance(value, dict) else describe(value)
            yield document.problem(path, f"from = {shown} {source}")
        for path, value in find_dates(table.get("data", {}), ("targets", target, "data")):
            yield document.problem(path, f"{describe(value)} is a date or time: write it as text")
    for path, value in find_dates(values.get("data", {}), ("data",)):
        yield document.problem(path, f"{describe(value)} is a date or time: write it as text")
    for name in sorted(set(values.get("secrets", ())) & set(values.get("environment", ()))):
        message = f'"{name}" is a secret: it cannot be in "environment", whose values are in the fingerprint'
        yield document.problem(("environment", values["environment"].index(name)), message)
    if "workdir" in values and not (folder / values["workdir"]).is_dir():
        yield document.problem(("workdir",), f'"workdir" names no folder: {values["workdir"]}')
