"""The last lines of a log, read from its end."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from qsweep.orchestrator import loglines


@pytest.mark.parametrize("count", [1, 3, 100])
def test_the_last_lines_are_those_of_the_whole_file(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loglines, "BLOCK", 7)
    dice, path = random.Random(count), tmp_path / "log"
    parts = ("a", "epoch 3", "\n", "\n", "\r\n", "\r", "ü", "→", "\u2028", "\udcff")
    for size in range(60):
        text = "".join(dice.choices(parts, k=size))
        path.write_bytes(text.encode("utf-8", "surrogateescape"))  # a byte that is no UTF-8 among them
        whole = path.read_text(encoding="utf-8", errors="replace").splitlines()
        assert loglines.last_lines(path, count) == whole[-count:]


def test_of_a_long_log_the_end_alone_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(1 << 33)  # a hole, which takes no place on the disk
        file.seek(0, 2)
        file.write(b"\n" + b"".join(b"line %d\n" % number for number in range(50)))
    assert loglines.last_lines(path, 2) == ["line 48", "line 49"]
