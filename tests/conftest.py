"""What tests share: the command line as a user runs it, in a home of its own."""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest
import torch
import typer.main
import typer.testing

from qsweep.db.registry import Registry
from qsweep.db.states import State
from qsweep.orchestrator.cli import main
from qsweep.sweeps import processes
from qsweep.workers.environment import KEEP_MEMORY

torch.set_num_threads(1)  # as in an agent: with more, sums have another order, and the results other last bits

hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)  # how long an example takes says how busy the machine is
hypothesis.settings.load_profile("busy")

SCRIPT = str(Path(sys.executable).with_name("qsweep"))
QSWEEP = (*processes.PYTHON, "qsweep.orchestrator.cli")
"""What the command line of `qsweep` begins with."""
PRELOADED = (
    "qsweep.orchestrator.cli",
    "qsweep.orchestrator.launcher",
    "qsweep.orchestrator.planner",
    "qsweep.orchestrator.supervisor",
    "qsweep.orchestrator.tuning",
    "qsweep.reports.answers",
    "qsweep.reports.evidence",
    "qsweep.reports.figures",
    "qsweep.reports.query",
    "qsweep.workers.agent.__main__",
    "qsweep.workers.bundle.agent",
    "qsweep.workers.bundle.command",
    "qsweep.workers.calibration",
    "qsweep.workers.landscape.points",
    "qsweep.workers.probe",
    "qsweep.workers.service",
    "sklearn.datasets",
    "alembic.command",
    "psycopg",
    "duckdb",
)
"""What a process of a test would import. All of it is imported once, and each process is forked."""

SURROUNDINGS = dict(os.environ)
"""As they were before any library changed them: cv2 does."""
Qsweep = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_configure(config: pytest.Config) -> None:
    """What runs tests gets a fork server: each of xdist's workers, or the one process that there is."""
    gc.disable()
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        processes.warm_up(*PRELOADED, environment={**SURROUNDINGS, **KEEP_MEMORY, **threads})


def pytest_unconfigure() -> None:
    processes.cool_down()


def pytest_collection_finish() -> None:
    """Nothing that was imported is garbage: looking through it again and again was a third of the start."""
    gc.freeze()
    gc.enable()


LONGEST = (
    "orchestrator/test_slurm.py",
    "workers/test_equivalence.py",
    "orchestrator/test_bundles.py",
    "orchestrator/test_ray.py",
    "orchestrator/test_tune.py",
    "workers/test_independence.py",
    "test_readme.py",
    "orchestrator/test_launch.py",
    "orchestrator/test_imagenet.py",
    "fault/test_takeover.py",
    "fault/test_faults.py",
    "orchestrator/test_landscape.py",
    "orchestrator/test_care.py",
    "workers/test_compiled.py",
    "orchestrator/test_distortion.py",
    "orchestrator/test_measures.py",
    "test_gpu_day.py",
    "orchestrator/test_serving.py",
    "fault/test_weak_machines.py",
    "orchestrator/test_silent_registry.py",
)
"""The files that take longest, in this order: begun last, one of them would run alone at the end."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parent
    places = {root / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command with its home at `home`."""
    loaded = {name: value for name, value in SURROUNDINGS.items() if name.startswith("LD_")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QSWEEP_", "LD_"))} | loaded
    return kept | {"QSWEEP_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "100", **(extra or {})}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where a test's sweeps live; not made yet."""
    return tmp_path / "home"


@pytest.fixture
def qsweep(home: Path, tmp_path: Path) -> Qsweep:
    """Run `qsweep` with these arguments in an empty folder."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        extra = options.pop("environment", None)
        assert extra is None or isinstance(extra, dict)
        return processes.run(  # type: ignore[call-overload,no-any-return]
            [*QSWEEP, *arguments],
            env=environment(home, extra),
            cwd=folder,
            capture_output=True,
            text=True,
            **{"timeout": 600, **options},
        )

    return run


@pytest.fixture
def real_data() -> str:
    """The folder of the real CIFAR-10, which QSWEEP_TEST_DATA names."""
    folder = os.environ.get("QSWEEP_TEST_DATA")
    if folder:
        return folder
    if "data" in os.environ.get("QSWEEP_REQUIRE", ""):
        pytest.fail("QSWEEP_TEST_DATA has to name the folder of the real CIFAR-10")
    pytest.skip("QSWEEP_TEST_DATA names no folder with the real CIFAR-10")


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Qsweep:
    """Run `qsweep` in this process: for what is answered at once, where starting a process would be all the time."""
    folder = tmp_path / "here"
    folder.mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("QSWEEP_")]:
                patch.delenv(name)
            for name, value in environment(home).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["qsweep", *arguments])
            patch.chdir(folder)
            for name in ("QSWEEP_REGISTRY", "QSWEEP_DATA"):  # global options are kept there
                patch.setenv(name, "")
                patch.delenv(name)
            capfd.readouterr()
            code = 0
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            said = capfd.readouterr()
        return subprocess.CompletedProcess(["qsweep", *arguments], code, said.out, said.err)

    return run


def wait_until_training(
    home: Path, jobs: int, *, step: int = 20, seconds: float = 600, registry: str | None = None
) -> None:
    """Until so many jobs run and have a checkpoint of this step or a later one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        opened = Registry.open_if_present(registry or home / "registry.db")
        if opened is not None:
            with opened:
                rows = [
                    row
                    for sweep in opened.catalogue.sweeps()
                    for row in opened.catalogue.jobs(sweep.id, state=State.RUNNING)
                ]
            if sum(row.progress >= step for row in rows) >= jobs:
                return
        time.sleep(0.1)
    pytest.fail(f"in {seconds:g} s no {jobs} jobs came to step {step}")


@pytest.fixture(scope="session", autouse=True)
def _one_command_line() -> Iterator[None]:
    """What is called within this process reads the options out of their signatures once, and not at each call."""
    with pytest.MonkeyPatch.context() as patch:
        made = functools.cache(typer.main.get_command)
        patch.setattr(typer.main, "get_command", made)
        patch.setattr(typer.testing, "_get_command", made)
        yield
