"""What a deployment would change, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from baker.errors import BakerError

if TYPE_CHECKING:
    from baker.deploy.deployer import Deployer
    from baker.deploy.proposal import Proposal


def describe_change(deployer: Deployer, proposal: Proposal) -> Iterator[str]:
    """What would be different, in lines."""
    from baker.deploy.deployment import count_machines

    name, image, live = proposal.environment.name, proposal.image, proposal.live
    if live is None:
        yield f"{name}: first deployment, {image.reference} on {count_machines(proposal.size)}"
        return
    yield f"{name}: {live.image} -> {image.reference} on {count_machines(proposal.size)}"
    if live.build != proposal.build.id:
        yield from describe_images(deployer, proposal)
    elif not proposal.unchanged:
        yield "  the same image content"
    yield from (f"  {line}" for line in list_changed_settings(proposal))


def describe_images(deployer: Deployer, proposal: Proposal) -> Iterator[str]:
    """As ``image diff`` says it."""
    from baker.cli.comparing import describe_builds, write_lines

    live = proposal.live
    assert live is not None
    try:
        before = deployer.catalog.image(live.recipe, live.version)
        old = next(build for build in before.builds if build.id == live.build)
        content = deployer.catalog.compare(old.id, proposal.build.id)
    except (BakerError, StopIteration):
        yield f"  what changed from {live.image} is not known any more"
        return
    compared = describe_builds(before, proposal.image, old, proposal.build, content)
    yield from list(write_lines(compared, files=False))[1:]


def list_changed_settings(proposal: Proposal) -> list[str]:
    """What the environment's file says otherwise than what runs was made with."""
    from baker.deploy.deployer import describe_settings

    if proposal.live is None:
        return []
    before = flatten(proposal.live.settings)
    after = flatten(describe_settings(proposal.environment, proposal.side.first_boot))
    lines = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new or key.partition(".")[0] in ("image", "file", "description", "recipe", "name"):
            continue
        if key == "first_boot.text":
            lines.append(f"{after.get('first_boot.template', 'the first boot template')} was edited")
        else:
            lines.append(f"{key.removeprefix('settings.')}: {show_value(old)} -> {show_value(new)}")
    return lines


def flatten(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


def show_value(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value)) or "nothing"
    return f"{value:g}" if isinstance(value, float) else str(value)
