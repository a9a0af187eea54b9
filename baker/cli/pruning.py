"""image prune, image rm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from baker.cli import groups
from baker.cli.completion import complete_recipe, complete_reference
from baker.cli.previews import expired_json, print_expired
from baker.cli.wiring import (
    Options,
    configured_targets,
    explaining_refusals,
    make_providers,
    open_catalog,
)
from baker.console import Console, show_age, show_size
from baker.errors import BadReference, UsageError
from baker.model import Reference, shorten_digest
from baker.settings import Settings

if TYPE_CHECKING:
    from baker.model import Artifact
    from baker.providers.protocol import Provider
    from baker.prune import Pruned, PrunePlan

Json = Annotated[bool, typer.Option("--json", help="Print the documented JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Ref = Annotated[
    str,
    typer.Argument(
        metavar="REF", help="web, web:12, web:prod or web@sha256:ab12…", autocompletion=complete_reference
    ),
]

NO_RULES = """\
No rule lets an image go. Say in baker.toml what is kept, then look at what would be deleted:
  [retention]
  keep_last = 5           # the newest versions of each recipe
  keep_younger = "30d"    # and whatever is younger
  baker image prune --dry-run"""


def add_commands(app: typer.Typer) -> None:
    del app  # the noun has other verbs as well
    groups.image.command("prune")(prune)
    groups.image.command("rm")(remove_image)


# --- image prune --------------------------------------------------------------------------------------


@explaining_refusals()
def prune(
    context: typer.Context,
    recipes: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE]...", autocompletion=complete_recipe)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and why.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Delete the images that [retention] in baker.toml lets go and that nothing needs.

    So go previews whose channel has expired, whatever [retention] says. Finishes what an earlier prune or rm
    left as well. What cannot be asked for its use is not deleted.
    """
    from baker.previews import collect_expired
    from baker.prune import delete_images, plan_prune
    from baker.retention import Retention

    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    retention = Retention(table=settings.retention)
    require_answer(console, "prune", yes=yes, dry_run=dry_run)
    providers = find_providers(settings)
    with open_catalog(settings, read_only=dry_run, or_empty=dry_run) as catalog:
        known = set(catalog.recipes())
        for recipe in set(recipes or ()) - known:
            raise BadReference(f"the catalog has no image of {recipe}", hint="List them: baker image ls")
        chosen = set(recipes or find_own_recipes(settings))
        plan = plan_prune(catalog, providers, settings.home, retention, recipes=chosen)
        if not as_json:
            print_plan(console, plan, lets_go=retention.lets_go)
            if others := sorted(known - chosen):
                console.say(f"Not of this project, so left alone: {', '.join(others)}")
            console.say(console.style(f"in {catalog.description}", "dim"))
        pruned = None
        works = not dry_run and bool(plan.doomed or plan.pending)
        if works and not yes:
            typer.confirm(describe_question(plan), abort=True, err=True)
        expired = collect_expired(catalog, providers, dry_run=dry_run)
        if not as_json:
            print_expired(console, expired, dry_run=dry_run)
        if works:
            pruned = delete_images(catalog, providers, settings.home, plan.doomed, retention, by_rules=True)
    if as_json:
        console.result_json(
            {**plan_json(plan), **pruned_json(pruned), **expired_json(expired), "dry_run": dry_run}
        )
    elif pruned is not None:
        print_pruned(console, pruned)
    return int(bool(pruned and pruned.failed))


def find_own_recipes(settings: Settings) -> set[str]:
    """The project's recipes, and those that its [retention] names: others may share the catalog."""
    folders = settings.recipes.glob("*/recipe.toml") if settings.recipes else ()
    return {path.parent.name for path in folders} | set(settings.retention.get("recipes", ()))


def require_answer(console: Console, command: str, *, yes: bool, dry_run: bool = False) -> None:
    """Raises UsageError where nobody can be asked."""
    if yes and dry_run:
        raise UsageError("--dry-run deletes nothing: --yes does not go with it")
    if not (yes or dry_run or console.can_ask()):
        offered = "--dry-run or --yes" if command == "prune" else "--yes"
        raise UsageError(f"{command} asks before it deletes images", hint=f"In a script: {offered}.")


def find_providers(settings: Settings) -> Mapping[str, Provider]:
    """None where this host can run none: then all artifacts are left to other hosts."""
    return make_providers(settings) if configured_targets(settings) else {}


def print_plan(console: Console, plan: PrunePlan, *, lets_go: bool) -> None:
    rows = []
    for verdict in plan.verdicts:
        key = verdict.image.key
        stores = ", ".join(dict.fromkeys(artifact.store for artifact in plan.elsewhere.get(key, ())))
        frees = show_size(plan.frees.get(key, 0)) if verdict.goes else ""
        later = f"; its artifacts in {stores} go when it is pruned there" if stores else ""
        rows.append(
            (
                verdict.image.reference,
                "goes" if verdict.goes else "stays",
                show_age(verdict.image.created),
                frees,
                verdict.detail + later,
            )
        )
    if rows:
        console.table(("IMAGE", "VERDICT", "AGE", "FREES", "WHY"), rows)
    if not lets_go:
        console.say(NO_RULES)
    elif not plan.doomed:
        console.say("No image goes")
    if plan.doomed:
        freed = show_size(sum(plan.frees.values()))
        console.say(f"{count(len(plan.doomed), 'image')} of {len(rows)} may go, which frees {freed}")
    if plan.pending:
        console.say(f"Deleted before, and not finished: {', '.join(plan.pending)}")


