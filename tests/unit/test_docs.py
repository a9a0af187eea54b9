"""Where a guide lists what the code has, it lists all of it."""

from __future__ import annotations

from pathlib import Path

from baker.aws_settings import AWS_ACCESS, AWS_SETTINGS

GUIDE = Path(__file__).parents[2] / "docs" / "baking-on-aws.md"


def test_guide_to_aws_has_every_setting_as_the_schema_tells_it() -> None:
    rows = [
        f"| `{key}` | {schema['title']} | {schema['description']} |"
        for key, schema in {**AWS_SETTINGS, **AWS_ACCESS}.items()
    ]
    told = [line for line in GUIDE.read_text().splitlines() if line.startswith("| `")]
    assert [row for row in rows if row not in told] == []
    keys = [line.split("`")[1] for line in told]
    assert [key for key in keys if key in AWS_SETTINGS or key in AWS_ACCESS] == [*AWS_SETTINGS, *AWS_ACCESS]
