"""What a process says to the one that started it."""

from __future__ import annotations

import os
import sys


def say(line: str) -> None:
    """Write a line to the standard output at once. Where nobody reads it any more it is lost, as are those that follow:
    that he is gone, the end of the standard input tells."""
    try:
        sys.stdout.write(line)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
