"""What commands are made of: settings, the catalog, providers. Heavy parts are imported when asked for."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baker.errors import CatalogMissing, HostError, RecipeError, UsageError
from baker.settings import PROJECT_FILE, TARGETS, Settings, find_project, load_settings, target_settings
from baker.toml_file import Problem, read_document

if TYPE_CHECKING:
    from baker.catalog import Catalog
    from baker.deploy.fleet import Fleet
    from baker.knowledge import Updates
    from baker.model import Recipe
    from baker.providers.protocol import Provider


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What stands before the command's name."""

    project: str | None
    catalog: str | None

    def settings(self) -> Settings:
        """Settings of the project, or of none if the command is run outside one."""
        try:
            project = self._find_project()
        except UsageError:
            if self.project is not None:
                raise
            project = None
        return load_settings(project, os.environ, catalog_url=self.catalog)

    def project_settings(self) -> Settings:
        """Settings of the project. Raises UsageError outside one."""
        return load_settings(self._find_project(), os.environ, catalog_url=self.catalog)

    def _find_project(self) -> Path:
        return find_project(Path.cwd(), Path(self.project) if self.project else None)


@contextmanager
def open_catalog(settings: Settings, *, read_only: bool = False, or_empty: bool = False) -> Iterator[Catalog]:
    """The configured catalog. ``or_empty``: where the first bake has still to make it, an empty one."""
    from baker.catalog import Catalog

    with ExitStack() as stack:
        try:
            catalog = Catalog.open(settings.catalog_url, actor=settings.actor, read_only=read_only)
        except CatalogMissing:
            if not or_empty:
                raise
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="baker-empty-"))
            catalog = Catalog.open(f"sqlite:///{scratch}/catalog.db", actor=settings.actor)
        yield stack.enter_context(catalog)


@contextmanager
def explaining_refusals() -> Iterator[None]:
    """Files that this user may not use are no fault of ours: raises HostError. Decorates commands too."""
    try:
        yield
    except PermissionError as error:
        raise HostError(
            f"{error.filename} may not be used by this user: {error.strerror}",
            hint="Run it with sudo, or ask its owner.",
        ) from error


def load_project_recipes(settings: Settings) -> Mapping[str, Recipe]:
    """Every recipe of the project, validated."""
    from baker.recipes import load_recipes

    assert settings.project is not None
    return load_recipes(settings.project, folder=settings.recipes)


# --- targets and their providers ------------------------------------------------------------------------

CONFIGURE_AWS = 'Add a table [aws] with region = "eu-west-1" (yours) to baker.toml, or set BAKER_AWS_REGION.'


def configured_targets(settings: Settings) -> tuple[str, ...]:
    """What can be baked for from here: ``aws`` where baker.toml or a variable says so, ``local`` on Linux."""
    found = {"aws": is_aws_configured(settings), "local": sys.platform.startswith("linux")}
    return tuple(target for target in TARGETS if found[target])


def is_aws_configured(settings: Settings) -> bool:
    """Whether baker.toml has a table [aws], which may be empty, or a BAKER_AWS_* variable is set."""
    if settings.aws or settings.variables.get("aws"):
        return True
    if settings.project is None:
        return False
    document = read_document(settings.project / PROJECT_FILE, settings.project)
    return not isinstance(document, Problem) and "aws" in document.values


def base_settings(settings: Settings, target: str) -> dict[str, Any]:
    """What baker.toml and variables say about a target, before a recipe has its say."""
    tables = {"local": settings.local, "aws": settings.aws}
    return {**tables[target], **settings.variables.get(target, {})}


def recipe_settings(settings: Settings, recipe: str, target: str) -> dict[str, Any] | None:
    """A target's settings as a recipe of this project has them; None if there is no such recipe here."""
    if settings.project is None:
        return None
    from baker.recipes import load_recipe

    try:
        spec = load_recipe(settings.project, recipe, folder=settings.recipes).targets.get(target)
    except RecipeError:
        return None
    return None if spec is None else target_settings(settings, spec)


