"""What a recipe asked of apt, what apt says, and which packages are its own."""

from __future__ import annotations

import pytest

from baker.package_state import (
    Asked,
    PackageState,
    PackageUpdate,
    decode_state,
    encode_state,
    find_asked,
    find_own,
    lift_holds,
    list_installed,
    parse_files,
    parse_local,
    parse_options,
    parse_policy,
    parse_simulation,
    strip_status,
)

PYINFRA = (
    'DEBIAN_FRONTEND=noninteractive apt-get -y -o Dpkg::Options::="--force-confdef" '
    '-o Dpkg::Options::="--force-confold" '
)


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (f"{PYINFRA} install nginx-light curl", {"nginx-light", "curl"}),
        ("sudo -H -n sh -c 'apt-get install -y nginx && systemctl start nginx'", {"nginx"}),
        ("apt-get update; apt-get -qqy install php8.2-fpm:amd64 g++", {"php8.2-fpm", "g++"}),
        ("/usr/bin/apt install -t trixie-backports nginx/trixie-backports vim+", {"nginx", "vim"}),
        ("apt-get install nginx apache2-", {"nginx"}),
        ("apt-get install -y \\\n  nginx \\\n  curl\necho done", {"nginx", "curl"}),
        ("apt-get remove nginx", set()),
        ("apt-get purge -y nginx && rm -r /etc/nginx", set()),
        ("apt-get -s install nginx", set()),
        ("apt-get install --download-only nginx", set()),
        ("echo my-apt-get install nginx; cat /etc/apt install", set()),
        ("apt-get install -y /root/tool_1.0_all.deb", set()),
    ],
)
def test_names_that_apt_is_asked_to_install_are_found(command: str, names: set[str]) -> None:
    found = find_asked([command]).names
    assert found >= names
    assert {name.rstrip("+") for name in found} == {name.rstrip("+") for name in names}


def test_names_from_a_variable_are_the_installed_ones_that_the_command_mentions() -> None:
    asked = find_asked(['PACKAGES="nginx curl gone"; apt-get install -y $PACKAGES'], ["nginx", "curl", "y"])
    assert asked.names == {"nginx", "curl", "y"}


def test_version_from_a_variable_is_fixed() -> None:
    asked = find_asked(["V=1.0; apt-get install -y tool=$V other"], ["tool", "other"])
    assert (asked.fixed, dict(asked.pins), asked.names >= {"tool", "other"}) == ({"tool"}, {}, True)


def test_version_that_is_asked_for_is_a_pin() -> None:
    assert find_asked([f"{PYINFRA} install tool=1.0-2 other"]).pins == {"tool": "1.0-2"}


@pytest.mark.parametrize(
    ("commands", "upgrade"),
    [
        ([f"LC_ALL=C {PYINFRA} dist-upgrade --dry-run"], "dist-upgrade"),
        ([f"{PYINFRA} upgrade"], "upgrade"),
        (["apt full-upgrade -y", "apt-get upgrade"], "dist-upgrade"),
        (["unattended-upgrade -v"], "upgrade"),
        (["apt-get install unattended-upgrades"], None),
        (["apt-get upgrade --download-only"], None),
        (["apt-get update", "apt-get install upgrade"], None),
    ],
)
def test_an_upgrade_of_all_is_seen_also_where_pyinfra_only_asks_what_it_would_do(
    commands: list[str], upgrade: str | None
) -> None:
    assert find_asked(commands).upgrade == upgrade


def test_recommended_packages_count_unless_every_command_does_without() -> None:
    assert not find_asked([f"{PYINFRA} install --no-install-recommends nginx"]).recommends
    assert find_asked(["apt-get install --no-install-recommends a", "apt-get install b"]).recommends
    assert find_asked([]).recommends


