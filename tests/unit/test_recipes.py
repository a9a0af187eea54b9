"""Recipes as they are written, and everything that can be wrong with one."""

# Messages are quoted whole, as a user sees them.
# ruff: noqa: E501

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from baker.errors import RecipeError, RecipeNotFound, UsageError
from baker.model import AmiSource, Bootstrap, Reference, TreeSource
from baker.recipes import (
    apply_overrides,
    load_recipe,
    load_recipes,
    load_sound_recipes,
    merge_data,
    recipe_schema,
    validate_all,
)
from baker.toml_file import locate_keys

AMI = "[targets.aws]\nfrom = { "
ROOT = 'from = "debian:trixie"\n'


def write_recipe(project, name, text=ROOT, *, files=("deploy.py",)):
    folder = project / "recipes" / name
    folder.mkdir(parents=True, exist_ok=True)
    if text is not None:
        (folder / "recipe.toml").write_text(text)
    for file in files:
        (folder / file).write_text("")
    return folder


def assert_problems(project, *lines):
    assert [str(problem) for problem in validate_all(project)] == list(lines)


def assert_one_problem(project, text, message):
    """``message`` is about recipes/web/recipe.toml and starts with its line."""
    write_recipe(project, "web", text)
    assert_problems(project, f"recipes/web/recipe.toml:{message}")


# --- what is read ---------------------------------------------------------------------------------


def test_smallest_recipe_bakes_locally_with_the_defaults(tmp_path):
    write_recipe(tmp_path, "base")
    recipe = load_recipe(tmp_path, "base")
    assert recipe.name == "base"
    assert recipe.folder == f"{tmp_path}/recipes/base"
    assert recipe.project == str(tmp_path)
    assert list(recipe.targets) == ["local"]
    assert recipe.targets["local"].source == Bootstrap(distribution="debian", suite="trixie")
    assert (recipe.timeout, recipe.total_timeout) == (1800, 7200)
    assert (recipe.secrets, recipe.inputs, recipe.workdir, recipe.image_tests) == ((), (), None, ())


def test_every_key_is_read(tmp_path):
    write_recipe(tmp_path, "base")
    text = """
        description = "nginx front end"
        from = "base:latest"
        secrets = ["REPO_TOKEN"]
        environment = ["CI"]
        inputs = ["vendor/**/*.deb"]
        groups = ["web", "edge"]
        workdir = "."
        timeout = "30m"
        total_timeout = 5400.5
        [data]
        worker_processes = 4
        tls = { port = 443, ciphers = ["a"] }
        [targets.local]
        mirror = "http://mirror.example/debian"
        data.tls.port = 8443
        """
    write_recipe(tmp_path, "web", text, files=("deploy.py", "test_image.py", "ports_test.py", "tests.py"))
    recipe = load_recipe(tmp_path, "web")
    local = recipe.targets["local"]
    assert recipe.description == "nginx front end"
    assert local.source == Reference(recipe="base", channel="latest")
    assert (recipe.secrets, recipe.environment) == (("REPO_TOKEN",), ("CI",))
    assert (recipe.inputs, recipe.groups, recipe.workdir) == (("vendor/**/*.deb",), ("web", "edge"), ".")
    assert (recipe.timeout, recipe.total_timeout) == (1800, 5400.5)
    assert local.data == {"worker_processes": 4, "tls": {"port": 8443, "ciphers": ["a"]}}
    assert local.settings == {"mirror": "http://mirror.example/debian"}
    assert recipe.image_tests == (f"{recipe.folder}/ports_test.py", f"{recipe.folder}/test_image.py")


