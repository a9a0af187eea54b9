"""try, init, recipe schema: for who writes recipes."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli.completion import complete_recipe, complete_target
from baker.cli.shell import open_shell
from baker.cli.wiring import Options, make_providers, open_catalog, require_configured
from baker.console import Console, show_seconds
from baker.errors import BadReference, UsageError
from baker.interrupt import Interruption
from baker.model import Recipe, Reference
from baker.progress import count
from baker.progress_console import ProgressConsole
from baker.settings import Settings

if TYPE_CHECKING:
    from baker.author import Round, Trial
    from baker.configurer import OperationRecord
    from baker.providers.protocol import Provider, ResolvedSource

POLL_SECONDS = 0.2
KEYS = "watching (enter: shell, r: fresh machine, q: end)"
ALWAYS = "counts as changed whenever it runs: give it an _if, or an operation that looks first"


def add_commands(app: typer.Typer) -> None:
    app.command("init")(init)
    app.command("try")(try_recipe)


def try_recipe(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", autocompletion=complete_recipe)],
    target: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="TARGET",
            help="Where the machine is started: local, aws.",
            autocompletion=complete_target,
        ),
    ] = "local",
    once: Annotated[bool, typer.Option("--once", help="Apply and test once, then end.")] = False,
    converge: Annotated[
        bool, typer.Option("--converge", help="Apply it twice: what changes again? Then the exit code is 3.")
    ] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override recipe data.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the documented JSON.")] = False,
) -> int:
    """Keep a machine and apply a recipe to it at each saved change. Nothing is captured.

    Without a terminal (or with --once) it is applied and tested once; the exit code says how it went.
    """
    from baker.author import Workshop, trying

    options: Options = context.obj
    console = ProgressConsole(as_json=as_json)
    settings = options.project_settings()
    interruption = Interruption()
    with interruption.installed():
        provider = find_provider(settings, recipe, target, offline=offline, overrides=overrides)
        provider.check()
        workshop = Workshop(
            load=lambda: load_recipe(settings, recipe, overrides),
            resolve=lambda loaded: resolve_source(settings, loaded, provider),
            target=target,
            provider=provider,
            home=settings.home,
            environ=os.environ,
            show=console.show,
            interruption=interruption,
        )
        with trying(workshop) as trial:
            first = trial.apply()
            if converge:
                return report_convergence(first, trial, console)
            if once or as_json or not console.can_ask():
                return report_once(first, trial, console)
            show_round(first, console)
            return follow_changes(trial, console)


def load_recipe(settings: Settings, name: str, overrides: list[str] | None) -> Recipe:
    from baker.recipes import apply_overrides, load_recipe

    assert settings.project is not None
    return apply_overrides(load_recipe(settings.project, name, folder=settings.recipes), overrides or [])


def find_provider(
    settings: Settings, recipe: str, target: str, *, offline: bool, overrides: list[str] | None
) -> Provider:
    """The provider of the recipe's target. Raises UsageError."""
    targets = load_recipe(settings, recipe, overrides).targets
    if target not in targets:
        known = ", ".join(targets)
        raise UsageError(f"{recipe} has no target {target} to try it on (it has: {known})")
    require_configured(settings, target)
    return make_providers(settings, targets={target}, offline=offline)[target]


def resolve_source(settings: Settings, recipe: Recipe, provider: Provider) -> ResolvedSource:
    """The recipe's source, pinned. Raises BadReference if the parent was not baked yet."""
    from baker.knowledge import resolve_parent
    from baker.settings import target_settings

    spec, parent = recipe.targets[provider.target], None
    wanted = target_settings(settings, spec)
    place = provider.target, provider.archs(wanted)[0]
    if isinstance(spec.source, Reference):
        with open_catalog(settings, read_only=True, or_empty=True) as catalog:
            try:
                parent = resolve_parent(catalog, spec.source, place=place).build_for(*place)
            except BadReference as error:
                hint = f"{recipe.name} starts from it. Bake it first: baker bake {spec.source.recipe}"
                raise BadReference(str(error), hint=hint) from error
    return provider.resolve(spec.source, parent, wanted, place[1])


# --- the loop --------------------------------------------------------------------------------------------


