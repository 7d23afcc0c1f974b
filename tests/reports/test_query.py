"""SQL answers what an independent computation answers, reads what it names, and reaches nothing else."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import qsweep as api
from qsweep.db.registry import Registry
from qsweep.db.rows import Checkpoint
from qsweep.reports.bundle import BundleSource, write_bundle
from qsweep.reports.catalogue import column_meaning, view_meaning, view_names, view_schema
from qsweep.reports.formats import RowFormat
from qsweep.reports.listing import listed, written
from qsweep.reports.query import describe_columns, describe_views, run_query
from qsweep.reports.source import RegistrySource
from qsweep.sweeps import processes
from qsweep.sweeps.errors import InputError
from tests.conftest import QSWEEP, Qsweep, environment
from tests.db.conftest import agent_info, empty_sqlite, postgres, url  # noqa: F401
from tests.reports.made import SWEEP, Made, finished, home_at, launch, sources, work


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """For tests that only ask."""
    return finished(home_at(tmp_path_factory.mktemp("made")), diverged=(2,))


@pytest.fixture(scope="module")
def opened(made: Made) -> Iterator[list[RegistrySource]]:
    """Its sources, for many statements."""
    with sources(made) as found:
        yield found


@pytest.fixture
def fresh(tmp_path: Path) -> Made:
    """For tests that add to it, or break it."""
    return finished(home_at(tmp_path), diverged=(2,))


@pytest.fixture
def anywhere(tmp_path: Path, url: str) -> Made:  # noqa: F811
    """The same on each database."""
    return finished(home_at(tmp_path, url if "://" in url else f"sqlite:///{url}"), diverged=(2,))


def ask(made: Made, sql: str) -> pd.DataFrame:
    with sources(made) as found:
        return run_query(sql, found).table.to_pandas()


@pytest.mark.slow
def test_averages_are_those_of_pandas_on_both_databases(anywhere: Made) -> None:
    answer = ask(anywhere, "SELECT bits, avg(generalization_gap) AS gap FROM runs WHERE sweep = 'made' GROUP BY bits")
    expected = anywhere.frame().groupby("bits").generalization_gap.mean()
    assert answer.set_index("bits").gap.sort_index().to_dict() == pytest.approx(expected.to_dict(), rel=1e-12)


@pytest.mark.slow
def test_registry_and_results_join_on_both_databases(anywhere: Made) -> None:
    sql = """SELECT j.state, j.diverged, count(DISTINCT j.job) AS jobs, count(e.epoch) AS epochs
             FROM jobs j JOIN epochs e USING (sweep, job) GROUP BY ALL ORDER BY jobs"""
    assert ask(anywhere, sql).to_numpy().tolist() == [["done", True, 1, 3], ["done", False, 23, 69]]
    steps = ask(anywhere, "SELECT from_state, to_state, count(*) AS n FROM events GROUP BY ALL ORDER BY ALL")
    assert steps.to_numpy().tolist() == [["queued", "running", 24], ["running", "done", 24]]
    tries = ask(anywhere, "SELECT host, outcome, sum(attempt) AS n FROM attempts GROUP BY ALL")
    assert tries.to_numpy().tolist() == [["here", "done", 24]]


def test_the_settings_of_a_job_are_columns_of_jobs(anywhere: Made) -> None:
    rows = ask(anywhere, "FROM jobs").set_index("job")
    with sources(anywhere) as (source,):
        for job in source.jobs:
            for name, value in job.settings().items():
                found = rows.loc[job.identity, name]
                assert (list(found) if isinstance(value, tuple) else found) == (
                    list(value) if isinstance(value, tuple) else value
                )
            assert pd.isna(rows.loc[job.identity, "momentum"]) == (job.settings()["optimizer"] == "adam")


def test_rows_that_the_registry_does_not_count_are_nowhere(made: Made) -> None:
    assert len(list((made.home.results / "runs").iterdir())) > made.frame().job.nunique() / 4
    (answer,) = ask(made, "SELECT count(*) AS n, max(seconds) AS s, max(attempt) AS a FROM runs").to_dict("records")
    assert answer == {"n": 24, "s": 1.5, "a": 1}


def test_a_running_sweep_is_answered_as_far_as_it_is(tmp_path: Path) -> None:
    made = launch(home_at(tmp_path))
    assert ask(made, "SELECT count(*) AS n FROM runs").n[0] == 0
    work(made, cohorts=2)
    assert ask(made, "SELECT count(*) AS n FROM runs").n[0] == 8
    states = ask(made, "SELECT state, count(*) AS n FROM jobs GROUP BY ALL ORDER BY ALL")
    assert states.to_numpy().tolist() == [["done", 8], ["queued", 16]]


@pytest.mark.slow
@pytest.mark.parametrize("name", view_names())
def test_every_column_can_be_named_without_quotes(made: Made, name: str) -> None:
    columns = view_schema(name).names
    assert list(ask(made, f"SELECT {', '.join(columns)} FROM {name}").columns) == columns
    assert list(ask(made, f"SELECT x.{columns[-1]} FROM {name} AS x WHERE x.sweep = 'made'").columns) == columns[-1:]


def test_every_view_and_every_column_has_a_meaning() -> None:
    blank = [(view, column) for view in view_names() for column in view_schema(view).names
             if not column_meaning(view, column)]  # fmt: skip
    assert not blank
    assert all(view_meaning(name) for name in view_names())
    assert describe_views()["view"].to_pylist() == view_names()
    assert describe_columns("runs")["column"].to_pylist() == view_schema("runs").names
    with pytest.raises(InputError, match="did you mean 'runs'"):
        describe_columns("run")


class Recording(RegistrySource):
    """A source that remembers what was read of it."""

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        self.asked = [*getattr(self, "asked", []), (name, list(columns or ["everything"]))]
        return super().read(name, columns)


def test_only_the_named_columns_of_the_named_sweeps_are_read(fresh: Made) -> None:
    made = fresh
    work(launch(made.home, SWEEP.replace("epochs = 3", "epochs = 4"), name="other"))
    with Registry.open(made.home.registry) as registry:
        other, mine = (Recording(made.home, registry, one) for one in registry.catalogue.sweeps())
        run_query("SELECT avg(test_loss) FROM runs WHERE sweep = 'made' AND bits = 2", [other, mine])
        assert not hasattr(other, "asked")
        ((name, columns),) = mine.asked
        assert name == "runs"
        assert set(columns) <= {"test_loss", "bits"}


def test_a_bare_name_is_the_sweep_as_its_file_says_now(fresh: Made) -> None:
    made = fresh
    later = launch(made.home, SWEEP.replace("epochs = 3", "epochs = 5"))
    work(later, cohorts=1)
    sweeps = ask(made, "SELECT sweep, variant, jobs FROM sweeps").to_numpy().tolist()
    assert sweeps == [["made", later.sweep.title, 24], [made.sweep.title, made.sweep.title, 24]]
    assert ask(made, "SELECT count(*) AS n FROM runs WHERE sweep = 'made'").n[0] == 4
    assert ask(made, f"SELECT count(*) AS n FROM runs WHERE variant = '{made.sweep.title}'").n[0] == 24


def test_jobs_that_two_sweeps_share_are_told_of_unless_the_sweep_is_named(fresh: Made) -> None:
    made = fresh
    half = launch(made.home, SWEEP.replace("[32, 8, 4, 2]", "[32, 8]"), name="half")
    with sources(half) as found:
        answer = run_query("SELECT count(*) FROM runs", found)
        assert answer.table.to_pylist()[0]["count_star()"] == 36
        blind = run_query("SELECT avg(test_loss) FROM runs", found)
        assert "12 jobs in runs belong to several sweeps" in blind.notes[0]
        for counted in ("count(*)", "count(*) AS n", "1"):
            counting = run_query(f"SELECT {counted} FROM runs", found)
            assert ["12 jobs in runs belong to several sweeps" in note for note in counting.notes] == [True]
        for named in ("SELECT * FROM runs", "SELECT sweep FROM runs", "SELECT count(DISTINCT variant) FROM runs"):
            assert not run_query(named, found).notes
        assert not run_query("SELECT sweep, count(*) FROM runs GROUP BY ALL", found).notes
        assert not run_query("SELECT avg(test_loss) FROM runs", found[:1]).notes


SECRET = "root:"
REFUSED = [
    "COPY (SELECT 1) TO '{folder}/out.csv'",
    "COPY runs TO '{folder}/out.parquet' (FORMAT parquet)",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/out.csv'",
    "EXPORT DATABASE '{folder}/out'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_parquet('{home}/results/runs/*.parquet')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM '/etc/passwd.csv'",
    "SELECT * FROM 'https://example.org/x.parquet'",
    "SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{folder}/out.csv''')",
    "ATTACH '{home}/registry.db' AS stolen (TYPE sqlite)",
    "ATTACH '{folder}/new.db'",
    "INSTALL httpfs",
    "FORCE INSTALL httpfs",
    "INSTALL spatial FROM community",
    "LOAD httpfs",
    "LOAD '{folder}/evil.duckdb_extension'",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET lock_configuration",
    "SET GLOBAL temp_directory = '{folder}'",
    "PRAGMA enable_external_access = true",
    "PRAGMA enable_profiling",
    "PRAGMA profiling_output = '{folder}/profile'",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CALL enable_logging('QueryLog', storage = 'file', storage_path = '{folder}/log')",
    "SELECT * FROM enable_logging('QueryLog', storage = 'file', storage_path = '{folder}/log')",
    "CREATE TABLE mine AS SELECT 1",
    "CREATE SECRET s (TYPE s3)",
    "INSERT INTO runs SELECT * FROM runs",
    "UPDATE runs SET bits = 1",
    "DELETE FROM runs",
    "DROP VIEW runs",
    "BEGIN",
    "CHECKPOINT",
    "VACUUM",
    "PREPARE p AS SELECT 1",
    "SELECT 1; COPY (SELECT 1) TO '{folder}/out.csv'",
    "SELECT getenv('HOME')",
    "SELECT * FROM postgres_scan('host=127.0.0.1', 'public', 'jobs')",
    "SELECT * FROM sqlite_scan('{home}/registry.db', 'jobs')",
    "SELECT * FROM bystander",
]


@pytest.mark.slow
@pytest.mark.parametrize("sql", REFUSED)
def test_sql_reaches_no_file_network_extension_setting_or_variable(
    made: Made, opened: list[RegistrySource], tmp_path: Path, sql: str
) -> None:
    bystander = pd.DataFrame({"secret": [1]})  # noqa: F841 - what DuckDB would find by its name
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(InputError) as refusal:
        run_query(sql.format(folder=folder, home=made.home.root), opened)
    assert "query: " in str(refusal.value)
    assert SECRET not in str(refusal.value)
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT * FROM read_csv('/etc/passwd')", "SQL reaches no file, network or extension here"),
        ("COPY runs TO 'x'", "a query only reads, and this is a COPY statement"),
        ("INSTALL httpfs", "a query only reads"),
        ("SET threads = 1", "a query only reads, and this is a SET statement"),
        ("SELECT * FROM runz", "there is no view 'runz'; did you mean 'runs'?"),
        ("SELECT tset_loss FROM runs", "there is no column 'tset_loss'; did you mean 'test_loss' or 'train_loss'?"),
        ("SELECT wxyz FROM epochs", "there is no column 'wxyz'; allowed: "),
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT sum(sweep) FROM runs", "No function matches"),
        ("", "there is no statement"),
        ("SELECT 1; SELECT 2", "these are 2 statements"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(opened: list[RegistrySource], sql: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        run_query(sql, opened)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "sql",
    [
        "FROM runs",
        "WITH best AS (SELECT bits, min(test_loss) AS low FROM runs GROUP BY bits) SELECT * FROM best",
        "PIVOT runs ON bits USING avg(test_loss) GROUP BY optimizer",
        "DESCRIBE runs",
        "SUMMARIZE epochs",
        "SHOW TABLES",
        "VALUES (1), (2)",
        "SELECT job, rank() OVER (PARTITION BY bits ORDER BY test_loss) FROM runs",
        "SELECT strftime(finished_at, '%H') FROM runs",
        "SELECT * FROM query('SELECT 1')",
    ],
)
def test_whatever_reads_is_answered(opened: list[RegistrySource], sql: str) -> None:
    assert run_query(sql, opened).table.num_rows > 0


def test_lost_results_are_left_out_and_named_through_sql(fresh: Made) -> None:
    made = fresh
    with sources(made) as (source,):
        Path(source.place_of("runs", source.read("jobs", ["publication"])["publication"][0].as_py())).unlink()
    with sources(made) as found:
        answer = run_query("SELECT count(job) AS n FROM runs", found)
        assert answer.table.to_pylist() == [{"n": 20}]
        (remark,) = [one.remark() for one in found]
        assert remark is not None
        assert remark.startswith(f"the results of 4 done jobs of {made.sweep.title} are lost and left out here")


def test_the_formats_hold_the_same_rows(made: Made) -> None:
    with sources(made) as found:
        table = run_query("SELECT job, bits, test_loss, diverged, milestones, finished_at FROM runs", found).table
    rows = table.to_pylist()
    assert pq.read_table(io.BytesIO(written(table, RowFormat.PARQUET))).to_pylist() == rows
    parsed = json.loads(written(table, RowFormat.JSON))
    assert [row["test_loss"] for row in parsed] == [row["test_loss"] for row in rows]
    assert parsed[0]["finished_at"] == "2026-01-02T03:04:05+00:00"
    frame = pd.read_csv(io.BytesIO(written(table, RowFormat.CSV)))
    assert [None if pd.isna(one) else one for one in frame.test_loss] == [row["test_loss"] for row in rows]
    assert frame.diverged.tolist() == [row["diverged"] for row in rows]


def test_json_has_null_where_a_number_is_not_finite() -> None:
    table = pa.table({"loss": [float("nan"), float("inf"), 1.5], "path": [["a", None], [], None]})
    assert json.loads(written(table, RowFormat.JSON)) == [
        {"loss": None, "path": ["a", None]},
        {"loss": None, "path": []},
        {"loss": 1.5, "path": None},
    ]


def test_a_wide_answer_keeps_to_the_terminal_and_says_what_it_left_out(made: Made) -> None:
    with sources(made) as found:
        table = run_query("FROM runs", found).table
    text = listed(table, width=80, rows=5)
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"\(\d+ of \d+ columns shown, 5 of 24 rows shown", text)
    everything = listed(table)
    assert len(everything.splitlines()) == 25
    assert all(row["job"] in everything for row in made.rows["runs"])


@pytest.mark.slow
def test_the_command_line_answers_and_fails_with_one_message(qsweep: Qsweep, home: Path) -> None:
    finished(home_at(home.parent))
    answer = qsweep("query", "SELECT bits, count(*) AS n FROM runs GROUP BY bits ORDER BY bits", "--format", "csv")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.splitlines() == ["bits,n", "2,6", "4,6", "8,6", "32,6"]
    from_stdin = qsweep("query", "-", "--sweep", "made", "--format", "json", input="SELECT 1 AS one")
    assert json.loads(from_stdin.stdout) == [{"one": 1}]
    out = home.parent / "runs.parquet"
    words = ("query", "FROM runs", "--format", "parquet", "--out", str(out))
    subprocess.run([*QSWEEP, *words], env=environment(home), check=True)  # cold: whether Arrow has numpy matters
    assert pd.read_parquet(out).diverged.dtype == "boolean"
    assert pq.read_table(out).num_rows == 24
    for arguments in (["FROM runz"], ["FROM runs", "--sweep", "mad"], ["--schema", "runz"], [], ["COPY runs TO 'x'"]):
        wrong = qsweep("query", *arguments)
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert wrong.stderr.startswith("qsweep: ")
        assert "Traceback" not in wrong.stderr


@pytest.mark.slow
def test_no_password_of_a_registry_is_shown(here: Qsweep) -> None:
    address = "postgresql+psycopg://me:s3cr3t@127.0.0.1:1/none"
    for arguments in (["query", "FROM runs"], ["tables", "made"], ["compact"], ["export", "made", "--out", "x"]):
        answer = here("--registry", address, *arguments)
        assert answer.returncode == 2
        assert "s3cr3t" not in answer.stdout + answer.stderr


def test_python_gets_data_frames(made: Made) -> None:
    runs = api.results("made", home=made.home.root)
    assert (
        runs.set_index("job").test_loss.dropna().to_dict() == made.frame().set_index("job").test_loss.dropna().to_dict()
    )
    assert len(api.results("made", "events", home=made.home.root)) == 48
    gaps = api.query("SELECT bits, avg(generalization_gap) AS gap FROM runs GROUP BY bits", home=made.home.root)
    assert gaps.gap.mean() == pytest.approx(made.frame().groupby("bits").generalization_gap.mean().mean())
    with pytest.raises(InputError, match="did you mean 'epochs'"):
        api.results("made", "epoch", home=made.home.root)


def _hear_ctrl_c() -> None:
    """What a shell starts in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_a_query_that_takes_too_long_can_be_interrupted(home: Path, tmp_path: Path) -> None:
    launch(home_at(home.parent))
    endless = "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b"
    with processes.start(
        [*QSWEEP, "query", endless],
        env=environment(home),
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=_hear_ctrl_c,
    ) as process:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(5)  # one that comes while libraries are imported may be lost in them: a user tries again
            process.send_signal(signal.SIGINT)
        process.kill()
        _, said = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in said


