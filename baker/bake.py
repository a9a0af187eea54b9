"""The pipeline: resolve, launch, configure, seal, capture, verify, register, distribute; teardown, always.

``run_pipeline`` reads top-down as the specification of one bake.
"""

from __future__ import annotations

import subprocess
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from baker import identity
from baker.cancelling import heeding_cancel
from baker.catalog import Catalog
from baker.configurer import Configured, ConfigureRequest, configure, run_image_tests
from baker.errors import BakerError, CatalogError, HostError, Interrupted, UsageError
from baker.fingerprint import fingerprint, traced_inputs
from baker.kitchen import Bake, Kitchen
from baker.knowledge import tool_versions
from baker.log import FREE_SPACE, BakeLog
from baker.manifest import ManifestDifference, compare_manifests, fold_layers, manifest_digest
from baker.model import BakeResult, Build, Image, Manifest, Outcome, Provenance, Recipe, Reference, Stage
from baker.plan import PlanEntry
from baker.progress import BakeEnded, BakeStarted
from baker.providers.protocol import Captured, Machine, ResolvedSource
from baker.settings import target_settings
from baker.teardown import LeftBehind, Teardown


def bake(recipe: Recipe, entry: PlanEntry, carried: Sequence[str], kitchen: Kitchen) -> BakeResult:
    """Bake one recipe for one target. Failures are in the result; nothing is left behind, or it is named.

    Raises CatalogError if the catalog cannot be written: then nothing was started.
    """
    bake_id = identity.make_bake_id()
    home = kitchen.settings.home
    log_path = home / "logs" / f"{bake_id}.log"
    with (
        identity.alive(home, bake_id),
        BakeLog.open(log_path) as log,
        heeding_cancel(home, bake_id, kitchen.interruption),
    ):
        kitchen.catalog.start_bake(
            id=bake_id, recipe=entry.recipe, target=entry.target, arch=entry.arch, log_path=str(log_path)
        )
        running = Bake(
            id=bake_id,
            recipe=recipe,
            entry=entry,
            kitchen=kitchen,
            log=log,
            teardown=Teardown(bake_id, kitchen.catalog),
            started=datetime.now(UTC),
        )
        log.write(
            f"bake {bake_id} of {entry.recipe} for {entry.target}/{entry.arch}: {describe_reasons(entry)}"
        )
        kitchen.show(
            BakeStarted(
                bake=bake_id,
                recipe=entry.recipe,
                target=entry.target,
                arch=entry.arch,
                reasons=entry.reasons,
                log=str(log_path),
            )
        )
        image: Image | None = None
        error: BakerError | None = None
        try:
            image = reissue(running, carried) if entry.build else run_pipeline(running, carried)
        except BakerError as failure:
            log.write(f"failed: {failure}")
            error = kitchen.interruption.explain(failure)
        except OSError as failure:
            log.write(traceback.format_exc())
            where = f"{failure.filename}: " if failure.filename else ""
            error = HostError(f"{where}{failure.strerror or failure}", hint=FREE_SPACE)
        except Exception as bug:
            log.write(traceback.format_exc())
            error = BakerError(
                f"a fault of baker: {type(bug).__name__}: {bug}", hint=f"Please report it with {log_path}."
            )
        finally:
            with kitchen.interruption.shielded():
                ended = finish(running, image, error)
    kitchen.show(ended)
    return ended.result


def run_pipeline(bake: Bake, carried: Sequence[str]) -> Image:
    """One bake, from its source to an available image."""
    provider, recipe, teardown = bake.provider, bake.recipe, bake.teardown
    with bake.stage(Stage.RESOLVE) as detail:
        secrets = read_secrets(recipe, bake.kitchen.environ)
        source = resolve_source(bake)
        # Looked at before the recipe runs: what is edited meanwhile counts as changed at the next plan.
        inputs = bake.kitchen.knowledge.static_inputs(recipe, bake.entry.target, bake.entry.arch, source)
        detail.append(f"{source.source} is {source.digest[:19]}")
    with bake.stage(Stage.LAUNCH):
        bake.machine = machine = provider.launch(bake.id, recipe, source, teardown)
    with bake.stage(Stage.CONFIGURE) as detail:
        configured = apply_recipe(bake, machine, secrets)
        detail.append(f"{configured.changed} operations changed, {configured.unchanged} did not")
    with bake.stage(Stage.SEAL):
        provider.seal(machine)
    with bake.stage(Stage.CAPTURE) as detail:
        captured = provider.capture(bake.id, machine, source, teardown)
        build = describe_build(bake, source, inputs, configured, captured)
        detail.append(f"{build.digest[:19]}, {len(captured.packages)} packages")
    with bake.stage(Stage.VERIFY) as detail:
        passed = verify(bake, captured)
        detail.append(f"{passed} image tests passed" if passed else "it boots; the recipe has no image tests")
    with bake.stage(Stage.REGISTER) as detail:
        image = register(bake, build, captured, carried)
        detail.append(image.reference)
    with bake.stage(Stage.DISTRIBUTE):
        return distribute(bake, image, build)


