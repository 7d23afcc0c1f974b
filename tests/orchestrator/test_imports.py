"""What a command that only looks imports: each of these packages would take longer than its answer."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from qsweep.db.belonging import settle_belonging
from qsweep.db.registry import Registry
from qsweep.orchestrator.arrow import spare_pandas
from qsweep.orchestrator.ondemand import HOLDERS, MODULES, made
from qsweep.sweeps import code as own
from qsweep.sweeps.errors import InputError
from qsweep.sweeps.job import Job
from qsweep.sweeps.training import Training
from qsweep.workers import hardware
from qsweep.workers.hardware import Hardware, plain_processor
from tests.reports.made import home_at, launch, work

LOUD = """
import sys
from qsweep.orchestrator.cli import main
try:
    main()
finally:
    print(*sys.modules, file=open(sys.argv[0], "w"))
"""
HEAVY = ("torch", "pandas", "scipy", "statsmodels", "matplotlib", "sqlalchemy", "alembic", "psycopg", "ray", "rich")
ARROW = ("pyarrow", "numpy", "duckdb")
CONVERTING = ("pydantic", "psutil")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a finished sweep."""
    folder = tmp_path_factory.mktemp("imports")
    home = work(launch(home_at(folder))).home
    with Registry.open(home.registry) as registry:
        settle_belonging(home, registry)
    return home.root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "spared"),
    [
        (("--version",), (*HEAVY, *ARROW, *CONVERTING, "qsweep.db.registry", "qsweep.reports")),
        (("status",), (*HEAVY, *ARROW, *CONVERTING, "qsweep.sweeps.training")),
        (("jobs", "made"), (*HEAVY, "duckdb", "numpy", *CONVERTING)),
        (("show", "JOB"), (*HEAVY, "duckdb", "numpy", *CONVERTING)),
        (("db", "check"), (*HEAVY, "duckdb", "numpy", *CONVERTING)),
        (("sweeps",), (*HEAVY, *ARROW, *CONVERTING, "qsweep.db.registry")),
        (("plan", "made.toml"), (*HEAVY, *ARROW, "qsweep.reports.source")),
        (("tables", "made"), (*HEAVY, "duckdb", "numpy", *CONVERTING)),
        (("query", "SELECT bits, avg(train_loss) FROM runs GROUP BY bits"), (*HEAVY, "numpy", *CONVERTING)),
        (("launch", "made.toml"), (*HEAVY, "duckdb", "psutil", "qsweep.orchestrator.watch")),
    ],
    ids=("version", "status", "jobs", "show", "db-check", "sweeps", "plan", "tables", "query", "launch"),
)
def test_a_command_that_looks_imports_only_what_it_needs(
    root: Path, tmp_path: Path, words: tuple[str, ...], spared: tuple[str, ...]
) -> None:
    loaded = tmp_path / "loaded"
    code = LOUD.replace("sys.argv[0]", repr(str(loaded)))
    with Registry.open(root / "registry.db") as registry:
        job = next(iter(registry.catalogue.done()))
    subprocess.run(
        [sys.executable, "-c", code, *(job if word == "JOB" else word for word in words)],
        cwd=root.parent,
        env={**os.environ, "QSWEEP_HOME": str(root), "PYTHONPATH": str(own.ROOT)},
        check=True,
        capture_output=True,
    )
    assert set(loaded.read_text().split()).intersection(spared) == set()


def test_the_python_interface_imports_nothing_heavy() -> None:
    code = "import qsweep, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert set(loaded).intersection((*HEAVY, *ARROW, *CONVERTING, "typer", "qsweep.db.registry")) == set()


OF_FUNCTIONS = """
import sys
from importlib import import_module
from pathlib import Path
from qsweep.orchestrator.machine import plain_machine
from qsweep.orchestrator.warming import CALLING
from qsweep.sweeps.files import make_sweep
from qsweep.sweeps.kinds import CALL
modules = [import_module(one) for one in CALLING]
CALL.implementation()
agent = next(one for one in modules if one.__name__.endswith("__main__"))
spec = make_sweep({"command": "true {x}", "fixed": {}, "axes": {"x": [1]}}, "mine", Path())
print(agent.hardware_for(spec).name == plain_machine().device, "torch" in sys.modules)
"""


def test_an_agent_of_functions_imports_no_torch_where_there_can_be_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if plain_processor() is not None:
        found = subprocess.run([sys.executable, "-c", OF_FUNCTIONS], check=True, capture_output=True, text=True)
        assert found.stdout.splitlines() == ["True False"]
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(hardware, "DEV", tmp_path)
    assert plain_processor() is None
    (tmp_path / "nvidia0").unlink()
    assert plain_processor() == Hardware(
        type="cpu", name=f"cpu {platform.machine()}", build=version("torch"), precisions=("fp32",)
    )


def test_every_command_is_found_where_it_is_made() -> None:
    assert {module: tuple(made(module)) for module in MODULES} == MODULES
    assert set(HOLDERS) == {name for names in MODULES.values() for name in names}


def test_a_data_frame_is_there_for_who_wants_one_after_all() -> None:
    code = (
        "from qsweep.orchestrator.arrow import spare_pandas; spare_pandas(); import pyarrow as pa, sys; "
        "assert 'pandas' not in sys.modules; print(pa.table({'a': [1, 2]}).to_pandas()['a'].sum())"
    )
    asked = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert asked.stdout == "3\n"
    spare_pandas()  # where it is imported already, nothing is spared


def test_components_that_are_built_once_are_told_apart_by_the_types_of_their_settings() -> None:
    settings = {
        "data": "digits", "model": "nin", "width": 2, "depth": 2, "channels_per_width": 2, "bits": 4,
        "optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0, "epochs": 3, "batch_size": 64,
        "milestones": (1,), "lr_factor": 0.1,
    }  # fmt: skip
    whole = Training.from_settings(settings)
    assert Job(training=Training.from_settings(dict(settings))).identity == Job(training=whole).identity
    for name, value in (("milestones", (True,)), ("milestones", (1.0,)), ("epochs", 3.0), ("width", True)):
        with pytest.raises(InputError, match=re.escape(name)):
            Training.from_settings(settings | {name: value})
