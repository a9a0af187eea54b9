"""What a bake anew would change of an image's packages, by the host's apt."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from baker.errors import CommandFailed
from baker.package_state import (
    EXTENDED_STATES,
    STATUS,
    PackageState,
    PackageUpdate,
    Simulated,
    lift_holds,
    list_installed,
    parse_policy,
    parse_simulation,
    strip_status,
)
from baker.updates.apt import base_options, run_apt

PINNED = 1001
"""Above 1000: apt keeps to that version, whatever is newer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """``names`` are the packages that a bake anew would bring as new as there are. ``settled``: nothing newer
    is there for any of them, so nothing can change before one of them has another version."""

    updates: tuple[PackageUpdate, ...]
    names: frozenset[str]
    settled: bool


def find_updates(state: PackageState, folder: Path) -> Found:
    """``folder`` is that of the indexes. Raises CommandFailed where apt cannot make out what to do."""
    installed = dict(list_installed(state.files[STATUS].decode(errors="replace")))
    names = frozenset(name.partition(":")[0] for name in installed)
    own = names if state.from_archive else state.own & names
    if not (state.from_archive or state.upgrade):
        names = own
    with tempfile.TemporaryDirectory() as name:
        options = _prepare(state, folder, Path(name))

        def simulate(*arguments: str) -> Simulated:
            return parse_simulation(run_apt(["--simulate", *arguments], options))

        newest = simulate("dist-upgrade")
        found = [newest]
        newer: frozenset[str] = frozenset()
        if not state.from_archive and state.upgrade != "dist-upgrade":
            found = [simulate(state.upgrade)] if state.upgrade and newest.changes else []
            newer = frozenset(
                change.name for change in newest.changes if change.installed and change.candidate
            )
        stays = _find_stuck(state, newest, own, options)
        own -= stays
        # What an upgrade leaves as it is comes all the same where nothing older is in its way.
        if outdated := (newer | newest.kept) & own:
            try:
                found.append(simulate("install", "--only-upgrade", "--", *sorted(outdated)))
            except CommandFailed:
                if newer & own:
                    found.append(simulate("install", "--only-upgrade", "--", *sorted(newer & own)))
        # Of what nothing needs then, what nothing needed before either comes again.
        unneeded = frozenset().union(*(each.unneeded for each in found))
        if unneeded:
            unneeded -= {change.name for change in simulate("autoremove").changes}
    updates = _judge(state, found, installed, unneeded, stays)
    settled = not updates and not (newest.kept & (names - stays))
    return Found(updates=updates, names=names, settled=settled)


def _find_stuck(
    state: PackageState, newest: Simulated, own: frozenset[str], options: list[tuple[str, str]]
) -> frozenset[str]:
    """The packages that could have been as new as they could be now when the image was baked."""
    stuck = state.stuck or {}
    candidates = {change.name: change.candidate for change in newest.changes if change.candidate}
    if kept := newest.kept & own & stuck.keys():
        candidates |= parse_policy(run_apt(["policy", "--", *sorted(kept)], options, tool="apt-cache"))
    return frozenset(name for name, seen in stuck.items() if seen == candidates.get(name))


def _judge(
    state: PackageState,
    found: Sequence[Simulated],
    installed: Mapping[str, str],
    unneeded: frozenset[str],
    stays: frozenset[str],
) -> tuple[PackageUpdate, ...]:
    """What of it would come about: not what was so when the image was baked."""
    native = {state.architectures[0], "all"}
    archs = {name: arch for name, _, arch in (each.partition(":") for each in installed) if arch in native}
    changes = {}
    for change in (change for simulated in found for change in simulated.changes):
        if change.name not in stays:
            named = replace(change, arch=change.arch or archs.get(change.name, ""))
            changes[named.name, named.arch] = named
    if not changes:
        return ()
    for name, version in installed.items():
        short, _, arch = name.partition(":")
        gone = (short in unneeded or name in unneeded) and short not in stays
        if gone and (state.from_archive or short in state.own):  # an image of its own never gets it
            changes[short, arch] = PackageUpdate(name=short, arch=arch, installed=version, candidate=None)
    return tuple(sorted(changes.values(), key=lambda change: (change.name, change.arch)))


def _prepare(state: PackageState, folder: Path, scratch: Path) -> list[tuple[str, str]]:
    """Write what apt reads of an image, and say where it is."""
    for name in ("preferences.d", "apt.conf.d"):
        (scratch / name).mkdir()
    status = strip_status(state.files[STATUS].decode(errors="replace"))
    (scratch / "status").write_text(lift_holds(status, None if state.from_archive else state.own))
    (scratch / "extended_states").write_bytes(state.files.get(EXTENDED_STATES, b""))
    pins = [
        f"Package: {name}\nPin: version {version}\nPin-Priority: {PINNED}\n"
        for name, version in sorted(state.pins.items())
    ]
    (scratch / "preferences").write_text("\n".join(pins))
    paths = sorted(path for path in state.files if path.startswith("etc/apt/preferences"))
    for number, path in enumerate(paths):
        (scratch / "preferences.d" / f"{number:03}.pref").write_bytes(state.files[path])
    return [
        *base_options(folder, scratch),
        ("Dir::State::Status", str(scratch / "status")),
        ("Dir::State::Extended_States", str(scratch / "extended_states")),
        ("Dir::Cache::PkgCache", str(scratch / "pkgcache.bin")),
        ("APT::Get::Show-User-Simulation-Note", "false"),
        ("APT::Get::Never-Include-Phased-Updates", "true"),
        ("Debug::NoLocking", "true"),
        *state.options,
        *(() if state.recommends else (("APT::Install-Recommends", "false"),)),
    ]
