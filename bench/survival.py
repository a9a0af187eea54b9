"""Prints what each fault in each stage of a bake leaves behind: `make survival`.

Each cell is one test of tests/e2e/test_survival.py: the fault, then the traces on the host, the next bake,
the plan after it, sweep, and the images. Below the matrix are the faults that belong to no stage. Runs as
root, takes half an hour; ends with 1 if anything is not clean, and says what was found.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from pathlib import Path

from tests.e2e.survival import FAULTS, STAGES

CELL = re.compile(r"\[(\w+)-(.+)\]$")
CLEAN, UNCLEAN = "clean", "NOT CLEAN"
LEGEND = f"""
{CLEAN}: no mount, loop device, control group, process (so no namespace), machine or temporary file is left,
and no half image; the next bake works, nothing is due after it, and `system sweep` has nothing more to do.
-: the fault cannot happen there, or the stage makes no difference to it."""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        tests = "tests/e2e/test_survival.py"
        argv = [sys.executable, "-m", "pytest", "-q", "-m", "machine", tests, f"--junit-xml={report}"]
        status = subprocess.run(argv, stdout=sys.stderr).returncode
        cases = {case.get("name", ""): case for case in xml.parse(report).iter("testcase")}
    cells = {found.groups(): name for name in cases if (found := CELL.search(name)) and is_cell(found)}
    width = max(map(len, FAULTS))
    print(" " * width, *(f"{stage:<10}" for stage in STAGES))
    for fault in FAULTS:
        names = (cells.get((stage, fault)) for stage in STAGES)
        print(f"{fault:<{width}}", *(f"{outcome(cases[name]) if name else '-':<10}" for name in names))
    print()
    for name in (name for name in cases if name not in cells.values()):
        print(f"{outcome(cases[name]):<10} {name.removeprefix('test_').replace('_', ' ')}")
    print(LEGEND)
    for name, case in cases.items():
        if outcome(case) == UNCLEAN:
            print(f"\n{name}\n{describe_failure(case)}")
    return status


def is_cell(found: re.Match[str]) -> bool:
    return found[1] in STAGES and found[2] in FAULTS


def outcome(case: xml.Element) -> str:
    if case.find("skipped") is not None:
        return "skipped"
    return UNCLEAN if find_failures(case) else CLEAN


def find_failures(case: xml.Element) -> list[xml.Element]:
    return [*case.findall("failure"), *case.findall("error")]


def describe_failure(case: xml.Element) -> str:
    return "\n".join(
        f"  {line}" for each in find_failures(case) for line in (each.get("message") or "").splitlines()
    )


if __name__ == "__main__":
    sys.exit(main())
