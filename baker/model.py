"""The nouns of the product, as frozen values. See "Words" in ARCHITECTURE.md.

Digests are written ``sha256:`` followed by 64 hex digits, sizes are bytes, durations are seconds and
times are aware datetimes in UTC. Nothing here does I/O.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from baker.errors import BadReference

RECIPE_NAME = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")
CHANNEL_NAME = re.compile(r"^[a-z][a-z0-9]*([._-][a-z0-9]+)*\Z")
LATEST = "latest"


class ImageStatus(enum.StrEnum):
    """States of an image; only AVAILABLE and DEPRECATED ones are ever resolved."""

    REGISTERED = "registered"
    AVAILABLE = "available"
    DEPRECATED = "deprecated"
    REVOKED = "revoked"
    DELETED = "deleted"


class Outcome(enum.StrEnum):
    """How one bake ended, as said in JSON."""

    BAKED = "baked"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    BLOCKED = "blocked"


class Stage(enum.StrEnum):
    """The stages of the pipeline, in their order."""

    RESOLVE = "resolve"
    LAUNCH = "launch"
    CONFIGURE = "configure"
    SEAL = "seal"
    CAPTURE = "capture"
    VERIFY = "verify"
    REGISTER = "register"
    DISTRIBUTE = "distribute"
    TEARDOWN = "teardown"


def shorten_digest(digest: str) -> str:
    """A digest as it is shown in lists; another exact name (an AMI's id) stays whole."""
    return digest[:19] if digest.startswith("sha256:") else digest


# --- references ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """``web``, ``web:12``, ``web:prod`` or ``web@sha256:ab12…``.

    At most one of ``version``, ``channel`` and ``digest`` is set; none means ``latest``. ``digest`` is
    ``sha256:`` and at least 4 hex digits of a manifest digest.
    """

    recipe: str
    version: int | None = None
    channel: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises BadReference, with the accepted forms."""
        name, at, digest = text.partition("@")
        recipe, colon, tag = name.partition(":")
        if RECIPE_NAME.match(recipe) and not (at and colon):
            if at and re.match(r"^sha256:[0-9a-f]{4,64}\Z", digest):
                return cls(recipe=recipe, digest=digest)
            if colon and re.match(r"^[1-9][0-9]{0,8}\Z", tag):
                return cls(recipe=recipe, version=int(tag))
            if colon and CHANNEL_NAME.match(tag):
                return cls(recipe=recipe, channel=tag)
            if not at and not colon:
                return cls(recipe=recipe)
        hint = "A reference is web, web:12, web:prod or web@sha256:ab12…"
        raise BadReference(f"{text!r} is not a reference", hint=hint)

    def __str__(self) -> str:
        if self.digest is not None:
            return f"{self.recipe}@{self.digest}"
        tag = self.version if self.version is not None else self.channel
        return self.recipe if tag is None else f"{self.recipe}:{tag}"


# --- recipes ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootstrap:
    """A root recipe's source on the local target: a distribution and a suite (``debian:trixie``)."""

    distribution: str
    suite: str

    def __str__(self) -> str:
        return f"{self.distribution}:{self.suite}"


@dataclass(frozen=True, kw_only=True, slots=True)
class AmiSource:
    """A root recipe's source on AWS, as the recipe's table gives it (interpreted by the provider)."""

    query: Mapping[str, str]

    def __str__(self) -> str:
        return "ami(" + ", ".join(f"{key}={value}" for key, value in sorted(self.query.items())) + ")"


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeSource:
    """A root file system: a ``tar`` archive, or an image (``tag``) in an ``oci`` layout; from the project."""

    format: str
    path: str
    tag: str | None = None

    def __str__(self) -> str:
        return f"{self.format}:{self.path}" + (f":{self.tag}" if self.tag else "")


Source = Reference | Bootstrap | TreeSource | AmiSource
"""What a bake starts from. A Reference means: the image of the parent recipe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSpec:
    """What one recipe says about one target: its source, data and settings there."""

    target: str
    source: Source
    data: Mapping[str, Any]
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A validated recipe. ``timeout`` is per operation, ``limits`` are per stage; ``retries`` and ``max_age``
    (an age as written) are None where baker.toml's ``[bake]`` decides.

    ``folder``, ``project`` and the files in ``image_tests`` are absolute paths; ``workdir`` is relative
    to the folder (None: relative paths of the deploy start at the project's root). ``audit_allow`` are globs
    of paths that a running machine may change, ``audit_ports`` ports it may listen on beyond a fresh one's.
    """

    name: str
    folder: str
    project: str
    description: str
    targets: Mapping[str, TargetSpec]
    secrets: Sequence[str] = ()
    environment: Sequence[str] = ()
    inputs: Sequence[str] = ()
    groups: Sequence[str] = ()
    workdir: str | None = None
    timeout: float = 1800.0
    total_timeout: float = 7200.0
    image_tests: Sequence[str] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    retries: int | None = None
    max_age: str | None = None
    audit_allow: Sequence[str] = ()
    audit_ports: Sequence[int] = ()

    @property
    def deploy_file(self) -> str:
        return f"{self.folder}/deploy.py"


# --- what is inside a build ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Package:
    """One installed package. ``type`` is ``deb`` or ``rpm``; ``source`` is the source package."""

    type: str
    name: str
    version: str
    arch: str
    source: str
    source_version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One path of an image.

    ``kind`` is one of ``f`` file, ``d`` directory, ``l`` symbolic link, ``c``/``b`` device, ``p`` fifo,
    ``s`` socket. ``mode`` holds the permission bits including setuid, setgid and sticky. ``digest`` is
    the hex sha256 of a file's content, ``link`` a link's target, ``xattrs`` name to hex value.
    Modification times are left out on purpose: they are not part of an image's identity.
    """

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int = 0
    digest: str = ""
    link: str = ""
    xattrs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What is inside a build: packages and files, both sorted. See ``baker.manifest`` for its digest."""

    packages: tuple[Package, ...]
    files: tuple[FileEntry, ...]


# --- provenance and builds -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a build came from. ``inputs`` maps an input's key (see ``baker.fingerprint``) to its digest."""

    source: str
    source_digest: str
    inputs: Mapping[str, str]
    commit: str | None
    dirty: bool | None
    actor: str
    host: str
    started: datetime
    finished: datetime
    tools: Mapping[str, str]
    opaque: str | None = None
    parent_build: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """One thing at a provider. ``store`` names where it lies: a host for local layers, a region for AMIs."""

    id: str
    target: str
    arch: str
    kind: str
    store: str
    size_bytes: int
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """What one successful bake made, for one target and architecture.

    ``id`` is the id of the bake that made it; a build carried over into a later version keeps it.
    ``image_tests`` are those that it passed last (see ``baker.fingerprint``); None where that is not known.
    """

    id: str
    recipe: str
    target: str
    arch: str
    fingerprint: str
    digest: str
    size_bytes: int
    provenance: Provenance
    artifacts: tuple[Artifact, ...]
    created: datetime
    image_tests: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """One version of one recipe.

    One that is deprecated from some day on has that in ``deprecated_from``, and is available until then.
    ``revoked_ancestors`` are references of what it is built upon and must not be used any more. A ``preview``
    is the channel that it was baked for, and nobody's ``latest``; ``preview_ends`` is when that channel
    expires, while it holds this image.
    """

    recipe: str
    version: int
    status: ImageStatus
    complete: bool
    created: datetime
    channels: tuple[str, ...]
    builds: tuple[Build, ...]
    status_reason: str | None = None
    deprecated_from: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    revoked_ancestors: tuple[str, ...] = ()
    preview: str | None = None
    preview_ends: datetime | None = None

    @property
    def reference(self) -> str:
        return f"{self.recipe}:{self.version}"

    def build_for(self, target: str, arch: str) -> Build | None:
        return next((build for build in self.builds if (build.target, build.arch) == (target, arch)), None)


# --- bakes ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """Something a bake makes and must remove. ``kind`` and ``id`` name it at its provider.

    ``id`` is known before the thing exists (a name made from the bake id).
    """

    provider: str
    kind: str
    id: str
    place: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerEntry:
    """A resource in the ledger: ``intended`` before it is asked for, ``exists`` after, then ``removed``."""

    bake_id: str
    resource: Resource
    state: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord:
    """One stage of one bake; ``seconds`` is None while it runs."""

    stage: Stage
    started: datetime
    seconds: float | None
    outcome: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BakeRecord:
    """A bake as the catalog keeps it. ``outcome`` is None while it runs (or after its process died)."""

    id: str
    recipe: str
    target: str
    arch: str
    actor: str
    host: str
    pid: int
    started: datetime
    finished: datetime | None
    outcome: Outcome | None
    image: str | None
    error: str | None
    stages: tuple[StageRecord, ...]
    log_path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why a recipe is baked, skipped or blocked. ``kind`` is stable, ``detail`` is for people."""

    kind: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BakeResult:
    """What one bake of a run came to, the shape of ``bake --json``.

    ``attempts`` says how many tries it took (0: it did not begin); ``stages`` has the seconds of all tries.
    """

    bake: str | None
    recipe: str
    target: str
    arch: str
    outcome: Outcome
    image: str | None
    reason: str
    seconds: float
    stages: Mapping[str, float] = field(default_factory=dict)
    changed_operations: int = 0
    unchanged_operations: int = 0
    error: str | None = None
    attempts: int = 0
