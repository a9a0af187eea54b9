"""Sequences that are not there before somebody looks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar, overload

T = TypeVar("T")


class Drawn(Sequence[T]):
    """What an iterator yields, drawn from it as far as somebody looks."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._drawn: list[T] = []

    def _draw(self, count: int | None) -> list[T]:
        missing = None if count is None else max(count - len(self._drawn), 0)
        self._drawn += islice(self._items, missing)
        return self._drawn

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        last = index.stop if isinstance(index, slice) else index + 1
        return self._draw(last if last is not None and last > 0 else None)[index]

    def __len__(self) -> int:
        return len(self._draw(None))

    def __bool__(self) -> bool:
        return bool(self[:1])
