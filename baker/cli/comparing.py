"""image diff: what changed from one image to another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli import groups
from baker.cli.images import Json, Ref, package_json
from baker.cli.wiring import Options, open_catalog
from baker.console import Console, show_size
from baker.errors import BadReference, UsageError
from baker.model import Build, FileEntry, Image, Package, Reference, shorten_digest

if TYPE_CHECKING:
    from baker.comparing import ManifestDifference, Notable, PackageChange

SHOWN = 20
"""Notable files in the short form."""

INPUTS = 8
"""Inputs of a recipe that are named; JSON has them all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Two images by one build of each. ``inputs`` says in words what differs of what they were made from."""

    old: Image
    new: Image
    old_build: Build
    new_build: Build
    content: ManifestDifference
    notable: Sequence[Notable]
    inputs: Sequence[str]
    tools: Sequence[str]

    @property
    def source_moved(self) -> bool:
        one, other = self.old_build.provenance, self.new_build.provenance
        return (one.source, one.source_digest) != (other.source, other.source_digest)

    @property
    def differs(self) -> bool:
        return not self.content.empty or self.old_build.digest != self.new_build.digest


def add_commands(_app: typer.Typer) -> None:
    groups.image.command("diff")(diff)


def diff(
    context: typer.Context,
    old: Ref,
    new: Ref,
    target: Annotated[
        str | None, typer.Option("--target", help="local or aws; else the first that both have.")
    ] = None,
    arch: Annotated[str | None, typer.Option("--arch", help="amd64, arm64, …")] = None,
    files: Annotated[bool, typer.Option("--files", help="List every changed file.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="For a pull request.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 3 if they differ.")] = False,
    as_json: Json = False,
) -> int:
    """Show what changed from one image to another: packages, files, size, and what they were made from."""
    if markdown and as_json:
        raise UsageError("--markdown and --json do not go together")
    options: Options = context.obj
    console = Console(as_json=as_json)
    with open_catalog(options.settings(), read_only=True) as catalog:
        old_image = catalog.resolve(Reference.parse(old), allow_unusable=True)
        new_image = catalog.resolve(Reference.parse(new), allow_unusable=True)
        old_build, new_build = choose_builds(old_image, new_image, target, arch)
        content = catalog.compare(old_build.id, new_build.id)
    compared = describe_builds(old_image, new_image, old_build, new_build, content)
    if as_json:
        console.result_json(compared_json(compared))
    elif markdown:
        console.result("\n".join(write_markdown(compared, files)))
    else:
        for line in write_lines(compared, files):
            console.result(line)
    return 3 if check and compared.differs else 0


def choose_builds(old: Image, new: Image, target: str | None, arch: str | None) -> tuple[Build, Build]:
    """The builds of the first target and architecture that both have. Raises BadReference."""
    for build in new.builds:
        if target in (None, build.target) and arch in (None, build.arch):
            before = old.build_for(build.target, build.arch)
            if before is not None:
                return before, build
    wanted = f"{target or 'any target'}/{arch or 'any architecture'}"
    has = "; ".join(
        f"{image.reference} has {', '.join(f'{one.target}/{one.arch}' for one in image.builds) or 'none'}"
        for image in (old, new)
    )
    raise BadReference(f"{old.reference} and {new.reference} have no builds to compare for {wanted} ({has})")


def describe_builds(
    old: Image, new: Image, old_build: Build, new_build: Build, content: ManifestDifference
) -> Compared:
    from baker.comparing import find_notable
    from baker.fingerprint import explain

    one, other = old_build.provenance, new_build.provenance
    # Tools are told apart from inputs, and the source is on a line of its own.
    before, after = (
        {key: value for key, value in origin.inputs.items() if key != "source" and key[:5] != "tool:"}
        for origin in (one, other)
    )
    tools = [
        f"{name} {one.tools.get(name, 'none')} -> {other.tools.get(name, 'none')}"
        for name in sorted(one.tools.keys() | other.tools.keys())
        if one.tools.get(name) != other.tools.get(name)
    ]
    return Compared(
        old=old,
        new=new,
        old_build=old_build,
        new_build=new_build,
        content=content,
        notable=find_notable(content),
        inputs=[reason.detail for reason in explain(before, after)],
        tools=tools,
    )


# --- for people -------------------------------------------------------------------------------------------


def write_lines(compared: Compared, files: bool) -> Iterator[str]:
    content = compared.content
    place = f"{compared.new_build.target}/{compared.new_build.arch}"
    yield f"{compared.old.reference} -> {compared.new.reference}  {place}"
    if not compared.differs:
        yield "  the same content"
    for name, value in list_facts(compared):
        yield f"  {name:<9} {value}"
    yield from (f"    + {show_package(package)}" for package in content.packages_added)
    yield from (f"    - {show_package(package)}" for package in content.packages_removed)
    yield from (f"    ^ {show_change(change)}" for change in content.packages_upgraded)
    yield from (f"    v {show_change(change)}" for change in content.packages_downgraded)
    if compared.notable:
        yield "  to look at"
        shown = compared.notable if files else compared.notable[:SHOWN]
        yield from (f"    {one.path}  {one.detail}" for one in shown)
        if len(shown) < len(compared.notable):
            yield f"    and {len(compared.notable) - len(shown)} more: --files"
    if files:
        yield "  files"
        yield from (f"    {sign} {text}" for sign, text in list_files(content))


def list_facts(compared: Compared) -> Iterator[tuple[str, str]]:
    """Counts, and what the builds were made from as far as it differs."""
    content = compared.content
    one, other = compared.old_build, compared.new_build
    if compared.differs:
        packages = {
            "added": content.packages_added,
            "removed": content.packages_removed,
            "upgraded": content.packages_upgraded,
            "downgraded": content.packages_downgraded,
        }
        yield "packages", count(packages)
        yield (
            "files",
            count(
                {
                    "added": content.files_added,
                    "removed": content.files_removed,
                    "changed": content.files_changed,
                }
            ),
        )
        sign = "+" if content.size_delta >= 0 else "-"
        yield "content", f"{sign}{show_size(abs(content.size_delta))}"
    if one.size_bytes != other.size_bytes:
        yield "size", f"{show_size(one.size_bytes)} -> {show_size(other.size_bytes)}"
    if compared.source_moved:
        yield "source", f"{show_source(one)} -> {show_source(other)}"
    if compared.inputs:
        more = f"; and {len(compared.inputs) - INPUTS} more" if len(compared.inputs) > INPUTS else ""
        yield "recipe", "; ".join(compared.inputs[:INPUTS]) + more
    if compared.tools:
        yield "tools", ", ".join(compared.tools)


def count(changes: Mapping[str, Sequence[object]]) -> str:
    return ", ".join(f"{len(found)} {verb}" for verb, found in changes.items() if found) or "the same"


def show_source(build: Build) -> str:
    return f"{build.provenance.source} ({shorten_digest(build.provenance.source_digest)})"


def show_package(package: Package) -> str:
    return f"{package.name} {package.version} {package.arch}"


def show_change(change: PackageChange) -> str:
    return f"{change.new.name} {change.old.version} -> {change.new.version} {change.new.arch}"


def list_files(content: ManifestDifference) -> Iterator[tuple[str, str]]:
    """Every changed path with a sign before it, sorted by path."""
    listed = [(file.path, "+", show_file(file)) for file in content.files_added]
    listed += [(file.path, "-", file.path) for file in content.files_removed]
    listed += [
        (change.new.path, "*", f"{change.new.path}  {show_file_change(change.old, change.new)}")
        for change in content.files_changed
    ]
    yield from ((sign, text) for _, sign, text in sorted(listed))


def show_file(file: FileEntry) -> str:
    return f"{file.path} -> {file.link}" if file.kind == "l" else file.path


KINDS = {"f": "file", "d": "folder", "l": "link", "c": "device", "b": "device", "p": "fifo", "s": "socket"}


def show_file_change(old: FileEntry, new: FileEntry) -> str:
    """What of an entry differs: content, mode, owner, …"""
    parts = []
    if old.kind != new.kind:
        parts.append(f"{KINDS.get(old.kind, old.kind)} became {KINDS.get(new.kind, new.kind)}")
    elif old.digest != new.digest:
        parts.append(f"content, {new.size - old.size:+d} bytes")
    if old.mode != new.mode:
        parts.append(f"mode {old.mode:04o} -> {new.mode:04o}")
    if (old.uid, old.gid) != (new.uid, new.gid):
        parts.append(f"owner {old.uid}:{old.gid} -> {new.uid}:{new.gid}")
    if old.link != new.link:
        parts.append(f"link {old.link} -> {new.link}")
    if old.xattrs != new.xattrs:
        parts.append("extended attributes")
    return ", ".join(parts)


# --- for a pull request ---------------------------------------------------------------------------------


def write_markdown(compared: Compared, files: bool) -> Iterator[str]:
    content = compared.content
    place = f"{compared.new_build.target}/{compared.new_build.arch}"
    yield f"### `{compared.old.reference}` → `{compared.new.reference}` ({place})"
    yield ""
    if not compared.differs:
        yield "The same content."
        yield ""
    yield from (f"- **{name}**: {escape(value)}" for name, value in list_facts(compared))
    rows = [
        *((package.name, "", package.version) for package in content.packages_added),
        *((package.name, package.version, "") for package in content.packages_removed),
        *((one.new.name, one.old.version, one.new.version) for one in content.packages_upgraded),
        *(
            (one.new.name, one.old.version, f"{one.new.version} (older)")
            for one in content.packages_downgraded
        ),
    ]
    if compared.notable:
        yield ""
        yield "**To look at**"
        yield ""
        yield from (f"- `{one.path}`: {escape(one.detail)}" for one in compared.notable[:SHOWN])
        if len(compared.notable) > SHOWN:
            yield f"- and {len(compared.notable) - SHOWN} more"
    if rows:
        table = ["| package | before | after |", "|---|---|---|"]
        table += [f"| {' | '.join(escape(cell) for cell in row)} |" for row in sorted(rows)]
        yield from fold("Packages", len(rows), table)
    listed = list(list_files(content)) if files else []
    if listed:
        text = [f"{sign} {line}" for sign, line in listed]
        yield from fold("Files", len(listed), ["```diff", *(line.replace("`", "'") for line in text), "```"])


def fold(title: str, number: int, lines: Iterable[str]) -> Iterator[str]:
    yield from ("", f"<details><summary>{title} ({number})</summary>", "")
    yield from lines
    yield from ("", "</details>")


def escape(text: str) -> str:
    """What stands for itself in Markdown, and in a table's cell."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<|~#" else letter for letter in text)


