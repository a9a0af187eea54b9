"""The local target: images as chains of EROFS layers in a store on this host."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from baker.errors import HostError, SourceError, StoreError
from baker.manifest import parse_dpkg_status
from baker.model import Artifact, Bootstrap, Build, Package, Recipe, Resource, Source
from baker.providers.local.archive import Archive
from baker.providers.local.bootstrap import ensure_bootstrap, remove_folder
from baker.providers.local.cgroups import find_cgroup_roots, remove_cgroup
from baker.providers.local.host import (
    PACKAGE_OF_TOOL,
    host_arch,
    missing_file_systems,
    missing_tools,
)
from baker.providers.local.machine import LocalMachine, MachineSpec
from baker.providers.local.store import Store
from baker.providers.local.tree import remove_mount_points, seal_tree
from baker.providers.protocol import Captured, Machine, ResolvedSource
from baker.teardown import Teardown

DPKG_STATUS = ("var", "lib", "dpkg", "status")


class LocalProvider:
    """See ``baker.providers.protocol.Provider``. ``home`` is BAKER_HOME; ``offline`` forbids to fetch.

    ``detached`` machines outlive this process: for build instances that are kept for a look.
    """

    target = "local"

    def __init__(self, home: Path, *, offline: bool = False, detached: bool = False) -> None:
        self.arch = host_arch()
        self.store = Store(home / "local")
        self.offline = offline
        self.detached = detached

    def check(self) -> None:
        if os.geteuid() != 0:
            raise HostError("baking for the local target needs root", hint="Run it with sudo.")
        if missing := missing_tools():
            packages = sorted({PACKAGE_OF_TOOL[tool] for tool in missing})
            raise HostError(
                f"missing tools: {', '.join(missing)}", hint=f"apt-get install {' '.join(packages)}"
            )
        if missing := missing_file_systems():
            raise HostError(f"the kernel has no {' and no '.join(missing)} file system")
        find_cgroup_roots()
        self.store.create()

    # --- sources ----------------------------------------------------------------------------------

    def resolve(self, source: Source, parent: Build | None, settings: Mapping[str, Any]) -> ResolvedSource:
        if isinstance(source, Bootstrap):
            # Who may only read plans with the package indexes as they are.
            offline = self.offline or not os.access(self.store.folder, os.W_OK)
            resolved = self._archive(source, settings).resolve_bootstrap(offline=offline)
            return ResolvedSource(source=source, digest=f"sha256:{resolved.key}", settings=settings)
        if parent is None:
            raise SourceError(f"{source} is not a source for the local target")
        artifact = parent.artifacts[0]
        return ResolvedSource(
            source=source, digest=parent.digest, settings=settings, artifact=artifact, parent=parent
        )

    def _archive(self, bootstrap: Bootstrap, settings: Mapping[str, Any]) -> Archive:
        return Archive(
            self.store,
            bootstrap,
            self.arch,
            mirror=settings.get("mirror"),
            security_mirror=settings.get("security_mirror"),
            proxy=settings.get("http_proxy"),
        )

    # --- baking -----------------------------------------------------------------------------------

    def launch(self, bake_id: str, recipe: Recipe, source: ResolvedSource, teardown: Teardown) -> Machine:
        chain = self._chain(source, teardown)
        archive = self._archive(parse_bootstrap(chain["bootstrap"]), source.settings)
        archive.refresh(offline=self.offline)
        proxy = source.settings.get("http_proxy")
        proxies = {"http_proxy": proxy, "https_proxy": proxy} if proxy else {}
        spec = MachineSpec(
            name=bake_id,
            cgroup=self._cgroup_of(bake_id),
            folder=self.store.machines / bake_id,
            layers=self._verified_layers(chain),
            hostname=recipe.name,
            environment={"SOURCE_DATE_EPOCH": str(chain["epoch"]), **proxies},
            binds=(
                ("lists", archive.lists, "/var/lib/apt/lists"),
                ("debs", archive.debs, "/var/cache/apt/archives"),
            ),
            quiet=True,
            detached=self.detached,
        )
        return self._start(spec, teardown)

    def _cgroup_of(self, machine: str) -> str:
        """Names the store too: the machines of another one on this host are none of our business."""
        return f"baker-{hashlib.sha256(str(self.store.folder).encode()).hexdigest()[:8]}-{machine}"

    def _chain(self, source: ResolvedSource, teardown: Teardown) -> dict[str, Any]:
        """What a machine is made of: ``layers`` (lowest first), ``packages``, ``epoch``, ``bootstrap``."""
        if source.artifact is not None:
            return self.store.read_artifact(source.artifact.id)
        assert isinstance(source.source, Bootstrap)
        archive = self._archive(source.source, source.settings)
        resolved = archive.resolve_bootstrap(offline=self.offline)
        return ensure_bootstrap(self.store, archive, resolved, teardown, offline=self.offline)

    def _verified_layers(self, chain: Mapping[str, Any]) -> tuple[Path, ...]:
        return tuple(self.store.verified_layer(digest) for digest in chain["layers"])

    def _start(self, spec: MachineSpec, teardown: Teardown) -> LocalMachine:
        started: list[LocalMachine] = []
        resource = Resource(provider="local", kind="machine", id=spec.name)

        def undo() -> None:
            for machine in started:
                machine.discard()
            self.remove(resource)

        with teardown.making(resource, undo):
            started.append(LocalMachine.start(spec))
        return started[0]

    def seal(self, machine: Machine) -> None:
        assert isinstance(machine, LocalMachine)
        machine.stop()
        remove_mount_points(machine.upper)
        epoch = int(machine.spec.environment["SOURCE_DATE_EPOCH"])
        seal_tree(machine.upper, started=machine.started, epoch=epoch)

    def capture(self, bake_id: str, machine: Machine, source: ResolvedSource, teardown: Teardown) -> Captured:
        assert isinstance(machine, LocalMachine)
        chain = self._chain(source, teardown)
        lower = [self.store.read_layer(digest) for digest in chain["layers"]]
        packages = read_packages(machine.upper)
        if packages is None:
            packages = tuple(Package(**row) for row in chain["packages"])
        archive = self._archive(parse_bootstrap(chain["bootstrap"]), source.settings)
        archive.accept(machine.spec.folder / "binds" / "debs" / "upper")
        capture = Resource(provider="local", kind="capture", id=bake_id)
        with self.store.lock("layers", shared=True), teardown.making(capture, lambda: self.remove(capture)):
            layer = self.store.add_layer(machine.upper, parent=lower[-1].digest)
            layers = [*lower, layer]
            details = {
                "bake": bake_id,
                "bootstrap": chain["bootstrap"],
                "epoch": chain["epoch"],
                "packages": [asdict(package) for package in packages],
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

    def start(self, name: str, hostname: str, artifact: Artifact, teardown: Teardown) -> Machine:
        spec = MachineSpec(
            name=name,
            cgroup=self._cgroup_of(name),
            folder=self.store.machines / name,
            layers=self._verified_layers(self.store.read_artifact(artifact.id)),
            hostname=hostname,
            environment={},
        )
        return self._start(spec, teardown)

    def describe_access(self, machine: Resource) -> str:
        leader = (self.store.machines / machine.id / "leader").read_text()
        return f"sudo nsenter --target {leader} --all --root --wd -- /bin/bash"

    def distribute(self, build: Build, labels: Mapping[str, str]) -> tuple[Artifact, ...]:
        for artifact in build.artifacts:
            self.store.label_artifact(
                artifact.id, {**labels, "digest": build.digest, "fingerprint": build.fingerprint}
            )
        return build.artifacts

    # --- keeping ----------------------------------------------------------------------------------

    def holds(self, artifact: Artifact) -> bool:
        return artifact.store == self.store_name and self.store.has_artifact(artifact.id)

    def delete(self, artifact: Artifact) -> None:
        self.store.delete_artifact(artifact.id)

    def leftovers(self) -> Sequence[Resource]:
        found = [
            Resource(provider="local", kind="machine", id=path.name)
            for path in (self.store.machines.iterdir() if self.store.machines.exists() else ())
        ]
        for root in find_cgroup_roots().all:
            prefix = self._cgroup_of("")
            found += [
                Resource(provider="local", kind="machine", id=path.name.removeprefix(prefix))
                for path in root.glob(f"{prefix}*")
            ]
        return list({resource.id: resource for resource in found}.values())

    def remove(self, resource: Resource) -> None:
        if resource.kind == "machine":
            for root in find_cgroup_roots().all:
                remove_cgroup(root / self._cgroup_of(resource.id))
            remove_folder(self.store.machines / resource.id)
        elif resource.kind == "capture":
            self.store.delete_captures(resource.id)
        elif resource.kind == "folder":
            remove_folder(Path(resource.id))
        else:
            raise StoreError(f"the local provider has no {resource.kind} {resource.id}")


def parse_bootstrap(text: str) -> Bootstrap:
    """The inverse of ``str(bootstrap)``."""
    distribution, _, suite = text.partition(":")
    return Bootstrap(distribution=distribution, suite=suite)


def read_packages(upper: Path) -> tuple[Package, ...] | None:
    """The packages of a layer's dpkg status file; None if the layer has none. Follows no link."""
    path = upper
    for part in DPKG_STATUS:
        path = path / part
        if path.is_symlink() or not path.exists():
            return None
    return parse_dpkg_status(path.read_text()) if path.is_file() else None
