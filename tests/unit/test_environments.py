"""Environments as they are written, and everything that can be wrong with one."""

# Messages are quoted whole, as a user sees them.
# ruff: noqa: E501

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer

from baker.cli.completion import complete_environment
from baker.deploy.environment import Environment, FirstBootFile, Health, Rollout
from baker.deploy.first_boot import check_rendered, render
from baker.deploy.reading import list_environments, load_environment, validate_environments
from baker.deploy.schema import environment_schema
from baker.deploy.side import FirstBoot, MachineFacts, Side
from baker.errors import EnvironmentFileError
from baker.fingerprint import static_inputs
from baker.model import Artifact, Reference
from baker.recipes import load_recipe, load_sound_recipes, validate_all

ROOT = Path(__file__).parents[2]
HEAD = 'recipe = "web"\ntarget = "local"\n'
LOCAL = '[local]\nlisten = "127.0.0.1:8080"\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    ami = 'from = { owner = "self", name = "debian-*" }'
    write_recipe(tmp_path, "here", f'from = "debian:trixie"\n[targets.local]\n[targets.aws]\n{ami}\n')
    write_recipe(tmp_path, "web", 'from = "here:latest"\n[targets.local]\n[targets.aws]\n')
    write_recipe(tmp_path, "only", 'from = "debian:trixie"\n')
    (tmp_path / "templates").mkdir()
    (tmp_path / "environments").mkdir()
    (tmp_path / "baker.toml").write_text("")
    return tmp_path


def write_recipe(project, name, text):
    folder = project / "recipes" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(text)
    (folder / "deploy.py").write_text("")


def write_environment(project, text, name="demo"):
    (project / "environments" / f"{name}.toml").write_text(text)


def find_all_problems(project):
    recipes = load_sound_recipes(project)[0]
    return [str(problem) for problem in validate_environments(project, recipes)]


def assert_problems(project, *lines):
    """Both by validating all, and by loading the one."""
    assert find_all_problems(project) == list(lines)
    with pytest.raises(EnvironmentFileError) as caught:
        load_environment(project, "demo")
    assert str(caught.value).splitlines() == list(lines)


# --- what is read ---------------------------------------------------------------------------------


def test_smallest_environment_has_the_defaults(project):
    write_environment(project, HEAD + LOCAL)
    assert load_environment(project, "demo") == Environment(
        name="demo",
        file="environments/demo.toml",
        description="",
        recipe="web",
        image=Reference(recipe="web"),
        target="local",
        machines=1,
        port=80,
        health=Health(),
        rollout=Rollout(),
        first_boot=None,
        settings={"listen": "127.0.0.1:8080"},
    )


def test_every_key_is_read(project):
    (project / "templates/boot.j2").write_text("#cloud-config\nhostname: {{ data.greeting }}\n")
    text = """
description = "what users reach"
recipe = "web"
channel = "prod"
target = "local"
machines = 3
port = 8000
[health]
command = ["/usr/bin/check", "a b"]
interval = 0.5
timeout = "3s"
within = "1m"
[rollout]
batch = 2
soak = 0
watch = "0s"
steps = [10, 50, 100]
window = "2d"
drain = "1m"
[first_boot]
template = "templates/boot.j2"
secrets = ["TOKEN"]
roles = ["primary", "replica"]
data.greeting = "hello"
[audit]
allow = ["/srv/site/cache/**"]
ports = [9100]
[local]
listen = "localhost:8080"
memory = "512M"
[aws]
vpc = "vpc-0123abcd"
load_balancer = "web"
"""
    write_environment(project, text)
    environment = load_environment(
        project, "demo", base={"local": {"memory": "1G", "pids": 7}, "aws": {"a": 1}}
    )
    assert environment.image == Reference(recipe="web", channel="prod")
    assert environment.health == Health(
        path=None, command=("/usr/bin/check", "a b"), interval=0.5, timeout=3, within=60
    )
    assert environment.rollout == Rollout(
        batch=2, soak=0, watch=0, steps=(10, 50, 100), window=172800, drain=60
    )
    assert environment.first_boot == FirstBootFile(
        template="templates/boot.j2",
        data={"greeting": "hello"},
        secrets=("TOKEN",),
        roles=("primary", "replica"),
    )
    assert environment.settings == {"listen": "127.0.0.1:8080", "memory": "512M", "pids": 7}
    assert (environment.allow, environment.allow_ports) == (("/srv/site/cache/**",), (9100,))
    write_environment(
        project, text.replace('target = "local"', 'target = "aws"').replace('channel = "prod"', "version = 3")
    )
    environment = load_environment(project, "demo", base={"aws": {"region": "eu-west-1", "vpc": "vpc-1"}})
    assert environment.image == Reference(recipe="web", version=3)
    assert environment.settings == {"region": "eu-west-1", "vpc": "vpc-0123abcd", "load_balancer": "web"}


