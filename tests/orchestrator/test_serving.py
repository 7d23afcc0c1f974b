"""`qsweep db serve` starts a real Postgres that a sweep can use, and its password stays in its file."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Qsweep
from tests.postgres import missing_postgres, room_for_a_server

pytestmark = pytest.mark.slow


@pytest.fixture
def served(qsweep: Qsweep, home: Path) -> Iterator[tuple[str, str]]:
    """A running server's URL, and its password."""
    missing_postgres()
    with room_for_a_server() as (folder, port):
        options = ("--dir", str(folder / "pg"), "--port", str(port))
        answer = qsweep("db", "serve", *options)
        assert answer.returncode == 0, answer.stderr
        yield answer.stdout.strip(), (home / "postgres.pgpass").read_text().strip().rpartition(":")[2]
        answer = qsweep("db", "serve", *options, "--stop")
        assert answer.stdout == "stopped\n", answer.stderr
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_sweep_runs_on_it_and_the_password_appears_nowhere(
    qsweep: Qsweep, home: Path, served: tuple[str, str]
) -> None:
    url, password = served
    assert len(password) > 20
    assert stat.S_IMODE((home / "postgres.pgpass").stat().st_mode) == 0o600
    texts = [url]
    for arguments in (
        ("launch", "digits-grid", "--set", "epochs=1", "--limit", "2", "--workers", "1"),
        ("status", "--json"),
        ("db", "check"),
        ("doctor",),
        ("tables", "digits-grid"),
    ):
        answer = qsweep(*arguments, environment={"QSWEEP_REGISTRY": url})
        assert answer.returncode == 0, answer.stderr
        texts += [answer.stdout, answer.stderr]
    assert json.loads(texts[3])["sweeps"][0]["done"] == 2
    assert not (home / "registry.db").exists()
    texts += [path.read_bytes().decode("latin-1") for path in (home / "logs").rglob("*") if path.is_file()]
    texts += [path.read_bytes().decode("latin-1") for path in (home / "results").rglob("*") if path.is_file()]
    assert not [text for text in texts if password in text]


def test_a_wrong_password_is_one_message_without_it(qsweep: Qsweep, served: tuple[str, str]) -> None:
    url, _ = served
    wrong = url.partition("?")[0].replace("qsweep@", "qsweep:not-the-password@")
    answer = qsweep("status", environment={"QSWEEP_REGISTRY": wrong})
    assert answer.returncode == 2
    assert "not-the-password" not in answer.stderr
    assert len(answer.stderr.strip().splitlines()) <= 3


def test_a_port_that_is_taken_is_refused(qsweep: Qsweep, home: Path, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        answer = qsweep("db", "serve", "--dir", str(tmp_path / "pg"), "--port", str(other.getsockname()[1]))
    assert answer.returncode == 2
    assert "is taken" in answer.stderr
    assert not home.exists()