# --- documented JSON ------------------------------------------------------------------------------------


def compared_json(compared: Compared) -> dict[str, Any]:
    content = compared.content
    return {
        "old": side_json(compared.old, compared.old_build),
        "new": side_json(compared.new, compared.new_build),
        "target": compared.new_build.target,
        "arch": compared.new_build.arch,
        "same": not compared.differs,
        "content_bytes_delta": content.size_delta,
        "packages": {
            "added": [package_json(package) for package in content.packages_added],
            "removed": [package_json(package) for package in content.packages_removed],
            "upgraded": [change_json(change) for change in content.packages_upgraded],
            "downgraded": [change_json(change) for change in content.packages_downgraded],
        },
        "files": {
            "added": [file_json(file) for file in content.files_added],
            "removed": [file_json(file) for file in content.files_removed],
            "changed": [
                {"old": file_json(change.old), "new": file_json(change.new)}
                for change in content.files_changed
            ],
        },
        "notable": [{"kind": one.kind, "path": one.path, "detail": one.detail} for one in compared.notable],
        "inputs": list(compared.inputs),
        "tools": list(compared.tools),
    }


def side_json(image: Image, build: Build) -> dict[str, Any]:
    return {
        "reference": image.reference,
        "digest": build.digest,
        "size_bytes": build.size_bytes,
        "source": build.provenance.source,
        "source_digest": build.provenance.source_digest,
    }


def change_json(change: PackageChange) -> dict[str, Any]:
    return {"old": package_json(change.old), "new": package_json(change.new)}


def file_json(file: FileEntry) -> dict[str, Any]:
    return {
        "path": file.path,
        "kind": file.kind,
        "mode": f"{file.mode:04o}",
        "uid": file.uid,
        "gid": file.gid,
        "size": file.size,
        "digest": f"sha256:{file.digest}" if file.digest else None,
        "link": file.link or None,
    }
