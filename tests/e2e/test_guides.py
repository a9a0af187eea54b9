"""The guides can be followed word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.guides import follow_guide

TOLD = {
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
}


@pytest.mark.machine
@pytest.mark.slow
@pytest.mark.parametrize("guide", TOLD)
def test_guide_can_be_followed_word_for_word(guide: str, tmp_path: Path, shared_home: Path) -> None:
    said = follow_guide(guide, tmp_path, shared_home)
    assert [words for words in TOLD[guide] if words not in said] == [], said
