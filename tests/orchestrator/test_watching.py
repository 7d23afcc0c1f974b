"""The launcher tells the living from the dead, and leaves a death to the supervisor that saw it."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from db.clock import boot_seconds, process_started
from orchestrator.deaths import GRACE, Deaths, is_alive


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere psutil's clock is used")
def test_a_process_is_known_by_a_start_time_that_no_change_of_the_date_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    started = process_started(os.getpid())
    assert 0 <= boot_seconds() - started < 86_400
    seeming = psutil.boot_time() + 3600  # as after the wall clock was set an hour forward
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: seeming)
    assert is_alive(os.getpid(), started)
    assert not is_alive(os.getpid(), started + 3600)


def test_the_supervisor_has_time_to_report_a_death() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_started(child.pid)
    now = 0.0
    deaths = Deaths(clock=lambda: now)
    assert not deaths.is_over(child.pid, started)
    child.communicate(b"\n")
    assert not deaths.is_over(child.pid, started)
    now = GRACE
    assert deaths.is_over(child.pid, started)