def follow_changes(trial: Trial, console: Console) -> int:
    """Until q or Ctrl-C: another round at each change, a shell on enter, a fresh machine on r."""
    from baker.errors import Interrupted

    with single_keys(sys.stdin.fileno()) as typed:
        while True:
            trial.get_ready()
            try:
                key, changed = wait_for_work(trial, console)
            except Interrupted:
                key = "q"
            console.status("")
            if key == "q":
                return 0
            if key == "r":
                trial.restart()
            elif key:
                with typed():
                    open_shell(trial.machine, console)
                continue
            else:
                console.say(f"\n{shorten_list(changed)} changed")
            show_round(trial.apply(changed), console)


def wait_for_work(trial: Trial, console: Console) -> tuple[str, list[str]]:
    """A key that means something, or what was saved."""
    console.status(f"  {KEYS}")
    while True:
        if select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
            key = os.read(sys.stdin.fileno(), 1).decode(errors="replace")
            if key in ("", "\x04"):  # the terminal is gone; ctrl-d
                return "q", []
            if key in "qr\r\n":
                return key, []
        if changed := trial.find_changes():
            return "", changed


@contextmanager
def single_keys(terminal: int) -> Iterator[Any]:
    """Keys come without an enter and are not shown; yields a context in which they are as before."""
    import termios
    import tty

    saved = termios.tcgetattr(terminal)

    @contextmanager
    def as_before() -> Iterator[None]:
        termios.tcsetattr(terminal, termios.TCSADRAIN, saved)
        try:
            yield
        finally:
            tty.setcbreak(terminal)

    tty.setcbreak(terminal)
    try:
        yield as_before
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, saved)


# --- what came out ---------------------------------------------------------------------------------------


def show_round(done: Round, console: Console) -> None:
    if done.error is not None:
        console.error(done.error)
    console.say(f"{console.style(describe_round(done), 'bold')} in {show_seconds(done.seconds)}")


def describe_round(done: Round) -> str:
    if done.configured is None:
        return "failed" if done.error else f"{count(done.tests, 'image test')} passed"
    applied = f"applied, {count(done.configured.changed, 'operation')} changed"
    if done.error is not None:
        return f"{applied}, the image tests failed"
    return f"{applied}, {count(done.tests, 'image test')} passed" if done.tests else applied


def report_once(done: Round, trial: Trial, console: Console) -> int:
    if console.as_json:
        console.result_json(round_json(done, trial))
    elif done.error is None:
        console.result_folded(f"{trial.recipe.name}: {describe_round(done)} in {show_seconds(done.seconds)}")
    if done.error is not None:
        console.error(done.error)
    return int(done.error is not None)


def report_convergence(first: Round, trial: Trial, console: Console) -> int:
    if first.error is not None:
        return report_once(first, trial, console)
    console.say("Once more, in a fresh process")
    unsettled = trial.find_unsettled()
    name, number = trial.recipe.name, len(first.configured.operations) if first.configured else 0
    if console.as_json:
        console.result_json({**round_json(first, trial), "unsettled": [unsettled_json(o) for o in unsettled]})
    elif not unsettled:
        console.result_folded(f"{name} converges: a second run changed none of its {number} operations")
    else:
        console.result_folded(
            f"{name} does not converge: {len(unsettled)} of {number} operations change again"
        )
        for operation in unsettled:
            console.result_folded(f"  {operation.name}" + ("" if operation.converges else f"\n    {ALWAYS}"))
    return 3 if unsettled else 0


def round_json(done: Round, trial: Trial) -> dict[str, Any]:
    """What ``try --once --json`` prints; with ``--converge`` there is ``unsettled`` besides."""
    operations = done.configured.operations if done.configured else ()
    return {
        "recipe": trial.recipe.name,
        "target": trial.workshop.target,
        "applied": done.configured is not None,
        "seconds": done.seconds,
        "changed": [operation.name for operation in operations if operation.changed],
        "unchanged": sum(not operation.changed for operation in operations),
        "image_tests_passed": done.tests,
        "error": None if done.error is None else str(done.error),
    }


def unsettled_json(operation: OperationRecord) -> dict[str, Any]:
    """``always``: pyinfra says that this operation acts whenever it runs."""
    return {"name": operation.name, "always": not operation.converges}


def shorten_list(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


# --- a project to begin with ------------------------------------------------------------------------------


def init(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="An empty or new folder.")] = Path(),
) -> int:
    """Write a working project to begin with.

    A recipe with a template and an image test, settings, a CI file.
    """
    from baker.starter import write_starter

    console = Console()
    for path in write_starter(folder):
        console.result(f"wrote {path}")
    change = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    console.say(f"Next: {change}baker try hello   (then edit, save and watch; q ends)")
    console.say("      baker bake        (makes the image hello:1)")
    return 0
