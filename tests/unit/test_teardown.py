"""Undo newest first, whatever fails, and a ledger that always knows more than the provider."""

import pytest

from baker.model import Resource
from baker.teardown import LeftBehind, Teardown


def make_resource(name):
    return Resource(provider="local", kind="machine", id=name)


class WrittenLedger:
    """A ledger that keeps its lines in ``log``, shared with whoever makes and removes things."""

    def __init__(self, log):
        self.log = log

    def intend(self, bake_id, resource):
        self.log.append(f"{bake_id}: intend {resource.id}")

    def exists(self, bake_id, resource):
        self.log.append(f"{bake_id}: exists {resource.id}")

    def removed(self, bake_id, resource):
        self.log.append(f"{bake_id}: removed {resource.id}")

    def open_entries(self, _bake_id=None):
        return []


@pytest.fixture
def log():
    return []


@pytest.fixture
def teardown(log):
    return Teardown("B1", WrittenLedger(log))


def make(teardown, log, name, *, undo_fails=False, making_fails=False):
    def undo():
        log.append(f"undo {name}")
        if undo_fails:
            raise OSError(f"{name} is busy")

    with teardown.making(make_resource(name), undo=undo):
        log.append(f"make {name}")
        if making_fails:
            raise RuntimeError(f"{name} broke")


def test_ledger_says_intended_before_and_exists_after_the_making(teardown, log):
    make(teardown, log, "a")
    assert log == ["B1: intend a", "make a", "B1: exists a"]
    assert teardown.resources == [make_resource("a")]


def test_everything_is_undone_newest_first(teardown, log):
    make(teardown, log, "a")
    make(teardown, log, "b")
    log.clear()
    assert teardown.close() == []
    assert log == ["undo b", "B1: removed b", "undo a", "B1: removed a"]


def test_what_failed_half_way_is_undone_too(teardown, log):
    with pytest.raises(RuntimeError, match="a broke"):
        make(teardown, log, "a", making_fails=True)
    assert log == ["B1: intend a", "make a"]
    teardown.close()
    assert log[2:] == ["undo a", "B1: removed a"]


def test_failing_undo_is_reported_stays_in_the_ledger_and_stops_nothing(teardown, log):
    make(teardown, log, "a")
    make(teardown, log, "b", undo_fails=True)
    log.clear()
    assert teardown.close() == [LeftBehind(resource=make_resource("b"), error="b is busy")]
    assert log == ["undo b", "undo a", "B1: removed a"]


def test_kept_resource_is_never_undone_and_leaves_the_ledger(teardown, log):
    make(teardown, log, "a")
    make(teardown, log, "b")
    log.clear()
    teardown.keep(make_resource("a"))
    assert teardown.close() == []
    assert log == ["B1: removed a", "undo b", "B1: removed b"]


def test_one_resource_undone_early_is_not_undone_again(teardown, log):
    make(teardown, log, "a")
    make(teardown, log, "b")
    log.clear()
    teardown.undo(make_resource("a"))
    assert teardown.resources == [make_resource("b")]
    teardown.close()
    assert log == ["undo a", "B1: removed a", "undo b", "B1: removed b"]


def test_early_undo_that_fails_raises_and_is_tried_again_at_the_end(teardown, log):
    make(teardown, log, "a", undo_fails=True)
    with pytest.raises(OSError, match="a is busy"):
        teardown.undo(make_resource("a"))
    assert teardown.close() == [LeftBehind(resource=make_resource("a"), error="a is busy")]
    assert log.count("undo a") == 2


def test_nothing_is_made_when_the_ledger_cannot_be_written(log):
    class FullLedger(WrittenLedger):
        def intend(self, _bake_id, _resource):
            raise OSError("no space left on device")

    teardown = Teardown("B1", FullLedger(log))
    with pytest.raises(OSError, match="no space left"):
        make(teardown, log, "a")
    assert log == []
    assert teardown.resources == []


def test_interrupt_during_an_undo_is_not_swallowed(teardown):
    def interrupt():
        raise KeyboardInterrupt

    with teardown.making(make_resource("a"), undo=interrupt):
        pass
    with pytest.raises(KeyboardInterrupt):
        teardown.close()


def test_teardown_without_a_ledger_undoes_all_the_same(log):
    teardown = Teardown("B1", None)
    make(teardown, log, "a")
    assert teardown.close() == []
    assert log == ["make a", "undo a"]
