"""Deployments and roll-backs under constant load, and images that are broken: what a client notices of them.

    python -m bench.deploy [--quick]

BENCH_ROUNDS deployments (20) of two images in turn, half as many roll-backs, a quarter as many of each broken
image. ``--quick``: two deployments, one of everything else. Real machines behind a real HAProxy on this host;
every command is a process of its own. Needs root and HAProxy.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.contestants import PROGRAM, Baker
from bench.local import describe_host
from bench.measuring import median, print_table, say, write_figures
from tests.load import Load, Window

ROUNDS = 2 if "--quick" in sys.argv else max(1, int(os.environ.get("BENCH_ROUNDS", "20")))
NAME = "bench"
GOOD = ("one", "two")
BROKEN = {"sick": "never healthy", "fails": "answers 500 under watch", "dies": "dies under watch"}
LISTEN = "127.0.0.1:18431"
STEADY_REQUESTS = 4000
BETWEEN_REQUESTS = 300
SHOWN_FAILURES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """Seconds from the start of a command. ``first``: the first answer of the version that it brought;
    ``all``: the last of the other one; ``whole``: the end of its process."""

    first: float
    all: float
    whole: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """A deployment that was taken back. ``exposed``: seconds in which its image's answers reached clients."""

    exposed: float
    whole: float
    answers: int
    said: str


@dataclass(kw_only=True, slots=True)
class Site:
    """The environment under load, and what it serves."""

    baker: Baker
    load: Load
    versions: Mapping[str, int]
    serving: str

    def settle(self) -> None:
        """Raises SystemExit unless all who ask now are answered by what should serve."""
        self.load.begin("between")
        answers = self.load.wait_for(BETWEEN_REQUESTS)
        if set(answers) - {self.serving}:
            raise SystemExit(f"{self.serving} should serve, and these answered: {dict(answers)}")

    def move(self, kind: str, wanted: str, *arguments: str) -> Moved:
        """What brings the version ``wanted``."""
        before = self.serving
        window, started = self.load.begin(kind), time.monotonic()
        whole = run(self.baker, *arguments, status=0)[0]
        self.load.wait_for(20)
        self.serving = wanted
        spans = dict(window.spans)
        self.settle()
        if wanted not in spans:
            raise SystemExit(f"nobody was answered by {wanted} when {' '.join(arguments)} had ended")
        return Moved(
            first=spans[wanted][0] - started,
            all=spans[before][1] - started if before in spans else 0.0,
            whole=whole,
        )

    def deploy(self) -> Moved:
        wanted = GOOD[self.serving == GOOD[0]]
        return self.move("deployments", wanted, "deploy", NAME, str(self.versions[wanted]))

    def roll_back(self) -> Moved:
        wanted = GOOD[self.serving == GOOD[0]]
        return self.move("roll-backs", wanted, "env", "rollback", NAME)

    def deploy_broken(self, mode: str) -> Broken:
        window = self.load.begin(BROKEN[mode])
        whole, said = run(self.baker, "deploy", NAME, str(self.versions[mode]), status=1)
        self.load.wait_for(20)
        first, last = window.spans.get(mode, (0.0, 0.0))
        self.settle()
        return Broken(exposed=last - first, whole=whole, answers=window.answers[mode], said=said)


