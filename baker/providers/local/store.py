"""The local store: layers, artifacts, bootstraps. Nothing in it is changed once it has its final name.

layers/HEX.erofs        one layer, named by the sha256 of the file; HEX.files is its file list
artifacts/HEX.json      a chain of layers (named by the digest of the chain) and what it is
bootstraps/KEY.json     the layer that a resolved set of packages came to
apt/…                   see ``archive.py``
digests/HEX             what large files of projects came to, so that they are read once
machines/NAME/          a running machine; nothing outlives it
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from baker.errors import StoreError
from baker.layer import Layer, decode_layer, encode_layer
from baker.providers.local.host import run_tool
from baker.providers.local.tree import newest_time, read_tree

NIL_UUID = "00000000-0000-0000-0000-000000000000"


class Store:
    """One folder. Safe for several processes: files appear whole under their final name, by rename."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layers = folder / "layers"
        self.artifacts = folder / "artifacts"
        self.bootstraps = folder / "bootstraps"
        self.machines = folder / "machines"
        self.digests = folder / "digests"

    def create(self) -> None:
        for path in (self.folder, self.layers, self.artifacts, self.bootstraps, self.machines):
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
        # What runs in a machine's folder belongs to another system's users: no host user may enter.
        self.machines.chmod(0o700)

    # --- layers -----------------------------------------------------------------------------------

    def add_layer(self, tree: Path) -> Layer:
        """Make an EROFS layer of a sealed tree. It is on disk (fsync) when this returns."""
        removed, files = read_tree(tree)
        with self._temporary(self.layers) as path:
            # SOURCE_DATE_EPOCH is written as the time of making, and clamps later times: there are none.
            run_tool(
                ["mkfs.erofs", "--quiet", "-zlz4", f"-U{NIL_UUID}", str(path), str(tree)],
                env={"SOURCE_DATE_EPOCH": str(newest_time(tree))},
            )
            digest = hash_file(path)
            layer = Layer(digest=digest, removed=removed, files=files)
            self._write(self._list_path(digest), encode_layer(layer))
            publish(path, self._layer_path(digest))
        return layer

    def _layer_path(self, digest: str) -> Path:
        return self.layers / f"{digest.removeprefix('sha256:')}.erofs"

    def _list_path(self, digest: str) -> Path:
        return self.layers / f"{digest.removeprefix('sha256:')}.files"

    def read_layer(self, digest: str) -> Layer:
        """A layer's file list. Raises StoreError."""
        try:
            return decode_layer(self._list_path(digest).read_bytes())
        except FileNotFoundError:
            raise self._missing(digest) from None
        except Exception as error:
            raise StoreError(
                f"the file list of layer {digest} is damaged: {error}",
                hint=f"Remove it, then bake with --force: rm {self._list_path(digest)}",
            ) from error

    def verified_layer(self, digest: str) -> Path:
        """The layer's file, after its content was found to match its digest.

        A file is hashed when it is first used and whenever its inode, size or times moved since.
        Raises StoreError.
        """
        path = self._layer_path(digest)
        stamp = path.with_suffix(".verified")
        try:
            status = path.stat()
        except FileNotFoundError:
            raise self._missing(digest) from None
        seen = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
        with contextlib.suppress(FileNotFoundError):
            if stamp.read_text() == seen:
                return path
        if hash_file(path) != digest:
            raise StoreError(
                f"layer {digest} is damaged: {path} does not match its digest",
                hint="Bake the recipe it belongs to again with --force.",
            )
        self._write(stamp, seen.encode())
        return path

    def layer_paths(self, digests: Sequence[str]) -> tuple[Path, ...]:
        """The files of a chain of layers, each once, lowest first, whether they are here or not.

        Two bakes in a line may write the same layer: the upper one of them is enough, and an overlay takes no
        folder twice.
        """
        return tuple(map(self._layer_path, reversed(dict.fromkeys(reversed(digests)))))

    def verified_layers(self, digests: Sequence[str]) -> tuple[Path, ...]:
        """The same, each found to match its digest. Raises StoreError."""
        for digest in dict.fromkeys(digests):
            self.verified_layer(digest)
        return self.layer_paths(digests)

    def is_intact(self, digest: str) -> bool:
        """Whether the layer is here and undamaged, and its file list is here."""
        try:
            self.verified_layer(digest)
        except StoreError:
            return False
        return self._list_path(digest).exists()

    def _missing(self, digest: str) -> StoreError:
        return StoreError(
            f"layer {digest} is not in the store {self.folder}",
            hint="Bake the recipe it belongs to again with --force.",
        )

    def layer_size(self, digest: str) -> int:
        return self._layer_path(digest).stat().st_size

    # --- artifacts --------------------------------------------------------------------------------

    def write_artifact(self, layers: Sequence[str], details: Mapping[str, Any]) -> str:
        """Record a chain of layers; returns its id.

        One that is there already is left as it is, but ``details["bake"]`` joins in it: two bakes at once
        may come to the same, and one of them may fail.
        """
        artifact = "sha256:" + hashlib.sha256("\n".join(layers).encode()).hexdigest()
        made = {"id": artifact, "layers": list(layers), **details}
        with self.lock("artifacts"):
            if self.has_artifact(artifact):
                found = self.read_artifact(artifact)
                made = {**found, "joined": [*found.get("joined", []), details["bake"]]}
            self._write(self._artifact_path(artifact), json_bytes(made))
        return artifact

    def _artifact_path(self, artifact: str) -> Path:
        return self.artifacts / f"{artifact.removeprefix('sha256:')}.json"

    def read_artifact(self, artifact: str) -> dict[str, Any]:
        """Raises StoreError."""
        return self._read_json(self._artifact_path(artifact), f"artifact {artifact}")

    def label_artifact(
        self, artifact: str, labels: Mapping[str, Any], build: Mapping[str, Any], issue: Mapping[str, Any]
    ) -> None:
        """Write labels, a build and its version beside the artifact: the catalog can be rebuilt from them.

        Builds and versions that are there stay: two bakes may have come to the same. Raises StoreError.
        """
        with self.lock("artifacts"):
            found = self.read_artifact(artifact)
            told = found.get("builds", {})
            before = found.get("labels", {}) if not told else {}
            earlier = [before["version"]] if before.get("fingerprint") == build["fingerprint"] else []
            known = told.get(build["id"], {}).get("versions", {version: dict(issue) for version in earlier})
            versions = {**known, labels["version"]: dict(issue)}
            builds = {**told, build["id"]: {"build": dict(build), "versions": versions}}
            self._write(
                self._artifact_path(artifact), json_bytes({**found, "labels": dict(labels), "builds": builds})
            )

    def delete_captures(self, bake_id: str) -> None:
        """Forget what a bake captured and nobody registered, and layers that nothing names. Idempotent."""
        with self.lock("artifacts"):
            for path, found in self._read_folder(self.artifacts):
                owners = owners_of(found)
                if bake_id not in owners or ("labels" in found and bake_id == owners[0]):
                    continue
                if left := [owner for owner in owners if owner != bake_id]:
                    self._write(path, json_bytes({**found, "bake": left[0], "joined": left[1:]}))
                else:
                    path.unlink(missing_ok=True)
        self.remove_unused_layers()

    def has_artifact(self, artifact: str) -> bool:
        """Whether the artifact and every layer of it are here (not whether they are intact)."""
        try:
            # Paths as text: planning asks this of a thousand images.
            layers, folder = self.read_artifact(artifact)["layers"], str(self.layers)
            return all(
                os.path.exists(f"{folder}/{layer.removeprefix('sha256:')}.erofs")  # noqa: PTH110
                for layer in layers
            )
        except StoreError:
            return False

    def delete_artifacts(self, artifacts: Mapping[str, Callable[[Sequence[str]], bool]]) -> None:
        """Forget artifacts, and remove the layers that nothing else needs. Idempotent.

        Each is asked whether it is needed, with the ids of the bakes that came to it, when no other bake can
        come to it any more; one that is stays.
        """
        with self.lock("artifacts"):
            for artifact, is_needed in artifacts.items():
                path = self._artifact_path(artifact)
                if path.exists() and not is_needed(owners_of(self.read_artifact(artifact))):
                    path.unlink()
        self.remove_unused_layers()

    def measure_artifacts(self, artifacts: Sequence[str]) -> dict[str, int]:
        """Bytes that removing them, in this order, frees with each. Raises StoreError."""
        chains: dict[str, set[str]] = {}
        uses: Counter[str] = Counter()
        for folder in (self.artifacts, self.bootstraps):
            for path, found in self._read_folder(folder):
                uses.update(set(found["layers"]))
                if folder == self.artifacts:
                    chains[f"sha256:{path.stem}"] = set(found["layers"])
        freed = dict.fromkeys(artifacts, 0)
        for artifact in freed:
            chain = chains.get(artifact, set())
            uses.subtract(chain)
            unused = [digest for digest in chain if uses[digest] == 0 and self._layer_path(digest).exists()]
            freed[artifact] = sum(self.layer_size(digest) for digest in unused)
        return freed

    def remove_unused_layers(self) -> None:
        """Remove every layer that neither an artifact nor a bootstrap names."""
        with self.lock("layers"):
            needed: set[str] = set()
            for folder in (self.artifacts, self.bootstraps):
                for _, found in self._read_folder(folder):
                    needed.update(found["layers"])
            for path in self.layers.iterdir():
                if f"sha256:{path.stem}" not in needed:
                    path.unlink(missing_ok=True)

    # --- bootstraps -------------------------------------------------------------------------------

    def write_bootstrap(self, key: str, made: Mapping[str, Any]) -> None:
        self._write(self.bootstraps / f"{key}.json", json_bytes(made))

    def remember_digest(self, path: Path, text: str) -> None:
        """Raises OSError where this process may not write."""
        path.parent.mkdir(exist_ok=True)
        self._write(path, text.encode())

    def read_bootstrap(self, key: str) -> dict[str, Any] | None:
        """What a key came to, or None if it was never made here or its layer is gone."""
        path = self.bootstraps / f"{key}.json"
        if not path.exists():
            return None
        found = self._read_json(path, f"bootstrap {key}")
        return found if all(self._layer_path(layer).exists() for layer in found["layers"]) else None

    # --- files ------------------------------------------------------------------------------------

    @contextmanager
    def lock(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """Wait for, then hold, a lock between processes and threads; it ends with the process.

        Whoever adds layers holds "layers" shared until an artifact names them; whoever removes unused
        ones holds it alone.
        """
        with (self.folder / f".{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield

    @contextmanager
    def _temporary(self, folder: Path) -> Iterator[Path]:
        handle, name = tempfile.mkstemp(prefix=".new-", dir=folder)
        os.close(handle)
        path = Path(name)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _write(self, path: Path, content: bytes) -> None:
        with self._temporary(path.parent) as new:
            new.write_bytes(content)
            publish(new, path)

    def _read_folder(self, folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Every JSON file there, but those that somebody removes meanwhile. Raises StoreError."""
        for path in folder.glob("*.json"):
            try:
                found = self._read_json(path, path.name)
            except StoreError:
                if path.exists():
                    raise
                continue
            yield path, found

    def _read_json(self, path: Path, what: str) -> dict[str, Any]:
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a plan reads a thousand
                found: dict[str, Any] = json.loads(file.read())
        except FileNotFoundError:
            raise StoreError(f"{what} is not in the store {self.folder}") from None
        except ValueError as error:
            raise StoreError(f"{what} is damaged: {path}: {error}") from error
        return found


def owners_of(artifact: Mapping[str, Any]) -> list[str]:
    """The bakes that came to an artifact, the first of them first."""
    return [owner for owner in (artifact.get("bake"), *artifact.get("joined", [])) if owner]


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def json_bytes(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def publish(new: Path, path: Path, *, mode: int = 0o644) -> None:
    """Give a finished file its final name, durably."""
    new.chmod(mode)
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
