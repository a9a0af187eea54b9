"""What is baked, skipped or blocked, in what order, and why."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from baker.errors import CatalogError, CloudError, SourceError
from baker.fingerprint import fingerprint
from baker.model import AmiSource, Bootstrap, Build, Provenance, Recipe, Reference, TargetSpec
from baker.package_state import PackageUpdate
from baker.plan import Action, follow_channel, followed_parent, make_plan

ARCHS = {"local": ["amd64"]}
NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
BOOTSTRAP = Bootstrap(distribution="debian", suite="trixie")


def make_recipe(name, source=BOOTSTRAP, *, targets=("local",), inputs=()):
    if isinstance(source, str):
        source = Reference.parse(source)
    specs = {target: TargetSpec(target=target, source=source, data={}, settings={}) for target in targets}
    return Recipe(
        name=name, folder=f"/p/recipes/{name}", project="/p", description="", targets=specs, inputs=inputs
    )


def make_build(recipe, inputs, *, digest, day=0, opaque=None, target="local", arch="amd64", tests=None):
    when = NOON + timedelta(days=day)
    provenance = Provenance(
        source="", source_digest="", inputs=inputs, commit=None, dirty=None, actor="", host="", started=when,
        finished=when, tools={}, opaque=opaque,
    )  # fmt: skip
    return Build(
        id=f"{recipe}-{day}", recipe=recipe, target=target, arch=arch, fingerprint=fingerprint(inputs),
        digest=digest, size_bytes=0, provenance=provenance, artifacts=(), created=when, image_tests=tests,
    )  # fmt: skip


@dataclass
class World:
    """A project (``files`` per recipe) and a catalog (``builds``, newest first) held in memory."""

    recipes: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)
    builds: dict = field(default_factory=dict)
    pinned: dict = field(default_factory=dict)
    previews: dict = field(default_factory=dict)
    roots: str = "debian-1"
    broken: dict = field(default_factory=dict)
    tests: dict = field(default_factory=dict)
    waiting: dict = field(default_factory=dict)
    updates: dict = field(default_factory=dict)
    notes: dict = field(default_factory=dict)
    revoked: dict = field(default_factory=dict)
    names: dict = field(default_factory=dict)
    clock: datetime = NOON

    def add(self, *recipes):
        for recipe in recipes:
            self.recipes[recipe.name] = recipe
            self.files[recipe.name] = "v1"
        return self

    def bake(self, *names, opaque=None, digest=None):
        """Record a build of each, as it is now, on every target."""
        for name in names:
            for target, spec in self.recipes[name].targets.items():
                parent = (
                    self.find_build(spec.source, target, "amd64")
                    if isinstance(spec.source, Reference)
                    else None
                )
                builds = self.builds.setdefault((name, target, "amd64"), [])
                build = make_build(
                    name,
                    self.inputs_of(name, parent),
                    digest=digest or f"{name}-{len(builds) + 1}",
                    day=len(builds),
                    opaque=opaque,
                    target=target,
                    tests=self.tests.get(name, {}),
                )
                builds.insert(0, build)
        return self

    def inputs_of(self, name, parent):
        return {"source": parent.digest if parent else self.roots, "recipe:deploy.py": self.files[name]}

    # What planning asks for.

    def usable_builds(self, recipe, target, arch):
        return self.builds.get((recipe, target, arch), [])

    def preview_builds(self, recipe, target, arch):
        return self.previews.get((recipe, target, arch), [])

    def find_build(self, reference, target, arch):
        if followed_parent(reference) is None:
            return self.pinned.get(str(reference))
        return next(iter(self.usable_builds(reference.recipe, target, arch)), None)

    def waiting_version(self, recipe, target, arch):
        return self.waiting.get((recipe, target, arch))

    def explain_no_build(self, reference, target, arch):  # noqa: ARG002
        return "nobody baked it"

    def current_inputs(self, recipe, target, arch, parent, build):
        assert (build.recipe, build.target, build.arch) == (recipe.name, target, arch)
        if recipe.name in self.broken:
            raise self.broken[recipe.name]
        return self.inputs_of(recipe.name, parent)

    def image_tests(self, recipe):
        return self.tests.get(recipe.name, {})

    def package_updates(self, recipe, target, arch, build):  # noqa: ARG002
        return self.updates.get(build.id, ()), self.notes.get(build.id)

    def max_age(self, recipe):
        return recipe.max_age

    def now(self):
        return self.clock

    def explain_revoked(self, recipe, target, arch):  # noqa: ARG002
        return self.revoked.get(recipe)

    def name_build(self, build_id):
        return self.names.get(build_id)


def make_world():
    return World().add(make_recipe("base"), make_recipe("web", "base:latest"), make_recipe("app", "web"))


def find_archs(by_target):
    """The architectures of every recipe, by target."""
    return lambda _recipe, target: by_target.get(target, ())


def tell(world, *selected, force=False, archs=ARCHS):
    """The plan as lines: ``web bake changed: deploy.py changed``."""
    plan = make_plan(world.recipes, world, archs=find_archs(archs), selected=selected or None, force=force)
    return [
        f"{entry.recipe} {entry.action} "
        + "; ".join(f"{reason.kind}: {reason.detail}" for reason in entry.reasons)
        for entry in plan
    ]


def tell_kinds(world, *selected, force=False):
    plan = make_plan(world.recipes, world, archs=find_archs(ARCHS), selected=selected or None, force=force)
    return [
        f"{entry.recipe} {entry.action} {' '.join(reason.kind for reason in entry.reasons)}" for entry in plan
    ]


NEVER = "never-baked: it has no usable build for local/amd64: nobody baked it"
UNCHANGED = "unchanged: nothing that it depends on moved since 2025-06-01 12:00 UTC"


def test_what_was_never_baked_is_baked_parents_first():
    assert tell(make_world()) == [
        f"base bake {NEVER}",
        f"web bake parent-will-be-baked: its parent base will be baked; {NEVER}",
        f"app bake parent-will-be-baked: its parent web will be baked; {NEVER}",
    ]


def test_plan_right_after_bake_is_empty():
    world = make_world().bake("base", "web", "app")
    assert tell(world) == [f"base skip {UNCHANGED}", f"web skip {UNCHANGED}", f"app skip {UNCHANGED}"]


def test_skip_names_the_build_that_is_hit():
    world = make_world().bake("base")
    [entry] = make_plan(world.recipes, world, archs=find_archs(ARCHS), selected=["base"])
    assert entry.build is world.builds["base", "local", "amd64"][0]


def test_changed_recipe_is_baked_with_what_changed_and_its_children_after_it():
    world = make_world().bake("base", "web", "app")
    world.files["web"] = "v2"
    assert tell(world) == [
        f"base skip {UNCHANGED}",
        "web bake changed: deploy.py changed",
        "app bake parent-will-be-baked: its parent web will be baked",
    ]


def test_child_that_changed_too_says_both():
    world = make_world().bake("base", "web", "app")
    world.files.update(base="v2", web="v2")
    assert tell(world, "base", "web") == [
        "base bake changed: deploy.py changed",
        "web bake parent-will-be-baked: its parent base will be baked; changed: deploy.py changed",
    ]


def test_only_what_was_asked_for_is_planned():
    world = make_world().bake("base", "web", "app")
    world.files.update(base="v2", web="v2", app="v2")
    assert tell(world, "app") == ["app bake changed: deploy.py changed"]


def test_parents_without_a_usable_build_are_planned_too_as_far_up_as_needed():
    assert tell_kinds(make_world(), "app") == [
        "base bake never-baked",
        "web bake parent-will-be-baked never-baked",
        "app bake parent-will-be-baked never-baked",
    ]
    assert tell_kinds(make_world().bake("base"), "app") == [
        "web bake never-baked",
        "app bake parent-will-be-baked never-baked",
    ]


def test_stale_parent_that_was_not_asked_for_is_used_as_it_is():
    world = make_world().bake("base", "web")
    world.files["base"] = "v2"
    assert tell(world, "web") == [f"web skip {UNCHANGED}"]


def test_source_that_moved_is_named():
    world = make_world().bake("base", "web").bake("base", digest="base-2")
    world.roots = "debian-2"
    assert tell(world, "base") == ["base bake source-moved: source moved from debian-1 to debian-2"]
    assert tell(world, "web") == ["web bake source-moved: source moved from base-1 to base-2"]


def test_where_the_source_of_a_waiting_child_moves_to_is_not_guessed():
    world = make_world().bake("base", "web").bake("base", digest="base-2")
    world.files["base"] = "v2"
    assert tell_kinds(world, "base", "web") == ["base bake changed", "web bake parent-will-be-baked"]


def test_parent_is_planned_only_on_the_target_where_it_is_missing():
    targets = ("local", "aws")
    world = World().add(make_recipe("base", targets=targets), make_recipe("web", "base", targets=targets))
    world.bake("base", "web")
    del world.builds["base", "aws", "amd64"]
    plan = make_plan(world.recipes, world, archs=find_archs({**ARCHS, "aws": ["amd64"]}), selected=["web"])
    assert [(entry.recipe, entry.target) for entry in plan] == [
        ("base", "aws"),
        ("web", "local"),
        ("web", "aws"),
    ]


def test_rebaked_parent_that_came_out_the_same_leaves_the_child_alone():
    world = make_world().bake("base", "web", "app").bake("base", digest="base-1")
    assert tell_kinds(world, "web", "app") == ["web skip unchanged", "app skip unchanged"]


def test_force_bakes_what_was_asked_for_and_nothing_more():
    world = make_world().bake("base", "web", "app")
    assert tell(world, "web", force=True) == ["web bake forced: a bake was asked for whatever is known"]
    assert tell_kinds(world, force=True) == [
        "base bake forced",
        "web bake forced parent-will-be-baked",
        "app bake forced parent-will-be-baked",
    ]


def test_parent_pulled_in_by_a_forced_child_is_not_forced():
    assert tell_kinds(make_world(), "web", force=True) == [
        "base bake never-baked",
        "web bake forced parent-will-be-baked never-baked",
    ]


def test_earlier_inputs_reissue_the_earlier_build_and_children_start_from_it():
    world = make_world().bake("base", "web")
    world.files["base"] = "v2"
    world.bake("base", "web")
    world.files["base"] = "v1"
    base, web = make_plan(world.recipes, world, archs=find_archs(ARCHS), selected=["base", "web"])
    assert base.action is Action.BAKE
    assert base.build is world.builds["base", "local", "amd64"][1]
    assert [reason.kind for reason in base.reasons] == ["reissue", "changed"]
    assert base.reasons[0].detail == (
        "its inputs are again those of the build of 2025-06-01 12:00 UTC: issued anew, not baked"
    )
    assert (web.action, web.build) == (Action.BAKE, world.builds["web", "local", "amd64"][1])
    assert [reason.kind for reason in web.reasons] == ["reissue", "source-moved"]


def test_newest_of_several_equal_builds_is_hit():
    world = make_world().bake("base").bake("base", digest="base-1")
    [entry] = make_plan(world.recipes, world, archs=find_archs(ARCHS), selected=["base"])
    assert (entry.action, entry.build) == (Action.SKIP, world.builds["base", "local", "amd64"][0])


def test_opaque_recipe_is_never_skipped():
    world = World().add(make_recipe("base")).bake("base", opaque="it started git")
    detail = "what it depends on cannot be told: it started git (declare its inputs to let it be skipped)"
    assert tell(world) == [f"base bake opaque: {detail}"]


def test_opaque_recipe_that_declares_its_inputs_is_skipped():
    world = World().add(make_recipe("base", inputs=("vendor/*",))).bake("base", opaque="it started git")
    assert tell_kinds(world) == ["base skip unchanged"]


def test_opaque_recipe_that_changed_says_what_changed():
    world = World().add(make_recipe("base")).bake("base", opaque="it started git")
    world.files["base"] = "v2"
    assert tell(world) == ["base bake changed: deploy.py changed"]


def test_source_that_cannot_be_resolved_blocks_with_its_descendants_only():
    world = make_world().add(make_recipe("other")).bake("base", "web", "app", "other")
    world.broken["web"] = SourceError("the archive does not answer")
    assert tell(world) == [
        f"base skip {UNCHANGED}",
        f"other skip {UNCHANGED}",
        "web blocked blocked: the archive does not answer",
        "app blocked blocked: its parent web is blocked",
    ]


def test_broken_catalog_is_no_reason_but_a_failure():
    world = make_world().bake("base")
    world.broken["base"] = CatalogError("database is locked")
    with pytest.raises(CatalogError):
        tell(world)


@pytest.mark.parametrize("pin", ["base:3", "base:prod", "base@sha256:abcd"])
def test_pinned_recipe_does_not_follow_its_parent(pin):
    world = World().add(make_recipe("base"), make_recipe("web", pin))
    world.pinned[pin] = make_build("base", {}, digest="pinned")
    world.bake("base", "web")
    world.files["base"] = "v2"
    assert tell_kinds(world) == ["base bake changed", "web skip unchanged"]
    del world.builds["base", "local", "amd64"]
    assert tell_kinds(world, "web") == ["web skip unchanged"], "its parent's newest build is not needed"


def test_pin_that_names_nothing_usable_blocks():
    world = World().add(make_recipe("base"), make_recipe("web", "base:prod"))
    assert tell(world, "web") == [
        "web blocked blocked: it starts from base:prod, which names no usable local/amd64 image: "
        "nobody baked it"
    ]


def test_fingerprint_that_is_made_up_differently_now_is_a_reason_of_its_own():
    world = make_world().bake("base")
    builds = world.builds["base", "local", "amd64"]
    builds[0] = replace(builds[0], fingerprint="sha256:of-an-older-release")
    assert tell(world, "base") == ["base bake changed: its fingerprint is made up in another way now"]


def test_every_target_and_architecture_has_an_entry_of_its_own():
    world = World().add(make_recipe("base", targets=("local", "aws"))).bake("base")
    world.builds.pop(("base", "aws", "amd64"))
    plan = make_plan(world.recipes, world, archs=find_archs({"local": ["amd64"], "aws": ["amd64", "arm64"]}))
    assert [(entry.target, entry.arch, entry.action) for entry in plan] == [
        ("local", "amd64", "skip"),
        ("aws", "amd64", "bake"),
        ("aws", "arm64", "bake"),
    ]


def test_architectures_are_those_of_the_recipe_on_its_target():
    world = World().add(make_recipe("base", targets=("local", "aws")), make_recipe("tool", targets=("aws",)))
    archs = {("base", "local"): ["x86_64"], ("base", "aws"): ["x86_64", "arm64"], ("tool", "aws"): ["arm64"]}
    plan = make_plan(world.recipes, world, archs=lambda recipe, target: archs[recipe.name, target])
    assert [(entry.recipe, entry.target, entry.arch) for entry in plan] == [
        ("base", "local", "x86_64"),
        ("base", "aws", "x86_64"),
        ("base", "aws", "arm64"),
        ("tool", "aws", "arm64"),
    ]


def test_build_that_is_current_goes_into_the_version_that_lacks_one():
    world = make_world().bake("base", "web")
    world.waiting["web", "local", "amd64"] = "web:2"
    [entry] = make_plan(world.recipes, world, archs=find_archs(ARCHS), selected=["web"])
    assert (entry.action, entry.build) == ("bake", world.builds["web", "local", "amd64"][0])
    assert [(reason.kind, reason.detail) for reason in entry.reasons] == [
        ("incomplete", "its build of 2025-06-01 12:00 UTC goes into web:2, which lacks one")
    ]
    world.files["web"] = "v2"
    [entry] = make_plan(world.recipes, world, archs=find_archs(ARCHS), selected=["web"])
    assert (entry.action, entry.build) == ("bake", None), "one that is not is baked anew"


def test_provider_that_does_not_answer_blocks_its_own_target_alone():
    class Refused(World):
        def usable_builds(self, recipe, target, arch):
            if target == "aws" and self.refuses:
                raise CloudError("the credentials are expired")
            return super().usable_builds(recipe, target, arch)

    targets = ("local", "aws")
    world = Refused().add(make_recipe("base", targets=targets), make_recipe("web", "base", targets=targets))
    world.refuses = False
    world.bake("base", "web")
    world.refuses = True
    archs = find_archs({**ARCHS, "aws": ["amd64"]})
    plan = make_plan(world.recipes, world, archs=archs, selected=["web"])
    assert [(entry.recipe, entry.target, entry.action) for entry in plan] == [
        ("web", "local", "skip"),
        ("web", "aws", "blocked"),
    ]
    assert plan[1].reasons[0].detail == "the credentials are expired"


def test_target_that_nobody_can_bake_here_is_left_out():
    world = World().add(make_recipe("base", targets=("local", "aws")))
    plan = make_plan(world.recipes, world, archs=find_archs(ARCHS))
    assert [entry.target for entry in plan] == ["local"]


def test_child_on_a_target_waits_for_its_parent_on_that_target_only():
    targets = ("local", "aws")
    world = World().add(make_recipe("base", targets=targets), make_recipe("web", "base", targets=targets))
    world.bake("base", "web")
    del world.builds["base", "aws", "amd64"]
    plan = make_plan(world.recipes, world, archs=find_archs({**ARCHS, "aws": ["amd64"]}))
    assert [(entry.recipe, entry.target, entry.action) for entry in plan] == [
        ("base", "local", "skip"),
        ("base", "aws", "bake"),
        ("web", "local", "skip"),
        ("web", "aws", "bake"),
    ]


def test_order_is_stable_parents_first_then_by_name():
    names = {"z": BOOTSTRAP, "a": "z", "m": "z", "b": "m", "c": BOOTSTRAP}
    world = World().add(*(make_recipe(name, source) for name, source in names.items()))
    assert [line.split()[0] for line in tell(world)] == ["c", "z", "a", "m", "b"]


@pytest.mark.parametrize(
    ("source", "parent"),
    [
        (Reference.parse("base"), "base"),
        (Reference.parse("base:latest"), "base"),
        (Reference.parse("base:dev"), None),
        (Reference.parse("base:1"), None),
        (BOOTSTRAP, None),
        (AmiSource(query={"owner": "1"}), None),
    ],
)
def test_only_the_newest_image_of_a_recipe_is_followed(source, parent):
    assert followed_parent(source) == parent


# --- image tests -------------------------------------------------------------------------------------


def make_tested_world(**tests):
    world = make_world()
    world.tests["web"] = {f"test:{name}.py": value for name, value in tests.items()}
    return world.bake("base", "web", "app")


def test_changed_image_tests_verify_the_newest_build_and_bake_nothing():
    world = make_tested_world(test_image="v1", test_old="v1")
    world.tests["web"] = {"test:test_image.py": "v2", "test:conftest.py": "v1"}
    changes = "conftest.py was added, test_image.py changed, test_old.py was removed"
    assert tell(world) == [
        f"base skip {UNCHANGED}",
        f"web verify image-tests-changed: image tests changed ({changes})",
        f"app skip {UNCHANGED}",
    ]
    (entry,) = make_plan(world.recipes, world, archs=find_archs(ARCHS), selected=["web"])
    assert entry.build is world.builds["web", "local", "amd64"][0]
    assert entry.verifies


def test_changed_recipe_is_baked_and_its_tests_are_not_mentioned():
    world = make_tested_world(test_image="v1")
    world.tests["web"] = {"test:test_image.py": "v2"}
    world.files["web"] = "v2"
    assert tell_kinds(world, "web") == ["web bake changed"]


def test_forced_bake_is_not_a_verification():
    world = make_tested_world(test_image="v1")
    world.tests["web"] = {"test:test_image.py": "v2"}
    assert tell_kinds(world, "web", force=True) == ["web bake forced"]


def test_build_that_is_issued_anew_is_verified_if_its_tests_changed():
    world = make_tested_world(test_image="v1")
    world.files["web"] = "v2"
    world.bake("web")
    world.files["web"] = "v1"
    assert tell_kinds(world, "web") == ["web bake reissue changed"]
    world.tests["web"] = {"test:test_image.py": "v2"}
    assert tell_kinds(world, "web") == ["web bake reissue image-tests-changed changed"]


def move_to_previews(world, *names):
    """As if what was baked of them was baked for a preview that is not planned for."""
    for name in names:
        world.previews[name, "local", "amd64"] = world.builds.pop((name, "local", "amd64"))


def test_build_of_a_preview_is_issued_again_and_children_start_from_it():
    world = make_world().bake("base", "web", "app")
    move_to_previews(world, "base", "web")
    [base, web, app] = make_plan(world.recipes, world, archs=find_archs(ARCHS))
    for entry in (base, web):
        assert [reason.kind for reason in entry.reasons] == ["reissue"]
        assert "those of a preview's build" in entry.reasons[0].detail
        assert entry.build is world.previews[entry.recipe, "local", "amd64"][0]
    assert app.action == "skip"


def test_build_of_a_preview_that_does_not_fit_says_nothing_about_why_a_recipe_is_baked():
    world = make_world().bake("base")
    move_to_previews(world, "base")
    world.files["base"] = "v2"
    assert tell(world, "base") == [f"base bake {NEVER}"]
    world.bake("base")
    world.files["base"] = "v3"
    assert tell(world, "base") == ["base bake changed: deploy.py changed"]
    world.files["base"] = "v1"
    assert tell_kinds(world, "base") == ["base bake reissue changed"]


def test_previews_are_not_asked_for_where_nothing_is_to_be_done():
    class Incurious(World):
        def preview_builds(self, recipe, target, arch):
            raise AssertionError((recipe, target, arch))

    world = Incurious().add(make_recipe("base")).bake("base")
    assert tell(world) == [f"base skip {UNCHANGED}"]


@pytest.mark.parametrize("tests", [{}, {"test:test_image.py": "v1"}], ids=["none", "one"])
def test_build_of_an_older_baker_is_verified_if_there_are_tests(tests):
    world = make_tested_world()
    builds = world.builds["web", "local", "amd64"]
    builds[0] = replace(builds[0], image_tests=None)
    world.tests["web"] = tests
    unknown = "web verify image-tests-changed: it is not known which image tests it passed"
    assert tell(world, "web") == ([unknown] if tests else [f"web skip {UNCHANGED}"])


# --- a build that fits all the same, and is baked again ---------------------------------------------------


def make_update(name, installed="1.0", candidate="1.1", *, security=False):
    return PackageUpdate(name=name, arch="amd64", installed=installed, candidate=candidate, security=security)


def test_outdated_packages_are_a_reason_for_the_recipe_that_has_them_and_its_children():
    world = make_world().bake("base", "web", "app")
    world.updates["web-0"] = [make_update("nginx"), make_update("openssl", security=True)]
    told = "packages-outdated: 2 packages outdated: openssl 1.0 -> 1.1 (security), nginx 1.0 -> 1.1"
    assert tell(world) == [
        f"base skip {UNCHANGED}",
        f"web bake {told}",
        "app bake parent-will-be-baked: its parent web will be baked",
    ]
    entry = make_plan(world.recipes, world, archs=find_archs(ARCHS))[1]
    assert (len(entry.updates), entry.build) == (2, None)


def test_many_outdated_packages_are_counted_after_the_first_ones():
    world = World().add(make_recipe("base")).bake("base")
    world.updates["base-0"] = [make_update(f"lib{n}") for n in range(8)] + [make_update("new", None)]
    detail = tell(world)[0]
    assert "9 packages outdated: lib0 1.0 -> 1.1" in detail
    assert detail.endswith(", 4 more")


def test_earlier_build_with_outdated_packages_is_not_issued_again():
    world = World().add(make_recipe("base")).bake("base")
    world.files["base"] = "v2"
    world.bake("base")
    world.files["base"] = "v1"
    assert tell_kinds(world) == ["base bake reissue changed"]
    world.updates["base-0"] = [make_update("openssl")]
    assert tell_kinds(world) == ["base bake changed"]


def test_outdated_build_is_not_replaced_by_an_older_one_with_the_same_inputs():
    world = World().add(make_recipe("base")).bake("base").bake("base")
    world.updates["base-1"] = [make_update("openssl", security=True)]
    assert tell_kinds(world) == ["base bake packages-outdated"]


def test_earlier_build_of_which_updates_cannot_be_told_is_not_issued_again():
    world = World().add(make_recipe("base")).bake("base")
    world.files["base"] = "v2"
    world.bake("base")
    world.files["base"] = "v1"
    world.notes["base-0"] = "cannot be told"
    assert tell_kinds(world) == ["base bake changed"]
    world.notes["base-1"] = "cannot be told"
    assert tell_kinds(world) == ["base bake reissue changed"], "nothing can be told on this host"


def test_build_older_than_it_may_be_is_baked_again():
    world = World().add(replace(make_recipe("base"), max_age="2d")).bake("base")
    world.clock = NOON + timedelta(days=2)
    assert tell_kinds(world) == ["base skip unchanged"]
    world.clock += timedelta(seconds=1)
    assert tell(world) == [
        "base bake too-old: its build of 2025-06-01 12:00 UTC is older than 2d",
    ]


def test_revoked_image_is_named_where_no_build_is_left_or_fits():
    world = make_world()
    world.revoked["base"] = "base:1 was revoked: CVE-2025-1"
    assert tell(world, "base") == ["base bake revoked: base:1 was revoked: CVE-2025-1"]
    world.bake("base")
    assert tell(world, "base") == [f"base skip {UNCHANGED}"]
    world.files["base"] = "v2"
    assert tell_kinds(world, "base") == ["base bake changed revoked"]


def test_move_of_the_source_is_told_by_the_images_names():
    world = make_world().bake("base", "web", "app")
    web = world.builds["web", "local", "amd64"][0]
    known = replace(web, provenance=replace(web.provenance, parent_build="base-0"))
    world.builds["web", "local", "amd64"] = [known]
    world.files["base"] = "v2"
    world.bake("base")
    world.names.update({"base-0": "base:1", "base-1": "base:2"})
    assert tell(world, "web") == ["web bake source-moved: its source moved from base:1 to base:2"]


def test_gate_lets_children_start_from_what_the_channel_of_their_parent_holds():
    world = make_world().bake("base", "web", "app")
    world.files["base"] = "v2"
    world.recipes = follow_channel(world.recipes, "dev")
    world.pinned["base:dev"] = world.builds["base", "local", "amd64"][0]
    told = tell(world)
    assert told[0].startswith("base bake changed")
    assert told[1] == f"web skip {UNCHANGED}", "its parent's new image is not promoted yet"
    assert told[2] == (
        "app blocked blocked: it starts from web:dev, "
        "which names no usable local/amd64 image: nobody baked it"
    )
