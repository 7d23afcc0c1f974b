"""Opening a registry: what is refused, in one message, with nothing changed; and how it is made."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from qsweep.db import upgrade
from qsweep.db.connection import Database
from qsweep.db.migrations import HEAD, REVISIONS
from qsweep.db.registry import Registry
from qsweep.db.tables import metadata
from qsweep.sweeps.errors import InputError
from tests.apart import APART
from tests.db.conftest import administrator

Execute = Callable[[str], list[Any]]


def test_a_registry_that_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "home" / "registry.db"
    with pytest.raises(InputError, match="no registry here"):
        Registry.open(path)
    assert Registry.open_if_present(path) is None
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_holds_no_registry_yet(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.touch()
    assert Registry.open_if_present(path) is None
    with Registry.open(path, create=True) as registry:
        assert registry.catalogue.sweeps() == []


@pytest.mark.parametrize("create", [False, True])
def test_a_file_that_is_not_a_database_is_refused_and_left_alone(tmp_path: Path, create: bool) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(b"precious notes" * 100)
    with pytest.raises(InputError, match="not a database"):
        Registry.open(path, create=create)
    assert path.read_bytes() == b"precious notes" * 100
    assert os.listdir(tmp_path) == ["registry.db"]


def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE recipes (name)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="no qsweep registry"):
        Registry.open(path, create=True)
    assert path.read_bytes() == before


def test_a_folder_in_the_place_of_the_registry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be opened"):
        Registry.open(tmp_path, create=True)


@pytest.mark.parametrize("create", [False, True])
def test_a_registry_of_a_newer_version_is_refused_and_left_alone(url: str, execute: Execute, create: bool) -> None:
    execute("UPDATE qsweep_version SET version_num = '9999'")
    with pytest.raises(InputError, match="9999, which is newer than this program"):
        Registry.open(url, create=create)
    with pytest.raises(InputError, match="newer"):
        Registry.upgrade(url)
    assert execute("SELECT version_num FROM qsweep_version") == [("9999",)]


@pytest.mark.parametrize("create", [False, True])
def test_a_registry_of_an_older_version_asks_for_an_upgrade(url: str, execute: Execute, create: bool) -> None:
    execute("UPDATE qsweep_version SET version_num = '0001'")
    with pytest.raises(InputError, match="qsweep db upgrade"):
        Registry.open(url, create=create)


def test_a_new_registry_is_exactly_what_the_migrations_make(
    url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """It is made as the tables are declared, without the migrations."""
    migrated = str(tmp_path / "migrated.db")
    if "://" in url:
        name = f"m{uuid.uuid4().hex[:12]}"
        with administrator(sa.make_url(url)) as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        migrated = str(request.getfixturevalue("postgres")).format(name)
    database = Database(migrated, create=True)
    upgrade._migrate(database)
    database.close()
    assert described(url) == described(migrated)


def described(url: str) -> dict[str, Any]:
    """The version of a registry, and its tables and indexes as its database describes them. Columns stand in any order:
    nothing asks for them by place."""
    engine = sa.create_engine(url if "://" in url else f"sqlite:///{url}", poolclass=sa.NullPool)
    with engine.connect() as connection:
        found: dict[str, Any] = {"version": connection.execute(sa.text("SELECT * FROM qsweep_version")).all()}
        if "://" not in url:
            return found | {"words": words_of(engine)}
        for name, query in DESCRIPTIONS.items():
            found[name] = set(connection.execute(sa.text(query)).all())
    return found


DESCRIPTIONS = {
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "columns": (
        "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, "
        "column_default, collation_name FROM information_schema.columns WHERE table_schema = 'public'"
    ),
    "constraints": (
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
    ),
}


def declared_words(folder: Path) -> set[tuple[str, tuple[str, ...]]]:
    """The words of a SQLite file that holds the declared tables, and no more."""
    engine = sa.create_engine(f"sqlite:///{folder / 'declared.db'}", poolclass=sa.NullPool)
    metadata.create_all(engine)
    return words_of(engine)


def words_of(engine: sa.Engine) -> set[tuple[str, tuple[str, ...]]]:
    """The name of every table and index of a SQLite file, with the words that make it."""
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT name, sql FROM sqlite_master")).all()
    return {(name, _words(text)) for name, text in found if "qsweep_version" not in name}


def _words(text: str | None) -> tuple[str, ...]:
    """The parts of a CREATE statement, in any order: Alembic and SQLAlchemy write constraints differently."""
    return tuple(sorted(re.findall(r"\w+|[<>=]", text or "")))


def test_the_listed_revisions_are_those_of_the_files() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(sys.modules["qsweep.db.migrations"].__path__[0])))
    script = ScriptDirectory.from_config(config)
    assert [one.revision for one in script.walk_revisions()][::-1] == list(REVISIONS)
    assert script.get_current_head() == HEAD


def make(path: str, answers: Any) -> None:
    with Registry.open(path, create=True) as registry:
        registry.sweeps.add(name="grid", label=str(os.getpid()), spec="{}", size=0)
    answers.put(True)


def test_processes_that_make_a_registry_at_once_make_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "registry.db"
    answers = APART.Queue()
    processes = [APART.Process(target=make, args=(str(path), answers)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=300) for _ in processes] == [True] * 3
    for process in processes:
        process.join(timeout=300)
    with Registry.open(path) as registry:
        assert len(registry.catalogue.sweeps()) == 3


def test_opening_a_registry_does_not_load_alembic(empty_sqlite: Path) -> None:
    code = (
        "import sys; from qsweep.db.registry import Registry; "
        f"Registry.open({str(empty_sqlite)!r}).close(); sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sqlite_is_durable_and_its_readers_never_wait(empty_sqlite: Path) -> None:
    database = Database(empty_sqlite, create=False)
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    database.close()


@pytest.mark.parametrize(
    "text",
    [
        "mysql://me:s3cret@host/db",
        "postgresql://me:s3cret@[host/db",
        "postgresql+psycopg://me:s3cret@127.0.0.1:1/db",
        "postgresql+psycopg://me@127.0.0.1:1/db?password=s3cret",
        "postgresql://me:s3%20cret@127.0.0.1:1/db?connect_timeout=nonsense",
        "sqlite://",
    ],
)
def test_a_registry_that_can_t_be_reached_is_bad_input_and_its_password_is_never_shown(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setattr("qsweep.db.upgrade.OPENING_PATIENCE", 0.1)
    with pytest.raises(InputError) as caught:
        Registry.open(text, create=True)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "s3cret" not in told
    assert "s3 cret" not in told
    assert "s3%20cret" not in told


def test_a_wrong_database_is_one_message(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qsweep.db.upgrade.OPENING_PATIENCE", 0.1)
    with pytest.raises(InputError, match="does not exist"):
        Registry.open(postgres.format("nowhere"))


def test_a_user_without_rights_is_told_so(postgres: str) -> None:
    target = sa.make_url(postgres.format("postgres"))
    engine = sa.create_engine(target, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text("CREATE DATABASE locked"))
        connection.execute(sa.text("CREATE ROLE guest LOGIN"))
    with pytest.raises(InputError, match="permission denied"):
        Registry.open(
            target.set(database="locked", username="guest").render_as_string(hide_password=False), create=True
        )


def test_the_password_is_not_in_the_repr(postgres: str) -> None:
    url = sa.make_url(postgres.format("fresh")).set(password="s3cret")
    with Registry.open(url.render_as_string(hide_password=False)) as registry:
        assert "s3cret" not in repr(registry)
        assert "***" in registry.url