def test_targets_have_their_own_source_data_and_settings(tmp_path):
    text = """
        from = "debian:bookworm"
        [data]
        size = 1
        [targets.local]
        [targets.aws]
        from = { owner = "136693071363", name = "debian-13-amd64-*" }
        instance_type = "t3.small"
        [targets.aws.data]
        size = 2
        """
    write_recipe(tmp_path, "base", text)
    targets = load_recipe(tmp_path, "base").targets
    assert targets["local"].source == Bootstrap(distribution="debian", suite="bookworm")
    assert targets["aws"].source == AmiSource(query={"owner": "136693071363", "name": "debian-13-amd64-*"})
    assert (targets["local"].data, targets["aws"].data) == ({"size": 1}, {"size": 2})
    assert targets["aws"].settings == {"instance_type": "t3.small"}


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("tar:images/a:b.tar.gz", TreeSource(format="tar", path="images/a:b.tar.gz")),
        ("oci:images/web", TreeSource(format="oci", path="images/web")),
        ("oci:images/web:1.2", TreeSource(format="oci", path="images/web", tag="1.2")),
        ("ubuntu:noble", Bootstrap(distribution="ubuntu", suite="noble")),
    ],
)
def test_root_recipe_can_start_from_more_than_debian(tmp_path, text, source):
    write_recipe(tmp_path, "base", f'from = "{text}"\n')
    assert load_recipe(tmp_path, "base").targets["local"].source == source
    assert str(source) == text


REPOSITORY = """
[[targets.local.repositories]]
uri = "https://apt.example.test/debian"
suite = "stable"
keyring = "keys/example.gpg"
"""


def test_repositories_are_settings_of_the_local_target(tmp_path):
    write_recipe(tmp_path, "base", ROOT + REPOSITORY)
    settings = load_recipe(tmp_path, "base").targets["local"].settings
    assert [table["suite"] for table in settings["repositories"]] == ["stable"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('suite = "stable"', "", '3: "targets.local.repositories[0].suite" is missing'),
        (
            "https://apt.example.test/debian",
            "ftp://apt.example.test",
            '4: "targets.local.repositories[0].uri" must be an http:// or https:// address, file:///FOLDER or a folder of the project, not "ftp://apt.example.test"',
        ),
        (
            'suite = "stable"',
            'suite = "stable"\ntrusted = true',
            '6: unknown key "trusted" in [targets.local.repositories[0]] (known: components, keyring, suite, uri)',
        ),
    ],
)
def test_wrong_repository_is_named_by_line_and_key(tmp_path, old, new, message):
    assert_one_problem(tmp_path, ROOT + REPOSITORY.replace(old, new), message)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ('"90s"', 90), ('"1.5h"', 5400), ("0.5", 0.5)])
def test_timeout_is_seconds_or_a_text_with_a_unit(tmp_path, text, seconds):
    write_recipe(tmp_path, "web", f"{ROOT}timeout = {text}\n")
    assert load_recipe(tmp_path, "web").timeout == seconds


def test_long_operation_timeout_stretches_the_total_that_nobody_set(tmp_path):
    write_recipe(tmp_path, "web", f'{ROOT}timeout = "3h"\n')
    assert load_recipe(tmp_path, "web").total_timeout == 3 * 3600


def test_named_recipe_comes_with_its_ancestors_only(tmp_path):
    write_recipe(tmp_path, "base")
    write_recipe(tmp_path, "mid", 'from = "base"\n')
    write_recipe(tmp_path, "web", 'from = "mid"\n')
    write_recipe(tmp_path, "other")
    assert list(load_recipes(tmp_path, ["web"])) == ["base", "mid", "web"]
    assert list(load_recipes(tmp_path)) == ["base", "mid", "other", "web"]


def test_broken_recipe_stops_only_who_needs_it(tmp_path):
    write_recipe(tmp_path, "base")
    write_recipe(tmp_path, "broken", "from = 3\n")
    assert list(load_recipes(tmp_path, ["base"])) == ["base"]
    write_recipe(tmp_path, "web", 'from = "broken"\n')
    with pytest.raises(RecipeError, match=r"^recipes/broken/recipe.toml:1: "):
        load_recipes(tmp_path, ["web"])


def test_folders_that_are_no_recipes_are_passed_over(tmp_path):
    write_recipe(tmp_path, "base")
    write_recipe(tmp_path, ".git")
    write_recipe(tmp_path, "_drafts")
    (tmp_path / "recipes" / "shared").mkdir()
    (tmp_path / "recipes" / "README.md").write_text("")
    assert list(load_recipes(tmp_path)) == ["base"]
    assert_problems(tmp_path)


