"""What planning asks of the catalog, for many recipes at once, in a handful of queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Connection, and_, case, cast, func, select

from baker.catalog.ancestry import CHUNK, WITHDRAWN
from baker.catalog.calls import Calls
from baker.catalog.reading import USABLE, find_revoked, is_over, load_builds, status_now
from baker.catalog.schema import builds, channels, image_builds, images
from baker.catalog.writing import list_places
from baker.model import Build, ImageStatus

T = TypeVar("T")

Place = tuple[str, str, str]
"""Recipe, target, architecture."""

_SHIFT = 1 << 32
_packed = cast(images.c.version, BigInteger) * _SHIFT + images.c.number
"""The highest of a group is that of the highest version; modulo ``_SHIFT`` it is that image's number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """What there is of some recipes, in the state of one moment; see the calls of ``Catalog`` for each.

    ``usable`` has the first of ``usable_builds``; a place in ``unsound`` has others, which have to be asked
    for. ``latest`` has the build of the image that ``resolve`` finds for a place, unless that is built upon a
    revoked one. ``previewed`` are the places with ``preview_builds``. ``waiting`` has, by recipe, the version
    of ``waiting_version``, and the targets and architectures that it has a build for. ``revoked`` are the
    recipes whose ``newest_image`` is revoked, or built upon a revoked one.
    """

    usable: Mapping[Place, Build]
    unsound: frozenset[Place]
    latest: Mapping[Place, Build]
    previewed: frozenset[Place]
    waiting: Mapping[str, tuple[int, frozenset[tuple[str, str]]]]
    revoked: frozenset[str]

    def waiting_version(self, recipe: str, target: str, arch: str) -> str | None:
        version, places = self.waiting.get(recipe, (0, frozenset()))
        return f"{recipe}:{version}" if version and (target, arch) not in places else None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Member:
    """An image's build for one target and architecture."""

    build: Build
    sound: bool


_Members = Mapping[int, Mapping[tuple[str, str], _Member]]
"""By an image's number."""


class PlanningCalls(Calls):
    def overview(self, recipes: Collection[str], *, preview: str | None = None) -> Overview:
        """For whoever bakes for a ``preview``, or for none."""
        return self._read(lambda connection: load_overview(connection, sorted(recipes), preview))

    def channel_builds(self, recipes: Collection[str], channel: str) -> dict[Place, Build]:
        """The builds of the images that ``resolve`` finds for this channel of each recipe, unless they are
        built upon a revoked one."""
        return self._read(lambda connection: load_channel(connection, sorted(recipes), channel))


def load_overview(connection: Connection, recipes: Collection[str], preview: str | None) -> Overview:
    usable: dict[Place, int] = {}
    latest: dict[Place, int] = {}
    previewed: set[Place] = set()
    newest: dict[str, int] = {}
    newest_alike: dict[str, int] = {}
    for some in _cut(recipes):
        # What is the preview's own comes last, and counts.
        for row in sorted(_find_newest_builds(connection, some), key=lambda row: row.preview is not None):
            place = row.recipe, row.target, row.arch
            if row.preview not in (None, preview):
                previewed.add(place)
                continue
            usable[place] = row.usable
            if row.latest is not None:
                latest[place] = row.latest % _SHIFT
        chosen = select(images.c.recipe, images.c.preview, func.max(_packed)).where(images.c.recipe.in_(some))
        rows = connection.execute(chosen.group_by(images.c.recipe, images.c.preview)).all()
        for recipe, kind, packed in sorted(rows, key=lambda row: row[1] is not None):
            if kind in (None, preview):
                newest[recipe] = packed % _SHIFT
            if kind == preview:
                newest_alike[recipe] = packed % _SHIFT
    members = _load_members(connection, {*usable.values(), *latest.values(), *newest.values()})
    states = _load_states(connection, {*newest.values(), *newest_alike.values()})
    firsts = {place: members[image][place[1:]] for place, image in usable.items()}
    return Overview(
        usable={place: first.build for place, first in firsts.items() if first.sound},
        unsound=frozenset(place for place, first in firsts.items() if not first.sound),
        latest=_choose_sound(members, latest),
        previewed=frozenset(previewed),
        waiting={
            recipe: (states[image].version, frozenset(list_places(connection, image)))
            for recipe, image in newest_alike.items()
            if not states[image].complete and states[image].status not in WITHDRAWN
        },
        revoked=frozenset(
            recipe
            for recipe, image in newest.items()
            if states[image].status == ImageStatus.REVOKED or not _is_sound(members.get(image, {}))
        ),
    )


