"""What a job of a function that does nothing costs: qsweep beside Ray Tune, Optuna and Hydra, in one run.

`python -m benchmarks.functions [--jobs N] [--path FOLDER]` prints a table of milliseconds a job and keeps it in
`results/functions.json`. Only the work on the jobs is counted, from the first to the last: each side's process, its
imports and its cluster are there before. `--path` names a folder with packages that are not installed, such as Hydra.

Each side does what it does by itself. qsweep runs each job in a process of its own, registers it, and writes its row to
the disk before it counts. Ray Tune runs each trial in an actor. Optuna calls a function in this process, with a SQLite
file. Hydra's basic launcher calls one in its process, with a folder for each job.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "functions.json"
TRAIN = "def train(config):\n    return {'x': config['x']}\n"
HYDRA = """
import time
import hydra

@hydra.main(version_base=None, config_path=None)
def train(config):
    print("at", time.time())

if __name__ == "__main__":
    train()
"""


def by_qsweep(jobs: int, folder: Path) -> float:
    """Seconds from the first claim to the last finish of one agent."""
    import qsweep
    from qsweep.db.registry import Registry

    (folder / "train.py").write_text(TRAIN)
    made = qsweep.Sweep(
        "nothing", run="file:train.py:train", axes={"x": list(range(jobs))}, folder=folder, home=folder / "home"
    )
    made.launch(workers=1)
    with Registry.open(str(folder / "home" / "registry.db")) as registry:
        (sweep,) = registry.catalogue.sweeps()
        attempts = registry.catalogue.view("attempts", sweep.id, ["started_at", "ended_at"]).to_pandas()
    return float((attempts["ended_at"].max() - attempts["started_at"].min()).total_seconds())


def by_ray_tune(jobs: int, folder: Path) -> float:
    """Seconds of the fit, on one processor of a Ray that has been started before."""
    os.environ |= {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
    import ray
    from ray import tune

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        lambda config: {"x": config["x"]},
        param_space={"x": tune.grid_search(list(range(jobs)))},
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    began = time.perf_counter()
    tuner.fit()
    took = time.perf_counter() - began
    ray.shutdown()
    return took


def by_optuna(jobs: int, folder: Path) -> float:
    """Seconds of a study with a grid sampler."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {"x": list(range(jobs))}
    study = optuna.create_study(storage=f"sqlite:///{folder / 'optuna.db'}", sampler=optuna.samplers.GridSampler(space))
    began = time.perf_counter()
    study.optimize(lambda trial: trial.suggest_float("x", 0, jobs), n_trials=jobs)
    return time.perf_counter() - began


def by_hydra(jobs: int, folder: Path) -> float:
    """Seconds from the first job to the last, for as many jobs."""
    (folder / "app.py").write_text(HYDRA)
    words = [sys.executable, "app.py", "--multirun", "+x=" + ",".join(map(str, range(jobs)))]
    found = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    times = [float(line.split()[1]) for line in found.stdout.splitlines() if line.startswith("at ")]
    return (times[-1] - times[0]) * jobs / (jobs - 1)


SIDES: Mapping[str, Callable[[int, Path], float]] = {
    "qsweep": by_qsweep,
    "Ray Tune": by_ray_tune,
    "Optuna": by_optuna,
    "Hydra": by_hydra,
}


def bare_fork(times: int = 100) -> float:
    """Seconds of a fork of this process that ends at once: the unit by which a loaded machine is told."""
    began = time.perf_counter()
    for _ in range(times):
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
    return (time.perf_counter() - began) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--side", choices=SIDES, help="measure this one, in this process, and print it")
    given = parser.parse_args()
    if given.side:
        with tempfile.TemporaryDirectory() as folder:
            seconds = SIDES[given.side](given.jobs, Path(folder))
        sys.stdout.write(f"\nseconds {seconds}\n")
        return
    fork = bare_fork()
    found: dict[str, float] = {}
    search = os.pathsep.join(filter(None, [str(given.path or ""), os.environ.get("PYTHONPATH")]))
    for side in SIDES:
        words = [sys.executable, "-m", "benchmarks.functions", "--jobs", str(given.jobs), "--side", side]
        told = subprocess.run(
            words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": search}, check=False
        )
        lines = [line for line in told.stdout.splitlines() if line.startswith("seconds ")]
        if lines:
            found[side] = 1e3 * float(lines[-1].split()[1]) / given.jobs
        else:
            sys.stderr.write(f"{side} could not be measured: {told.stderr.strip().splitlines()[-1:]}\n")
    sys.stdout.write("| | ms a job | beside qsweep |\n|---|---:|---:|\n")
    for side, cost in found.items():
        sys.stdout.write(f"| {side} | {cost:.1f} | {cost / found['qsweep']:.1f} × |\n")
    sys.stdout.write(f"| a bare fork | {fork * 1e3:.1f} | |\n")
    content = {"jobs": given.jobs, "ms_a_job": found, "ms_of_a_bare_fork": fork * 1e3, "load": os.getloadavg()[0]}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
