"""What a running instance is made of: one script is sent, which only reads.

It runs *in* the instance, by the instance's own Python and kernel: unlike a local machine, one whose kernel
or interpreter was replaced can lie. Metadata come of every path; the content is read where the inode
changed since the instance was launched (a time that nobody sets but by moving the clock), and everywhere
where ``full``.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from baker.deploy.observation import COVERED, Observation, name_unit, parse_mounts, parse_ports
from baker.errors import MachineError
from baker.layer import make_file
from baker.manifest import parse_dpkg_status, parse_rpm_list
from baker.model import FileEntry, Package
from baker.providers.aws.inside.contents import list_records, require_sound
from baker.providers.aws.inside.script import INTERPRETER, build_script, explain_failure
from baker.providers.protocol import CommandResult, Machine

MODULES = ("persistent", "listing", "observing")
OBSERVE_SECONDS = 1800.0


def observe_instance(
    machine: Machine, *, full: bool = False, launched: datetime | None = None
) -> Observation:
    """See ``Observation``; ``whole``. Without ``launched``, what changed since the last boot is read.

    Raises MachineError if it cannot be read, CommandTimeout.
    """
    script = build_observing_script(full=full, launched=launched)
    return parse_observation(machine.run(INTERPRETER, stdin=script, timeout=OBSERVE_SECONDS), full=full)


def build_observing_script(*, full: bool, launched: datetime | None = None) -> bytes:
    since = launched.timestamp() if launched is not None else 0.0
    return build_script(MODULES, {"full": full, "since": since})


def parse_observation(result: CommandResult, *, full: bool) -> Observation:
    """Raises MachineError unless the answer is whole and sound: nothing in the instance is trusted."""
    if result.exit_status != 0:
        raise MachineError(f"the instance could not be looked at: {explain_failure(result)}")
    try:
        return _collect(result.stdout, full=full)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, zlib.error) as error:
        raise MachineError(f"what the instance says of itself cannot be read: {error}") from error


def _collect(stream: bytes, *, full: bool) -> Observation:
    records = list_records(stream)
    if next(records, None) != {"format": 1}:
        raise ValueError("it does not begin as expected")
    packages: list[Package] = []
    files: list[FileEntry] = []
    facts: Mapping[str, Any] | None = None
    for record in records:
        if isinstance(record, list):
            file = make_file(record)
            require_sound(file)
            files.append(file)
        elif isinstance(record, dict) and "facts" in record:
            facts = record["facts"]
        elif isinstance(record, dict) and "end" in record and facts is not None:
            if record["end"] != len(files) or next(records, None) is not None:
                raise ValueError(f"it holds {len(files)} files and says {record['end']}")
            return _assemble(packages, files, facts, full=full)
        elif isinstance(record, dict) and "dpkg" in record:
            packages += parse_dpkg_status(record["dpkg"])
        elif isinstance(record, dict) and "rpm" in record:
            packages += parse_rpm_list(record["rpm"])
        else:
            raise ValueError(f"{str(record)[:80]} is none of its records")
    raise ValueError("its end is missing")


def _assemble(
    packages: list[Package], files: list[FileEntry], facts: Mapping[str, Any], *, full: bool
) -> Observation:
    sockets = {int(inode): str(program) for inode, program in facts["sockets"]}
    programs = {str(path) + (COVERED if covered else "") for path, covered in facts["programs"]}
    units = {name for text in facts["cgroups"] if (name := name_unit(text)) is not None}
    return Observation(
        full=full,
        whole=True,
        packages=tuple(sorted(packages)),
        files=tuple(sorted(files, key=lambda file: file.path)),
        gone=(),
        texts={str(path): str(text) for path, text in facts["texts"].items()},
        ports=parse_ports(facts["tables"], sockets),
        mounts=parse_mounts(facts["mountinfo"]),
        processes=tuple(sorted(programs)),
        units=dict.fromkeys(sorted(units), "active"),
    )
