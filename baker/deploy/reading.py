"""The folder ``environments/`` as Environment values, and everything that can be wrong with it.

Nothing is started and nothing is asked of a catalog or a provider. A problem names file, line and key.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import jinja2.nodes

from baker.deploy.environment import Environment, FirstBootFile, Health, Rollout
from baker.deploy.first_boot import (
    AWS_LIMIT,
    VARIABLES,
    check_rendered,
    make_environment,
    render_for,
)
from baker.deploy.schema import ENVIRONMENT_SCHEMA
from baker.deploy.side import FirstBoot, tell_facts
from baker.errors import EnvironmentFileError, EnvironmentNotFound
from baker.model import RECIPE_NAME, Recipe, Reference
from baker.recipes.data import find_dates
from baker.recipes.reading import parse_duration, read_recipe
from baker.toml_file import (
    Document,
    KeyPath,
    Problem,
    describe,
    find_problems,
    nearest,
    read_document,
)

FOLDER = "environments"
LONGEST_NAME = 40
"""A machine's name is longer by two numbers, and must be a host name."""

_OTHER_FILES = (jinja2.nodes.Include, jinja2.nodes.Import, jinja2.nodes.FromImport, jinja2.nodes.Extends)
_FUNCTIONS = ("range", "dict", "lipsum", "cycler", "joiner", "namespace")


def list_environments(project: Path) -> list[str]:
    """Names of the project's environments, sorted."""
    return sorted(path.stem for path in (project / FOLDER).glob("*.toml") if path.name[0] not in "._")


def load_environment(
    project: Path,
    name: str,
    *,
    recipes_folder: Path | None = None,
    base: Mapping[str, Mapping[str, Any]] | None = None,
) -> Environment:
    """One environment. ``base`` holds, by target, the settings that its own table goes over.

    Raises EnvironmentFileError: there is none of that name (offers the nearest), or one line per problem.
    """
    known = list_environments(project)
    if name not in known:
        hint = f"There are: {', '.join(known)}" if known else f"Write {FOLDER}/{name}.toml"
        raise EnvironmentNotFound(f'no environment "{name}" in {FOLDER}/{nearest(name, known)}', hint=hint)
    folder = recipes_folder or project / "recipes"
    read = _read(project, name)
    recipe_names = _list_recipes(folder)
    mine = [each for each in recipe_names if each == read.values.get("recipe")]
    recipes = {each: recipe for each in mine if (recipe := read_recipe(project, folder / each).recipe)}
    problems = [*_check(project, read, recipes, recipe_names)]
    if not problems:
        others = [_read(project, other) for other in known if other != name]
        problems = [problem for problem in _check_places([read, *others]) if problem.file == read.file]
    if problems or read.document is None:
        raise EnvironmentFileError(
            "\n".join(map(str, _sort(problems))), hint="Check them all: baker validate"
        )
    return _make_environment(read.document, name, base or {})


def validate_environments(
    project: Path, recipes: Mapping[str, Recipe], *, recipes_folder: Path | None = None
) -> list[Problem]:
    """Everything that is wrong with any environment, in the order of files and lines.

    ``recipes`` are the sound ones: what a broken recipe would say of its environments is not said.
    """
    known = {*_list_recipes(recipes_folder or project / "recipes"), *recipes}
    every = [_read(project, name) for name in list_environments(project)]
    problems = [problem for read in every for problem in _check(project, read, recipes, known)]
    return _sort([*problems, *_check_places(every)])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """One file. ``document`` is None where it does not parse; ``problems`` are those of its form."""

    name: str
    file: str
    document: Document | None
    problems: tuple[Problem, ...]

    @property
    def values(self) -> Mapping[str, Any]:
        return self.document.values if self.document else {}


def _read(project: Path, name: str) -> _Read:
    path = project / FOLDER / f"{name}.toml"
    document = read_document(path, project)
    file = f"{FOLDER}/{name}.toml"
    if isinstance(document, Problem):
        return _Read(name=name, file=file, document=None, problems=(document,))
    problems = tuple(find_problems(document, ENVIRONMENT_SCHEMA))
    return _Read(name=name, file=file, document=document, problems=problems)