def test_recipes_may_lie_in_another_folder_of_the_project(tmp_path):
    write_recipe(tmp_path / "images", "base")
    folder = tmp_path / "images" / "recipes"
    recipe = load_recipe(tmp_path, "base", folder=folder)
    assert (recipe.folder, recipe.project) == (f"{folder}/base", str(tmp_path))
    (folder / "base" / "recipe.toml").write_text("fron = 1\n" + ROOT)
    message = 'images/recipes/base/recipe.toml:1: unknown key "fron" (did you mean "from"?)'
    assert [str(problem) for problem in validate_all(tmp_path, folder=folder)] == [message]


# --- what is wrong -----------------------------------------------------------------------------------


def test_unknown_recipe_offers_the_nearest(tmp_path):
    write_recipe(tmp_path, "base")
    write_recipe(tmp_path, "web")
    with pytest.raises(RecipeNotFound) as caught:
        load_recipes(tmp_path, ["wbe"])
    assert str(caught.value) == f'no recipe "wbe" in {tmp_path}/recipes (did you mean "web"?)'
    assert caught.value.hint == "List them: baker recipe ls"
    assert caught.value.exit_code == 2
    with pytest.raises(RecipeNotFound) as caught:
        load_recipe(tmp_path, "zzz")
    assert str(caught.value) == f'no recipe "zzz" in {tmp_path}/recipes'


