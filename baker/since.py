"""Which recipes a git diff touches: what changed since a commit, against what each recipe's builds read.

A path counts where the newest builds of a recipe depend on it (see ``baker.fingerprint``), where it lies in
the recipe's folder, and where its declared ``inputs`` match it. Whoever is built upon a touched recipe is
touched too. One recipe too many does no harm, since the plan says ``unchanged`` for it; one too few would.
Files that git ignores are not seen.
"""

# Paths are text in this file, as git and inputs have them.
# ruff: noqa: PTH114, PTH118, PTH120

from __future__ import annotations

import fnmatch
import graphlib
import itertools
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from baker.errors import HostError, UsageError
from baker.git import run_git
from baker.model import Build, Recipe, Reference, TreeSource
from baker.project_files import LISTINGS, TRACED_KINDS, is_litter
from baker.settings import PROJECT_FILE, Settings, target_settings

ADDED, REMOVED, CHANGED = "was added", "was removed", "changed"
PATH_KINDS = {"recipe", "input", *TRACED_KINDS} - {"package", *LISTINGS}
SHOWN_REASONS = 3
FULL_HISTORY = "In CI, check out the full history (fetch-depth: 0, GIT_DEPTH: 0) and fetch the branch."


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """How the work tree, untracked files included, differs from where HEAD left ``ref``.

    Paths start at the project. ``paths`` says of every file that differs in which way (ADDED, REMOVED,
    CHANGED); ``moved`` are the files and folders that are there, as such, only before or only after.
    """

    ref: str
    base: str
    paths: Mapping[str, str]
    moved: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Touched:
    """A recipe, and in words what touches it."""

    recipe: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The touched recipes, parents first. ``notes`` say what was left out."""

    touched: tuple[Touched, ...]
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [one.recipe for one in self.touched]


def newest_builds(
    recipes: Mapping[str, Recipe],
    usable_builds: Callable[[str, str, str], Sequence[Build]],
    archs: Callable[[Recipe, str], Sequence[str]],
) -> dict[str, list[Build]]:
    """Each recipe's newest build of every target and architecture.

    ``usable_builds`` is the catalog's: what a build read counts also where it lies on another host.
    """
    return {
        name: [
            build
            for target in recipe.targets
            for arch in archs(recipe, target)
            for build in usable_builds(name, target, arch)[:1]
        ]
        for name, recipe in recipes.items()
    }


def describe_touched(touched: Touched) -> str:
    """The reasons in one line."""
    more = len(touched.reasons) - SHOWN_REASONS
    return "; ".join(touched.reasons[:SHOWN_REASONS]) + (f"; and {more} more" if more > 0 else "")


# --- what changed --------------------------------------------------------------------------------


def list_changes(project: Path, ref: str) -> Changes:
    """Raises UsageError outside a work tree, for an unknown commit, and where history is cut off."""
    base = _find_base(project, ref)
    told = _split(
        _run_git(project, "diff", "--name-status", "-z", "--no-renames", "--relative", base, "--", ".")
    )
    differing = list(zip(told[::2], told[1::2], strict=True))
    words = {"A": ADDED, "D": REMOVED}
    paths = {path: words.get(letter, CHANGED) for letter, path in differing}
    for path in _split(_run_git(project, "ls-files", "--others", "--exclude-standard", "-z")):
        path = path.rstrip("/")  # a repository within this one is listed as a folder
        paths[path] = CHANGED if path in paths else ADDED
    before = set(_split(_run_git(project, "ls-tree", "-r", "--name-only", "-z", base)))
    gone = {path for path, word in paths.items() if word == REMOVED}
    new = {path for path, word in paths.items() if word == ADDED}
    moved = _with_folders(before) ^ _with_folders((before - gone) | new)
    moved |= {
        path for letter, path in differing if letter == "T"
    }  # a link where a file was, or the other way
    return Changes(ref=ref, base=base, paths=paths, moved=frozenset(moved))


def _find_base(project: Path, ref: str) -> str:
    if _ask_git(project, "rev-parse", "--is-inside-work-tree") != "true":
        raise UsageError(
            f"{project} is not in a git work tree: nobody knows what changed since {ref}",
            hint="--since needs the project checked out by git.",
        )
    if ref.startswith("-") or not _is_commit(project, ref):
        remote = f"origin/{ref}"
        hint = f"Did you mean --since {remote}?" if _is_commit(project, remote) else FULL_HISTORY
        raise UsageError(f"git knows no commit {ref!r} here", hint=hint)
    base = _ask_git(project, "merge-base", ref, "HEAD")
    if base is None:
        shallow = _ask_git(project, "rev-parse", "--is-shallow-repository") == "true"
        raise UsageError(
            f"HEAD and {ref} have no commit in common"
            + (": this is a shallow clone, whose history is cut off" if shallow else ""),
            hint=FULL_HISTORY if shallow else "Name a commit that HEAD descends from.",
        )
    return base


def _is_commit(project: Path, ref: str) -> bool:
    return _ask_git(project, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}") is not None


def _ask_git(project: Path, *arguments: str) -> str | None:
    """What git says; None if it says no."""
    done = _start_git(project, *arguments)
    return os.fsdecode(done.stdout).strip() if done.returncode == 0 else None


def _run_git(project: Path, *arguments: str) -> str:
    done = _start_git(project, *arguments)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise HostError(f"git {arguments[0]} failed in {project}: {said or f'exit code {done.returncode}'}")
    return os.fsdecode(done.stdout)


def _start_git(project: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return run_git(project, *arguments)
    except FileNotFoundError as error:
        raise HostError(
            "--since needs git, which is not installed", hint="Debian: apt-get install git"
        ) from error


def _split(text: str) -> list[str]:
    return text.split("\0")[:-1]


def _with_folders(files: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in files:
        while path and path not in found:
            found.add(path)
            path = path.rpartition("/")[0]
    return found


# --- whom it touches --------------------------------------------------------------------------------


def find_touched(
    changes: Changes,
    recipes: Mapping[str, Recipe],
    builds: Mapping[str, Sequence[Build]],
    settings: Settings,
) -> Selection:
    """The recipes that the changes touch, and those built upon them.

    ``builds`` holds each recipe's newest ones (``newest_builds``). Looks at the project only to see through
    symbolic links: git names what lies behind them.
    """
    project = str(settings.project)
    index = _Index(changes, project)
    parents = {name: _list_parents(recipe, recipes) for name, recipe in sorted(recipes.items())}
    touched: dict[str, Touched] = {}
    for name in graphlib.TopologicalSorter(parents).static_order():
        reasons = dict.fromkeys(_judge(recipes[name], builds.get(name, ()), index, settings))
        for parent in parents[name]:
            if parent in touched:
                reasons[f"it is built upon {parent}, which is touched"] = None
        if reasons:
            touched[name] = Touched(recipe=name, reasons=tuple(reasons))
    folder = os.path.relpath(settings.recipes or f"{project}/recipes", project)
    notes = tuple(_list_deleted(changes, recipes, folder))
    return Selection(touched=tuple(touched.values()), notes=notes)


def _judge(recipe: Recipe, builds: Sequence[Build], index: _Index, settings: Settings) -> Iterator[str]:
    if PROJECT_FILE in index.changes.paths:
        yield f"{index.tell(PROJECT_FILE)}, whose settings may concern every recipe"
    folder = os.path.relpath(recipe.folder, recipe.project)
    yield from index.find_below(folder)
    for pattern in recipe.inputs:
        yield from index.find_matching(pattern)
    for path in _list_sources(recipe, settings):
        yield from index.find_at(path)
        yield from index.find_below(path)
    if not builds:
        yield "what it reads is not known: it has no usable build"
    for build in builds:
        if not build.provenance.inputs:
            yield "what it reads is not known: its build does not tell what it was made of"
        if build.provenance.opaque and not recipe.inputs:
            yield f"what it reads cannot be told: {build.provenance.opaque}"
        for key in build.provenance.inputs:
            kind, _, path = key.partition(":")
            if kind in LISTINGS:
                yield from index.find_listed(path)
            elif kind in PATH_KINDS:
                yield from index.find_at(f"{folder}/{path}" if kind == "recipe" else path)


def _list_parents(recipe: Recipe, recipes: Mapping[str, Recipe]) -> list[str]:
    """Followed or pinned: whether a bake of the parent moves what it is pinned to is for the plan to say."""
    sources = [spec.source for spec in recipe.targets.values()]
    return sorted({source.recipe for source in sources if isinstance(source, Reference)} & recipes.keys())


def _list_sources(recipe: Recipe, settings: Settings) -> Iterator[str]:
    """Files and folders of the project that its targets start from or install from."""
    for spec in recipe.targets.values():
        if isinstance(spec.source, TreeSource):
            yield os.path.normpath(spec.source.path)
        for repository in target_settings(settings, spec).get("repositories", ()):
            for path in (repository["uri"], repository["keyring"]):
                if ":" not in path:
                    yield os.path.normpath(path)


def _list_deleted(changes: Changes, recipes: Mapping[str, Recipe], folder: str) -> Iterator[str]:
    for path, word in sorted(changes.paths.items()):
        name, _, rest = os.path.relpath(path, folder).partition("/")
        if word == REMOVED and rest == "recipe.toml" and name not in recipes:
            yield f"{path} was removed: the recipe {name} is gone, and nothing is baked for it"


class _Index:
    """The changes by where they are."""

    def __init__(self, changes: Changes, project: str) -> None:
        self.changes = changes
        self._project = project
        self._real: dict[str, str] = {}
        self._below: dict[str, list[str]] = {}
        for path in sorted(changes.paths):
            if not is_litter(path):
                for folder in _list_above(path):
                    self._below.setdefault(folder, []).append(path)
        self._moved_in: dict[str, list[str]] = {}
        for path in sorted(changes.moved):
            if not is_litter(path):
                self._moved_in.setdefault(os.path.dirname(path) or ".", []).append(path)

    def tell(self, path: str) -> str:
        there = os.path.lexists(os.path.join(self._project, path))
        word = self.changes.paths.get(path) or (ADDED if there else REMOVED)
        # A name is what somebody made it: it may be no text, and hold line breaks.
        shown = os.fsencode(path).decode(errors="backslashreplace")
        return f"{shown if shown.isprintable() else repr(shown)} {word}"

    def find_at(self, path: str) -> Iterator[str]:
        """The path itself, or a link or submodule above it."""
        real = self._find_real(path)
        for place in {path: None, real: None}:
            if place in self.changes.moved:
                yield self.tell(place)
            for above in (place, *_list_above(place)):
                if above in self.changes.paths:
                    yield self.tell(above)

    def find_below(self, folder: str) -> Iterator[str]:
        for place in {folder: None, self._find_real(folder): None}:
            yield from map(self.tell, self._below.get(place, ()))

    def find_listed(self, folder: str) -> Iterator[str]:
        for place in {folder: None, self._find_real(folder): None}:
            for path in self._moved_in.get(place, ()):
                where = "the project's folder" if place == "." else place
                yield f"{self.tell(path)}, and it lists {where}"

    def find_matching(self, pattern: str) -> Iterator[str]:
        """What a glob of ``inputs`` matches; a folder that it matches stands for everything below it."""
        parts = [part for part in pattern.split("/") if part not in ("", ".")]
        literal = list(itertools.takewhile(lambda part: not re.search(r"[*?[]", part), parts))
        real = self._find_real("/".join(literal)).split("/") if literal else []
        for path in sorted(self.changes.paths):
            names = path.split("/")
            beginnings = [names[:end] for end in range(len(names) + 1)]
            globs = (parts, [*real, *parts[len(literal) :]])
            if not is_litter(path) and any(_matches(names, glob) for names in beginnings for glob in globs):
                yield self.tell(path)

    def _find_real(self, path: str) -> str:
        """Where a path of the project leads, as git would name it."""
        if path not in self._real:
            absolute = os.path.join(self._project, path)
            above, _, name = path.rpartition("/")
            if os.path.islink(absolute):
                self._real[path] = os.path.relpath(
                    os.path.realpath(absolute), os.path.realpath(self._project)
                )
            else:
                self._real[path] = os.path.normpath(f"{self._find_real(above)}/{name}") if above else path
        return self._real[path]


def _list_above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _matches(names: Sequence[str], glob: Sequence[str]) -> bool:
    """As ``Path.glob`` has it, of a path that need not be there any more."""
    if not glob:
        return not names
    if glob[0] == "**":
        return any(_matches(names[start:], glob[1:]) for start in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], glob[0]) and _matches(names[1:], glob[1:])
