"""The command line: parse, wire, call, print. Use cases are imported when a command runs, not before."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import traceback

import typer

from baker.cli import (
    asking,
    authoring,
    bakes,
    catalog,
    channels,
    comparing,
    groups,
    images,
    life,
    machines,
    promoting,
    pruning,
    recipes,
    resolving,
    running,
    system,
)
from baker.cli.completion import join_words_at_colons
from baker.cli.wiring import Options
from baker.console import Console
from baker.errors import BakerError

# Starting makes many objects and no garbage: looking for some takes a tenth of a short command's time.
gc.set_threshold(50_000)

ClickException = typer.BadParameter.__mro__[2]
"""What wrong usage raises; typer exports it only as the ancestor of BadParameter."""

app = typer.Typer(
    name="baker",
    help="Bake machine images from recipes, once, into a versioned catalog.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
MODULES = (
    asking,
    authoring,
    bakes,
    catalog,
    channels,
    comparing,
    images,
    life,
    machines,
    promoting,
    pruning,
    recipes,
    resolving,
    running,
    system,
)
for module in MODULES:
    module.add_commands(app)
for name in ("catalog", "channel", "image", "lease"):
    app.add_typer(getattr(groups, name), name=name)


def show_version(asked: bool) -> None:
    if asked:
        from baker.identity import baker_version

        Console().result(f"baker {baker_version()}")
        raise typer.Exit


@app.callback()
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
        status = app(standalone_mode=False)
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
