"""The heartbeat never ends unseen: it beats on, or the agent gives up its jobs."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from qsweep.db.registry import Registry
from qsweep.db.rows import AgentInfo
from qsweep.workers.agent import heartbeat as heartbeats
from qsweep.workers.agent.gauge import Gauge
from qsweep.workers.agent.heartbeat import Heartbeat

INFO = AgentInfo(host="here", pid=1, process_started=1.0, boot_id="boot", backend="local", device="cpu", build="test")


def test_a_heart_beats_on_through_errors_of_the_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Registry.open(tmp_path / "registry.db", create=True) as registry:
        number = registry.agents.enlist(INFO)
        heartbeat = Heartbeat(registry.queue, number, lease=30.0, patience=600.0)
        registry._database.write(lambda t: t.connection.exec_driver_sql("ALTER TABLE agents RENAME TO away"))
        heartbeat._beat_once()
        assert not heartbeat.gives_up()
        assert "no heartbeat" in caplog.text
        registry._database.write(lambda t: t.connection.exec_driver_sql("ALTER TABLE away RENAME TO agents"))
        heartbeat.unwanted = frozenset({1})
        heartbeat._beat_once()
        assert heartbeat.unwanted == frozenset()


def test_a_heartbeat_tells_what_the_agent_and_the_processes_below_it_use(tmp_path: Path) -> None:
    now = 100.0
    with Registry.open(tmp_path / "registry.db", create=True) as registry:
        number = registry.agents.enlist(INFO)
        gauge = Gauge(wall=lambda: now, clock=lambda: now)
        heartbeat = Heartbeat(registry.queue, number, lease=30.0, patience=600.0, gauge=gauge.read)
        heartbeat._beat_once()  # it begins to count
        now += 10.0
        heartbeat._beat_once()
        now += 0.5  # too soon for another reading
        heartbeat._beat_once()
        (row,) = registry.history.loads([number], 100)
    assert row["processor"] >= 0
    assert row["memory"] >= 0.5 * psutil.Process().memory_info().rss
    assert (row["at"], row["gpu"], row["gpu_memory"]) == (110.0, None, None)


def test_a_reading_that_fails_is_the_last_one_and_costs_no_heartbeat(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[None] = []

    def gone() -> None:
        asked.append(None)
        raise RuntimeError("the GPU fell off the bus")

    with Registry.open(tmp_path / "registry.db", create=True) as registry:
        number = registry.agents.enlist(INFO)
        heartbeat = Heartbeat(registry.queue, number, lease=30.0, patience=600.0, gauge=gone)
        before = heartbeat._beaten
        heartbeat._beat_once()
        heartbeat._beat_once()
    assert heartbeat._beaten > before
    assert not heartbeat.lost.is_set()
    assert len(asked) == 1
    assert "the GPU fell off the bus" in caplog.text


ALONE = """
import resource, subprocess, sys
from qsweep.workers.agent.gauge import Gauge
def spent():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
burn = "import time\\nwhile time.process_time() < 1.0: pass"
now = [0.0]
gauge = Gauge(clock=lambda: now[0])
assert gauge.read() is None
before = spent()
subprocess.run([sys.executable, "-c", burn], check=True)
exec(burn)
now[0] = 10.0
print(10 * gauge.read().processor, spent() - before)
"""


def test_processors_are_counted_with_those_of_processes_that_have_ended() -> None:
    answer = subprocess.run([sys.executable, "-c", ALONE], check=True, capture_output=True, text=True)
    told, used = map(float, answer.stdout.split())
    assert 1.0 < told == pytest.approx(used, abs=0.1)


def test_an_error_that_nobody_foresaw_gives_up_the_jobs_with_its_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Registry.open(tmp_path / "registry.db", create=True) as registry:
        number = registry.agents.enlist(INFO)
    del registry.queue._database  # any bug of ours
    heartbeat = Heartbeat(registry.queue, number, lease=0.03, patience=600.0)
    heartbeat.start()
    assert heartbeat.lost.wait(60)
    heartbeat.stop()
    assert heartbeat.gives_up()
    assert any(record.exc_info and record.levelno == logging.ERROR for record in caplog.records)


def test_an_agent_whose_heartbeat_does_not_get_through_stops_after_a_lease_and_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(heartbeats.time, "monotonic", lambda: now)
    with Registry.open(tmp_path / "registry.db", create=True) as registry:
        heartbeat = Heartbeat(
            registry.queue, registry.agents.enlist(INFO), lease=30.0, patience=600.0
        )  # its thread never runs
        now += 89
        assert not heartbeat.gives_up()
        now += 2
        assert heartbeat.gives_up()
        assert heartbeat.lost.is_set()
