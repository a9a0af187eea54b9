"""Reads from a build instance what its apt knows. A recipe ran there: what comes back is not trusted."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from baker.errors import CommandTimeout
from baker.package_sources import name_keyrings
from baker.package_state import (
    STATUS,
    Asked,
    PackageState,
    find_asked,
    find_own,
    list_installed,
    parse_files,
    parse_local,
    parse_options,
    parse_policy,
    strip_status,
)
from baker.providers.protocol import CommandResult, Machine, OutputSink

TIMEOUT = 120.0
MAX_PACKED, MAX_UNPACKED = 16 << 20, 64 << 20
MAX_TEXT, MAX_TEXTS, MAX_TOLD = 64 << 10, 10_000, 4 << 20
TOLD = ("options", "policy", "local", "debs")
BLOCK = 512
"""Of a tar archive."""
UPLOAD = re.compile(r"cat > (\S+?)['\"]*$")
KEYRING = re.compile(r"^etc/apt/trusted[.]gpg|^etc/apt/keyrings/|[.](gpg|asc|pgp)$")
APT = re.compile(r"\b(?:apt|apt-get|aptitude|dpkg|unattended-upgrades?)\b|\.deb\b")

LIST = """
command -v dpkg-query >/dev/null || exit 0
exec dpkg-query --show --showformat='${db:Status-Abbrev}\\t${Package}:${Architecture}\\t${Version}\\n'
"""

READ = """
command -v apt-get >/dev/null || exit 0
export LC_ALL=C
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/baker"
cd "$scratch/baker"
apt-config dump >options 2>/dev/null
: >local
size=$1
: >policy
lists=/var/lib/apt/lists
has_lists() { ls "$lists" 2>/dev/null | grep -q _Packages; }
# What came of lists that are old would come of them again, whatever is newer by now: new ones tell.
is_new() { find "$lists" "$lists/partial" -maxdepth 0 -mmin -1440 2>/dev/null | grep -q .; }
if [ -n "$3" ] && ! { has_lists && is_new; }; then
    mkdir -p "$scratch/lists/partial"
    cp -pP "$lists"/*_* "$scratch/lists" 2>/dev/null
    lists=$scratch/lists
    timeout -k 5 60 apt-get update -qq -o "Dir::State::Lists=$lists" >/dev/null 2>&1
    has_lists || rm policy
fi
[ -z "$3" ] || [ ! -f policy ] || dpkg-query --show --showformat='${binary:Package}\\n' |
    xargs apt-cache -o "Dir::State::Lists=$lists" policy >policy 2>/dev/null
[ -z "$2" ] || apt list --installed -o "Dir::State::Lists=$lists" >local 2>/dev/null
shift 3
for file; do
    [ -f "$file" ] && dpkg-deb --show "$file"
done >debs 2>/dev/null
cd /
for name in var/lib/dpkg/status var/lib/apt/extended_states \\
    etc/apt/sources.list etc/apt/sources.list.d/*.list etc/apt/sources.list.d/*.sources \\
    etc/apt/preferences etc/apt/preferences.d/* etc/apt/mirrors/* \\
    etc/apt/trusted.gpg etc/apt/trusted.gpg.d/* etc/apt/keyrings/*; do
    [ -f "$name" ] && printf '%s\\n' "$name"
done >"$scratch/names"
cat etc/apt/sources.list etc/apt/sources.list.d/* 2>/dev/null | grep -v '^[[:space:]]*#' >"$scratch/sources"
grep -oE '/[^],[:space:]]+[.](gpg|asc|pgp)' "$scratch/sources" >"$scratch/named"
grep -oE 'mirror[+]file:[^][:space:]]+' "$scratch/sources" | sed 's,^mirror[+]file:/*,/,' >>"$scratch/named"
sort -u "$scratch/named" | while read -r name; do
    [ -f "$name" ] && printf '%s\\n' "${name#/}"
done >>"$scratch/names"
tar --create --format=ustar --owner=0 --group=0 --dereference --no-recursion --ignore-failed-read \\
    --verbatim-files-from \\
    -C / -T "$scratch/names" -C "$scratch" baker/options baker/policy baker/local baker/debs 2>/dev/null |
    gzip -1 | head -c "$size"
"""


class ObservedMachine:
    """A machine as it is; ``texts`` are the commands that it was given and that may ask something of apt."""

    def __init__(self, machine: Machine) -> None:
        self.name = machine.name
        self.texts: list[str] = []
        self._machine = machine
        self._scripts: dict[str, str] = {}

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_output: OutputSink | None = None,
    ) -> CommandResult:
        self._notice(argv[-1], (stdin or b"")[:MAX_TEXT].decode(errors="replace"))
        return self._machine.run(argv, stdin=stdin, env=env, timeout=timeout, on_output=on_output)

    def _notice(self, command: str, stdin: str) -> None:
        """A script that was uploaded counts when it is run."""
        command = command[:MAX_TEXT]
        if len(self.texts) >= MAX_TEXTS:
            return
        uploaded = UPLOAD.search(command)
        if uploaded and APT.search(stdin):
            self._scripts[uploaded[1]] = stdin
            return
        texts = [text for path, text in self._scripts.items() if _runs(command, path)]
        self.texts += [text for text in (*texts, command, stdin) if APT.search(text)]

    def put(self, source: BinaryIO, path: str, *, mode: int = 0o644) -> None:
        self._machine.put(source, path, mode=mode)

    def get(self, path: str, destination: BinaryIO) -> None:
        self._machine.get(path, destination)

    def alive(self) -> bool:
        return self._machine.alive()

    def interactive(self, argv: Sequence[str]) -> int:
        return self._machine.interactive(argv)

    def stop(self) -> None:
        self._machine.stop()


def _runs(command: str, path: str) -> bool:
    begins = r"(?:^|[;&|('\"]|\b(?:ba|da)?sh(?: -\w+)*|\bsudo(?: -\w+)*)\s*"
    return path in command and bool(re.search(begins + re.escape(path), command))


def read_installed(machine: Machine) -> dict[str, str] | None:
    """The version of each installed package by ``name:arch``; None where there is no dpkg."""
    done = machine.run(["sh", "-c", LIST], timeout=TIMEOUT)
    found = {}
    for line in done.stdout.decode(errors="replace").splitlines():
        status, _, rest = line.partition("\t")
        name, _, version = rest.partition("\t")
        if status[1:2] == "i":
            found[name] = version
    return found or None


def read_package_state(
    machine: Machine, before: Mapping[str, str] | None, texts: Sequence[str], *, from_archive: bool
) -> PackageState | None:
    """What apt knows when the recipe is done, while all that the recipe installed from is still there.

    ``before`` is what was installed before it, ``texts`` are its commands; ``from_archive``: the machine was
    made from the newest packages, and would be again. None where there is no apt, or it cannot be read.
    """
    after = read_installed(machine) if before is not None else None
    if before is None or after is None:
        return None
    asked = find_asked(texts, [name.partition(":")[0] for name in after])
    own = find_own(before, after, asked)
    everything = from_archive or asked.upgrade is not None
    if not own and not everything:
        return PackageState()
    # What was made of the newest packages a moment ago, and asks nothing of apt, has them.
    moved = before != after or bool(texts)
    flags = ["files" if asked.files else "", "moved" if moved else ""]
    argv = ["sh", "-c", READ, "sh", str(MAX_PACKED + 1), *flags, *sorted(asked.paths)]
    try:
        done = machine.run(argv, timeout=TIMEOUT)
    except CommandTimeout:
        return None
    files = _unpack(done.stdout) if done.exit_status == 0 else {}
    if STATUS not in files:
        return None
    return _make_state(files, own, asked, from_archive=from_archive)


def _make_state(
    files: dict[str, bytes], own: frozenset[str], asked: Asked, *, from_archive: bool
) -> PackageState:
    has_policy = "baker/policy" in files
    told = {name: files.pop(f"baker/{name}", b"")[:MAX_TOLD].decode(errors="replace") for name in TOLD}
    status = strip_status(files[STATUS].decode(errors="replace"))
    versions = {name.partition(":")[0]: version for name, version in list_installed(status)}
    local = parse_local(told["local"]) | parse_files(told["debs"], versions) | asked.fixed
    # Keyrings are most of what there is, and few of them are used.
    used = {path for path in files if not KEYRING.search(path)} | name_keyrings(files)
    return PackageState(
        own=own,
        from_archive=from_archive,
        upgrade=asked.upgrade,
        pins={**asked.pins, **{name: versions[name] for name in local if name in versions}},
        recommends=asked.recommends,
        options=parse_options(told["options"]),
        files={path: content for path, content in files.items() if path in used} | {STATUS: status.encode()},
        stuck=parse_policy(told["policy"]) if has_policy else None,
    )


def _unpack(packed: bytes) -> dict[str, bytes]:
    """The plain files of a ustar archive, by path; empty if it is none or too big.

    Read by hand: all that other kinds of archive can say (sparse files, sizes below zero) takes the memory
    or the time of who believes it.
    """
    if len(packed) > MAX_PACKED:
        return {}
    try:
        content = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(packed, MAX_UNPACKED)
    except zlib.error:
        return {}
    files = {}
    start = 0
    while header := content[start : start + BLOCK].rstrip(b"\0"):
        size = re.match(rb"[0-7]{1,11}(?=[ \0])", header[124:136])
        first = start + BLOCK
        end = first + int(size[0], 8) if size else len(content) + 1
        if end > len(content):
            return {}
        name, prefix = (part.partition(b"\0")[0] for part in (header[:100], header[345:500]))
        if header[156:157] in (b"0", b"\0"):
            files[(prefix + b"/" + name if prefix else name).decode(errors="replace")] = content[first:end]
        start = first + -(-int(end - first) // BLOCK) * BLOCK
    return files
