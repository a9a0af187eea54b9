"""Channels and the life of an image from the command line: nothing here boots a machine."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from baker.catalog import Catalog
from baker.cli import make_app
from baker.errors import BakerError
from tests.factories import make_build, make_file, make_image, make_layer, make_package, make_provenance

GATES = """
[channels.prod]
after = "staging"
soak = "24h"
require = ["tests", "no-revoked-ancestor", "label:approved-by"]
"""

APP = make_app()


class Team:
    """A project, a catalog that ``ann`` and others use, and the command line."""

    def __init__(self, folder, url):
        self.folder = folder
        self.url = url
        self.told = ""

    def open(self, actor="ann"):
        return Catalog.open(self.url, actor=actor)

    def run(self, *arguments, actor="ann", status=0):
        """What was printed on stdout; what was said on stderr is in ``told``."""
        environ = {"BAKER_ACTOR": actor, "BAKER_CATALOG": self.url, "BAKER_HOME": str(self.folder / "home")}
        done = CliRunner().invoke(
            APP, ["--project", str(self.folder), *arguments], env=environ, standalone_mode=False
        )
        self.told = done.stderr
        if isinstance(done.exception, BakerError):
            self.told += f"{done.exception}\n{done.exception.hint}"
            assert done.exception.exit_code == status, self.told
        else:
            assert done.exception is None, done.exception
            assert done.return_value == status, self.told
        return done.stdout

    def json(self, *arguments, **options):
        return json.loads(self.run(*arguments, "--json", **options))


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """Made once: a test gets a copy."""
    path = tmp_path_factory.mktemp("seeded") / "catalog.db"
    fill(f"sqlite:///{path}")
    return path


@pytest.fixture
def team(tmp_path, seeded):
    (tmp_path / "baker.toml").write_text(GATES)
    return Team(tmp_path, f"sqlite:///{shutil.copy(seeded, tmp_path)}")


@pytest.fixture
def team_on_both(tmp_path, catalog_url):
    (tmp_path / "baker.toml").write_text(GATES)
    fill(catalog_url)
    return Team(tmp_path, catalog_url)


def fill(url):
    with Catalog.open(url, actor="ann") as catalog:
        base = make_image(catalog, "base")
        for version in ("1.26.3-2", "1.26.3-3"):
            origin = make_provenance(parent_build=base.builds[0].id)
            make_image(
                catalog,
                build=make_build(provenance=origin, image_tests={"test_image.py": "sha256:1"}),
                layers=[make_layer(make_file("/etc/nginx/nginx.conf", version))],
                packages=[make_package("nginx", version)],
            )


def test_promotion_shows_what_would_change_and_moves_nothing_without_a_yes(team):
    team.run("promote", "web:1", "dev", "--yes", "--reason", "the first")
    team.run("promote", "web", "dev", status=2)
    for said in ("web:1 -> web:2", "by ann: the first", "upgraded nginx 1.26.3-2 to 1.26.3-3", "--yes"):
        assert said in team.told
    assert team.json("channel", "ls", "web")["channels"][0]["image"] == "web:1"
    assert team.run("promote", "web", "dev", "-y") == "web:dev is web:2\n"
    assert team.json("promote", "web:2", "dev", "--yes")["move"] is None


def test_gate_of_the_project_names_all_that_is_missing(team):
    team.run("promote", "web:1", "prod", "--yes", status=1)
    assert "staging never held it. Promote it: baker promote web:1 staging" in team.told
    assert "it has no label approved-by=…" in team.told
    assert "no image tests" not in team.told
    assert team.json("channel", "ls")["channels"] == []
    move = team.json("promote", "web:1", "prod", "--yes", "--override", "the site is down")["move"]
    assert move["overridden"]["reason"] == "the site is down"
    assert len(move["overridden"]["missing"]) == 2
    assert "because: the site is down" in team.run("channel", "history", "web", "prod")
    team.run("promote", "web:2", "prod", "--yes", "--override", " ", status=2)


def test_protection_binds_whoever_edits_the_project(team):
    team.run("channel", "protect", "web", "prod", "--only", "ci", "--require", "tests")
    (team.folder / "baker.toml").write_text("")
    team.run("promote", "web:1", "prod", "--yes", "--override", "please", status=2)
    assert "ann may not move web:prod" in team.told
    assert team.run("promote", "web:1", "prod", "--yes", actor="ci") == "web:prod is web:1\n"
    team.run("channel", "unprotect", "web", "prod", status=2)
    team.run("channel", "unprotect", "web", "prod", actor="ci")
    team.run("channel", "unprotect", "web", "prod", status=2)
    assert "keeps no protection" in team.told
    assert "web:prod was unprotected by ci" in team.run("channel", "ls")
    kept = team.json("channel", "protect", "--all", "prod", "--after", "staging", "--soak", "12h")
    assert (kept["recipe"], kept["gate"]["after"]) == (None, {"staging": 43200})
    listed = team.json("channel", "ls", "web")
    assert [kept["recipe"] for kept in listed["protections"]] == [None, "web"]
    assert listed["channels"][0]["gate"] == {"after": {"staging": 43200}, "require": [], "only": None}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["web"], "a recipe and a channel"),
        (["web", "prod"], "needs something to ask"),
        (["web", "prod", "--soak", "1h"], "--soak needs --after"),
        (["web", "prod", "--after", "prod"], "another channel"),
        (["web", "prod", "--require", "luck"], "nothing that a gate can require"),
        (["wbe", "prod", "--require", "tests"], "did you mean web"),
        (["--all", "latest", "--require", "tests"], "latest is always"),
    ],
)
def test_protection_that_makes_no_sense_is_refused(team, arguments, said):
    team.run("channel", "protect", *arguments, status=2)
    assert said in team.told


def test_rollback_leads_back_and_history_says_so(team):
    for version in (1, 2):
        team.run("promote", f"web:{version}", "dev", "--yes")
    assert team.run("rollback", "web", "dev", "--yes", "--reason", "2 is slow") == "web:dev is web:1\n"
    assert "rolled back: 2 is slow" in team.run("channel", "history", "web", "dev")
    assert [move["rolled_back"] for move in team.json("channel", "history", "web", "dev")["moves"]] == [
        *(True, False, False)
    ]
    team.run("rollback", "web", "dev", "--yes", status=1)
    assert "held nothing before web:1" in team.told
    assert team.run("rollback", "web", "dev", "--to", "web:2", "--yes") == "web:dev is web:2\n"
    team.run("channel", "history", "web", "dv", status=2)
    assert "did you mean dev?" in team.told


def test_revoked_image_leaves_its_channels_as_they_are_told_to(team_on_both):
    team = team_on_both
    for version in (1, 2):
        team.run("promote", f"web:{version}", "dev", "--yes")
    team.run("image", "revoke", "web:2", "--reason", "CVE-2026-1", "--yes", status=2)
    assert "web:dev would hold a revoked image" in team.told
    assert team.run("image", "resolve", "web:dev")
    done = team.json("image", "revoke", "web:2", "--reason", "CVE-2026-1", "--yes", "--fall-back")
    assert done["revoked"] == ["web:2"]
    assert [(moved["held"], moved["move"]["to"]) for moved in done["channels"]] == [("web:2", "web:1")]
    team.run("image", "resolve", "web:2", status=2)
    assert "it is revoked: CVE-2026-1" in team.told
    assert team.run("image", "restore", "web:2") == "web:2 is available\n"


def test_what_is_built_upon_a_revoked_image_is_flagged_in_lists(team):
    done = team.json("image", "revoke", "base:1", "--reason", "CVE-2026-1", "--yes")
    assert (done["revoked"], done["flagged"]) == (["base:1"], ["web:2", "web:1"])
    assert "available, revoked ancestor base:1" in team.run("image", "ls", "web")
    assert "revoked ancestor base:1" in team.run("image", "show", "web:1")
    assert team.json("image", "ls", "web")["images"][0]["revoked_ancestors"] == ["base:1"]
    team.run("image", "resolve", "web")
    assert "web:2 is built upon base:1, now revoked" in team.told
    done = team.json("image", "revoke", "base:1", "--reason", "CVE-2026-1", "--yes", "--descendants")
    assert done["revoked"] == ["web:2", "web:1"]


def test_deprecated_image_warns_whoever_uses_it(team):
    assert "web:2 is deprecated from 2" in team.run(
        "image", "deprecate", "web:2", "--at", "30d", "--message", "use web:3"
    )
    assert "on: use web:3" in team.run("image", "show", "web:2")
    team.run("image", "resolve", "web:2")
    assert "deprecated" not in team.told
    assert team.run("image", "deprecate", "web:2", "--message", "use web:3") == "web:2 is deprecated\n"
    team.run("image", "resolve", "web:2")
    assert "Warning: web:2 is deprecated: use web:3" in team.told
    team.run("promote", "web:2", "dev", "--yes")
    assert "web:2 is deprecated: use web:3" in team.told
    assert team.json("image", "ls", "web")["images"][1]["channels"] == ["latest"]
    team.run("image", "deprecate", "web:2", "--at", "tomorrow", status=2)


def test_image_shows_its_labels_leases_and_what_happened_to_it(team):
    assert team.run("image", "label", "web:1", "approved-by=bob", "tier=gold") == (
        "web:1 has the labels approved-by=bob, tier=gold\n"
    )
    team.run("image", "label", "web:1", "--remove", "tier")
    with team.open() as catalog:
        catalog.add_lease("web", 1, owner="env:qa", reason="a trial")
    team.run("promote", "web:1", "dev", "--yes", "--reason", "go")
    text = team.run("image", "show", "web:1")
    for line in (
        "labels       approved-by=bob",
        "leased       by env:qa until it is released",
        "ann labelled it: tier=gold",
        "ann unlabelled it: tier",
        "ann made it available",
        "ann moved dev from nothing to web:1: go",
    ):
        assert line in text
    shown = team.json("image", "show", "web:1")
    assert (shown["labels"], shown["leases"][0]["owner"]) == ({"approved-by": "bob"}, "env:qa")
    assert [event["event"] for event in shown["events"]][-1] == "available"
    for wrong in ("a", "=b", "a=", "a b=c"):
        team.run("image", "label", "web:1", wrong, status=2)
        assert "is not a label" in team.told


def test_wrong_gate_in_the_project_is_named_with_its_line(team):
    (team.folder / "baker.toml").write_text(
        '[channels.prod]\nsoak = "24h"\nrequire = ["luck"]\n\n[channels.latest]\nafter = "latest"\n'
    )
    team.run("channel", "ls", status=2)
    assert 'baker.toml:3: "channels.prod.require[0]" must be "tests"' in team.told
    (team.folder / "baker.toml").write_text('[channels.prod]\nsoak = "24h"\n\n[channels.qa]\nafter = "qa"\n')
    team.run("channel", "ls", status=2)
    assert 'baker.toml:2: "channels.prod.soak" needs "after"' in team.told
    assert 'baker.toml:5: "channels.qa.after" must be another channel' in team.told


def test_every_command_takes_every_kind_of_reference(team):
    team.run("promote", "web:1", "dev", "--yes")
    with team.open() as catalog:
        digest = catalog.image("web", 1).builds[0].digest[:20]
    for reference in ("web:1", "web:dev", f"web@{digest}"):
        assert team.json("image", "show", reference)["reference"] == "web:1"
        assert team.run("image", "label", reference, "a=b").startswith("web:1 has")
        assert team.json("promote", reference, "qa", "--yes")["image"] == "web:1"
