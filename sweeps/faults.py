"""Named points at which a test of faults may stop, kill or deceive a real process.

Nothing happens unless QSWEEP_FAULTS names the socket of a listener: then each point tells it where this
process is, and waits for its word. Killing and breaking things is the listener's business (`tests/fault`).
"""

from __future__ import annotations

import errno
import os
import socket

LISTENER = "QSWEEP_FAULTS"
"""The variable that holds the socket of the listener; not set outside of tests."""
DISK_FULL = b"full"
"""The answer at which the point fails as a write to a full disk does."""


def point(name: str, subject: object = "") -> None:
    """This process is at `name`, busy with `subject` (a file, a number)."""
    if listener := os.environ.get(LISTENER):
        _tell(listener, f"{os.getpid()}\t{name}\t{subject}\n")


def _tell(listener: str, where: str) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(listener)
        line.sendall(where.encode())
        if line.recv(16) == DISK_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