def test_missing_recipes_folder_is_named(tmp_path):
    assert_problems(tmp_path, "recipes: no such folder")
    with pytest.raises(RecipeError) as caught:
        load_recipes(tmp_path)
    assert str(caught.value) == f"{tmp_path}/recipes is no folder"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # TOML itself
        ('from = "debian:trixie\n', "1:22: is not TOML: Illegal character '\\n'"),
        ("from = [\n", "2:1: is not TOML: Invalid value"),
        (ROOT + ROOT, "2:23: is not TOML: Cannot overwrite a value"),
        # keys
        (
            f'{ROOT}\n[data]\nx = 1\n\n[targets.local]\nsecret = ["A"]\n',
            '7: unknown key "secret" in [targets.local] (did you mean "secrets"?)',
        ),
        (
            f'{ROOT}[targets.local]\nsecrets = ["A"]\n',
            '3: unknown key "secrets" in [targets.local] (it belongs at the top of the file, before the first [table])',
        ),
        (f'{ROOT}descripton = "x"\n', '2: unknown key "descripton" (did you mean "description"?)'),
        (
            f"{ROOT}zzz = 1\n",
            '2: unknown key "zzz" (known: audit, data, description, environment, from, groups, inputs, limits, max_age, retries, secrets, targets, '
            "timeout, total_timeout, workdir)",
        ),
        (f"{ROOT}[targets.gcp]\n", '2: unknown key "gcp" in [targets] (known: aws, local)'),
        (f'{ROOT}targets.local = {{ miror = "http://x/debian" }}\n',
         '2: unknown key "miror" in [targets.local] (did you mean "mirror"?)'),
        # types
        (f"{ROOT}description = 3\n", '2: "description" must be text, not 3'),
        (f'{ROOT}secrets = "TOKEN"\n', '2: "secrets" must be a list of variable names, not "TOKEN"'),
        (f'{ROOT}secrets = [\n  "A",\n  "B-C",\n]\n', '4: "secrets[1]" must be a variable\'s name, not "B-C"'),
        (f'{ROOT}secrets = ["A\\n"]\n', '2: "secrets[0]" must be a variable\'s name, not "A\\n"'),
        (f"{ROOT}environment = [true]\n", '2: "environment[0]" must be a variable\'s name, not true'),
        (f'{ROOT}groups = ["a b"]\n', '2: "groups[0]" must be a group\'s name, not "a b"'),
        (f"{ROOT}data = 1\n", '2: "data" must be a table, not 1'),
        (f"{ROOT}targets.local = []\n", '2: "targets.local" must be a table, not a list'),
        (f'{ROOT}timeout = "soon"\n', '2: "timeout" must be seconds or a text such as "30m", not "soon"'),
        (f"{ROOT}timeout = 0\n", '2: "timeout" must be seconds or a text such as "30m", not 0'),
        (f'{ROOT}timeout = "0m"\n', '2: "timeout" must be seconds or a text such as "30m", not "0m"'),
        (f"{ROOT}total_timeout = inf\n", '2: "total_timeout" must be seconds or a text such as "30m", not inf'),
        (f"{ROOT}timeout = true\n", '2: "timeout" must be seconds or a text such as "30m", not true'),
        (f'{ROOT}inputs = ["/etc/passwd"]\n',
         '2: "inputs[0]" must be a path or glob inside the project, such as templates/**/*.j2, not "/etc/passwd"'),
        (f'{ROOT}inputs = ["a/../../b"]\n',
         '2: "inputs[0]" must be a path or glob inside the project, such as templates/**/*.j2, not "a/../../b"'),
        (f'{ROOT}inputs = ["**.j2"]\n',
         '2: "inputs[0]" must be a path or glob inside the project, such as templates/**/*.j2, not "**.j2"'),
        (f'{ROOT}workdir = ".."\n',
         '2: "workdir" must be a folder inside the recipe\'s folder, such as ".", not ".."'),
        (f'{ROOT}workdir = "files"\n', '2: "workdir" names no folder: files'),
        (f'{ROOT}[targets.local]\nmirror = "m"\n',
         '3: "targets.local.mirror" must be an archive\'s address (http://, https:// or file://), not "m"'),
        (f"{ROOT}[data]\nborn = 2024-01-01\n", "3: 2024-01-01 is a date or time: write it as text"),
        (f"{ROOT}[targets.local.data]\nat = [{{ t = 10:00:00 }}]\n", "3: 10:00:00 is a date or time: write it as text"),
        (f'{ROOT}secrets = ["A", "T"]\nenvironment = ["B",\n"T"]\n',
         '4: "T" is a secret: it cannot be in "environment", whose values are in the fingerprint'),
        (f"{ROOT}[targets]\n", '2: "targets" is empty: name one, or leave it out to mean local'),
        # source
        ("", '1: "from" is missing: what target local starts from, such as "debian:trixie" or "base:latest"'),
        ("\n[targets.aws]\n",
         '2: "from" is missing: what target aws starts from, such as "base:latest" or an AMI query'),
        ("from = 3\n",
         '1: "from" must be a recipe ("base:latest"), a distribution ("debian:trixie"), a root file system ("tar:FILE", "oci:FOLDER") or a table that finds an AMI, not 3'),
        ('from = "Base:1"\n',
         '1: from = "Base:1" is not a recipe ("base:latest"), a distribution ("debian:trixie"), a root file system ("tar:FILE", "oci:FOLDER") or a table that finds an AMI'),
        ('from = "debian"\n', '1: from = "debian" lacks the suite, as in "debian:trixie"'),
        ('from = "ubuntu:"\n', '1: from = "ubuntu:" lacks the suite, as in "ubuntu:noble"'),
        ('from = "tar:"\n', '1: from = "tar:" lacks the path, as in "tar:images/root.tar.zst"'),
        ('from = "oci::v1"\n', '1: from = "oci::v1" lacks the path, as in "oci:images/debian"'),
        ('from = "oci:layout:"\n', '1: from = "oci:layout:" ends in "", which is no tag'),
        (
            'from = "tar:x.tar"\n[targets.aws]\n',
            '1: from = "tar:x.tar" is only unpacked on the target local: give [targets.aws] a "from" of its own',
        ),
        ('from = "debain:trixie"\n', '1: from = "debain:trixie": no recipe "debain" (did you mean "debian"?)'),
        ('from = "fedora:40"\n', '1: from = "fedora:40": no recipe "fedora"'),
        ('from = { owner = "1", name = 2 }\n', '1: "from.name" must be text, not 2'),
        ('from = { owner = "1" }\n', "1: from = {…} finds an AMI, which only target aws starts from"),
        (f"{ROOT}\n[targets.aws]\n",
         '1: from = "debian:trixie" only bootstraps the target local: give [targets.aws] a "from" of its own'),
        ('[targets.aws]\nfrom = "debian:trixie"\n',
         '2: from = "debian:trixie" only bootstraps the target local: give [targets.aws] a "from" of its own'),
        ('from = "web"\n', '1: "from" goes in a circle: web -> web'),
        # AMIs
        (f'{AMI}name = "debian-13-*" }}\n', '2: "owner" is required: anybody can publish an AMI of that name'),
        (f'{AMI}owner = "136693071363" }}\n',
         '2: "name" is missing: which of the owner\'s AMIs, such as "debian-13-{deb_arch}-*"'),
        (f'{AMI}owner = "Debian", name = "debian-13-*" }}\n',
         '2: "owner" must be an account (12 digits), self, amazon or aws-marketplace, not "Debian"'),
        (f'{AMI}id = "ami-12345678", ssm = "/aws/debian" }}\n', '2: "id" and "ssm" both find an AMI: give one of them'),
        (f'{AMI}id = "debian" }}\n', '2: "id" must be an AMI\'s id ("ami-0123456789abcdef0"), not "debian"'),
        (f'{AMI}ssm = "aws/debian" }}\n',
         '2: "ssm" must be the name of an SSM parameter ("/aws/service/…"), not "aws/debian"'),
        (f'{AMI}ssm = "/aws/debian", arch = "arm64" }}\n', '2: "arch" goes with "name" only: "ssm" names one AMI'),
        (f'{AMI}owner = "self", name = "mine-{{architecture}}-*" }}\n',
         '2: "name" holds {architecture}: only {arch} and {deb_arch} are filled in'),
        (f'{AMI}owner = "self", name = "mine-*", arch = "amd64" }}\n', '2: "arch" must be "x86_64" or "arm64", not "amd64"'),
        ('[targets.aws.from]\nowner = "self"\nname = "mine-*"\narchs = "arm64"\n',
         '4: unknown key "archs" (did you mean "arch"?): an AMI is found by '
         '{ owner = "136693071363", name = "debian-13-{deb_arch}-*" }, { ssm = "/aws/service/…" } or { id = "ami-…" }'),
        (f"{AMI}}}\n", '2: a table that finds an AMI is { owner = "136693071363", name = "debian-13-{deb_arch}-*" }, '
         '{ ssm = "/aws/service/…" } or { id = "ami-…" }'),
    ],
)  # fmt: skip
def test_mistake_is_named_by_file_line_and_key(tmp_path, text, message):
    assert_one_problem(tmp_path, text, message)


