"""What of a running machine is not what its image holds, said so that a person understands it.

Three things are compared: the image's manifest, what the machine was when it was born (booted for the first
time, before it got traffic: ``born``), and what is observed now. What differs from the image is drift
unless it may change by itself (``baker.deploy.allowed``), somebody allowed it, or it was so at birth. A
birth excuses nothing in the places where programs are: no first boot may change those.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from baker.comparing import CAPABILITY, PLACES, UNIT_FOLDER
from baker.deploy.allowed import (
    DEVICES,
    EMPTY,
    MADE_AT_BOOT,
    MEMORY,
    MOUNTS,
    NEVER,
    NOBODY_BUT_THE_IMAGE,
    SHOWN,
    STATE,
    UNIT_FOLDERS,
    Patterns,
)
from baker.deploy.observation import COVERED, DELETED, Observation, Port
from baker.deploy.users import compare_users
from baker.model import FileEntry, Manifest, Package

NOUNS = {"d": "folder", "l": "link", "c": "device", "b": "device", "p": "pipe", "s": "socket"}
ON_THEIR_OWN = ("user", "group", "package", "unit", "port", "mount", "process", "layer")
"""Kinds whose name is no path of a file, or says all."""

EPHEMERAL = 32768
"""UDP ports from here on are clients' for a moment."""

_NEVER = Patterns(NEVER)
_STATE = Patterns(STATE)
_MADE_AT_BOOT = Patterns(MADE_AT_BOOT)
_DEVICES = Patterns(DEVICES)
_MOUNTS = Patterns(MOUNTS)
_IMAGES_OWN = Patterns(NOBODY_BUT_THE_IMAGE)
_UNIT = re.compile(rf"({UNIT_FOLDER}|/run/systemd/(transient|generator[^/]*|system\.[^/]+))/.+")
_PLACES = {kind: (re.compile(pattern), what) for kind, (pattern, what) in PLACES.items()}


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Drift:
    """One thing that is not as it should be. ``kind`` is stable: ``file``, ``link``, ``folder``,
    ``device``, ``permission``, ``owner``, ``attribute``, ``setuid``, ``capability``, ``unit``,
    ``accounts``, ``privileges``, ``login``, ``loader``, ``trust``, ``schedule``, ``package``, ``user``,
    ``group``, ``port``, ``mount``, ``process``, ``layer``. ``name`` is a path or a name, ``detail`` is for
    people."""

    kind: str
    name: str
    detail: str

    @property
    def message(self) -> str:
        """``file /usr/bin/curl: content changed``, ``user mallory added (uid 0)``."""
        if self.kind in ON_THEIR_OWN and (self.kind, self.name[:1]) != ("unit", "/"):
            return f"{self.kind} {self.name} {self.detail}"
        return f"{self.kind if self.kind in NOUNS.values() else 'file'} {self.name}: {self.detail}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What may differ. ``allow`` are patterns of paths (see ``baker.deploy.allowed``), ``ports`` what may
    be listened on, ``born`` what ``born`` made of this very machine (empty: not known), ``first_boot``
    files that the first boot writes (path to sha256), ``users`` those that it may add, ``hostname`` the
    machine's."""

    allow: Collection[str] = ()
    ports: Collection[int] = ()
    born: Mapping[str, Any] = field(default_factory=dict)
    first_boot: Mapping[str, str] = field(default_factory=dict)
    users: Collection[str] = ()
    hostname: str = ""


def born(observation: Observation) -> dict[str, Any]:
    """What a machine was before it got traffic, as the catalog keeps it (JSON)."""
    files = {
        file.path: _summarize(file)
        for file in observation.files
        if (file.digest or file.kind != "f" or not observation.whole)
        and not _IMAGES_OWN.match(file.path)
        and (not _STATE.match(file.path) or _NEVER.match(file.path) or file.kind in "cb")
    }
    return {
        "files": files,
        "mounts": dict(observation.mounts),
        "ports": [[port.protocol, port.port, port.program, port.local] for port in observation.ports],
        "processes": list(observation.processes),
        "texts": dict(observation.texts),
        "units": sorted(observation.units),
    }


