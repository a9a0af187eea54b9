"""Restoring the images of a lost catalog from what artifacts tell of them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from baker.catalog import Catalog
from baker.errors import StoreError
from baker.layer import Layer
from baker.manifest import fold_layers, manifest_digest
from baker.model import Artifact, Build, Manifest, Package
from baker.sidecar import Issue, Sidecar, Unreadable

CONTENTS = ("packages", "files")
"""What is missing where an artifact does not tell what is inside."""


class Teller(Protocol):
    """A provider whose artifacts tell of their builds."""

    def sidecars(self) -> Iterable[Sidecar | Unreadable]: ...

    def read_contents(self, artifact: Artifact) -> tuple[Sequence[Layer], Sequence[Package]] | None:
        """The layers (lowest first) and packages of an artifact; None where it does not tell them.

        Raises StoreError.
        """


class Fate(enum.StrEnum):
    """What became of one version of one build."""

    RESTORED = "restored"
    KNOWN = "known"
    TAKEN = "taken"
    DAMAGED = "damaged"


@dataclass(frozen=True, kw_only=True, slots=True)
class Restoration:
    """``image`` is a reference (the artifact where that is not known); ``missing`` could not be restored."""

    image: str
    build: str | None
    fate: Fate
    detail: str
    missing: tuple[str, ...] = ()


def rebuild_catalog(
    catalog: Catalog, teller: Teller, *, dry_run: bool, report: Callable[[Restoration], None]
) -> list[Restoration]:
    """Write down every build that an artifact tells of and the catalog does not hold, oldest version first.

    Idempotent, and every version is a transaction of its own: one that was interrupted goes on. A version
    that the catalog holds with another build stays as it is.
    """
    done: list[Restoration] = []

    def add(restoration: Restoration) -> None:
        done.append(restoration)
        report(restoration)

    held = {
        (image.recipe, image.version, build.target, build.arch): build.id
        for image in catalog.images()
        for build in image.builds
    }
    found: list[tuple[Issue, Sidecar]] = []
    for told in teller.sidecars():
        if isinstance(told, Unreadable):
            add(Restoration(image=told.artifact, build=None, fate=Fate.DAMAGED, detail=told.reason))
        else:
            found += [(issue, told) for issue in told.issues]
    for issue, sidecar in sorted(found, key=lambda pair: (pair[0].at, pair[1].build.recipe, pair[0].version)):
        build = sidecar.build
        add(_restore(catalog, teller, issue, sidecar, held.get(_place(build, issue)), dry_run=dry_run))
        if done[-1].fate is Fate.RESTORED:
            held[_place(build, issue)] = build.id
    return done


def _place(build: Build, issue: Issue) -> tuple[str, int, str, str]:
    return build.recipe, issue.version, build.target, build.arch


def _restore(
    catalog: Catalog, teller: Teller, issue: Issue, sidecar: Sidecar, held: str | None, *, dry_run: bool
) -> Restoration:
    build = sidecar.build
    reference = f"{build.recipe}:{issue.version}"

    def restoration(fate: Fate, detail: str, missing: tuple[str, ...] = ()) -> Restoration:
        return Restoration(image=reference, build=build.id, fate=fate, detail=detail, missing=missing)

    if held == build.id:
        return restoration(Fate.KNOWN, "the catalog holds it already")
    if held is not None:
        return restoration(Fate.TAKEN, f"the catalog holds this version with the build {held}")
    try:
        contents = teller.read_contents(build.artifacts[0])
    except StoreError as error:
        return restoration(Fate.DAMAGED, str(error))
    layers, packages = contents or ((), ())
    if (
        contents
        and manifest_digest(Manifest(packages=tuple(packages), files=fold_layers(layers))) != build.digest
    ):
        return restoration(Fate.DAMAGED, f"its contents do not come to its digest {build.digest}")
    missing = sidecar.missing if contents else tuple(dict.fromkeys([*sidecar.missing, *CONTENTS]))
    if not dry_run and catalog.restore_build(build, issue, layers=layers, packages=packages) is None:
        return restoration(Fate.TAKEN, "the catalog got this version with another build meanwhile")
    detail = f"not in its artifact: {', '.join(missing)}" if missing else ""
    return restoration(Fate.RESTORED, detail, missing)
