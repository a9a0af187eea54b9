"""catalog info, migrate, export, import, rebuild."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from baker.cli import groups
from baker.cli.completion import complete_target
from baker.cli.wiring import (
    Options,
    explaining_refusals,
    make_providers,
    open_catalog,
    require_configured,
)
from baker.console import Console, show_age, show_size
from baker.errors import CatalogMissing, HostError, UsageError

if TYPE_CHECKING:
    from baker.catalog.describing import CatalogInfo
    from baker.rebuild import Restoration

Json = Annotated[bool, typer.Option("--json", help="Print the documented JSON.")]
NOT_IN_ARTIFACTS = (
    "Artifacts do not carry: channels and their history, deprecations and revocations, labels, leases,\n"
    "events, bakes and their logs, environments and their releases.\n"
    "Revoke again what was revoked: baker image revoke REF"
)


def add_commands(app: typer.Typer) -> None:
    del app
    groups.catalog.command("info")(info)
    groups.catalog.command("migrate")(migrate)
    groups.catalog.command("export")(export)
    groups.catalog.command("import")(import_file)
    groups.catalog.command("rebuild")(rebuild)


# --- info, migrate ------------------------------------------------------------------------------------


def info(context: typer.Context, as_json: Json = False) -> int:
    """Say which catalog this is, and how much is in it."""
    from baker.catalog.describing import describe_catalog
    from baker.catalog.schema import REVISION

    options: Options = context.obj
    console = Console(as_json=as_json)
    found = describe_catalog(options.settings().catalog_url)
    if as_json:
        console.result_json(info_json(found, REVISION))
        return 0
    contents = found.contents
    lines = {
        "catalog": found.description,
        "engine": found.engine,
        "schema": describe_schema(found.schema, REVISION),
        "size": show_size(found.size_bytes),
    }
    if contents is not None:
        states = ", ".join(f"{count} {status}" for status, count in contents.images.items())
        total = sum(contents.images.values())
        lines["images"] = f"{total} ({states})" if states else "0"
        lines |= {name: str(count) for name, count in contents.counts.items()}
        lines["leases"] = str(contents.leases)
    if contents is not None and contents.oldest and contents.newest:
        lines["oldest"] = f"{contents.oldest:%Y-%m-%d %H:%M} UTC, {show_age(contents.oldest)} ago"
        lines["newest"] = f"{contents.newest:%Y-%m-%d %H:%M} UTC, {show_age(contents.newest)} ago"
    for name, value in lines.items():
        console.result(f"{name:<10} {value}")
    return 0


def describe_schema(found: str | None, known: str) -> str:
    if found == known:
        return f"{found} (up to date)"
    if found is None:
        return "none: it is empty. The first bake makes it, or baker catalog migrate"
    if found < known:
        return f"{found}, this baker writes {known}: baker catalog migrate"
    return f"{found}, this baker knows none after {known}: update baker"


def info_json(found: CatalogInfo, known: str) -> dict[str, Any]:
    """``catalog info --json``. What is counted is null where the schema is not this baker's."""
    contents = found.contents
    return {
        "catalog": found.description,
        "engine": found.engine,
        "schema": found.schema,
        "known_schema": known,
        "size_bytes": found.size_bytes,
        "images": None if contents is None else dict(contents.images),
        "counts": None if contents is None else {**contents.counts, "leases": contents.leases},
        "oldest": None if contents is None else contents.oldest,
        "newest": None if contents is None else contents.newest,
    }


