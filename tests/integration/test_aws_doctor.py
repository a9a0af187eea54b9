"""What doctor says of the way to AWS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from baker.providers.aws.doctor import examine_access
from tests.aws import aws_variables, few_attempts, quick_lab
from tests.lab import Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with quick_lab() as lab:
        yield lab


def test_doctor_says_as_whom_aws_is_asked(lab: Lab) -> None:
    region, credentials = examine_access({"region": lab.region})
    assert (region.ok, region.detail) == (True, lab.region)
    assert credentials.ok
    assert "123456789012" in credentials.detail


def test_doctor_says_what_is_missing(lab: Lab) -> None:
    bare = {"AWS_ENDPOINT_URL": lab.endpoint, "AWS_CONFIG_FILE": "/dev/null"}
    with (
        aws_variables({**bare, "AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}),
        few_attempts(1),
    ):
        [region] = examine_access({})
        assert not region.ok
        assert "AWS_REGION" in str(region.remedy)
        region, credentials = examine_access({"region": lab.region})
    assert region.ok
    assert (credentials.ok, credentials.detail) == (False, "there are no AWS credentials")
    assert "profile" in str(credentials.remedy)
