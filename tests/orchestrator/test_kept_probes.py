"""What a probe found is believed exactly as long as nothing has changed that decides it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from qsweep.db.home import Home
from qsweep.orchestrator import kept_probes, machine
from qsweep.orchestrator.backends.local import LocalBackend
from qsweep.orchestrator.kept_probes import Kept, kept_machine, look, machine_stamp, read, write
from qsweep.orchestrator.launcher import Execution, survey
from qsweep.orchestrator.machine import Machine
from qsweep.orchestrator.selection import read_selection
from qsweep.sweeps import processes
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.files import read_sweep
from qsweep.sweeps.job import Job
from qsweep.workers.data.archive import write_archive
from tests.conftest import Qsweep

CHEAP = ("digits-grid", "--limit", "1")
LONG_AGO = 1_700_000_000


@pytest.fixture(scope="module")
def jobs() -> Sequence[Job]:
    return read_selection("digits-grid", limit=2).chosen


@pytest.fixture
def place(home: Path) -> Home:
    found = Home.at(home)
    found.prepare()
    return found


@pytest.fixture(scope="session")
def answers() -> dict[object, Machine]:
    """What this machine really answered, by what its answer depends on here: its cores, and the files of data sets."""
    return {}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, answers: dict[object, Machine]) -> Callable[[], int]:
    """How often this machine was asked since the last call. What it has answered once, it answers without torch."""
    calls: list[object] = []

    def probe(home: Home, *arguments: Any, **named: Any) -> Machine:
        calls.append(arguments)
        files = {path.name: path.read_bytes() for path in home.data.glob("*")}
        key = (frozenset(os.sched_getaffinity(0)), frozenset(files.items()), repr(arguments), repr(named))
        if key not in answers:
            answers[key] = machine.probe(home, *arguments, **named)
        return answers[key]

    def count() -> int:
        number = len(calls)
        calls.clear()
        return number

    monkeypatch.setattr(kept_probes, "probe", probe)
    return count


def known(place: Home, jobs: Sequence[Job], asked: Callable[[], int]) -> Machine:
    """The machine, looked at and kept."""
    found = look(place, jobs)
    found.keep(place)
    assert asked() == 1
    assert look(place, jobs).machine == found.machine
    assert asked() == 0
    return found.machine


@pytest.mark.slow
def test_a_machine_is_asked_once_and_then_known(place: Home, jobs: Sequence[Job], asked: Callable[[], int]) -> None:
    found = known(place, jobs, asked)
    assert found.cores == len(os.sched_getaffinity(0))
    assert kept_machine(place) == found
    assert look(place, []).machine == found
    assert asked() == 0


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the folder in which torch is installed."""
    folder = tmp_path / "torch"
    folder.mkdir()
    for name in ("__init__.py", "version.py"):
        (folder / name).touch()
    find = kept_probes.find_spec
    spec = ModuleSpec("torch", None, origin=str(folder / "__init__.py"))
    monkeypatch.setattr(kept_probes, "find_spec", lambda name: spec if name == "torch" else find(name))
    return folder


