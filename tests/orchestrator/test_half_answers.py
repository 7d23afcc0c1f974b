"""A child process that is killed while it answers has not answered: no half message is read as a whole one."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import pytest

from qsweep.orchestrator.surveying import _answered
from qsweep.sweeps.errors import QsweepError


def test_a_surveyor_that_dies_in_the_middle_of_its_answer_is_one_error() -> None:
    dying = "import os; input(); os.write(1, b'{\"losses\": [0.5, '); os.write(2, b'killed'); os._exit(9)"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", dying], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        with process, pytest.raises(QsweepError, match=r"a process of the landscape died \(9\):\nkilled"):
            _answered(process, log, {})
