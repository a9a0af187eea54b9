"""What is left behind by bakes of this host, of others and of other catalogs, and what is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from baker import identity
from baker.catalog import Catalog
from baker.errors import CloudError
from baker.identity import store_name
from baker.model import Artifact, ImageStatus, Outcome, Resource
from baker.sweep import Swept, sweep_dead_bakes
from baker.teardown import Teardown
from tests.factories import make_artifact, make_build, make_image

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
PAST, FUTURE = NOW - timedelta(minutes=1), NOW + timedelta(hours=1)


@dataclass
class Cloud:
    """A provider that others use as well: what lies there, and what was taken away."""

    target: str = "aws"
    left: list[Resource] = field(default_factory=list)
    removed: list[Resource] = field(default_factory=list)
    down: bool = False
    artifacts: set[str] = field(default_factory=set)
    distributed: list[str] = field(default_factory=list)

    def leftovers(self) -> list[Resource]:
        if self.down:
            raise CloudError("ec2:DescribeInstances in eu-west-1 was refused")
        return self.left

    def remove(self, resource: Resource) -> None:
        self.removed.append(resource)

    def holds(self, artifact: Artifact) -> bool:
        return artifact.id in self.artifacts

    def reaches(self, artifact: Artifact) -> bool:
        return artifact.target == self.target

    def distribute(self, build: Any, labels: Any, teardown: Teardown, settings: Any = None) -> Any:
        del settings
        assert teardown.bake_id == build.id
        self.distributed.append(labels["version"])
        copy = Resource(provider="aws", kind="capture", id=build.id, place="eu-north-1")
        with teardown.making(copy, lambda: self.remove(copy)):
            if self.down:
                raise CloudError("ec2:CopyImage in eu-north-1 was refused")
        teardown.keep(copy)
        return (*build.artifacts, make_artifact(target="aws", store="eu-north-1"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def catalog(home: Path) -> Iterator[Catalog]:
    with Catalog.open(f"sqlite:///{home}/catalog.db", actor="ann") as catalog:
        yield catalog


def sweep(catalog: Catalog, cloud: Cloud, home: Path, **options: Any) -> Swept:
    return sweep_dead_bakes(catalog, {"aws": cloud}, home, now=NOW, **options)  # type: ignore[dict-item]


def in_order(resources: Iterable[Resource]) -> list[tuple[str, str, str]]:
    return sorted((resource.kind, resource.id, resource.place) for resource in resources)


def start_bake(catalog: Catalog, home: Path, *, elsewhere: bool = False, ended: bool = False) -> str:
    bake_id = identity.make_bake_id()
    folder, host = (Path("/var/lib/baker"), "builder-2") if elsewhere else (home, None)
    log = str(folder / "logs" / f"{bake_id}.log")
    catalog.start_bake(id=bake_id, recipe="web", target="aws", arch="x86_64", log_path=log, host=host)
    if ended:
        catalog.finish_bake(bake_id, Outcome.FAILED, None, "it failed")
    return bake_id


def make_remote(
    bake_id: str,
    kind: str = "instance",
    *,
    store: str = "builder-2:/var/lib/baker",
    deadline: datetime | None = FUTURE,
    place: str = "eu-west-1",
    **details: Any,
) -> Resource:
    told = {"bake": bake_id, "store": store, **details}
    if deadline is not None:
        told["deadline"] = deadline.isoformat()
    return Resource(provider="aws", kind=kind, id=bake_id, place=place, details=told)


# --- bakes that this catalog knows ----------------------------------------------------------------------


@pytest.mark.parametrize("in_ledger", [True, False], ids=["in the ledger", "found by tags"])
@pytest.mark.parametrize(
    ("elsewhere", "ended", "deadline", "goes"),
    [
        (False, False, FUTURE, True),
        (False, True, FUTURE, True),
        (True, True, FUTURE, True),
        (True, False, FUTURE, False),
        (True, False, None, False),
        (True, False, PAST, True),
    ],
    ids=["died here", "ended here", "ended there", "runs there", "runs there, no deadline", "past its time"],
)
@pytest.mark.parametrize("kind", ["instance", "capture"])
def test_bake_of_another_host_is_swept_once_it_has_ended_or_its_deadline_is_over(
    catalog: Catalog,
    home: Path,
    *,
    in_ledger: bool,
    elsewhere: bool,
    ended: bool,
    deadline: datetime | None,
    goes: bool,
    kind: str,
) -> None:
    bake_id = start_bake(catalog, home, elsewhere=elsewhere, ended=ended)
    store = "builder-2:/var/lib/baker" if elsewhere else store_name(home)
    resource = make_remote(bake_id, kind, store=store, deadline=deadline)
    cloud = Cloud(left=[resource])
    if in_ledger:
        catalog.exists(bake_id, resource)
    swept = sweep(catalog, cloud, home)
    assert cloud.removed == list(swept.removed) == ([resource] if goes else [])
    assert (catalog.open_entries() == []) is (goes or not in_ledger)


def test_bake_that_is_alive_here_is_never_touched(catalog: Catalog, home: Path) -> None:
    bake_id = start_bake(catalog, home)
    resources = [
        make_remote(bake_id, kind, deadline=PAST, store=store_name(home)) for kind in ("a", "capture")
    ]
    catalog.exists(bake_id, resources[0])
    cloud = Cloud(left=resources)
    with identity.alive(home, bake_id):
        assert sweep(catalog, cloud, home).removed == ()
        assert sweep(catalog, cloud, home, bake_id=bake_id).removed == ()
    assert len(sweep(catalog, cloud, home).removed) == 2


def test_what_another_host_keeps_on_purpose_stays_until_its_deadline(catalog: Catalog, home: Path) -> None:
    bake_id = start_bake(catalog, home, elsewhere=True, ended=True)
    catalog.exists(bake_id, make_remote(bake_id, kept=True))
    assert sweep(catalog, Cloud(), home).removed == ()
    catalog.exists(bake_id, make_remote(bake_id, kept=True, deadline=PAST))
    assert len(sweep(catalog, Cloud(), home).removed) == 1


def test_what_this_host_keeps_on_purpose_stays_whatever_catalog_is_swept(
    catalog: Catalog, home: Path
) -> None:
    bake_id = identity.make_bake_id()
    cloud = Cloud(left=[make_remote(bake_id, store=store_name(home))])
    home.joinpath("bakes").mkdir()
    identity.mark_kept(home, bake_id)
    assert sweep(catalog, cloud, home).removed == ()
    identity.unmark_kept(home, bake_id)
    assert len(sweep(catalog, cloud, home).removed) == 1


# --- bakes that it does not know ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "of_this_store", "deadline", "goes"),
    [
        ("instance", True, FUTURE, True),
        ("instance", True, None, True),
        ("instance", False, FUTURE, False),
        ("instance", False, None, False),
        ("instance", False, PAST, True),
        ("security-group", False, PAST, True),
        ("capture", True, PAST, False),
        ("capture", False, PAST, False),
    ],
)
def test_bake_of_another_catalog_loses_only_what_is_temporary_and_this_stores_or_past_its_deadline(
    catalog: Catalog, home: Path, *, kind: str, of_this_store: bool, deadline: datetime | None, goes: bool
) -> None:
    store = store_name(home) if of_this_store else "builder-2:/var/lib/baker"
    resource = make_remote(identity.make_bake_id(), kind, store=store, deadline=deadline)
    cloud = Cloud(left=[resource])
    assert list(sweep(catalog, cloud, home).removed) == cloud.removed == ([resource] if goes else [])


def test_what_has_no_place_is_this_hosts_alone(catalog: Catalog, home: Path) -> None:
    bake_id = start_bake(catalog, home, elsewhere=True)
    machines = [
        Resource(provider="aws", kind="machine", id=owner) for owner in (identity.make_bake_id(), bake_id)
    ]
    cloud = Cloud(left=machines)
    assert in_order(sweep(catalog, cloud, home).removed) == in_order(machines)
    catalog.exists(bake_id, machines[1])  # the ledger's is that other host's
    assert list(sweep(catalog, cloud, home).removed) == machines[:1]


def test_what_does_not_say_of_which_bake_it_is_stays(catalog: Catalog, home: Path) -> None:
    cloud = Cloud(
        left=[Resource(provider="aws", kind="instance", id="i-0123456789abcdef0", place="eu-west-1")]
    )
    assert sweep(catalog, cloud, home).removed == ()


# --- captures that are images ---------------------------------------------------------------------------


def test_captures_of_a_registered_build_stay_in_every_region_until_the_build_is_gone(
    catalog: Catalog, home: Path
) -> None:
    bake_id = start_bake(catalog, home, ended=True)
    build = make_build("web", "aws", "x86_64", id=bake_id)
    captures = [
        make_remote(bake_id, "capture", place=place, store=store_name(home), deadline=PAST)
        for place in ("eu-west-1", "eu-north-1")
    ]
    catalog.exists(bake_id, captures[0])
    cloud = Cloud(left=captures, artifacts={artifact.id for artifact in build.artifacts})
    make_image(catalog, build=build, wanted=[("aws", "x86_64")])
    assert sweep(catalog, cloud, home).removed == (captures[0],), "it is off the ledger"
    assert catalog.open_entries() == []
    assert sweep(catalog, cloud, home).removed == ()
    assert cloud.removed == []

    catalog.set_status("web", 1, ImageStatus.DELETED, "not needed")
    catalog.finish_deletion("web", 1, build.artifacts)
    sweep(catalog, cloud, home)
    assert in_order(cloud.removed) == in_order(captures)


def test_same_id_in_two_regions_is_two_things(catalog: Catalog, home: Path) -> None:
    bake_id = start_bake(catalog, home, ended=True)
    here, there = (
        make_remote(bake_id, "security-group", place=place, store=store_name(home))
        for place in ("eu-west-1", "eu-north-1")
    )
    catalog.exists(bake_id, here)
    cloud = Cloud(left=[here, there])
    sweep(catalog, cloud, home)
    assert in_order(cloud.removed) == in_order([here, there])


# --- providers ------------------------------------------------------------------------------------------


def test_provider_that_does_not_answer_is_named_and_stops_nothing(catalog: Catalog, home: Path) -> None:
    bake_id = start_bake(catalog, home, ended=True)
    catalog.exists(bake_id, make_remote(bake_id))
    cloud = Cloud(down=True)
    swept = sweep(catalog, cloud, home)
    assert swept.unasked == (("aws", "ec2:DescribeInstances in eu-west-1 was refused"),)
    assert len(swept.removed) == len(cloud.removed) == 1


def test_provider_is_asked_only_where_that_is_wanted(catalog: Catalog, home: Path) -> None:
    bake_id = start_bake(catalog, home, ended=True)
    cloud = Cloud(left=[make_remote(bake_id)])
    assert sweep(catalog, cloud, home, ask=()).removed == ()
    assert len(sweep(catalog, cloud, home, ask=["aws"]).removed) == 1


def test_ledger_of_a_target_that_is_not_configured_is_left_to_who_has_it(
    catalog: Catalog, home: Path
) -> None:
    bake_id = start_bake(catalog, home, ended=True)
    catalog.exists(bake_id, make_remote(bake_id))
    assert sweep_dead_bakes(catalog, {}, home, now=NOW).removed == ()
    assert len(catalog.open_entries()) == 1


def test_dry_run_removes_nothing(catalog: Catalog, home: Path) -> None:
    bake_id = start_bake(catalog, home)
    catalog.exists(bake_id, make_remote(bake_id))
    cloud = Cloud()
    assert len(sweep(catalog, cloud, home, dry_run=True).removed) == 1
    assert cloud.removed == []
    assert len(catalog.open_entries()) == 1
    assert catalog.bake(bake_id).outcome is None


# --- images that are not finished ------------------------------------------------------------------------


def register(catalog: Catalog, bake_id: str) -> set[str]:
    build = make_build("web", "aws", "x86_64", id=bake_id)
    make_image(catalog, build=build, wanted=[("aws", "x86_64")], available=False)
    return {artifact.id for artifact in build.artifacts}


def test_image_that_another_host_did_not_distribute_is_finished_by_any_host(
    catalog: Catalog, home: Path
) -> None:
    bake_id = start_bake(catalog, home, elsewhere=True, ended=True)
    cloud = Cloud(artifacts=register(catalog, bake_id))
    (image,) = sweep(catalog, cloud, home).finished
    assert (image.reference, str(image.status)) == ("web:1", "available")
    assert [artifact.store for artifact in image.builds[0].artifacts][1:] == ["eu-north-1"]
    assert catalog.open_entries() == []


def test_image_that_another_host_may_still_distribute_is_left_alone(catalog: Catalog, home: Path) -> None:
    cloud = Cloud(artifacts=register(catalog, start_bake(catalog, home, elsewhere=True)))
    assert sweep(catalog, cloud, home).finished == ()
    assert cloud.distributed == []


def test_copy_that_a_failing_distribution_made_is_removed_and_the_image_stays_to_be_finished(
    catalog: Catalog, home: Path
) -> None:
    bake_id = start_bake(catalog, home, ended=True)
    cloud = Cloud(artifacts=register(catalog, bake_id), down=True)
    swept = sweep(catalog, cloud, home)
    assert [(resource.id, error) for resource, error in swept.failed] == [
        ("web:1", "ec2:CopyImage in eu-north-1 was refused")
    ]
    assert [resource.place for resource in cloud.removed] == ["eu-north-1"]
    assert catalog.open_entries() == []
    cloud.down = False
    assert [str(image.status) for image in sweep(catalog, cloud, home).finished] == ["available"]


def test_a_store_keeps_its_name_and_shares_it_with_no_other(home: Path) -> None:
    name = store_name(home)
    assert store_name(home) == name
    (home / "store-id").unlink()  # a host of the same name, with the same folder
    assert store_name(home) != name
