"""A home that can't be written can be read: on a read-only file system, and another user's."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qsweep.db import readonly
from qsweep.db.belonging import settle_belonging
from qsweep.db.registry import Registry
from qsweep.sweeps.errors import InputError
from tests.conftest import environment
from tests.reports.made import Made, finished, home_at

ROOT = Path(__file__).parents[2]
LOOKS: tuple[tuple[str, ...], ...] = (
    ("status",),
    ("status", "--watch", "--json"),
    ("jobs", "made"),
    ("show", "{job}"),
    ("tables", "made"),
    ("query", "SELECT count(*) FROM runs JOIN epochs USING (job)"),
    ("analyze", "made"),
    ("report", "made", "--out", "{out}/made.html"),
    ("figures", "made", "--out", "{out}/figures", "--figure", "step-sizes"),
    ("export", "made", "--out", "{out}/bundle"),
    ("du",),
    ("gc", "--dry-run"),
    ("db", "check"),
    ("sweeps",),
    ("plan", "digits-grid"),
)
WRITES: tuple[tuple[str, ...], ...] = (("launch", "{sweep}"), ("resume", "made"), ("cancel", "made"), ("gc",))
SCRIPT = """
import json, sys
commands = json.load(sys.stdin)
sys.path.insert(0, sys.argv[1])
from qsweep.orchestrator.cli import main
for command in commands:
    sys.argv = ["qsweep", *command]
    sys.stdout.flush()
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    sys.stderr.write(f"\\0{code}\\0")
"""
"""Runs commands one after the other in one process: starting each would be all the time."""
BOUND = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""Root as any other user: files that are not to be written can't be."""


@pytest.fixture
def made(tmp_path: Path) -> Made:
    made = finished(home_at(tmp_path))
    with Registry.open(made.home.registry) as registry:
        settle_belonging(made.home, registry)
    return made


def run(made: Made, commands: tuple[tuple[str, ...], ...], out: Path, *, mounted: bool) -> list[str]:
    """What each command wrote to stderr before its exit code, with that code in front."""
    import json

    with Registry.open(made.home.registry) as registry:
        job = registry.jobs(made.sweep.id)[0].identity
    sweep = made.home.root.parent / "made.toml"
    filled = [[part.format(job=job, out=out, sweep=sweep) for part in command] for command in commands]
    home = str(made.home.root)
    mount = f"mount --bind '{home}' '{home}' && mount -o remount,bind,ro '{home}' && " if mounted else ""
    before = ["unshare", "-m", "sh", "-c", mount + 'exec "$@"', "sh"] if mounted else BOUND if os.geteuid() == 0 else []
    answer = subprocess.run(
        [*before, sys.executable, "-c", SCRIPT, str(ROOT / "src")],
        input=json.dumps(filled),
        env=environment(made.home.root, {"MPLCONFIGDIR": str(out), "HOME": str(out)}),
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "\0" in answer.stderr, answer.stderr
    parts = answer.stderr.split("\0")
    return [f"{code} {said}" for said, code in zip(parts[::2], parts[1::2], strict=False)]


def can_mount() -> bool:
    command = ["unshare", "-m", "sh", "-c", "mount --bind /tmp /tmp"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not can_mount(), reason="only root may mount")
def test_on_a_read_only_file_system_every_look_up_works(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    before = contents(made.home.root)
    for command, said in zip(LOOKS, run(made, LOOKS, out, mounted=True), strict=True):
        assert said.startswith("0 "), (command, said)
    for command, said in zip(WRITES, run(made, WRITES, out, mounted=True), strict=True):
        assert said.startswith("2 "), (command, said)
        assert len(said.splitlines()) == 1, said
    assert contents(made.home.root) == before


@pytest.fixture
def closed(made: Made) -> Iterator[Made]:
    """The home is another user's, and only to be read."""
    for path in [made.home.root, *made.home.root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield made
    for path in [made.home.root, *made.home.root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root can write everywhere")
def test_another_users_home_can_be_looked_at(closed: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    some = (LOOKS[0], LOOKS[2], LOOKS[4], LOOKS[5], LOOKS[12])
    for command, said in zip(some, run(closed, some, out, mounted=False), strict=True):
        assert said.startswith("0 "), (command, said)
    (said,) = run(closed, WRITES[:1], out, mounted=False)
    assert said.startswith("2 ")
    assert "is not a folder that can be written" in said


@pytest.fixture
def unwritable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, bool], Registry]:
    """Opens a registry as who can't write there, on a file system that is (or is not) mounted for reading."""

    def open_it(path: Path, frozen: bool) -> Registry:
        monkeypatch.setattr("qsweep.db.connection.is_writable", lambda path: False)
        monkeypatch.setattr(readonly, "_is_frozen", lambda path: frozen)
        return Registry.open(path)

    return open_it


@pytest.mark.parametrize("frozen", [True, False])
def test_it_is_read_as_it_is_and_nothing_is_written(
    made: Made, unwritable: Callable[[Path, bool], Registry], frozen: bool
) -> None:
    path = made.home.root / "registry.db"
    before = contents(made.home.root)
    with unwritable(path, frozen) as registry:
        assert registry.read_only
        assert registry.counts(made.sweep.id).done == 24
        with pytest.raises(InputError, match=r"can only be read.*copy the home"):
            registry.cancel(made.sweep.id)
        assert registry.url == str(path)
    assert contents(made.home.root) == before


@pytest.mark.parametrize("frozen", [True, False])
def test_what_stands_in_the_log_alone_is_read_too(
    made: Made, tmp_path: Path, unwritable: Callable[[Path, bool], Registry], frozen: bool
) -> None:
    path = made.home.root / "registry.db"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("PRAGMA wal_autocheckpoint = 0")
    writer.execute("UPDATE sweeps SET owner = 'in the log'")
    archive = tmp_path / "archive"
    shutil.copytree(made.home.root, archive)  # as a machine that lost its power leaves it
    writer.close()
    (archive / "registry.db-shm").unlink()
    assert (archive / "registry.db-wal").stat().st_size
    with unwritable(archive / "registry.db", frozen) as registry:
        assert [one.owner for one in registry.sweeps()] == ["in the log"]


def test_a_copy_is_of_one_moment(
    made: Made, unwritable: Callable[[Path, bool], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made.home.root / "registry.db"
    copied = shutil.copyfile
    changes = iter(range(2))

    def beside_a_writer(source: Path, target: Path) -> None:
        copied(source, target)
        if source == path and next(changes, None) is not None:
            with sqlite3.connect(path) as connection:
                connection.execute("UPDATE sweeps SET owner = owner || '.'")
            connection.close()

    monkeypatch.setattr(readonly.shutil, "copyfile", beside_a_writer)
    with unwritable(path, False) as registry:
        assert [one.owner for one in registry.sweeps()] == ["me.."]
    monkeypatch.setattr(readonly, "PATIENCE", 0.0)
    changes = iter(range(1_000))
    with pytest.raises(InputError, match="is written all the time"):
        unwritable(path, False)
