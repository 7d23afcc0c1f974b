"""Results that are lost block no answer: each goes on with what is there, and says what is missing and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import qsweep as api
from qsweep.db.audit import audit
from qsweep.db.registry import Registry
from qsweep.db.schema import ROW_KINDS
from qsweep.db.states import State
from qsweep.sweeps.errors import LostResults
from qsweep.sweeps.kinds import KINDS
from tests.conftest import Qsweep
from tests.reports.made import SWEEP, Made, finished, home_at, work

ALL_ROWS = (
    "query",
    "SELECT (SELECT count(train_loss) FROM runs) AS runs, (SELECT count(step_size) FROM layers) AS layers, "
    "(SELECT max(train_loss) FROM epochs) > 0 AS epochs",
)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """24 trainings in six publications."""
    return finished(home_at(tmp_path))


def lose(made: Made, kind: str, how: str = "gone") -> str:
    """Damages the file that holds that kind of the first four jobs; its name."""
    with Registry.open(made.home.registry) as registry:
        publication = sorted(registry.catalogue.publications())[0]
    path = made.home.results / kind / f"{publication}.parquet"
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[:-30])
    else:
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    return path.name


def check_answers(here: Qsweep, commands: tuple[tuple[str, ...], ...], file: str) -> None:
    for command in commands:
        answer = here(*command)
        assert answer.returncode == 0, (command, answer.stderr)
        assert "note: the results of 4 done jobs of made@" in answer.stderr, command
        assert file in answer.stderr
        assert "qsweep db check --repair" in answer.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "how"), [("runs", "gone"), ("epochs", "cut"), ("layers", "gone")])
def test_answers_go_on_and_say_what_is_missing(here: Qsweep, made: Made, kind: str, how: str) -> None:
    file = lose(made, kind, how)
    assert here("tables", "made").returncode == 0
    check_answers(here, (ALL_ROWS, ("export", "made", "--out", "bundle")), file)
    counted = json.loads(here(*ALL_ROWS, "--format", "json").stdout)
    assert (counted[0]["runs"], counted[0]["layers"]) == (20 if kind == "runs" else 24, 40 if kind == "layers" else 48)
    from_bundle = here("tables", "--from", "bundle")
    assert from_bundle.returncode == 0
    assert "the results of 4 done jobs of made@" in from_bundle.stderr
    assert "were lost when this was exported" in from_bundle.stderr


def test_one_flipped_bit_is_noticed_by_who_reads_it(here: Qsweep, made: Made) -> None:
    file = lose(made, "runs", "flipped")
    check_answers(here, (("export", "made", "--out", "bundle"),), file)
    assert f"runs of 4 done jobs: {made.home.results}/runs/{file} can't be read" in here("db", "check").stdout


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "how"), [("runs", "gone"), ("layers", "cut")])
def test_pages_figures_and_verdicts_go_on_too(here: Qsweep, made: Made, kind: str, how: str) -> None:
    file = lose(made, kind, how)
    page = made.home.root.parent / "made.html"
    check_answers(
        here,
        (("analyze", "made"), ("figures", "made", "--out", "figures"), ("report", "made", "--out", str(page))),
        file,
    )
    assert f"the results of 4 done jobs are lost ({kind}) and left out" in page.read_text()


def test_the_python_api_warns_and_answers(made: Made) -> None:
    lose(made, "runs")
    with pytest.warns(LostResults, match="the results of 4 done jobs of made@.* are lost"):
        assert len(api.results("made", home=made.home.root)) == 20
    assert api.results("made", "epochs", home=made.home.root).job.nunique() == 24


def test_status_says_it_without_arrow(here: Qsweep, made: Made) -> None:
    said = here("status")
    assert "lost" not in said.stdout
    lose(made, "epochs")
    said = here("status")
    assert said.returncode == 0
    assert "the results of 4 done jobs of made@" in said.stdout
    assert "qsweep db check --repair" in said.stdout
    watched = here("status", "--watch", "--json")
    assert watched.returncode == 0, watched.stderr


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_watched_sweep_goes_on_too(here: Qsweep, made: Made, how: str) -> None:
    lose(made, "runs", how)
    watched = here("status", "--watch", "--json")
    assert watched.returncode == 0, watched.stderr
    last = json.loads(watched.stdout.splitlines()[-1])
    assert last["unreadable"] == 4
    assert sum(one["models"] for one in last["means"].values()) == 20


def test_a_launch_does_not_say_that_everything_is_done(here: Qsweep, made: Made) -> None:
    file = lose(made, "layers")
    launched = here("launch", str(made.home.root.parent / "made.toml"))
    assert launched.returncode == 1
    assert "every job is done" not in launched.stderr
    assert "the results of 4 done jobs are lost (layers: " in launched.stderr
    assert file in launched.stderr
    assert "qsweep db check --repair, then launch again" in launched.stderr
    assert "Table 1" in launched.stdout


def test_db_check_names_the_jobs_and_repair_takes_them_back(here: Qsweep, made: Made) -> None:
    file = lose(made, "epochs")
    lose(made, "runs", "cut")
    checked = here("db", "check")
    assert checked.returncode == 1
    assert f"epochs of 4 done jobs: {made.home.results}/epochs/{file} is gone: " in checked.stdout
    assert "to compute 4 jobs again: qsweep db check --repair" in checked.stderr
    with Registry.open(made.home.registry) as registry:
        rows = registry.catalogue.jobs(made.sweep.id)
        lost = [row.identity for row in rows if row.publication == Path(file).stem]
    assert all(job[:12] in checked.stdout for job in lost)

    declined = here("db", "check", "--repair")  # nobody there who could agree
    assert declined.returncode == 2
    assert "this can't be asked here, and nothing was changed" in declined.stderr
    with Registry.open(made.home.registry) as registry:
        assert registry.catalogue.counts(made.sweep.id).done == 24

    repaired = here("db", "check", "--repair", "--yes")
    assert repaired.returncode == 0, repaired.stderr
    assert "4 jobs are queued again, for the next launch" in repaired.stderr
    with Registry.open(made.home.registry) as registry:
        queued = registry.catalogue.jobs(made.sweep.id, State.QUEUED)
        assert sorted(row.identity for row in queued) == sorted(lost)
        (attempt,) = registry.history.attempts(queued[0].id)
        assert attempt.superseded is not None
        assert attempt.superseded.startswith("what it found is lost: ")
    assert audit(made.home) == []
    work(made, seed=1)
    assert audit(made.home) == []
    assert "lost" not in here("status").stdout


def test_a_kept_model_that_is_lost_is_repaired_likewise(here: Qsweep, made: Made) -> None:
    with Registry.open(made.home.registry) as registry:
        row = registry.catalogue.jobs(made.sweep.id)[0]
    import sqlite3

    with sqlite3.connect(made.home.root / "registry.db") as connection:
        connection.execute("UPDATE jobs SET model_file = 'ab/model.pt', model_hash = 'beef' WHERE id = ?", (row.id,))
    connection.close()
    assert f"model of 1 done job: models/ab/model.pt is gone: {row.identity[:12]}" in here("db", "check").stdout
    assert "the results of 1 done job of made@" in here("status").stdout
    measures = SWEEP + '[[measures]]\nmeasure = "pac_bayes"\nsearch_upper = 2.0\n'
    (made.home.root.parent / "measured.toml").write_text(measures)
    asked = here("launch", str(made.home.root.parent / "measured.toml"), "--where", "measure == 'pac_bayes'")
    assert asked.returncode == 2
    assert f"whose files are lost, such as {made.home.root}/models/ab/model.pt" in asked.stderr
    assert "qsweep db check --repair" in asked.stderr

    assert here("db", "check", "--repair", "--yes").returncode == 0
    with Registry.open(made.home.registry) as registry:
        assert [one.id for one in registry.catalogue.jobs(made.sweep.id, State.QUEUED)] == [row.id]


def test_the_kinds_of_results_are_those_of_the_schema() -> None:
    of = {name: job for job in KINDS.values() for name in job.rows}
    assert of == {name: kind.of for name, kind in ROW_KINDS.items()}
    assert sum(len(job.rows) for job in KINDS.values()) == len(ROW_KINDS)
