"""What the pipeline asks of a provider and of the machines it makes. Small on purpose.

Adapters under ``baker.providers`` satisfy these by shape; they import nothing of one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from baker.layer import Layer
from baker.model import Artifact, Build, Package, Recipe, Resource, Source
from baker.teardown import Teardown


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandResult:
    """A finished command. ``exit_status`` is negative where a signal ended it."""

    exit_status: int
    stdout: bytes
    stderr: bytes


OutputSink = Callable[[str, bytes], None]
"""Called with ``stdout`` or ``stderr`` and a chunk, as it comes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that `baker system doctor` looked at; ``remedy`` is set where it is not ok."""

    name: str
    ok: bool
    detail: str
    remedy: str | None = None


IsNeeded = Callable[[Artifact, Sequence[str]], bool]
"""Of an artifact and the ids of the bakes that came to it: whether somebody still needs it."""


def nobody_needs(_artifact: Artifact, _bakes: Sequence[str]) -> bool:
    return False


class Machine(Protocol):
    """A running machine that only the holder of this object can reach."""

    name: str

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_output: OutputSink | None = None,
    ) -> CommandResult:
        """Run one command as root in the machine and wait for it.

        A non-zero exit status is a result, not an error. Raises CommandTimeout after ``timeout``
        seconds, when every process that the command started in the machine is gone; MachineError if
        the machine is not running.
        """

    def put(self, source: BinaryIO, path: str, *, mode: int = 0o644) -> None:
        """Write a file, following symbolic links *inside the machine*. Raises CommandFailed."""

    def get(self, path: str, destination: BinaryIO) -> None:
        """Read a file. Raises CommandFailed if it cannot be read."""

    def alive(self) -> bool:
        """Whether the machine's init still runs."""

    def interactive(self, argv: Sequence[str]) -> int:
        """Run a command on this process's terminal; returns its exit status."""

    def stop(self) -> None:
        """Shut down in an orderly way (services stop), by force after a while. Idempotent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedSource:
    """A source pinned to something exact.

    ``source`` is what the recipe asked for, ``digest`` what it came to, ``artifact`` what to launch from
    (None: a bootstrap that the provider still has to make at launch). ``parent`` is the parent's build.
    """

    source: Source
    digest: str
    arch: str
    settings: Mapping[str, Any]
    artifact: Artifact | None = None
    parent: Build | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Captured:
    """What ``capture`` made. ``packages`` and the fold of ``layers`` (lowest first) are its manifest.

    ``resource`` is what ``teardown`` would remove: keep it once the build is registered.
    """

    resource: Resource
    artifact: Artifact
    layers: tuple[Layer, ...]
    packages: tuple[Package, ...]


class Provider(Protocol):
    """The code that knows one target."""

    target: str

    def archs(self, settings: Mapping[str, Any]) -> Sequence[str]:
        """The architectures (``x86_64``, ``arm64``) that a recipe with these settings of the target is baked
        for, the first one first."""

    def check(self) -> None:
        """Raise HostError if this process cannot bake here, naming what is missing and what brings it."""

    def resolve(
        self, source: Source, parent: Build | None, settings: Mapping[str, Any], arch: str
    ) -> ResolvedSource:
        """Pin a source; ``settings`` are those of the recipe on this target, ``parent`` is for ``arch``.

        Raises SourceError. Starts nothing; well under a second when nothing moved.
        """

    def shown_folders(self, settings: Mapping[str, Any]) -> Mapping[str, Path]:
        """Folders of this host that are package repositories for build instances, by where those see them.

        Raises SourceError for one that is missing.
        """

    def launch(self, bake_id: str, recipe: Recipe, source: ResolvedSource, teardown: Teardown) -> Machine:
        """A build instance made from ``source``, booted. Everything it makes is registered with ``teardown``.

        Raises SourceError, StoreError, HostError or MachineError. The machine raises MachineReclaimed when
        the provider takes it back; launched once more for the same bake, it is one that is not taken back.
        """

    def seal(self, machine: Machine) -> None:
        """Make the machine generic (see ``baker.seal``) and stop it."""

    def capture(self, bake_id: str, machine: Machine, source: ResolvedSource, teardown: Teardown) -> Captured:
        """Make the artifact of a sealed machine. It is removed again by ``teardown`` unless kept."""

    def start(
        self,
        name: str,
        hostname: str,
        artifact: Artifact,
        teardown: Teardown,
        settings: Mapping[str, Any] | None = None,
    ) -> Machine:
        """A fresh throwaway machine from an artifact; what it changes is discarded. ``name`` is unique.

        ``settings`` are the target's, for limits and the like.

        Raises StoreError if a part of the artifact is missing or does not match its digest.
        """

    def describe_access(self, machine: Resource) -> str:
        """The command that opens a shell in a machine that is kept after a failure.

        Raises HostError for one that did not come to be.
        """

    def distribute(
        self,
        build: Build,
        labels: Mapping[str, str],
        teardown: Teardown,
        settings: Mapping[str, Any] | None = None,
    ) -> tuple[Artifact, ...]:
        """Bring the build to every place that the target names; all or none. Returns every artifact of it.

        ``settings`` are the target's as they are now (``image publish``); None: those that it was captured
        with. Idempotent: what is there already is used. Copies made are registered with ``teardown`` and kept
        once all are there.
        """

    def publish_channel(self, recipe: str, channel: str, builds: Sequence[Build]) -> Sequence[str]:
        """Point what others follow (an SSM parameter per region) to the builds that a channel holds now.

        Called after the catalog's commit. Returns the places that lag behind, each with why.
        """

    def withdraw_channel(self, recipe: str, channel: str, builds: Sequence[Build]) -> Sequence[str]:
        """Remove what ``publish_channel`` made for these builds. Idempotent. Returns the places where that
        failed, each with why."""

    def in_use(self, *artifacts: Artifact) -> Mapping[str, str]:
        """Of these artifacts' ids those that something at the provider uses right now (an instance, a launch
        template, …), with what that is."""

    def describe_calls(self) -> str:
        """How much this thread has asked of a remote API so far, in words; empty where there is none."""

    def holds(self, artifact: Artifact) -> bool:
        """Whether the artifact is really there and usable from here."""

    def reaches(self, artifact: Artifact) -> bool:
        """Whether the artifact lies, or lay, where ``delete`` can remove it."""

    def delete(self, *artifacts: Artifact, is_needed: IsNeeded = nobody_needs) -> None:
        """Remove artifacts; parts that others share stay. Idempotent.

        One that ``is_needed`` stays: that is asked when no bake can come to the same artifact any more.
        """

    def measure(self, *artifacts: Artifact) -> Sequence[int]:
        """Bytes that ``delete`` would free with each, if it went through them in this order."""

    def leftovers(self) -> Sequence[Resource]:
        """Every resource at this provider that belongs to a bake, dead or alive."""

    def remove(self, resource: Resource) -> None:
        """Remove one resource of a bake. Idempotent."""
