"""Instances with real machines: an image is a chain of layers, an instance boots it with cloud-init and sshd.

What has no body: volumes but the root's, keys (KMS), boot loaders, and whatever a metadata service tells.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import queue
import select
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from baker.errors import BakerError, MachineError
from baker.providers.local.cgroups import find_cgroup_roots, find_groups, remove_cgroup
from baker.providers.local.holder import MachineSpec
from baker.providers.local.host import adopt_orphans, remove_folder
from baker.providers.local.machine import LocalMachine
from baker.providers.local.tree import remove_mount_points, strip_overlay_attributes, walk_tree
from tests.lab.fleet import Launch
from tests.lab.links import Link, claim_address, remove_stale_links
from tests.lab.seed import SEED, write_seed
from tests.lab.source_body import USER, ensure_source, write_layer

NEW_HOST_KEY = (
    "cloud-init status --wait >/dev/null; rm -f /etc/ssh/ssh_host_*; ssh-keygen -qA && systemctl restart ssh"
)
CLOUD_INIT_OUTPUT = "var/log/cloud-init-output.log"
PROBE_SECONDS = 1.0
JOURNAL = ("journalctl", "--boot", "--lines=200", "--no-pager", "--output=short-monotonic")


class LabMachine(LocalMachine):
    """Booted, but not waited for: SSH tells when it is ready."""

    link: Link | None = None

    def boot(self) -> None:
        self._spawn_holder()
        self._wait_for_leader()
        self._connect_network()

    def attach(self, link: Link) -> None:
        link.attach(self.leader)
        self.link = link

    def _connect_network(self) -> None:
        super()._connect_network()
        if self.link is not None:  # it rebooted: the link went with the network that it had
            self.attach(Link(self.link.address))

    def wait_for_boot(self) -> None:
        self._wait_for_boot()

    def watch(self, on_ended: Callable[[], None]) -> None:
        """Follow its reboots, and call back when it has ended, by whatever hand."""

        def wait() -> None:
            rebooted = True
            while rebooted:
                with contextlib.suppress(ProcessLookupError):
                    wait_until_ended(self.leader)
                try:
                    rebooted = self._follow_reboot()
                except MachineError:
                    rebooted = False
            on_ended()

        threading.Thread(target=wait, daemon=True).start()


def wait_until_ended(pid: int) -> None:
    """Raises ProcessLookupError if it is gone already."""
    descriptor = os.pidfd_open(pid)
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        ended.poll()
    finally:
        os.close(descriptor)


class Body:
    """One instance. What is asked of it is done one after the other, by a thread that lives as long as it
    does: a machine dies with the thread that started it.
    """

    def __init__(self, launch: Launch, folder: Path, cgroup: str) -> None:
        self._folder = folder
        self._cgroup = cgroup
        self._tasks: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._abandoned = threading.Event()
        self._machine: LabMachine | None = None
        self._link: Link | None = None
        self._boots = 0
        self._expected = False
        self.layers: tuple[Path, ...] = ()
        self.console = ""
        self.failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._work, name=f"lab-{launch.instance}")
        self._thread.start()

    def do(self, task: Callable[[], None]) -> None:
        self._tasks.put(task)

    def is_done(self) -> bool:
        return self._tasks.unfinished_tasks == 0

    def close(self) -> None:
        """Begin to end it; ``join`` waits for that."""
        self._abandoned.set()
        self.do(self.discard)
        self._tasks.put(None)

    def join(self) -> None:
        self._thread.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except BaseException as error:  # nobody waits for it: the console tells
                self.failures.append(error)
                self.console += f"\nlab: {error}\n"
            finally:
                self._tasks.task_done()

    # --- what it does -----------------------------------------------------------------------------

    def start_again(self, launch: Launch) -> None:
        self._abandoned.clear()
        self._expected = False
        self.start(launch, self.layers)

    def abandon(self) -> None:
        self._abandoned.set()
        self._expected = True

    def start(self, launch: Launch, layers: tuple[Path, ...]) -> None:
        self.layers = layers
        link = self._link = Link(launch.address)
        if launch.fault("never-runs") or self._abandoned.wait(launch.delay):
            return
        self._boots += 1
        folder = self._folder / f"boot-{self._boots}"
        folder.mkdir(parents=True)
        spec = MachineSpec(
            name=launch.instance,
            cgroup=f"{self._cgroup}-{self._boots}",
            folder=folder / "machine",
            layers=(*layers, write_seed(launch, folder)),
            hostname=f"ip-{launch.address.replace('.', '-')}",
            environment={},
        )
        machine = self._machine = LabMachine(spec, find_cgroup_roots())
        late = launch.fault("wrong-host-key") is not None
        machine.boot()
        if not late and launch.fault("no-ssh") is None:
            machine.attach(link)
        machine.watch(lambda: None if self._expected else launch.on_ended())
        if late:
            machine.wait_for_boot()
            machine.run(["sh", "-c", NEW_HOST_KEY], timeout=60.0)
            machine.attach(link)

    def stop(self) -> None:
        """What it wrote becomes a layer of its own: a capture, and the next start, go on from there."""
        machine = self._machine
        if machine is None:
            return
        if machine.alive():
            with contextlib.suppress(Exception):  # an init that is not up yet does not hear
                machine.wait_for_boot()
            machine.stop()
        machine.kill()
        self._remove_link()
        self.layers = (*self.layers, keep_layer(machine.upper, self._folder / f"layer-{self._boots}.erofs"))
        self._end(machine)

    def discard(self) -> None:
        if self._machine is not None:
            self._end(self._machine)
        self._remove_link()

    def _end(self, machine: LabMachine) -> None:
        self.console += read_console(machine)
        machine.discard()
        self._machine = None

    def _remove_link(self) -> None:
        for link in {self._link, self._machine.link if self._machine is not None else None}:
            if link is not None:
                link.remove()
        self._link = None

    def read_console(self) -> str:
        machine = self._machine
        return self.console + (read_console(machine) if machine is not None else "")


def read_console(machine: LabMachine) -> str:
    """nspawn's messages, what cloud-init printed, the journal's end while it runs (init is silent)."""
    text = ""
    for path in (machine.spec.folder / "console.log", machine.upper / CLOUD_INIT_OUTPUT):
        with contextlib.suppress(FileNotFoundError):
            if not path.is_symlink():
                text += path.read_text(errors="replace")
    if machine.alive():
        with contextlib.suppress(BakerError):
            text += machine.run(JOURNAL, timeout=10.0).stdout.decode(errors="replace")
    return text


def keep_layer(upper: Path, layer: Path) -> Path:
    """An upper directory as a layer, without what is the lab's own."""
    remove_mount_points(upper)
    seed = upper / SEED
    if seed.is_dir() and not seed.is_symlink():
        shutil.rmtree(seed)
    elif seed.exists() or seed.is_symlink():
        seed.unlink()
    for _, entry in walk_tree(upper):
        strip_overlay_attributes(entry.path)
    strip_overlay_attributes(str(upper))
    write_layer(upper, layer)
    return layer


