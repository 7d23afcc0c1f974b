"""A process whose listener is gone goes on."""

from __future__ import annotations

import os
import subprocess
import sys


def test_what_nobody_reads_is_lost_and_disturbs_nothing() -> None:
    code = (
        "import sys; from qsweep.workers.agent.saying import say; say('one\\n'); sys.stdin.readline(); "
        "say('two\\n'); say('three\\n'); print('four'); sys.stderr.write('still here')"
    )
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    with os.fdopen(reading) as listener:
        assert listener.readline() == "one\n"
    assert process.communicate(b"\n")[1] == b"still here"
    assert process.returncode == 0
