"""The command line: parse, wire, call, print. Use cases are imported when a command runs, not before."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping, Sequence

import typer

from baker.cli import groups
from baker.cli.completion import join_words_at_colons
from baker.cli.wiring import Options
from baker.console import Console
from baker.errors import BakerError

# Starting makes many objects and no garbage: looking for some takes a tenth of a short command's time.
gc.set_threshold(50_000)

ClickException = typer.BadParameter.__mro__[2]
"""What wrong usage raises; typer exports it only as the ancestor of BadParameter."""

COMMANDS: Mapping[str, Sequence[str]] = {
    "asking": ("image find", "image tree"),
    "auditing": ("env audit",),
    "authoring": ("init", "try"),
    "aws": ("aws policy",),
    "bakes": ("bake",),
    "catalog": ("catalog info", "catalog migrate", "catalog export", "catalog import", "catalog rebuild"),
    "channels": ("channel ls", "channel history", "channel protect", "channel unprotect"),
    "comparing": ("image diff",),
    "deploying": ("deploy", "env promote"),
    "environment_views": ("env ls", "env show", "env history"),
    "environments": ("env rollback", "env reconcile", "env rm"),
    "images": ("image ls", "image show"),
    "leases": ("lease ls", "lease add", "lease rm"),
    "life": ("image deprecate", "image revoke", "image restore", "image label"),
    "machines": ("run",),
    "nightly": ("nightly",),
    "planning": ("plan",),
    "promoting": ("promote", "rollback"),
    "publishing": ("image publish",),
    "pruning": ("image prune", "image rm"),
    "recipes": ("recipe ls", "recipe schema", "validate"),
    "resolving": ("image resolve",),
    "running": ("status", "cancel", "logs"),
    "system": ("system doctor", "system sweep", "system df", "system clean"),
}
"""The modules beside this one, and the commands that each has."""


def choose_modules(arguments: Sequence[str]) -> list[str]:
    """The module of the command that is called; all of them where that is not plain (help, completion)."""
    called = {" ".join(arguments[:1]), " ".join(arguments[:2])}
    return [name for name, commands in COMMANDS.items() if called & set(commands)] or list(COMMANDS)


def make_app(modules: Iterable[str] = COMMANDS) -> typer.Typer:
    """The command line, as far as these modules have it: to import the others takes a tenth of a second."""
    app = typer.Typer(
        name="baker",
        help="Bake machine images from recipes, once, into a versioned catalog.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(set_options)
    for name in modules:
        importlib.import_module(f"baker.cli.{name}").add_commands(app)
    for noun, group in groups.NOUNS.items():
        if group.registered_commands:
            app.add_typer(group, name=noun)
    return app


def show_version(asked: bool) -> None:
    if asked:
        from baker.identity import baker_version

        Console().result(f"baker {baker_version()}")
        raise typer.Exit


def set_options(
    context: typer.Context,
    project: str = typer.Option("", "--project", metavar="FOLDER", help="The folder with baker.toml."),
    catalog: str = typer.Option(
        "", "--catalog", metavar="URL", help="Another catalog than the configured one."
    ),
    _version: bool = typer.Option(
        False, "--version", callback=show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    context.obj = Options(project=project or None, catalog=catalog or None)


def explain_fault(error: Exception) -> BakerError:
    """A fault of ours: the traceback goes to a file that can be sent along."""
    with tempfile.NamedTemporaryFile("w", prefix="baker-fault-", suffix=".txt", delete=False) as file:
        file.write("".join(traceback.format_exception(error)))
    what = f"a fault of baker: {type(error).__name__}: {error}"
    return BakerError(what, hint=f"Please report it, with {file.name}")


def main() -> None:
    """The entry point: every failure becomes a message and an exit code, never a traceback."""
    console = Console()
    join_words_at_colons(os.environ)
    try:
        status = make_app(choose_modules(sys.argv[1:]))(standalone_mode=False)
    except BakerError as error:
        console.error(error)
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        console.say("Interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has left (`baker image ls | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if isinstance(error, ClickException):
            error.show()  # type: ignore[attr-defined]
            sys.exit(2)
        console.error(explain_fault(error))
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)
