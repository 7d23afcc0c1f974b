"""A function and a script of the user as a sweep: every way in which a run may end, and what is answered of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from qsweep.db.audit import audit
from qsweep.db.budgets import CRASHES_ALONE, TRIES_IN_ALL
from qsweep.db.home import Home
from qsweep.db.registry import Registry
from qsweep.db.states import FailureClass, State
from qsweep.reports.charts.general import curves_chart
from qsweep.reports.opening import opened_source
from qsweep.reports.returned import Returned, returned_by
from qsweep.sweeps import processes
from qsweep.sweeps.errors import LostResults
from tests.conftest import QSWEEP, environment
from tests.postgres import missing_postgres, running_server

TRAIN = """
import math
import os
import signal
import sys
import time

from helper import square


def train(config, run):
    case = config["case"]
    print(f"this is {case}")
    if case == "starts-badly":
        raise ValueError("no such thing")
    if case == "late":
        for step in range(101):
            run.log(step, loss=1 / (1 + step))
            if step == 100:
                raise KeyError("step 100")
    if case == "exits":
        sys.exit(3)
    if case == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if case == "leaks":
        hoard = []
        while True:
            hoard.append(bytearray(b"x" * (8 << 20)))
            time.sleep(0.01)
    if case == "hangs":
        time.sleep(600)
    if case == "junk":
        return {"model": object()}
    if case == "forks":
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
    if case == "opens":
        with open("left_behind.txt", "w") as file:
            file.write(case)
    for step in range(3):
        run.log(step, loss=math.exp(-step))
    if case == "nothing":
        return None
    score = math.nan if case == "nan" else square(config["x"])
    return {"score": score, "name": case, "fine": True, "seed_was": run.seed}
