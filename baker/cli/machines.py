"""run: a throwaway machine from an image."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from baker.cli.completion import complete_reference
from baker.cli.wiring import Options, make_providers, open_catalog
from baker.console import Console, say_warnings
from baker.errors import BadReference, StoreError
from baker.life import list_warnings
from baker.model import Reference


def add_commands(app: typer.Typer) -> None:
    app.command("run", context_settings={"ignore_unknown_options": True})(run)


def run(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF", autocompletion=complete_reference)],
    command: Annotated[list[str] | None, typer.Argument(metavar="[-- COMMAND…]")] = None,
) -> int:
    """Run a command in a throwaway machine from an image.

    A shell if none is given. The exit code is the command's. What the machine changes is discarded.
    """
    from baker import identity
    from baker.interrupt import Interruption
    from baker.teardown import Teardown

    options: Options = context.obj
    console = Console()
    settings = options.settings()
    provider = make_providers(settings)["local"]
    provider.check()
    with open_catalog(settings, read_only=True) as catalog:
        image = catalog.resolve(Reference.parse(reference))
    say_warnings(console, list_warnings(image))
    build = image.build_for(provider.target, provider.arch)
    if build is None:
        raise BadReference(f"{image.reference} has no build for {provider.target}/{provider.arch}")
    if not provider.holds(build.artifacts[0]):
        from baker.knowledge import explain_absence

        raise StoreError(
            explain_absence(image.reference, build),
            hint=f"Run it there, or bake it here: baker bake {image.recipe}",
        )
    run_id = identity.make_bake_id()
    interruption = Interruption()
    teardown = Teardown(run_id, None)
    with identity.alive(settings.home, run_id), interruption.installed():
        try:
            limits = {**settings.local, **settings.variables["local"]}
            machine = provider.start(run_id, image.recipe, build.artifacts[0], teardown, limits)
            if sys.stdin.isatty() and sys.stdout.isatty():
                return machine.interactive(command or ["/bin/bash", "--login"])
            done = machine.run(
                command or ["/bin/sh"], stdin=None if command else sys.stdin.buffer.read(), on_output=pass_on
            )
            return done.exit_status
        finally:
            with interruption.shielded():
                for left in teardown.close():
                    console.say(f"Left behind: {left.resource.kind} {left.resource.id}: {left.error}")


def pass_on(name: str, chunk: bytes) -> None:
    """Hand the machine's output through as it comes."""
    stream = sys.stdout.buffer if name == "stdout" else sys.stderr.buffer
    stream.write(chunk)
    stream.flush()
