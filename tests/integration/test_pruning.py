"""Deleting images on real stores and both databases: what goes, what stays, and being killed on the way."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import sqlite3
import threading
import time
from dataclasses import replace

import pytest
from sqlalchemy import func, select

from baker import identity
from baker.catalog import Catalog, schema
from baker.catalog.database import Database
from baker.errors import BadReference, BakerError, CatalogError, ConflictError
from baker.housekeeping import measure_usage
from baker.model import ImageStatus, Outcome, Reference
from baker.prune import delete_images, finish_deletions, plan_prune, require_unneeded
from baker.retention import Retention
from baker.sweep import sweep_dead_bakes
from tests.conftest import require_root
from tests.factories import (
    make_artifact,
    make_bake_id,
    make_build,
    make_file,
    make_image,
    make_layer,
    make_package,
)
from tests.stores import make_store, store_image

ONE = Retention(table={"keep_last": 1})


@pytest.fixture
def home(tmp_path):
    require_root()
    return tmp_path / "home"


@pytest.fixture
def provider(home):
    return make_store(home)


@pytest.fixture
def catalog(catalog_url):
    with Catalog.open(catalog_url, actor="ann") as opened:
        yield opened


@pytest.fixture
def sqlite_catalog(tmp_path):
    """For what happens in the store, whatever the database."""
    with Catalog.open(f"sqlite:///{tmp_path}/catalog.db", actor="ann") as opened:
        yield opened


def prune(catalog, provider, home, retention=ONE, **options):
    plan = plan_prune(catalog, {"local": provider}, home, retention, **options)
    return delete_images(catalog, {"local": provider}, home, plan.doomed, retention, by_rules=True)


def remove(catalog, provider, home, *keys):
    return delete_images(catalog, {"local": provider}, home, dict.fromkeys(keys), Retention(), by_rules=False)


def nothing_holds(_evidence, _doomed):
    return {}


def count_rows(catalog, table):
    return catalog._database.read(
        lambda connection: connection.execute(select(func.count()).select_from(table)).scalar_one()
    )


def assert_usable(catalog, provider, *references):
    """Every layer of the images is in the store and intact, and the catalog knows what is inside."""
    for reference in references:
        for build in catalog.resolve(Reference.parse(reference)).builds:
            for digest in provider.store.read_artifact(build.artifacts[0].id)["layers"]:
                provider.store.verified_layer(digest)
            assert catalog.manifest(build.id).files


def assert_nothing_left_over(catalog, provider, home):
    """The store, sweep and df agree that everything that is there is needed."""
    assert catalog.pending_deletions() == []
    named = {a.id for image in catalog.images() for build in image.builds for a in build.artifacts}
    assert {f"sha256:{path.stem}" for path in provider.store.artifacts.glob("*.json")} == named
    unused = next(use for use in measure_usage(home, None) if use.name == "unused layers")
    assert unused.files == 0
    swept = sweep_dead_bakes(catalog, {"local": provider}, home)
    assert (swept.removed, swept.failed, swept.finished) == ((), (), ())
    linked = select(schema.build_layers.c.layer).distinct()
    orphans = select(schema.layers.c.number).where(schema.layers.c.number.not_in(linked))
    assert catalog._database.read(lambda connection: connection.execute(orphans).all()) == []
    held = select(schema.image_builds.c.build)
    loose = select(schema.builds.c.id).where(schema.builds.c.number.not_in(held))
    assert catalog._database.read(lambda connection: connection.execute(loose).all()) == []


# --- what goes and what stays -------------------------------------------------------------------


def test_pruned_image_goes_with_what_only_it_consists_of(catalog, provider, home):
    store_image(catalog, provider, "base")
    for _ in range(3):
        store_image(catalog, provider, "web", upon="base:1")
    rows = count_rows(catalog, schema.layers)
    plan = plan_prune(catalog, {"local": provider}, home, ONE)
    before = sum(path.stat().st_size for path in provider.store.layers.glob("*.erofs"))
    pruned = prune(catalog, provider, home)
    assert pruned.deleted == ("web:2", "web:1")
    assert (pruned.skipped, pruned.finished, pruned.left, pruned.failed) == ((), (), (), ())
    after = sum(path.stat().st_size for path in provider.store.layers.glob("*.erofs"))
    assert before - after == sum(plan.frees.values()) > 0
    assert count_rows(catalog, schema.layers) == rows - 2
    assert_usable(catalog, provider, "web:3", "base:1")
    assert_nothing_left_over(catalog, provider, home)
    assert prune(catalog, provider, home).deleted == ()


def test_deleted_image_says_who_deleted_it_and_why(catalog, provider, home):
    for _ in range(2):
        store_image(catalog, provider)
    prune(catalog, provider, home)
    image = catalog.image("web", 1)
    assert (image.status, image.builds) == (ImageStatus.DELETED, ())
    with pytest.raises(
        BadReference, match=r"web:1 was deleted by ann on .* \(retention: not among the newest 1\)"
    ):
        catalog.resolve(Reference.parse("web:1"))
    assert catalog.events("web", 1)[0].event == "deleted"
    assert store_image(catalog, provider).version == 3


def test_same_content_made_twice_stays_until_the_last_image_of_it_goes(sqlite_catalog, provider, home):
    catalog = sqlite_catalog
    twins = [store_image(catalog, provider, content="same") for _ in range(2)]
    assert len({image.builds[0].artifacts[0].id for image in twins}) == 1
    store_image(catalog, provider)
    plan = plan_prune(catalog, {"local": provider}, home, Retention(table={"keep_last": 2}))
    assert (list(plan.doomed), sum(plan.frees.values())) == ([("web", 1)], 0)
    assert remove(catalog, provider, home, ("web", 1)).deleted == ("web:1",)
    assert_usable(catalog, provider, "web:2")
    assert_nothing_left_over(catalog, provider, home)
    remove(catalog, provider, home, ("web", 2))
    assert not provider.holds(twins[1].builds[0].artifacts[0])
    assert_nothing_left_over(catalog, provider, home)


def test_build_that_a_later_version_carries_stays(catalog, provider, home):
    first = store_image(catalog, provider)
    again = catalog.register(
        recipe="web",
        build=None,
        layers=(),
        packages=(),
        carry=[first.builds[0].id],
        wanted=[("local", provider.arch)],
    )
    catalog.make_available("web", again.version, {first.builds[0].id: first.builds[0].artifacts})
    assert prune(catalog, provider, home).deleted == ("web:1",)
    assert_usable(catalog, provider, "web:2")
    assert_nothing_left_over(catalog, provider, home)


def test_image_that_is_needed_is_not_removed(catalog, provider, home):
    store_image(catalog, provider, "base")
    store_image(catalog, provider, "web", upon="base:1")
    store_image(catalog, provider, "base")
    catalog.add_lease("base", 1, owner="farm")
    with pytest.raises(ConflictError) as caught:
        require_unneeded(catalog, {}, home, Retention(), catalog.image("base", 1))
    assert str(caught.value) == "base:1 is needed: leased by farm without end; web:1 is built upon it"
    assert remove(catalog, provider, home, ("base", 1)).skipped[0][0] == "base:1"
    assert_usable(catalog, provider, "base:1", "web:1")


def test_artifact_of_another_store_is_left_and_finished_there(sqlite_catalog, provider, home, tmp_path):
    catalog = sqlite_catalog
    other_home = tmp_path / "other"
    other = make_store(other_home)
    image = store_image(catalog, other)
    store_image(catalog, provider)
    plan = plan_prune(catalog, {"local": provider}, home, ONE)
    assert [artifact.store for artifact in plan.elsewhere["web", 1]] == [other.store_name]
    pruned = prune(catalog, provider, home)
    assert pruned.deleted == ("web:1",)
    assert pruned.left == (("web:1", image.builds[0].artifacts[0]),)
    assert other.holds(image.builds[0].artifacts[0])
    with pytest.raises(BadReference):
        catalog.resolve(Reference.parse("web:1"))
    assert prune(catalog, other, other_home).finished == ("web:1",)
    assert not other.holds(image.builds[0].artifacts[0])
    assert_nothing_left_over(catalog, provider, home)


def test_artifact_that_a_running_bake_came_to_as_well_stays(sqlite_catalog, provider, home):
    catalog = sqlite_catalog
    image = store_image(catalog, provider, content="same")
    store_image(catalog, provider)
    artifact = image.builds[0].artifacts[0]
    layers = provider.store.read_artifact(artifact.id)["layers"]
    bake_id = make_bake_id()
    with identity.alive(home, bake_id):
        provider.store.write_artifact(layers, {"bake": bake_id})
        assert prune(catalog, provider, home).left == (("web:1", artifact),)
        assert provider.holds(artifact)
    provider.store.delete_captures(bake_id)
    assert provider.holds(artifact)
    assert prune(catalog, provider, home).finished == ("web:1",)
    assert_nothing_left_over(catalog, provider, home)


def test_failing_bake_leaves_the_artifact_that_an_image_has(sqlite_catalog, provider):
    catalog = sqlite_catalog
    image = store_image(catalog, provider)
    artifact = image.builds[0].artifacts[0]
    layers = provider.store.read_artifact(artifact.id)["layers"]
    provider.store.write_artifact(layers, {"bake": "01JFAILED"})
    provider.store.delete_captures("01JFAILED")
    assert_usable(catalog, provider, "web:1")
    assert "01JFAILED" not in str(provider.store.read_artifact(artifact.id))


# --- who comes first wins -----------------------------------------------------------------------


def promote(catalog, version):
    _, revision = catalog.channel("web", "prod") or (None, None)
    catalog.promote("web", version, "prod", expected_revision=revision)


def lease(catalog, version):
    catalog.add_lease("web", version, owner="farm")


def bake_upon(catalog, version):
    bake_id = make_bake_id()
    catalog.start_bake(id=bake_id, recipe="top", target="local", arch="amd64", log_path="", host="far")
    catalog.claim_builds(bake_id, [catalog.image("web", version).builds[0].id])


USES = pytest.mark.parametrize("use", [promote, lease, bake_upon])


@USES
def test_use_that_begins_after_the_plan_wins(catalog, provider, home, use):
    for _ in range(3):
        store_image(catalog, provider)
    plan = plan_prune(catalog, {"local": provider}, home, ONE)
    use(catalog, 1)
    pruned = delete_images(catalog, {"local": provider}, home, plan.doomed, ONE, by_rules=True)
    assert pruned.deleted == ("web:2",)
    assert [reference for reference, _ in pruned.skipped] == ["web:1"]
    assert_usable(catalog, provider, "web:1", "web:3")


@USES
def test_use_that_begins_after_the_mark_is_refused(catalog, use):
    for _ in range(2):
        make_image(catalog)
    failures = []

    def use_it():
        try:
            use(catalog, 1)
        except BakerError as error:
            failures.append(str(error))

    thread = threading.Thread(target=use_it)

    def look(_evidence, _doomed):
        thread.start()
        thread.join(0.3)
        return {}

    assert catalog.mark_deleted({("web", 1): "test"}, look) == {}
    thread.join()
    assert len(failures) == 1
    assert "deleted" in failures[0]
    assert catalog.channels() == []
    assert catalog.leases() == []


def test_descendant_of_an_image_that_stays_after_all_keeps_its_ancestors(catalog, provider, home):
    store_image(catalog, provider, "base")
    store_image(catalog, provider, "web", upon="base:1")
    for recipe in ("base", "web"):
        store_image(catalog, provider, recipe)
    plan = plan_prune(catalog, {"local": provider}, home, ONE)
    assert list(plan.doomed) == [("base", 1), ("web", 1)]
    promote(catalog, 1)
    pruned = delete_images(catalog, {"local": provider}, home, plan.doomed, ONE, by_rules=True)
    assert pruned.deleted == ()
    assert dict(pruned.skipped)["base:1"] == "web:1 is built upon it"
    assert_usable(catalog, provider, "base:1", "web:1")


def test_image_that_somebody_is_changing_is_skipped_without_waiting(new_url):
    with Catalog.open(new_url("postgresql"), actor="ann") as catalog:
        for _ in range(3):
            make_image(catalog)

        def change(connection):
            connection.execute(select(schema.images).where(schema.images.c.version == 1).with_for_update())
            wanted = {("web", 1): None, ("web", 2): None}
            return catalog.mark_deleted(wanted, nothing_holds)

        assert catalog._database.write(change) == {("web", 1): "somebody else is changing it right now"}
        assert catalog.image("web", 2).status == ImageStatus.DELETED


def test_promotions_and_prunes_at_once_never_leave_a_channel_on_a_deleted_image(catalog_url, provider, home):
    refusals = []

    def promote_all():
        with Catalog.open(catalog_url, actor="bob") as catalog:
            for version in range(1, 21):
                try:
                    promote(catalog, version)
                except BakerError as error:
                    refusals.append(str(error))

    with Catalog.open(catalog_url, actor="ann") as catalog:
        for _ in range(20):
            make_image(catalog)
        thread = threading.Thread(target=promote_all)
        thread.start()
        deleted = []
        rules = Retention(table={"keep_last": 1, "channels": {"prod": 1}})
        while thread.is_alive():
            deleted += prune(catalog, provider, home, rules).deleted
            for move in catalog.channels():
                assert catalog.image("web", move.to_version).status == ImageStatus.AVAILABLE
        thread.join()
        deleted += prune(catalog, provider, home, rules).deleted
        assert len(deleted) == len(set(deleted)) == 19
        assert all("deleted" in refusal for refusal in refusals)
        held = {move.to_version for move in catalog.channel_history("web", "prod")}
        assert 20 in held
        assert len(held) + len(refusals) == 20


def test_deleted_build_is_not_carried_into_a_new_version(catalog, provider):
    builds = [make_build(arch=provider.arch) for _ in range(2)]
    for build in builds:
        make_image(catalog, build=build, wanted=[("local", provider.arch)])
    catalog.mark_deleted({("web", 1): None}, nothing_holds)
    with pytest.raises(CatalogError, match="deleted"):
        make_image(catalog, build=make_build(target="aws"), carry=[builds[0].id])


# --- evidence that cannot be read ---------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE leases SET expires = '0 a kind that nobody knows'",
        "UPDATE images SET status = 'on fire' WHERE version = 2",
        "UPDATE bakes SET uses = '7'",
    ],
)
def test_nothing_is_deleted_where_the_use_cannot_be_read(new_url, provider, home, damage):
    url = new_url("sqlite")
    with Catalog.open(url, actor="ann") as catalog:
        for _ in range(3):
            store_image(catalog, provider)
        catalog.add_lease("web", 3, owner="farm")
        bake_upon(catalog, 3)
        plan = plan_prune(catalog, {"local": provider}, home, ONE)
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        with connection:
            connection.execute(damage)
        connection.close()
        with pytest.raises(CatalogError, match="what uses the images cannot be read") as caught:
            prune(catalog, provider, home)
        assert "Nothing was deleted" in str(caught.value.hint)
        with pytest.raises(CatalogError, match="what uses the images cannot be read"):
            delete_images(catalog, {"local": provider}, home, plan.doomed, ONE, by_rules=True)
        assert catalog.pending_deletions() == []


def test_bakes_of_other_hosts_count_as_running_and_dead_ones_of_this_store_do_not(catalog, provider, home):
    for _ in range(3):
        store_image(catalog, provider)
    for version, host in ((1, "far"), (2, identity.host_name())):
        bake_id = make_bake_id()
        log = str(home / "logs" / f"{bake_id}.log")
        catalog.start_bake(id=bake_id, recipe="top", target="local", arch="amd64", log_path=log, host=host)
        catalog.claim_builds(bake_id, [catalog.image("web", version).builds[0].id])
    assert prune(catalog, provider, home).deleted == ("web:2",)
    far = next(record for record in catalog.bakes(running_only=True) if record.host == "far")
    catalog.finish_bake(far.id, Outcome.FAILED, None, "it was cancelled")
    assert prune(catalog, provider, home).deleted == ("web:1",)


def test_store_that_cannot_be_written_keeps_every_image(sqlite_catalog, provider, home, monkeypatch):
    catalog = sqlite_catalog
    for _ in range(2):
        store_image(catalog, provider)

    def refuse():
        raise BakerError("machines of the local target need root")

    monkeypatch.setattr(provider, "check", refuse)
    with pytest.raises(BakerError, match="need root"):
        prune(catalog, provider, home)
    assert catalog.image("web", 1).status == ImageStatus.AVAILABLE


def test_damaged_artifact_is_named_and_its_image_finished_later(sqlite_catalog, provider, home):
    catalog = sqlite_catalog
    image = store_image(catalog, provider)
    store_image(catalog, provider)
    plan = plan_prune(catalog, {"local": provider}, home, ONE)
    path = provider.store._artifact_path(image.builds[0].artifacts[0].id)
    content = path.read_bytes()
    path.write_bytes(b"{")
    pruned = delete_images(catalog, {"local": provider}, home, plan.doomed, ONE, by_rules=True)
    assert [reference for reference, _ in pruned.failed] == ["web:1"]
    assert "is damaged" in pruned.failed[0][1]
    path.write_bytes(content)
    assert prune(catalog, provider, home).finished == ("web:1",)
    assert_nothing_left_over(catalog, provider, home)


# --- killed on the way --------------------------------------------------------------------------


def die_at(step):
    """From here on this process is killed at the given step: before or after a write, or a removal."""
    taken = 0

    def count(function):
        def counted(*arguments, **options):
            nonlocal taken
            taken += 1
            if taken == step:
                os.kill(os.getpid(), signal.SIGKILL)
            done = function(*arguments, **options)
            taken += 1
            if taken == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return counted

    Database.write = count(Database.write)
    pathlib.Path.unlink = count(pathlib.Path.unlink)


def prune_and_die(url, provider, home, step):
    """Whether the child was killed before it was done."""
    child = os.fork()
    if child == 0:
        try:
            with Catalog.open(url, actor="ann") as catalog:
                die_at(step)
                prune(catalog, provider, home)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_prune_that_is_killed_anywhere_is_finished_by_the_next(engine, request, provider, home, tmp_path):
    """From one state, again and again, each time one step further."""
    if engine == "postgresql":
        server = request.getfixturevalue("postgresql")
        name = "killed"
        server.execute(f"CREATE DATABASE {name}")
        first = server.url(name)
    else:
        first = f"sqlite:///{home}/catalog.db"
    with Catalog.open(first, actor="ann") as catalog:
        store_image(catalog, provider, "base")
        for _ in range(3):
            store_image(catalog, provider, "web", upon="base:1")
    shutil.copytree(home, tmp_path / "before", symlinks=True)
    killed = 0
    while True:
        url = first
        if engine == "postgresql":
            url = server.url(f"{name}_{killed}")
            server.execute(f"CREATE DATABASE {name}_{killed} TEMPLATE {name}")
        died = prune_and_die(url, provider, home, killed + 1)
        with Catalog.open(url, actor="bob") as catalog:
            assert_usable(catalog, provider, "web:3", "base:1")
            prune(catalog, provider, home)
            gone = [image.reference for image in catalog.images() if image.status == ImageStatus.DELETED]
            assert gone == ["web:2", "web:1"]
            assert_usable(catalog, provider, "web:3", "base:1")
            assert_nothing_left_over(catalog, provider, home)
            assert count_rows(catalog, schema.builds) == 2
        if not died:
            break
        killed += 1
        shutil.rmtree(home)
        shutil.copytree(tmp_path / "before", home, symlinks=True)
    assert killed > 12


def test_deletion_of_a_dead_bakes_image_is_finished_too(sqlite_catalog, provider, home):
    """Sweep gives up on an image whose artifacts are gone; what is left of it goes with the next prune."""
    catalog = sqlite_catalog
    image = store_image(catalog, provider)
    store_image(catalog, provider)
    catalog.set_status("web", 1, ImageStatus.DELETED, "its artifacts are gone")
    provider.delete(image.builds[0].artifacts[0])
    assert finish_deletions(catalog, {"local": provider}, home)[0] == ["web:1"]
    assert_nothing_left_over(catalog, provider, home)


def test_artifacts_of_a_target_that_is_not_configured_are_left(sqlite_catalog, provider, home):
    catalog = sqlite_catalog
    aws = make_artifact(target="aws", kind="ami", store="eu-west-1", id="ami-1")
    build = replace(make_build(target="aws"), artifacts=(aws,))
    make_image(catalog, build=build, wanted=[("aws", "amd64")])
    make_image(catalog, build=make_build(target="aws"), wanted=[("aws", "amd64")])
    assert prune(catalog, provider, home).deleted == (), "nobody can say whether something uses it"
    catalog.mark_deleted({("web", 1): None}, nothing_holds)
    assert prune(catalog, provider, home).left == (("web:1", aws),)


# --- many at once -------------------------------------------------------------------------------


@pytest.mark.slow
def test_registrations_promotions_and_two_prunes_at_once_fail_nobody(catalog_url, tmp_path):
    """Builds share layers: while one is removed, another one that consists of the same is written down."""
    faults, deleted = [], []
    stop = time.monotonic() + 5

    def repeat(work, *arguments):
        with Catalog.open(catalog_url, actor="ann") as catalog:
            number = 0
            while time.monotonic() < stop:
                number += 1
                try:
                    work(catalog, number, *arguments)
                except Exception as error:
                    faults.append(f"{type(error).__name__}: {error}")

    def register(catalog, number, recipe):
        layers = [make_layer(make_file(content=text)) for text in (str(number % 3), f"{recipe} {number}")]
        build = make_build(recipe, artifacts=())
        make_image(catalog, recipe, build=build, layers=layers, packages=[make_package()])

    def prune_once(catalog, _):
        plan = plan_prune(catalog, {}, tmp_path, ONE)
        deleted.extend(delete_images(catalog, {}, tmp_path, plan.doomed, ONE, by_rules=True).deleted)

    def promote_newest(catalog, _):
        for image in catalog.images("web")[:2]:
            with contextlib.suppress(CatalogError):  # not distributed yet, or deleted a moment ago
                promote(catalog, image.version)

    jobs = [(register, "web"), (register, "db"), (prune_once,), (prune_once,), (promote_newest,)]
    threads = [threading.Thread(target=repeat, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(deleted) > 10
    with Catalog.open(catalog_url, actor="ann") as catalog:
        finish_deletions(catalog, {}, tmp_path)
        assert catalog.pending_deletions() == []
        for image in catalog.images():
            assert len(image.builds) == (0 if image.status == ImageStatus.DELETED else 1)
            assert all(catalog.manifest(build.id).files for build in image.builds)
        for move in catalog.channels():
            assert catalog.image("web", move.to_version).status == ImageStatus.AVAILABLE
