"""A request to stop gets through however often it is made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from qsweep.workers.agent.stopping import StopRequest

WAITER = """
import os, time
from qsweep.workers.agent.stopping import listen
stop = listen()
print("listening", flush=True)
while not stop.wait(0.001):
    pass
leaving = time.monotonic() + 1
while time.monotonic() < leaving:  # signals go on coming meanwhile
    stop.wait(0.001)
os._exit(0)  # the interpreter takes its handlers away before it ends
"""


def test_a_storm_of_signals_stops_a_process_and_locks_nothing_up() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    process = subprocess.Popen([sys.executable, "-c", WAITER], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGUSR1)
    process.kill()
    process.stdout.close()
    assert process.wait() == 0


def test_waiting_ends_with_the_time_or_with_the_request() -> None:
    stop = StopRequest()
    begun = time.monotonic()
    assert not stop.wait(0.12)
    assert time.monotonic() - begun >= 0.12
    stop.set()
    assert stop.wait()
