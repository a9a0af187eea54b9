"""A sequence that is drawn only as far as somebody looks."""

from __future__ import annotations

from collections.abc import Iterator

from baker.drawing import Drawn


def make_counted() -> tuple[Drawn[int], list[int]]:
    """Three numbers, and those of them that were drawn so far."""
    drawn: list[int] = []

    def count() -> Iterator[int]:
        for number in range(3):
            drawn.append(number)
            yield number

    return Drawn(count()), drawn


def test_asking_for_the_first_draws_no_other() -> None:
    numbers, drawn = make_counted()
    assert numbers
    assert numbers[0] == 0
    assert numbers[:1] == [0]
    assert next(iter(numbers)) == 0
    assert drawn == [0]


def test_it_is_what_a_list_of_all_would_be() -> None:
    for look in (len, list, lambda it: it[-1], lambda it: it[1:], lambda it: it[:9], lambda it: 2 in it):
        numbers, _ = make_counted()
        assert look(numbers) == look([0, 1, 2])
    assert not Drawn(iter(()))


def test_nothing_is_drawn_twice() -> None:
    numbers, drawn = make_counted()
    assert [*numbers, *numbers] == [0, 1, 2, 0, 1, 2]
    assert drawn == [0, 1, 2]