@pytest.mark.parametrize(
    "query",
    [
        'id = "ami-0123456789abcdef0"',
        'id = "ami-0123456789abcdef0", owner = "self"',
        'owner = "136693071363", name = "debian-13-{deb_arch}-*"',
        'owner = "amazon", name = "al2023-ami-*-{arch}", arch = "x86_64"',
        'ssm = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{arch}"',
    ],
)
def test_ami_is_found_by_id_by_owner_and_name_or_by_ssm_parameter(tmp_path, query):
    write_recipe(tmp_path, "web", f"[targets.aws]\nfrom = {{ {query} }}\n")
    (recipe,) = load_recipes(tmp_path).values()
    assert recipe.targets["aws"].source == AmiSource(query=tomllib.loads(query.replace(", ", "\n")))


def test_text_that_is_not_utf8_is_named_by_line(tmp_path):
    folder = write_recipe(tmp_path, "web")
    (folder / "recipe.toml").write_bytes(b'description = "a"\nfrom = "\xff"\n')
    assert_problems(tmp_path, "recipes/web/recipe.toml:2: is not UTF-8 text")


def test_missing_files_are_named(tmp_path):
    write_recipe(tmp_path, "a", files=["note.txt"])
    write_recipe(tmp_path, "b", text=None)
    assert_problems(
        tmp_path,
        "recipes/a/deploy.py: no such file: a recipe is applied by it",
        "recipes/b/recipe.toml: no such file: a recipe is described by it",
    )


