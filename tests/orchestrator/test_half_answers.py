"""A child process that is killed while it answers has not answered: no half message is read as a whole one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from qsweep.sweeps import processes
from qsweep.sweeps.questions import Measure
from qsweep.sweeps.service import Died, Service


@pytest.mark.parametrize("words", ["killed", ""])
def test_a_child_that_dies_in_the_middle_of_its_answer_is_one_error(
    monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    dying = (
        f"import os; input(); os.write(1, b'{{\"answer\": [0.5, '); os.write(2, b'{words}'); os.kill(os.getpid(), 9)"
    )

    def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", dying], **options)

    monkeypatch.setattr(processes, "start", start)
    said = words or "killed by signal 9"
    with (
        Service(os.environ, failing="the test") as service,
        pytest.raises(Died, match=f"the test failed:\n{said}") as one,
    ):
        service.ask(Measure(seconds=1.0))
    assert one.value.code == -9