def other_variable(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    patch.setenv("CUDA_VISIBLE_DEVICES", "7")


def fewer_instructions(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    patch.setenv("ATEN_CPU_CAPABILITY", "default")


def other_code(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    patch.setattr(kept_probes, "code_version", lambda: "0+0123456789ab")


def booted_again(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    patch.setattr(kept_probes, "machine_id", lambda: "another boot")


def other_python(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    patch.setattr(kept_probes.sys, "version", "3.99")


def torch_installed_again(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.utime(tmp_path / "torch" / "version.py", (LONG_AGO, LONG_AGO))


def torch_replaced_with_its_times(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "torch" / "version.py"
    times = file.stat()
    (tmp_path / "new").touch()
    os.utime(tmp_path / "new", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tmp_path / "new").rename(file)


def driver_updated(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    version = tmp_path / "proc" / "driver" / "nvidia" / "version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: 999.1\n")
    patch.setattr(kept_probes, "PROC", tmp_path / "proc")


def gpu_added(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    patch.setattr(kept_probes, "DEV", tmp_path / "dev")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        other_variable,
        fewer_instructions,
        other_code,
        booted_again,
        other_python,
        torch_installed_again,
        torch_replaced_with_its_times,
        driver_updated,
        gpu_added,
    ],
)
def test_whatever_decides_an_answer_has_it_asked_again(
    place: Home,
    jobs: Sequence[Job],
    asked: Callable[[], int],
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pytest.MonkeyPatch, Path], None],
) -> None:
    known(place, jobs, asked)
    change(monkeypatch, tmp_path)
    assert kept_machine(place) is None
    look(place, jobs)
    assert asked() == 1


@pytest.fixture
def one_core() -> Iterator[Callable[[], None]]:
    before = os.sched_getaffinity(0)
    yield lambda: os.sched_setaffinity(0, {min(before)})
    os.sched_setaffinity(0, before)


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_fewer_cores_are_seen(
    place: Home, jobs: Sequence[Job], asked: Callable[[], int], one_core: Callable[[], None]
) -> None:
    known(place, jobs, asked)
    one_core()
    assert look(place, jobs).machine.cores == 1


@pytest.fixture
def archive(place: Home) -> Path:
    """The digits as a file in the data folder, written long ago."""
    write_archive("digits", None, place.data, download=False)  # type: ignore[arg-type]
    return place.data / "digits.npz"


@pytest.fixture
def rested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as known by their times at once."""
    monkeypatch.setattr(kept_probes, "RESTED", -1e9)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["content", "same times", "gone", "new"])
def test_a_data_set_that_changed_is_read_again(
    place: Home, jobs: Sequence[Job], asked: Callable[[], int], rested: None, change: str
) -> None:
    file = place.data / "digits.npz"
    if change != "new":
        write_archive("digits", None, place.data, download=False)  # type: ignore[arg-type]
    known(place, jobs, asked)
    if change in ("content", "same times"):
        times = file.stat()
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 255
        file.write_bytes(content)
        if change == "same times":
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(InputError, match=r"damaged|not the published"):
            look(place, jobs)
    else:
        file.unlink() if change == "gone" else write_archive("digits", None, place.data, download=False)  # type: ignore[arg-type]
        look(place, jobs)
    assert asked() == 1


@pytest.mark.slow
def test_a_file_that_changed_just_now_is_not_known_by_its_times(
    place: Home, jobs: Sequence[Job], asked: Callable[[], int], archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_probes, "RESTED", 1e6)
    for _ in range(2):
        look(place, jobs).keep(place)
        assert asked() == 1
    assert kept_machine(place) is not None


@pytest.mark.slow
def test_what_changes_while_it_is_asked_is_not_kept(
    place: Home, jobs: Sequence[Job], archive: Path, rested: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe(*arguments: Any, **named: Any) -> Machine:
        found = machine.probe(*arguments, **named)
        archive.touch()
        return found

    monkeypatch.setattr(kept_probes, "probe", probe)
    assert look(place, jobs).news is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[" * 100_000,
        lambda text: "{}",
        lambda text: text.replace('"cores": ', '"cores": 9'),
        lambda text: json.dumps({**json.loads(text), "kept": None}),
        lambda text: "\0" * len(text),
    ],
)
def test_a_damaged_file_is_as_good_as_none(
    place: Home, jobs: Sequence[Job], asked: Callable[[], int], damage: Callable[[str], str]
) -> None:
    found = known(place, jobs, asked)
    (file,) = (place.root / "probes").iterdir()
    file.write_text(damage(file.read_text()))
    assert look(place, jobs).machine == found
    assert asked() == 1


@pytest.mark.slow
def test_a_home_where_nothing_can_be_kept_works(place: Home, jobs: Sequence[Job], asked: Callable[[], int]) -> None:
    (place.root / "probes").write_text("in the way")
    for _ in range(2):
        look(place, jobs).keep(place)
        assert asked() == 1


def test_nothing_is_written_before_it_is_to_be_kept(home: Path, jobs: Sequence[Job]) -> None:
    look(Home.at(home), jobs)
    assert not home.exists()


@pytest.mark.slow
def test_machines_that_share_a_home_are_told_apart(
    place: Home, jobs: Sequence[Job], asked: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    known(place, jobs, asked)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        known(place, jobs, asked)
    look(place, jobs)
    assert asked() == 0
    assert len(list((place.root / "probes").iterdir())) == 2


def test_no_more_files_are_kept_than_a_few(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Kept(stamp="1", machine=Machine(cores=1, gpus=0, torch="2"))
    for number in range(kept_probes.MOST + 3):
        monkeypatch.setattr(socket, "gethostname", lambda number=number: f"node{number}")
        write(place, made)
        assert read(place) == made
    assert len(list((place.root / "probes").iterdir())) == kept_probes.MOST


@pytest.fixture
def pretended(place: Home) -> Home:
    """A home in which this machine is kept as one with 77 cores."""
    found = Machine(cores=77, gpus=0, torch="2.99", device="cpu made up", memory=1e9)
    data = {"digits": kept_probes.data_stamp(read_selection("digits-grid").jobs[0].training.data, place.data)}
    write(place, Kept(stamp=machine_stamp(), machine=found, data=data))
    return place


@pytest.mark.slow
def test_a_doctor_looks_himself(pretended: Home, here: Qsweep) -> None:
    said = here("doctor").stdout
    assert "cores: " in said
    assert "77 cores" not in said


@pytest.fixture
def no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process of ours ends at once and in failure."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(processes, "PYTHON", (str(python), "-m"))
    monkeypatch.setattr(processes, "_server", None)
    monkeypatch.setattr(processes, "EXECUTE", None)


def test_a_launch_asks_nobody_for_what_is_known(pretended: Home, jobs: Sequence[Job], no_child: None) -> None:
    execution = Execution(workers=None, lease=30, time_limit=None, detach=False)
    ground = survey(pretended, LocalBackend(), execution, read_sweep("digits-grid"), jobs)
    assert ground.site.agents == 77


@pytest.mark.slow
def test_a_launch_that_fails_forgets_what_it_believed(pretended: Home, here: Qsweep, no_child: None) -> None:
    answer = here("launch", *CHEAP, "--workers", "1")
    assert "agents end without doing anything" in answer.stderr
    assert kept_machine(pretended) is None
