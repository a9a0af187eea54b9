"""The guides can be followed word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.guides import follow_guide
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
