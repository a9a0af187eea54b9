"""What a machine is told at its first boot comes out as it was meant, or is refused."""

# Messages are quoted whole, as a user sees them.
# ruff: noqa: E501

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import jinja2
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from baker.deploy.environment import FirstBootFile
from baker.deploy.first_boot import (
    AWS_LIMIT,
    FirstBootResult,
    check_rendered,
    expected_result,
    mask,
    read_first_boot,
    render_for,
)
from baker.deploy.side import FirstBoot, MachineFacts, find_role
from baker.errors import EnvironmentFileError

FILE = "templates/boot.j2"
SIDE = {"environment": "demo", "release": 3, "image": "web:12", "port": 80}
HERE = MachineFacts(name="3-1", hostname="demo-3-1", number=1, role="primary", address="127.0.0.1")
THERE = MachineFacts(
    name="{{ v1.instance_id }}",
    hostname="{{ v1.local_hostname }}",
    number=0,
    role="primary",
    address="{{ ds.meta_data.local_ipv4 }}",
    filled_in_there=True,
)
KNOWN_THERE = {"v1": {"instance_id": "i-0abc", "local_hostname": "ip-10-0-0-7"}}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(
    "{}%#'\"\\:-\n\r\t \x85\u2028\x00ab😀", max_size=12
)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def make_first_boot(text, *, data=None, secrets=None):
    return FirstBoot(template=FILE, text=text, data=data or {}, secrets=secrets or {})


def render_text(text, facts=HERE, **given):
    return render_for(make_first_boot(text, **given), facts, SIDE)


def fill_in_as_cloud_init(text):
    """As its ``templater.py`` does it: the first line goes, blocks are trimmed."""
    header, _, body = text.partition("\n")
    assert header == "## template: jinja"
    return jinja2.Template(body, trim_blocks=True, keep_trailing_newline=True).render(**KNOWN_THERE)


# --- rendering ------------------------------------------------------------------------------------


def test_template_has_machine_release_data_and_secrets():
    text = (
        "#cloud-config\nhostname: {{ machine.hostname }}\nfinal_message: {{ environment }} {{ release }} "
        "{{ image }} {{ port }} {{ machine.role }} {{ data.a.b }} {{ secrets.KEY }}\n"
    )
    rendered = render_text(text, data={"a": {"b": 1}}, secrets={"KEY": "x"})
    assert rendered == "#cloud-config\nhostname: demo-3-1\nfinal_message: demo 3 web:12 80 primary 1 x\n"


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("{{ data.greting }}", "'dict object' has no attribute 'greting'"),
        ("{{ data.greting | yaml }}", "'dict object' has no attribute 'greting'"),
        ("{{ machine.adress }}", "'dict object' has no attribute 'adress'"),
        ("{{ secrets.KEY | int + {} }}", "TypeError: unsupported operand type(s) for +: 'int' and 'dict'"),
        ("{{ ().__class__.__bases__ }}", "access to attribute '__class__' of 'tuple' object is unsafe."),
    ],
)
def test_what_fails_to_render_is_said_with_the_templates_line(expression, said):
    with pytest.raises(EnvironmentFileError) as caught:
        render_text(f"#cloud-config\n# comment\nhostname: {expression}\n", secrets={"KEY": "4711"})
    assert str(caught.value) == f"templates/boot.j2:3: {said} (for machine 3-1)"


def test_a_secret_in_an_error_is_masked():
    with pytest.raises(EnvironmentFileError) as caught:
        render_text("{{ {}[secrets.KEY | list] }}{{ data[secrets.KEY] }}", secrets={"KEY": "hunter22"})
    assert "hunter22" not in str(caught.value)


@given(value=DATA)
def test_any_value_comes_out_of_the_yaml_filter_as_it_went_in(value):
    rendered = render_text("#cloud-config\nruncmd: {{ data.value | yaml }}\n", data={"value": value})
    assert yaml.safe_load(rendered) == {"runcmd": value}


@given(secret=TEXTS, plain=st.sampled_from(["{", "{%", "{{ x", "{{{", ""]))
def test_what_is_filled_in_there_leaves_every_other_brace_alone(secret, plain):
    text = (
        "#cloud-config\nhostname: {{ machine.hostname }}\n"
        "ssh_authorized_keys: [{{ secrets.KEY | yaml }}, {{ (data.plain ~ machine.name) | yaml }}]\n"
    )
    rendered = render_text(text, THERE, secrets={"KEY": secret}, data={"plain": plain})
    assert yaml.safe_load(fill_in_as_cloud_init(rendered)) == {
        "hostname": "ip-10-0-0-7",
        "ssh_authorized_keys": [secret, f"{plain}i-0abc"],
    }
    assert check_rendered(rendered, FILE) == []


