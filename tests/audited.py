"""Machines that are audited: an image with something in it, started, born, lived in and looked at."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baker.deploy.drift import Drift, Expected, born, find_drift
from baker.deploy.observation import Observation
from baker.manifest import fold_layers
from baker.model import Artifact, Bootstrap, Manifest, Package, Recipe
from baker.providers.aws.inside.observing import observe_instance
from baker.providers.local.holder import MachineSpec
from baker.providers.local.machine import LocalMachine
from baker.providers.local.observing import observe_machine
from baker.providers.local.provider import LocalProvider
from baker.teardown import Teardown

HOSTNAME = "demo-1-1"
PACKAGES = "nginx-light cron logrotate sudo attr acl libcap2-bin python3 netcat-openbsd"
PLAIN = """
useradd --create-home --shell /bin/sh alice
mkdir -p /srv/site; echo hello >/srv/site/index.html
"""
RECIPE = f"""
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -qq -y --no-install-recommends {PACKAGES} >/dev/null
apt-get clean
{PLAIN}
"""


@dataclass(kw_only=True)
class Image:
    """An artifact of a local store, and what its manifest says."""

    provider: LocalProvider
    artifact: Artifact
    chain: Mapping[str, Any]

    @property
    def manifest(self) -> Manifest:
        layers = [self.provider.store.read_layer(digest) for digest in self.chain["layers"]]
        packages = tuple(Package(**row) for row in self.chain["packages"])
        return Manifest(packages=packages, files=fold_layers(layers))


def find_image(provider: LocalProvider, artifact_id: str) -> Image:
    artifact = Artifact(
        id=artifact_id, target="local", arch=provider.arch, kind="layers", store=None, size_bytes=0
    )
    return Image(provider=provider, artifact=artifact, chain=provider.store.read_artifact(artifact_id))


def bake_image(home: Path, script: str) -> Image:
    """What a script makes of a trixie."""
    provider = LocalProvider(home)
    provider.check()
    source = provider.resolve(Bootstrap(distribution="debian", suite="trixie"), None, {}, provider.arch)
    recipe = Recipe(name="probe", folder="/nowhere", project="/nowhere", description="", targets={})
    teardown = Teardown(f"T{time.time_ns()}", None)
    try:
        machine = provider.launch(teardown.bake_id, recipe, source, teardown)
        done = machine.run(["sh", "-euc", script])
        assert done.exit_status == 0, done.stderr.decode()
        provider.seal(machine)
        captured = provider.capture(teardown.bake_id, machine, source, teardown)
        teardown.keep(captured.resource)
    finally:
        assert teardown.close() == []
    return find_image(provider, captured.artifact.id)


@dataclass(kw_only=True)
class Audited:
    """A running machine. ``inside`` looks at it as at an instance, by a script in it."""

    image: Image
    manifest: Manifest
    machine: LocalMachine
    born: Mapping[str, Any] = field(default_factory=dict)

    def observe(self, *, full: bool = False, inside: bool = False) -> Observation:
        if inside:
            return observe_instance(self.machine, full=full)
        machine = self.machine
        return observe_machine(machine.leader, machine.upper, machine.spec.layers, full=full)

    def bear(self, *, inside: bool = False) -> None:
        """Remember what it is now, as the catalog does."""
        self.born = json.loads(json.dumps(born(self.observe(inside=inside))))

    def audit(self, *, full: bool = False, inside: bool = False, **expected: Any) -> list[Drift]:
        wanted = Expected(**{"born": self.born, "hostname": HOSTNAME, **expected})
        return find_drift(self.manifest, self.observe(full=full, inside=inside), wanted)

    def messages(self, **options: Any) -> list[str]:
        return [drift.message for drift in self.audit(**options)]

    def run(self, script: str) -> str:
        done = self.machine.run(["bash", "-euc", script], timeout=120)
        assert done.exit_status == 0, (script, done.stdout[-500:], done.stderr[-500:])
        return done.stdout.decode(errors="replace")


@contextmanager
def running(image: Image, *, shown: Sequence[tuple[Path, str]] = ()) -> Iterator[Audited]:
    """A machine from the image, booted and not yet born."""
    provider = image.provider
    name = f"T{time.time_ns()}"
    spec = MachineSpec(
        name=name,
        cgroup=provider.cgroup_of(name),
        folder=provider.store.machines / name,
        layers=tuple(provider.store.verified_layer(digest) for digest in image.chain["layers"]),
        hostname=HOSTNAME,
        environment={},
        shown=tuple(shown),
    )
    machine = LocalMachine.start(spec)
    try:
        yield Audited(image=image, manifest=image.manifest, machine=machine)
    finally:
        machine.discard()


DAY = """
! [ -e /usr/sbin/nginx -a -e /usr/bin/python3 ] || python3 - <<'END'
import urllib.request
for number in range(300):
    urllib.request.urlopen("http://127.0.0.1/").read()
    try:
        urllib.request.urlopen("http://127.0.0.1/nothing").read()
    except Exception:
        pass
END
logger -p auth.info something happened; logger -p daemon.err something failed
for unit in apt-daily apt-daily-upgrade dpkg-db-backup logrotate e2scrub_reap e2scrub_all fstrim man-db \
            systemd-tmpfiles-clean motd-news anacron; do
    [ ! -e /usr/lib/systemd/system/$unit.service ] || systemctl start $unit.service || :
done
! command -v run-parts >/dev/null || run-parts /etc/cron.hourly 2>/dev/null || :
! command -v run-parts >/dev/null || run-parts /etc/cron.daily 2>/dev/null || :
[ ! -e /etc/logrotate.conf ] || logrotate --force /etc/logrotate.conf || :
journalctl --rotate --quiet; journalctl --flush --quiet; journalctl --vacuum-time=1s --quiet
apt-get update -qq || :
su -s /bin/sh -c 'echo of the day >/tmp/work; sleep 0.1' nobody
! id alice 2>/dev/null || su - alice -c 'echo worked >/tmp/alice'
systemctl daemon-reload
for unit in nginx site-status ssh cron systemd-journald systemd-logind; do
    ! systemctl -q is-active $unit || systemctl restart $unit
done
systemctl daemon-reexec
"""
"""What the timers of a day do, as if they went off one after another, and what a service's life brings."""
