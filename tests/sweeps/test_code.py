"""The snapshot of the code that agents run."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qsweep.sweeps.code import STAMP, check_snapshot, clear_bytecode, freeze, is_intact
from qsweep.sweeps.errors import InputError


def test_a_snapshot_is_intact_and_holds_nothing_but_sources(tmp_path: Path) -> None:
    snapshot = tmp_path / freeze(tmp_path)
    assert is_intact(snapshot, snapshot.name)
    files = {path.relative_to(snapshot) for path in snapshot.rglob("*") if path.is_file()}
    assert len(files) > 50
    assert {path for path in files if path.suffix != ".py"} == {Path(STAMP)}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a snapshot of the code, for all tests of this file."""
    folder = tmp_path_factory.mktemp("frozen")
    freeze(folder)
    return folder


@pytest.fixture
def snapshot(frozen: Path, tmp_path: Path) -> Path:
    """A snapshot of the test's own."""
    (kept,) = frozen.iterdir()
    return shutil.copytree(kept, tmp_path / kept.name)


def changed(snapshot: Path) -> None:
    (snapshot / "qsweep" / "workers" / "cohort.py").write_text("raise SystemExit\n")


def restamped(snapshot: Path) -> None:
    (snapshot / STAMP).write_text("9.9+0123456789ab\n")


def lost(snapshot: Path) -> None:
    (snapshot / "qsweep" / "workers" / "cohort.py").unlink()


def shadowed(snapshot: Path) -> None:
    (snapshot / "numpy.py").write_text("print('mine')\n")


def compiled(snapshot: Path) -> None:
    (snapshot / "torch.pyc").write_bytes(b"")


def forged(snapshot: Path, mode: py_compile.PycInvalidationMode) -> None:
    """Other bytecode beside a source that nobody touched: Python would run it."""
    source = snapshot / "qsweep" / "workers" / "cohort.py"
    other = snapshot.parent / "other.py"
    other.write_text("raise SystemExit\n")
    os.utime(other, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    py_compile.compile(str(other), cfile=importlib.util.cache_from_source(str(source)), invalidation_mode=mode)


def forged_by_time(snapshot: Path) -> None:
    forged(snapshot, py_compile.PycInvalidationMode.TIMESTAMP)


def forged_unchecked(snapshot: Path) -> None:
    forged(snapshot, py_compile.PycInvalidationMode.UNCHECKED_HASH)


def forged_with_another_hash(snapshot: Path) -> None:
    forged(snapshot, py_compile.PycInvalidationMode.CHECKED_HASH)


def forged_with_the_right_hash(snapshot: Path) -> None:
    """Python holds it against the hash of its source, and runs it."""
    forged_with_another_hash(snapshot)
    source = snapshot / "qsweep" / "workers" / "cohort.py"
    bytecode = Path(importlib.util.cache_from_source(str(source)))
    content = bytecode.read_bytes()
    bytecode.write_bytes(content[:8] + importlib.util.source_hash(source.read_bytes()) + content[16:])


def compiled_by_hand(snapshot: Path) -> None:
    py_compile.compile(str(snapshot / "qsweep" / "workers" / "cohort.py"))


def cut(snapshot: Path) -> None:
    compiled_by_hand(snapshot)
    bytecode = Path(importlib.util.cache_from_source(str(snapshot / "qsweep" / "workers" / "cohort.py")))
    bytecode.write_bytes(bytecode.read_bytes()[:7])


def linked(snapshot: Path) -> None:
    (snapshot / "qsweep" / "workers" / "more").symlink_to(snapshot.parent)


@pytest.mark.parametrize(
    "damage",
    [
        changed,
        restamped,
        lost,
        shadowed,
        compiled,
        linked,
    ],
)
def test_a_snapshot_that_is_not_what_its_version_names_is_refused_before_anything_runs_from_it(
    snapshot: Path, damage: Callable[[Path], None]
) -> None:
    folder, version = snapshot.parent, snapshot.name
    assert check_snapshot(folder, version) == snapshot
    damage(snapshot)
    with pytest.raises(InputError, match="not the code"):
        check_snapshot(folder, version)
    with pytest.raises(InputError, match="not the code"):
        freeze(folder)


def test_a_snapshot_of_before_the_package_had_one_name_is_other_code_and_not_run(tmp_path: Path) -> None:
    """Python would find the installed `qsweep` where the snapshot has none, and run it under the snapshot's version."""
    version = "0.1.0+0123456789ab"
    for room in ("sweeps", "db", "workers"):
        (tmp_path / version / room).mkdir(parents=True)
        (tmp_path / version / room / "__init__.py").touch()
    (tmp_path / version / STAMP).write_text(version)
    assert not is_intact(tmp_path / version, version)
    with pytest.raises(InputError, match="older qsweep") as raised:
        check_snapshot(tmp_path, version)
    assert raised.value.allowed == "go on with --code current"


def test_a_snapshot_that_was_removed_is_taken_again(snapshot: Path) -> None:
    changed(snapshot)
    shutil.rmtree(snapshot)
    assert check_snapshot(snapshot.parent, freeze(snapshot.parent)) == snapshot


BYTECODE = [
    compiled_by_hand,
    forged_by_time,
    forged_unchecked,
    forged_with_another_hash,
    forged_with_the_right_hash,
    cut,
]


@pytest.mark.parametrize("left", BYTECODE)
def test_no_bytecode_is_believed_and_nothing_else_is_cleared(
    snapshot: Path, left: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    left(snapshot)
    assert not is_intact(snapshot, snapshot.name)
    assert check_snapshot(snapshot.parent, snapshot.name) == snapshot
    assert not list(snapshot.rglob("*.pyc"))
    left(snapshot)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: os.unlink("/nowhere"))  # as on a disk that can't be written
        with pytest.raises(InputError, match="not the code"):
            check_snapshot(snapshot.parent, snapshot.name)
    shadowed(snapshot)
    clear_bytecode(snapshot)
    assert not is_intact(snapshot, snapshot.name)
    assert (snapshot / "numpy.py").exists()


@pytest.mark.parametrize("version", ["", "..", "../../etc", "1.0+0123456789ab", "/tmp"])
def test_a_version_is_never_a_path(tmp_path: Path, version: str) -> None:
    with pytest.raises(InputError, match="is gone"):
        check_snapshot(tmp_path, version)
