"""What is configured, as one frozen value.

Flag > BAKER_* variable > recipe's target table > baker.toml > default. The variables are ``BAKER_HOME``,
``BAKER_CATALOG``, ``BAKER_ACTOR`` and, for every key of a target's table, ``BAKER_LOCAL_KEY`` and
``BAKER_AWS_KEY`` (``BAKER_LOCAL_MIRROR`` is ``mirror`` of ``[local]``). An empty one counts as unset.
Without ``BAKER_ACTOR`` it is whoever started the job of a CI, then ``SUDO_USER`` or ``USER``.

The default of ``BAKER_HOME`` is /var/lib/baker for root, and for everybody where it is there; else it is a
user's own ``$XDG_DATA_HOME/baker`` (``~/.local/share/baker`` unless set). ``BAKER_SANDBOX`` is no setting of
a project: see ``baker.configurer.sandbox``.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baker.errors import SettingsError, UsageError
from baker.model import CHANNEL_NAME, LATEST, TargetSpec
from baker.project_schema import PROJECT_SCHEMA, RESULT_SETTINGS, TARGET_SETTINGS
from baker.toml_file import Document, Problem, describe, find_problems, nearest, read_document

PROJECT_FILE = "baker.toml"
DEFAULT_HOME = "/var/lib/baker"
TARGETS = ("aws", "local")

CI_ACTORS: Mapping[str, str] = {
    "GITHUB_ACTIONS": "GITHUB_ACTOR",  # Gitea and Forgejo set them too
    "GITLAB_CI": "GITLAB_USER_LOGIN",
    "BUILDKITE": "BUILDKITE_BUILD_CREATOR",
    "CIRCLECI": "CIRCLE_USERNAME",
    "DRONE": "DRONE_COMMIT_AUTHOR",
    "JENKINS_URL": "BUILD_USER_ID",  # by its plugin build-user-vars
    "TF_BUILD": "BUILD_REQUESTEDFOR",  # Azure Pipelines
}
"""The variable by which a CI says that it is one, and the one that says who started the job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything that is configured. Paths are absolute; ``project`` and ``recipes`` are None outside one.

    ``bake``, ``channels``, ``clean``, ``nightly`` and ``retention`` are baker.toml's tables of that name,
    ``local`` and ``aws`` are its tables over the defaults. ``variables`` holds, per target, what BAKER_*
    variables say; see ``target_settings`` for the whole.
    """

    home: Path
    catalog_url: str
    actor: str
    project: Path | None = None
    recipes: Path | None = None
    local: Mapping[str, Any] = field(default_factory=dict)
    aws: Mapping[str, Any] = field(default_factory=dict)
    bake: Mapping[str, Any] = field(default_factory=dict)
    channels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    clean: Mapping[str, str] = field(default_factory=dict)
    nightly: Mapping[str, Any] = field(default_factory=dict)
    retention: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def named_channels(self) -> frozenset[str]:
        """The channels that baker.toml names: they are there to stay."""
        gate = self.nightly.get("gate")
        return frozenset([*self.channels, *self.nightly.get("promote", ()), *([gate] if gate else [])])


def find_project(start: Path, explicit: Path | None = None) -> Path:
    """The folder with baker.toml: ``explicit``, or the first one from ``start`` upwards.

    Raises UsageError.
    """
    if explicit is not None:
        if (explicit / PROJECT_FILE).is_file():
            return explicit.resolve()
        raise UsageError(
            f"{explicit} is not a project: it has no {PROJECT_FILE}",
            hint=f"--project takes the folder that holds {PROJECT_FILE}",
        )
    start = start.resolve()
    for folder in (start, *start.parents):
        if os.path.isfile(folder / PROJECT_FILE):  # noqa: PTH113 (Path.is_file raises where it may not look)
            return folder
    raise UsageError(
        f"no {PROJECT_FILE} in {start} or in any folder above it",
        hint="Change into a project, or name one with --project FOLDER",
    )


def load_settings(
    project: Path | None,
    environ: Mapping[str, str],
    *,
    home: Path | None = None,
    catalog_url: str | None = None,
    actor: str | None = None,
) -> Settings:
    """Settings of a project, or of none for commands that need none. The keywords are flags.

    Raises SettingsError with every problem of baker.toml by file, line and key, or with the variable.
    """
    variables = {name: value for name, value in environ.items() if value}
    document = _read_project(project) if project else None
    table: Mapping[str, Any] = document.values if document else {}
    chosen_home = Path(home or variables.get("BAKER_HOME") or find_default_home(variables))
    chosen_home = chosen_home.expanduser().absolute()
    return Settings(
        home=chosen_home,
        catalog_url=catalog_url
        or _check_catalog_variable(variables.get("BAKER_CATALOG"))
        or _anchor_catalog(table.get("catalog"), project)
        or f"sqlite:///{chosen_home}/catalog.db",
        actor=actor or _find_actor(variables),
        project=project,
        recipes=project / table.get("recipes", "recipes") if project else None,
        local={**_find_proxy(variables), **table.get("local", {})},
        aws=dict(table.get("aws", {})),
        bake=dict(table.get("bake", {})),
        channels=dict(table.get("channels", {})),
        clean=dict(table.get("clean", {})),
        nightly=dict(table.get("nightly", {})),
        retention=dict(table.get("retention", {})),
        variables={target: _target_variables(target, variables) for target in TARGETS},
    )


def find_default_home(variables: Mapping[str, str]) -> str:
    """Where baker keeps its things unless somebody says otherwise; see above."""
    if os.geteuid() == 0 or os.path.isdir(DEFAULT_HOME):  # noqa: PTH112 - as in find_project
        return DEFAULT_HOME
    data = variables.get("XDG_DATA_HOME", "")
    if not data.startswith("/"):  # by its specification a relative one does not count
        own = variables.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 - Path raises where there is none
        data = f"{own}/.local/share"
    return f"{data}/baker" if data.startswith("/") else DEFAULT_HOME


def target_settings(settings: Settings, spec: TargetSpec) -> dict[str, Any]:
    """What holds for one recipe on one target, after the precedence above."""
    tables: Mapping[str, Mapping[str, Any]] = {"local": settings.local, "aws": settings.aws}
    return {**tables[spec.target], **spec.settings, **settings.variables.get(spec.target, {})}


def result_settings(target: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``target_settings`` that can change a build: what its fingerprint covers."""
    return {key: value for key, value in values.items() if key in RESULT_SETTINGS[target]}