def run(baker: Baker, *arguments: str, status: int) -> tuple[float, str]:
    """Seconds, and the last line that is no progress. Raises SystemExit if it ends in another way."""
    started = time.monotonic()
    done = subprocess.run(
        [PROGRAM, *arguments],
        env=baker.environment,
        cwd=baker.project,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - started
    if done.returncode != status:
        raise SystemExit(
            f"baker {' '.join(arguments)} ended with {done.returncode}, not {status}:\n"
            f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        )
    complaints = [line for line in done.stderr.splitlines() if "healthy within" in line or "watch:" in line]
    return seconds, (complaints or [""])[-1]


def bake_images(baker: Baker) -> dict[str, int]:
    """The version of each image, by what it answers."""
    modes = {**dict.fromkeys(GOOD, "good"), **{mode: mode for mode in BROKEN}}
    found = {}
    for version, mode in modes.items():
        baked = baker.bake("web", "--set", f"version={version}", "--set", f"mode={mode}")
        found[version] = int(json.loads(baked.stdout)["bakes"][0]["image"].partition(":")[2])
        say(f"  baked {version} ({mode}) in {baked.seconds:.1f} s")
    return found


def measure(baker: Baker, load: Load, versions: Mapping[str, int]) -> dict[str, object]:
    site = Site(baker=baker, load=load, versions=versions, serving=GOOD[0])
    load.wait_for(STEADY_REQUESTS)
    deployed, rolled_back = [], []
    for number in range(1, ROUNDS + 1):
        deployed.append(site.deploy())
        say(f"  deployment {number}/{ROUNDS}: {deployed[-1].whole:.2f} s")
        if number % 2 == 0 or ROUNDS == 1:
            rolled_back.append(site.roll_back())
            say(f"  roll-back: all answers after {rolled_back[-1].all:.2f} s")
    broken: dict[str, list[Broken]] = {mode: [] for mode in BROKEN}
    for _ in range(max(1, ROUNDS // 4)):
        for mode, found in broken.items():
            found.append(site.deploy_broken(mode))
            say(f"  {BROKEN[mode]}: {found[-1].whole:.2f} s: {found[-1].said}")
    load.stop()
    return {
        **show_requests(load),
        **show_moves(deployed, rolled_back),
        **show_broken(broken),
    }


def show_requests(load: Load) -> dict[str, object]:
    names = {"before": 1, "deployments": ROUNDS, "roll-backs": max(1, ROUNDS // 2)}
    names |= dict.fromkeys(BROKEN.values(), max(1, ROUNDS // 4))
    rows, figures = [], {}
    merged = [merge(name, load.windows) for name in (*names, "between")]
    for window in [*merged, merge("all", load.windows, every=True)]:
        p50, p99 = window.percentile(0.5) * 1000, window.percentile(0.99) * 1000
        longest = max(window.seconds, default=0.0) * 1000
        times = str(names[window.name]) if window.name in names and window.name != "before" else ""
        rows.append(
            (
                window.name,
                times,
                str(window.requests),
                str(window.failures),
                f"{p50:.1f} ms",
                f"{p99:.1f} ms",
                f"{longest:.0f} ms",
            )
        )
        figures[window.name] = {
            "requests": window.requests,
            "failed": window.failures,
            "p50_ms": p50,
            "p99_ms": p99,
            "longest_ms": longest,
        }
    header = ("while", "times", "requests", "failed", "p50", "p99", "longest")
    print_table("Requests through HAProxy (aim: none fails); times are of quick ones", header, rows)
    reasons = Counter(f"{one.window}: {one.request}: {one.reason}" for one in load.failures)
    for reason, count in reasons.most_common(SHOWN_FAILURES):
        print(f"  {count} x {reason}")
    return {"requests": figures}


def merge(name: str, windows: Iterable[Window], *, every: bool = False) -> Window:
    merged = Window(name=name)
    for window in windows:
        if every or window.name == name:
            merged.requests += window.requests
            merged.failures += window.failures
            merged.seconds += window.seconds
    return merged


def show_moves(deployed: Sequence[Moved], rolled_back: Sequence[Moved]) -> dict[str, object]:
    rows, figures = [], {}
    for name, moves in (("deployment", deployed), ("roll-back", rolled_back)):
        parts = {
            "first": [move.first for move in moves],
            "all": [move.all for move in moves],
            "whole": [move.whole for move in moves],
        }
        rows.append((name, str(len(moves)), *map(spread, parts.values())))
        figures[name] = {part: median(seconds) for part, seconds in parts.items()}
    header = ("", "times", "first answer of the other version", "all answers", "whole process")
    print_table("From the start of the process, median (range); aim of a roll-back: 1 s", header, rows)
    return {"seconds": figures}


def show_broken(broken: Mapping[str, Sequence[Broken]]) -> dict[str, object]:
    rows = [
        (
            BROKEN[mode],
            str(len(found)),
            spread([one.whole for one in found]),
            spread([one.exposed for one in found]),
            str(sum(one.answers for one in found)),
        )
        for mode, found in broken.items()
    ]
    header = ("image", "times", "until it was taken back, whole", "its answers came for", "its good answers")
    print_table("Broken images; the side before serves after each", header, rows)
    return {
        "broken": {
            mode: {
                "whole_s": median([one.whole for one in found]),
                "exposed_s": median([one.exposed for one in found]),
                "said": [one.said for one in found],
            }
            for mode, found in broken.items()
        }
    }


def spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{median(values):.2f} s ({min(values):.2f} to {max(values):.2f})"


def describe_haproxy() -> str:
    try:
        said = subprocess.run(["haproxy", "-v"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise SystemExit("HAProxy is not installed: apt-get install haproxy") from None
    return said.partition("\n")[0]


def require_free(listen: str) -> None:
    host, _, port = listen.rpartition(":")
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, int(port)))
        except OSError as error:
            raise SystemExit(f"{listen}, which bench/deploy_project listens on: {error.strerror}") from None


def main() -> None:
    if os.geteuid() != 0:
        raise SystemExit("machines need root: run it with sudo")
    host = {**describe_host(), "haproxy": describe_haproxy()}
    require_free(LISTEN)
    started = time.monotonic()
    address, _, port = LISTEN.rpartition(":")
    with Baker.in_scratch_folder("deploy_project") as baker:
        baker.check()
        versions = bake_images(baker)
        try:
            run(baker, "deploy", NAME, str(versions[GOOD[0]]), status=0)
            with Load(address, int(port), quick=4, slow=2) as load:
                figures = measure(baker, load, versions)
        finally:
            subprocess.run(
                [PROGRAM, "env", "rm", NAME, "--yes"],
                env=baker.environment,
                cwd=baker.project,
                stdout=subprocess.DEVNULL,
            )
    host["load after"] = round(os.getloadavg()[0], 2)
    print_table("Host", ("", ""), [(name, str(value)) for name, value in host.items()])
    print(f"\n  The whole run took {time.monotonic() - started:.0f} s")
    write_figures({**figures, "rounds": ROUNDS, "host": host})


if __name__ == "__main__":
    main()
