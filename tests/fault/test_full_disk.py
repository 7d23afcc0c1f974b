"""A disk that is really full, under the home and under the registry: the sweep stops, says so, and loses nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fault.small import Small

pytestmark = [pytest.mark.fault, pytest.mark.slow]


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own of this size in memory. Skips where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        answer = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if answer.returncode:
        pytest.skip(f"no file system can be mounted here: {answer.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, *, leave: int) -> Path:
    """A file that takes all but `leave` bytes of the file system."""
    free = os.statvfs(folder)
    filler = folder / "filler"
    with filler.open("wb") as file:
        left = free.f_bavail * free.f_frsize - leave
        while left > 0:
            left -= file.write(b"\0" * min(left, 1 << 16))
    return filler


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Table 1 of the sweep on a disk with room."""
    answer = Small(tmp_path_factory.mktemp("reference")).run("launch", "small.toml", "--workers", "1")
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_a_full_disk_under_the_home_pauses_the_sweep_and_loses_nothing(tmp_path: Path, table: str) -> None:
    with mounted(tmp_path / "disk", "30m") as disk:
        small = Small(tmp_path, home=disk / "home", QSWEEP_REGISTRY=f"sqlite:///{tmp_path / 'registry.db'}")
        filler = disk / "filler"
        assert small.run("launch", "small.toml", "--limit", "1", "--workers", "1").returncode == 0
        fill(disk, leave=40_000)
        answer = small.run("launch", "small.toml", "--workers", "1")
        assert answer.returncode == 1
        assert "is paused: the disk is full" in answer.stderr
        assert "qsweep resume small@" in answer.stderr
        counts = small.counts()
        assert (counts["done"], counts["queued"], counts["failed"]) == (1, 3, 0)
        assert not list(disk.rglob(".*.pt.*"))  # no half-written file stays

        filler.unlink()
        answer = small.run("resume", "small", "--workers", "1")
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout == table
        assert small.run("db", "check").returncode == 0


def test_a_full_disk_under_the_registry_ends_the_launch_and_loses_nothing(tmp_path: Path, table: str) -> None:
    with mounted(tmp_path / "disk", "8m") as disk:
        small = Small(tmp_path, QSWEEP_REGISTRY=f"sqlite:///{disk / 'registry.db'}")
        assert small.run("launch", "small.toml", "--limit", "1", "--workers", "1").returncode == 0
        filler = fill(disk, leave=0)
        answer = small.run("launch", "small.toml", "--workers", "1")
        assert answer.returncode == 1
        assert "the disk is full, nothing was written" in answer.stderr
        assert "Traceback" not in answer.stderr

        filler.unlink()
        filler = fill(disk, leave=60_000)  # room to begin, and soon no more
        answer = small.run("launch", "small.toml", "--workers", "1", "--lease", "2")
        assert "Traceback" not in answer.stderr
        filler.unlink()
        answer = small.run("launch", "small.toml", "--workers", "1", "--lease", "2")
        assert answer.returncode == 0, answer.stderr
        assert answer.stdout == table
        assert small.run("db", "check").returncode == 0