def _summarize(file: FileEntry) -> str:
    described = (file.kind, file.mode, file.uid, file.gid, file.size, file.digest, file.link, file.xattrs)
    return hashlib.sha256(repr(described).encode(errors="surrogateescape")).hexdigest()[:32]


def find_drift(manifest: Manifest, observation: Observation, expected: Expected) -> list[Drift]:
    """Everything that is not as it should be, sorted; empty: the machine is unmodified."""
    image = {file.path: file for file in manifest.files}
    found = {
        *_compare_files(image, observation, expected),
        *_find_gone(image, observation, expected),
        *_compare_packages(manifest.packages, observation.packages),
        *_compare_ports(image, observation.ports, expected),
        *_compare_mounts(observation.mounts, expected.born.get("mounts")),
        *_compare_processes(image, observation.processes, expected),
        *_compare_units(image, observation.units, expected),
        *(_damage(path) for path in observation.damaged),
    }
    return sorted(found)


def _damage(path: str) -> Drift:
    return Drift(kind="layer", name=path, detail="of the image is not what its name says")


# --- files ---------------------------------------------------------------------------------------------


def _compare_files(
    image: Mapping[str, FileEntry], observation: Observation, expected: Expected
) -> Iterator[Drift]:
    judge = _Judge(expected)
    for file in {file.path: file for file in observation.files}.values():
        old = image.get(file.path)
        if old == file or (old is not None and old == _known_content(file, old)):
            continue
        if judge.was_born_so(file):
            continue
        yield from _judge_rights(old, file)
        if not judge.may_change(file):
            yield from _judge_file(old, file, observation, expected)


def _known_content(file: FileEntry, old: FileEntry) -> FileEntry | None:
    """The same with the image's content, where nobody read the file's own."""
    if file.digest or file.kind != "f" or file.size != old.size:
        return None
    rest = {
        name: getattr(file, name) for name in ("path", "kind", "mode", "uid", "gid", "size", "link", "xattrs")
    }
    return FileEntry(**rest, digest=old.digest)