def test_names_that_no_recipe_can_have_are_refused(tmp_path):
    write_recipe(tmp_path, "Web")
    write_recipe(tmp_path, "debian")
    rule = "lower-case letters and digits in words joined by -, a letter first"
    assert_problems(
        tmp_path,
        f'recipes/Web/recipe.toml:1: the folder\'s name "Web" is no recipe name ({rule})',
        'recipes/debian/recipe.toml:1: the name "debian" is reserved for a source: rename the folder',
    )


def test_unknown_parent_offers_the_nearest_recipe(tmp_path):
    write_recipe(tmp_path, "base")
    write_recipe(tmp_path, "web", 'from = "bsae:latest"\n')
    message = 'from = "bsae:latest": no recipe "bsae" (did you mean "base"?)'
    assert_problems(tmp_path, f"recipes/web/recipe.toml:1: {message}")


def test_parent_that_lacks_the_target_is_refused(tmp_path):
    write_recipe(tmp_path, "base")
    write_recipe(tmp_path, "web", 'from = "base"\n[targets.local]\n[targets.aws]\n')
    message = 'from = "base": recipe base has no target aws (local only)'
    assert_problems(tmp_path, f"recipes/web/recipe.toml:1: {message}")


def test_circle_is_named_once_with_everyone_in_it(tmp_path):
    write_recipe(tmp_path, "c", '\nfrom = "a"\n')
    write_recipe(tmp_path, "a", 'from = "b:latest"\n')
    write_recipe(tmp_path, "b", 'from = "c"\n')
    write_recipe(tmp_path, "outside", 'from = "a"\n')
    message = 'recipes/a/recipe.toml:1: "from" goes in a circle: a -> b -> c -> a'
    assert_problems(tmp_path, message)
    with pytest.raises(RecipeError) as caught:
        load_recipes(tmp_path, ["outside"])
    assert str(caught.value) == message


def test_every_problem_of_every_recipe_is_found_at_once(tmp_path):
    write_recipe(tmp_path, "a", "from = 1\ntimeout = true\n[data]\n[targets.local]\nx = 1\n", files=[])
    write_recipe(tmp_path, "b", "= 1")
    files = [(problem.file, problem.line) for problem in validate_all(tmp_path)]
    assert files == [
        ("recipes/a/deploy.py", None),
        ("recipes/a/recipe.toml", 1),
        ("recipes/a/recipe.toml", 2),
        ("recipes/a/recipe.toml", 5),
        ("recipes/b/recipe.toml", 1),
    ]
    with pytest.raises(RecipeError) as caught:
        load_recipes(tmp_path)
    assert len(str(caught.value).splitlines()) == 5
    assert caught.value.hint == "Check them all: baker validate"


# --- data ---------------------------------------------------------------------------------------------


def make_recipe(tmp_path, data):
    write_recipe(tmp_path, "web")
    recipe = load_recipe(tmp_path, "web")
    spec = replace(recipe.targets["local"], data=data)
    return replace(recipe, targets={"local": spec, "aws": replace(spec, target="aws")})


def test_tables_are_merged_and_all_else_is_replaced():
    below = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge_data(below, {"a": {"y": [3]}, "b": {"c": 2}}) == {"a": {"x": 1, "y": [3]}, "b": {"c": 2}}
    assert below == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("n=4", 4), ("n=4.5", 4.5), ("n=true", True), ('n="4"', "4"), ("n=[1, 2]", [1, 2]), ("n={a=1}", {"a": 1}),
        ("n=front end", "front end"), ("n=", ""), ("n=a=b", "a=b"), ("n=2024-01-01", "2024-01-01"),
        ("n=1\nm=2", "1\nm=2"),
    ],
)  # fmt: skip
def test_override_is_toml_or_else_text(tmp_path, override, value):
    recipe = apply_overrides(make_recipe(tmp_path, {"n": 0, "kept": 1}), [override])
    for target in ("local", "aws"):
        assert recipe.targets[target].data == {"n": value, "kept": 1}