"""
HELPER = "def square(x):\n    return x * x\n"
FINE = ("fine", "forks", "opens", "nothing", "nan")
ENDS = {
    "starts-badly": ("crash", "ValueError: no such thing"),
    "late": ("crash", "KeyError: 'step 100'"),
    "exits": ("crash", "sys.exit(3)"),
    "killed": ("crash", "killed by signal 9"),
    "leaks": ("memory", "GB are allowed"),
    "hangs": ("timeout", "not done after 15 s"),
    "junk": ("input", "the returned model is <object"),
}
SWEEP = f"""
run = "file:code/train.py:train"
memory = "300 MB"
[fixed]
x = 3
[axes]
case = {json.dumps([*ENDS, *FINE])}
"""


@dataclass(frozen=True)
class Project:
    """A folder of a user with a home in it."""

    folder: Path
    registry: str | None = None

    @property
    def home(self) -> Home:
        return Home.at(self.folder / "home", registry=self.registry)

    @property
    def surroundings(self) -> dict[str, str]:
        """The variables of every command of it."""
        return {} if self.registry is None else {"QSWEEP_REGISTRY": self.registry}

    def qsweep(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return processes.run(  # type: ignore[call-overload,no-any-return]
            [*QSWEEP, *arguments],
            env=environment(self.home.root, self.surroundings | extra),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def begin(self, *arguments: str, said: str = "said") -> subprocess.Popen[bytes]:
        """The same, not waited for, in a session of its own; what it says goes into a file of the folder."""
        with (self.folder / said).open("wb") as output:
            return processes.start(
                [*QSWEEP, *arguments],
                env=environment(self.home.root, self.surroundings),
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def query(self, sql: str) -> list[dict[str, Any]]:
        found = self.qsweep("query", sql, "--format", "json")
        assert found.returncode == 0, found.stderr
        rows: list[dict[str, Any]] = json.loads(found.stdout)
        return rows


def made(folder: Path, train: str = TRAIN, sweep: str = SWEEP, name: str = "cases.toml") -> Project:
    (folder / "code").mkdir(parents=True, exist_ok=True)
    (folder / "code" / "train.py").write_text(train)
    (folder / "code" / "helper.py").write_text(HELPER)
    (folder / name).write_text(sweep)
    return Project(folder)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """All cases, run by one agent."""
    project = made(tmp_path_factory.mktemp("cases"))
    found = project.qsweep("launch", "cases.toml", "--workers", "1", "--time-limit", "15")
    assert found.returncode == 1, found.stderr
    yield project
    assert not audit(project.home)


@pytest.fixture(scope="module")
def jobs(cases: Project) -> dict[str, Any]:
    with Registry.open(cases.home.registry) as registry:
        (sweep,) = registry.catalogue.sweeps()
        return {str(row.job.settings()["case"]): row for row in registry.catalogue.jobs(sweep.id)}


@pytest.mark.slow
@pytest.mark.parametrize("case", ENDS)
def test_a_run_that_fails_ends_in_its_class_with_its_own_words(cases: Project, jobs: dict[str, Any], case: str) -> None:
    failure, words = ENDS[case]
    row = jobs[case]
    assert (row.state, row.failure_class) == (State.FAILED, failure)
    with Registry.open(cases.home.registry) as registry:
        error = registry.history.attempts(row.id)[-1].error
    assert words in error
    if case in ("starts-badly", "late"):
        assert 'train.py", line' in error
        assert "qsweep/" not in error.replace(str(cases.folder), ""), "the traceback is the user's alone"


@pytest.mark.slow
def test_those_that_fail_take_nobody_with_them(cases: Project, jobs: dict[str, Any]) -> None:
    assert {case for case, row in jobs.items() if row.state is State.DONE} == set(FINE)
    assert {case for case, row in jobs.items() if row.diverged} == {"nan"}
    rows = {one["case"]: one for one in cases.query('SELECT "case", score, fine, seed_was, loss FROM returned')}
    assert rows["fine"]["score"] == 9
    assert rows["fine"]["fine"] is True
    assert rows["nothing"]["loss"] == pytest.approx(0.1353352832366127), "what it logged last"
    assert (cases.folder / "code" / "left_behind.txt").read_text() == "opens", "it runs where its file lies"


@pytest.mark.slow
def test_whatever_a_run_has_forked_ends_with_it(cases: Project, jobs: dict[str, Any]) -> None:
    alive = [
        entry for entry in Path("/proc").iterdir() if entry.name.isdecimal() and _works_in(entry, cases.folder / "code")
    ]
    assert not alive


def _works_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").resolve() == folder
    except OSError:
        return False


@pytest.mark.slow
def test_every_command_answers(cases: Project, jobs: dict[str, Any]) -> None:
    fine = jobs["fine"].identity
    assert "this is fine" in cases.qsweep("logs", fine, "-n", "1000").stdout
    shown = cases.qsweep("show", fine).stdout
    assert "score" in shown
    assert "9" in shown
    table = cases.qsweep("tables", "cases", "--format", "csv").stdout
    assert "fine" in table
    assert "score" in table
    curves = cases.query("SELECT step, value FROM logged WHERE job = '" + fine + "' ORDER BY step")
    assert [one["value"] for one in curves] == pytest.approx([1.0, 0.36787944117144233, 0.1353352832366127])
    assert "failed" in cases.qsweep("status", "cases").stdout
    assert re.search(r"\| score +\| case +\|", cases.qsweep("analyze", "cases").stdout)
    assert cases.qsweep("report", "cases", "--out", "cases.html").returncode == 0
    page = (cases.folder / "cases.html").read_text()
    assert "12 of 12" not in page
    assert ">Runs</button>" in page
    assert "KeyError: &#39;step 100&#39;" in page
    assert "paper" not in re.sub(r"<(style|script|pre)[^>]*>.*?</\1>", "", page, flags=re.DOTALL).lower()
    drawn = cases.qsweep("figures", "cases", "--out", "drawn", "--format", "svg")
    assert drawn.returncode == 0, drawn.stderr
    assert {path.stem for path in (cases.folder / "drawn").iterdir()} == {
        "curves",
        "distributions",
        "effects-fine",
        "effects-loss",
        "effects-score",
        "effects-seed-was",
        "progress",
    }
    listed = json.loads(cases.qsweep("jobs", "cases", "--json", "--sort", "-loss", "--best", "1").stdout)
    assert [(one["case"], one["loss"]) for one in listed] == [("nothing", pytest.approx(0.1353352832366127))]
    assert "seed_was" in cases.qsweep("jobs", "cases").stdout
    assert "name a column by --sort too" in cases.qsweep("jobs", "cases", "--best", "1").stderr


@pytest.mark.slow
@pytest.mark.usefixtures("jobs")
def test_of_a_run_whose_row_is_lost_nothing_is_drawn(cases: Project, tmp_path: Path) -> None:
    home = Home.at(Path(shutil.copytree(cases.home.root, tmp_path / "home")))
    files = list((home.results / "returned").iterdir())
    for file in files[1:]:
        file.unlink()
    with pytest.warns(LostResults, match="are lost and left out"):
        found = returned_of("cases", home)
    assert set(found.logged["job"]) <= set(found.numbers.index)
    assert curves_chart(found) is not None


def returned_of(name: str, home: Home) -> Returned:
    with opened_source(name, home) as source:
        return returned_by(source)


RESUMED = """
import time
from pathlib import Path

