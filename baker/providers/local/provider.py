"""The local target: images as chains of EROFS layers in a store on this host."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from baker.errors import BakerError, HostError, SourceError, StoreError
from baker.layer import Layer
from baker.model import Artifact, Bootstrap, Build, Package, Recipe, Resource, Source, TreeSource
from baker.package_state import NEWEST_SEEN
from baker.providers.local.archive import Archive
from baker.providers.local.bootstrap import ensure_bootstrap, parse_bootstrap
from baker.providers.local.cgroups import find_cgroup_roots, find_groups, remove_cgroup
from baker.providers.local.holder import MachineSpec
from baker.providers.local.host import (
    adopt_orphans,
    host_arch,
    remove_folder,
    require_tools,
)
from baker.providers.local.limits import read_limits
from baker.providers.local.machine import LocalMachine
from baker.providers.local.offline import place_offline_method
from baker.providers.local.proxies import loopback_port
from baker.providers.local.repositories import (
    Repository,
    install_repository,
    pin_repositories,
    read_repositories,
    remove_folder_repositories,
    show_folders,
)
from baker.providers.local.sidecars import list_sidecars, read_contents
from baker.providers.local.store import Store
from baker.providers.local.tree import read_layer_packages, remove_mount_points, seal_tree
from baker.providers.local.trees import ensure_tree, resolve_tree
from baker.providers.protocol import Captured, IsNeeded, Machine, ResolvedSource, nobody_needs
from baker.sidecar import Sidecar, Unreadable, describe_build, describe_issue
from baker.teardown import Teardown


@dataclass(frozen=True, kw_only=True, slots=True)
class Launched:
    """What a build instance was made of."""

    chain: Mapping[str, Any]
    repositories: tuple[Repository, ...]


class LocalProvider:
    """See ``baker.providers.protocol.Provider``. ``home`` is BAKER_HOME; ``project`` is where relative paths
    of sources and settings start; ``offline`` forbids to fetch: then machines have no network either.

    ``refresh`` fetches package indexes once more, however young they are. So it does where package updates
    were looked for in newer ones than its own: a bake brings what a plan promised.

    ``detached`` machines outlive this process: for build instances that are kept for a look.
    """

    target = "local"

    def __init__(
        self,
        home: Path,
        *,
        project: Path | None = None,
        offline: bool = False,
        refresh: bool = False,
        detached: bool = False,
    ) -> None:
        self.arch = host_arch()
        self.store = Store(home / "local")
        self.project = project
        self.offline = offline
        self._not_before = time.time() if refresh else 0.0
        self._newest_seen = home / NEWEST_SEEN
        self.detached = detached
        self._launched: dict[str, Launched] = {}

    def check(self) -> None:
        require_tools()
        find_cgroup_roots()
        self.store.create()

    # --- sources ----------------------------------------------------------------------------------

    def archs(self, settings: Mapping[str, Any]) -> Sequence[str]:
        del settings  # a machine here shares the host's kernel, so it has the host's architecture
        return (self.arch,)

    def resolve(
        self, source: Source, parent: Build | None, settings: Mapping[str, Any], arch: str
    ) -> ResolvedSource:
        settings = pin_repositories(settings, self.project)
        pinned = partial(ResolvedSource, source=source, arch=arch, settings=settings)
        if isinstance(source, TreeSource):
            return pinned(digest=resolve_tree(self.store, source, self.project, self.arch))
        if isinstance(source, Bootstrap):
            # Who may only read plans with the package indexes as they are.
            offline = self.offline or not os.access(self.store.folder, os.W_OK)
            resolved = self._archive(source, settings).resolve_bootstrap(offline=offline)
            return pinned(digest=f"sha256:{resolved.key}")
        if parent is None:
            raise SourceError(f"{source} is not a source for the local target")
        return pinned(digest=parent.digest, artifact=parent.artifacts[0], parent=parent)

    def shown_folders(self, settings: Mapping[str, Any]) -> Mapping[str, Path]:
        pinned = pin_repositories(settings, self.project)
        return show_folders(read_repositories(pinned.get("repositories", ())), self.project)

    def _archive(
        self, bootstrap: Bootstrap, settings: Mapping[str, Any], repositories: Sequence[Repository] = ()
    ) -> Archive:
        seen = self._newest_seen.stat().st_mtime if self._newest_seen.exists() else 0.0
        return Archive(
            self.store,
            bootstrap,
            self.arch,
            mirror=settings.get("mirror"),
            security_mirror=settings.get("security_mirror"),
            proxy=settings.get("http_proxy"),
            repositories=repositories,
            not_before=max(self._not_before, seen),
        )

    # --- baking -----------------------------------------------------------------------------------

    def launch(self, bake_id: str, recipe: Recipe, source: ResolvedSource, teardown: Teardown) -> Machine:
        chain = self._chain(source, teardown)
        wanted = read_repositories(source.settings.get("repositories", ()))
        inherited = read_repositories(chain.get("repositories", ()))
        repositories = tuple({repository.name: repository for repository in (*inherited, *wanted)}.values())
        archive = self._machine_archive(chain, source, repositories)
        proxy = source.settings.get("http_proxy")
        proxies = {"http_proxy": proxy, "https_proxy": proxy} if proxy else {}
        port = loopback_port(proxy) if proxy and not self.offline else None
        shown = [(folder, path) for path, folder in show_folders(repositories, self.project).items()]
        if archive is not None and self.offline:
            shown.append((place_offline_method(self.store.folder / "apt"), "/usr/lib/apt/methods/http"))
        spec = MachineSpec(
            name=bake_id,
            cgroup=self.cgroup_of(bake_id),
            folder=self.store.machines / bake_id,
            layers=self.store.verified_layers(chain["layers"]),
            hostname=recipe.name,
            environment={"SOURCE_DATE_EPOCH": str(chain["epoch"]), **proxies},
            binds=(
                ("lists", archive.lists, "/var/lib/apt/lists"),
                ("debs", archive.debs, "/var/cache/apt/archives"),
            )
            if archive
            else (),
            quiet=True,
            detached=self.detached,
            limits=read_limits(source.settings),
            shown=tuple(shown),
            network=not self.offline,
            loopback_ports=(port,) if port else (),
        )
        machine = self._start(spec, teardown, archive)
        self._launched[bake_id] = Launched(chain=chain, repositories=repositories)
        for repository in wanted:
            install_repository(machine, repository)
        return machine

    def _machine_archive(
        self, chain: Mapping[str, Any], source: ResolvedSource, repositories: Sequence[Repository]
    ) -> Archive | None:
        """The archive whose indexes and packages a machine begins with; None where it has no apt."""
        if chain["bootstrap"] is None:
            if repositories:
                raise SourceError(
                    f"{source.source} has no apt of a distribution that baker knows, so no repositories"
                )
            return None
        known = [repository for repository in repositories if not repository.is_folder]
        archive = self._archive(parse_bootstrap(chain["bootstrap"]), source.settings, known)
        archive.refresh(offline=self.offline)
        return archive

    def cgroup_of(self, machine: str) -> str:
        """Names the store too: the machines of another one on this host are none of our business."""
        return f"baker-{hashlib.sha256(str(self.store.folder).encode()).hexdigest()[:8]}-{machine}"

    def _chain(self, source: ResolvedSource, teardown: Teardown) -> dict[str, Any]:
        """What a machine is made of: ``layers`` (lowest first), ``packages``, ``epoch``, ``bootstrap``."""
        if source.artifact is not None:
            return self.store.read_artifact(source.artifact.id)
        if isinstance(source.source, TreeSource):
            return ensure_tree(self.store, source.source, self.project, self.arch, source.digest, teardown)
        assert isinstance(source.source, Bootstrap)
        archive = self._archive(source.source, source.settings)
        resolved = archive.resolve_bootstrap(offline=self.offline)
        return ensure_bootstrap(self.store, archive, resolved, teardown, offline=self.offline)

    def _start(self, spec: MachineSpec, teardown: Teardown, archive: Archive | None = None) -> LocalMachine:
        """When the machine is torn down, what it fetched from ``archive`` stays for later ones."""
        started: list[LocalMachine] = []
        resource = Resource(provider="local", kind="machine", id=spec.name)

        def undo() -> None:
            for machine in started:
                machine.kill()
                if archive is not None:
                    with contextlib.suppress(BakerError, OSError):  # a cache: nothing depends on it
                        archive.accept(machine.spec.folder / "binds" / "debs" / "upper")
                machine.discard()
            self.remove(resource)

        adopt_orphans()
        with teardown.making(resource, undo):
            started.append(LocalMachine.start(spec))
        return started[0]

    def seal(self, machine: Machine) -> None:
        assert isinstance(machine, LocalMachine)
        machine.require_sound()
        machine.stop()
        remove_mount_points(machine.upper)
        remove_folder_repositories(machine.upper, self._launched[machine.name].repositories)
        epoch = int(machine.spec.environment["SOURCE_DATE_EPOCH"])
        seal_tree(machine.upper, started=machine.started, epoch=epoch)

    def capture(self, bake_id: str, machine: Machine, source: ResolvedSource, teardown: Teardown) -> Captured:
        del source  # what it came to when the machine was launched counts
        assert isinstance(machine, LocalMachine)
        launched = self._launched.pop(machine.name)
        chain = launched.chain
        lower = [self.store.read_layer(digest) for digest in chain["layers"]]
        packages = read_layer_packages(machine.upper)
        if packages is None:
            packages = tuple(Package(**row) for row in chain["packages"])
        kept = [asdict(repository) for repository in launched.repositories if not repository.is_folder]
        capture = Resource(provider="local", kind="capture", id=bake_id)
        with self.store.lock("layers", shared=True), teardown.making(capture, lambda: self.remove(capture)):
            layer = self.store.add_layer(machine.upper)
            layers = [*lower, layer]
            details = {
                "bake": bake_id,
                "bootstrap": chain["bootstrap"],
                "epoch": chain["epoch"],
                "packages": [asdict(package) for package in packages],
                **({"repositories": kept} if kept else {}),
            }
            digests = [layer.digest for layer in layers]
            artifact_id = self.store.write_artifact(digests, details)
        artifact = Artifact(
            id=artifact_id,
            target=self.target,
            arch=self.arch,
            kind="layers",
            store=self.store_name,
            size_bytes=sum(self.store.layer_size(digest) for digest in digests),
        )
        return Captured(resource=capture, artifact=artifact, layers=tuple(layers), packages=packages)

    @property
    def store_name(self) -> str:
        """Names this store to other machines: host and folder."""
        return f"{socket.gethostname()}:{self.store.folder}"

    def start(
        self,
        name: str,
        hostname: str,
        artifact: Artifact,
        teardown: Teardown,
        settings: Mapping[str, Any] | None = None,
    ) -> Machine:
        spec = MachineSpec(
            name=name,
            cgroup=self.cgroup_of(name),
            folder=self.store.machines / name,
            layers=self.store.verified_layers(self.store.read_artifact(artifact.id)["layers"]),
            hostname=hostname,
            environment={},
            limits=read_limits(settings or {}),
            network=not self.offline,
        )
        return self._start(spec, teardown)

    def describe_access(self, machine: Resource) -> str:
        try:
            leader = (self.store.machines / machine.id / "leader").read_text()
        except OSError as error:
            raise HostError(f"machine {machine.id} did not boot") from error
        return f"sudo nsenter --target {leader} --all --root --wd -- /bin/bash"

    def distribute(
        self,
        build: Build,
        labels: Mapping[str, str],
        teardown: Teardown,
        settings: Mapping[str, Any] | None = None,
    ) -> tuple[Artifact, ...]:
        del teardown, settings  # the only place is this store, where it is already
        for artifact in build.artifacts:
            self.store.label_artifact(
                artifact.id,
                {**labels, "digest": build.digest, "fingerprint": build.fingerprint},
                describe_build(build),
                describe_issue(labels, datetime.now(UTC)),
            )
        return build.artifacts

    def publish_channel(self, recipe: str, channel: str, builds: Sequence[Build]) -> Sequence[str]:
        del recipe, channel, builds  # whoever follows a channel here asks the catalog
        return ()

    def withdraw_channel(self, recipe: str, channel: str, builds: Sequence[Build]) -> Sequence[str]:
        del recipe, channel, builds
        return ()

    def sidecars(self) -> Iterator[Sidecar | Unreadable]:
        """What the artifacts here tell of their builds."""
        return list_sidecars(self.store, self.arch, self.store_name)

    def read_contents(self, artifact: Artifact) -> tuple[list[Layer], tuple[Package, ...]]:
        """The layers (lowest first) and packages of an artifact that is here. Raises StoreError."""
        return read_contents(self.store, artifact.id)

    def describe_calls(self) -> str:
        return ""

    # --- keeping ----------------------------------------------------------------------------------

    def in_use(self, *artifacts: Artifact) -> Mapping[str, str]:
        del artifacts  # a running machine has the layers open: they stay until it ends
        return {}

    def holds(self, artifact: Artifact) -> bool:
        return artifact.store == self.store_name and self.store.has_artifact(artifact.id)

    def reaches(self, artifact: Artifact) -> bool:
        return artifact.store == self.store_name

    def delete(self, *artifacts: Artifact, is_needed: IsNeeded = nobody_needs) -> None:
        def ask(artifact: Artifact) -> Callable[[Sequence[str]], bool]:
            return lambda owners: is_needed(artifact, owners)

        self.store.delete_artifacts({artifact.id: ask(artifact) for artifact in artifacts})

    def measure(self, *artifacts: Artifact) -> list[int]:
        freed = self.store.measure_artifacts([artifact.id for artifact in artifacts])
        return [freed.pop(artifact.id, 0) for artifact in artifacts]

    def leftovers(self) -> Sequence[Resource]:
        found = [
            Resource(provider="local", kind="machine", id=path.name)
            for path in (self.store.machines.iterdir() if self.store.machines.exists() else ())
        ]
        prefix = self.cgroup_of("")
        found += [
            Resource(provider="local", kind="machine", id=path.name.removeprefix(prefix))
            for path in find_groups(find_cgroup_roots(), prefix)
        ]
        return list({resource.id: resource for resource in found}.values())

    def remove(self, resource: Resource) -> None:
        if resource.kind == "machine":
            for group in find_groups(find_cgroup_roots(), self.cgroup_of(resource.id)):
                if group.name == self.cgroup_of(resource.id):
                    remove_cgroup(group)
            remove_folder(self.store.machines / resource.id)
        elif resource.kind == "capture":
            self.store.delete_captures(resource.id)
        elif resource.kind == "folder":
            remove_folder(Path(resource.id))
        else:
            raise StoreError(f"the local provider has no {resource.kind} {resource.id}")
