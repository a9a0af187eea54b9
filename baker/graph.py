"""The recipes of a plan as a drawing: what is built upon what, and what will be done. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from baker.model import Recipe, Reference, Source
from baker.plan import PlanEntry, followed_parent

STYLES = {
    "bake": "fill:#fde68a,stroke:#b45309,color:#000",
    "verify": "fill:#bfdbfe,stroke:#1d4ed8,color:#000",
    "blocked": "fill:#fecaca,stroke:#b91c1c,color:#000",
}
"""How mermaid shows what is not skipped."""

Edges = Mapping[str, Sequence[tuple[str, Source, tuple[str, ...]]]]
"""Per node (a recipe, or a source that is none) what starts from it: recipe, source, and on which targets."""


def draw_tree(recipes: Mapping[str, Recipe], plan: Sequence[PlanEntry]) -> list[str]:
    """The drawing as lines of text; a recipe that starts from several sources is below each of them, and what
    is built upon it below the first."""
    edges = _find_edges(recipes)
    told = _tell_actions(plan)
    lines: list[tuple[str, str]] = []
    drawn: set[str] = set()

    def draw(name: str, label: str, before: str, branch: str) -> None:
        lines.append((f"{before}{branch}{label}", told.get(name, "")))
        below = before + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
        children = () if name in drawn else edges.get(name, ())
        drawn.add(name)
        for number, (child, source, targets) in enumerate(children):
            last = number == len(children) - 1
            draw(child, f"{child}{_mark(recipes[child], source, targets)}", below, "└─ " if last else "├─ ")

    for root in sorted(edges):
        if root not in recipes:
            draw(root, root, "", "")
    width = max((len(line) for line, _ in lines), default=0)
    return [f"{line:<{width}}  {action}".rstrip() for line, action in lines]


def draw_mermaid(recipes: Mapping[str, Recipe], plan: Sequence[PlanEntry]) -> list[str]:
    """The drawing as a mermaid flowchart, which forges render in markdown."""
    edges = _find_edges(recipes)
    told = _tell_actions(plan)
    numbers = {name: f"n{number}" for number, name in enumerate(dict.fromkeys([*edges, *recipes]))}
    lines = ["flowchart LR"]
    for name, node in numbers.items():
        action = f"<br>{told[name]}" if told.get(name) else ""
        shape = f'["{name}{action}"]' if name in recipes else f'(["{_escape(name)}"])'
        lines.append(f"  {node}{shape}")
    for name, children in edges.items():
        for child, source, targets in children:
            label = _mark(recipes[child], source, targets).strip()
            mark = f"|{_escape(label)}|" if label else ""
            lines.append(f"  {numbers[name]} -->{mark} {numbers[child]}")
    for action, style in STYLES.items():
        marked = [numbers[name] for name in told if name in numbers and action in told[name]]
        if marked:
            lines += [f"  classDef {action} {style}", f"  class {','.join(marked)} {action}"]
    return lines


def _find_edges(recipes: Mapping[str, Recipe]) -> Edges:
    edges: defaultdict[str, list[tuple[str, Source, tuple[str, ...]]]] = defaultdict(list)
    for name in sorted(recipes):
        by_source: dict[str, tuple[Source, list[str]]] = {}
        for target, spec in recipes[name].targets.items():
            by_source.setdefault(str(spec.source), (spec.source, []))[1].append(target)
        for source, targets in by_source.values():
            above = source.recipe if isinstance(source, Reference) else str(source)
            edges[above].append((name, source, tuple(targets)))
    return edges


def _mark(recipe: Recipe, source: Source, targets: tuple[str, ...]) -> str:
    """What is to be said of how a recipe starts from a source: not on every target, or from one image."""
    only = f" ({', '.join(targets)})" if len(targets) < len(recipe.targets) else ""
    pinned = isinstance(source, Reference) and followed_parent(source) is None
    return f"{only} from {source}" if pinned else only


def _tell_actions(plan: Sequence[PlanEntry]) -> dict[str, str]:
    """Per recipe what will be done; by target and architecture where that is not the same for all."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for entry in plan:
        found[entry.recipe][f"{entry.target}/{entry.arch}"] = str(entry.action)
    return {
        recipe: next(iter(actions.values()))
        if len(set(actions.values())) == 1
        else ", ".join(f"{action} {place}" for place, action in actions.items())
        for recipe, actions in found.items()
    }


def _escape(text: str) -> str:
    """What would end a label in mermaid is written as its code."""
    return "".join(c if c.isalnum() or c in " .,:_/@*-" else f"#{ord(c)};" for c in text)