def describe_question(plan: PrunePlan) -> str:
    if not plan.doomed:
        return f"Remove what is left of {count(len(plan.pending), 'deleted image')}?"
    return f"Delete {count(len(plan.doomed), 'image')}?"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def print_pruned(console: Console, pruned: Pruned) -> None:
    for reference in pruned.deleted:
        console.result(f"deleted {reference}")
    for reference in pruned.finished:
        console.result(f"finished {reference}")
    for reference, why in pruned.skipped:
        console.say(f"Kept {reference} after all: {why}")
    for reference, artifact in pruned.left:
        console.say(f"{describe_left(reference, artifact)}. Finish it there: baker image prune --yes")
    for reference, artifact, user in pruned.used:
        left = describe_left(reference, artifact)
        console.say(f"{left}: {user}. Finish it afterwards: baker image prune --yes")
    for reference, error in dict.fromkeys(pruned.failed):
        console.say(f"{console.style('Failed:', 'red')} {reference}: {error}")
    if pruned.failed:
        console.say("  What is left of them goes with the next one: baker image prune --yes")


def describe_left(reference: str, artifact: Artifact) -> str:
    return f"Left: {artifact.kind} {shorten_digest(artifact.id)} of {reference} in {artifact.store}"


# --- image rm -----------------------------------------------------------------------------------------


@explaining_refusals()
def remove_image(
    context: typer.Context,
    reference: Ref,
    reason: Annotated[str | None, typer.Option("--reason", help="Kept with the image.")] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Delete one image. Refuses while anything needs it."""
    from baker.model import ImageStatus
    from baker.prune import delete_images, explain_need, measure, require_unneeded
    from baker.retention import Retention

    options: Options = context.obj
    console = Console(as_json=as_json)
    settings = options.settings()
    retention = Retention(table=settings.retention)
    require_answer(console, "rm", yes=yes)
    providers = find_providers(settings)
    with open_catalog(settings) as catalog:
        image = catalog.resolve(Reference.parse(reference), allow_unusable=True)
        key = (image.recipe, image.version)
        deleted = image.status is ImageStatus.DELETED
        if deleted:
            console.say(f"{image.reference} is deleted already")
        else:
            require_unneeded(catalog, providers, settings.home, retention, image)
            frees, _ = measure(catalog, providers, [key])
            made = f"made {show_age(image.created)} ago, frees {show_size(frees[key])}"
            console.say(f"{image.reference}: {image.status}, {made}")
            if not yes:
                typer.confirm("Delete it?", abort=True, err=True)
        pruned = delete_images(
            catalog, providers, settings.home, {} if deleted else {key: reason}, retention, by_rules=False
        )
        for _, why in pruned.skipped:
            raise explain_need(image.reference, why)
    if as_json:
        console.result_json({"image": image.reference, **pruned_json(pruned)})
    else:
        print_pruned(console, pruned)
    return int(bool(pruned.failed))


# --- documented JSON -----------------------------------------------------------------------------------


def plan_json(plan: PrunePlan) -> dict[str, Any]:
    return {
        "frees_bytes": sum(plan.frees.values()),
        "images": [
            {
                "reference": verdict.image.reference,
                "recipe": verdict.image.recipe,
                "version": verdict.image.version,
                "status": str(verdict.image.status),
                "created": verdict.image.created,
                "goes": verdict.goes,
                "reasons": [{"kind": reason.kind, "detail": reason.detail} for reason in verdict.reasons],
                "frees_bytes": plan.frees.get(verdict.image.key, 0),
                "elsewhere": [
                    {"id": artifact.id, "store": artifact.store}
                    for artifact in plan.elsewhere.get(verdict.image.key, ())
                ],
            }
            for verdict in plan.verdicts
        ],
        "pending": list(plan.pending),
    }


def pruned_json(pruned: Pruned | None) -> dict[str, Any]:
    """What was done; empty lists after a dry run."""
    return {
        "deleted": list(pruned.deleted) if pruned else [],
        "finished": list(pruned.finished) if pruned else [],
        "skipped": [{"reference": name, "reason": why} for name, why in pruned.skipped] if pruned else [],
        "left": [
            {"reference": name, "artifact": artifact.id, "store": artifact.store}
            for name, artifact in (pruned.left if pruned else ())
        ],
        "used": [
            {"reference": name, "artifact": artifact.id, "store": artifact.store, "by": user}
            for name, artifact, user in (pruned.used if pruned else ())
        ],
        "failed": [{"reference": name, "error": error} for name, error in (pruned.failed if pruned else ())],
    }
