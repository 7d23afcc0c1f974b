"""A registry of every past schema version is refused with one message, upgraded whole, and goes on."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from qsweep.db import upgrade
from qsweep.db.clock import boot_id, boot_seconds
from qsweep.db.connection import Database
from qsweep.db.migrations import HEAD, REVISIONS
from qsweep.db.registry import Registry
from qsweep.db.states import AgentState, State
from qsweep.sweeps.errors import InputError
from qsweep.workers.agent.__main__ import main as agent
from tests.db.conftest import administrator, agent_info, claim
from tests.db.test_opening import declared_words, words_of

PAST = Path(__file__).parent / "past"
Rows = dict[str, list[dict[str, Any]]]


def test_a_file_of_every_past_version_is_kept() -> None:
    assert [f"{one}.db" for one in REVISIONS[:-1]] == sorted(file.name for file in PAST.glob("*.db"))


def rows_of(engine: sa.Engine) -> Rows:
    """Every row of every table, whatever the schema."""
    kept = sa.MetaData()
    kept.reflect(engine)
    with engine.connect() as connection:
        return {
            table.name: [dict(row._mapping) for row in connection.execute(table.select().order_by(*table.primary_key))]
            for table in kept.sorted_tables
            if table.name != "qsweep_version"
        }


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url if "://" in url else f"sqlite:///{url}", poolclass=sa.NullPool)


EVERYWHERE = pytest.mark.parametrize(
    ("version", "kind"),
    [*((one, "sqlite") for one in REVISIONS[:-1]), *((one, "postgres") for one in (REVISIONS[0], REVISIONS[-2]))],
)
"""Every version as a file; the oldest, which goes through all migrations, and the last one on a server too."""


@pytest.fixture
def past(request: pytest.FixtureRequest, version: str, kind: str, tmp_path: Path) -> str:
    """A registry of that version, with its rows."""
    if kind == "sqlite":
        return str(shutil.copy(PAST / f"{version}.db", tmp_path / "registry.db"))
    pattern: str = request.getfixturevalue("postgres")
    kept: set[str] = request.getfixturevalue("kept")
    if f"v{version}" not in kept:
        url = created(pattern, f"v{version}", "template1")
        database = Database(url, create=True)
        upgrade._migrate(database, version)
        database.close()
        copy_rows(engine_of(f"{PAST / version}.db"), engine_of(url))
        kept.add(f"v{version}")
    return created(pattern, f"p{uuid.uuid4().hex[:12]}", f"v{version}")


@pytest.fixture(scope="module")
def kept() -> set[str]:
    """Databases of past versions, which tests copy."""
    return set()


def created(pattern: str, name: str, template: str) -> str:
    with administrator(sa.make_url(pattern.format("postgres"))) as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    return pattern.format(name)


def copy_rows(source: sa.Engine, target: sa.Engine) -> None:
    kept = sa.MetaData()
    kept.reflect(target)
    with target.begin() as connection:
        for name, rows in rows_of(source).items():
            table = kept.tables[name]
            truths = [column.name for column in table.columns if isinstance(column.type, sa.Boolean)]
            for row in rows:
                connection.execute(table.insert(), row | {one: bool(row[one]) for one in truths})
            if "id" in table.columns:
                text = f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT max(id) FROM {name}))"
                connection.execute(sa.text(text))


@EVERYWHERE
def test_it_is_refused_until_it_is_upgraded_and_then_has_every_row_it_had(past: str, version: str) -> None:
    before = rows_of(engine_of(past))
    assert {name for name, rows in before.items() if rows} >= {
        "sweeps", "jobs", "sweep_jobs", "agents", "attempts", "checkpoints", "events", "calibrations",
    }  # fmt: skip
    for create in (False, True):
        with pytest.raises(
            InputError, match=rf"schema version {version}, this program needs {HEAD}.*qsweep db upgrade"
        ):
            Registry.open(past, create=create)
    assert rows_of(engine_of(past)) == before

    assert Registry.upgrade(past) == (version, HEAD)
    after = rows_of(engine_of(past))
    for name, rows in before.items():
        assert [{column: row[column] for column in rows[0]} for row in after[name]] == rows
    assert Registry.upgrade(past) == (HEAD, HEAD)


@EVERYWHERE
def test_its_work_goes_on_where_it_was(past: str, version: str) -> None:
    Registry.upgrade(past)
    with Registry.open(past) as registry:
        grid = registry.find_sweep("grid")
        assert registry.counts(grid.id).done == 2
        (agent,) = registry.agents(AgentState.ALIVE)
        (running,) = registry.jobs(grid.id, State.RUNNING)
        assert agent.expired  # its lease was measured in another run of the clock, or long ago
        assert registry.take_back_expired() == 1
        claims = claim(registry, registry.enlist(agent_info()))
        resumed = {one.job_id: [saved.step for saved in one.checkpoints] for one in claims}
        assert resumed[running.id] == [60]


@pytest.mark.parametrize("version", REVISIONS[:-1])
def test_an_upgraded_file_has_the_tables_of_a_new_one(version: str, tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    shutil.copy(PAST / f"{version}.db", path)
    Registry.upgrade(path)
    assert words_of(engine_of(str(path))) == declared_words(tmp_path)


@pytest.mark.parametrize("version", [*REVISIONS[:-1], "9999"])
def test_an_agent_of_another_schema_stops_with_one_message(
    version: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(PAST / f"{REVISIONS[0]}.db", home / "registry.db")
    with sqlite3.connect(home / "registry.db") as connection:
        connection.execute("UPDATE qsweep_version SET version_num = ?", (version,))
    connection.close()
    heard = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        code = agent(["--home", str(home), "--lease", "30"])
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
    said = capfd.readouterr().err
    assert code == 2
    assert said.startswith("qsweep agent: ")
    assert f"schema version {version}" in said
    assert len(said.splitlines()) == 1
    with sqlite3.connect(home / "registry.db") as connection:
        assert connection.execute("SELECT count(*) FROM agents").fetchone() == (3,)
    connection.close()


@EVERYWHERE
def test_it_is_not_upgraded_under_agents_that_still_work(past: str, version: str) -> None:
    clock, now = ("''", "extract(epoch from now())") if "://" in past else (f"'{boot_id()}'", str(boot_seconds()))
    with engine_of(past).begin() as connection:
        alive = f"UPDATE agents SET clock = {clock}, expires = {now} + 60 WHERE state = 'alive'"
        connection.execute(sa.text(alive))
    before = rows_of(engine_of(past))
    with pytest.raises(InputError, match=f"1 agent of schema version {version} still works"):
        Registry.upgrade(past)
    assert rows_of(engine_of(past)) == before