def test_environments_are_listed_and_completed(project):
    for name in ("prod", "demo", "_draft"):
        write_environment(project, HEAD + LOCAL, name)
    assert list_environments(project) == ["demo", "prod"]
    app = typer.Typer()
    app.command("deploy")(lambda: None)
    context = typer.Context(typer.main.get_command(app))
    context.params = {"project": str(project)}
    assert complete_environment(context, "p") == ["prod"]
    assert complete_environment(context, "") == ["demo", "prod"]


# --- what is wrong --------------------------------------------------------------------------------


def test_an_environment_that_is_not_there_is_named_with_the_nearest(project):
    write_environment(project, HEAD + LOCAL)
    with pytest.raises(EnvironmentFileError) as caught:
        load_environment(project, "dmo")
    assert str(caught.value) == 'no environment "dmo" in environments/ (did you mean "demo"?)'
    assert caught.value.hint == "There are: demo"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "x = = 1", "3:5: is not TOML: Invalid value"),
        (LOCAL, '1: "recipe" is missing\nenvironments/demo.toml:1: "target" is missing'),
        (HEAD + "machins = 2\n" + LOCAL, '3: unknown key "machins" (did you mean "machines"?)'),
        (HEAD + "machines = 101\n" + LOCAL, '3: "machines" must be a number of machines (1 to 100), not 101'),
        (HEAD + "machines = 0\n" + LOCAL, '3: "machines" must be a number of machines (1 to 100), not 0'),
        (HEAD + "port = 65536\n" + LOCAL, '3: "port" must be a port (1 to 65535), not 65536'),
        (HEAD + 'channel = "prod"\nversion = 3\n' + LOCAL, '4: "channel" and "version" exclude each other: leave one out'),
        ('recipe = "wbe"\ntarget = "local"\n' + LOCAL, '1: recipe = "wbe": no recipe "wbe" (did you mean "web"?)'),
        ('recipe = "only"\ntarget = "aws"\n[aws]\nvpc = "vpc-1"\nload_balancer = "web"\n', '2: target = "aws": recipe only has no target aws (local only)'),
        ('recipe = "web"\ntarget = "gcp"\n' + LOCAL, '2: "target" must be "local" or "aws", not "gcp"'),
        (HEAD, '1: "local.listen" is missing: target local needs it, such as listen = "127.0.0.1:8080"'),
        ('recipe = "web"\ntarget = "aws"\n[aws]\nvpc = "vpc-1"\n', '3: "aws.load_balancer" is missing: target aws needs it, such as load_balancer = "web"'),
        (HEAD + '[local]\nlisten = "example.com:80"\n', '4: "local.listen" must be an address of this host and a port, not "example.com:80"'),
        (HEAD + '[local]\nlisten = "127.0.0.1:70000"\n', '4: "local.listen" must be an address of this host and a port, not "127.0.0.1:70000"'),
        (HEAD + '[local]\nlisten = "::1:80"\n', '4: "local.listen" must be an address and a port ("127.0.0.1:8080"), not "::1:80"'),
        (HEAD + LOCAL + '[health]\npath = "health"\n', '6: "health.path" must be a path that begins with "/" and has no blanks ("/health"), not "health"'),
        (HEAD + LOCAL + '[health]\npath = "/a b"\n', '6: "health.path" must be a path that begins with "/" and has no blanks ("/health"), not "/a b"'),
        (HEAD + LOCAL + '[health]\npath = "/a\\u0000"\n', '6: "health.path" must be a path that begins with "/" and has no blanks ("/health"), not "/a\\u0000"'),
        (HEAD + LOCAL + '[health]\nstatus = 700\n', '6: "health.status" must be an HTTP status (100 to 599), not 700'),
        (HEAD + LOCAL + '[health]\npath = "/"\ncommand = ["/bin/true"]\n', '6: "health.path" and "health.command" exclude each other: leave one out'),
        (HEAD + LOCAL + '[health]\ncommand = []\n', '6: "health.command" must begin with the path of a program in the machine ("/usr/bin/…")'),
        (HEAD + LOCAL + '[health]\ninterval = "0s"\n', '6: "health.interval" must be seconds or a text such as "30s" or "5m", not "0s"'),
        (HEAD + LOCAL + "[rollout]\nsteps = [50, 10, 100]\n", '6: "rollout.steps" must ascend and end with 100, such as [10, 50, 100], not [50, 10, 100]'),
        (HEAD + LOCAL + "[rollout]\nsteps = [50]\n", '6: "rollout.steps" must ascend and end with 100, such as [10, 50, 100], not [50]'),
        (HEAD + LOCAL + "[rollout]\nsteps = []\n", '6: "rollout.steps" must ascend and end with 100, such as [10, 50, 100], not []'),
        (HEAD + LOCAL + "[rollout]\nsteps = [101]\n", '6: "rollout.steps[0]" must be a percentage (1 to 100), not 101'),
        (HEAD + LOCAL + '[rollout]\nwindow = "soon"\n', '6: "rollout.window" must be seconds or a text such as "30s" or "5m", not "soon"'),
        (HEAD + LOCAL + '[audit]\nallow = ["srv/**"]\n', '6: "audit.allow[0]" must be an absolute path or glob, such as /srv/site/cache/**, not "srv/**"'),
        (HEAD + LOCAL + "[audit]\nports = [65536]\n", '6: "audit.ports[0]" must be a port (1 to 65535), not 65536'),
        (HEAD + LOCAL + "[first_boot]\n", '5: "first_boot.template" is missing'),
        (HEAD + LOCAL + '[first_boot]\ntemplate = "templates/nothing.j2"\n', '6: "first_boot.template" names no file: templates/nothing.j2'),
        (HEAD + LOCAL + '[first_boot]\ntemplate = "../x"\n', '6: "first_boot.template" must be a file of the project ("templates/first-boot/web.yaml.j2"), not "../x"'),
        (HEAD + LOCAL + '[first_boot]\ntemplate = "a"\nsecrets = ["A-B"]\n', '7: "first_boot.secrets[0]" must be a variable\'s name, not "A-B"'),
        (HEAD + LOCAL + '[aws]\nlistener_port = 70000\n', '6: "aws.listener_port" must be a port (1 to 65535), not 70000'),
    ],
)  # fmt: skip
def test_mistake_is_named_by_file_line_and_key(project, text, message):
    write_environment(project, text)
    assert_problems(project, *f"environments/demo.toml:{message}".splitlines())


