"""What is in every region from the start: images that recipes begin with, and such as must be refused."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.ssm.models import Parameter, ssm_backends

from tests.lab.images import ROOT_DEVICE, make_image

DEBIAN = "136693071363"
SOMEBODY = "210987654321"
PARAMETER = "/aws/service/debian/release/13/latest"


@dataclass(frozen=True, kw_only=True, slots=True)
class StockImage:
    """``age`` in days. ``purpose`` is what tests call it; ``parameter`` ends its SSM parameter's name."""

    purpose: str
    name: str
    architecture: str = "x86_64"
    owner: str = DEBIAN
    age: int = 23
    deprecated: bool = False
    disabled: bool = False
    parameter: str = ""

    def id_in(self, region: str) -> str:
        """Images have other ids in other regions, and the same in every lab."""
        digest = hashlib.sha256(f"{region} {self.owner} {self.name}".encode()).hexdigest()
        return f"ami-{digest[:17]}"


STOCK = (
    StockImage(purpose="source", name="debian-13-amd64-20261101-1", parameter="amd64"),
    StockImage(purpose="arm64", name="debian-13-arm64-20261101-1", architecture="arm64", parameter="arm64"),
    StockImage(purpose="older", name="debian-13-amd64-20260901-1", age=84),
    StockImage(purpose="deprecated", name="debian-13-amd64-20260101-1", age=327, deprecated=True),
    StockImage(purpose="disabled", name="debian-13-amd64-20260201-1", age=296, disabled=True),
    StockImage(purpose="foreign", name="debian-13-amd64-20261120-1", owner=SOMEBODY, age=4),
)


def find_stock(purpose: str) -> StockImage:
    return next(image for image in STOCK if image.purpose == purpose)


def fill(backend: Any) -> None:
    """Register the stock in one region. Idempotent."""
    now = datetime.now(UTC)
    for wanted in STOCK:
        image_id = wanted.id_in(backend.region_name)
        if image_id in backend.amis:
            continue
        image = make_image(
            backend,
            image_id=image_id,
            name=wanted.name,
            description="Debian 13 (the lab's)",
            architecture=wanted.architecture,
            owner=wanted.owner,
            public=True,
            created=(now - timedelta(days=wanted.age)).replace(tzinfo=None),
            devices=[{"DeviceName": ROOT_DEVICE, "Ebs": {"VolumeSize": 8}}],
        )
        if wanted.deprecated:
            image.lab.deprecation_time = now - timedelta(days=30)
        if wanted.disabled:
            image.state = "disabled"
        if wanted.parameter:
            publish(backend, f"{PARAMETER}/{wanted.parameter}", image_id)


def publish(backend: Any, name: str, value: str) -> None:
    """A public parameter: nobody else may write below /aws."""
    parameter = Parameter(
        account_id=backend.account_id,
        name=name,
        value=value,
        parameter_type="String",
        description=None,
        allowed_pattern=None,
        keyid=None,
        last_modified_date=datetime.now(UTC),
        version=1,
        data_type="aws:ec2:image",
    )
    ssm_backends[backend.account_id][backend.region_name]._parameters[name].append(parameter)
