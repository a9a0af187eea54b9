"""The form in which the catalog keeps a bake's log."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from baker.log import pack_log, unpack_log


def test_log_comes_back_as_it_was_written(tmp_path: Path) -> None:
    lines = ["2026-01-01T00:00:00.000Z grüße", "", "2026-01-01T00:00:01.000Z last"]
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    assert unpack_log(pack_log(tmp_path / "log")) == lines
    (tmp_path / "log").write_bytes(b"")
    assert unpack_log(pack_log(tmp_path / "log")) == []


@pytest.mark.parametrize("limit", [1_000, 100_000])
def test_of_a_long_log_the_end_is_kept_and_the_beginning_says_so(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "log"
    lines = [os.urandom(50).hex() for _ in range(20_000)]
    path.write_text("\n".join(lines) + "\n")
    packed = pack_log(path, limit=limit)
    assert limit / 4 < len(packed) <= limit
    note, *kept = unpack_log(packed)
    assert kept == lines[-len(kept) :]
    left_out = sum(len(line) + 1 for line in lines[: -len(kept)])
    assert note == f"(the first {left_out} bytes of this log are only in {path} on the host that baked)"


def test_one_endless_line_is_kept_within_the_limit_too(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(os.urandom(30_000).hex().encode())
    packed = pack_log(tmp_path / "log", limit=1_000)
    assert len(packed) <= 1_000
    assert b"only in" in zlib.decompress(packed)