def train(config, run):
    state = run.restored or {"step": 0, "sum": 0.0}
    while state["step"] < 40:
        state["sum"] += 0.1 * state["step"]
        state["step"] += 1
        run.log(state["step"], sum=state["sum"])
        run.save(state)
        if state["step"] == 20:
            Path("reached").touch()
            while not Path("go").exists():
                if run.should_stop:
                    return {"sum": -1.0}
                time.sleep(0.01)
    return {"sum": state["sum"], "attempt_of_it": run.attempt}
"""


@pytest.fixture
def registry(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The URL of a registry: of a Postgres server, or None of the home's own."""
    if request.param == "sqlite":
        yield None
        return
    missing_postgres()
    with running_server() as server:
        yield server.url


@pytest.mark.slow
@pytest.mark.parametrize(("how", "registry"), [("killed", "postgres"), ("asked", "sqlite")], indirect=["registry"])
def test_a_run_goes_on_from_what_it_saved(tmp_path: Path, how: str, registry: str | None) -> None:
    sweep = 'run = "file:code/train.py:train"\n[fixed]\nx = 1\n'
    project = replace(made(tmp_path, RESUMED, sweep, "one.toml"), registry=registry)
    began = project.begin("launch", "one.toml", "--workers", "1")
    try:
        _until((tmp_path / "code" / "reached").exists)
        with Registry.open(project.home.registry) as opened:
            (row,) = opened.catalogue.sweeps()
            _until(lambda: (opened.catalogue.jobs(row.id)[0].progress or 0) >= 20)
            (agent,) = opened.catalogue.agents()
            (tmp_path / "code" / "go").touch() if how == "killed" else None
            os.kill(agent.pid, 9 if how == "killed" else 15)
            if how == "asked":
                _until(lambda: opened.catalogue.jobs(row.id)[0].state is not State.RUNNING)
                (tmp_path / "code" / "go").touch()
        began.wait(120)
    finally:
        began.kill()
        began.wait()
    assert project.qsweep("launch", "one.toml", "--workers", "1").returncode == 0
    (found,) = project.query('SELECT "sum", attempt_of_it, attempt FROM returned')
    total = 0.0
    for step in range(40):
        total += 0.1 * step
    assert found["sum"] == total, "the same bits as without the interruption"
    logged = project.query("SELECT count(*) AS rows, min(step) AS low, max(step) AS high FROM logged")
    assert logged == [{"rows": 40, "low": 1, "high": 40}]


SHARED = """
import time
from pathlib import Path

def train(run, *, x: int):
    with open("ran.txt", "a") as file:
        file.write(f"{x}\\n")
    if x == 3 and not Path("mended").exists():
        raise ValueError("not yet")
    if x == 5:
        Path("reached").touch()
        while not Path("go").exists() and not run.should_stop:
            time.sleep(0.01)
    return {"square": x * x}
"""


@pytest.mark.slow
def test_two_launchers_share_the_runs_a_pause_holds_them_and_a_retry_takes_the_failed(tmp_path: Path) -> None:
    sweep = f'run = "file:code/train.py:train"\n[axes]\nx = {list(range(12))}\n'
    project, code = made(tmp_path, SHARED, sweep, "shared.toml"), tmp_path / "code"
    names = ("one", "other")
    launchers = [project.begin("launch", "shared.toml", "--workers", "2", said=name) for name in names]
    try:
        _until((code / "reached").exists)
        with Registry.open(project.home.registry) as registry:
            (found,) = registry.catalogue.sweeps()
            _until(lambda: all("12 jobs" in (tmp_path / name).read_text() for name in names))
            registry.sweeps.pause(found.id, "for a while")
        assert [one.wait(600) for one in launchers] == [1, 1]
    finally:
        for one in launchers:
            one.kill()
            one.wait()
    with Registry.open(project.home.registry) as registry:
        assert registry.catalogue.counts(found.id).running == 0
    (code / "go").touch()
    resumed = project.qsweep("resume", "shared", "--workers", "1")
    assert resumed.returncode == 1, resumed.stderr
    assert "1 job failed" in resumed.stderr
    (code / "mended").touch()
    assert "1 job queued again" in project.qsweep("retry", "shared").stdout
    assert project.qsweep("launch", "shared.toml", "--workers", "1").returncode == 0
    assert [one["square"] for one in project.query("SELECT square FROM returned ORDER BY x")] == [
        x * x for x in range(12)
    ]
    with Registry.open(project.home.registry) as registry:
        rows = registry.catalogue.jobs(found.id)
        ended = {
            int(row.job.settings()["x"]): Counter(one.failure_class for one in registry.history.attempts(row.id))
            for row in rows
        }
    crashes = ended[3][FailureClass.CRASH]
    assert CRASHES_ALONE <= crashes <= TRIES_IN_ALL, "several agents may have had to try it"
    ran = Counter(map(int, (code / "ran.txt").read_text().split()))
    assert ran[5] > 1, "it was handed back"
    assert all(times <= ended[x].total() for x, times in ran.items()), "and none ran that no launcher had claimed"
    assert not audit(project.home)


