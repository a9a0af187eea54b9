"""Prints what each fault in each stage of a bake leaves behind: `make survival`.

Each cell is one test of tests/e2e/test_survival.py: the fault, then the traces on the host, the next bake,
sweep, and every image. Runs as root, takes some minutes; ends with 1 if a cell is not clean.
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


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        tests = "tests/e2e/test_survival.py"
        argv = [sys.executable, "-m", "pytest", "-q", "-m", "machine", tests, f"--junit-xml={report}"]
        status = subprocess.run(argv, stdout=sys.stderr).returncode
        cases = list(xml.parse(report).iter("testcase"))
    cells = {found.groups(): outcome(case) for case in cases if (found := CELL.search(case.get("name", "")))}
    width = max(map(len, FAULTS))
    print(" " * width, *(f"{stage:<10}" for stage in STAGES))
    for fault in FAULTS:
        row = (cells.get((stage, fault), "-") for stage in STAGES)
        print(f"{fault:<{width}}", *(f"{cell:<10}" for cell in row))
    for case in cases:
        if not CELL.search(case.get("name", "")):
            print(f"{outcome(case):<10} {case.get('name', '').removeprefix('test_').replace('_', ' ')}")
    return status


def outcome(case: xml.Element) -> str:
    if case.find("skipped") is not None:
        return "skipped"
    return "clean" if case.find("failure") is None and case.find("error") is None else "NOT CLEAN"


if __name__ == "__main__":
    sys.exit(main())
