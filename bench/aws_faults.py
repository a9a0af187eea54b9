"""Prints what a fault in each AWS call of a bake leaves behind: `make aws-faults`.

One bake of a small recipe into two regions, on the lab without machines. Each of its calls in turn is
refused, fails for good, times out, is done without an answer (once, and for good), or is the last thing
before a `kill -9`. Then one `baker system sweep`; and a look at the account and the catalog. Takes a quarter
of an hour; ends with 1 if anything is left behind. ``--only TEXT`` takes calls whose description holds it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from tests.e2e.aws_faults import FAULTS, Cell, bake_cleanly, strike

LEGEND = """
Per cell: how the bake ended (baked, failed, killed), and how many things leaked (an AWS resource of ours that
no image of the catalog holds, or an image whose AMI is not there) after one sweep."""


def main(arguments: Sequence[str]) -> int:
    spots, template = bake_cleanly()
    if "--only" in arguments:
        text = arguments[arguments.index("--only") + 1]
        spots = [spot for spot in spots if text in str(spot)]
    width = max(len(str(spot)) for spot in spots)
    print(f"{'':<{width}}", *(f"{fault:<14}" for fault in FAULTS))
    cells: list[Cell] = []
    try:
        for spot in spots:
            row = [strike(spot, fault, template) for fault in FAULTS]
            print(f"{spot!s:<{width}}", *(f"{show(cell):<14}" for cell in row), flush=True)
            cells += row
    finally:
        shutil.rmtree(template)
    leaks = sum(len(cell.leaks) + len(cell.missing) for cell in cells)
    unclean = [cell for cell in cells if not cell.is_clean or not cell.struck]
    print(LEGEND)
    print(f"{len(spots)} calls x {len(FAULTS)} faults: {leaks} leaks, {len(unclean)} cells not clean")
    for cell in unclean:
        print(
            f"\n{cell.spot}, {cell.fault}: sweep ended with {cell.swept}",
            *cell.leaks,
            *cell.missing,
            sep="\n  ",
        )
        print(cell.output)
    return int(bool(unclean))


def show(cell: Cell) -> str:
    ended = {0: "baked", -9: "killed"}.get(cell.baked if cell.baked is not None else 1, "failed")
    leaks = len(cell.leaks) + len(cell.missing)
    return f"{ended} {leaks}" + ("" if cell.is_clean else " !") + ("" if cell.struck else " (not struck)")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