@pytest.mark.slow
def test_epochs_of_running_trainings_are_there_and_marked_and_no_bundle_or_table_has_them(
    anywhere_running: Made, tmp_path: Path
) -> None:
    made = anywhere_running
    counted = ask(made, "SELECT count(*) AS rows FROM epochs WHERE final").rows[0]
    assert counted == len(made.frame("epochs"))
    running = ask(made, "SELECT job, attempt, epoch, train_loss FROM epochs WHERE NOT final ORDER BY job, epoch")
    assert running.groupby("job").epoch.apply(list).tolist() == [[1, 2]] * 4
    assert running.train_loss.tolist() == [0.5, 0.25] * 4
    assert set(running.attempt) == {1}
    frame = api.results("made", "epochs", home=made.home.root, registry=made.home.registry)
    assert (~frame.final).sum() == 8
    with sources(made) as (source,):
        assert source.read("epochs").num_rows == counted
        write_bundle(source, tmp_path / "bundle")
    kept = BundleSource(tmp_path / "bundle").look("epochs")
    assert (kept.num_rows, set(kept["final"].to_pylist())) == (counted, {True})


@pytest.fixture
def anywhere_running(tmp_path: Path, url: str) -> Made:  # noqa: F811
    """Four cohorts done, and one at the checkpoint after its second epoch."""
    made = finished(home_at(tmp_path, url if "://" in url else f"sqlite:///{url}"), cohorts=4)
    with Registry.open(made.home.registry) as registry:
        agent = registry.agents.enlist(agent_info())
        head = registry.queue.next_cohort(agent)
        assert head is not None
        curve = [{"epoch": one, "train_loss": 0.5**one, "learning_rate": 0.01} for one in (1, 2)]
        saved = [
            Checkpoint(job_id=one.job_id, attempt=1, step=2, epoch=2, file="f", checksum="c", curve=curve)
            for one in registry.queue.claim(agent, head, 4)
        ]
        registry.queue.checkpointed(agent, saved)
    return made


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT timestamp '290000-01-01' AS t", "SELECT date '5000-01-01 (BC)' AS t", "SELECT '\udcff' AS t",
        "SELECT MAP {1: [{'a': date 'infinity'}]} AS t",
    ],
)  # fmt: skip
def test_what_nothing_can_show_is_one_message(made: Made, sql: str) -> None:
    with pytest.raises(InputError, match=r"t holds a time outside of the years 1 to 9999|not UTF-8 text"):
        ask(made, sql)


@pytest.mark.parametrize(
    "sql", ["SELECT [INTERVAL 1 DAY] AS t", "SELECT union_value(a := 1) AS t", "SELECT MAP{} AS t"]
)
def test_what_parquet_does_not_have_is_one_message(made: Made, sql: str) -> None:
    with sources(made) as found, pytest.raises(InputError, match="Parquet can't hold the column t, which is "):
        written(run_query(sql, found).table, RowFormat.PARQUET)


def test_the_first_and_last_days_of_the_calendar_are_shown(made: Made) -> None:
    with sources(made) as found:
        (row,) = run_query(
            "SELECT date '0001-01-01' AS a, timestamp '9999-12-31 23:59:59' AS b", found
        ).table.to_pylist()
    assert (row["a"], row["b"]) == (date(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59))
