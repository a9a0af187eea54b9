"""The guides can be followed word for word."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

import pytest

from tests.e2e.guides import follow_guide
from tests.e2e.project import REPOSITORY, copy_shipped_project
from tests.lab import running_lab
from tests.lab.bodies import Bodies

TOLD = {
    "ci.md": (
        "templates/banner.j2 changed",
        "exit code 3: something is to be baked",
        "exit code 0: nothing is",
        "web:pr-1 is web:2",
        "### baker: 2 baked",
        "You are on a web machine!",
        "issued anew, not baked",
        "nothing is left to do",
        'true\n["mail:4", "web:4"]\n',
        "number the versions from 1 again",
    ),
    "writing-recipes.md": (
        "the image test does not know that heading",
        "hello converges",
        "<h1>Hello</h1>",
        "data.greeting changed",
        "hello:2",
    ),
    "working-with-images.md": (
        "hello has no version 7",
        "there is none",
        "data.greeting changed",
        "the gate says what is missing",
        "it has no label approved-by",
        "refused",
        "leased by load-tests",
        "hello:1 is available",
        "prod has nothing left to fall back to",
        "hello:2          restored",
        "<h1>Welcome</h1>",
    ),
    "nightly.md": (
        "nightly done: 2 baked, 2 promoted",
        "tool:1: dev held it for",
        "images: nightly done (",
        "package outdated: greeter 1.0 -> 1.1",
        "greeter 1.0 to 1.1\n",
        "tool:1 to tool:2",
        "hello from 1.1",
        "images: nightly failed: base",
        "exit code 1",
        "recovered  base:1",
        "TOLD: images: nightly recovered",
        "PINGED: /my-check/fail",
        "OnCalendar=03:00",
        "removed ",
    ),
}


@pytest.mark.machine
@pytest.mark.slow
@pytest.mark.parametrize("guide", TOLD)
def test_guide_can_be_followed_word_for_word(guide: str, tmp_path: Path, shared_home: Path) -> None:
    said = follow_guide(guide, tmp_path, shared_home)
    assert [words for words in TOLD[guide] if words not in said] == [], said


@pytest.mark.machine
@pytest.mark.slow
def test_guide_to_aws_can_be_followed_word_for_word_on_the_lab(tmp_path: Path, bodies_home: Path) -> None:
    with running_lab(Bodies(bodies_home)) as lab:
        said = follow_guide("baking-on-aws.md", tmp_path, bodies_home, lab.environment)
        held = "".join(lab.holdings())
    told = (
        "Not complete yet",
        "hello:1 for aws/x86_64",
        "API calls in all",
        "nothing that it depends on moved",
        "\nactive\n",
        "hello:staging is hello:2",
        "hello:staging is published",
        "nothing is left behind",
    )
    assert [words for words in told if words not in said] == [], said
    assert "security-group" not in held
    assert "instance" not in held


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@pytest.mark.machine
@pytest.mark.slow
def test_guide_to_deployments_can_be_followed_word_for_word(tmp_path: Path, shared_home: Path) -> None:
    clone = tmp_path / "baker"
    copy_shipped_project(clone, tmp_path / "home")
    shutil.copytree(REPOSITORY / "environments", clone / "environments")
    ports = {"8080": free_port(), "8090": free_port()}
    file = clone / "environments/demo.toml"
    file.write_text(file.read_text().replace(":8080", f":{ports['8080']}"))
    said = follow_guide("deploying.md", tmp_path, shared_home, clone=clone, ports=ports)
    told = (
        'content: "***"',
        "demo: first deployment, web:1 on 2 machines",
        "hello from 1-",
        "unchanged: demo serves web:1 already (release 1)",
        "demo: web:1 -> web:2 on 2 machines",
        "demo is web:1 (release 1)",
        "Taking web:3 back: not every machine became and stayed healthy within 30 s",
        "exit code 1",
        "it was better before",
        "file /etc/sysctl.d/70-web.conf: content changed",
        "exit code 3",
        "replaced 1-1 by 1-3",
        "demo: replaced 1-2 by 1-4",
        "would remove side demo-1 (web:1): its roll-back window is over",
        "removed side demo-1 (web:1): its roll-back window is over",
        "public is web:2 (release 1)",
        "removed demo (demo-4)",
    )
    assert [words for words in told if words not in said] == [], said
    assert re.search(
        r"^ *[0-9]+ <h1>It works better</h1>\n *[0-9]+ <h1>It works</h1>$", said, re.MULTILINE
    ), said
    assert "another answer" not in said
    assert "curl: (" not in said
    assert "s3cret" not in said.replace("export SITE_TOKEN", "")