def _until(condition: Any, seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


SCRIPT = """
import argparse
import json

from helper import square

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--layers")
given = parser.parse_args()
print("warming up {}")
print(json.dumps({"loss": square(given.lr), "layers_were": given.layers}))
print("bye")
"""
COMMAND = """
command = "python code/train.py --lr {learning_rate} --layers '{layers}'"
[axes]
learning_rate = [0.5, 2]
layers = [[32, 16], "a b; $HOME"]
"""


@pytest.mark.slow
def test_a_script_is_a_sweep_by_its_command_and_an_edit_is_asked_about(tmp_path: Path) -> None:
    project = made(tmp_path, SCRIPT, COMMAND, "script.toml")
    assert project.qsweep("launch", "script.toml", "--workers", "1").returncode == 0
    rows = project.query("SELECT learning_rate, layers, loss, layers_were FROM returned ORDER BY ALL")
    assert {(one["learning_rate"], one["layers_were"], one["loss"]) for one in rows} == {
        (0.5, "32,16", 0.25),
        (0.5, "a b; $HOME", 0.25),
        (2.0, "32,16", 4.0),
        (2.0, "a b; $HOME", 4.0),
    }
    script = tmp_path / "code" / "train.py"
    script.write_text("# said anew\n" + SCRIPT)
    assert "Nothing to do" in project.qsweep("launch", "script.toml").stderr
    script.write_text(SCRIPT.replace("square(given.lr)", "square(given.lr) + 1"))
    asked = project.qsweep("launch", "script.toml")
    assert asked.returncode == 2
    assert "code/train.py" in asked.stderr
    assert "--code frozen" in asked.stderr
    assert "Nothing to do" in project.qsweep("launch", "script.toml", "--code", "frozen").stderr
    assert project.qsweep("launch", "script.toml", "--code", "current", "--workers", "1").returncode == 0
    assert len(project.query("SELECT DISTINCT loss FROM returned")) == 4


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        ('run = "file:code/train.py:tain"', "defines no function 'tain'; did you mean 'train'"),
        ('run = "file:code/train.py:train"\n[fixed]\njob = 1', "'job' can't name a setting"),
        ('run = "file:code/train.py:train"\n[axes]\nlr = [nan]', "lr: nan is not a finite number"),
        ('run = "file:code/train.py:typed"\n[axes]\ndepth = [1.5]', "depth: 1.5 is not a whole number"),
        ('run = "file:code/train.py:typed"\n[axes]\nwidth = [1]', "'width' is not an argument of the function"),
        ('command = "python code/train.py --lr {lr}"\n[fixed]\nx = 1', "{lr} is no setting of the sweep"),
        ('command = "python code/train.py"\n[fixed]\nx = 1', "the command has no {x}"),
        ('run = "file:code/train.py:train"\n[[measures]]\nmeasure = "pac-bayes"', "measures are of trained models"),
    ],
)
def test_what_can_not_run_is_refused_at_plan(tmp_path: Path, sweep: str, says: str) -> None:
    project = made(tmp_path, TRAIN + "\n\ndef typed(run, *, depth: int = 1): ...\n", sweep + "\n")
    found = project.qsweep("plan", "cases.toml")
    assert found.returncode == 2
    assert says in " ".join(found.stderr.split())


@pytest.mark.slow
def test_a_bundle_takes_the_code_along(tmp_path: Path) -> None:
    sweep = 'run = "file:code/train.py:train"\n[fixed]\ncase = "fine"\n[axes]\nx = [1, 2.5]\n'
    project = made(tmp_path, sweep=sweep, name="away.toml")
    assert project.qsweep("pack", "away.toml", "--out", "bundle").returncode == 0
    for file in ("train.py", "helper.py"):
        (tmp_path / "code" / file).unlink()
    ran = subprocess.run(
        [sys.executable, "bundle", "--workers", "1"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert project.qsweep("import", "bundle").returncode == 0
    assert [one["score"] for one in project.query("SELECT score FROM returned ORDER BY score")] == [1.0, 6.25]
    assert not audit(project.home)
