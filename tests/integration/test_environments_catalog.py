"""Environments in the catalog: which release serves, what may become of the others, and whose turn it is;
on both databases."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest

from baker import identity
from baker.catalog import Catalog
from baker.deploy.release import EnvironmentRecord, Release, ReleaseState
from baker.errors import BadReference, BakerError, CatalogError, ConflictError
from baker.model import ImageStatus
from baker.retention import Evidence, Key, Retention, recheck
from tests.factories import make_build, make_image, make_release

STARTING, SHIFTING, LIVE, WARM, RETIRING, ENDED = ReleaseState


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    with Catalog.open(catalog_url, actor="ann") as catalog:
        yield catalog


def known(catalog: Catalog, environment: str = "demo") -> EnvironmentRecord:
    found = catalog.environment(environment)
    assert found is not None
    return found


def list_states(catalog: Catalog) -> dict[int, ReleaseState]:
    return {release.number: release.state for release in catalog.releases("demo")}


def list_events(catalog: Catalog) -> list[tuple[str, int | None, str | None]]:
    """Oldest first."""
    return [(e.event, e.number, e.reason) for e in reversed(catalog.environment_events("demo"))]


def end(catalog: Catalog, release: Release, reason: str = "replaced") -> None:
    catalog.retire_release(release.id, reason=reason)
    catalog.end_release(release.id)


def test_a_release_s_lease_ends_with_the_release_and_not_by_hand(catalog: Catalog) -> None:
    release = make_release(catalog, state=STARTING)
    (lease,) = catalog.leases(include_ended=True)
    with pytest.raises(ConflictError, match="whose machines run web:1"):
        catalog.release_lease(lease.id)
    end(catalog, release)
    assert catalog.release_lease(lease.id).released is not None


# --- one release after the other --------------------------------------------------------------------------


def test_release_is_written_down_with_its_lease_before_anything_is_made(catalog: Catalog) -> None:
    assert catalog.environment("demo") is None
    image = make_image(catalog)
    release = make_release(catalog, image=image, state=STARTING, size=3, settings={"port": 80})
    assert (release.number, release.image, release.build) == (1, "web:1", image.builds[0].id)
    assert (release.state, release.size, release.settings) == (STARTING, 3, {"port": 80})
    assert (release.actor, release.host, release.pid) == ("ann", identity.host_name(), os.getpid())
    assert (release.deployer, release.live_since, release.born, release.audit) == (
        "01JDEPLOYER",
        None,
        {},
        None,
    )
    environment = known(catalog)
    assert (environment.target, environment.store, environment.removed) == ("local", "builder-1", None)
    assert environment.releases == (release,)
    (lease,) = catalog.leases("web")
    assert (lease.owner, lease.reference, lease.reason, lease.expires) == (
        "env:demo",
        "web:1",
        "release 1",
        None,
    )
    assert list_events(catalog) == [("deploying", 1, None)]


def test_release_goes_live_and_the_one_before_waits_until_its_window_is_over(catalog: Catalog) -> None:
    first = make_release(catalog)
    second = make_release(catalog, window=1000.0)
    environment = known(catalog)
    assert environment.live == second
    assert environment.warm == catalog.release(first.id)
    assert environment.warm is not None
    assert (environment.warm.warm_until - second.live_since).total_seconds() == 1000.0  # type: ignore[operator]
    assert catalog.due_releases("demo") == []
    third = make_release(catalog, window=1000.0)
    assert known(catalog).warm == catalog.release(second.id)
    assert [release.id for release in catalog.due_releases("demo")] == [first.id]
    end(catalog, first)
    assert list_states(catalog) == {3: LIVE, 2: WARM, 1: ENDED}
    assert [lease.reference for lease in catalog.leases("web")] == ["web:3", "web:2"]
    assert catalog.release(first.id).ended is not None
    assert list_events(catalog)[-2:] == [("live", 3, None), ("collected", 1, "replaced")]
    assert [release.number for release in catalog.releases("demo", limit=2)] == [3, 2]
    assert third.number == 3


def test_rollback_goes_back_to_what_served_last_however_often(catalog: Catalog) -> None:
    first, second = make_release(catalog), make_release(catalog)
    back, after = catalog.swap_live("demo", window=1000.0, reason="slow")
    assert (back.id, back.state, back.warm_until) == (first.id, LIVE, None)
    assert (after.id, after.state) == (second.id, WARM)
    assert after.warm_until is not None
    assert back.live_since is not None
    assert (after.warm_until - back.live_since).total_seconds() == 1000.0
    assert list_events(catalog)[-1] == ("rolled back", 1, "slow")
    assert catalog.swap_live("demo", window=1000.0, release_id=first.id) == (back, after), "made again"
    third = make_release(catalog)
    # The second one was rolled back from: it is newer, and not what served before the third.
    assert list_states(catalog) == {3: LIVE, 2: WARM, 1: WARM}
    assert known(catalog).warm == catalog.release(first.id)
    assert [release.id for release in catalog.due_releases("demo")] == [second.id]
    with pytest.raises(ConflictError, match=r"would be rolled back to release 1 \(web:1\) by now"):
        catalog.swap_live("demo", window=0, release_id=second.id)
    back, after = catalog.swap_live("demo", window=0)
    assert (back.id, after.id) == (first.id, third.id)
    assert {release.number for release in catalog.due_releases("demo")} == {2, 3}


def test_rollback_without_anything_to_go_back_to_is_refused(catalog: Catalog) -> None:
    with pytest.raises(BadReference, match="demo was never deployed"):
        catalog.swap_live("demo", window=0)
    first = make_release(catalog)
    with pytest.raises(CatalogError, match="no earlier release is kept warm any more") as caught:
        catalog.swap_live("demo", window=0)
    assert caught.value.hint
    make_release(catalog)
    catalog.revoke("web", 1, reason="CVE-1")
    with pytest.raises(CatalogError, match="web:1 cannot serve demo: it was revoked by ann: CVE-1"):
        catalog.swap_live("demo", window=0)
    assert list_states(catalog) == {2: LIVE, 1: WARM}
    end(catalog, first)
    catalog.retire_live(known(catalog).releases[0].id, reason="removed")
    with pytest.raises(CatalogError, match="no release is live"):
        catalog.swap_live("demo", window=0)


def test_deployment_that_fails_ends_without_having_been_collected(catalog: Catalog) -> None:
    make_release(catalog)
    release = make_release(catalog, state=SHIFTING)
    catalog.retire_release(release.id, reason="2-1 is unhealthy", failed=True, details={"log": "caf\udce9\0"})
    assert [due.id for due in catalog.due_releases("demo")] == [release.id]
    ended = catalog.end_release(release.id)
    assert (ended.state, ended.reason) == (ENDED, "2-1 is unhealthy")
    assert list_events(catalog)[-1] == ("failed", 2, "2-1 is unhealthy")
    assert catalog.environment_events("demo", limit=1)[0].details == {"log": "caf\udce9\0"}
    assert list_states(catalog) == {2: ENDED, 1: LIVE}
    assert make_release(catalog, state=STARTING).number == 3, "no number is used twice"


def test_calls_that_are_made_again_change_nothing(catalog: Catalog) -> None:
    image = make_image(catalog)
    make_release(catalog, image=image, environment="other")
    begun = make_release(catalog, image=image, release_id="01JA", state=STARTING)
    assert make_release(catalog, image=image, release_id="01JA", state=STARTING) == begun
    with pytest.raises(ConflictError, match="release 01JA was begun already"):
        make_release(catalog, image=image, environment="another", release_id="01JA")
    assert catalog.environment("another") is None
    shifted = catalog.shift_release("01JA")
    assert catalog.shift_release("01JA") == shifted
    live = catalog.make_live("01JA", window=1.0)
    assert catalog.make_live("01JA", window=1.0) == live
    retired = catalog.retire_live("01JA", reason="removed")
    assert catalog.retire_live("01JA", reason="again") == retired
    assert catalog.retire_release("01JA", reason="again", failed=True) == retired
    ended = catalog.end_release("01JA")
    assert catalog.end_release("01JA") == ended
    assert catalog.retire_release("01JA", reason="again") == ended
    for _ in range(2):
        catalog.remove_environment("demo", reason="done")
    assert [event for event, _, _ in list_events(catalog)] == ["deploying", "live", "collected", "removed"]
    assert [lease.owner for lease in catalog.leases("web")] == ["env:other"]


def test_release_moves_only_along_its_states(catalog: Catalog) -> None:
    live = make_release(catalog)
    starting = make_release(catalog, state=STARTING)
    for refused, message in (
        (lambda: catalog.retire_release(live.id, reason="x"), r"release 1 of demo \(web:1\) is live: it has"),
        (lambda: catalog.end_release(live.id), "is live: its machines are still needed"),
        (lambda: catalog.shift_release(live.id), "is live: it cannot go on"),
        (lambda: catalog.make_live(starting.id, window=0), "is starting: it cannot go on"),
        (lambda: catalog.retire_live(starting.id, reason="x"), "is starting: it is not the one"),
        (lambda: catalog.remove_environment("demo"), r"release 2 .* demo is not removed before it has ended"),
    ):
        with pytest.raises(ConflictError, match=message):
            refused()
    assert list_states(catalog) == {2: STARTING, 1: LIVE}
    end(catalog, starting)
    with pytest.raises(ConflictError, match="is ended: it cannot go on"):
        catalog.shift_release(starting.id)


def test_what_was_never_deployed_is_named(catalog: Catalog) -> None:
    for unknown in (
        lambda: catalog.release("01JX"),
        lambda: catalog.shift_release("01JX"),
        lambda: catalog.end_release("01JX"),
        lambda: catalog.note_born("01JX", {}),
        lambda: catalog.note_audit("01JX", {}),
    ):
        with pytest.raises(BadReference, match="the catalog knows no release 01JX"):
            unknown()
    for unknown in (
        lambda: catalog.remove_environment("nowhere"),
        lambda: catalog.add_environment_event("nowhere", "drifted"),
    ):
        with pytest.raises(BadReference, match="nowhere was never deployed"):
            unknown()
    assert catalog.request_abort("nowhere", "x") is None
    assert catalog.releases("nowhere") == catalog.due_releases("nowhere") == []
    assert catalog.environment_events("nowhere") == []
    assert catalog.environments() == []


def test_machines_births_audits_and_events_are_noted(catalog: Catalog) -> None:
    release = make_release(catalog)
    catalog.note_born(release.id, {"1-1": {"ports": [80]}})
    catalog.note_audit(release.id, {"1-1": {"drift": []}})
    catalog.note_audit(release.id, {"1-1": {"drift": ["/etc/motd"]}})
    noted = catalog.release(release.id)
    assert (noted.born, noted.audit) == ({"1-1": {"ports": [80]}}, {"1-1": {"drift": ["/etc/motd"]}})
    catalog.add_environment_event("demo", "replaced", number=1, details={"old": "1-1", "new": "1-3"})
    event = catalog.environment_events("demo", limit=1)[0]
    assert (event.environment, event.event, event.number, event.image) == ("demo", "replaced", 1, "web:1")
    assert (event.actor, event.reason, event.details) == ("ann", None, {"old": "1-1", "new": "1-3"})


# --- what is refused ------------------------------------------------------------------------------------


def test_second_deployment_is_told_who_is_at_work(catalog: Catalog) -> None:
    first = make_release(catalog, state=STARTING)
    host = rf"{identity.host_name()} \(process {os.getpid()}\)"
    who = rf"demo is being deployed: release 1 \(web:1\) by ann on {host}"
    with pytest.raises(ConflictError, match=who):
        make_release(catalog)
    catalog.shift_release(first.id)
    with pytest.raises(ConflictError, match=who):
        make_release(catalog)
    assert make_release(catalog, environment="other").number == 1
    catalog.make_live(first.id, window=0)
    assert make_release(catalog).number == 2


def test_environment_stays_where_its_machines_are_until_it_is_removed(catalog: Catalog) -> None:
    release = make_release(catalog)
    for target, store in (("local", "builder-2"), ("aws", "builder-1")):
        with pytest.raises(ConflictError, match=r"demo is served at local \(builder-1\)") as caught:
            make_release(catalog, target=target, store=store)
        assert "remove it first: baker env rm demo" in str(caught.value.hint)
    catalog.retire_live(release.id, reason="removed")
    with pytest.raises(ConflictError, match="served at local"):
        make_release(catalog, store="builder-2")
    catalog.end_release(release.id)
    catalog.remove_environment("demo", reason="moved")
    assert known(catalog).removed is not None
    assert catalog.environments() == []
    assert [one.name for one in catalog.environments(include_removed=True)] == ["demo"]
    assert make_release(catalog, store="builder-2", environment="demo").number == 2
    assert (known(catalog).store, known(catalog).removed) == ("builder-2", None)
    make_release(catalog, environment="a")
    assert [one.name for one in catalog.environments()] == ["a", "demo"]
    assert [len(one.releases) for one in catalog.environments()] == [1, 1]


def test_image_that_may_not_be_used_is_not_deployed(catalog: Catalog) -> None:
    images = [make_image(catalog) for _ in range(2)]
    catalog.revoke("web", 1, reason="CVE-1")
    catalog.mark_deleted({("web", 2): "old"}, lambda *_: {})
    images.append(make_image(catalog, available=False))
    for image, why in zip(images, (r"revoked \(CVE-1\)", r"deleted \(old\)", "registered"), strict=True):
        with pytest.raises(CatalogError, match=rf"{image.reference} cannot be deployed to demo: it is {why}"):
            make_release(catalog, image=image)
    good = make_image(catalog, build=make_build(target="aws"), wanted=[("aws", "amd64")])
    with pytest.raises(CatalogError, match=r"web:4 .* holds no distributed build \S+ for local"):
        make_release(catalog, image=good)
    with pytest.raises(BadReference):
        catalog.begin_release(
            "demo",
            release_id="01JX",
            target="local",
            store="builder-1",
            recipe="web",
            version=99,
            build="x",
            size=1,
            settings={},
            deployer="x",
        )
    assert catalog.environment("demo") is None
    assert catalog.leases() == []
    catalog.deprecate("web", 4)
    assert make_release(catalog, image=good, target="aws").state == LIVE


def test_deployment_of_an_image_that_is_revoked_meanwhile_does_not_go_on(catalog: Catalog) -> None:
    make_release(catalog)
    release = make_release(catalog, state=SHIFTING)
    catalog.revoke("web", 2, reason="CVE-2")
    for go_on in (catalog.shift_release, lambda id_: catalog.make_live(id_, window=0)):
        with pytest.raises(CatalogError, match="web:2 cannot serve demo: it was revoked by ann: CVE-2"):
            go_on(release.id)
    assert list_states(catalog) == {2: SHIFTING, 1: LIVE}
    catalog.restore("web", 2)
    assert catalog.make_live(release.id, window=0).state == LIVE
    catalog.revoke("web", 2, reason="CVE-2")
    assert known(catalog).live == catalog.release(release.id), "what serves goes on serving"
    assert catalog.leases("web")[0].owner == "env:demo"


def test_deployment_that_somebody_wants_taken_back_is_told(catalog: Catalog) -> None:
    assert catalog.request_abort("demo", "rolled back") is None
    make_release(catalog)
    assert catalog.request_abort("demo", "rolled back") is None
    release = make_release(catalog, state=STARTING)
    told = catalog.request_abort("demo", "rolled back")
    assert told is not None
    assert (told.id, told.state, told.abort) == (release.id, STARTING, "rolled back (ann)")
    assert catalog.request_abort("demo", "for another reason") == told
    with pytest.raises(ConflictError, match=r"release 2 of demo is to be taken back: rolled back \(ann\)"):
        catalog.shift_release(release.id)
    end(catalog, release)
    shifting = make_release(catalog, state=SHIFTING)
    catalog.request_abort("demo", "rolled back")
    for go_on in (catalog.shift_release, lambda id_: catalog.make_live(id_, window=0)):
        with pytest.raises(ConflictError, match="is to be taken back"):
            go_on(shifting.id)


# --- at once ------------------------------------------------------------------------------------------


def race(url: str, *changes: Callable[[Catalog], Any]) -> list[Any]:
    """What each returned or raised, all begun at the same moment, as by several hosts."""
    barrier = threading.Barrier(len(changes))
    results: list[Any] = [None] * len(changes)

    def run(position: int) -> None:
        with Catalog.open(url, actor=f"host-{position}") as catalog:
            barrier.wait()
            try:
                results[position] = changes[position](catalog)
            except BakerError as error:
                results[position] = error

    threads = [threading.Thread(target=run, args=(position,)) for position in range(len(changes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_hosts_that_deploy_at_once_one_does(catalog: Catalog) -> None:
    image = make_image(catalog)
    begin = lambda catalog: make_release(catalog, image=image, state=STARTING)  # noqa: E731
    for number in range(1, 4):
        results = race(catalog.url, *[begin] * 6)
        (won,) = [result for result in results if isinstance(result, Release)]
        assert won.number == number
        assert sum(isinstance(result, ConflictError) for result in results) == 5
        end(catalog, won)
    assert catalog.leases() == []


def test_rollback_and_collection_at_once_never_leave_it_without_traffic(catalog: Catalog) -> None:
    image = make_image(catalog)
    for name in ("a", "b", "c", "d"):
        warm, live = (make_release(catalog, environment=name, image=image, window=0) for _ in range(2))
        retired, swapped = race(
            catalog.url,
            lambda catalog: catalog.retire_release(warm.id, reason="replaced"),  # noqa: B023
            lambda catalog: catalog.swap_live(name, window=0),  # noqa: B023
        )
        assert isinstance(retired, Release) != isinstance(swapped, tuple), "one of the two"
        serving = known(catalog, name).live
        assert serving is not None
        assert serving.id == (live if isinstance(retired, Release) else warm).id


def test_abort_and_traffic_at_once_are_one_or_the_other(catalog: Catalog) -> None:
    for _ in range(4):
        release = make_release(catalog, state=SHIFTING)
        aborted, live = race(
            catalog.url,
            lambda catalog: catalog.request_abort("demo", "rolled back"),
            lambda catalog: catalog.make_live(release.id, window=0),  # noqa: B023
        )
        assert (aborted is None) == isinstance(live, Release)
        if aborted:
            end(catalog, release)


def delete(catalog: Catalog, version: int) -> str | None:
    """Why a version of web was not deleted; None: it was."""

    def look(evidence: Evidence, doomed: Collection[Key]) -> dict[Key, str]:
        return recheck(evidence, Retention(), doomed, by_rules=False)

    return catalog.mark_deleted({("web", version): "old"}, look).get(("web", version))


def test_image_of_a_release_is_not_pruned_before_the_release_has_ended(catalog: Catalog) -> None:
    release = make_release(catalog, image=make_image(catalog))
    make_image(catalog)
    assert delete(catalog, 1) == "environment demo"
    catalog.retire_live(release.id, reason="removed")
    assert delete(catalog, 1) == "environment demo"
    catalog.end_release(release.id)
    assert delete(catalog, 1) is None
    (pending,) = catalog.pending_deletions()
    assert catalog.finish_deletion("web", 1, pending.artifacts)
    assert catalog.release(release.id).image == "web:1", "the history stays"


def test_prune_and_deployment_at_once_never_leave_a_release_on_a_deleted_image(catalog: Catalog) -> None:
    images = [make_image(catalog) for _ in range(13)][:-1]
    turn = threading.Barrier(2, timeout=60)  # one that fails does not keep the other for ever
    refusals: list[str] = []

    def deploy(catalog: Catalog) -> list[bool]:
        deployed = []
        for image in images:
            turn.wait()
            try:
                make_release(catalog, image=image, state=STARTING)
            except CatalogError as error:
                refusals.append(str(error))
            turn.wait()
            begun = known(catalog).in_state(STARTING) if catalog.releases("demo") else None
            deployed.append(begun is not None)
            if begun:
                assert catalog.image("web", begun.version).status == ImageStatus.AVAILABLE
                assert [lease.reference for lease in catalog.leases()] == [begun.image]
                end(catalog, begun)
        return deployed

    def prune(catalog: Catalog) -> list[bool]:
        deleted = []
        for image in images:
            turn.wait()
            deleted.append(delete(catalog, image.version) is None)
            turn.wait()
        return deleted

    deployed, deleted = race(catalog.url, deploy, prune)
    assert [not gone for gone in deleted] == deployed
    assert len(refusals) == deleted.count(True)
    assert all("it is deleted (old)" in refusal for refusal in refusals)
    assert catalog.leases() == []