def test_files_are_seen_that_no_archive_needs_to_know() -> None:
    assert find_asked(["dpkg -i /root/tool"]).files
    assert find_asked(["apt-get install /root/tool.deb"]).files
    assert not find_asked(["apt-get install tool"]).files
    assert find_asked(["cd /srv; dpkg -i '/root/a tool.deb' /srv/tool.deb ./x.deb"]).paths == {
        "/srv/tool.deb"
    }
    assert parse_files("tool\t1.0\nother\t2.0\nabsent\t1\n", {"tool": "1.0", "other": "1.0"}) == {"tool"}


def test_own_packages_are_those_changed_and_those_asked_for() -> None:
    before = {"libc6:amd64": "2", "bash:amd64": "5", "tool:all": "1"}
    after = {"libc6:amd64": "3", "bash:amd64": "5", "tool:all": "1", "new:amd64": "1"}
    assert find_own(before, after, Asked(names=frozenset({"tool", "absent"}))) == {"libc6", "new", "tool"}
    assert find_own(before, after, Asked(upgrade="upgrade")) == {"new"}


SIMULATED = """\
NOTE: This is only a simulation!
Reading package lists...
Building dependency tree...
The following packages were automatically installed and are no longer required:
  libold1 libolder2:i386
  libthird3
Use 'apt autoremove' to remove them.
The following NEW packages will be installed:
  libnew
Remv apache2 [2.4.1] [nginx:amd64 ]
Inst libnew (1.0 tester:stable [all])
Inst openssl [3.0.15-1~deb12u1] (3.0.16-1~deb12u2 Debian:12.12/oldstable, Debian-Security:12/x-security [amd64]) []
Inst libc6:i386 [2.36] (2.37 Ubuntu:24.04/noble-updates, Ubuntu:24.04/noble-security [i386])
Conf libnew (1.0 tester:stable [all])
"""  # noqa: E501


def test_simulation_tells_changes_new_ones_and_removals() -> None:
    simulated = parse_simulation(SIMULATED)
    assert set(simulated.changes) == {
        PackageUpdate(name="apache2", arch="", installed="2.4.1", candidate=None),
        PackageUpdate(name="libnew", arch="all", installed=None, candidate="1.0"),
        PackageUpdate(
            name="openssl",
            arch="amd64",
            installed="3.0.15-1~deb12u1",
            candidate="3.0.16-1~deb12u2",
            security=True,
        ),
        PackageUpdate(name="libc6", arch="i386", installed="2.36", candidate="2.37", security=True),
    }
    assert simulated.unneeded == {"libold1", "libolder2:i386", "libthird3"}


def test_simulation_of_nothing_is_nothing() -> None:
    assert parse_simulation("0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n").changes == ()


def test_only_settings_that_run_nothing_are_taken_over() -> None:
    dumped = (
        'APT::Architecture "amd64";\nAPT::Architectures:: "amd64";\nAPT::Architectures:: "i386";\n'
        'APT::Install-Recommends "0";\nAPT::Update::Post-Invoke:: "rm -rf /";\n'
        'DPkg::Pre-Install-Pkgs:: "evil";\nDir::Bin::Methods "/tmp";\nAPT::Solver "evil";\n'
        'Acquire::http::Proxy "http://evil";\nAPT::NeverAutoRemove:: "^linux-image-.*$";\n'
        'APT::Default-Release "x"; Dir::Bin::dpkg "evil";\n'
        'APT::AutoRemove::x "\t";\nAPT::AutoRemove::\u00e4 "x";\nAPT::AutoRemove::x "\u00e4";\n'
    )
    options = parse_options(dumped)
    assert [name for name, _ in options] == [
        "APT::Architecture",
        "APT::Architectures::",
        "APT::Architectures::",
        "APT::Install-Recommends",
        "APT::NeverAutoRemove::",
    ]
    assert PackageState(options=options).architectures == ("amd64", "i386")


