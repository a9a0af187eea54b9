"""What is said about the proxy that machines fetch through."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from baker.providers.local import proxies
from baker.providers.local.doctor import check_proxy
from tests.e2e.project import BAKER

SECRET = "hush%40w0rd"


def test_proxy_that_answers_is_named_without_its_credentials() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check = check_proxy(f"http://ann:{SECRET}@127.0.0.1:{port}")
    assert check.ok
    assert check.detail == f"http://***@127.0.0.1:{port}, which machines reach at theirs"


def test_proxy_that_does_not_answer_is_a_finding_without_its_credentials() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    check = check_proxy(f"http://ann:{SECRET}@127.0.0.1:{port}")
    assert not check.ok
    assert check.detail == f"http://***@127.0.0.1:{port} does not answer: Connection refused"
    assert "http_proxy" in str(check.remedy)


@pytest.mark.parametrize("address", ["10.0.0.1:3128", "10.0.0.1:99999"], ids=["own address", "no port"])
def test_proxy_that_machines_cannot_use_is_a_finding(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "_own_address", lambda: "10.0.0.1")
    check = check_proxy(f"http://ann:{SECRET}@{address}")
    assert not check.ok
    assert SECRET not in f"{check.detail} {check.remedy}"


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({}, "none: packages are fetched directly"),
        ({"http_proxy": "http://127.0.0.1:1"}, "http://127.0.0.1:1 does not answer"),
        ({"http_proxy": "http://127.0.0.1:1", "BAKER_LOCAL_HTTP_PROXY": "http://127.0.0.1:2"}, "127.0.0.1:2"),
    ],
    ids=["none", "variable", "baker's variable"],
)
def test_doctor_looks_at_the_proxy_that_a_bake_would_use(
    tmp_path: Path, variables: dict[str, str], shown: str
) -> None:
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environ = {**kept, "BAKER_HOME": str(tmp_path), **variables}
    done = subprocess.run(
        [BAKER, "system", "doctor", "--json"], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    assert shown in checks["proxy"]["detail"]
    assert checks["proxy"]["ok"] is not bool(variables)
