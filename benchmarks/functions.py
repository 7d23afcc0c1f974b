"""A run of a function that does nothing, beside Ray Tune, Optuna and Hydra: `python -m benchmarks.functions`.

Each program gets the same grid of `value = 0, 1, …` and a function that returns it, with what it needs to answer
afterwards: qsweep a launch with its default registry, Ray Tune `Tuner.fit`, Optuna a study in SQLite, Hydra a multirun.
Each is run with few and with many runs, in turn, in processes of its own. `ms` is the wall time of the many over their
number, start included; `ms_more` that of one run more, (many − few) / (more runs); `processor_ms` and
`processor_ms_more` are the same of the processor time of all processes together, which other load on the machine
disturbs least. Where more rounds are asked for, the least counts.

qsweep runs each in a process of its own, Ray Tune in actors that it reuses (without that each takes about a second of
a processor), Optuna and Hydra in their own process. A program that is not installed is left out; `--hydra PYTHON` names
an interpreter that has it.

Raw figures in `benchmarks/results/functions.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "functions.json"
FEW, MANY = 50, 500
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""

QSWEEP = """
run = "file:nothing.py:nothing"
[axes]
value = {values}
"""
NOTHING = "def nothing(config):\n    return {'loss': float(config['value'])}\n"
RAY = """
import sys
import ray
from ray import tune

def nothing(config):
    return {"loss": float(config["value"])}

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    space = {"value": tune.grid_search(list(range(int(sys.argv[1]))))}
    config = tune.RunConfig(storage_path=sys.argv[2], verbose=0)
    found = tune.Tuner(
        nothing, param_space=space, run_config=config, tune_config=tune.TuneConfig(reuse_actors=True)
    ).fit()
    assert len(found) == int(sys.argv[1])
"""
OPTUNA = """
import sys
import optuna

optuna.logging.set_verbosity(optuna.logging.WARNING)
values = list(range(int(sys.argv[1])))
sampler = optuna.samplers.GridSampler({"value": values})
study = optuna.create_study(storage=f"sqlite:///{sys.argv[2]}/study.db", sampler=sampler)
study.optimize(lambda trial: float(trial.suggest_categorical("value", values)), n_trials=len(values))
assert len(study.trials) == len(values)
"""
HYDRA = """
import hydra

@hydra.main(version_base=None, config_path=None)
def nothing(config):
    return float(config.value)

if __name__ == "__main__":
    nothing()
"""


def qsweep(count: int, folder: Path, workers: int) -> list[str]:
    (folder / "nothing.py").write_text(NOTHING)
    (folder / "sweep.toml").write_text(QSWEEP.format(values=list(range(count))))
    command = [sys.executable, "-m", "qsweep.orchestrator.cli", "launch", "sweep.toml"]
    return [*command, "--home", str(folder / "home"), "--workers", str(workers)]


def ray(count: int, folder: Path) -> list[str]:
    (folder / "nothing_ray.py").write_text(RAY)
    return [sys.executable, "nothing_ray.py", str(count), str(folder / "ray")]


def optuna(count: int, folder: Path) -> list[str]:
    (folder / "nothing_optuna.py").write_text(OPTUNA)
    return [sys.executable, "nothing_optuna.py", str(count), str(folder)]


def hydra(count: int, folder: Path, python: str) -> list[str]:
    (folder / "nothing_hydra.py").write_text(HYDRA)
    values = ",".join(map(str, range(count)))
    return [python, "nothing_hydra.py", "--multirun", f"+value={values}", f"hydra.sweep.dir={folder / 'multirun'}"]


def seconds(command: Callable[[int, Path], list[str]], count: int) -> tuple[float, float]:
    """The wall time of a program for so many runs, in a folder of its own, and the processor time of all that it
    starts: whatever outlives it becomes a child of this process."""
    folder = Path(tempfile.mkdtemp(prefix="functions-"))
    try:
        words, log = command(count, folder), folder / "log"
        began, before = time.monotonic(), processor_time()
        with log.open("wb") as output:
            found = subprocess.run(words, cwd=folder, env=quiet(), stdout=output, stderr=output, check=False)
        took = time.monotonic() - began
        assert found.returncode == 0, log.read_text()[-3000:]
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
        return took, processor_time() - before
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def processor_time() -> float:
    """Of all that this process has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def quiet() -> Mapping[str, str]:
    return {
        **os.environ,
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    }


def figures(took: Mapping[int, list[tuple[float, float]]]) -> dict[str, object]:
    """What one run costs, by the least wall and processor seconds of few and of many."""
    few, many = took
    found: dict[str, object] = {}
    for place, prefix in enumerate(("", "processor_")):
        least = {count: min(one[place] for one in some) for count, some in took.items()}
        found[f"{prefix}ms"] = round(1000 * least[many] / many, 1)
        found[f"{prefix}ms_more"] = round(1000 * (least[many] - least[few]) / (many - few), 1)
    return found | {
        "seconds": {str(count): [[round(value, 2) for value in one] for one in some] for count, some in took.items()}
    }


def _has_hydra(parser: argparse.ArgumentParser, python: str) -> bool:
    """Whether this interpreter has Hydra; ends the program if one was named that hasn't, or that is none."""
    try:
        missing = subprocess.run([python, "-c", "import hydra"], capture_output=True, check=False).returncode != 0
        problem = "it has no hydra" if missing else ""
    except OSError as error:
        problem = str(error.strerror)
    if problem and python != sys.executable:
        parser.error(f"--hydra {python}: {problem}; allowed: a Python interpreter that can import hydra")
    return not problem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hydra", metavar="PYTHON", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--runs", type=int, nargs=2, metavar=("FEW", "MANY"), default=(FEW, MANY))
    parser.add_argument("--only", nargs="*")
    given = parser.parse_args()
    programs: dict[str, Callable[[int, Path], list[str]]] = {
        "qsweep, 1 agent": lambda count, folder: qsweep(count, folder, 1),
        "qsweep, 2 agents": lambda count, folder: qsweep(count, folder, 2),
    }
    if importlib.util.find_spec("ray"):
        programs["Ray Tune"] = ray
    if importlib.util.find_spec("optuna"):
        programs["Optuna"] = optuna
    if _has_hydra(parser, given.hydra):
        programs["Hydra"] = lambda count, folder: hydra(count, folder, given.hydra)
    programs = {name: one for name, one in programs.items() if not given.only or name in given.only}
    few, many = given.runs
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    took: dict[str, dict[int, list[tuple[float, float]]]] = {name: {few: [], many: []} for name in programs}
    for _ in range(given.rounds):
        for name, command in programs.items():
            for count in (few, many):
                took[name][count].append(seconds(command, count))
                wall, processor = took[name][count][-1]
                sys.stderr.write(f"{name}, {count} runs: {wall:.1f} s, of the processors {processor:.1f} s\n")
    rows = [{"program": name} | figures(found) for name, found in took.items()]
    content = {"runs": [few, many], "cores": os.cpu_count(), "load": os.getloadavg()[0], "programs": rows}
    sys.stdout.write(json.dumps(content, indent=1) + "\n")
    if not given.only:
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