def test_dotted_override_goes_into_tables_and_later_ones_win(tmp_path):
    recipe = make_recipe(tmp_path, {"tls": {"port": 443, "on": True}})
    changed = apply_overrides(recipe, ["tls.port=1", "new.deep.key=x", "tls.port=8443"])
    assert changed.targets["local"].data == {"tls": {"port": 8443, "on": True}, "new": {"deep": {"key": "x"}}}
    assert recipe.targets["local"].data == {"tls": {"port": 443, "on": True}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("n", '--set n: not KEY=VALUE (as in "worker_processes=8" or "tls.port=8443")'),
        ("=1", '--set =1: not KEY=VALUE (as in "worker_processes=8" or "tls.port=8443")'),
        ("a..b=1", '--set a..b=1: not KEY=VALUE (as in "worker_processes=8" or "tls.port=8443")'),
        ("n.x=1", "--set n.x=1: data.n is 4, no table"),
        ("t.n.x=1", "--set t.n.x=1: data.t.n is a list, no table"),
    ],
)
def test_override_that_makes_no_sense_is_refused(tmp_path, override, message):
    with pytest.raises(UsageError) as caught:
        apply_overrides(make_recipe(tmp_path, {"n": 4, "t": {"n": []}}), [override])
    assert str(caught.value) == message


# --- schema and lines -------------------------------------------------------------------------------------


def test_schema_is_json_and_names_every_key():
    schema = json.loads(json.dumps(recipe_schema()))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert {"from", "secrets", "data", "targets"} < set(schema["properties"])
    assert schema["additionalProperties"] is False


TRICKY = r'''# comment = 1
a = "x = 1 # \" no"  # b = 2
"quoted \" key" = 'lite"ral\'
'single' = """
b = 3
[not.a.table]
escaped \""" and ends in quotes"""""
raw = QQQ
also = "not a key"
QQQ
a1.b . "c d" = [ 1, { x = 1, y = [
  "]", # ] comment
  { z = 2 } ] },
]
when = 1979-05-27 07:32:00Z
[t . "u.v"]
k = {}
[[list]]
n = 1
[[list]]
n = 2
[list.sub]
deep = -inf
[[list.sub.more]]
x = 0x1F
'''.replace("QQQ", "'''")


def list_paths(value, path=()):
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from list_paths(item, (*path, key))


def test_every_key_of_a_tricky_file_is_found_at_its_line():
    values = tomllib.loads(TRICKY)
    lines = locate_keys(TRICKY)
    assert set(list_paths(values)) <= set(lines)
    numbered = TRICKY.split("\n")
    for path, line in lines.items():
        if isinstance(path[-1], str) and path[-1].isalnum():
            assert path[-1] in numbered[line - 1], path
    assert lines["a1", "b", "c d", 1, "y", 1, "z"] == numbered.index("  { z = 2 } ] },") + 1
    assert lines["list", 1, "n"] == numbered.index("n = 2") + 1


def test_shipped_recipes_are_valid():
    assert validate_all(Path(__file__).parents[2]) == []


def test_recipes_that_are_sound_are_loaded_beside_broken_ones(tmp_path: Path) -> None:
    for name, toml in {
        "base": 'from = "debian:trixie"',
        "web": 'from = "base"',
        "broken": 'from = "base"\nzzz = 1',
        "child": 'from = "broken"',
        "grandchild": 'from = "child"',
        "round": 'from = "about"',
        "about": 'from = "round"',
        "garbled": "from = ",
    }.items():
        folder = tmp_path / "recipes" / name
        folder.mkdir(parents=True)
        (folder / "recipe.toml").write_text(f"{toml}\n")
        (folder / "deploy.py").touch()
    sound, problems = load_sound_recipes(tmp_path)
    assert sorted(sound) == ["base", "web"]
    assert sorted({problem.file for problem in problems}) == [
        "recipes/about/recipe.toml",
        "recipes/broken/recipe.toml",
        "recipes/garbled/recipe.toml",
    ]