def test_installed_packages_that_could_have_another_version_are_told() -> None:
    printed = (
        "bash:\n  Installed: 5.2\n  Candidate: 5.2\n  Version table:\n *** 5.2 500\n"
        "held:\n  Installed: 1.0\n  Candidate: 2.0\n  Version table:\n"
        "libc6:i386:\n  Installed: 1.0\n  Candidate: 2.0\nnew:\n  Installed: (none)\n  Candidate: 2.0\n"
        "ours:\n  Installed: 1.0\n  Candidate: (none)\n"
    )
    assert parse_policy(printed) == {"held": "2.0", "libc6": "2.0"}


def test_packages_that_no_archive_has_are_told() -> None:
    listed = "Listing...\nbash/stable,now 5.2 amd64 [installed]\ntool/now 1.0 all [installed,local]\n"
    assert parse_local(listed) == {"tool"}


def test_text_that_patterns_would_never_end_with_is_read_all_the_same() -> None:
    assert parse_local("a/" + "[local " * 20_000 + "\n") == frozenset()
    assert parse_simulation("Inst a [\n" * 50_000 + SIMULATED) == parse_simulation(SIMULATED)
    assert parse_simulation("Remv a [\n" * 50_000 + "Inst a (1" + " " * 50_000).changes == ()


STATUS = """\
Package: tool
Status: hold ok installed
Architecture: all
Version: 1.0
Conffiles:
 /etc/tool 0123
Depends: libc6
Description: a tool
 that tells
 .
 Status: hold

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1.0

Package: other
Status: hold ok installed
Architecture: amd64
Version: 2.0
"""


def test_status_file_keeps_what_decides() -> None:
    stripped = strip_status(STATUS)
    assert "that tells" not in stripped
    assert "/etc/tool" not in stripped
    assert stripped.startswith(
        "Package: tool\nStatus: hold ok installed\nArchitecture: all\nVersion: 1.0\nDepends"
    )
    assert dict(list_installed(stripped)) == {"tool:all": "1.0", "other:amd64": "2.0"}


@pytest.mark.parametrize("name", ["--config-file=/x", "-cx", "../x", "a b", "a/b", "", "a\tb"])
def test_package_of_an_impossible_name_is_none(name: str) -> None:
    told = f"Status: install ok installed\nArchitecture: all\nVersion: 1\n\n{STATUS}"
    for field in ("Package: ", "package:", "PACKAGE:\t"):
        assert strip_status(f"{field}{name}\n{told}") == strip_status(STATUS)
    assert dict(list_installed(f"Package: {name}\n{told}")) == dict(list_installed(STATUS))
    evil = "Package: a\nArchitecture: -x\nStatus: install ok installed\nVersion: 1\n"
    assert list(list_installed(evil)) == []


def test_holds_are_lifted_of_own_packages_only() -> None:
    lifted = lift_holds(STATUS, {"tool"})
    assert lifted.count("Status: hold ok") == 1
    assert "Package: other\nStatus: hold ok installed" in lifted
    assert "\n Status: hold\n" in lifted
    assert "Status: hold ok" not in lift_holds(STATUS, None)


def test_state_that_is_kept_comes_back_the_same() -> None:
    state = PackageState(
        own=frozenset({"nginx", "curl"}),
        from_archive=True,
        upgrade="dist-upgrade",
        pins={"tool": "1.0"},
        recommends=False,
        options=(("APT::Architecture", "amd64"),),
        files={"etc/apt/key.gpg": bytes(range(256)), "var/lib/dpkg/status": STATUS.encode()},
        stuck={"held": "2.0"},
    )
    assert decode_state(encode_state(state)) == state
    unseen = PackageState(stuck=None)
    assert decode_state(encode_state(unseen)) == unseen


@pytest.mark.parametrize(
    "content", [b"", b"x", encode_state(PackageState())[:20], b"x\x9c\x03\x00\x00\x00\x00\x01"]
)
def test_what_is_no_state_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_state(content)