def reissue(bake: Bake, carried: Sequence[str]) -> Image:
    """Inputs are again those of an earlier build: the next version holds that one, and nothing is started."""
    build = bake.entry.build
    assert build is not None
    with bake.stage(Stage.REGISTER) as detail:
        image = bake.kitchen.catalog.register(
            recipe=bake.recipe.name,
            build=None,
            layers=(),
            packages=(),
            carry=[build.id, *carried],
            wanted=wanted_places(bake),
        )
        detail.append(image.reference)
    with bake.stage(Stage.DISTRIBUTE):
        return distribute(bake, image, build)


def read_secrets(recipe: Recipe, environ: Mapping[str, str]) -> dict[str, str]:
    """Raises UsageError for a secret that is not set."""
    for name in recipe.secrets:
        if name not in environ:
            raise UsageError(
                f"{recipe.name} needs the secret {name}, which is not set",
                hint=f"Set the variable {name} (with sudo: sudo --preserve-env={name} baker …).",
            )
    return {name: environ[name] for name in recipe.secrets}


def resolve_source(bake: Bake) -> ResolvedSource:
    """The source as it is now: the parent may have been baked a moment ago."""
    knowledge, entry = bake.kitchen.knowledge, bake.entry
    source = bake.recipe.targets[entry.target].source
    parent = None
    if isinstance(source, Reference):
        image = bake.kitchen.catalog.resolve(source)
        parent = image.build_for(entry.target, entry.arch)
    return knowledge.resolve(bake.recipe, entry.target, parent)


def apply_recipe(bake: Bake, machine: Machine, secrets: Mapping[str, str]) -> Configured:
    """Run the recipe once."""
    environ = bake.kitchen.environ
    request = ConfigureRequest(
        recipe=bake.recipe,
        target=bake.entry.target,
        data=bake.recipe.targets[bake.entry.target].data,
        secrets=secrets,
        environment=environ,
        hidden=[str(bake.kitchen.settings.home)],
    )
    cancel = bake.kitchen.interruption.cancel
    configured = configure(request, machine, on_event=bake.show_event, log=bake.log.write, cancel=cancel)
    bake.changed, bake.unchanged = configured.changed, configured.unchanged
    return configured


def describe_build(
    bake: Bake, source: ResolvedSource, static: Mapping[str, str], configured: Configured, captured: Captured
) -> Build:
    """The build that was captured, with its identity and where it came from."""
    recipe, entry = bake.recipe, bake.entry
    manifest = Manifest(packages=captured.packages, files=fold_layers(captured.layers))
    traced = [(item.kind, item.path) for item in configured.traced]
    inputs = {**static, **traced_inputs(recipe, traced, since=bake.started.timestamp())}
    commit, dirty = read_commit(recipe.project)
    provenance = Provenance(
        source=str(source.source),
        source_digest=source.digest,
        inputs=inputs,
        commit=commit,
        dirty=dirty,
        actor=bake.kitchen.settings.actor,
        host=identity.host_name(),
        started=bake.started,
        finished=datetime.now(UTC),
        tools={**tool_versions(), "baker": identity.baker_version()},
        opaque=configured.opaque,
        parent_build=source.parent.id if source.parent else None,
    )
    return Build(
        id=bake.id,
        recipe=recipe.name,
        target=entry.target,
        arch=entry.arch,
        fingerprint=fingerprint(inputs),
        digest=manifest_digest(manifest),
        size_bytes=captured.artifact.size_bytes,
        provenance=provenance,
        artifacts=(captured.artifact,),
        created=provenance.finished,
    )


def read_commit(project: str) -> tuple[str | None, bool | None]:
    """The project's git commit and whether its files differ from it; None, None outside git."""
    git = ["git", "-c", "safe.directory=*", "-C", project]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        if commit.returncode != 0:
            return None, None
        status = subprocess.run([*git, "status", "--porcelain", "--", "."], capture_output=True, text=True)
    except FileNotFoundError:
        return None, None
    return commit.stdout.strip(), bool(status.stdout.strip())


def verify(bake: Bake, captured: Captured) -> int:
    """Boot a fresh machine from the artifact and run the image tests on it; returns how many passed."""
    recipe = bake.recipe
    settings = target_settings(bake.kitchen.settings, recipe.targets[bake.entry.target])
    bake.machine = machine = bake.provider.start(
        f"{bake.id}-verify", recipe.name, captured.artifact, bake.teardown, settings
    )
    if not recipe.image_tests:
        return 0
    report = run_image_tests(
        recipe,
        machine,
        files=recipe.image_tests,
        on_event=bake.show_event,
        log=bake.log.write,
        cancel=bake.kitchen.interruption.cancel,
        timeout=recipe.total_timeout,
        hidden=[str(bake.kitchen.settings.home)],
    )
    return sum(test.outcome == "passed" for test in report.tests)


