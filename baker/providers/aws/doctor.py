"""Whether AWS can be reached with what is configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baker.errors import BakerError
from baker.providers.aws.session import AwsSession
from baker.providers.protocol import Check


def examine_access(table: Mapping[str, Any]) -> list[Check]:
    """Region and credentials of [aws]; asks AWS who we are, which takes no right."""
    aws = AwsSession(table)
    try:
        region = aws.region
    except BakerError as error:
        return [Check(name="aws region", ok=False, detail=str(error), remedy=error.hint)]
    checks = [Check(name="aws region", ok=True, detail=region)]
    try:
        found = aws.call("sts", region, "get_caller_identity")
    except BakerError as error:
        return [*checks, Check(name="aws credentials", ok=False, detail=str(error), remedy=error.hint)]
    return [*checks, Check(name="aws credentials", ok=True, detail=f"{found['Arn']}")]