def test_an_environments_name_is_a_host_names_beginning(project):
    rule = "lower-case letters and digits in words joined by -, a letter first, at most 40"
    for name in ("Demo", "a" * 41, "a--b"):
        write_environment(project, HEAD + LOCAL, name)
        message = f'environments/{name}.toml: the file\'s name "{name}" names no environment ({rule})'
        assert find_all_problems(project) == [message]
        (project / f"environments/{name}.toml").unlink()
    write_environment(project, HEAD + LOCAL, "a" * 40)
    assert find_all_problems(project) == []


def test_two_environments_cannot_listen_at_the_same_place(project):
    write_environment(project, HEAD + LOCAL)
    for name, listen in (("other", "localhost:8080"), ("another", "0.0.0.0:8080")):
        write_environment(project, HEAD + LOCAL.replace("127.0.0.1:8080", listen), name)
        assert_problems_of_both(project, name)
        (project / f"environments/{name}.toml").unlink()
    for listen in ("127.0.0.1:8081", "127.0.0.2:8080"):
        write_environment(project, HEAD + LOCAL.replace("127.0.0.1:8080", listen), "other")
        assert find_all_problems(project) == []


def assert_problems_of_both(project, other):
    said = '"local.listen": environment {} listens on port 8080 there too'
    assert find_all_problems(project) == sorted(
        [
            f"environments/demo.toml:4: {said.format(other)}",
            f"environments/{other}.toml:4: {said.format('demo')}",
        ]
    )
    with pytest.raises(
        EnvironmentFileError, match=rf"^environments/demo\.toml:4: .* environment {other} listens"
    ):
        load_environment(project, "demo")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("#cloud-config\nhostname: {{ x\n", "templates/boot.j2:2: is no Jinja2 template: unexpected end of template, expected 'end of print statement'."),
        ("#cloud-config\nhostname: {{ x | ymal }}\n", "templates/boot.j2:2: is no Jinja2 template: No filter named 'ymal'."),
        ("#cloud-config\nhostname: {{ machin.name }}\n", 'templates/boot.j2:2: unknown variable "machin" (did you mean "machine"?)'),
        ('#cloud-config\n{% include "x" %}\n', 'templates/boot.j2:2: "include" of another file: a first-boot template stands alone, for a machine is made again also where the project is not there'),
        ("#cloud-config\nhostname: {{ data.x }}\n", "environments/demo.toml:6: templates/boot.j2:2: 'dict object' has no attribute 'x' (for machine 1-1)"),
        ("#cloud-config\nhostnam: {{ machine.name }}\n", 'environments/demo.toml:6: templates/boot.j2: line 2 of what it renders: unknown key "hostnam" for cloud-init (did you mean "hostname"?)'),
    ],
)  # fmt: skip
def test_a_first_boot_that_would_not_do_is_found_before_anything_starts(project, template, message):
    (project / "templates/boot.j2").write_text(template)
    write_environment(project, HEAD + LOCAL + '[first_boot]\ntemplate = "templates/boot.j2"\n')
    assert_problems(project, message)


