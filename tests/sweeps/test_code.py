"""The snapshot of the code that agents run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from sweeps.code import freeze, is_intact

CHECKED = (3).to_bytes(4, "little")
"""The flags of bytecode that Python holds against the hash of its source at each import (PEP 552)."""


def test_a_snapshot_is_intact_and_compiled_from_what_it_holds(tmp_path: Path) -> None:
    snapshot = tmp_path / freeze(tmp_path)
    assert is_intact(snapshot)
    sources = list(snapshot.rglob("*.py"))
    assert len(sources) > 50
    for source in sources:
        bytecode = Path(importlib.util.cache_from_source(str(source))).read_bytes()
        assert bytecode[4:8] == CHECKED
        assert bytecode[8:16] == importlib.util.source_hash(source.read_bytes())