def _read_project(project: Path) -> Document:
    document = read_document(project / PROJECT_FILE, project)
    problems = [document] if isinstance(document, Problem) else list(find_problems(document, PROJECT_SCHEMA))
    if not problems and isinstance(document, Document):
        recipes = (project / document.values.get("recipes", "recipes")).resolve()
        if not recipes.is_relative_to(project.resolve()):
            message = f'"recipes" must be a folder of the project, not "{document.values["recipes"]}"'
            problems.append(document.problem(("recipes",), message))
        problems += _check_channels(document)
    if problems or isinstance(document, Problem):
        raise SettingsError("\n".join(str(problem) for problem in sorted(problems)))
    return document


def _check_channels(document: Document) -> Iterator[Problem]:
    for name, gate in document.values.get("channels", {}).items():
        place = ("channels", name)
        if name == LATEST or not CHANNEL_NAME.match(name):
            message = f'"{name}" is not the name of a channel: name it like dev or prod-eu'
            yield document.problem(place, message)
        if "soak" in gate and "after" not in gate:
            message = f'"channels.{name}.soak" needs "after": in which channel'
            yield document.problem((*place, "soak"), message)
        if gate.get("after") in (name, LATEST):
            message = f'"channels.{name}.after" must be another channel, not "{gate["after"]}"'
            yield document.problem((*place, "after"), message)


def _check_catalog_variable(url: str | None) -> str | None:
    pattern = PROJECT_SCHEMA["properties"]["catalog"]
    if url and not re.search(pattern["pattern"], url):
        scheme = url.partition(":")[0]  # never the whole: it may hold a password
        raise SettingsError(f'BAKER_CATALOG must be {pattern["title"]}, not "{scheme}:…"')
    return url


def _anchor_catalog(url: str | None, project: Path | None) -> str | None:
    """A relative SQLite path in baker.toml starts at the project, wherever the command runs."""
    prefix = "sqlite:///"
    if url and project and url.startswith(prefix) and not url.startswith(f"{prefix}/"):
        return f"{prefix}{project}/{url.removeprefix(prefix)}"
    return url


def _find_actor(variables: Mapping[str, str]) -> str:
    started = [actor for mark, actor in CI_ACTORS.items() if variables.get(mark, "false").lower() != "false"]
    for name in ("BAKER_ACTOR", *started, "SUDO_USER", "USER"):
        if name in variables:
            return variables[name]
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _find_proxy(variables: Mapping[str, str]) -> dict[str, str]:
    proxy = variables.get("http_proxy") or variables.get("HTTP_PROXY")
    return {"http_proxy": proxy} if proxy else {}


def _target_variables(target: str, variables: Mapping[str, str]) -> dict[str, Any]:
    prefix, schemas = f"BAKER_{target.upper()}_", TARGET_SETTINGS[target]
    found: dict[str, Any] = {}
    for name, value in variables.items():
        if not name.startswith(prefix):
            continue
        key = name.removeprefix(prefix).lower()
        if key not in schemas:
            offered = nearest(name, [prefix + known.upper() for known in schemas])
            raise SettingsError(f"unknown variable {name}{offered}")
        if "pattern" not in schemas[key]:
            raise SettingsError(f"{name}: {key} is {schemas[key]['title']}: set it in {PROJECT_FILE}")
        if not re.search(schemas[key]["pattern"], value):
            raise SettingsError(f"{name} must be {schemas[key]['title']}, not {describe(value)}")
        found[key] = value == "true" if schemas[key].get("type") == "boolean" else value
    return found