@given(secret=TEXTS)
def test_a_template_for_cloud_inits_jinja_keeps_its_own_expressions_and_nobody_elses(secret):
    text = (
        '## template: jinja\n#cloud-config\nhostname: "{% raw %}{{ v1.local_hostname }}{% endraw %}"\n'
        "locale: {{ secrets.KEY | yaml }}\n"
    )
    for facts in (HERE, THERE):
        rendered = render_text(text, facts, secrets={"KEY": secret})
        assert yaml.safe_load(fill_in_as_cloud_init(rendered)) == {
            "hostname": "ip-10-0-0-7",
            "locale": secret,
        }


def test_a_script_gets_words_that_a_shell_takes_as_they_are():
    value = 'it\'s; $(rm -rf /) "é"\n'
    rendered = render_text("#!/bin/sh\necho {{ data.value | shell }}\n", data={"value": value})
    assert shlex.split(rendered.partition("\n")[2]) == ["echo", value]


def test_computing_with_what_is_known_only_there_is_refused():
    for expression in (
        "{{ machine.name | length }}",
        "{{ machine.name[:8] }}",
        "{{ machine.hostname | upper | list }}",
    ):
        with pytest.raises(EnvironmentFileError, match="does more with a fact than write it: "):
            render_text(f"#cloud-config\nhostname: {expression}\n", THERE)


def test_nothing_is_filled_in_there_that_the_template_does_not_use():
    assert render_text("#cloud-config\nlocale: {{ '{{' | yaml }}\n", THERE) == '#cloud-config\nlocale: "{{"\n'


def test_the_last_role_is_that_of_all_that_follow():
    assert [find_role(("primary", "replica"), number) for number in (1, 2, 3, 9)] == [
        "primary",
        *["replica"] * 3,
    ]
    assert find_role((), 1) == ""


# --- secrets --------------------------------------------------------------------------------------


def test_missing_secrets_are_all_named(tmp_path: Path):
    (tmp_path / "templates").mkdir()
    (tmp_path / FILE).write_text("#cloud-config\n")
    file = FirstBootFile(template=FILE, secrets=("A", "B", "C"))
    with pytest.raises(EnvironmentFileError) as caught:
        read_first_boot(tmp_path, file, {"B": "b", "C": ""})
    assert str(caught.value).splitlines() == [
        f'{FILE}: the secret "{name}" is not set: it is the value of the variable {name}' for name in "AC"
    ]
    assert caught.value.hint == "Set it for the command: export A=…"
    read = read_first_boot(tmp_path, file, {"A": "a", "B": "b", "C": "c", "D": "d"})
    assert read.secrets == {"A": "a", "B": "b", "C": "c"}
    with pytest.raises(EnvironmentFileError, match='the secret "A" is not UTF-8 text'):
        read_first_boot(tmp_path, file, {"A": "\udcff", "B": "b", "C": "c"})


@given(secret=TEXTS.filter(lambda text: len(text.strip()) > 3))
def test_no_filter_hides_a_secret_from_the_mask(secret):
    text = "#cloud-config\n# {{ secrets.KEY }}\nlocale: {{ secrets.KEY | yaml }}\nfqdn: {{ secrets.KEY | shell }}\n"
    for facts, tail in ((HERE, ""), (THERE, "hostname: {{ machine.hostname }}\n")):
        masked = mask(render_text(text + tail, facts, secrets={"KEY": secret}), {"KEY": secret})
        plain = mask(render_text(text + tail, facts, secrets={"KEY": "***"}), {})
        assert secret not in masked or secret in plain


def test_each_long_line_of_a_secret_is_masked_wherever_it_is_indented_to():
    key = "-----BEGIN-----\nAAAABBBB\n-----END-----\n"
    rendered = render_text(
        "#cloud-config\nlocale: |\n  {{ secrets.KEY | indent(2) }}\n", secrets={"KEY": key}
    )
    assert mask(rendered, {"KEY": key}).split() == ["#cloud-config", "locale:", "|", "***", "***", "***"]


