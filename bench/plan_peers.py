"""What others do where nothing changed: mkosi builds again from its cache, Packer builds from the start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from baker.providers.local.host import booted_with_systemd
from bench.aws_contestants import Packer, build, make_folder
from bench.contestants import PATH, PROXIES
from bench.measuring import Run, run_process, say
from tests.lab import running_lab
from tests.lab.bodies import Bodies

Contestant = tuple[str, Callable[[], Run]]

MKOSI = """[Distribution]
Distribution=debian
Release=trixie

[Output]
Format=directory
Output=image

[Content]
Packages=
    nginx-light
WithNetwork=no
"""


@contextmanager
def make_mkosi(folder: Path) -> Iterator[Contestant]:
    """One image of trixie with nginx-light as a folder, which is the quickest of its formats."""
    project = folder / "mkosi"
    shutil.rmtree(project, ignore_errors=True)
    (project / "mkosi.cache").mkdir(parents=True)
    (project / "mkosi.default").write_text(MKOSI)
    (project / "mkosi.postinst").write_text("#!/bin/sh\necho number 1 >/etc/app.conf\n")
    (project / "mkosi.postinst").chmod(0o755)
    passed = {name: os.environ[name] for name in PROXIES if name in os.environ}
    environment = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root", **passed}

    # Where no systemd runs, there is nobody whom nspawn could ask for a unit.
    unit = [] if booted_with_systemd() else ["--nspawn-keep-unit"]

    def run() -> Run:
        return run_process(
            ["mkosi", "--incremental", "--force", *unit, "build"], env=environment, cwd=project
        )

    say("mkosi: the first build, which fills its cache")
    run()
    yield "mkosi --incremental, one image again", run


@contextmanager
def make_packer(folder: Path) -> Iterator[Contestant]:
    """One AMI as in bench.aws, on an AWS that answers at once."""
    home = Path(os.environ.get("BENCH_LAB_HOME", "/var/tmp/baker-lab"))
    with running_lab(Bodies(home)) as lab:
        packer = Packer(lab=lab, folder=make_folder(folder / "packer"))
        yield "packer build, one image in full", lambda: build(packer).run
