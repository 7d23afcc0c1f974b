"""What a supervisor says of its agent's death, and how it keeps its place while the registry is away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qsweep.db.registry import Registry
from qsweep.db.states import FailureClass
from qsweep.orchestrator import serving
from qsweep.orchestrator.supervisor import diagnose, stay
from qsweep.orchestrator.upkeep import End, Place
from qsweep.sweeps import processes
from qsweep.sweeps.job import Job
from qsweep.sweeps.memory import oom_kills
from qsweep.sweeps.training import Training
from qsweep.workers.agent.exits import Exit
from tests.conftest import environment
from tests.postgres import missing_postgres, running_server


@pytest.fixture(autouse=True)
def mask() -> Iterator[None]:
    """What a supervisor blocks in this process until it has an agent is let through again."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.parametrize(
    ("code", "out_of_memory", "failure"),
    [
        (-signal.SIGKILL, True, FailureClass.MEMORY),
        (-signal.SIGKILL, False, FailureClass.CRASH),
        (-signal.SIGSEGV, True, FailureClass.CRASH),
        (Exit.REGISTRY_GONE, False, FailureClass.LOST),
        (1, False, FailureClass.CRASH),
    ],
)
def test_a_death_is_classed_by_its_signal_and_by_what_the_kernel_did(
    code: int, out_of_memory: bool, failure: FailureClass
) -> None:
    assert diagnose(code, out_of_memory=out_of_memory)[0] is failure


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group below our own that holds 200 MB."""
    own = next(
        (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), None
    )
    if own is not None:
        group = Path("/sys/fs/cgroup/memory") / own[2].lstrip("/") / f"qsweep-{os.getpid()}"
        limit = "memory.limit_in_bytes"
    else:
        path = Path("/proc/self/cgroup").read_text().strip().split(":", 2)[2]
        group, limit = Path("/sys/fs/cgroup") / path.lstrip("/") / f"qsweep-{os.getpid()}", "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text("200000000")
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no control group with a limit can be made here: {error}")
    yield group
    group.rmdir()


EAT = "import sys; held = []\nwhile True: held.append(b'x' * 10**7)"
WATCH = f"""
import subprocess, sys
from qsweep.sweeps.memory import oom_kills
from qsweep.orchestrator.supervisor import diagnose, stay
from qsweep.orchestrator.upkeep import End
before = oom_kills()
code = subprocess.run([sys.executable, "-c", {EAT!r}]).returncode
print(diagnose(code, out_of_memory=oom_kills() > before)[0])
"""


@pytest.mark.slow
def test_the_kernel_s_oom_killer_is_told_from_another_sigkill(small_group: Path) -> None:
    def enter() -> None:
        (small_group / "cgroup.procs").write_text(str(os.getpid()))

    answer = subprocess.run(
        [sys.executable, "-c", WATCH], preexec_fn=enter, capture_output=True, text=True, check=True, timeout=600
    )
    assert answer.stdout.strip() == "memory"


def test_the_count_is_that_of_the_own_group_of_either_version_else_of_the_machine(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    assert oom_kills(proc, groups) == 0
    (proc / "vmstat").write_text("nr_free_pages 5\noom_kill 7\n")
    assert oom_kills(proc, groups) == 7
    (proc / "self" / "cgroup").write_text("4:memory:/slurm/job_1\n0::/\n")
    (groups / "memory" / "slurm" / "job_1").mkdir(parents=True)
    (groups / "memory" / "slurm" / "job_1" / "memory.oom_control").write_text("under_oom 0\noom_kill 3\n")
    assert oom_kills(proc, groups) == 3
    (proc / "self" / "cgroup").write_text("0::/user.slice/job\n")
    (groups / "user.slice" / "job").mkdir(parents=True)
    (groups / "user.slice" / "job" / "memory.events").write_text("low 0\noom 2\noom_kill 2\n")
    assert oom_kills(proc, groups) == 2


@pytest.fixture
def server() -> Iterator[serving.Server]:
    """A Postgres that can be stopped and started."""
    missing_postgres()
    with running_server() as found:
        yield found


DIGITS = {
    "data": "digits", "model": "nin", "channels_per_width": 2, "width": 2, "depth": 2, "bits": 32, "optimizer": "sgd",
    "learning_rate": 0.02, "weight_decay": 0.0, "batch_size": 64, "epochs": 2, "seed": 0,
}  # fmt: skip


def said(log: Path, words: str) -> None:
    """Wait until the supervisor has said so."""
    deadline = time.monotonic() + 600
    while words not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.slow
def test_a_place_is_kept_while_the_registry_is_away_and_its_next_agent_does_the_work(
    server: serving.Server, home: Path, tmp_path: Path
) -> None:
    with Registry.open(server.url, create=True) as registry:
        sweep = registry.sweeps.add(name="one", label="a", spec="{}", size=1)
        registry.sweeps.register(sweep.id, [Job(training=Training.from_settings(DIGITS))])
    serving.stop(server)
    command = [*processes.PYTHON, "qsweep.orchestrator.supervisor", "--home", str(home), "--lease", "30", "--stay"]
    log = tmp_path / "log"
    with log.open("w") as output:
        surroundings = environment(home, {"QSWEEP_REGISTRY": server.url})
        staying = processes.start(command, env=surroundings, stdout=output, stderr=output)
    try:
        said(log, "the agent ended with 4 and is started again in 5 s")
        serving.start(server)
        assert staying.wait(600) == Exit.LEFT, log.read_text()
    finally:
        staying.kill()
        staying.wait()
    with Registry.open(server.url) as registry:
        assert registry.catalogue.counts(sweep.id).done == 1
        assert [one.state.value for one in registry.catalogue.agents(state=None)] == ["retired"]


def test_who_waits_for_the_registry_hears_that_it_shall_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Place, "pause", lambda *given, **options: 1e6)  # it would wait for days
    heard: list[int] = []
    said: list[str] = []
    threading.Timer(0.5, heard.append, [signal.SIGTERM]).start()
    assert stay(lambda: End(code=Exit.REGISTRY_GONE), heard, said.append) is None
    assert said == ["the agent ended with 4 and is started again in 1e+06 s"]


def test_no_agent_is_started_again_where_all_failed_while_others_succeed() -> None:
    said: list[str] = []
    end = stay(lambda: End(code=Exit.ONLY_FAILED, held=1), [], said.append)
    assert end is not None
    assert (end.code, said) == (Exit.ONLY_FAILED, [])
