"""What a change in the files of users and groups means."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple


class Change(NamedTuple):
    kind: str
    name: str
    detail: str


def compare_users(path: str, before: str | None, now: str, expected: Collection[str]) -> list[Change] | None:
    """What differs from ``before`` in ``/etc/passwd``, ``/etc/group`` or ``/etc/shadow``; None for other
    files.

    Users and groups that are ``expected`` may have been added. Without a ``before``, what is wrong whatever
    there was: a second user with uid 0, or one without a password.
    """
    compare = {"/etc/passwd": _compare_passwd, "/etc/group": _compare_group, "/etc/shadow": _compare_shadow}
    if path not in compare:
        return None
    old = None if before is None else _read(before)
    return sorted(change for change in compare[path](old, _read(now)) if change.name not in expected)


def _read(text: str) -> dict[str, list[str]]:
    """Lines by name, the first one of a name counts; fields that are missing are empty."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, *fields = line.split(":")
        if name:
            found.setdefault(name, [*fields, *[""] * (8 - len(fields))])
    return found


Lines = dict[str, list[str]]


def _compare_passwd(old: Lines | None, new: Lines) -> Iterator[Change]:
    for name, (_, uid, gid, _, home, shell, *_) in new.items():
        was = (old or {}).get(name)
        if old is None:
            if uid.strip("0") == "" and name != "root":
                yield Change("user", name, "has all rights (uid 0)")
        elif was is None:
            yield Change("user", name, f"added (uid {uid})")
        else:
            for what, before, now in (
                ("uid", was[1], uid),
                ("group", was[2], gid),
                ("home", was[4], home),
                ("shell", was[5], shell),
            ):
                if before != now:
                    yield Change("user", name, f"has {what} {now}, had {before}")
    yield from (Change("user", name, "removed") for name in (old or {}).keys() - new.keys())


def _compare_group(old: Lines | None, new: Lines) -> Iterator[Change]:
    if old is None:
        return
    for name, (_, gid, members, *_) in new.items():
        if name not in old:
            yield Change("group", name, f"added (gid {gid})")
            continue
        if old[name][1] != gid:
            yield Change("group", name, f"has gid {gid}, had {old[name][1]}")
        before, now = ({one for one in text.split(",") if one} for text in (old[name][2], members))
        yield from (Change("group", name, f"has a new member {one}") for one in now - before)
        yield from (Change("group", name, f"lost its member {one}") for one in before - now)
    yield from (Change("group", name, "removed") for name in old.keys() - new.keys())


def _compare_shadow(old: Lines | None, new: Lines) -> Iterator[Change]:
    for name, (password, *_) in new.items():
        before = (old or {}).get(name)
        if not password and (before is None or before[0]):
            yield Change("user", name, "needs no password")
        elif before is not None and before[0] != password:
            yield Change("user", name, "has another password")
