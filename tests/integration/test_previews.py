"""Preview channels on both databases: who sees their images, how they end, and what goes with them."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from baker.catalog import Catalog, schema
from baker.cli import make_app
from baker.errors import BadReference, CatalogError, CloudError, ConflictError, UsageError
from baker.execution import execute_plan, plan_bakes
from baker.fingerprint import fingerprint
from baker.gates import Gate
from baker.interrupt import Interruption
from baker.kitchen import Kitchen
from baker.lifecycle import describe_promotion, describe_roll_back
from baker.model import BakeResult, Outcome, Reference
from baker.previews import collect_expired, move_preview, require_preview_channel
from baker.prune import delete_images, plan_prune, require_unneeded
from baker.recipes import load_recipes
from baker.retention import Retention
from baker.settings import load_settings
from tests.conftest import require_root
from tests.factories import make_artifact, make_build, make_image, make_provenance
from tests.stores import make_store, store_image

LOCAL, AWS = ("local", "amd64"), ("aws", "amd64")
BOTH = (LOCAL, AWS)
WEEK = 7 * 86400


@pytest.fixture
def catalog(catalog_url):
    with Catalog.open(catalog_url, actor="ann") as opened:
        yield opened


def find_latest(catalog, **view):
    return catalog.resolve(Reference.parse("web"), **view).version


def promote(catalog, version, channel="pr-1", expires=WEEK, **options):
    held = catalog.channel("web", channel)
    revision = held[1] if held else None
    return catalog.promote("web", version, channel, expected_revision=revision, expires=expires, **options)


def end(catalog, channel="pr-1", recipe="web", *, ago=1):
    """As if its time were over."""
    mine = (schema.channels.c.recipe == recipe, schema.channels.c.name == channel)
    over = catalog._clock() - timedelta(seconds=ago)
    change = update(schema.channels).where(*mine).values(expires=over)
    assert catalog._database.write(lambda connection: connection.execute(change).rowcount) == 1


def make_result(image=None, outcome=Outcome.BAKED, recipe="web", target="local"):
    return BakeResult(
        bake=None,
        recipe=recipe,
        target=target,
        arch="amd64",
        outcome=outcome,
        image=image,
        reason="",
        seconds=0,
    )


def move(catalog, *results, channel="pr-1", providers=None, **options):
    return move_preview(catalog, providers or {}, results, channel, **options)


# --- who sees them --------------------------------------------------------------------------------------


def test_preview_is_latest_for_its_own_channel_only(catalog):
    make_image(catalog)
    make_image(catalog, preview="pr-1")
    make_image(catalog, preview="pr-2")
    for place in (None, LOCAL):
        assert find_latest(catalog, place=place) == 1
        assert find_latest(catalog, place=place, preview="pr-1") == 2
        assert find_latest(catalog, place=place, preview="pr-3") == 1
    assert [(image.version, image.channels, image.preview) for image in catalog.images("web")] == [
        (3, (), "pr-2"),
        (2, (), "pr-1"),
        (1, ("latest",), None),
    ]


def test_recipe_that_has_only_previews_has_no_latest(catalog):
    make_image(catalog, preview="pr-1")
    with pytest.raises(BadReference, match=r"newest is web:1, available, a preview for pr-1"):
        find_latest(catalog)
    assert catalog.newest_image("web") is None
    assert catalog.newest_image("web", preview="pr-1").version == 1


def test_digest_means_the_ordinary_image_before_a_newer_preview(catalog):
    build = make_image(catalog).builds[0]
    make_image(catalog, build=make_build(digest=build.digest), preview="pr-1")
    assert catalog.resolve(Reference.parse(f"web@{build.digest[:19]}")).version == 1


def test_builds_of_a_preview_are_seen_first_by_it_and_only_as_candidates_by_others(catalog):
    ordinary, own, other = (
        make_image(catalog, preview=preview).builds[0] for preview in (None, "pr-1", "pr-2")
    )
    assert catalog.usable_builds("web", *LOCAL) == [ordinary]
    assert catalog.preview_builds("web", *LOCAL) == [other, own]
    assert catalog.usable_builds("web", *LOCAL, preview="pr-1") == [own, ordinary]
    assert catalog.preview_builds("web", *LOCAL, preview="pr-1") == [other]


def test_own_builds_are_ordered_by_the_previews_images_not_by_where_they_were_issued_again(catalog):
    first = make_image(catalog, preview="pr-1").builds[0]
    second = make_image(catalog, preview="pr-1").builds[0]
    catalog.register(recipe="web", build=None, layers=(), packages=(), carry=[first.id], wanted=[LOCAL])
    catalog.make_available("web", 3, {first.id: first.artifacts})
    assert catalog.usable_builds("web", *LOCAL, preview="pr-1") == [second, first]
    assert catalog.usable_builds("web", *LOCAL) == [first]


def test_what_was_revoked_as_an_ordinary_image_is_not_issued_again_from_its_preview(catalog):
    build = make_image(catalog, preview="pr-1").builds[0]
    catalog.register(recipe="web", build=None, layers=(), packages=(), carry=[build.id], wanted=[LOCAL])
    catalog.make_available("web", 2, {build.id: build.artifacts})
    catalog.revoke("web", 2, reason="CVE-2026-1")
    assert catalog.preview_builds("web", *LOCAL) == []


def test_image_that_answers_for_a_build_is_one_in_view(catalog):
    build = make_image(catalog).builds[0]
    for preview in ("pr-1", "pr-2"):
        image = catalog.register(
            recipe="web",
            build=None,
            layers=(),
            packages=(),
            carry=[build.id],
            wanted=[LOCAL],
            preview=preview,
        )
        catalog.make_available("web", image.version, {build.id: build.artifacts})
    assert catalog.holder(build.id).version == 1
    assert catalog.holder(build.id, preview="pr-1").version == 2
    assert catalog.holder(build.id, preview="pr-3").version == 1


def test_parent_is_named_by_its_ordinary_image(catalog):
    base = make_image(catalog, "base").builds[0]
    catalog.register(
        recipe="base", build=None, layers=(), packages=(), carry=[base.id], wanted=[LOCAL], preview="pr-1"
    )
    catalog.make_available("base", 2, {base.id: base.artifacts})
    make_image(catalog, build=make_build(provenance=make_provenance(parent_build=base.id)))
    assert catalog.family("web", 1)["web:1"].parents == ("base:1",)


def test_builds_join_only_incomplete_versions_of_their_own_kind(catalog):
    make_image(catalog, wanted=BOTH)
    make_image(catalog, wanted=BOTH, preview="pr-1")
    assert catalog.waiting_version("web", *AWS) == "web:1"
    assert catalog.waiting_version("web", *AWS, preview="pr-1") == "web:2"
    assert catalog.waiting_version("web", *AWS, preview="pr-2") is None
    aws = make_build(target="aws")
    assert make_image(catalog, build=aws, wanted=BOTH, preview="pr-1").version == 2
    assert make_image(catalog, build=make_build(target="aws"), wanted=BOTH).version == 1


# --- channels that expire -----------------------------------------------------------------------------------


def test_preview_is_promoted_to_channels_that_expire_and_to_no_other(catalog):
    make_image(catalog, preview="pr-1")
    for hint in ("cannot be promoted to prod: it is a preview, baked for pr-1",):
        with pytest.raises(CatalogError, match=hint) as caught:
            promote(catalog, 1, "prod", expires=None)
        with pytest.raises(CatalogError, match=hint):
            describe_promotion(catalog, Reference.parse("web:1"), "prod", Gate())
        assert "baker bake web" in caught.value.hint
    assert catalog.channels() == []
    promote(catalog, 1)
    promote(catalog, 1, "demo")
    assert catalog.image("web", 1).channels == ("demo", "pr-1")


def test_each_move_prolongs_a_channel_and_one_that_says_nothing_keeps_its_end(catalog):
    for preview in (None, "pr-1"):
        make_image(catalog, preview=preview)
    promote(catalog, 1, expires=3600)
    first = catalog.channel_end("web", "pr-1")
    assert first - catalog._clock() == pytest.approx(timedelta(hours=1), abs=timedelta(minutes=1))
    promote(catalog, 2, expires=None)
    assert catalog.channel_end("web", "pr-1") == first
    promote(catalog, 2, expires=WEEK)
    assert catalog.channel_end("web", "pr-1") > first + timedelta(days=6)
    assert [move.to_version for move in catalog.channel_history("web", "pr-1")] == [2, 1]
    assert catalog.image("web", 2).preview_ends == catalog.channel_end("web", "pr-1")
    assert catalog.image("web", 1).preview_ends is None


def test_channel_that_is_there_to_stay_is_not_made_to_expire(catalog):
    make_image(catalog)
    promote(catalog, 1, "dev", expires=None)
    with pytest.raises(UsageError, match="web:dev is there to stay"):
        promote(catalog, 1, "dev")
    assert catalog.channel_end("web", "dev") is None


def test_names_of_real_channels_are_no_previews(catalog):
    make_image(catalog)
    promote(catalog, 1, "dev", expires=None)
    catalog.protect("", "prod", Gate(only=frozenset({"ann"})))
    for name in ("dev", "prod", "staging", "latest", "PR 1"):
        with pytest.raises(UsageError):
            require_preview_channel(catalog, name, ["web"], {"staging"})
    require_preview_channel(catalog, "dev", ["base"], {"staging"})
    promote(catalog, 1)
    require_preview_channel(catalog, "pr-1", ["web"], {"staging"})


@pytest.mark.parametrize(
    "command",
    [("plan", "--channel"), ("bake", "--channel"), ("promote", "web:1", "--yes", "--expires", "7d")],
)
def test_channels_that_a_night_moves_are_no_previews(tmp_path, monkeypatch, command):
    require_root()
    (tmp_path / "recipes/web").mkdir(parents=True)
    (tmp_path / "recipes/web/recipe.toml").write_text('from = "debian:trixie"\n')
    (tmp_path / "recipes/web/deploy.py").touch()
    (tmp_path / "baker.toml").write_text('[nightly]\npromote = ["dev"]\ngate = "staging"\n')
    monkeypatch.chdir(tmp_path)
    with Catalog.open(f"sqlite:///{tmp_path}/home/catalog.db", actor="ann") as catalog:
        make_image(catalog)
        for channel in ("dev", "staging"):
            environ = {"BAKER_HOME": f"{tmp_path}/home", "BAKER_CATALOG": "", "CI": ""}
            done = CliRunner().invoke(make_app(), [*command, channel], env=environ)
            assert isinstance(done.exception, UsageError), done.output
            assert str(done.exception) == f"{channel} is a channel of baker.toml: it is no preview's"
        assert catalog.channels() == []


def test_expired_channel_means_nothing_and_can_be_begun_again(catalog):
    make_image(catalog)
    promote(catalog, 1)
    end(catalog)
    with pytest.raises(BadReference, match=r"web:pr-1 expired on .*; it held web:1"):
        catalog.resolve(Reference.parse("web:pr-1"))
    assert catalog.image("web", 1).channels == ("latest",)
    with pytest.raises(CatalogError, match=r"web:pr-1 expired on"):
        promote(catalog, 1, expires=None)
    promote(catalog, 1)
    assert catalog.resolve(Reference.parse("web:pr-1")).version == 1


def test_clock_of_this_host_has_no_say_in_when_a_channel_expires(catalog_url, catalog):
    make_image(catalog)
    promote(catalog, 1)
    far = catalog._clock() + timedelta(days=400)
    with Catalog.open(catalog_url, actor="ann", clock=lambda: far) as ahead:
        assert collect_expired(ahead, {}) == []
        assert ahead.resolve(Reference.parse("web:pr-1")).version == 1


# --- collecting ---------------------------------------------------------------------------------------------


def test_expired_channel_is_collected_and_its_history_says_so(catalog_url, catalog):
    for _ in range(3):
        make_image(catalog)
    promote(catalog, 1)
    promote(catalog, 2)
    promote(catalog, 3, "pr-2")
    promote(catalog, 3, "dev", expires=None)
    end(catalog)
    with Catalog.open(catalog_url, actor="nightly") as night:
        assert [one.channel.move.name for one in collect_expired(night, {}, dry_run=True)] == ["web:pr-1"]
        assert catalog.channel("web", "pr-1") is not None
        assert [one.why_not for one in collect_expired(night, {})] == [None]
        assert collect_expired(night, {}) == []
    assert catalog.channel("web", "pr-1") is None
    last = catalog.channel_history("web", "pr-1")[0]
    assert (last.expired, last.actor, last.reason, last.held_before) == (
        True,
        "nightly",
        "it expired",
        "web:2",
    )
    assert [channel.name for channel in catalog.channels()] == ["web:dev", "web:pr-2"]
    with pytest.raises(BadReference, match="web has no channel pr-1"):
        catalog.resolve(Reference.parse("web:pr-1"))


def test_channel_of_the_same_name_goes_on_with_the_history_but_not_back_before_its_end(catalog):
    for _ in range(3):
        make_image(catalog)
    promote(catalog, 1)
    end(catalog)
    collect_expired(catalog, {})
    assert describe_promotion(catalog, Reference.parse("web:2"), "pr-1", Gate(), expires=60).held is None
    promote(catalog, 2)
    promote(catalog, 3)
    moves = catalog.channel_history("web", "pr-1")
    assert [(move.revision, move.from_version, move.expired) for move in moves] == [
        (4, 2, False),
        (3, None, False),
        (2, 1, True),
        (1, None, False),
    ]
    assert describe_roll_back(catalog, "web", "pr-1", Gate()).image.version == 2
    end(catalog)
    collect_expired(catalog, {})
    with pytest.raises(BadReference, match="web has no channel pr-1"):
        describe_roll_back(catalog, "web", "pr-1", Gate())


def test_channel_that_was_prolonged_or_moved_meanwhile_is_not_collected(catalog):
    for _ in range(2):
        make_image(catalog)
    promote(catalog, 1)
    end(catalog)
    (seen,) = catalog.expired_channels()
    promote(catalog, 1)
    assert catalog.collect_channel(seen) is None
    promote(catalog, 2)
    end(catalog)
    assert catalog.collect_channel(seen) is None
    assert catalog.channel("web", "pr-1") == (2, 2)


def test_move_from_what_was_collected_meanwhile_is_refused(catalog):
    for _ in range(2):
        make_image(catalog)
    promote(catalog, 1)
    end(catalog)
    collect_expired(catalog, {})
    with pytest.raises(ConflictError, match="web has no channel pr-1 any more"):
        catalog.promote("web", 2, "pr-1", expected_revision=1, expires=60)


def test_stay_ends_with_the_channel(catalog):
    make_image(catalog)
    promote(catalog, 1)
    end(catalog)
    collect_expired(catalog, {})
    earlier = update(schema.channel_moves).values(at=catalog._clock() - timedelta(days=2))
    catalog._database.write(lambda connection: connection.execute(earlier))
    assert catalog.stays("web", 1)["pr-1"] == 0


class Follower:
    """A target where others follow channels, which can refuse."""

    def __init__(self, refuses=False):
        self.refuses = refuses
        self.parameters = {}

    def publish_channel(self, recipe, channel, builds):
        self.parameters[recipe, channel] = [build.id for build in builds]
        return ()

    def withdraw_channel(self, recipe, channel, builds):  # noqa: ARG002
        if self.refuses:
            raise CloudError("AccessDenied: ssm:DeleteParameter")
        self.parameters.pop((recipe, channel), None)
        return ()


def test_what_follows_an_expired_channel_is_withdrawn_first_or_the_channel_stays(catalog):
    aws = make_build(target="aws", artifacts=(make_artifact(id="ami-1", target="aws"),))
    make_image(catalog, build=aws, wanted=[AWS])
    provider = Follower(refuses=True)
    (moved,) = move(catalog, make_result("web:1", target="aws"), providers={"aws": provider})
    assert (moved.image, moved.lagging) == ("web:1", ())
    assert provider.parameters == {("web", "pr-1"): [aws.id]}
    end(catalog)
    (stays,) = collect_expired(catalog, {"aws": provider})
    assert "ssm:DeleteParameter" in stays.why_not
    (stays,) = collect_expired(catalog, {})
    assert stays.why_not == "aws is not configured here"
    provider.refuses = False
    assert [one.why_not for one in collect_expired(catalog, {"aws": provider})] == [None]
    assert provider.parameters == {}
    assert catalog.channels() == []


def test_channel_that_cannot_be_collected_keeps_no_other(catalog, monkeypatch):
    make_image(catalog)
    make_image(catalog, "base")
    promote(catalog, 1)
    catalog.promote("base", 1, "pr-1", expected_revision=None, expires=WEEK)
    for recipe in ("base", "web"):
        end(catalog, recipe=recipe)
    find_image = catalog.image

    def refuse_base(recipe, version):
        if recipe == "base":
            raise CatalogError("what base:1 is cannot be read")
        return find_image(recipe, version)

    monkeypatch.setattr(catalog, "image", refuse_base)
    told = {one.channel.move.name: one.why_not for one in collect_expired(catalog, {})}
    assert told == {"base:pr-1": "what base:1 is cannot be read", "web:pr-1": None}


# --- after a bake -------------------------------------------------------------------------------------------


def test_channel_holds_what_a_run_baked_and_where_nothing_changed_the_ordinary_image(catalog):
    make_image(catalog, "base")
    make_image(catalog)
    make_image(catalog, preview="pr-1")
    results = [make_result("web:2"), make_result("base:1", Outcome.UNCHANGED, recipe="base")]
    moved = move(catalog, *results)
    assert [(one.name, one.held, one.image, one.why_not) for one in moved] == [
        ("web:pr-1", None, "web:2", None),
        ("base:pr-1", None, "base:1", None),
    ]
    assert all(one.expires - catalog._clock() > timedelta(days=6) for one in moved)
    again = move(catalog, *results, seconds=3600)
    assert [(one.held, one.image) for one in again] == [("web:2", "web:2"), ("base:1", "base:1")]
    assert all(one.expires - catalog._clock() < timedelta(hours=2) for one in again)
    assert [channel.revision for channel in catalog.channels()] == [1, 1]


def test_recipe_that_failed_for_one_target_stays_where_it_was(catalog):
    for _ in range(2):
        make_image(catalog, preview="pr-1")
    promote(catalog, 1)
    (stays,) = move(catalog, make_result("web:2"), make_result(outcome=Outcome.FAILED, target="aws"))
    assert (stays.image, stays.why_not, stays.failed) == ("web:1", "its bake for aws/amd64 failed", True)
    assert catalog.channel("web", "pr-1") == (1, 1)


def test_version_that_waits_for_another_target_is_not_held_yet_and_nothing_failed(catalog):
    make_image(catalog, preview="pr-1", wanted=BOTH)
    (waits,) = move(catalog, make_result("web:1"))
    assert (waits.image, waits.failed) == (None, False)
    assert "lacks a build for another target" in waits.why_not
    aws = make_image(catalog, build=make_build(target="aws"), wanted=BOTH, preview="pr-1")
    (moved,) = move(catalog, make_result(aws.reference, target="aws"))
    assert moved.image == "web:1"


def test_slower_run_does_not_take_a_channel_back(catalog):
    for _ in range(2):
        make_image(catalog, preview="pr-1")
    move(catalog, make_result("web:2"))
    (stays,) = move(catalog, make_result("web:1"))
    assert stays.image == "web:2"
    assert "was moved on to web:2" in stays.why_not


def test_run_that_finds_its_channel_expired_begins_it_again(catalog):
    make_image(catalog, preview="pr-1")
    move(catalog, make_result("web:1"))
    end(catalog)
    (moved,) = move(catalog, make_result("web:1", Outcome.UNCHANGED))
    assert (moved.image, moved.why_not) == ("web:1", None)
    assert catalog.resolve(Reference.parse("web:pr-1")).version == 1


# --- planning and baking ------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path):
    require_root()
    return tmp_path / "home"


@pytest.fixture
def provider(home):
    return make_store(home)


@pytest.fixture
def kitchen(tmp_path, provider, home):
    """Its catalog holds base:1 and, upon it, web:1 that was baked for pr-1 from what the recipe is now."""
    project = tmp_path / "project"
    for name, source in (("base", "debian:trixie"), ("web", "base")):
        (project / "recipes" / name).mkdir(parents=True)
        (project / "recipes" / name / "recipe.toml").write_text(f'from = "{source}"\n')
        (project / "recipes" / name / "deploy.py").touch()
    (project / "baker.toml").touch()
    with Catalog.open(f"sqlite:///{tmp_path}/catalog.db", actor="ann") as catalog:
        opened = Kitchen(
            catalog=catalog,
            providers={"local": provider},
            settings=load_settings(project, {"BAKER_HOME": str(home)}),
            environ={},
            show=lambda _: None,
            interruption=Interruption(),
        )
        base = store_image(catalog, provider, "base").builds[0]
        recipe = load_recipes(project)["web"]
        source = opened.knowledge.resolve(recipe, "local", provider.arch, base)
        inputs = opened.knowledge.static_inputs(recipe, "local", provider.arch, source)
        made = make_provenance(inputs=inputs, parent_build=base.id)
        known = {"provenance": made, "fingerprint": fingerprint(inputs), "image_tests": {}}
        store_image(catalog, provider, upon="base:1", preview="pr-1", **known)
        yield opened


def plan(kitchen):
    (entry,) = plan_bakes(load_recipes(kitchen.settings.project), kitchen, selected=["web"])
    return entry


def bake(kitchen):
    recipes = load_recipes(kitchen.settings.project)
    (result,) = execute_plan(recipes, [plan(kitchen)], kitchen)
    return result


def test_merged_preview_is_issued_again_and_the_preview_stays_what_it_is(kitchen):
    preview = replace(kitchen, preview="pr-1")
    assert (plan(preview).action, bake(preview).image) == ("skip", "web:1")
    assert [reason.kind for reason in plan(kitchen).reasons] == ["reissue"]
    result = bake(kitchen)
    assert (result.outcome, result.image, "configure" in result.stages) == ("baked", "web:2", False)
    assert find_latest(kitchen.catalog) == 2
    assert kitchen.catalog.image("web", 2).builds == kitchen.catalog.image("web", 1).builds
    assert (plan(kitchen).action, bake(kitchen).image) == ("skip", "web:2")
    assert (plan(preview).action, bake(preview).image) == ("skip", "web:1")


def test_another_preview_issues_the_build_again_for_itself_alone(kitchen):
    other = replace(kitchen, preview="pr-2")
    assert bake(other).image == "web:2"
    assert kitchen.catalog.image("web", 2).preview == "pr-2"
    assert plan(other).action == "skip"
    with pytest.raises(BadReference, match="has no complete version"):
        find_latest(kitchen.catalog)


def test_children_are_planned_upon_their_parents_image_of_the_same_preview(kitchen):
    preview = replace(kitchen, preview="pr-1")
    store_image(kitchen.catalog, kitchen.providers["local"], "base", preview="pr-1")
    assert [reason.kind for reason in plan(preview).reasons] == ["source-moved"]
    assert plan(replace(kitchen, preview="pr-2")).reasons[0].kind == "reissue"
    assert plan(kitchen).reasons[0].kind == "reissue"


def test_bake_that_the_catalog_fails_stops_no_other(kitchen, monkeypatch):
    folder = kitchen.settings.project / "recipes/alone"
    folder.mkdir()
    (folder / "recipe.toml").write_text('from = "debian:trixie"\n')
    (folder / "deploy.py").touch()
    recipes = load_recipes(kitchen.settings.project)
    entries = plan_bakes(recipes, kitchen, selected=["alone", "web"])

    def refuse_alone(_recipes, entry, _kitchen):
        if entry.recipe == "alone":
            raise CatalogError("the catalog is locked", hint="Try it again.")
        return entry

    monkeypatch.setattr("baker.execution.replan", refuse_alone)
    alone, web = execute_plan(recipes, entries, kitchen)
    assert (alone.outcome, alone.error) == (Outcome.FAILED, "the catalog is locked\nTry it again.")
    assert (web.outcome, web.image) == (Outcome.BAKED, "web:2")


# --- pruning ------------------------------------------------------------------------------------------------


def prune(catalog, provider, home):
    providers = {"local": provider}
    plan = plan_prune(catalog, providers, home, Retention())
    return delete_images(catalog, providers, home, plan.doomed, Retention(), by_rules=True)


def test_image_goes_when_its_channel_is_over_whatever_retention_says(catalog, provider, home):
    store_image(catalog, provider)
    preview = store_image(catalog, provider, preview="pr-1")
    promote(catalog, 2)
    assert prune(catalog, provider, home).deleted == ()
    end(catalog)
    plan = plan_prune(catalog, {"local": provider}, home, Retention())
    assert list(plan.doomed) == [("web", 2)]
    collect_expired(catalog, {})
    assert prune(catalog, provider, home).deleted == ("web:2",)
    assert not provider.holds(preview.builds[0].artifacts[0])
    assert provider.holds(catalog.image("web", 1).builds[0].artifacts[0])


def test_image_of_an_expired_channel_stays_until_who_follows_it_is_told(catalog, provider, home):
    """Its builds say where that is."""
    store_image(catalog, provider, preview="pr-1")
    promote(catalog, 1)
    end(catalog)
    held = catalog.image("web", 1)
    with pytest.raises(ConflictError, match="channel pr-1 has expired and is not taken away yet"):
        require_unneeded(catalog, {"local": provider}, home, Retention(), held)
    assert prune(catalog, provider, home).deleted == ()
    assert catalog.image("web", 1).builds == held.builds
    collect_expired(catalog, {})
    assert prune(catalog, provider, home).deleted == ("web:1",)


def test_what_a_channel_held_before_goes_with_the_next_move(catalog, provider, home):
    for _ in range(2):
        store_image(catalog, provider, preview="pr-1")
        promote(catalog, len(catalog.images("web")))
    assert prune(catalog, provider, home).deleted == ("web:1",)


def test_image_is_not_pruned_between_its_bake_and_the_move_of_its_channel(catalog, provider, home):
    store_image(catalog, provider, preview="pr-1")
    promote(catalog, 1)
    store_image(catalog, provider, preview="pr-1")
    assert prune(catalog, provider, home).deleted == ()
    promote(catalog, 2)
    assert prune(catalog, provider, home).deleted == ("web:1",)


def test_preview_that_somebody_needs_stays(catalog, provider, home):
    store_image(catalog, provider, "base", preview="pr-1")
    base = catalog.image("base", 1)
    catalog.promote("base", 1, "pr-1", expected_revision=None, expires=WEEK)
    end(catalog, recipe="base")
    lease = catalog.add_lease("base", 1, owner="review-app")
    assert prune(catalog, provider, home).deleted == ()
    catalog.release_lease(lease.id)
    catalog.make_available("base", 1, {base.builds[0].id: base.builds[0].artifacts})
    (kept,) = prune(catalog, provider, home).skipped
    assert kept == ("base:1", "channel pr-1 has expired and is not taken away yet")
    collect_expired(catalog, {})
    assert prune(catalog, provider, home).deleted == ("base:1",)


def test_build_that_was_issued_again_outlives_its_preview(catalog, provider, home):
    build = store_image(catalog, provider, preview="pr-1").builds[0]
    promote(catalog, 1)
    wanted = [("local", provider.arch)]
    catalog.register(recipe="web", build=None, layers=(), packages=(), carry=[build.id], wanted=wanted)
    catalog.make_available("web", 2, {build.id: build.artifacts})
    end(catalog)
    collect_expired(catalog, {})
    assert prune(catalog, provider, home).deleted == ("web:1",)
    assert provider.holds(build.artifacts[0])
    assert find_latest(catalog) == 2


# --- moving a catalog ---------------------------------------------------------------------------------------


def test_export_keeps_previews_and_when_their_channels_expire(catalog, new_url):
    make_image(catalog, preview="pr-1")
    promote(catalog, 1)
    end(catalog, ago=60)
    collect_expired(catalog, {})
    promote(catalog, 1)
    file = io.BytesIO()
    catalog.export_to(file)
    with Catalog.open(new_url("sqlite"), actor="ann") as copy:
        copy.import_from(file.getvalue().splitlines(keepends=True), name="export")
        assert copy.images() == catalog.images()
        assert copy.image("web", 1).preview_ends == catalog.channel_end("web", "pr-1")
        assert copy.channel_history("web", "pr-1") == catalog.channel_history("web", "pr-1")
