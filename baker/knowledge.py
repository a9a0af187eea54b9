"""What planning knows: the catalog's builds, what really is at the providers, the project as it is now."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, Self

from baker import identity
from baker.catalog import Catalog, Overview, Place
from baker.drawing import Drawn
from baker.errors import BadReference, CatalogError
from baker.fingerprint import image_test_inputs, refresh_traced, static_inputs
from baker.model import LATEST, Build, Image, ImageStatus, Recipe, Reference
from baker.package_state import PackageUpdate
from baker.providers.protocol import Provider, ResolvedSource
from baker.seal import SEAL_VERSION
from baker.settings import Settings, result_settings, target_settings

LOCAL = "local"


def tool_versions() -> dict[str, str]:
    """The tools that an image depends on."""
    return {"pyinfra": importlib.metadata.version("pyinfra"), "seal": SEAL_VERSION}


def resolve_parent(
    catalog: Catalog,
    reference: Reference,
    *,
    place: tuple[str, str] | None = None,
    preview: str | None = None,
) -> Image:
    """The image that a bake may start from. Raises BadReference also where it is built upon a revoked one.

    With a ``place`` (target, architecture) ``latest`` is the newest one with a build for that, complete or
    not: what is baked for one target does not wait for the others. For a ``preview`` it is the newest one
    that was baked for that, if there is one.
    """
    image = catalog.resolve(reference, place=place, preview=preview)
    if image.revoked_ancestors:
        revoked = ", ".join(image.revoked_ancestors)
        raise BadReference(
            f"nothing is baked from {image.reference}: it is built upon {revoked}, which was revoked",
            hint=f"Bake it upon another one first: baker bake {image.recipe}",
        )
    return image


def explain_absence(reference: str, build: Build) -> str:
    """Where the artifacts of a build were, of which one is not there or not reached from here."""
    store = build.artifacts[0].store
    if build.target != LOCAL:
        names = ", ".join(artifact.id for artifact in build.artifacts)
        regions = ", ".join(artifact.store for artifact in build.artifacts)
        if len(build.artifacts) == 1:
            return f"{reference} is in region {regions}, which has no AMI {names} any more"
        return f"{reference} is in regions {regions}, which do not all have its AMI any more ({names})"
    host, _, folder = store.partition(":")
    if host == identity.host_name():
        return f"{reference} is not in the store of this BAKER_HOME: it was put into {folder}"
    return f"{reference} is on {host} (in the store {folder}), not on this host"


class Updates(Protocol):
    """See ``baker.updates.AptUpdates``."""

    def for_plan(self) -> Updates: ...

    def outdated(
        self,
        build: str,
        load: Callable[[], bytes | None],
        *,
        folders: Mapping[str, Path],
        proxy: str | None = None,
    ) -> tuple[Sequence[PackageUpdate], str | None]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectKnowledge:
    """``baker.plan.Knowledge`` from the real things, for one plan: what a source came to is remembered.

    For a ``preview`` (the name of its channel) the images that were baked for it go before the ordinary ones;
    without, those of previews are not seen. What other previews have built may be issued again. Package
    updates are not looked for without ``updates``.

    The catalog is asked once for all recipes that are ``foreseen``, and for each further one when it is met.
    """

    catalog: Catalog
    providers: Mapping[str, Provider]
    settings: Settings
    environ: Mapping[str, str]
    preview: str | None = None
    updates: Updates | None = None
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    foreseen: frozenset[str] = frozenset()
    _overviews: dict[str, Overview] = field(default_factory=dict, init=False)
    _held: dict[tuple[str, str], Mapping[Place, Build]] = field(default_factory=dict, init=False)
    _here: dict[str, bool] = field(default_factory=dict, init=False)
    _tools: dict[str, str] = field(default_factory=dict, init=False)
    _traced: dict[str, str] = field(default_factory=dict, init=False)
    _static: dict[tuple[str, str, str, str | None], dict[str, str]] = field(default_factory=dict, init=False)

    def foreseeing(self, recipes: Collection[str]) -> Self:
        """The same, for a plan of these recipes: with nothing remembered."""
        updates = self.updates.for_plan() if self.updates else None
        return replace(self, foreseen=frozenset(recipes), updates=updates)

    def _overview(self, recipe: str) -> Overview:
        if recipe not in self._overviews:
            asked = {recipe, *self.foreseen} - self._overviews.keys()
            self._overviews.update(dict.fromkeys(asked, self.catalog.overview(asked, preview=self.preview)))
        return self._overviews[recipe]

    def _held_by(self, recipe: str, channel: str) -> Mapping[Place, Build]:
        if (recipe, channel) not in self._held:
            asked = {recipe, *self.foreseen}
            found = self.catalog.channel_builds(asked, channel)
            self._held.update({(name, channel): found for name in asked})
        return self._held[recipe, channel]

    def usable_builds(self, recipe: str, target: str, arch: str) -> Sequence[Build]:
        return Drawn(filter(self._is_here, self.known_builds(recipe, target, arch)))

    def known_builds(self, recipe: str, target: str, arch: str) -> Sequence[Build]:
        """Those that would be usable builds if they were here."""
        return Drawn(self._find_known(recipe, target, arch))

    def _find_known(self, recipe: str, target: str, arch: str) -> Iterator[Build]:
        """The newest one is mostly all that anybody wants to know of."""
        overview, place = self._overview(recipe), (recipe, target, arch)
        first = overview.usable.get(place)
        if first is not None:
            yield first
        if first is not None or place in overview.unsound:
            for build in self.catalog.usable_builds(recipe, target, arch, preview=self.preview):
                if first is None or build.id != first.id:
                    yield build

    def preview_builds(self, recipe: str, target: str, arch: str) -> Sequence[Build]:
        if (recipe, target, arch) not in self._overview(recipe).previewed:
            return ()
        builds = self.catalog.preview_builds(recipe, target, arch, preview=self.preview)
        return [build for build in builds if self._is_here(build)]

    def find_build(self, reference: Reference, target: str, arch: str) -> Build | None:
        recipe, channel, place = reference.recipe, reference.channel, (reference.recipe, target, arch)
        build: Build | None
        if reference.version or reference.digest:
            try:
                build = self.resolve_parent(reference, target, arch).build_for(target, arch)
            except BadReference:
                return None
        elif channel is None or channel == LATEST:
            build = self._overview(recipe).latest.get(place)
        else:
            build = self._held_by(recipe, channel).get(place)
        return build if build and self._is_here(build) else None

    def resolve_parent(self, reference: Reference, target: str, arch: str) -> Image:
        """The image that a bake may start from. Raises BadReference."""
        return resolve_parent(self.catalog, reference, place=(target, arch), preview=self.preview)

    def waiting_version(self, recipe: str, target: str, arch: str) -> str | None:
        return self._overview(recipe).waiting_version(recipe, target, arch)

    def explain_no_build(self, reference: Reference, target: str, arch: str) -> str:
        try:
            image = self.resolve_parent(reference, target, arch)
        except BadReference as error:
            return str(error)
        build = image.build_for(target, arch)
        if build is None:
            return f"{image.reference} has no build for {target}/{arch}"
        return explain_absence(image.reference, build)

    def _is_here(self, build: Build) -> bool:
        if build.id not in self._here:
            provider = self.providers[build.target]
            self._here[build.id] = all(provider.holds(artifact) for artifact in build.artifacts)
        return self._here[build.id]

    def current_inputs(
        self, recipe: Recipe, target: str, arch: str, parent: Build | None, build: Build
    ) -> Mapping[str, str]:
        key = recipe.name, target, arch, parent.id if parent else None
        if key not in self._static:
            source = self.resolve(recipe, target, arch, parent)
            self._static[key] = self.static_inputs(recipe, target, arch, source)
        return {**self._static[key], **refresh_traced(recipe.project, build.provenance.inputs, self._traced)}

    def image_tests(self, recipe: Recipe) -> Mapping[str, str]:
        return image_test_inputs(recipe)

    def package_updates(
        self, recipe: Recipe, target: str, arch: str, build: Build
    ) -> tuple[Sequence[PackageUpdate], str | None]:
        del arch
        if self.updates is None:
            return (), None
        settings = target_settings(self.settings, recipe.targets[target])
        return self.updates.outdated(
            build.id,
            lambda: self.catalog.package_state(build.id),
            folders=self.providers[target].shown_folders(settings),
            proxy=settings.get("http_proxy"),
        )

    def max_age(self, recipe: Recipe) -> str | None:
        return recipe.max_age or self.settings.bake.get("max_age")

    def now(self) -> datetime:
        return self.clock()

    def explain_revoked(self, recipe: str, target: str, arch: str) -> str | None:
        del target, arch  # an image is revoked with all its builds
        if recipe not in self._overview(recipe).revoked:
            return None
        newest = self.catalog.newest_image(recipe, preview=self.preview)
        if newest is None:
            return None
        if newest.status is ImageStatus.REVOKED:
            return f"{newest.reference} was revoked" + (
                f": {newest.status_reason}" if newest.status_reason else ""
            )
        if newest.revoked_ancestors:
            return (
                f"{newest.reference} is built upon {', '.join(newest.revoked_ancestors)}, which was revoked"
            )
        return None

    def name_build(self, build_id: str) -> str | None:
        try:
            return self.catalog.holder(build_id, preview=self.preview).reference
        except CatalogError:
            return None

    def archs(self, recipe: Recipe, target: str) -> Sequence[str]:
        """What a recipe is baked for on a target; none where nobody here can do that."""
        if target not in self.providers:
            return ()
        return self.providers[target].archs(target_settings(self.settings, recipe.targets[target]))

    def resolve(self, recipe: Recipe, target: str, arch: str, parent: Build | None) -> ResolvedSource:
        """The recipe's source, pinned. Raises SourceError."""
        spec = recipe.targets[target]
        settings = target_settings(self.settings, spec)
        return self.providers[target].resolve(spec.source, parent, settings, arch)

    def static_inputs(self, recipe: Recipe, target: str, arch: str, source: ResolvedSource) -> dict[str, str]:
        if not self._tools:
            self._tools.update(tool_versions())
        settings = result_settings(target, source.settings)
        return static_inputs(recipe, target, arch, source.digest, self.environ, self._tools, settings)