def register(bake: Bake, build: Build, captured: Captured, carried: Sequence[str]) -> Image:
    """The next version, in one transaction; from here on the artifact is the catalog's."""
    with bake.kitchen.interruption.shielded():
        image = bake.kitchen.catalog.register(
            recipe=bake.recipe.name,
            build=build,
            layers=captured.layers,
            packages=captured.packages,
            carry=carried,
            wanted=wanted_places(bake),
        )
        bake.teardown.keep(captured.resource)
    return image


def wanted_places(bake: Bake) -> list[tuple[str, str]]:
    """The targets and architectures that make a version of this recipe complete."""
    providers = bake.kitchen.providers
    return [(target, providers[target].arch) for target in bake.recipe.targets if target in providers]


def distribute(bake: Bake, image: Image, build: Build) -> Image:
    """Bring the build to every place of its target; then the image is available."""
    labels = {"recipe": image.recipe, "version": str(image.version), "bake": bake.id}
    artifacts = bake.provider.distribute(build, labels)
    return bake.kitchen.catalog.make_available(image.recipe, image.version, {build.id: artifacts})


def describe_reasons(entry: PlanEntry) -> str:
    return "; ".join(reason.detail for reason in entry.reasons)


# --- the end of a bake --------------------------------------------------------------------------------


def finish(bake: Bake, image: Image | None, error: BakerError | None) -> BakeEnded:
    """Tear down (or keep what failed), and write down how it ended. Never raises for a failing clean-up."""
    kitchen, entry = bake.kitchen, bake.entry
    kept = None
    left = []
    if error is not None and kitchen.keep_failed and not isinstance(error, Interrupted):
        kept = keep_machine(bake)
    if error is not None and kitchen.enter_failed and bake.machine and not isinstance(error, Interrupted):
        kitchen.enter_failed(bake.machine, error)
    if kept is None:
        left = tear_down(bake)
    for item in left:
        bake.log.write(f"left behind: {item.resource.kind} {item.resource.id}: {item.error}")
    outcome = Outcome.BAKED if image else Outcome.FAILED
    message = None if error is None else str(error) + (f"\n{error.hint}" if error.hint else "")
    if image is None and message is None:
        message = "an unexpected error; see the log"
    reference = image.reference if image else None
    with written_if_possible(bake):
        kitchen.catalog.finish_bake(bake.id, outcome, reference, message)
    result = BakeResult(
        bake=bake.id,
        recipe=entry.recipe,
        target=entry.target,
        arch=entry.arch,
        outcome=outcome,
        image=reference,
        reason=describe_reasons(entry),
        seconds=round((datetime.now(UTC) - bake.started).total_seconds(), 3),
        stages=dict(bake.seconds),
        changed_operations=bake.changed,
        unchanged_operations=bake.unchanged,
        error=message,
    )
    ended = BakeEnded(result=result, image=image, left_behind=tuple(left), kept=kept, log=str(bake.log.path))
    return describe_success(ended, bake, image) if image else ended


def tear_down(bake: Bake) -> list[LeftBehind]:
    """Undo everything that is left, whether or not that can be written down."""
    left: list[LeftBehind] = []
    with written_if_possible(bake), bake.stage(Stage.TEARDOWN):
        left += bake.teardown.close()
    return left + bake.teardown.close()


@contextmanager
def written_if_possible(bake: Bake) -> Iterator[None]:
    """A catalog that cannot be written (full disk) does not hide how the bake ended; sweep writes it down."""
    try:
        yield
    except CatalogError as error:
        bake.log.write(f"not written down: {error}")


def keep_machine(bake: Bake) -> str | None:
    """Leave the failed build instance for a look, if there is one; `baker system sweep --bake` removes it."""
    machine = next((item for item in bake.teardown.resources if item.kind == "machine"), None)
    if machine is None:
        return None
    identity.mark_kept(bake.kitchen.settings.home, bake.id)
    return bake.provider.describe_access(machine)


def describe_success(ended: BakeEnded, bake: Bake, image: Image) -> BakeEnded:
    """Add what changed against the version before."""
    build = image.build_for(bake.entry.target, bake.entry.arch)
    previous = previous_build(bake, image)
    if build is None or previous is None:
        return replace(ended, build=build)
    reference, before = previous
    return replace(
        ended, build=build, previous=reference, difference=difference(bake.kitchen.catalog, before, build)
    )


def previous_build(bake: Bake, image: Image) -> tuple[str, Build] | None:
    for other in bake.kitchen.catalog.images(image.recipe):
        build = other.build_for(bake.entry.target, bake.entry.arch)
        if other.version < image.version and build is not None:
            return other.reference, build
    return None


def difference(catalog: Catalog, old: Build, new: Build) -> ManifestDifference:
    return compare_manifests(catalog.manifest(old.id), catalog.manifest(new.id))