def load_channel(connection: Connection, recipes: Collection[str], channel: str) -> dict[Place, Build]:
    """See ``PlanningCalls.channel_builds``."""
    same = and_(images.c.recipe == channels.c.recipe, images.c.version == channels.c.version)
    held = select(images.c.recipe, images.c.number).join(channels, same)
    held = held.where(channels.c.name == channel, ~is_over, images.c.status.in_(USABLE))
    numbers = {
        recipe: number
        for some in _cut(recipes)
        for recipe, number in connection.execute(held.where(channels.c.recipe.in_(some)))
    }
    members = _load_members(connection, set(numbers.values()))
    places = {
        (recipe, *place): image for recipe, image in numbers.items() for place in members.get(image, {})
    }
    return _choose_sound(members, places)


def _find_newest_builds(connection: Connection, recipes: Sequence[str]) -> Sequence[Any]:
    """By recipe, target, architecture and preview the numbers of the newest images with a distributed build:
    one that may be used, and packed (see ``_newest``) one that is available."""
    is_available = status_now == ImageStatus.AVAILABLE
    kinds = (images.c.recipe, image_builds.c.target, image_builds.c.arch, images.c.preview)
    chosen = select(
        *kinds,
        func.max(images.c.number).label("usable"),
        func.max(case((is_available, _packed))).label("latest"),
    )
    usable = (images.c.recipe.in_(recipes), images.c.status.in_(USABLE), image_builds.c.available)
    linked = chosen.select_from(images.join(image_builds)).where(*usable)
    return connection.execute(linked.group_by(*kinds)).all()


def _load_states(connection: Connection, numbers: Collection[int]) -> dict[int, Any]:
    columns = (images.c.number, images.c.version, images.c.status, images.c.complete)
    return {
        row.number: row
        for some in _cut(numbers)
        for row in connection.execute(select(*columns).where(images.c.number.in_(some)))
    }


def _load_members(connection: Connection, numbers: Collection[int]) -> _Members:
    links = image_builds.c
    linked = [
        row
        for some in _cut(numbers)
        for row in connection.execute(
            select(links.image, links.target, links.arch, links.build).where(links.image.in_(some))
        )
    ]
    known: dict[int, Build] = {}
    for some in _cut({row.build for row in linked}):
        known |= load_builds(connection, builds.c.number.in_(some))
    revoked = find_revoked(connection, known.values())
    members: defaultdict[int, dict[tuple[str, str], _Member]] = defaultdict(dict)
    for image, target, arch, number in linked:
        build = known[number]
        members[image][target, arch] = _Member(build=build, sound=not revoked[build.id])
    return members


def _choose_sound(members: _Members, chosen: Mapping[Place, int]) -> dict[Place, Build]:
    """The builds of these images, but of none that is built upon something revoked."""
    return {
        place: members[image][place[1:]].build for place, image in chosen.items() if _is_sound(members[image])
    }


def _is_sound(members: Mapping[tuple[str, str], _Member]) -> bool:
    return all(member.sound for member in members.values())


def _cut(values: Collection[T]) -> Iterator[list[T]]:
    """In parts that one statement takes."""
    ordered = list(values)
    for start in range(0, len(ordered), CHUNK):
        yield ordered[start : start + CHUNK]
