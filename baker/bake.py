"""The pipeline: resolve, launch, configure, seal, capture, verify, register, distribute; teardown, always.

``run_pipeline`` and ``make_image`` read top-down as the specification of one bake.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from baker import identity
from baker.cancelling import heeding_cancel
from baker.configurer import (
    Configured,
    ConfigureRequest,
    child_spec,
    configure,
    run_image_tests,
    tests_child_spec,
)
from baker.ending import finish
from baker.errors import BakerError, HostError, ImageTestError, UsageError
from baker.fingerprint import fingerprint, image_test_inputs, traced_inputs
from baker.kitchen import Bake, Kitchen
from baker.knowledge import tool_versions
from baker.log import FREE_SPACE, BakeLog
from baker.manifest import fold_layers, manifest_digest
from baker.model import (
    BakeResult,
    Bootstrap,
    Build,
    Image,
    Manifest,
    Provenance,
    Recipe,
    Reference,
    Stage,
    shorten_digest,
)
from baker.package_reading import ObservedMachine, read_installed, read_package_state
from baker.package_state import PackageState, encode_state
from baker.plan import Action, PlanEntry, describe_reasons
from baker.progress import BakeStarted, count
from baker.providers.protocol import Captured, Machine, ResolvedSource
from baker.retrying import retried
from baker.settings import target_settings
from baker.sidecar import format_wanted, label_image
from baker.teardown import MACHINES, Teardown


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
            teardown=Teardown(bake_id, kitchen.catalog, kitchen.interruption.cancel),
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
            image = use_again(running, carried) if entry.build else run_pipeline(running, carried)
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
    image, build = retried(bake, lambda: make_image(bake, carried))
    return retried(bake, lambda: distribute(bake, image, build))


def make_image(bake: Bake, carried: Sequence[str]) -> tuple[Image, Build]:
    """From the source to an image that is registered."""
    provider, recipe, teardown = bake.provider, bake.recipe, bake.teardown
    with bake.stage(Stage.RESOLVE) as detail:
        secrets = read_secrets(recipe, bake.kitchen.environ)
        source = resolve_source(bake)
        claim_builds(bake, [*([source.parent.id] if source.parent else []), *carried])
        # Looked at before the recipe runs: what is edited meanwhile counts as changed at the next plan.
        inputs = bake.kitchen.knowledge.static_inputs(recipe, bake.entry.target, bake.entry.arch, source)
        detail.append(f"{source.source} is {shorten_digest(source.digest)}")
    with bake.stage(Stage.LAUNCH):
        prepare_configurer(bake)
        bake.machine = machine = provider.launch(bake.id, recipe, source, teardown)
    with bake.stage(Stage.CONFIGURE) as detail:
        configured, state = apply_recipe(bake, machine, source, secrets)
        changed = count(configured.changed, "operation")
        detail.append(f"{changed} changed, {configured.unchanged} did not")
    with bake.stage(Stage.SEAL):
        provider.seal(machine)
    with bake.stage(Stage.CAPTURE) as detail:
        captured = provider.capture(bake.id, machine, source, teardown)
        build = describe_build(bake, source, inputs, configured, captured)
        detail.append(f"{build.digest[:19]}, {len(captured.packages)} packages")
    with bake.stage(Stage.VERIFY) as detail:
        detail.append(verify(bake, build))
    with bake.stage(Stage.REGISTER) as detail:
        image = register(bake, build, captured, carried, state)
        detail.append(image.reference)
    return image, build


def use_again(bake: Bake, carried: Sequence[str]) -> Image:
    """Inputs are those of an earlier build. Only its image tests may have to run again."""
    build = bake.entry.build
    assert build is not None
    claim_builds(bake, [build.id, *carried])
    if bake.entry.verifies:
        retried(bake, lambda: verify_again(bake, build))
    if bake.entry.action is Action.VERIFY:
        return bake.kitchen.catalog.holder(build.id, preview=bake.kitchen.preview)
    return reissue(bake, build, carried)


def reissue(bake: Bake, build: Build, carried: Sequence[str]) -> Image:
    """The next version holds a build that is there already."""
    with bake.stage(Stage.REGISTER) as detail:
        image = bake.kitchen.catalog.register(
            recipe=bake.recipe.name,
            build=None,
            layers=(),
            packages=(),
            carry=[build.id, *carried],
            wanted=wanted_places(bake),
            preview=bake.kitchen.preview,
        )
        detail.append(image.reference)
    return retried(bake, lambda: distribute(bake, image, build))


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
        place = entry.target, entry.arch
        parent = knowledge.resolve_parent(source, *place).build_for(*place)
    return knowledge.resolve(bake.recipe, entry.target, entry.arch, parent)


def claim_builds(bake: Bake, build_ids: Sequence[str]) -> None:
    """Until the bake ends they are not pruned. Raises ConflictError if one of them was deleted meanwhile."""
    if build_ids:
        bake.kitchen.catalog.claim_builds(bake.id, build_ids)


def prepare_configurer(bake: Bake) -> None:
    """It imports pyinfra while the machine boots."""
    hidden = [str(bake.kitchen.settings.home)]
    bake.standby.prepare(child_spec(bake.recipe, bake.kitchen.environ, hidden))


def apply_recipe(
    bake: Bake, machine: Machine, source: ResolvedSource, secrets: Mapping[str, str]
) -> tuple[Configured, PackageState | None]:
    """Run the recipe once, and read what apt knows then."""
    before, observed = read_installed(machine), ObservedMachine(machine)
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
    configured = configure(
        request,
        observed,
        on_event=bake.show_event,
        log=bake.log.write,
        cancel=cancel,
        standby=bake.standby,
    )
    bake.changed, bake.unchanged = configured.changed, configured.unchanged
    from_archive = isinstance(source.source, Bootstrap)
    state = read_package_state(machine, before, observed.texts, from_archive=from_archive)
    settings = target_settings(bake.kitchen.settings, bake.recipe.targets[bake.entry.target])
    if state is None and bake.provider.shown_folders(settings):
        unseen = "it knows folders with packages, and no apt that tells which of them it took"
        configured = replace(configured, opaque=configured.opaque or unseen)
    return configured, state


def describe_build(
    bake: Bake, source: ResolvedSource, static: Mapping[str, str], configured: Configured, captured: Captured
) -> Build:
    """The build that was captured, with its identity and where it came from."""
    recipe, entry = bake.recipe, bake.entry
    manifest = Manifest(packages=captured.packages, files=fold_layers(captured.layers))
    traced = [(item.kind, item.path) for item in configured.traced]
    inputs = {**static, **traced_inputs(recipe, traced, since=bake.started.timestamp())}
    commit, dirty = identity.read_commit(recipe.project)
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
        image_tests=image_test_inputs(recipe),
    )


def verify(bake: Bake, build: Build) -> str:
    """Boot a fresh machine from the build and run the image tests on it; returns what it came to."""
    recipe, hidden = bake.recipe, [str(bake.kitchen.settings.home)]
    settings = target_settings(bake.kitchen.settings, recipe.targets[bake.entry.target])
    if recipe.image_tests:
        bake.standby.prepare(tests_child_spec(recipe, hidden))
    bake.machine = machine = bake.provider.start(
        f"{bake.id}-verify", recipe.name, build.artifacts[0], bake.teardown, settings
    )
    if not recipe.image_tests:
        end_machine(bake, machine)
        return "it boots; the recipe has no image tests"
    report = run_image_tests(
        recipe,
        machine,
        files=recipe.image_tests,
        on_event=bake.show_event,
        log=bake.log.write,
        cancel=bake.kitchen.interruption.cancel,
        timeout=recipe.total_timeout,
        hidden=hidden,
        standby=bake.standby,
    )
    end_machine(bake, machine)
    passed = sum(test.outcome == "passed" for test in report.tests)
    return f"{count(passed, 'image test')} passed"


def end_machine(bake: Bake, machine: Machine) -> None:
    """It has done its work, and a cloud takes its time to end it. If that fails, teardown tries again."""
    bake.machine = None
    for resource in bake.teardown.resources:
        if resource.kind in MACHINES and resource.id == machine.name:
            with contextlib.suppress(BakerError, OSError):
                bake.teardown.undo(resource)


def verify_again(bake: Bake, build: Build) -> None:
    """The image tests are not those that a build passed: run them, and write down which it passes now.

    Raises ImageTestError; then nothing changes.
    """
    image_tests = image_test_inputs(bake.recipe)  # before they run: what is edited meanwhile did not
    holder = bake.kitchen.catalog.holder(build.id, preview=bake.kitchen.preview)
    try:
        with bake.stage(Stage.VERIFY) as detail:
            detail.append(verify(bake, build))
    except ImageTestError as error:
        if bake.entry.action is not Action.VERIFY:
            raise
        reference = holder.reference
        raise ImageTestError(
            f"{error}\n{reference} was not baked again, and stays available as it is: "
            "its inputs are unchanged, only its image tests are not",
            hint=f"Mend the tests, or the recipe: then baker bake {bake.recipe.name} makes the next version. "
            f"If it must not be used: baker image revoke {reference} --reason …",
        ) from error
    if holder.preview == bake.kitchen.preview:  # what an ordinary image passed is not a branch's to say
        bake.kitchen.catalog.record_image_tests(build.id, image_tests)


def register(
    bake: Bake, build: Build, captured: Captured, carried: Sequence[str], state: PackageState | None
) -> Image:
    """The next version, in one transaction; from here on the artifact is the catalog's."""
    with bake.kitchen.interruption.shielded():
        image = bake.kitchen.catalog.register(
            recipe=bake.recipe.name,
            build=build,
            layers=captured.layers,
            packages=captured.packages,
            carry=carried,
            wanted=wanted_places(bake),
            preview=bake.kitchen.preview,
            package_state=encode_state(state) if state else None,
        )
        bake.teardown.keep(captured.resource)
    return image


def wanted_places(bake: Bake) -> list[tuple[str, str]]:
    """The targets and architectures that make a version of this recipe complete."""
    archs = bake.kitchen.knowledge.archs
    return [(target, arch) for target in bake.recipe.targets for arch in archs(bake.recipe, target)]


def distribute(bake: Bake, image: Image, build: Build) -> Image:
    """Bring the build to every place of its target; then the image is available."""
    labels = label_image(image, bake.id, format_wanted(wanted_places(bake)))
    try:
        with bake.stage(Stage.DISTRIBUTE):
            artifacts = bake.provider.distribute(build, labels, bake.teardown)
            return bake.kitchen.catalog.make_available(image.recipe, image.version, {build.id: artifacts})
    except BakerError as error:
        hint = (
            f"{image.reference} is registered, and not available for {build.target}/{build.arch} until it is "
            "everywhere. The next bake for that target brings it there, or: baker system sweep"
        )
        error.hint = f"{error.hint}\n{hint}" if error.hint else hint
        raise
