"""run: a throwaway machine from an image."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli.completion import complete_reference, complete_target
from baker.cli.wiring import (
    Options,
    base_settings,
    configured_targets,
    make_providers,
    open_catalog,
    recipe_settings,
    require_configured,
)
from baker.console import Console, say_warnings
from baker.errors import BadReference, StoreError
from baker.life import list_warnings
from baker.model import Build, Image, Reference
from baker.settings import Settings

if TYPE_CHECKING:
    from baker.providers.protocol import Provider


def add_commands(app: typer.Typer) -> None:
    app.command("run", context_settings={"ignore_unknown_options": True})(run)


def run(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="REF", autocompletion=complete_reference)],
    command: Annotated[list[str] | None, typer.Argument(metavar="[-- COMMAND…]")] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="TARGET",
            help="local or aws; else local, unless the image is only for the other.",
            autocompletion=complete_target,
        ),
    ] = None,
) -> int:
    """Run a command in a throwaway machine from an image.

    A shell if none is given. The exit code is the command's. What the machine changes is discarded.
    """
    from baker import identity
    from baker.interrupt import Interruption
    from baker.teardown import Teardown, describe_resource

    options: Options = context.obj
    console = Console()
    settings = options.settings()
    if target is not None:
        require_configured(settings, target)
    with open_catalog(settings, read_only=True) as catalog:
        image = catalog.resolve(Reference.parse(reference))
    say_warnings(console, list_warnings(image))
    target = target or choose_target(settings, image)
    provider = make_providers(settings, targets={target})[target]
    provider.check()
    limits = recipe_settings(settings, image.recipe, target) if target != "local" else None
    limits = base_settings(settings, target) if limits is None else limits
    build = choose_build(image, provider, limits)
    in_own_store = target == "local" and provider.reaches(build.artifacts[0])
    if not in_own_store and not provider.holds(build.artifacts[0]):  # the own one names what is missing
        from baker.knowledge import explain_absence

        raise StoreError(
            explain_absence(image.reference, build),
            hint=f"Run it there, or bake it here: baker bake {image.recipe}",
        )
    run_id = identity.make_bake_id()
    interruption = Interruption()
    teardown = Teardown(run_id, None, interruption.cancel)
    with identity.alive(settings.home, run_id), interruption.installed():
        try:
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
                    console.say(f"Left behind: {describe_resource(left.resource)}: {left.error}")


def choose_target(settings: Settings, image: Image) -> str:
    """``local`` where that can be; else what the image has a build for. Raises HostError, UsageError."""
    has = {build.target for build in image.builds}
    fitting = [target for target in configured_targets(settings) if target in has]
    chosen = "local" if "local" in fitting or not fitting else fitting[0]
    require_configured(settings, chosen)
    return chosen


def choose_build(image: Image, provider: Provider, settings: Mapping[str, Any]) -> Build:
    """Of the first architecture that there is one for. Raises BadReference."""
    archs = provider.archs(settings)
    for arch in archs:
        if build := image.build_for(provider.target, arch):
            return build
    raise BadReference(f"{image.reference} has no build for {provider.target}/{', '.join(archs)}")


def pass_on(name: str, chunk: bytes) -> None:
    """Hand the machine's output through as it comes."""
    stream = sys.stdout.buffer if name == "stdout" else sys.stderr.buffer
    stream.write(chunk)
    stream.flush()
