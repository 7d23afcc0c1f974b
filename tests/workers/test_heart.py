"""The heartbeat never ends unseen: it beats on, or the agent gives up its jobs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from qsweep.db.registry import Registry
from qsweep.db.rows import AgentInfo
from qsweep.workers.agent import heart as hearts
from qsweep.workers.agent.heart import Heart

INFO = AgentInfo(host="here", pid=1, process_started=1.0, boot_id="boot", backend="local", device="cpu", build="test")


def test_a_heart_beats_on_through_errors_of_the_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Registry.open(tmp_path / "registry.db", create=True) as registry:
        number = registry.enlist(INFO)
        heart = Heart(registry, number, lease=30.0, patience=600.0)
        registry._database.write(lambda t: t.connection.exec_driver_sql("ALTER TABLE agents RENAME TO away"))
        heart._beat_once()
        assert not heart.gives_up()
        assert "no heartbeat" in caplog.text
        registry._database.write(lambda t: t.connection.exec_driver_sql("ALTER TABLE away RENAME TO agents"))
        heart.unwanted = frozenset({1})
        heart._beat_once()
        assert heart.unwanted == frozenset()


def test_an_error_that_nobody_foresaw_gives_up_the_jobs_with_its_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Registry.open(tmp_path / "registry.db", create=True) as registry:
        number = registry.enlist(INFO)
    del registry._database  # any bug of ours
    heart = Heart(registry, number, lease=0.03, patience=600.0)
    heart.start()
    assert heart.lost.wait(60)
    heart.stop()
    assert heart.gives_up()
    assert any(record.exc_info and record.levelno == logging.ERROR for record in caplog.records)


def test_an_agent_whose_heartbeat_does_not_get_through_stops_after_a_lease_and_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(hearts.time, "monotonic", lambda: now)
    with Registry.open(tmp_path / "registry.db", create=True) as registry:
        heart = Heart(registry, registry.enlist(INFO), lease=30.0, patience=600.0)  # its thread never runs
        now += 89
        assert not heart.gives_up()
        now += 2
        assert heart.gives_up()
        assert heart.lost.is_set()
