"""AWS's protocols: what a request asks for, and how results and errors are written down."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from botocore.model import OperationNotFoundError
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.request import Request as MotoRequest
from moto.core.request import determine_request_protocol
from moto.core.serialize import XFormedAttributePicker, get_serializer_class
from moto.core.utils import get_service_model
from moto.ec2.models import ec2_backends
from moto.ec2.responses._base_response import EC2BaseResponse
from moto.iam.models import get_account_id_from

MODELS = {"elasticloadbalancing": "elbv2"}
"""Services that are signed, and allowed, by another name than boto3's."""

Environment = dict[str, Any]
Application = Callable[[Environment, Callable[..., Any]], Any]


class AwsError(Exception):
    """An answer that is an error of AWS."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """What goes back; ``error`` is the code of an error."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call. ``params`` are named as in boto3; ``form`` is how they came (EC2 and the query protocol)."""

    service: str
    action: str
    region: str
    account: str
    access_key: str
    user_agent: str
    protocol: str
    params: Mapping[str, Any]
    form: dict[str, str]
    body: bytes
    environ: Environment

    @property
    def backend(self) -> Any:
        """moto's EC2 of this account and region."""
        return ec2_backends[self.account][self.region]


def read_request(environ: Environment) -> Request | None:
    """What a signed request asks for; None for anything else. The body may be read again afterwards."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    scope = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].split(",")[0].split("/")
    if len(scope) < 5:
        return None
    access_key, _, region, service = scope[:4]
    raw = MotoRequest(environ.copy())
    form = dict(raw.values.items(multi=False))
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    action = form.get("Action") or target.rpartition(".")[2]
    protocol, params = parse_params(service, action, raw)
    environ["wsgi.input"] = io.BytesIO(body)
    return Request(
        service=service,
        action=action,
        region=region,
        account=get_account_id_from(access_key),
        access_key=access_key,
        user_agent=environ.get("HTTP_USER_AGENT", ""),
        protocol=protocol,
        params=params,
        form=form,
        body=body,
        environ=environ,
    )


def parse_params(service: str, action: str, raw: MotoRequest) -> tuple[str, Mapping[str, Any]]:
    try:
        model = get_service_model(MODELS.get(service, service))
        protocol = determine_request_protocol(model, raw.content_type)
        parser = PROTOCOL_PARSERS[protocol](model.operation_model(action), map_type=dict)
    except (OperationNotFoundError, NotImplementedError, KeyError, ValueError):
        return "rest-json", {}
    asked = {
        "method": raw.method,
        "values": raw.values,
        "headers": raw.headers,
        "body": raw.data,
        "url_path": raw.path,
        "url_params": {},
    }
    return protocol, parser.parse(asked)


def forward(application: Application, request: Request, changed: Mapping[str, str] | None = None) -> Response:
    """Let moto answer, with some parameters of the form ``changed``."""
    environ = request.environ.copy()
    body = urlencode({**request.form, **changed}).encode() if changed else request.body
    environ["wsgi.input"] = io.BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], _info: Any = None) -> Callable[..., None]:
        started[:] = [status, headers]
        return lambda _data: None

    chunks = application(environ, start_response)
    try:
        content = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    status = int(started[0].split()[0])
    error = read_error_code(content) if status >= 400 else ""
    return Response(status=status, headers=tuple(started[1]), body=content, error=error)


def read_error_code(body: bytes) -> str:
    text = body.decode(errors="replace")
    if text.startswith("{"):
        return str(json.loads(text).get("__type", "")).rpartition("#")[2]
    return text.partition("<Code>")[2].partition("</Code>")[0]


def write_result(request: Request, result: Any, *, as_it_is: bool = False) -> Response:
    """A successful answer: a mapping named as in boto3, or an object of moto's.

    ``as_it_is`` keeps moto from showing every instance that RunInstances gives as pending.
    """
    transformers = dict(EC2BaseResponse.RESPONSE_KEY_PATH_TO_TRANSFORMER) if request.service == "ec2" else {}
    if as_it_is:
        del transformers["RunInstances.Reservation.Instances.Instance.State"]
    name = MODELS.get(request.service, request.service)
    model = get_service_model(name)
    serializer = get_serializer_class(name, request.protocol)(
        operation_model=model.operation_model(request.action),
        pretty_print=False,
        value_picker=XFormedAttributePicker(response_transformers=transformers),
    )
    written = serializer.serialize(result)
    body = written["body"]
    return Response(
        status=written["status_code"],
        headers=tuple((name, str(value)) for name, value in written["headers"].items()),
        body=body if isinstance(body, bytes) else body.encode(),
    )


def write_error(request: Request, error: AwsError) -> Response:
    """An error in the shape of the request's protocol."""
    code, message = escape(error.code), escape(error.message)
    content_type = "text/xml"
    if request.protocol in ("json", "rest-json"):
        content_type = "application/x-amz-json-1.1"
        text = json.dumps({"__type": error.code, "message": error.message})
    elif request.protocol == "ec2":
        text = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            "<RequestID>lab</RequestID></Response>"
        )
    else:
        side = "Receiver" if error.status >= 500 else "Sender"
        text = (
            f"<ErrorResponse><Error><Type>{side}</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            "<RequestId>lab</RequestId></ErrorResponse>"
        )
    headers = (("Content-Type", content_type),)
    return Response(status=error.status, headers=headers, body=text.encode(), error=error.code)
