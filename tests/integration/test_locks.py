"""Locks in the catalog: one holder at a time, whatever becomes of it; on both databases."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from baker import identity, locking
from baker.catalog import Catalog, schema
from baker.catalog.runs import KEPT
from baker.errors import BadReference, CatalogError, ConflictError
from baker.locking import LockHeld, holding_lock
from tests.integration.test_catalog_reliability import end_python, start_python

WEB = ("web", "local", "amd64")
BASE = ("base", "local", "amd64")
ROUNDS = 8


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    with Catalog.open(catalog_url, actor="ann") as catalog:
        yield catalog


def hold(catalog: Catalog, holder: str, *, seconds: float = 60.0, instead_of: str | None = None) -> str:
    """Who holds the lock after ``holder`` tried to."""
    lock = catalog.hold_lock(
        "nightly", holder, seconds=seconds, store="builder-1:/b#00", pid=7, instead_of=instead_of
    )
    return lock.holder


def expire(catalog: Catalog) -> None:
    """Its holder did not renew it in time."""
    past = update(schema.locks).values(deadline=catalog._clock() - timedelta(days=1))
    catalog._database.write(lambda connection: connection.execute(past))


def test_lock_has_one_holder_until_it_is_released(catalog: Catalog) -> None:
    assert catalog.find_lock("nightly") is None
    assert hold(catalog, "one") == "one"
    assert hold(catalog, "two") == "one"
    assert hold(catalog, "one") == "one"
    catalog.release_lock("nightly", "two")
    found = catalog.find_lock("nightly")
    assert found is not None
    assert (found.holder, found.actor, found.host, found.pid) == ("one", "ann", "builder-1", 7)
    assert found.deadline - found.since >= timedelta(seconds=60)
    assert not catalog.renew_lock("nightly", "two", seconds=60)
    catalog.release_lock("nightly", "one")
    assert catalog.find_lock("nightly") is None
    assert not catalog.renew_lock("nightly", "one", seconds=60)
    assert hold(catalog, "two") == "two"
    assert catalog.hold_lock("prod", "one", seconds=1, store="", pid=1).holder == "one"


def test_lock_that_is_not_renewed_in_time_is_lost_to_who_comes(catalog: Catalog) -> None:
    assert hold(catalog, "one") == "one"
    expire(catalog)
    assert catalog.find_lock("nightly") is None
    assert catalog.renew_lock("nightly", "one", seconds=60), "nobody came meanwhile"
    assert hold(catalog, "two") == "one"
    expire(catalog)
    assert hold(catalog, "two") == "two"
    assert not catalog.renew_lock("nightly", "one", seconds=60)


def test_lock_of_one_that_is_known_to_be_dead_is_taken_over_unless_it_changed_hands(catalog: Catalog) -> None:
    assert hold(catalog, "one") == "one"
    assert hold(catalog, "two", instead_of="zero") == "one"
    assert hold(catalog, "two", instead_of="one") == "two"
    assert hold(catalog, "three", instead_of="one") == "two"


RACER = """
    import json, sys, time
    from pathlib import Path
    from baker.catalog import Catalog
    from baker.locking import holding_lock

    url, home, name, rounds, within = sys.argv[1:]
    within, forever = Path(within), {"wait_seconds": 1e9, "pause": lambda _: None}
    with Catalog.open(url, actor=name) as catalog:
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(int(rounds)):
            holder = f"{name}-{number}"
            with holding_lock(catalog, Path(home), "nightly", holder, on_lost=print, **forever):
                with within.open("x") as file:  # refuses if somebody else is within
                    time.sleep(0.01)
                within.unlink()
    print(json.dumps("done"))
"""


def test_two_processes_that_race_for_a_lock_never_hold_it_both(catalog_url: str, tmp_path: Path) -> None:
    with Catalog.open(catalog_url, actor="ann"):
        pass
    homes = [tmp_path / "one", tmp_path / "two"]
    racers = [
        start_python(RACER, catalog_url, home, home.name, ROUNDS, tmp_path / "within") for home in homes
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    assert [end_python(racer) for racer in racers] == [["done"], ["done"]]


HOLDER = """
    import sys, time
    from pathlib import Path
    from baker.catalog import Catalog
    from baker.locking import holding_lock
    with Catalog.open(sys.argv[1], actor="bob") as catalog:
        with holding_lock(catalog, Path(sys.argv[2]), "nightly", "01JDEAD", on_lost=print):
            print("held", flush=True)
            time.sleep(600)
