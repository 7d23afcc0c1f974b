"""A Postgres that can't be used is one message from the command line, and nothing is made."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import Qsweep
from tests.db.conftest import administrator

LAUNCH = ("launch", "digits-grid", "--limit", "1")


def assert_one_message(qsweep: Qsweep, home: Path, url: str, message: str) -> None:
    for command in (LAUNCH, ("status",)):
        answer = qsweep("--registry", url, *command)
        assert answer.returncode == 2, answer.stderr
        assert message in answer.stderr
        assert len(answer.stderr.splitlines()) == 1
        assert "s3cret" not in answer.stderr + answer.stdout
        assert not home.exists()


@pytest.mark.slow
def test_a_server_that_is_not_there(here: Qsweep, home: Path) -> None:
    pytest.importorskip("psycopg")
    url = "postgresql+psycopg://me:s3cret@127.0.0.1:1/sweeps"
    assert_one_message(here, home, url, "postgresql+psycopg://me:***@127.0.0.1:1/sweeps: the registry did not answer")


@pytest.mark.slow
def test_a_database_that_is_not_there_and_one_without_rights(here: Qsweep, home: Path, postgres: str) -> None:
    assert_one_message(here, home, postgres.format("nowhere"), 'database "nowhere" does not exist')
    target = sa.make_url(postgres.format("postgres"))
    with administrator(target) as connection:
        connection.execute(sa.text("CREATE DATABASE barred"))
        connection.execute(sa.text("CREATE ROLE visitor LOGIN"))
    url = target.set(database="barred", username="visitor").render_as_string(hide_password=False)
    answer = here("--registry", url, *LAUNCH)
    assert answer.returncode == 2, answer.stderr
    assert "permission denied for schema public" in answer.stderr.splitlines()[-1]
    assert not home.exists()
