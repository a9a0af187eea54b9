"""The lab by hand: ``make lab``, or ``python -m tests.lab --help``."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab.bodiless import Bodiless
from tests.lab.lab import Lab, running_lab
from tests.lab.transitions import REAL, Latency

HOME = "/var/tmp/baker-lab"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="AWS on this host")
    parser.add_argument(
        "--bodiless", action="store_true", help="no machines: SSH servers that do nothing (needs no root)"
    )
    parser.add_argument(
        "--home",
        type=Path,
        default=Path(os.environ.get("BAKER_TEST_HOME", HOME)),
        help="keeps the source's file system between runs (%(default)s)",
    )
    parser.add_argument(
        "--real-latencies",
        action="store_true",
        help="let launches, stops and images take what they do at AWS",
    )
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if not chosen.bodiless and os.geteuid() != 0:
        parser.error("machines need root: run it with sudo, or with --bodiless")
    if not chosen.bodiless:
        # Only now: it is Linux's alone.
        from tests.lab.bodies import Bodies

        say("Preparing the source image (the first time takes a minute) …")
        fleet = Bodies(chosen.home)
    else:
        fleet = Bodiless()
    with running_lab(fleet, latency=REAL if chosen.real_latencies else Latency()) as lab:
        say(describe(lab))
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
        say("\nRemoving everything …")
    return 0


def describe(lab: Lab) -> str:
    exports = "".join(f"export {name}={value}\n" for name, value in lab.environment.items())
    return f"""\
The lab runs until Ctrl-C. For the aws command, boto3, Packer and baker, in another shell:

{exports}
For baker.toml:

{lab.settings}
Root recipes of this target start from the AMI {lab.source_ami} (Debian 13, user {lab.ssh_user}):

[targets.aws]
from = {{ owner = "136693071363", name = "debian-13-amd64-*" }}
"""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
