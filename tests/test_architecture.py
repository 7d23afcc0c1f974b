"""docs/architecture.md is true: the files that it names are there, and its reading list has the length that it says."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text()
FOLDERS = ("sweeps", "db", "workers", "reports", "orchestrator", "tests", "docs", "src", "benchmarks")


def test_every_file_that_it_names_is_there() -> None:
    named = set(re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", TEXT))
    assert len(named) > 80
    assert not sorted(one for one in named if not (ROOT / one).exists())


def test_the_reading_list_has_the_length_that_it_says() -> None:
    part = TEXT.partition("## In what order to read it")[2].partition("\n## ")[0]
    found = re.search(r"(\d+) files, about ([\d,]+) lines", part)
    assert found is not None
    files = re.findall(r"^\| `([^`]+)`", part, re.MULTILINE)
    assert len(files) == len(set(files)) == int(found[1])
    lines = sum(len((ROOT / one).read_text().splitlines()) for one in files)
    assert abs(lines - int(found[2].replace(",", ""))) <= 500
