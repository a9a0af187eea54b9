"""What is built upon what, drawn as text and as mermaid."""

from baker.graph import draw_mermaid, draw_tree
from baker.model import AmiSource, Bootstrap, Recipe, Reference, TargetSpec
from baker.plan import Action, PlanEntry


def make_recipe(name, **sources):
    targets = {
        target: TargetSpec(target=target, source=source, data={}, settings={})
        for target, source in sources.items()
    }
    return Recipe(name=name, folder="/p", project="/", description="", targets=targets)


def make_entry(recipe, action, target="local", arch="x86_64"):
    return PlanEntry(recipe=recipe, target=target, arch=arch, action=action, reasons=())


def make_recipes():
    trixie = Bootstrap(distribution="debian", suite="trixie")
    ami = AmiSource(query={"owner": "136693071363", "name": "debian-13-*"})
    base = Reference(recipe="base")
    return {
        "api": make_recipe("api", local=Reference(recipe="base", version=3)),
        "app": make_recipe("app", local=Reference(recipe="web")),
        "base": make_recipe("base", local=trixie, aws=ami),
        "web": make_recipe("web", local=base, aws=base),
    }


PLAN = [
    make_entry("base", Action.SKIP),
    make_entry("base", Action.SKIP, "aws"),
    make_entry("web", Action.BAKE),
    make_entry("web", Action.SKIP, "aws"),
    make_entry("app", Action.BLOCKED),
]


def test_tree_shows_recipes_below_their_sources_with_what_will_be_done():
    assert draw_tree(make_recipes(), PLAN) == [
        "ami(name=debian-13-*, owner=136693071363)",
        "└─ base (aws)                              skip",
        "   ├─ api from base:3",
        "   └─ web                                  bake local/x86_64, skip aws/x86_64",
        "      └─ app                               blocked",
        "debian:trixie",
        "└─ base (local)                            skip",
    ]


def test_mermaid_escapes_what_would_end_a_label_and_marks_what_is_not_skipped():
    drawn = "\n".join(draw_mermaid(make_recipes(), PLAN))
    assert drawn.startswith("flowchart LR\n")
    assert '(["ami#40;name#61;debian-13-*, owner#61;136693071363#41;"])' in drawn
    assert '["web<br>bake local/x86_64, skip aws/x86_64"]' in drawn
    assert "|from base:3|" in drawn
    nodes = {line.split("[")[0].strip("( ") for line in drawn.splitlines() if "[" in line}
    arrows = [line.split() for line in drawn.splitlines() if "-->" in line]
    assert {arrow[0] for arrow in arrows} | {arrow[-1] for arrow in arrows} <= nodes
    assert len(arrows) == 5