def test_a_broken_recipe_is_not_said_to_be_none(project):
    write_recipe(project, "web", "nonsense = 1\n")
    write_environment(project, HEAD + LOCAL)
    assert find_all_problems(project) == []
    assert load_environment(project, "demo").recipe == "web"


# --- audits, as recipes allow them ------------------------------------------------------------------


def test_what_a_recipe_allows_an_audit_changes_no_fingerprint(project):
    text = 'from = "debian:trixie"\n'

    def inputs():
        return static_inputs(load_recipe(project, "only"), "local", "x86_64", "sha256:0", {}, {}, {})

    before = inputs()
    write_recipe(project, "only", text + '[audit]\nallow = ["/var/cache/app/**"]\nports = [9100]\n')
    recipe = load_recipe(project, "only")
    assert (recipe.audit_allow, recipe.audit_ports) == (("/var/cache/app/**",), (9100,))
    assert inputs() == before
    write_recipe(project, "only", text + "[audit]\nports = [65536]\n")
    assert [str(problem) for problem in validate_all(project)] == [
        'recipes/only/recipe.toml:3: "audit.ports[0]" must be a port (1 to 65535), not 65536'
    ]


# --- what is shipped ------------------------------------------------------------------------------


def test_schema_is_json_and_names_every_key():
    schema = json.loads(json.dumps(environment_schema()))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert {"recipe", "target", "health", "rollout", "first_boot", "local", "aws"} < set(schema["properties"])


def test_shipped_environment_holds_on_both_targets(tmp_path):
    environment = load_environment(ROOT, "demo")
    assert environment.machines == 2
    assert validate_environments(ROOT, load_sound_recipes(ROOT)[0]) == []
    shipped = (ROOT / "environments/demo.toml").read_text()
    head, _, tail = shipped.partition("# [aws]")
    switched = head.replace('target = "local"', 'target = "aws"') + "[aws]" + tail.replace("\n# ", "\n")
    for name in ("recipes", "templates"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "environments").mkdir()
    write_environment(tmp_path, switched)
    assert find_all_problems(tmp_path) == []
    assert load_environment(tmp_path, "demo").settings["load_balancer"] == "web"


@pytest.mark.parametrize("there", [False, True])
def test_shipped_template_renders_with_any_secret(there):
    environment = load_environment(ROOT, "demo")
    assert environment.first_boot is not None
    first_boot = FirstBoot(
        template=environment.first_boot.template,
        text=(ROOT / environment.first_boot.template).read_text(),
        data=environment.first_boot.data,
        secrets={"SITE_TOKEN": "a'b\n{{ c: \"d"},
        roles=environment.first_boot.roles,
    )
    side = Side(
        environment="demo",
        number=3,
        release="r",
        image="web:12",
        artifact=Artifact(id="a", target="local", arch="x86_64", kind="layers", store="s", size_bytes=1),
        port=80,
        health=environment.health,
        drain=1,
        batch=1,
        settings={},
        first_boot=first_boot,
    )
    facts = MachineFacts(
        name="{{ v1.instance_id }}" if there else "3-1",
        hostname="{{ v1.local_hostname }}" if there else "demo-3-1",
        number=1,
        role="primary",
        address="10.0.0.7",
        filled_in_there=there,
    )
    text = render(first_boot, side, facts)
    assert check_rendered(text, first_boot.template) == []
    assert text.startswith("## template: jinja\n#cloud-config\n" if there else "#cloud-config\n")
