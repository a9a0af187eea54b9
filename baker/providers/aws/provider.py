"""The target aws: images as AMIs, baked on an EC2 instance that is reached by SSH."""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from baker.errors import BakerError, CloudError, HostError, SourceError
from baker.model import AmiSource, Artifact, Build, Recipe, Resource, Source
from baker.providers.aws.distribution import label_image, share_image, spread_image
from baker.providers.aws.experience import Experience
from baker.providers.aws.images import (
    AmiImage,
    delete_image,
    find_images,
    make_image,
    remove_images,
    require_imds_v2,
    wait_for_images,
)
from baker.providers.aws.inside.contents import Contents, build_listing_script, parse_listing
from baker.providers.aws.inside.sealing import build_seal_script, parse_seal
from baker.providers.aws.instances import remove_instance, stop_instance
from baker.providers.aws.inventory import (
    MARKED,
    describe_artifact,
    describe_build_tags,
    list_leftovers,
    list_sidecars,
)
from baker.providers.aws.launcher import Launcher, ask
from baker.providers.aws.machine import AwsMachine, write_access
from baker.providers.aws.naming import bake_of, image_name
from baker.providers.aws.network import remove_security_group
from baker.providers.aws.options import (
    KNOWN_USERS,
    Distribution,
    read_archs,
    read_distribution,
    read_options,
    read_user_data,
    require_sensible_keys,
)
from baker.providers.aws.parameters import point_parameters, remove_parameters
from baker.providers.aws.refusals import Refused
from baker.providers.aws.session import AwsSession
from baker.providers.aws.sources import find_ami
from baker.providers.aws.usage import find_uses
from baker.providers.protocol import Captured, IsNeeded, Machine, ResolvedSource, nobody_needs
from baker.sidecar import Sidecar, Unreadable
from baker.teardown import Teardown

REMEMBER_SECONDS = 60.0
"""How long what a source came to, and which AMIs are there, is taken as it was seen."""


