"""What planning knows: the catalog's builds, what really is at the providers, the project as it is now."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from baker.catalog import Catalog
from baker.errors import BadReference
from baker.fingerprint import refresh_traced, static_inputs
from baker.model import Build, Recipe, Reference
from baker.providers.protocol import Provider, ResolvedSource
from baker.seal import SEAL_VERSION
from baker.settings import Settings, result_settings, target_settings


def tool_versions() -> dict[str, str]:
    """The tools that an image depends on."""
    return {"pyinfra": importlib.metadata.version("pyinfra"), "seal": SEAL_VERSION}


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectKnowledge:
    """``baker.plan.Knowledge`` from the real things."""

    catalog: Catalog
    providers: Mapping[str, Provider]
    settings: Settings
    environ: Mapping[str, str]

    def usable_builds(self, recipe: str, target: str, arch: str) -> Sequence[Build]:
        builds = self.catalog.usable_builds(recipe, target, arch)
        return [build for build in builds if self._is_here(build)]

    def find_build(self, reference: Reference, target: str, arch: str) -> Build | None:
        try:
            build = self.catalog.resolve(reference).build_for(target, arch)
        except BadReference:
            return None
        return build if build and self._is_here(build) else None

    def _is_here(self, build: Build) -> bool:
        return all(self.providers[build.target].holds(artifact) for artifact in build.artifacts)

    def current_inputs(
        self, recipe: Recipe, target: str, arch: str, parent: Build | None, build: Build
    ) -> Mapping[str, str]:
        source = self.resolve(recipe, target, parent)
        traced = refresh_traced(recipe.project, build.provenance.inputs)
        return {**self.static_inputs(recipe, target, arch, source), **traced}

    def resolve(self, recipe: Recipe, target: str, parent: Build | None) -> ResolvedSource:
        """The recipe's source, pinned. Raises SourceError."""
        spec = recipe.targets[target]
        return self.providers[target].resolve(spec.source, parent, target_settings(self.settings, spec))

    def static_inputs(self, recipe: Recipe, target: str, arch: str, source: ResolvedSource) -> dict[str, str]:
        settings = result_settings(target, source.settings)
        return static_inputs(recipe, target, arch, source.digest, self.environ, tool_versions(), settings)