# --- checking -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hostname: x\n", "what it renders must begin with"),
        ("#cloud-config-archive\n- x\n", "what it renders must begin with"),
        ("", "what it renders must begin with"),
        ("#cloud-config\n", "a cloud-config must be a mapping (key: value); it is empty"),
        ("#cloud-config\n- x\n", "a cloud-config must be a mapping (key: value)"),
        ("#cloud-config\nhostname: 'x\n", "line 3 of what it renders: is not YAML: found unexpected end of stream"),
        ("#cloud-config\n\nhostnam: x\n", 'line 3 of what it renders: unknown key "hostnam" for cloud-init (did you mean "hostname"?)'),
        ("#cloud-config\nruncmd: []\nruncmd: []\n", 'line 3 of what it renders: "runcmd" is there twice: the later one would replace the first'),
        ("#cloud-config\nwrite_files: {}\n", 'line 2 of what it renders: "write_files" must be a list'),
        ("#cloud-config\nwrite_files:\n- path: /a\n- pat: /a\n", 'line 4 of what it renders: an item of "write_files" must be a mapping with "path"'),
        ("#cloud-config\nwrite_files: [{path: a}]\n", 'line 2 of what it renders: "write_files" of a: the path must begin with "/"'),
        ("#cloud-config\nwrite_files: [{path: /a, content: 1}]\n", 'line 2 of what it renders: "write_files" of /a: the content must be text: quote it'),
        ("#cloud-config\nwrite_files: [{path: /a, permissions: '0999'}]\n", 'line 2 of what it renders: "write_files" of /a: permissions must be a text such as "0644"'),
        ("#cloud-config\nwrite_files: [{path: /a, encoding: b65}]\n", 'line 2 of what it renders: "write_files" of /a: unknown encoding "b65"'),
        ("#cloud-config\nwrite_files: [{path: /a, encoding: gz, content: a}]\n", 'line 2 of what it renders: "write_files" of /a: the content is not what its encoding says'),
        ("#cloud-config\nwrite_files: [{path: /a, contents: a}]\n", 'line 2 of what it renders: "write_files" of /a: unknown key "contents" (did you mean "content"?)'),
        ("## template: jinja\n#cloud-config\nhostnam: {{ v1.x }}\n", 'line 3 of what it renders: unknown key "hostnam" for cloud-init (did you mean "hostname"?)'),
        ("## template: jinja\n#cloud-config\nhostname: {{ v1.x\n", "line 3 of what it renders: is no template for cloud-init"),
    ],
)  # fmt: skip
def test_what_cloud_init_would_not_take_is_named_with_its_line(text, said):
    problems = check_rendered(text, FILE)
    assert len(problems) == 1
    assert problems[0].startswith(f"{FILE}: {said}")


def test_what_cloud_init_takes_is_not_complained_of():
    for text in (
        "#cloud-config\nhostname: x\nca-certs: {}\n",
        "#!/bin/sh\n",
        "## template: jinja\n#!/bin/sh\necho {{ v1.x }}\n",
        'Content-Type: multipart/mixed; boundary="x"\nMIME-Version: 1.0\n\n--x--\n',
    ):
        assert check_rendered(text, FILE) == []


def test_too_much_for_ec2_is_said():
    text = "#!/bin/sh\n# " + "é" * (AWS_LIMIT // 2)
    assert check_rendered(text, FILE) == []
    assert check_rendered(text, FILE, limit=AWS_LIMIT) == [
        f"{FILE}: renders 16396 bytes, and at most 16384 can be told to a machine"
    ]


# --- what comes of it -----------------------------------------------------------------------------


def digest(data):
    return hashlib.sha256(data).hexdigest()


def test_result_has_files_as_they_are_decoded_users_and_hostname():
    text = """#cloud-config
fqdn: web.example.com
users: [default, {name: ada, ssh_authorized_keys: [x]}, bob]
write_files:
- {path: /etc/a, content: "x\\n"}
- {path: /etc//b, content: eA==, encoding: b64}
- {path: /etc/c, content: !!binary H4sIAAAAAAACA6sAAIMW3IwBAAAA, encoding: gzip}
- {path: /etc/d, content: x, append: true}
- {path: /etc/e}
"""
    files = {
        "/etc/a": digest(b"x\n"),
        "/etc/b": digest(b"x"),
        "/etc/c": digest(b"x"),
        "/etc/d": "",
        "/etc/e": digest(b""),
    }
    assert expected_result(text) == FirstBootResult(files=files, users=("ada", "bob"), hostname="web")


def test_nothing_is_promised_of_what_is_known_only_there_or_of_a_script():
    text = render_text(
        "#cloud-config\nhostname: {{ machine.hostname }}\nusers: [ada]\nwrite_files:\n"
        "- {path: /etc/a, content: '{{ machine.name }}'}\n- {path: /etc/b, content: {{ '{{ b }}' | yaml }}}\n",
        THERE,
    )
    files = {"/etc/a": "", "/etc/b": digest(b"{{ b }}")}
    assert expected_result(text) == FirstBootResult(files=files, users=("ada",))
    assert expected_result("#!/bin/sh\n") == FirstBootResult()