class AwsProvider:
    """See ``baker.providers.protocol.Provider``. ``table`` is [aws], under BAKER_AWS_* variables.

    Makes no call before it is asked for something. Needs no root, and nothing that only Linux has.
    """

    target = "aws"

    def __init__(
        self, home: Path, table: Mapping[str, Any], *, project: Path | None = None, actor: str = ""
    ) -> None:
        self.aws = AwsSession(table, Experience(home / "aws" / "waits.json"))
        self.project = project
        self._home = home
        self._table = table
        self._launcher = Launcher(self.aws, home, actor)
        self._lock = threading.Lock()
        self._sealed: dict[str, Contents] = {}
        self._sources: dict[tuple[str, str, str], tuple[float, AmiImage]] = {}
        self._listed: dict[str, tuple[float, frozenset[str]]] = {}

    def archs(self, settings: Mapping[str, Any]) -> Sequence[str]:
        return read_archs(settings)

    def check(self) -> None:
        """Raises HostError without credentials, SettingsError without a region."""
        _ = self.aws.region
        if not self.aws.has_credentials:
            raise HostError(
                "there are no AWS credentials",
                hint="Give them as to the aws command: AWS_PROFILE, `aws configure`, or profile in [aws].",
            )

    def _region(self, settings: Mapping[str, Any]) -> str:
        return str(settings.get("region") or self.aws.region)

    # --- sources ----------------------------------------------------------------------------------

    def shown_folders(self, settings: Mapping[str, Any]) -> Mapping[str, Path]:
        del settings  # an instance sees nothing of this host
        return {}

    def resolve(
        self, source: Source, parent: Build | None, settings: Mapping[str, Any], arch: str
    ) -> ResolvedSource:
        region = self._region(settings)
        options = read_options(settings, arch)
        require_sensible_keys(options.distribution, region)
        if data := read_user_data(options, self.project):
            settings = {**settings, "user_data_digest": hashlib.sha256(data).hexdigest()}
        if isinstance(source, AmiSource):
            image = self._find_source(source, region, arch)
            return ResolvedSource(
                source=source,
                digest=image.id,
                arch=arch,
                settings=settings,
                artifact=Artifact(
                    id=image.id,
                    target=self.target,
                    arch=arch,
                    kind="ami",
                    store=region,
                    size_bytes=image.size_bytes,
                    details={"ssh_user": KNOWN_USERS.get(image.owner, "")},
                ),
            )
        if parent is None:
            raise SourceError(
                f"{source} is not a source for the target aws",
                hint='Name an AMI: [targets.aws] from = { owner = "…", name = "…" }, or leave aws out.',
            )
        artifact = next((one for one in parent.artifacts if one.store == region), None)
        if artifact is None:
            places = ", ".join(sorted(one.store for one in parent.artifacts))
            raise SourceError(
                f"{source} has no AMI in {region} (it has: {places})",
                hint=f'Add "{region}" to regions in [aws], then: baker image publish {source}',
            )
        return ResolvedSource(
            source=source,
            digest=parent.digest,
            arch=arch,
            settings=settings,
            artifact=artifact,
            parent=parent,
        )

    def _find_source(self, source: AmiSource, region: str, arch: str) -> AmiImage:
        key = str(source), region, arch
        with self._lock:
            seen = self._sources.get(key)
            if seen is None or time.monotonic() - seen[0] > REMEMBER_SECONDS:
                seen = time.monotonic(), find_ami(self.aws, region, source, arch)
                self._sources[key] = seen
                self._launcher.images[region, seen[1].id] = seen[1]
        return seen[1]

    # --- baking -----------------------------------------------------------------------------------

    def launch(self, bake_id: str, recipe: Recipe, source: ResolvedSource, teardown: Teardown) -> Machine:
        assert source.artifact is not None
        options = read_options(source.settings, source.arch)
        extra = read_user_data(options, self.project)
        return self._launcher.start(bake_id, recipe.name, source.artifact, options, teardown, extra)

    def start(
        self,
        name: str,
        hostname: str,
        artifact: Artifact,
        teardown: Teardown,
        settings: Mapping[str, Any] | None = None,
    ) -> Machine:
        options = read_options(settings or self._table, artifact.arch)
        options = replace(options, root_volume=None, volumes=())  # they are what the AMI says
        return self._launcher.start(name, hostname, artifact, options, teardown, None)

    def seal(self, machine: Machine) -> None:
        assert isinstance(machine, AwsMachine)
        parse_seal(ask(machine, build_seal_script(machine.access.key.public)))
        contents = parse_listing(ask(machine, build_listing_script()))
        machine.disconnect()
        # One that is paid by the spot cannot be stopped: EC2 shuts it down while the AMI is made.
        if not machine.instance.spot:
            stop_instance(self.aws, machine.instance, machine.cancel)
        self._sealed[machine.name] = contents  # last: it is large, and only ``capture`` lets it go

    def capture(self, bake_id: str, machine: Machine, source: ResolvedSource, teardown: Teardown) -> Captured:
        assert isinstance(machine, AwsMachine)
        contents = self._sealed.pop(machine.name)
        options = read_options(source.settings, source.arch)
        region, recipe = machine.instance.region, machine.recipe
        marks = self._launcher.marks(bake_id, recipe, options)
        resource = marks.resource("capture", bake_id, region)
        lost = False
        with teardown.making(resource, lambda: remove_images(self.aws, resource, lost=lost)):
            try:
                image_id = make_image(
                    self.aws,
                    region,
                    machine.instance.id,
                    name=image_name(recipe, bake_id),
                    description=f"{recipe}, baked from {source.source}",
                    marks=marks,
                )
            except Refused as error:
                lost = error.outcome_unknown
                if machine.instance.spot:  # it still ran: was it taken back?
                    machine.require_running()
                raise
        image = wait_for_images(
            self.aws,
            {region: image_id},
            seconds=options.image_seconds,
            cancel=teardown.cancel,
            usual=self.aws.experience.of(f"image of {recipe}", region),
        )[region]
        require_imds_v2(self.aws, region, image)
        self._launcher.images[region, image.id] = image
        self._listed.pop(region, None)
        for made in teardown.resources:
            if made.kind == "instance" and made.id == machine.name:
                with contextlib.suppress(CloudError):  # then it is teardown's
                    teardown.undo(made)  # now: it takes its time to end
        artifact = describe_artifact(
            region,
            image,
            ssh_user=machine.access.user,
            distribution=options.distribution.to_json(),
        )
        return Captured(
            resource=resource, artifact=artifact, layers=(contents.layer,), packages=contents.packages
        )

    def describe_access(self, machine: Resource) -> str:
        started = self._launcher.machines.get(machine.id)
        if started is None:
            raise HostError(f"instance {machine.id} was never launched, or never had an address")
        return shlex.join(write_access(started.access, self._access_folder(machine.id)))

    def _access_folder(self, machine: str) -> Path:
        """Where the key to a machine lies that was kept; ``machine`` may be what a tag says."""
        return self._home / "aws" / f"access-{hashlib.sha256(machine.encode()).hexdigest()[:16]}"

    # --- distributing -----------------------------------------------------------------------------

    def distribute(
        self,
        build: Build,
        labels: Mapping[str, str],
        teardown: Teardown,
        settings: Mapping[str, Any] | None = None,
    ) -> tuple[Artifact, ...]:
        first = build.artifacts[0]
        wanted = self._wanted(first, settings)
        options = read_options({**self._table, **(settings or {})}, build.arch)
        marks = replace(self._launcher.marks(build.id, build.recipe, options), extra=wanted.tags)
        for region in (first.store, *wanted.regions):
            self._launcher.remember_region(region)
        before = list(teardown.resources)
        images = spread_image(self.aws, first, wanted, marks, teardown, seconds=options.image_seconds)
        user = first.details.get("ssh_user", "")
        told = images[first.store].tags
        tags = {**wanted.tags, **describe_build_tags(build, labels, told), "baker:ssh-user": user}
        for region, image in images.items():
            share_image(self.aws, region, image, wanted, build.created)
            label_image(self.aws, region, image, tags)
            self._listed.pop(region, None)
        for resource in teardown.resources:
            if resource not in before:
                teardown.keep(resource)
        artifacts = {
            region: describe_artifact(region, image, ssh_user=user) for region, image in images.items()
        }
        own = artifacts.pop(first.store)
        own = replace(own, details={**own.details, "distribution": wanted.to_json()})
        others = [one for one in build.artifacts[1:] if one.store not in artifacts]
        return (own, *artifacts.values(), *others)

    def _wanted(self, first: Artifact, settings: Mapping[str, Any] | None) -> Distribution:
        if settings is None and "distribution" in first.details:
            return Distribution.from_json(first.details["distribution"])
        return read_distribution(settings or self._table)

    def publish_channel(self, recipe: str, channel: str, builds: Sequence[Build]) -> Sequence[str]:
        mine = [build for build in builds if build.target == self.target]
        return point_parameters(self.aws, recipe, channel, mine, self._table.get("parameters", "/baker"))

    def withdraw_channel(self, recipe: str, channel: str, builds: Sequence[Build]) -> Sequence[str]:
        mine = [build for build in builds if build.target == self.target]
        return remove_parameters(self.aws, recipe, channel, mine, self._table.get("parameters", "/baker"))

    def sidecars(self) -> Iterator[Sidecar | Unreadable]:
        """What the AMIs in all regions that are known tell of their builds."""
        return list_sidecars(self.aws, self._regions())

    def read_contents(self, artifact: Artifact) -> None:
        """An AMI does not tell its packages and files."""
        del artifact

    def describe_calls(self) -> str:
        return f"{self.aws.calls_of_thread} API calls"

    # --- keeping ----------------------------------------------------------------------------------

    def holds(self, artifact: Artifact) -> bool:
        region = artifact.store
        with self._lock:
            seen = self._listed.get(region)
            if seen is None or time.monotonic() - seen[0] > REMEMBER_SECONDS:
                found = self.aws.pages(
                    "ec2",
                    region,
                    "describe_images",
                    "Images",
                    Owners=["self"],
                    Filters=[MARKED, {"Name": "state", "Values": ["available"]}],
                    IncludeDeprecated=True,
                )
                seen = time.monotonic(), frozenset(one["ImageId"] for one in found)
                self._listed[region] = seen
        return artifact.id in seen[1]

    def reaches(self, artifact: Artifact) -> bool:
        """Not with credentials of another account, to which the AMI looks as if it were gone."""
        if artifact.target != self.target:
            return False
        owner = artifact.details.get("owner")
        try:
            return owner is None or owner == self.aws.account
        except BakerError:
            return True  # whoever goes on to ask for it hears why nobody answers

    def in_use(self, *artifacts: Artifact) -> Mapping[str, str]:
        return find_uses(self.aws, artifacts)

    def delete(self, *artifacts: Artifact, is_needed: IsNeeded = nobody_needs) -> None:
        refusals: list[CloudError] = []
        for artifact in artifacts:
            if is_needed(artifact, [artifact.details["bake"]]):
                continue
            try:
                delete_image(self.aws, artifact.store, artifact.id, artifact.details.get("snapshots", ()))
            except CloudError as error:  # the others go all the same
                refusals.append(error)
            self._listed.pop(artifact.store, None)
        if refusals:
            raise CloudError("; ".join(map(str, refusals)), hint=refusals[0].hint)

    def measure(self, *artifacts: Artifact) -> list[int]:
        return [artifact.size_bytes for artifact in artifacts]

    def leftovers(self) -> Sequence[Resource]:
        return [resource for region in self._regions() for resource in list_leftovers(self.aws, region)]

    def remove(self, resource: Resource) -> None:
        if resource.kind == "instance":
            remove_instance(self.aws, resource)
            shutil.rmtree(self._access_folder(resource.id), ignore_errors=True)
        elif resource.kind == "security-group":
            remove_security_group(self.aws, resource)
        elif resource.kind == "capture":
            self._require_unused(resource)
            remove_images(self.aws, resource)
        else:
            raise HostError(f"the aws provider has no {resource.kind} {resource.id}")

    def _require_unused(self, capture: Resource) -> None:
        """Raises CloudError for an AMI that was distributed once and is in use, whatever the catalog says: it
        may have been restored from before the bake ended."""
        for image in find_images(self.aws, capture.place, bake_of(capture.id)):
            if "baker:issues" not in image.tags:
                continue  # nobody was ever told of it
            if use := find_uses(self.aws, [describe_artifact(capture.place, image)]).get(image.id):
                raise CloudError(
                    f"AMI {image.id} in {capture.place} was distributed as {image.tags.get('Name')}: {use}",
                    hint="Is the catalog an old one? Bring its images back: baker catalog rebuild --from aws",
                )

    def _regions(self) -> list[str]:
        """Those that are configured and those in which this BAKER_HOME ever made something."""
        configured = [self.aws.region, *self._table.get("regions", ())]
        return list(dict.fromkeys([*configured, *self._launcher.used_regions()]))
