"""What commands are made of: settings, the catalog, providers. Heavy parts are imported when asked for."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from baker.errors import CatalogMissing, HostError, UsageError
from baker.settings import Settings, find_project, load_settings

if TYPE_CHECKING:
    from baker.catalog import Catalog
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


def make_providers(
    settings: Settings, *, offline: bool = False, detached: bool = False
) -> Mapping[str, Provider]:
    """The providers that this host can run."""
    if not sys.platform.startswith("linux"):
        raise HostError(f"the local target needs Linux; this is {sys.platform}")
    from baker.providers.local.provider import LocalProvider

    local = LocalProvider(settings.home, project=settings.project, offline=offline, detached=detached)
    return {"local": local}