def _list_recipes(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/recipe.toml"))


def _sort(problems: Collection[Problem]) -> list[Problem]:
    return sorted(set(problems), key=lambda problem: (problem.file, problem.line or 0, problem.message))


def _make_environment(document: Document, name: str, base: Mapping[str, Mapping[str, Any]]) -> Environment:
    values = document.values
    target = values["target"]
    audit = values.get("audit", {})
    settings = {**base.get(target, {}), **values.get(target, {})}
    if target == "local":
        settings["listen"] = settings["listen"].replace("localhost:", "127.0.0.1:")
    return Environment(
        name=name,
        file=document.file,
        description=values.get("description", ""),
        recipe=values["recipe"],
        image=Reference(
            recipe=values["recipe"], version=values.get("version"), channel=values.get("channel")
        ),
        target=target,
        machines=values.get("machines", 1),
        port=values.get("port", 80),
        health=_make_health(values.get("health", {})),
        rollout=_make_rollout(values.get("rollout", {})),
        first_boot=_make_first_boot(values),
        settings=settings,
        allow=tuple(audit.get("allow", ())),
        allow_ports=tuple(audit.get("ports", ())),
    )


def _make_health(table: Mapping[str, Any]) -> Health:
    times = _read_times(table, "interval", "timeout", "within")
    if "command" in table:
        return Health(path=None, command=tuple(table["command"]), **times)
    return Health(path=table.get("path", "/"), status=table.get("status", 200), **times)


def _make_rollout(table: Mapping[str, Any]) -> Rollout:
    times = _read_times(table, "soak", "watch", "window", "drain")
    others = {key: table[key] for key in ("batch",) if key in table}
    return Rollout(steps=tuple(table.get("steps", (100,))), **times, **others)


def _read_times(table: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: parse_duration(table[key]) for key in keys if key in table}


def _make_first_boot(values: Mapping[str, Any]) -> FirstBootFile | None:
    table = values.get("first_boot")
    if table is None:
        return None
    return FirstBootFile(
        template=table["template"],
        data=table.get("data", {}),
        secrets=tuple(table.get("secrets", ())),
        roles=tuple(table.get("roles", ())),
    )


# --- checks that a schema cannot say ---------------------------------------------------------------


def _check(
    project: Path, read: _Read, recipes: Mapping[str, Recipe], known: Collection[str]
) -> Iterator[Problem]:
    """``known`` are all recipes there are, ``recipes`` those whose targets are known."""
    yield from read.problems
    document = read.document
    if document is None:
        return
    if not RECIPE_NAME.match(read.name) or len(read.name) > LONGEST_NAME:
        rule = f"lower-case letters and digits in words joined by -, a letter first, at most {LONGEST_NAME}"
        yield Problem(file=read.file, message=f'the file\'s name "{read.name}" names no environment ({rule})')
    if read.problems:
        return
    values = document.values
    name, target = values["recipe"], values["target"]
    if name not in known:
        yield document.problem(("recipe",), f'recipe = "{name}": no recipe "{name}"{nearest(name, known)}')
    elif name in recipes and target not in recipes[name].targets:
        only = ", ".join(recipes[name].targets)
        message = f'target = "{target}": recipe {name} has no target {target} ({only} only)'
        yield document.problem(("target",), message)
    if "channel" in values and "version" in values:
        yield document.problem(("version",), '"channel" and "version" exclude each other: leave one out')
    yield from _check_health(document)
    yield from _check_steps(document)
    yield from _check_target(document)
    yield from _check_first_boot(project, document, read.name)


def _check_health(document: Document) -> Iterator[Problem]:
    table = document.values.get("health", {})
    if "command" in table:
        for key in ("path", "status"):
            if key in table:
                message = f'"health.{key}" and "health.command" exclude each other: leave one out'
                yield document.problem(("health", key), message)
        if not table["command"] or not table["command"][0].startswith("/"):
            message = '"health.command" must begin with the path of a program in the machine ("/usr/bin/…")'
            yield document.problem(("health", "command"), message)


def _check_steps(document: Document) -> Iterator[Problem]:
    steps = document.values.get("rollout", {}).get("steps", [100])
    if sorted(set(steps)) != steps or steps[-1:] != [100]:
        message = f'"rollout.steps" must ascend and end with 100, such as [10, 50, 100], not {steps}'
        yield document.problem(("rollout", "steps"), message)


def _check_target(document: Document) -> Iterator[Problem]:
    values = document.values
    needed = {"local": ("listen",), "aws": ("vpc", "load_balancer")}[values["target"]]
    examples = {"listen": '"127.0.0.1:8080"', "vpc": '"vpc-0123abcd"', "load_balancer": '"web"'}
    for key in needed:
        if key not in values.get(values["target"], {}):
            message = f'"{values["target"]}.{key}" is missing: target {values["target"]} needs it'
            yield document.problem((values["target"],), f"{message}, such as {key} = {examples[key]}")
    listen = values.get("local", {}).get("listen")
    if listen is not None and _parse_place(listen) is None:
        message = f'"local.listen" must be an address of this host and a port, not "{listen}"'
        yield document.problem(("local", "listen"), message)


def _parse_place(listen: str) -> tuple[str, int] | None:
    host, _, port = listen.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if host.startswith("[") != (address.version == 6) or not 0 < int(port) < 65536:
        return None
    return str(address), int(port)


def _check_places(every: Collection[_Read]) -> Iterator[Problem]:
    """Two that would listen at the same place of this host; an address of all is that of each."""
    places = {}
    for read in every:
        if read.document and not read.problems and read.values["target"] == "local":
            place = _parse_place(read.values.get("local", {}).get("listen", ""))
            if place:
                places[read.name] = place, read.document
    for name, ((address, port), document) in places.items():
        for other, ((theirs, their_port), _) in places.items():
            same = address == theirs or any(
                ipaddress.ip_address(one).is_unspecified for one in (address, theirs)
            )
            if name != other and port == their_port and same:
                message = f'"local.listen": environment {other} listens on port {port} there too'
                yield document.problem(("local", "listen"), message)


# --- first boot -----------------------------------------------------------------------------------


def _check_first_boot(project: Path, document: Document, name: str) -> Iterator[Problem]:
    file = _make_first_boot(document.values)
    if file is None:
        return
    dates = [*find_dates(file.data, ("first_boot", "data"))]
    for path, value in dates:
        yield document.problem(path, f"{describe(value)} is a date or time: write it as text")
    problem = _check_file(project, document, file.template)
    if problem:
        yield problem
        return
    text = (project / file.template).read_text(encoding="utf-8")
    problems = sorted({*_check_template(file.template, text)})
    yield from problems
    if not problems and not dates and not file.secrets:
        for message in _try_template(document.values, file, name, text):
            yield document.problem(("first_boot", "template"), message)


def _check_file(project: Path, document: Document, template: str) -> Problem | None:
    path = (project / template).resolve()
    place: KeyPath = ("first_boot", "template")
    if not path.is_relative_to(project.resolve()):
        return document.problem(place, f'"first_boot.template" leads out of the project: {template}')
    if not path.is_file():
        return document.problem(place, f'"first_boot.template" names no file: {template}')
    try:
        path.read_text(encoding="utf-8")
    except OSError as error:
        return Problem(file=template, message=f"cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        return Problem(file=template, message="is not UTF-8 text")
    return None


def _check_template(template: str, text: str) -> Iterator[Problem]:
    """What is wrong before anything is put in: syntax, other files, names that there are not."""
    try:
        tree = make_environment().parse(text)
        make_environment().from_string(text)
    except jinja2.TemplateSyntaxError as error:
        yield Problem(file=template, line=error.lineno, message=f"is no Jinja2 template: {error.message}")
        return
    except jinja2.TemplateError as error:
        yield Problem(file=template, message=f"is no Jinja2 template: {error.message}")
        return
    for node in tree.find_all(_OTHER_FILES):
        word = {"FromImport": "import"}.get(type(node).__name__, type(node).__name__.lower())
        message = (
            f'"{word}" of another file: a first-boot template stands alone, for a machine is made again also '
            "where the project is not there"
        )
        yield Problem(file=template, line=node.lineno, message=message)
    for name in jinja2.meta.find_undeclared_variables(tree) - {*VARIABLES, *_FUNCTIONS}:
        lines = [node.lineno for node in tree.find_all(jinja2.nodes.Name) if node.name == name]
        offered = nearest(name, VARIABLES) or f" (known: {', '.join(VARIABLES)})"
        line = min(lines, default=None)
        yield Problem(file=template, line=line, message=f'unknown variable "{name}"{offered}')


def _try_template(values: Mapping[str, Any], file: FirstBootFile, name: str, text: str) -> list[str]:
    """What is wrong with what some machine would be told. Not asked of a template with secrets: what their
    values come to is known only to who has them."""
    facts = tell_facts(values["target"], name, "1-1", file.roles)
    side = {
        "environment": name,
        "release": 1,
        "image": f"{values['recipe']}:1",
        "port": values.get("port", 80),
    }
    first_boot = FirstBoot(template=file.template, text=text, data=file.data, secrets={}, roles=file.roles)
    try:
        rendered = render_for(first_boot, facts, side)
    except EnvironmentFileError as error:
        return [str(error)]
    return check_rendered(rendered, file.template, limit=AWS_LIMIT if values["target"] == "aws" else None)
