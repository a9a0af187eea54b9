"""Recipes whose packages move on in an archive of our own, and what planning says of them against the truth.

The truth is a forced bake: which packages differ between the image before and the one after.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.apt_repository import Deb, publish
from tests.e2e.project import Project

PROXY = Path(__file__).with_name("proxy.py")
APT = "from pyinfra.operations import apt, files, server\n\n"
Change = tuple[str, str | None, str | None]
"""A package, and its versions before and after."""


def make_deb(name: str, version: str = "1.0", **fields: str) -> Deb:
    return Deb(name=name, version=version, fields={name.replace("_", "-"): v for name, v in fields.items()})


OLD = (
    make_deb("our-alpha"),
    make_deb("our-beta"),
    make_deb("our-gamma"),
    make_deb("our-delta"),
    make_deb("our-epsilon"),
    make_deb("our-zeta"),
    make_deb("our-eta"),
    make_deb("our-theta", Depends="our-theta-old"),
    make_deb("our-theta-old"),
    make_deb("our-iota"),
    make_deb("our-kappa"),
    make_deb("our-lambda"),
    make_deb("our-mu"),
    make_deb("our-mu-extra"),
)
NEW = (
    make_deb("our-alpha", "2.0"),
    make_deb("our-beta", "2.0"),
    make_deb("our-gamma"),
    make_deb("our-delta"),
    make_deb("our-delta", "2.0"),
    make_deb("our-epsilon", "2.0"),
    make_deb("our-zeta"),
    make_deb("our-zeta", "2.0"),
    make_deb("our-eta", "2.0", Depends="our-eta-lib"),
    make_deb("our-eta-lib"),
    make_deb("our-theta", "2.0", Depends="our-theta-new", Breaks="our-theta-old", Replaces="our-theta-old"),
    make_deb("our-theta-old"),
    make_deb("our-theta-new"),
    make_deb("our-iota", "2.0", Recommends="our-iota-extra"),
    make_deb("our-iota-extra"),
    make_deb("our-kappa", "2.0"),
    make_deb("our-lambda", "2.0"),
    make_deb("our-mu", "2.0", Depends="our-mu-extra (>= 2.0)"),
    make_deb("our-mu-extra", "2.0"),
    make_deb("nobodys", "2.0"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """A recipe of the table below. ``moves``: a bake of it anew would change something."""

    name: str
    deploy: str
    source: str = "root"
    moves: bool = True


def install(*packages: str, **options: Any) -> str:
    more = "".join(f", {name}={value!r}" for name, value in options.items())
    return f'{APT}apt.packages(name="Install", packages={list(packages)!r}{more})\n'


PREFER = "Package: our-zeta\\nPin: version 1.*\\nPin-Priority: 1001\\n"
SCRIPT = '#!/bin/sh\\nset -e\\nPACKAGES="our-kappa our-gamma"\\napt-get install -y $PACKAGES\\n'
FILE = f"""{APT}
files.put(src="vendor/pool/our-lambda_1.0_all.deb", dest="/root/our-lambda.deb")
apt.deb(src="/root/our-lambda.deb")
"""
SCENARIOS = (
    Scenario(name="root", source="debian:trixie", deploy=install("our-alpha", "our-mu-extra")),
    Scenario(name="installs", deploy=install("our-beta")),
    Scenario(name="leaves-parents", deploy=install("our-gamma", "our-alpha"), moves=False),
    Scenario(name="installs-nothing", deploy=f'{APT}files.directory(path="/srv/x")\n', moves=False),
    Scenario(name="pins-version", deploy=install("our-delta=1.0"), moves=False),
    Scenario(
        name="prefers-version",
        deploy=f"{APT}server.shell(commands=[\"printf '{PREFER}' > /etc/apt/preferences.d/our-zeta\"])\n"
        'apt.packages(packages=["our-zeta"])\n',
        moves=False,
    ),
    Scenario(
        name="holds-later",
        deploy=f'{install("our-epsilon")}server.shell(commands=["apt-mark hold our-epsilon"])\n',
    ),
    Scenario(
        name="holds-parents",
        deploy=f'{install("our-gamma")}server.shell(commands=["apt-mark hold our-alpha"])\napt.upgrade()\n',
    ),
    Scenario(name="gets-dependency", deploy=install("our-eta")),
    Scenario(name="replaces", deploy=install("our-theta")),
    Scenario(name="recommends", deploy=install("our-iota")),
    Scenario(name="recommends-not", deploy=install("our-iota", no_recommends=True)),
    Scenario(name="runs-script", deploy=f'{APT}server.script(src="files/install.sh")\n'),
    Scenario(name="file", deploy=FILE, moves=False),
    Scenario(name="needs-parents-newer", deploy=install("our-mu")),
    Scenario(name="upgrades", deploy=f"{APT}apt.upgrade()\n"),
    Scenario(name="upgrades-all", deploy=f"{APT}apt.dist_upgrade()\n"),
    Scenario(name="asks-for-latest", deploy=install("our-alpha", latest=True)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """What was foretold of one recipe, and what its bake anew changed."""

    scenario: Scenario
    foretold: frozenset[Change]
    happened: frozenset[Change]


def write_project(project: Project, keys: Sequence[Path], scenarios: Sequence[Scenario]) -> None:
    """Recipes of the scenarios, and the folder repository ``vendor`` with the older packages."""
    publish(project.folder / "vendor", keys[0], *OLD)
    (project.folder / "vendor.gpg").write_bytes(keys[0].read_bytes())
    project.write(
        "baker.toml",
        '[[local.repositories]]\nuri = "vendor"\nsuite = "stable"\nkeyring = "vendor.gpg"\n',
    )
    project.write("files/install.sh", SCRIPT.replace("\\n", "\n"))
    for scenario in scenarios:
        project.recipe(scenario.name, toml=f'from = "{scenario.source}"\n', deploy=scenario.deploy)


def publish_newer(project: Project, keys: Sequence[Path]) -> None:
    publish(project.folder / "vendor", keys[0], *NEW)


def list_packages(project: Project, reference: str) -> dict[str, str]:
    build = project.json("image", "show", reference)["builds"][0]
    return {package["name"]: package["version"] for package in build["packages"]}


def compare(project: Project, scenarios: Sequence[Scenario]) -> list[Compared]:
    """What is foretold of each recipe, and what happens. Children first: their parents stay as they are."""
    children = [scenario for scenario in scenarios if scenario.source == "root"]
    roots = [scenario for scenario in scenarios if scenario.source != "root"]
    return [compared for group in (children, roots) for compared in compare_group(project, group)]


def compare_group(project: Project, scenarios: Sequence[Scenario]) -> list[Compared]:
    names = [scenario.name for scenario in scenarios]
    foretold = {
        entry["recipe"]: {(update["package"], update["from"], update["to"]) for update in entry["updates"]}
        for entry in project.json("plan", *names)["recipes"]
    }
    before = {name: list_packages(project, name) for name in names}
    project.bake(*names, "--force", "--jobs", "2")
    return [
        Compared(
            scenario=scenario,
            foretold=frozenset(foretold[scenario.name]),
            happened=frozenset(diff(before[scenario.name], list_packages(project, scenario.name))),
        )
        for scenario in scenarios
    ]


def diff(before: Mapping[str, str], after: Mapping[str, str]) -> set[Change]:
    names = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return {(name, before.get(name), after.get(name)) for name in names}


ADDS_SOURCE = f"""{APT}
SOURCE = "deb [signed-by=/etc/apt/keyrings/ours.gpg] http://apt.example.test/debian stable main"

files.put(src="vendor.gpg", dest="/etc/apt/keyrings/ours.gpg")
files.line(path="/etc/apt/sources.list.d/ours.list", line=SOURCE)
apt.packages(packages=["our-beta"], update=True)
"""
"""Packages of a third party, whose archive the recipe adds itself."""


@contextmanager
def serving(folder: Path, log: Path) -> Iterator[str]:
    """The address of a proxy that has what ``folder`` holds for a host, and to which nothing else changed."""
    log.touch()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [sys.executable, str(PROXY), str(folder), str(port), str(log)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            assert proxy.stdout is not None
            assert proxy.stdout.readline() == "listening\n"
            yield f"http://127.0.0.1:{port}"
        finally:
            proxy.kill()
