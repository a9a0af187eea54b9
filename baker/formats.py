"""An image as other tools read it: shell variables, Terraform's variables and data source, Packer's manifest.

Which of an image's artifacts is meant is decided by ``choose_artifact``; the rest is text.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baker.errors import BadReference, UsageError
from baker.model import Artifact, Build, Image, Reference

FORMATS = ("plain", "json", "env", "tfvars", "packer-manifest", "external")
QUERY_KEYS = ("reference", "target", "arch", "region")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One artifact of one image."""

    image: Image
    build: Build
    artifact: Artifact

    @property
    def values(self) -> dict[str, str]:
        """What is said of it in every format, in this order."""
        return {
            "id": self.artifact.id,
            "reference": self.image.reference,
            "recipe": self.image.recipe,
            "version": str(self.image.version),
            "status": str(self.image.status),
            "digest": self.build.digest,
            "target": self.build.target,
            "arch": self.build.arch,
            "kind": self.artifact.kind,
            "region": self.artifact.store if self.build.target == "aws" else "",
            "store": self.artifact.store,
            "created": self.build.created.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }


def choose_artifact(
    image: Image, *, target: str | None = None, arch: str | None = None, region: str | None = None
) -> Choice:
    """The artifact for a target, an architecture, and the region or store it lies in.

    Without a target the only one there is, else ``local``. Raises BadReference if there is none, or several
    and nothing says which.
    """
    targets = sorted({build.target for build in image.builds})
    target = target or (targets[0] if len(targets) == 1 else "local")
    builds = [build for build in image.builds if build.target == target]
    if not builds:
        raise _explain(image, f"no build for the target {target}", targets, "--target")
    archs = sorted({build.arch for build in builds})
    builds = [build for build in builds if arch in (None, build.arch)]
    if not builds:
        raise _explain(image, f"no build for {target}/{arch}", archs, "--arch")
    if len(builds) > 1:
        raise _explain(image, f"several builds for {target}", archs, "--arch")
    found = [one for one in builds[0].artifacts if region in (None, one.store)]
    stores = sorted({artifact.store for artifact in builds[0].artifacts})
    if not found:
        raise _explain(image, f"nothing in {region}" if region else "no artifact", stores, "--region")
    if len({artifact.store for artifact in found}) > 1:
        raise _explain(image, "artifacts in several places", stores, "--region")
    return Choice(image=image, build=builds[0], artifact=found[0])


def _explain(image: Image, what: str, has: list[str], flag: str) -> BadReference:
    return BadReference(
        f"{image.reference} has {what} (it has: {', '.join(has) or 'none'})", hint=f"Say which: {flag}"
    )


# --- the formats ------------------------------------------------------------------------------------------


def write_env(choice: Choice) -> str:
    """``BAKER_IMAGE_ID=…`` and so on, quoted for a shell: ``eval`` or ``source`` takes them."""
    return "\n".join(
        f"BAKER_IMAGE_{key.upper()}={shlex.quote(value)}" for key, value in choice.values.items()
    )


def write_tfvars(choice: Choice) -> str:
    """``image_id = "…"`` and so on, as a ``.tfvars`` file of Terraform; the version is a number."""
    width = max(len(key) for key in choice.values)
    lines = [
        f"image_{key:<{width}} = {value if key == 'version' else quote_hcl(value)}"
        for key, value in choice.values.items()
    ]
    return "\n".join(lines)


def quote_hcl(text: str) -> str:
    """A string of Terraform's language: its template marks stand for themselves."""
    return re.sub(r"([$%])\{", r"\1\1{", json.dumps(text, ensure_ascii=False))


def packer_manifest(image: Image, builds: list[Build]) -> dict[str, Any]:
    """What Packer's ``manifest`` post-processor writes: one element per build.

    The artifact of an AWS build is ``REGION:AMI``, more than one joined by commas, as Packer's is.
    """
    described = [
        {
            "name": image.recipe,
            "builder_type": "amazon-ebs" if build.target == "aws" else f"baker-{build.target}",
            "build_time": int(build.created.timestamp()),
            "files": None,
            "artifact_id": _join_artifacts(build),
            "packer_run_uuid": make_run_uuid(build.id),
            "custom_data": {
                "reference": image.reference,
                "digest": build.digest,
                "arch": build.arch,
                "fingerprint": build.fingerprint,
            },
        }
        for build in builds
    ]
    last = max(builds, key=lambda build: build.created)
    return {"builds": described, "last_run_uuid": make_run_uuid(last.id)}


def _join_artifacts(build: Build) -> str:
    if build.target == "aws":
        return ",".join(sorted(f"{artifact.store}:{artifact.id}" for artifact in build.artifacts))
    return ",".join(dict.fromkeys(artifact.id for artifact in build.artifacts))


def make_run_uuid(bake_id: str) -> str:
    """A bake's id in the form of a UUID: always the same for the same bake."""
    digits = hashlib.sha256(bake_id.encode()).hexdigest()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))


# --- Terraform's external data source -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """What a data source asks: a reference, and what ``choose_artifact`` takes."""

    reference: Reference
    target: str | None = None
    arch: str | None = None
    region: str | None = None


def read_query(text: str, flags: Mapping[str, str | None]) -> Query:
    """The query that Terraform writes to the program's standard input, over what flags say.

    Raises UsageError for what is no object of strings with QUERY_KEYS, BadReference for its reference.
    """
    hint = 'Ask like query = { reference = "web:prod", target = "aws", region = "eu-west-1" }.'
    try:
        asked = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise UsageError(f"the query on standard input is no JSON: {error}", hint=hint) from error
    if not isinstance(asked, dict) or not all(isinstance(value, str) for value in asked.values()):
        raise UsageError("the query on standard input is no object of strings", hint=hint)
    unknown = sorted(asked.keys() - set(QUERY_KEYS))
    if unknown:
        raise UsageError(f"the query asks for {', '.join(unknown)}, which means nothing here", hint=hint)
    said = {key: asked.get(key) or flags.get(key) for key in QUERY_KEYS}
    if not said["reference"]:
        raise UsageError("the query names no image", hint=hint)
    return Query(
        reference=Reference.parse(said["reference"]),
        target=said["target"],
        arch=said["arch"],
        region=said["region"],
    )