class Bodies:
    """See ``Fleet``. ``home`` keeps what is costly to make, between labs; all else goes with the lab."""

    ssh_port = 22
    ssh_user = USER

    def __init__(self, home: Path) -> None:
        self._source = ensure_source(home)
        adopt_orphans()
        remove_stale_links()
        runs = home / "lab"
        remove_stale_runs(runs)
        self._folder = Path(tempfile.mkdtemp(prefix="run-", dir=runs))
        self._alive = hold(self._folder)
        # Named as a store's machines are: whoever looks for what was left behind finds them.
        digest = hashlib.sha256(str(self._folder / "local").encode()).hexdigest()[:8]
        (self._folder / "local" / "machines").mkdir(parents=True)
        (self._folder / "local" / "machines").chmod(0o700)
        self._cgroup = f"baker-{digest}"
        self._bodies: dict[str, Body] = {}
        self._images: dict[str, tuple[Path, ...] | None] = {}
        self._ready: set[str] = set()

    def claim_address(self) -> str:
        return claim_address()

    def start(self, launch: Launch) -> None:
        body = self._bodies.get(launch.instance)
        if body is None:
            folder = self._folder / "local" / "machines" / launch.instance
            body = Body(launch, folder, f"{self._cgroup}-{launch.instance}")
            self._bodies[launch.instance] = body
            body.do(lambda: body.start(launch, self._layers_of(launch.image)))
            return
        body.do(lambda: body.start_again(launch))

    def _layers_of(self, image: str) -> tuple[Path, ...]:
        return self._images.get(image) or self._source

    def stop(self, instance: str) -> None:
        body = self._bodies[instance]
        body.abandon()
        body.do(body.stop)

    def terminate(self, instance: str) -> None:
        body = self._bodies[instance]
        body.abandon()
        body.do(body.discard)

    def is_done(self, instance: str) -> bool:
        return self._bodies[instance].is_done()

    def capture(self, instance: str, image: str) -> None:
        body = self._bodies[instance]

        def keep() -> None:
            self._images[image] = body.layers
            self._ready.add(image)

        body.do(keep)

    def has_captured(self, image: str) -> bool:
        return image in self._ready

    def copy(self, image: str, copy: str) -> None:
        self._images[copy] = self._layers_of(image)
        self._ready.add(copy)

    def forget(self, image: str) -> None:
        self._images.pop(image, None)

    def probe(self, instance: str, address: str, port: int, path: str) -> int | str:
        del instance
        connection = http.client.HTTPConnection(address, port, timeout=PROBE_SECONDS)
        try:
            connection.request("GET", path, headers={"User-Agent": "ELB-HealthChecker/2.0"})
            return connection.getresponse().status
        except TimeoutError:
            return "Request timed out"
        except (OSError, http.client.HTTPException):
            return "Health checks failed"
        finally:
            connection.close()

    def console(self, instance: str) -> str:
        return self._bodies[instance].read_console()

    def close(self) -> None:
        for body in self._bodies.values():
            body.close()
        for body in self._bodies.values():
            body.join()
        remove_folder(self._folder)
        os.close(self._alive)
        if failures := [error for body in self._bodies.values() for error in body.failures]:
            raise ExceptionGroup(
                "machines of the lab failed", [e for e in failures if isinstance(e, Exception)]
            )


def hold(folder: Path) -> int:
    """A lock that says, to other labs, that this one lives."""
    descriptor = os.open(folder / "alive", os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def remove_stale_runs(runs: Path) -> None:
    """What labs left that were killed."""
    for folder in runs.glob("run-*"):
        try:
            descriptor = os.open(folder / "alive", os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
        digest = hashlib.sha256(str(folder / "local").encode()).hexdigest()[:8]
        for group in find_groups(find_cgroup_roots(), f"baker-{digest}"):
            remove_cgroup(group)
        remove_folder(folder)
