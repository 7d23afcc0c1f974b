"""The snapshot of the code that agents run."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.code import STAMP, check_snapshot, freeze, is_intact
from sweeps.errors import InputError

CHECKED = (3).to_bytes(4, "little")
"""The flags of bytecode that Python holds against the hash of its source at each import (PEP 552)."""


def test_a_snapshot_is_intact_and_compiled_from_what_it_holds(tmp_path: Path) -> None:
    snapshot = tmp_path / freeze(tmp_path)
    assert is_intact(snapshot, snapshot.name)
    sources = list(snapshot.rglob("*.py"))
    assert len(sources) > 50
    for source in sources:
        bytecode = Path(importlib.util.cache_from_source(str(source))).read_bytes()
        assert bytecode[4:8] == CHECKED
        assert bytecode[8:16] == importlib.util.source_hash(source.read_bytes())


def changed(snapshot: Path) -> None:
    (snapshot / "workers" / "cohort.py").write_text("raise SystemExit\n")


def restamped(snapshot: Path) -> None:
    (snapshot / STAMP).write_text("9.9+0123456789ab\n")


def lost(snapshot: Path) -> None:
    (snapshot / "workers" / "cohort.py").unlink()


def shadowed(snapshot: Path) -> None:
    (snapshot / "numpy.py").write_text("print('mine')\n")


def compiled(snapshot: Path) -> None:
    (snapshot / "torch.pyc").write_bytes(b"")


def linked(snapshot: Path) -> None:
    (snapshot / "workers" / "more").symlink_to(snapshot.parent)


@pytest.mark.parametrize("damage", [changed, restamped, lost, shadowed, compiled, linked])
def test_a_snapshot_that_is_not_what_its_version_names_is_refused_before_anything_runs_from_it(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    version = freeze(tmp_path)
    assert check_snapshot(tmp_path, version) == tmp_path / version
    damage(tmp_path / version)
    with pytest.raises(InputError, match="not the code"):
        check_snapshot(tmp_path, version)
    with pytest.raises(InputError, match="not the code"):
        freeze(tmp_path)
    shutil.rmtree(tmp_path / version)
    assert check_snapshot(tmp_path, freeze(tmp_path))


@pytest.mark.parametrize("version", ["", "..", "../../etc", "1.0+0123456789ab", "/tmp"])
def test_a_version_is_never_a_path(tmp_path: Path, version: str) -> None:
    with pytest.raises(InputError, match="is gone"):
        check_snapshot(tmp_path, version)