"""


def test_lock_of_a_killed_process_is_free_at_once_on_its_host_and_by_its_deadline_elsewhere(
    catalog: Catalog, tmp_path: Path
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    holder = start_python(HOLDER, catalog.url, home)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        held = pytest.raises(LockHeld, match=r"nightly is held by bob on .* \(process \d+\) since 20")
        with held, holding_lock(catalog, home, "nightly", "01JLATE", on_lost=pytest.fail):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with pytest.raises(LockHeld), holding_lock(catalog, elsewhere, "nightly", "x", on_lost=pytest.fail):
        pass
    with holding_lock(catalog, home, "nightly", "01JNEXT", on_lost=pytest.fail) as lock:
        assert (lock.holder, lock.pid) == ("01JNEXT", os.getpid())
        expire(catalog)
        with holding_lock(catalog, elsewhere, "nightly", "x", on_lost=pytest.fail) as other:
            assert other.holder == "x"


def test_who_waits_for_a_lock_gets_it_or_gives_up_by_its_own_clock(catalog: Catalog, tmp_path: Path) -> None:
    assert hold(catalog, "one") == "one"
    times = iter([0.0, 5.0, 9.0, 11.0])
    pauses: list[float] = []
    with (
        pytest.raises(LockHeld),
        holding_lock(
            catalog,
            tmp_path,
            "nightly",
            "two",
            on_lost=pytest.fail,
            wait_seconds=10.0,
            pause=pauses.append,
            clock=lambda: next(times),
        ),
    ):
        pass
    assert len(pauses) == 2
    release = lambda _: catalog.release_lock("nightly", "one")  # noqa: E731
    with holding_lock(
        catalog, tmp_path, "nightly", "two", on_lost=pytest.fail, wait_seconds=10.0, pause=release
    ) as lock:
        assert lock.holder == "two"
    assert catalog.find_lock("nightly") is None


def test_work_is_told_once_its_lock_was_taken(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "RENEW_SECONDS", 0.01)
    told: list[str] = []
    ended = threading.Event()

    def on_lost(why: str) -> None:
        told.append(why)
        ended.set()

    with holding_lock(catalog, tmp_path, "nightly", "one", on_lost=on_lost) as lock:
        assert lock.holder == "one"
        assert hold(catalog, "two", instead_of="one") == "two"
        assert ended.wait(60)
    assert told == ["somebody else took the lock nightly"]
    found = catalog.find_lock("nightly")
    assert found is not None
    assert found.holder == "two", "who lost it does not release the other's"


class Unreachable:
    """A catalog that cannot be reached."""

    def renew_lock(self, *_: object, **__: object) -> bool:
        raise CatalogError("the catalog is out of reach")


def test_work_goes_on_without_the_catalog_until_shortly_before_the_lock_ends(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "RENEW_SECONDS", 20.0)
    lock = catalog.hold_lock("nightly", "one", seconds=60, store="", pid=1)
    now = 0.0
    told: list[str] = []

    class Done(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now
            assert timeout is not None
            now += timeout
            return False

    locking.renew_until(Unreachable(), lock, Done(), told.append, clock=lambda: now)  # type: ignore[arg-type]
    assert told == ["the lock nightly could not be renewed: the catalog is out of reach"]
    assert now == locking.SECONDS - locking.RENEW_SECONDS


def test_lock_that_nobody_renews_any_more_is_lost_whatever_fails(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "RENEW_SECONDS", 0.01)
    told: list[str] = []
    ended = threading.Event()

    def fail(*_: object, **__: object) -> bool:
        raise RuntimeError("dictionary changed size during iteration")

    def on_lost(why: str) -> None:
        told.append(why)
        ended.set()

    monkeypatch.setattr(catalog, "renew_lock", fail)
    with holding_lock(catalog, tmp_path, "nightly", "one", on_lost=on_lost):
        assert ended.wait(60)
    assert told == [
        "the lock nightly could not be renewed: RuntimeError: dictionary changed size during iteration"
    ]


# --- runs ------------------------------------------------------------------------------------------------


def test_run_tells_what_was_asked_and_what_came_of_it(catalog: Catalog) -> None:
    run = catalog.start_run("01JA", "bake", "/srv/images", {"recipes": ["web"], "force": True})
    assert (run.actor, run.host, run.pid) == ("ann", identity.host_name(), os.getpid())
    assert (run.outcome, run.finished, run.results, run.report) == (None, None, {}, None)
    catalog.record_results("01JA", {BASE: {"outcome": "baked"}, WEB: {"outcome": "failed"}})
    catalog.record_results("01JA", {WEB: {"outcome": "baked", "image": "web:2"}})
    catalog.finish_run("01JA", "done", {"seconds": 3.5})
    run = catalog.run("01JA")
    assert run.results == {BASE: {"outcome": "baked"}, WEB: {"outcome": "baked", "image": "web:2"}}
    assert (run.outcome, run.options, run.report) == (
        "done",
        {"recipes": ["web"], "force": True},
        {"seconds": 3.5},
    )
    assert run.finished is not None
    with pytest.raises(ConflictError):
        catalog.start_run("01JA", "bake", "/srv/images", {})
    for unknown in (
        lambda: catalog.run("01JX"),
        lambda: catalog.record_results("01JX", {}),
        lambda: catalog.finish_run("01JX", "done"),
    ):
        with pytest.raises(BadReference, match="the catalog knows no run 01JX"):
            unknown()


def test_runs_are_found_by_kind_project_and_whether_they_ended(catalog: Catalog) -> None:
    for run_id, kind, project in (("01JA", "bake", "/a"), ("01JB", "nightly", "/a"), ("01JC", "bake", "/c")):
        catalog.start_run(run_id, kind, project, {})
    catalog.finish_run("01JC", "done")
    assert [run.id for run in catalog.runs()] == ["01JC", "01JB", "01JA"]
    assert [run.id for run in catalog.runs(limit=1)] == ["01JC"]
    assert [run.id for run in catalog.runs(kind="bake")] == ["01JC", "01JA"]
    assert [run.id for run in catalog.runs(kind="bake", project="/a")] == ["01JA"]
    assert [run.id for run in catalog.runs(unfinished=True)] == ["01JB", "01JA"]


def test_catalog_keeps_the_newest_runs_of_each_kind(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert KEPT == 300
    monkeypatch.setattr("baker.catalog.runs.KEPT", 2)
    catalog.start_run("01J0", "nightly", "/a", {})
    for number in range(1, 5):
        catalog.start_run(f"01J{number}", "bake", "/a", {})
    assert [run.id for run in catalog.runs()] == ["01J4", "01J3", "01J0"]


def test_results_that_threads_record_at_once_are_all_kept(catalog: Catalog) -> None:
    catalog.start_run("01JA", "bake", "/a", {})
    nodes = [(f"r{number}", "local", "amd64") for number in range(12)]
    threads = [
        threading.Thread(target=catalog.record_results, args=("01JA", {node: {"image": node[0]}}))
        for node in nodes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert catalog.run("01JA").results.keys() == set(nodes)