def migrate(
    context: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 3 if there is something to do.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Make the catalog, or bring its schema up to date. Older bakers cannot use it afterwards."""
    from baker.catalog.describing import migrate_catalog, read_schema
    from baker.catalog.schema import REVISION

    options: Options = context.obj
    console = Console(as_json=as_json)
    url = options.settings().catalog_url
    try:
        found = read_schema(url)
    except CatalogMissing:
        found = None
    due = found != REVISION
    if due and not check:
        migrate_catalog(url)
    if as_json:
        console.result_json({"from": found, "to": REVISION, "migrated": due and not check})
    elif not due:
        console.result(f"schema {REVISION}: up to date")
    else:
        verb = "would be" if check else "was"
        console.result(f"schema {REVISION}: {verb} {'made' if found is None else f'migrated from {found}'}")
    return 3 if due and check else 0


# --- export, import -----------------------------------------------------------------------------------

File = Annotated[str, typer.Argument(metavar="[FILE|-]", help="- is the standard input or output.")]


@explaining_refusals()
def export(context: typer.Context, file: File = "-", as_json: Json = False) -> int:
    """Write the whole catalog as JSON lines: for a backup, or to move it to another database."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    if as_json and file == "-":
        raise UsageError("--json and the export would both go to the standard output", hint="Name a file.")
    with open_catalog(options.settings(), read_only=True) as catalog, explaining_disk(file):
        with opened_for_export(file) as out:
            rows = catalog.export_to(out)
        description = catalog.description
    if as_json:
        console.result_json({"catalog": description, "file": file, "rows": dict(rows)})
    else:
        console.say(
            f"exported {describe_rows(rows)} of {description}" + (f" to {file}" if file != "-" else "")
        )
    return 0


@explaining_refusals()
def import_file(context: typer.Context, file: File, as_json: Json = False) -> int:
    """Read an export into an empty catalog: all of it or nothing."""
    options: Options = context.obj
    console = Console(as_json=as_json)
    name = "the standard input" if file == "-" else file
    with contextlib.ExitStack() as stack:
        try:
            lines = sys.stdin.buffer if file == "-" else stack.enter_context(Path(file).open("rb"))
        except PermissionError:
            raise
        except OSError as error:
            raise UsageError(f"{file} cannot be read: {error.strerror}") from error
        catalog = stack.enter_context(open_catalog(options.settings()))
        rows = catalog.import_from(lines, name=name)
        description = catalog.description
    if as_json:
        console.result_json({"catalog": description, "file": file, "rows": dict(rows)})
    else:
        console.result(f"imported {describe_rows(rows)} into {description}")
    return 0


def describe_rows(rows: Mapping[str, int]) -> str:
    return f"{rows['images']} images of {rows['recipes']} recipes ({sum(rows.values())} rows)"


@contextmanager
def opened_for_export(file: str) -> Iterator[BinaryIO]:
    """A file that gets its name when it is whole. What is no plain file is written to, not replaced."""
    path = Path(file)
    if file == "-" or (path.exists() and not path.is_file()):
        with tempfile.TemporaryFile() as whole:
            yield whole
            whole.seek(0)
            with contextlib.nullcontext(sys.stdout.buffer) if file == "-" else path.open("wb") as out:
                shutil.copyfileobj(whole, out, 1 << 20)
                out.flush()
        return
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with new.open("xb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        if path.exists():
            new.chmod(stat.S_IMODE(path.stat().st_mode))
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def explaining_disk(file: str) -> Iterator[None]:
    """Raises HostError for a disk that is full, or a folder that is not there."""
    try:
        yield
    except (PermissionError, BrokenPipeError):
        raise
    except OSError as error:
        raise HostError(f"the export cannot be written to {file}: {error.strerror}") from error


# --- rebuild ------------------------------------------------------------------------------------------


@explaining_refusals()
def rebuild(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="local|aws", help="Whose artifacts are read.", autocompletion=complete_target
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be restored.")] = False,
    as_json: Json = False,
) -> int:
    """Restore the images of a lost catalog from what their artifacts tell. Never changes what is there."""
    from baker.rebuild import Fate, rebuild_catalog

    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    require_configured(settings, source)
    teller: Any = make_providers(settings, targets={source})[source]

    def report(restoration: Restoration) -> None:
        if not as_json:
            console.result(describe_restoration(restoration, dry_run=dry_run))

    with open_catalog(settings, read_only=dry_run, or_empty=dry_run) as catalog:
        done = rebuild_catalog(catalog, teller, dry_run=dry_run, report=report)
        description = catalog.description if catalog.url == settings.catalog_url else None
    if as_json:
        rows = [restoration_json(restoration) for restoration in done]
        console.result_json({"catalog": description, "dry_run": dry_run, "builds": rows})
    else:
        counts = ", ".join(f"{sum(one.fate is fate for one in done)} {fate}" for fate in Fate)
        where = f"in {settings.home / 'local'}" if source == "local" else f"at {source}"
        console.say(f"{len(done)} builds {where}: {counts}")
        console.say(NOT_IN_ARTIFACTS)
    return int(any(one.fate is Fate.DAMAGED for one in done))


def describe_restoration(restoration: Restoration, *, dry_run: bool) -> str:
    verb = f"would be {restoration.fate}" if dry_run and restoration.fate == "restored" else restoration.fate
    return f"{restoration.image:<16} {verb}" + (f": {restoration.detail}" if restoration.detail else "")


def restoration_json(restoration: Restoration) -> dict[str, Any]:
    """One element of ``catalog rebuild --json``; ``fate`` is restored, known, taken or damaged."""
    return {
        "image": restoration.image,
        "build": restoration.build,
        "fate": str(restoration.fate),
        "detail": restoration.detail,
        "missing": list(restoration.missing),
    }
