"""Whose credentials are used, and where the role is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from baker.errors import CloudError, HostError
from tests.aws import Baking, assert_nothing_left, aws_variables, calls_of, make_provider, quick_lab
from tests.lab import Fault, Lab

ROLE = "arn:aws:iam::123456789012:role/baking"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with quick_lab() as lab:
        yield lab


def test_a_role_without_credentials_to_assume_it_with_is_told_as_missing_credentials(
    lab: Lab, tmp_path: Path
) -> None:
    without = {key: value for key, value in lab.environment.items() if key not in KEYS}
    with aws_variables(without):
        provider = make_provider(lab, tmp_path, role=ROLE)
        with pytest.raises(HostError, match="there are no AWS credentials"):
            provider.check()
    with pytest.raises(CloudError, match="there are no AWS credentials"):
        Baking(provider).resolve()  # never with those that came later: they are not the role's
    assert lab.calls == []


def test_what_lies_in_another_account_is_not_taken_for_deleted(lab: Lab, tmp_path: Path) -> None:
    provider = make_provider(lab, tmp_path)
    [artifact] = Baking(provider).bake().artifacts
    theirs = replace(artifact, details={**artifact.details, "owner": "999999999999"})

    assert provider.reaches(artifact)
    assert not provider.reaches(theirs)
    assert len(calls_of(lab, "GetCallerIdentity")) == 1


def test_who_gets_no_answer_is_not_told_that_it_is_elsewhere(lab: Lab, tmp_path: Path) -> None:
    [artifact] = Baking(make_provider(lab, tmp_path)).bake().artifacts
    lab.faults.add(Fault(action="GetCallerIdentity", kind="refuse", code="ExpiredToken"))

    assert make_provider(lab, tmp_path).reaches(artifact)


def test_a_role_is_asked_for_in_the_region_of_baker_toml(lab: Lab, tmp_path: Path) -> None:
    without = {key: value for key, value in lab.environment.items() if key != "AWS_DEFAULT_REGION"}
    with aws_variables(without):
        baking = Baking(make_provider(lab, tmp_path, role=ROLE))
        baking.launch()
        assert_nothing_left(lab, baking)

    assert len(calls_of(lab, "AssumeRole")) == 1
