"""An image as other tools read it."""

import json
import shlex
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baker.errors import BadReference, UsageError
from baker.formats import (
    Choice,
    choose_artifact,
    make_run_uuid,
    packer_manifest,
    quote_hcl,
    read_query,
    write_env,
)
from baker.model import Image, ImageStatus, Reference
from tests.factories import NOON, make_artifact, make_build


def make_image(*builds):
    return Image(
        recipe="web",
        version=7,
        status=ImageStatus.AVAILABLE,
        complete=True,
        created=NOON,
        channels=(),
        builds=builds,
    )


def make_ami(region, ami="ami-1"):
    return make_artifact(id=ami, target="aws", kind="ami", store=region)


LOCAL = make_build(artifacts=(make_artifact(id="chain"),))
AWS = make_build(target="aws", artifacts=(make_ami("eu-west-1"), make_ami("us-east-1", "ami-2")))


def test_only_target_is_meant_else_the_local_one():
    assert choose_artifact(make_image(LOCAL)).artifact.id == "chain"
    assert choose_artifact(make_image(AWS), region="us-east-1").artifact.id == "ami-2"
    assert choose_artifact(make_image(AWS, LOCAL)).artifact.id == "chain"
    assert choose_artifact(make_image(AWS, LOCAL), target="aws", region="eu-west-1").artifact.id == "ami-1"


@pytest.mark.parametrize(
    ("image", "asked", "message", "hint"),
    [
        (make_image(LOCAL), {"target": "aws"}, "no build for the target aws (it has: local)", "--target"),
        (make_image(LOCAL), {"arch": "arm64"}, "no build for local/arm64 (it has: amd64)", "--arch"),
        (
            make_image(LOCAL, make_build(arch="arm64")),
            {},
            "several builds for local (it has: amd64, arm64)",
            "--arch",
        ),
        (make_image(AWS), {}, "artifacts in several places (it has: eu-west-1, us-east-1)", "--region"),
        (make_image(AWS), {"region": "x"}, "nothing in x (it has: eu-west-1, us-east-1)", "--region"),
        (make_image(), {}, "no build for the target local (it has: none)", "--target"),
    ],
)
def test_what_is_missing_or_not_clear_is_explained(image, asked, message, hint):
    with pytest.raises(BadReference) as caught:
        choose_artifact(image, **asked)
    assert str(caught.value) == f"web:7 has {message}"
    assert caught.value.hint == f"Say which: {hint}"


def test_packer_manifest_has_the_shape_that_packer_writes():
    told = packer_manifest(make_image(LOCAL, AWS), [LOCAL, AWS])
    assert told["last_run_uuid"] in {one["packer_run_uuid"] for one in told["builds"]}
    fields = {
        *("name", "builder_type", "build_time", "files", "artifact_id", "packer_run_uuid", "custom_data")
    }
    assert [set(one) for one in told["builds"]] == [fields, fields]
    assert [one["artifact_id"] for one in told["builds"]] == ["chain", "eu-west-1:ami-1,us-east-1:ami-2"]
    assert [one["builder_type"] for one in told["builds"]] == ["baker-local", "amazon-ebs"]
    assert told["builds"][0]["build_time"] == int(NOON.timestamp())
    assert all(isinstance(value, str) for one in told["builds"] for value in one["custom_data"].values())


def test_run_of_a_bake_is_a_uuid_and_always_the_same():
    assert make_run_uuid("01J") == make_run_uuid("01J") == str(uuid.UUID(make_run_uuid("01J")))
    assert make_run_uuid("01J") != make_run_uuid("01K")


@given(st.text(max_size=8))
def test_shell_reads_every_value_as_it_is(text):
    choice = Choice(image=make_image(LOCAL), build=LOCAL, artifact=make_artifact(store=text))
    assert f"BAKER_IMAGE_STORE={text}" in shlex.split(write_env(choice))


def test_template_marks_mean_nothing_in_terraform():
    assert quote_hcl('a"b\\${c}%{d}$') == '"a\\"b\\\\$${c}%%{d}$"'


def test_query_says_more_than_flags():
    flags = {"reference": "web:1", "target": "local", "arch": None, "region": None}
    query = read_query(json.dumps({"reference": "db:prod", "region": "x"}), flags)
    assert query.reference == Reference(recipe="db", channel="prod")
    assert (query.target, query.arch, query.region) == ("local", None, "x")
    assert read_query("", flags).reference == Reference(recipe="web", version=1)


@pytest.mark.parametrize("text", ["[]", "{", '{"version": "1"}', '{"reference": null}', "{}"])
def test_query_that_asks_for_nothing_known_is_refused(text):
    with pytest.raises(UsageError) as caught:
        read_query(text, {})
    assert "query" in str(caught.value)
