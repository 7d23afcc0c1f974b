"""Files and folders appear whole or not at all, and a failure leaves nothing behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qsweep.orchestrator.starter import write_starter
from qsweep.sweeps.user_code import UserCode, keep_user_code
from qsweep.sweeps.wholefiles import clear_abandoned, clear_folder, whole_file, whole_folder, write_whole
from qsweep.workers.corruptions.sets import claim


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond 4 kB: a write fails in its middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, heard)


def test_a_file_is_the_new_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_user_names_is_written_where_its_links_lead_and_takes_the_place_of_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for content in (b"old", b"new"):
        write_whole(tmp_path / "link", content, tidy=True)
        assert ((tmp_path / "link").is_symlink(), (tmp_path / "file").read_bytes()) == (True, content)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to-pipe").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "to-pipe"):
        before = path.lstat()
        with pytest.raises(OSError, match="device, a pipe or a socket"):
            write_whole(path, b"lost", tidy=True)
        assert (before.st_ino, before.st_mode) == (path.lstat().st_ino, path.lstat().st_mode)
    assert len(os.listdir(tmp_path)) == 4


@pytest.mark.usefixtures("small_disk")
def test_on_a_full_disk_the_old_file_stays_and_nothing_else_does(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    with pytest.raises(OSError, match="too large"):
        write_whole(path, b"x" * 10_000)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_who_fails_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_file(tmp_path / "file") as file:
            file.write(b"half of it")
            assert not (tmp_path / "file").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_takes_nobodys_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*paths: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:  # as file systems without hard links answer
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "file"

    def write(content: bytes) -> None:
        with whole_file(path, new=True) as file:
            file.write(content)

    write(b"first")
    with pytest.raises(FileExistsError):
        write(b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_two_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with whole_file(path) as first, whole_file(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"  # whose block ended last
    assert os.listdir(tmp_path) == ["file"]


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"


@pytest.mark.usefixtures("small_disk")
def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "folder") as begun:
        (begun / "deep").mkdir()
        (begun / "deep" / "file").write_bytes(b"content")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "deep" / "file").read_bytes() == b"content"
    with pytest.raises(OSError, match="too large"), whole_folder(tmp_path / "other") as begun:
        (begun / "file").write_bytes(b"x" * 10_000)
    with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path / "folder") as begun:
        (begun / "file").write_bytes(b"content")
    assert os.listdir(tmp_path) == ["folder"]


KILLED = """
import os, signal, sys
from pathlib import Path
from qsweep.orchestrator.starter import write_starter
from qsweep.sweeps.user_code import UserCode, keep_user_code
from qsweep.sweeps.wholefiles import whole_file, whole_folder
with whole_file(Path(sys.argv[1]) / "file") as file, whole_folder(Path(sys.argv[1]) / "folder") as begun:
    (begun / "half").write_bytes(b"of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_goes_and_what_is_written_stays(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert killed.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 2
    (tmp_path / f".other.{'0' * 32}.tmp").touch()  # of another name: nobody's business
    with whole_file(tmp_path / "file") as first, whole_folder(tmp_path / "folder") as begun:
        write_whole(tmp_path / "file", b"second", tidy=True)
        clear_abandoned(tmp_path / "folder")
        first.write(b"first")
        (begun / "half").write_bytes(b"and half")
    assert sorted(os.listdir(tmp_path)) == [f".other.{'0' * 32}.tmp", "file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"first"
    assert (tmp_path / "folder" / "half").read_bytes() == b"and half"


def test_a_folder_is_rid_of_what_killed_writers_left_whatever_it_was_to_become(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "deep"):
        place.mkdir(exist_ok=True)
        assert subprocess.run([sys.executable, "-c", KILLED, str(place)]).returncode == -signal.SIGKILL
        (place / ".hidden.tmp").touch()  # no name of ours
    with whole_file(tmp_path / "alive") as file:
        clear_folder(tmp_path)
        assert len(os.listdir(tmp_path / "deep")) == 3
        clear_folder(tmp_path, below=True)
        clear_folder(tmp_path / "nowhere")
        file.write(b"whole")
    assert sorted(os.listdir(tmp_path)) == [".hidden.tmp", "alive", "deep"]
    assert os.listdir(tmp_path / "deep") == [".hidden.tmp"]


def _keep_code(folder: Path) -> Path:
    return keep_user_code(folder, UserCode(folder=Path("mine"), main="one.py", files={"one.py": b""})) / "ORIGIN"


def _start(folder: Path) -> Path:
    return write_starter(folder)[-1]


def _claim(folder: Path) -> Path:
    claim(folder, {"seed": 1})
    return folder / "qsweep.json"


@pytest.mark.parametrize("write", [_keep_code, _start, _claim])
def test_where_no_collector_looks_the_next_writer_clears_what_a_killed_one_left(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    written = write(tmp_path)
    left = written.with_name(f".{written.name}.{'0' * 32}.tmp")
    written.unlink()
    for path in tmp_path.rglob("*") if write is _start else ():
        path.unlink()  # it writes into folders alone that hold none of its files
    left.write_bytes(b"half")
    assert write(tmp_path).is_file()
    assert not left.exists()
