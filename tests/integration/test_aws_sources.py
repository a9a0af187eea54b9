"""What an AWS bake starts from is exactly one AMI, or an explanation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from moto.ec2.models import ec2_backends

from baker.errors import BakerError, SourceError
from baker.model import AmiSource, Bootstrap, Reference
from baker.providers.aws.provider import AwsProvider
from baker.providers.protocol import ResolvedSource
from tests.aws import ACCOUNT, DEBIAN, Baking, calls_of, make_provider
from tests.factories import make_artifact, make_build
from tests.lab import Fault, Lab
from tests.lab.stock import PARAMETER, SOMEBODY

OTHER_REGION = "eu-central-1"


@pytest.fixture
def provider(lab: Lab, tmp_path: Path) -> AwsProvider:
    return make_provider(lab, tmp_path)


def resolve(
    provider: AwsProvider, *, arch: str = "x86_64", region: str | None = None, **query: str
) -> ResolvedSource:
    settings: dict[str, Any] = {"region": region} if region else {}
    return provider.resolve(AmiSource(query=query), None, settings, arch)


def refusal(provider: AwsProvider, **query: Any) -> BakerError:
    with pytest.raises(SourceError) as raised:
        resolve(provider, **query)
    return raised.value


# --- ways to find one -----------------------------------------------------------------------------


def test_an_id_is_taken_as_it_is(lab: Lab, provider: AwsProvider) -> None:
    found = resolve(provider, id=lab.source("older"))

    assert found.digest == lab.source("older")
    assert found.artifact is not None
    assert (found.artifact.id, found.artifact.store, found.artifact.arch) == (
        lab.source("older"),
        lab.region,
        "x86_64",
    )


def test_the_newest_of_the_owners_amis_that_may_be_used_is_taken(lab: Lab, provider: AwsProvider) -> None:
    """A newer one of somebody else, and older, deprecated and disabled ones, have fitting names."""
    assert resolve(provider, owner=DEBIAN, name="debian-13-amd64-*").digest == lab.source()


@pytest.mark.parametrize("name", ["debian-13-{deb_arch}-*", "debian-13-*"])
def test_the_architecture_narrows_the_search(lab: Lab, provider: AwsProvider, name: str) -> None:
    assert resolve(provider, owner=DEBIAN, name=name).digest == lab.source()
    assert resolve(provider, owner=DEBIAN, name=name, arch="arm64").digest == lab.source("arm64")


def test_a_public_parameter_names_it(lab: Lab, provider: AwsProvider) -> None:
    name = PARAMETER + "/{deb_arch}"

    assert resolve(provider, ssm=name).digest == lab.source()
    assert resolve(provider, ssm=name, arch="arm64").digest == lab.source("arm64")
    assert resolve(provider, ssm=name, owner=DEBIAN).digest == lab.source()


def test_it_is_looked_for_in_the_region_of_the_recipe(lab: Lab, provider: AwsProvider) -> None:
    found = resolve(provider, owner=DEBIAN, name="debian-13-amd64-*", region=OTHER_REGION)

    assert found.digest == lab.source(region=OTHER_REGION) != lab.source()
    assert found.artifact is not None
    assert found.artifact.store == OTHER_REGION


def test_the_distributions_own_amis_bring_their_login(lab: Lab, provider: AwsProvider) -> None:
    found = resolve(provider, id=lab.source())

    assert found.artifact is not None
    assert found.artifact.details["ssh_user"] == "admin"


def test_a_source_is_asked_for_once_in_a_while(lab: Lab, provider: AwsProvider) -> None:
    for _ in range(3):
        resolve(provider, owner=DEBIAN, name="debian-13-amd64-*")

    assert len(calls_of(lab, "DescribeImages")) == 1


def test_an_owners_alias_may_be_given_with_an_id(lab: Lab, tmp_path: Path, provider: AwsProvider) -> None:
    own = Baking(make_provider(lab, tmp_path)).bake().artifacts[0]

    assert resolve(provider, id=own.id, owner="self").digest == own.id
    assert resolve(provider, id=own.id, owner=ACCOUNT).digest == own.id
    error = refusal(provider, id=lab.source(), owner="self")
    assert f"belongs to the account {DEBIAN}, not to self" in str(error)


# --- the parent's image ---------------------------------------------------------------------------


def test_a_parents_ami_in_the_region_is_what_its_child_starts_from(lab: Lab, provider: AwsProvider) -> None:
    artifacts = [
        make_artifact(id=f"ami-{number}", target="aws", arch="x86_64", kind="ami", store=region)
        for number, region in enumerate((lab.region, OTHER_REGION))
    ]
    parent = make_build("base", "aws", "x86_64", artifacts=tuple(artifacts))
    reference = Reference(recipe="base", version=3)

    here = provider.resolve(reference, parent, {}, "x86_64")
    there = provider.resolve(reference, parent, {"region": OTHER_REGION}, "x86_64")

    assert (here.artifact, there.artifact) == tuple(artifacts)
    assert here.digest == there.digest == parent.digest
    assert here.parent == parent
    assert lab.calls == []


def test_a_parent_without_an_ami_in_the_region_is_explained(provider: AwsProvider) -> None:
    there = make_artifact(id="ami-1", target="aws", arch="x86_64", kind="ami", store=OTHER_REGION)
    parent = make_build("base", "aws", "x86_64", artifacts=(there,))

    with pytest.raises(SourceError) as raised:
        provider.resolve(Reference(recipe="base", version=3), parent, {}, "x86_64")

    assert str(raised.value) == "base:3 has no AMI in eu-west-1 (it has: eu-central-1)"
    assert "baker image publish base:3" in str(raised.value.hint)


def test_a_source_of_another_target_is_explained(provider: AwsProvider) -> None:
    with pytest.raises(SourceError) as raised:
        provider.resolve(Bootstrap(distribution="debian", suite="trixie"), None, {}, "x86_64")

    assert str(raised.value) == "debian:trixie is not a source for the target aws"
    assert "[targets.aws]" in str(raised.value.hint)


# --- what is refused, and why ---------------------------------------------------------------------


def test_an_id_that_is_not_there_is_explained(provider: AwsProvider) -> None:
    error = refusal(provider, id="ami-0123456789abcdef0")

    assert "eu-west-1 has no such AMI that this account may use" in str(error)
    assert "ids differ from region to region" in str(error.hint)


@pytest.mark.parametrize(
    ("purpose", "why"), [("deprecated", "is deprecated since "), ("disabled", "was disabled by its owner")]
)
def test_an_id_that_should_not_be_used_any_more_is_explained(
    lab: Lab, provider: AwsProvider, purpose: str, why: str
) -> None:
    error = refusal(provider, id=lab.source(purpose))

    assert f"AMI {lab.source(purpose)} (debian-13-amd64-" in str(error)
    assert why in str(error)
    assert error.hint == "Name a newer one."


@pytest.mark.parametrize(
    ("name", "purpose", "why"),
    [
        ("debian-13-amd64-20260101-*", "deprecated", "is deprecated since "),
        ("debian-13-amd64-20260201-*", "disabled", "was disabled by its owner"),
    ],
)
def test_a_name_that_finds_only_unusable_amis_is_explained_by_the_newest(
    lab: Lab, provider: AwsProvider, name: str, purpose: str, why: str
) -> None:
    error = refusal(provider, owner=DEBIAN, name=name)

    assert f"the newest, {lab.source(purpose)} " in str(error)
    assert why in str(error)
    assert "Widen the name" in str(error.hint)


def test_ones_own_ami_that_is_deprecated_is_passed_over_too(
    lab: Lab, tmp_path: Path, provider: AwsProvider
) -> None:
    """AWS does not hide it from its owner."""
    older, newer = (
        Baking(make_provider(lab, tmp_path), recipe="golden").bake().artifacts[0] for _ in range(2)
    )
    ended = datetime.now(UTC) - timedelta(days=1)
    ec2_backends[ACCOUNT][lab.region].amis[newer.id].lab.deprecation_time = ended

    assert resolve(provider, owner="self", name="golden-*").digest == older.id


def test_a_name_that_finds_nothing_is_explained(provider: AwsProvider) -> None:
    error = refusal(provider, owner=DEBIAN, name="debian-99-*")

    assert "finds no AMI in eu-west-1" in str(error)
    assert f"aws ec2 describe-images --region eu-west-1 --owners {DEBIAN}" in str(error.hint)


def test_an_ami_of_somebody_else_is_refused(lab: Lab, provider: AwsProvider) -> None:
    error = refusal(provider, id=lab.source("foreign"), owner=DEBIAN)

    assert f"belongs to the account {SOMEBODY}, not to {DEBIAN}" in str(error)
    assert "check where the id comes from" in str(error.hint)
    assert f"not to {SOMEBODY}" in str(refusal(provider, ssm=f"{PARAMETER}/amd64", owner=SOMEBODY))


def test_an_ami_for_another_architecture_is_refused(lab: Lab, provider: AwsProvider) -> None:
    error = refusal(provider, id=lab.source("arm64"))

    assert f"AMI {lab.source('arm64')} in eu-west-1 is for arm64, not for x86_64" in str(error)
    assert "Set archs" in str(error.hint)
    error = refusal(provider, owner=DEBIAN, name="debian-13-amd64-*", arch="arm64")
    assert "finds no AMI for arm64 in eu-west-1, only for x86_64" in str(error)
    assert "{deb_arch}" in str(error.hint)


def test_a_parameter_that_is_not_there_is_explained(provider: AwsProvider) -> None:
    error = refusal(provider, ssm=f"{PARAMETER}/riscv64")

    assert f"eu-west-1 has no SSM parameter {PARAMETER}/riscv64" in str(error)
    assert "get-parameters-by-path" in str(error.hint)


def test_a_parameter_that_holds_no_ami_is_explained(lab: Lab, provider: AwsProvider) -> None:
    lab.client("ssm").put_parameter(Name="/ours/greeting", Value="good morning", Type="String")

    error = refusal(provider, ssm="/ours/greeting")

    assert 'ssm=/ours/greeting) is "good morning"' in str(error)


def test_a_right_that_is_missing_is_named(lab: Lab, provider: AwsProvider) -> None:
    lab.faults.add(Fault(action="GetParameter", kind="refuse", code="AccessDeniedException"))

    with pytest.raises(BakerError) as raised:
        resolve(provider, ssm=f"{PARAMETER}/amd64")

    assert str(raised.value) == "these AWS credentials may not call ssm:GetParameter in eu-west-1"
