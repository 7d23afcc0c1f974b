"""Agents on other machines need a registry that they can reach; one machine needs none."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from qsweep.db.home import Home
from qsweep.orchestrator.reach import check_reach
from qsweep.sweeps.errors import InputError

HERE = socket.gethostname()


def home_with(registry: str | None, root: Path) -> Home:
    return Home.at(root, registry=registry)


@pytest.mark.parametrize("hosts", [{HERE}, {"localhost"}, {f"{HERE}.cluster.example"}])
def test_sqlite_serves_one_machine_by_any_of_its_names(hosts: set[str], tmp_path: Path) -> None:
    check_reach(home_with(None, tmp_path), hosts)


def test_sqlite_is_refused_for_several_machines_with_the_reason_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        check_reach(home_with(None, tmp_path), {HERE, "node7", "node8", "node9", "node10"})
    assert "(node10, node7, node8 and 1 more)" in str(refusal.value)
    assert "both believe that they hold a job" in str(refusal.value)
    assert "qsweep db serve --dir" in str(refusal.value)
    assert "--registry" in str(refusal.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.1.1", "[::1]", ""])
def test_a_postgres_that_only_its_own_machine_reaches_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't reach a registry"):
        check_reach(home_with(f"postgresql+psycopg://me:secret@{host}/sweeps", tmp_path), {"node7"})


@pytest.mark.parametrize("host", ["db.example", "10.0.0.3"])
def test_a_postgres_with_an_address_of_its_own_serves_several_machines(host: str, tmp_path: Path) -> None:
    check_reach(home_with(f"postgresql+psycopg://me:secret@{host}:5432/sweeps", tmp_path), {HERE, "node7"})
