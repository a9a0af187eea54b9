"""What AWS answers when it does not do what it was asked, as errors that say what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterable

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    TokenRetrievalError,
    UnknownEndpointError,
)
from botocore.exceptions import ConnectionError as Unconnected
from botocore.parsers import ResponseParserError

from baker.errors import CloudError

CREDENTIALS_HINT = (
    "baker takes credentials as the aws command does: check them with `aws sts get-caller-identity` "
    "(profile and role are keys of [aws] in baker.toml)."
)
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
WRONG_CREDENTIALS = {
    "AuthFailure",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "MissingAuthenticationToken",
    "IncompleteSignature",
}
DENIED = {"UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "Client.UnauthorizedOperation"}
THROTTLED = {
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequestsException",
    "TooManyUpdates",
    "RequestThrottled",
    "RequestThrottledException",
}
NO_CAPACITY = {
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientCapacity",
    "Unsupported",
    "UnsupportedOperation",
    "SpotMaxPriceTooLow",
    "MaxSpotInstanceCountExceeded",
    "VcpuLimitExceeded",
    "InstanceLimitExceeded",
    "InvalidInstanceType",
}
"""What another instance type, or on-demand instead of spot, may get around."""

LACKING = {"InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity"}
"""What there may be again in a moment."""

BUSY = {
    "SnapshotCreationPerVolumeRateExceeded",
    "PendingSnapshotLimitExceeded",
    "ConcurrentSnapshotLimitExceeded",
}
"""Quotas of what is under way: there is room again once some of it has ended."""

QUOTAS = {
    "VcpuLimitExceeded",
    "InstanceLimitExceeded",
    "MaxSpotInstanceCountExceeded",
    "SecurityGroupLimitExceeded",
    "SnapshotLimitExceeded",
    *BUSY,
    "ResourceLimitExceeded",
    "VolumeLimitExceeded",
    "ParameterLimitExceeded",
    "AMIQuotaExceeded",
}
NO_DEFAULT_VPC = {"VPCIdNotSpecified", "DefaultVpcDoesNotExist", "MissingInput"}
OUTCOME_UNKNOWN = "no answer"
"""The code of a call whose answer never came: it may have been done."""


class Refused(CloudError):
    """One call that was not answered as asked. ``code`` is AWS's, or OUTCOME_UNKNOWN; ``repeated`` says that
    it is the answer to a further try: an earlier one may have been done."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        action: str,
        region: str,
        hint: str | None = None,
        repeated: bool = False,
        passing: bool = False,
    ) -> None:
        super().__init__(message, hint=hint, passing=passing)
        self.code = code
        self.action = action
        self.region = region
        self.repeated = repeated

    def is_one_of(self, codes: Iterable[str]) -> bool:
        return self.code in codes

    @property
    def says_absent(self) -> bool:
        """Whether it says that the thing is not there."""
        return self.code.endswith(".NotFound") or self.code in (
            "ParameterNotFound",
            "InvalidAMIID.Unavailable",
            "InvalidInstanceID.Malformed",
        )

    @property
    def outcome_unknown(self) -> bool:
        return self.repeated or self.code in (
            OUTCOME_UNKNOWN,
            "InternalError",
            "ServiceUnavailable",
            "Unavailable",
        )


def explain(
    error: BotoCoreError | ClientError | ResponseParserError, *, service: str, operation: str, region: str
) -> Refused:
    """What went wrong with a call, in words; ``operation`` as the API names it (``RunInstances``)."""
    action = f"{service}:{operation}"
    if isinstance(error, ClientError):
        return _explain_answer(error, action, region)

    def refused(
        message: str, hint: str | None, code: str = type(error).__name__, *, passing: bool = False
    ) -> Refused:
        return Refused(message, code=code, action=action, region=region, hint=hint, passing=passing)

    match error:
        case ResponseParserError():
            return refused(
                f"what answered {action} in {region} is not AWS: {str(error)[:200]}",
                "Look at AWS_ENDPOINT_URL, and at proxies on the way.",
                OUTCOME_UNKNOWN,
            )
        case NoCredentialsError():
            return refused("there are no AWS credentials", CREDENTIALS_HINT)
        case (
            PartialCredentialsError() | CredentialRetrievalError() | TokenRetrievalError() | ProfileNotFound()
        ):
            return refused(f"the AWS credentials cannot be used: {error}", CREDENTIALS_HINT)
        case NoRegionError():
            return refused("no AWS region is set", 'Set it: [aws] region = "eu-west-1" in baker.toml')
        case InvalidRegionError() | UnknownEndpointError():
            return refused(f"there is no AWS region {region}", "Check region and regions in [aws].")
        case Unconnected():
            return refused(
                f"{service} in {region} cannot be reached: {error}",
                f"Is {region} the name of a region, and is there a way to it from here?",
                OUTCOME_UNKNOWN,
                passing=not isinstance(error, SSLError),
            )
        case HTTPClientError():
            text = str(error.kwargs.get("error", error))
            said = f"{action} in {region} was not answered: {text}"
            return refused(said, "Try it again.", OUTCOME_UNKNOWN, passing=True)
    return refused(f"{action} in {region}: {error}", None)


def _explain_answer(error: ClientError, action: str, region: str) -> Refused:
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    said = str(error.response.get("Error", {}).get("Message", "")) or code
    text, hint = f"{action} in {region}: {said} ({code})", None
    if code in EXPIRED:
        text, hint = f"the AWS credentials have expired ({action}: {said})", "Renew them, then go on."
    elif code in WRONG_CREDENTIALS:
        text = f"AWS does not accept the credentials ({action} in {region}: {said})"
        hint = f"{CREDENTIALS_HINT} A region may also have to be enabled for the account first."
    elif code in DENIED:
        named = re.search(r"perform: ([a-z0-9-]+:[A-Za-z0-9]+)", said)
        missing = named[1] if named else action
        text = f"these AWS credentials may not call {missing} in {region}"
        hint = f"Grant {missing}; `baker aws policy` prints all that is needed. AWS said: {said[:300]}"
    elif code in THROTTLED:
        text = f"AWS throttled {action} in {region} for too long ({code})"
        hint = "Too much of the account asks at once: bake fewer at a time (--jobs), or try later."
    elif code in QUOTAS:
        text = f"a quota of the account is reached in {region}: {said} ({code})"
        hint = "Raise it in Service Quotas, or make room: baker system sweep, baker image prune"
    elif code in NO_DEFAULT_VPC and action in ("ec2:RunInstances", "ec2:CreateSecurityGroup"):
        text = f"{region} has no default VPC to put a build instance into"
        hint = 'Name a subnet in [aws] of baker.toml: subnet = "subnet-…" or subnet = { Name = "…" }'
    elif code == "OptInRequired":
        text, hint = f"the account may not use {region} yet: {said}", "Enable the region for the account."
    told = error.response.get("ResponseMetadata", {})
    return Refused(
        text,
        code=code,
        action=action,
        region=region,
        hint=hint,
        repeated=told.get("RetryAttempts", 0) > 0,
        passing=code in THROTTLED | LACKING | BUSY or told.get("HTTPStatusCode", 0) >= 500,
    )
