"""image find, image tree."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli import groups
from baker.cli.comparing import file_json
from baker.cli.completion import complete_recipe
from baker.cli.images import Json, Ref, package_json
from baker.cli.wiring import Options, open_catalog
from baker.console import Console, show_age
from baker.errors import UsageError
from baker.model import Package, Reference

if TYPE_CHECKING:
    from baker.catalog.family import Relative
    from baker.catalog.finding import Findings, Found, Scope

LIMIT = 50
"""Images that are listed unless more are asked for."""

CELL = 4
"""Packages or files named in one line of a table."""

VERSIONS = 5
"""Versions of one recipe that a tree shows below one image, besides those that channels hold."""


def add_commands(_app: typer.Typer) -> None:
    groups.image.command("find")(find)
    groups.image.command("tree")(tree)


# --- find -------------------------------------------------------------------------------------------------


def find(
    context: typer.Context,
    package: Annotated[
        str | None,
        typer.Argument(metavar="[PACKAGE]", help="'openssl<3.0.15', 'openssl>=3.0,<3.0.15', 'lib*ssl*', …"),
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="PATH", help="A path, or a glob of paths.")
    ] = None,
    digest: Annotated[
        str | None,
        typer.Option("--digest", metavar="DIGEST", help="Of a build, an artifact, a layer, or a file."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="Only images of this recipe.", autocompletion=complete_recipe),
    ] = None,
    held: Annotated[bool, typer.Option("--held", help="Only what a channel or a lease holds.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Deleted images too.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="So many images, the newest.")] = LIMIT,
    check: Annotated[bool, typer.Option("--check", help="Exit with 3 if something is found.")] = False,
    as_json: Json = False,
) -> int:
    """Find the images that hold a package, a file or a digest, and who uses them.

    A package is looked up by its binary and its source name; versions are in the order of dpkg or rpm.
    """
    asked = [one for one in (package, file, digest) if one is not None]
    if len(asked) != 1:
        raise UsageError(
            "image find looks for one thing: a package, --file or --digest",
            hint="Ask like: baker image find 'openssl<3.0.15'",
        )
    from baker.catalog.finding import Scope
    from baker.versions import PackageQuestion

    question = PackageQuestion.parse(package) if package is not None else None
    options: Options = context.obj
    console = Console(as_json=as_json)
    scope = Scope(recipe=recipe, held=held, include_deleted=everything, limit=limit)
    with open_catalog(options.settings(), read_only=True) as catalog:
        if question is not None:
            findings = catalog.find_package(question, scope)
        elif file is not None:
            findings = catalog.find_file(file, scope)
        else:
            findings = catalog.find_digest(asked[0], scope)
        known = catalog.known_versions(question.name) if question and not findings.images else []
        description = catalog.description
    if as_json:
        console.result_json(findings_json(findings))
    elif findings.images:
        print_findings(console, findings)
        console.say(console.style(f"in {description}", "dim"))
    if not findings.images:
        console.say(f"no image{describe_scope(scope)} has {asked[0]}{describe_known(known)}")
    return 3 if check and findings.images else 0


def describe_scope(scope: Scope) -> str:
    of_recipe = f" of {scope.recipe}" if scope.recipe else ""
    return of_recipe + (" that a channel or a lease holds" if scope.held else "")


def describe_known(known: Sequence[Package]) -> str:
    """Which versions there are of what was asked for, if any."""
    if not known:
        return ""
    versions = list(dict.fromkeys(f"{package.name} {package.version}" for package in known))
    more = f" and {len(versions) - CELL} more" if len(versions) > CELL else ""
    return f"; the catalog knows {', '.join(versions[-CELL:])}{more}"


def print_findings(console: Console, findings: Findings) -> None:
    rows = [
        (
            found.reference,
            str(found.status),
            show_age(found.created),
            ", ".join((*found.channels, *found.leases)),
            describe_found(found),
        )
        for found in findings.images
    ]
    console.table(("IMAGE", "STATUS", "AGE", "USED BY", "FOUND"), rows)
    if not findings.exact or findings.total > len(findings.images):
        total = str(findings.total) if findings.exact else f"{findings.total} or more"
        console.say(f"The newest {len(findings.images)} of {total}; others: --limit N, --held, --recipe NAME")


def describe_found(found: Found) -> str:
    parts = [f"{package.name} {package.version}" for package in found.packages]
    parts += [f"{file.path} {file.digest[:12]}".rstrip() for file in found.files]
    parts += found.roles
    more = f" and {len(parts) - CELL} more" if len(parts) > CELL else ""
    return ", ".join(parts[:CELL]) + more


def findings_json(findings: Findings) -> dict[str, Any]:
    """Unless ``total_exact`` there may be more than ``total``."""
    return {
        "images": [
            {
                "reference": found.reference,
                "recipe": found.recipe,
                "version": found.version,
                "status": str(found.status),
                "created": found.created,
                "channels": list(found.channels),
                "leases": list(found.leases),
                "environments": list(found.environments),
                "packages": [package_json(package) for package in found.packages],
                "files": [file_json(file) for file in found.files],
                "roles": list(found.roles),
            }
            for found in findings.images
        ],
        "total": findings.total,
        "total_exact": findings.exact,
    }


# --- tree -------------------------------------------------------------------------------------------------

BOXES = ("├── ", "└── ", "│   ", "    ")
ASCII = ("|-- ", "`-- ", "|   ", "    ")


def tree(
    context: typer.Context,
    reference: Ref,
    up: Annotated[bool, typer.Option("--up", help="Only what it is built upon.")] = False,
    down: Annotated[bool, typer.Option("--down", help="Only what is built upon it.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every version, deleted ones too; else the newest few.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Draw what an image is built upon, and what is built upon it; outdated and revoked ones are marked."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    both = up == down
    with open_catalog(options.settings(), read_only=True) as catalog:
        image = catalog.resolve(Reference.parse(reference), allow_unusable=True)
        family = catalog.family(image.recipe, image.version, upwards=up or both, downwards=down or both)
    if as_json:
        console.result_json(
            {"image": image.reference, "family": [relative_json(one) for one in sort(family)]}
        )
        return 0
    for line in draw(family, image.reference, everything=everything, marks=choose_marks()):
        console.result(line)
    return 0


def choose_marks() -> Sequence[str]:
    """Boxes on a terminal that shows them, ASCII elsewhere."""
    encoding = (getattr(sys.stdout, "encoding", "") or "").lower().replace("-", "")
    return BOXES if sys.stdout.isatty() and encoding == "utf8" else ASCII


def sort(family: Mapping[str, Relative]) -> list[Relative]:
    return sorted(family.values(), key=lambda one: (one.recipe, -one.version))


def draw(
    family: Mapping[str, Relative], asked: str, *, everything: bool, marks: Sequence[str]
) -> Iterator[str]:
    """From the source down. What stands there twice has its descendants at the first place."""
    children: defaultdict[str, list[Relative]] = defaultdict(list)
    for one in sort(family):
        for parent in one.parents:
            children[parent].append(one)
    drawn: set[str] = set()

    def draw_below(one: Relative, indent: str) -> Iterator[str]:
        drawn.add(one.reference)
        found = children[one.reference]
        shown = found if everything else choose_shown(found, children, asked)
        lines: list[Relative | str] = [*shown, *describe_left_out(found, shown)]
        for place, child in enumerate(lines, 1):
            last = place == len(lines)
            mark, below = (marks[1], marks[3]) if last else (marks[0], marks[2])
            if isinstance(child, str):
                yield f"{indent}{mark}{child}"
            elif child.reference in drawn:
                yield f"{indent}{mark}{child.reference}  (see above)"
            else:
                yield f"{indent}{mark}{describe_relative(child, asked)}"
                yield from draw_below(child, indent + below)

    for root in [one for one in sort(family) if not one.parents]:
        source = ", ".join(root.sources)
        above = source and not any(one in family for one in root.sources)
        yield from (
            [source, f"{marks[1]}{describe_relative(root, asked)}"]
            if above
            else [describe_relative(root, asked)]
        )
        yield from draw_below(root, marks[3] if above else "")


def choose_shown(
    found: Sequence[Relative], children: Mapping[str, Sequence[Relative]], asked: str
) -> list[Relative]:
    """The newest few of each recipe, and those that channels hold or that lead to what is asked for."""
    counted: defaultdict[str, int] = defaultdict(int)
    shown = []
    for one in found:
        if one.status == "deleted" and not leads_to_living(one, children, asked):
            continue
        counted[one.recipe] += 1
        if counted[one.recipe] <= VERSIONS or one.channels or leads_to(one, children, asked):
            shown.append(one)
    return shown


def leads_to(one: Relative, children: Mapping[str, Sequence[Relative]], asked: str) -> bool:
    return one.reference == asked or any(
        leads_to(child, children, asked) for child in children.get(one.reference, ())
    )


def leads_to_living(one: Relative, children: Mapping[str, Sequence[Relative]], asked: str) -> bool:
    below = children.get(one.reference, ())
    return (
        one.reference == asked
        or one.status != "deleted"
        or any(leads_to_living(child, children, asked) for child in below)
    )


def describe_left_out(found: Sequence[Relative], shown: Sequence[Relative]) -> Iterator[str]:
    numbers: defaultdict[str, int] = defaultdict(int)
    for one in found:
        if one not in shown:
            numbers[one.recipe] += 1
    yield from (f"{number} more of {recipe}: --all" for recipe, number in numbers.items())


def describe_relative(one: Relative, asked: str) -> str:
    marks = [str(one.status)]
    if one.channels:
        marks.append(", ".join(one.channels))
    if one.newer:
        marks.append(f"outdated: {', '.join(one.newer)} is newer")
    if one.revoked_ancestors:
        marks.append(f"revoked ancestor {', '.join(one.revoked_ancestors)}")
    pointer = "  <-" if one.reference == asked else ""
    return "  ".join([one.reference, *marks]) + pointer


def relative_json(one: Relative) -> dict[str, Any]:
    return {
        "reference": one.reference,
        "recipe": one.recipe,
        "version": one.version,
        "status": str(one.status),
        "created": one.created,
        "channels": list(one.channels),
        "sources": list(one.sources),
        "parents": list(one.parents),
        "outdated": bool(one.newer),
        "newer": list(one.newer),
        "revoked_ancestors": list(one.revoked_ancestors),
    }