def require_configured(settings: Settings, target: str) -> None:
    """Raises UsageError for a target that does not exist or is not configured, HostError for one that this
    host cannot have."""
    if target not in TARGETS:
        raise UsageError(f"there is no target {target}", hint=f"Targets: {', '.join(TARGETS)}")
    if target in configured_targets(settings):
        return
    if target == "local":
        raise HostError(f"the local target needs Linux; this is {sys.platform}")
    raise UsageError(f"the target {target} is not configured", hint=CONFIGURE_AWS)


def choose_targets(
    settings: Settings, recipes: Mapping[str, Recipe], wanted: Iterable[str] | None
) -> frozenset[str]:
    """The targets that these recipes have and that are configured, of those ``wanted``.

    Raises UsageError for a wanted one that is unknown, not configured, or that no recipe has.
    """
    has = {target for recipe in recipes.values() for target in recipe.targets}
    for target in wanted or ():
        require_configured(settings, target)
        if target not in has:
            names = ", ".join(sorted(recipes)) or "no recipe"
            raise UsageError(
                f"{names}: none has the target {target} (they have: {', '.join(sorted(has)) or 'none'})",
                hint=f"Add [targets.{target}] to recipe.toml.",
            )
    chosen = has & set(configured_targets(settings))
    if not chosen and has == {"aws"}:
        raise UsageError(
            f"{', '.join(sorted(recipes))}: only for aws, which is not configured", hint=CONFIGURE_AWS
        )
    return frozenset(chosen if wanted is None else wanted)


def make_providers(
    settings: Settings,
    *,
    targets: Collection[str] | None = None,
    offline: bool = False,
    refresh: bool = False,
    detached: bool = False,
) -> Mapping[str, Provider]:
    """The providers of the configured targets, or of those ``targets`` that are configured.

    Raises HostError where there is none.
    """
    configured = configured_targets(settings)
    if not configured:
        raise HostError(
            f"the local target needs Linux; this is {sys.platform}", hint=f"For AWS: {CONFIGURE_AWS}"
        )
    providers: dict[str, Provider] = {}
    for target in configured:
        if targets is not None and target not in targets:
            continue
        if target == "local":
            from baker.providers.local.provider import LocalProvider

            providers[target] = LocalProvider(
                settings.home,
                project=settings.project,
                offline=offline,
                refresh=refresh,
                detached=detached,
            )
        else:
            from baker.providers.aws.provider import AwsProvider

            providers[target] = AwsProvider(
                settings.home,
                base_settings(settings, target),
                project=settings.project,
                actor=settings.actor,
            )
    return providers


def make_fleet(settings: Settings, target: str) -> Fleet:
    """The machines and the load balancers of a target's environments."""
    if target == "local":
        from baker.providers.local.fleet import LocalFleet

        return LocalFleet(settings.home)
    from baker.providers.aws.fleet import AwsFleet

    return AwsFleet(
        settings.home, base_settings(settings, target), actor=settings.actor, project=settings.project
    )


def make_updates(settings: Settings, *, offline: bool = False, refresh: bool = False) -> Updates:
    """What looks for package updates, by the apt of this host."""
    from baker.updates import AptUpdates

    return AptUpdates(settings.home, offline=offline, refresh=refresh)


def check_providers(providers: Mapping[str, Provider], targets: Collection[str]) -> None:
    """Raises HostError, or what else keeps one of these targets from being baked for."""
    for target in sorted(targets):
        try:
            providers[target].check()
        except HostError as error:
            others = sorted(set(targets) - {target})
            if not others:
                raise
            spared = f"Or leave {target} out: {' '.join(f'--target {other}' for other in others)}"
            raise HostError(str(error), hint=f"{error.hint} {spared}" if error.hint else spared) from error