class _Judge:
    """Which changes are nobody's fault."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._allow = Patterns(expected.allow)
        self._born: Mapping[str, str] = expected.born.get("files", {})

    def was_born_so(self, file: FileEntry) -> bool:
        return self._born.get(file.path) == _summarize(file) and not _IMAGES_OWN.match(file.path)

    def may_change(self, file: FileEntry) -> bool:
        path = file.path
        if path in self._expected.first_boot:
            return file.digest == self._expected.first_boot[path]
        if self._allow.names(path):
            return True
        if path in EMPTY and (file.kind, file.size) == ("f", 0):
            return True
        if path.startswith("/dev/") and file.kind == "f" and not path.startswith("/dev/shm/"):
            return self._allow.match(path)
        if _NEVER.match(path):
            return self._is_made_at_boot(file)
        return _STATE.match(path) or self._allow.match(path)

    def may_go(self, path: str) -> bool:
        return self._allow.match(path) or (_STATE.match(path) and not _NEVER.match(path))

    def _is_made_at_boot(self, file: FileEntry) -> bool:
        if file.path.startswith("/run/systemd/") and file.kind == "d":
            return True
        if file.kind == "l" and re.match(r"/run/systemd/generator[^/]*/", file.path):
            return file.link.startswith(("../", *UNIT_FOLDERS))
        return _MADE_AT_BOOT.match(file.path)


def _judge_rights(old: FileEntry | None, new: FileEntry) -> Iterator[Drift]:
    """What is drift wherever it lies."""
    if new.kind == "f":
        for bit, word, owner in ((0o4000, "setuid", new.uid), (0o2000, "setgid", new.gid)):
            if new.mode & bit and not (old is not None and old.kind == "f" and old.mode & bit):
                yield Drift(kind="setuid", name=new.path, detail=f"runs as its owner ({word} of {owner})")
    capability = dict(new.xattrs).get(CAPABILITY)
    if capability and (old is None or dict(old.xattrs).get(CAPABILITY) != capability):
        yield Drift(kind="capability", name=new.path, detail="runs with capabilities of the kernel")
    if new.kind in "cb" and old is None and not _DEVICES.match(new.path):
        yield Drift(kind="device", name=new.path, detail=f"added ({new.kind} {new.link})")


def _judge_file(
    old: FileEntry | None, new: FileEntry, observation: Observation, expected: Expected
) -> Iterator[Drift]:
    kind, what = _describe_place(new.path)
    kind = kind or NOUNS.get(new.kind, "file")
    if old is None:
        if new.kind in "cb":
            return
        target = f", to {new.link}" if new.kind == "l" else ""
        if kind == "unit" and new.link == "/dev/null":
            yield Drift(kind="unit", name=new.path, detail="masked")
        else:
            yield Drift(kind=kind, name=new.path, detail=f"added{target}{what}")
        return
    if old.kind != new.kind:
        is_now = f"a {NOUNS.get(new.kind, 'file')}" + (f" to {new.link}" if new.link else "")
        was = NOUNS.get(old.kind, "file")
        yield Drift(
            kind="link" if new.kind == "l" else kind, name=new.path, detail=f"is {is_now}, was a {was}"
        )
        return
    if old.link != new.link:
        yield Drift(kind="link", name=new.path, detail=f"leads to {new.link}, led to {old.link}")
    if old.size != new.size or (new.digest and old.digest != new.digest):
        meaning = _compare_meaning(new.path, observation, expected)
        if meaning is None:
            yield Drift(kind=kind, name=new.path, detail=f"content changed{what}")
        else:
            yield from meaning
    yield from _compare_metadata(old, new)


def _describe_place(path: str) -> tuple[str, str]:
    """Kind and what is decided there, where a path matters more than others."""
    if _UNIT.fullmatch(path):
        return "unit", ""
    for kind, (pattern, what) in _PLACES.items():
        if pattern.fullmatch(path):
            return kind, f" ({what})"
    return "", ""


def _compare_metadata(old: FileEntry, new: FileEntry) -> Iterator[Drift]:
    gained = new.mode & ~old.mode & 0o6000 if new.kind == "f" else 0  # said already
    if old.mode != new.mode & ~gained:
        detail = f"mode {new.mode:04o}, was {old.mode:04o}"
        yield Drift(kind="permission", name=new.path, detail=detail)
    if (old.uid, old.gid) != (new.uid, new.gid):
        detail = f"belongs to {new.uid}:{new.gid}, did to {old.uid}:{old.gid}"
        yield Drift(kind="owner", name=new.path, detail=detail)
    before, after = dict(old.xattrs), dict(new.xattrs)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name) and (name != CAPABILITY or name not in after):
            verb = "added" if name not in before else "removed" if name not in after else "changed"
            kind = "permission" if name.startswith("system.posix_acl") else "attribute"
            what = "access list" if kind == "permission" else f"attribute {name}"
            yield Drift(kind=kind, name=new.path, detail=f"{what} {verb}")


def _compare_meaning(path: str, observation: Observation, expected: Expected) -> list[Drift] | None:
    """What a changed content means, where that can be told; None where only that it changed."""
    now = observation.texts.get(path)
    if now is None:
        return None
    if path == "/etc/hostname" and expected.hostname and now.strip() == expected.hostname:
        return []
    before = expected.born.get("texts", {}).get(path)
    changes = compare_users(path, before, now, expected.users)
    if changes is None:
        return None
    found = [Drift(kind=kind, name=name, detail=detail) for kind, name, detail in changes]
    if before is None:
        found.append(Drift(kind="accounts", name=path, detail="content changed (users and groups)"))
    return found


def _find_gone(
    image: Mapping[str, FileEntry], observation: Observation, expected: Expected
) -> Iterator[Drift]:
    judge, there = _Judge(expected), {file.path for file in observation.files}
    gone = set(observation.gone)
    if not gone and not observation.whole:
        return
    lost = {
        path for path in image if path not in there and (observation.whole or any(_list_folders(path, gone)))
    }
    for path in sorted(lost):
        if path.rpartition("/")[0] not in lost and not judge.may_go(path):
            kind, what = _describe_place(path)
            kind = kind or NOUNS.get(image[path].kind, "file")
            yield Drift(kind=kind, name=path, detail=f"removed{what}")


def _list_folders(path: str, gone: Collection[str]) -> Iterator[str]:
    """The path and the folders that it is in, as far as they are gone."""
    while path:
        if path in gone:
            yield path
        path = path.rpartition("/")[0]


# --- packages, ports, mounts, processes, units --------------------------------------------------------------


def _compare_packages(old: Iterable[Package], new: Iterable[Package]) -> Iterator[Drift]:
    before = {(package.name, package.arch, package.version) for package in old}
    after = {(package.name, package.arch, package.version) for package in new}
    added, removed = after - before, before - after
    for name, arch, version in added:
        was = [other[2] for other in removed if other[:2] == (name, arch)]
        detail = f"is {version}, was {', '.join(sorted(was))}" if was else f"{version} installed"
        yield Drift(kind="package", name=name, detail=detail)
    for name, arch, version in removed:
        if not any(other[:2] == (name, arch) for other in added):
            yield Drift(kind="package", name=name, detail=f"{version} removed")


def _compare_ports(
    image: Mapping[str, FileEntry], ports: Sequence[Port], expected: Expected
) -> Iterator[Drift]:
    known = expected.born.get("ports")
    ran = set(expected.born.get("processes", ()))
    for port in ports:
        name = f"{port.protocol}/{port.port}"
        before = [row for row in known or () if tuple(row[:2]) == (port.protocol, port.port)]
        if port.port in expected.ports:
            continue
        if known is None:  # nobody knows how it was born: at least it is a program of the image
            if port.program not in image:
                yield Drift(kind="port", name=name, detail=f"opened by {port.program or 'nobody known'}")
            continue
        if not before:
            is_clients = port.protocol == "udp" and port.port >= EPHEMERAL and port.program in ran
            if not is_clients:
                yield Drift(kind="port", name=name, detail=f"opened by {port.program or 'nobody known'}")
        elif port.program not in {row[2] for row in before}:
            was = ", ".join(sorted({row[2] for row in before}))
            yield Drift(kind="port", name=name, detail=f"opened by {port.program or 'nobody'}, was by {was}")
        elif not port.local and all(row[3] for row in before):
            yield Drift(kind="port", name=name, detail="open to others, was to the machine alone")


def _compare_mounts(mounts: Mapping[str, str], known: Mapping[str, str] | None) -> Iterator[Drift]:
    for point, what in mounts.items():
        if known is not None and known.get(point) == what:
            continue
        kind, _, source = what.partition(" ")
        if _MOUNTS.match(point) and kind in MEMORY:
            continue
        if known is None and (point in SHOWN or _is_disk(point, source)):
            continue
        over = "" if known is None or point not in known else f", was {known[point]}"
        yield Drift(kind="mount", name=point, detail=f"covers what the image holds there ({what}{over})")
    for point in (known or {}).keys() - mounts.keys():
        if point.startswith("/etc/"):
            yield Drift(kind="mount", name=point, detail="is gone")


def _is_disk(point: str, source: str) -> bool:
    return point in ("/boot", "/boot/efi") and source.startswith("/dev/") and "[" not in source


def _compare_processes(
    image: Mapping[str, FileEntry], processes: Sequence[str], expected: Expected
) -> Iterator[Drift]:
    known = set(expected.born.get("processes", ()))
    for path in processes:
        if path in image or path in known:
            continue
        for mark, detail in (
            (DELETED, "runs, and was deleted"),
            (COVERED, "runs, and is another file there"),
        ):
            if path.endswith(mark):
                yield Drift(kind="process", name=path.removesuffix(mark), detail=detail)
                break
        else:
            yield Drift(kind="process", name=path, detail="runs, and is no file of the image")


def _compare_units(
    image: Mapping[str, FileEntry], units: Mapping[str, str], expected: Expected
) -> Iterator[Drift]:
    known = set(expected.born.get("units", ()))
    for name in units:
        if name in known or name.endswith(".scope"):
            continue
        stem, at, rest = name.partition("@")
        names = {name, f"{stem}@.{rest.rpartition('.')[2]}"} if at else {name}
        if not any(f"{folder}system/{one}" in image for folder in UNIT_FOLDERS for one in names):
            yield Drift(kind="unit", name=name, detail="runs, and is none of the image")
